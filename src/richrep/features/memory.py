"""How much memory a fit may take: what the user says, or half of what is free; what it may be spent on, and where."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from richrep.errors import MemoryLimitError, RichrepError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_LEAST = 100 * 10**6  # chunks of rows and of logits in flight, whatever the problem is
_ROTATED_SHARE = 0.25
_STATE_SHARE = 0.35
_SQUARE_SHARE = 0.6
_DEFAULT_SHARE = 0.5
_RESIDENT_SHARE = 0.8  # of what the limit leaves free on an accelerator; the rest is for its libraries
_CHUNK_ON_ACCELERATOR = 2**27  # products of few rows leave most of it idle
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class MemoryBudget:
    """What a fit may hold beside the features and the libraries, in bytes, by what it is held for.

    The default takes little, whatever there is: with the features in memory, half as much again and 200 MB.

    Attributes:
        limit: of everything together; None where nothing was said.
        rotated: the features once more, in better coordinates; larger ones are read anew for every iteration.
        state: the optimiser and its results; what does not fit goes one penalty after the other.
        square: a Gram matrix being taken apart, before the optimiser begins; larger ones are taken apart by blocks.
        kept: each a Gram matrix that several normalisations share, copies of the train and of the val rows; larger ones
            are made or read anew.
        chunk_values: numbers in a chunk of features or logits in flight; some ten bytes each.
        pair_values: numbers in each of two chunks of features whose products are taken in float64; some 40 bytes each.
        device: an accelerator that fits are computed on, whose memory is meant; None means where the features are.
        resident: features that are copied there, as they are stored; larger ones are read there by the chunk.
    """

    limit: int | None = None
    rotated: int = 2**26
    state: int = 2**26
    square: int = 28 * 8192**2
    kept: int = 8 * 8192**2
    chunk_values: int = 2**21
    pair_values: int = 2**22
    device: torch.device | None = None
    resident: int = 0

    @classmethod
    def of(cls, limit: int | str, *, device: torch.device | None = None, resident: int = 0) -> MemoryBudget:
        """The shares of a limit in bytes, or with its unit, such as "4GB"; `device` and `resident` as they are.

        Raises:
            RichrepError: no size, or less than the rows in flight need whatever the problem is.
        """
        size = parse_size(limit) if isinstance(limit, str) else limit
        if size < _LEAST:
            raise RichrepError(
                f"A memory limit of {size / 1e6:.3g} MB is too small: the rows in flight alone need "
                f"{_LEAST / 1e6:.0f} MB. Raise --memory-limit."
            )
        return cls(
            size,
            rotated=int(_ROTATED_SHARE * size),
            state=int(_STATE_SHARE * size),
            square=int(_SQUARE_SHARE * size),
            kept=size // 10,
            chunk_values=min(cls.chunk_values if device is None else _CHUNK_ON_ACCELERATOR, size // 100),
            pair_values=min(cls.pair_values if device is None else _CHUNK_ON_ACCELERATOR, size // 200),
            device=device,
            resident=resident,
        )

    def check_state(self, needed: int, what: str) -> None:
        """Raises MemoryLimitError, with the limit that would do, when the optimiser needs more than its share."""
        self._check(needed, self.state, _STATE_SHARE, what)

    def check_square(self, needed: int, what: str) -> None:
        """The same for a Gram matrix that is taken apart whole or not at all."""
        self._check(needed, self.square, _SQUARE_SHARE, what)

    def check_copy(self, needed: int, what: str) -> None:
        """The same for a copy of the features that a fit cannot do without; it may take what `rotated` may."""
        self._check(needed, self.rotated, _ROTATED_SHARE, what)

    def _check(self, needed: int, allowed: int, share: float, what: str) -> None:
        if self.limit is not None and needed > allowed:
            raise MemoryLimitError(
                f"A memory limit of {self.limit / 1e6:,.0f} MB is too small: {what} takes {needed / 1e6:,.0f} MB, "
                f"so at least {needed / share / 1e6 + 1:,.0f} MB are needed. Raise --memory-limit."
            )


FRUGAL = MemoryBudget()


def parse_size(text: str) -> int:
    """Bytes of a size such as "500MB", "1.5GB" (powers of 10) or "4GiB" (powers of 2).

    Raises:
        RichrepError: no number, no unit, an unknown unit, or nothing at all.

    >>> parse_size("1.5GB")
    1500000000
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]I?)B", text.strip().upper())
    if not found or float(found[1]) == 0:
        raise RichrepError(f"{text!r} is no size of memory. Give a number above 0 with its unit, such as 4GB or 500MB.")
    return int(float(found[1]) * _UNITS[found[2]])


def choose_budget(limit: int | str | None, device: torch.device = _CPU) -> MemoryBudget:
    """The budget of a limit; None means half of the memory that is free now (100 MB at least).

    Fits are computed on `device` where that is CUDA, whose memory is meant then; else where the features are, on the
    CPU: other accelerators lack float64, which fits need.
    """
    if device.type != "cuda":
        return MemoryBudget.of(max(_LEAST, int(_DEFAULT_SHARE * free_memory())) if limit is None else limit)
    device = torch.empty(0, device=device).device  # with its number
    free, _ = torch.cuda.mem_get_info(device)
    wanted = max(_LEAST, int(_DEFAULT_SHARE * free)) if limit is None else limit
    size = parse_size(wanted) if isinstance(wanted, str) else wanted
    return MemoryBudget.of(size, device=device, resident=int(_RESIDENT_SHARE * max(0, free - size)))


def free_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes this process can still take: of the machine, and of its container where that allows less."""
    try:
        table = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
        free = int(table["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux: what is installed, since what is free is not said
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 8 * 10**9
    for most, used, idle in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            limit, taken = int((cgroup / most).read_text()), int((cgroup / used).read_text())
            pages = re.search(r"^(?:total_)?inactive_file (\d+)$", (cgroup / idle).read_text(), flags=re.MULTILINE)
        except (OSError, ValueError):  # no such container, or "max"
            continue
        free = min(free, max(0, limit - taken + (int(pages[1]) if pages else 0)))  # copies of files are given up
    return free
