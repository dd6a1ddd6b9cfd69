"""Rows: features (N, D) that are read by blocks of rows, wherever they lie: in memory or in mapped files, in one
tensor or in several side by side, in half or in full precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


class Rows:
    """Features (N, D) of one or more members side by side; nothing is copied until rows are read.

    Args:
        members: M tensors (N, D_m) of any floating type, on one device.
        index: (n,) the rows that count, in this order; None means all.

    Attributes:
        shape: (n, D1 + D2 + …).
        dtype: what is read: float64 when a member is, else float32. Half precision is converted by the block.
    """

    ndim = 2

    def __init__(self, members: Sequence[torch.Tensor], index: torch.Tensor | None = None) -> None:
        self.members, self.index = tuple(members), index
        total = len(self.members[0]) if index is None else len(index)
        self.shape = total, sum(member.shape[1] for member in self.members)
        is_double = any(member.dtype == torch.float64 for member in self.members)
        self.dtype = torch.float64 if is_double else torch.float32

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice | torch.Tensor) -> torch.Tensor:
        """The chosen rows (a slice of step 1, or positions) as `dtype`; a view where there is nothing to convert."""
        if self.index is not None:
            chosen = self.index[chosen]
        blocks = [member[chosen].to(self.dtype) for member in self.members]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)

    @property
    def device(self) -> torch.device:
        """Where the members are."""
        return self.members[0].device

    @property
    def gives_views(self) -> bool:
        """Whether a slice of rows is a view, not to be written to; else it is a copy of the reader's own."""
        return len(self.members) == 1 and self.index is None and self.members[0].dtype == self.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of one reading of all rows, as they are stored."""
        return len(self) * sum(member.shape[1] * member.element_size() for member in self.members)

    def take(self, index: torch.Tensor | None) -> Rows:
        """Some of the rows (positions), by reference; None means all."""
        if index is None:
            return self
        return Rows(self.members, index if self.index is None else self.index[index])

    def joined(self) -> torch.Tensor:
        """All rows as one tensor (N, D) of the type they are stored in; the member itself where there is but one."""
        picked = [member if self.index is None else member[self.index] for member in self.members]
        return picked[0] if len(picked) == 1 else torch.cat(picked, dim=1)

    def joined_up_to(self, max_bytes: int | None) -> torch.Tensor | Rows:
        """`joined` where that is at most so large, else as they are; None means always joined."""
        return self.joined() if max_bytes is None or self.num_bytes <= max_bytes else self


Features = torch.Tensor | Rows


def as_rows(features: Features, index: torch.Tensor | None = None) -> Rows:
    """Features (N, D), or the rows of them at `index`, to be read by blocks."""
    rows = features if isinstance(features, Rows) else Rows([features])
    return rows.take(index)


def row_chunks(features: Features, rows: torch.Tensor | None, *, chunk_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
    """(offset, features (B, D)) over the given rows, or all."""
    chosen = as_rows(features, rows)
    for start in range(0, len(chosen), chunk_rows):
        yield start, chosen[start : start + chunk_rows]
