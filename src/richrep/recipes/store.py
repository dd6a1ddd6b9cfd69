"""What became of each cell: OUT/RECIPE/KEY.cell, JSON written whole or not at all.

The ending is not .json, so that `richrep results` does not take a cell for a record. A cell that is being run is
locked; the system gives the lock back when the process dies, however it dies.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from richrep.errors import RichrepError
from richrep.recipes.grid import Cell

logger = logging.getLogger(__name__)

State = Literal["submitted", "running", "finished", "failed"]
_STATES = ("submitted", "running", "finished", "failed")


@dataclass(frozen=True)
class CellState:
    """What is known of a cell that was begun.

    Attributes:
        command: the whole command line.
        record_ids: of the records it wrote, also when it failed in part.
        started, ended: UTC, ISO 8601; "" while unknown.
        exit_code: of the process; negative for a signal; None while it runs.
        error: the end of what it said, where it failed.
        job: of the cluster, "" on this machine.
    """

    state: State
    label: str
    command: tuple[str, ...] = ()
    record_ids: tuple[str, ...] = ()
    started: str = ""
    ended: str = ""
    exit_code: int | None = None
    error: str = ""
    job: str = ""

    @property
    def elapsed_s(self) -> float | None:
        """Seconds from start to end; None while it runs."""
        if not self.started or not self.ended:
            return None
        return (datetime.fromisoformat(self.ended) - datetime.fromisoformat(self.started)).total_seconds()


def now() -> str:
    """The time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class CellStore:
    """The states below `out`, the folder of the records."""

    out: Path

    def path(self, cell: Cell, ending: str = "cell") -> Path:
        """The file of a cell's state; "log": of what its command said."""
        return self.out / cell.recipe / f"{cell.key}.{ending}"

    def load(self, cell: Cell) -> CellState | None:
        """What became of `cell`; None where it was never begun, or where the file is damaged, which is logged."""
        path = self.path(cell)
        try:
            content = json.loads(path.read_bytes())
            known = {field.name for field in fields(CellState)}
            content = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items() if key in known}
            state = CellState(**content)
            if state.state not in _STATES:
                raise ValueError(f"no state {state.state!r}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read (%s): the cell counts as never run.", path, error)
            return None
        return state

    def save(self, cell: Cell, state: CellState) -> None:
        """Writes the state, whole or not at all. Raises RichrepError where it cannot be written."""
        path = self.path(cell)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "x", encoding="utf-8") as file:
                    json.dump(asdict(state), file, indent=1, ensure_ascii=False)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise RichrepError(f"{path} cannot be written: {error.strerror or error}. Give another --out.") from error

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[bool]:
        """Whether `cell` is ours to run until the end of the block; False while another process runs it."""
        path = self.path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{cell.key}.lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def distinct(cells: Iterable[Cell]) -> list[Cell]:
    """Each command once: rows may share one."""
    found: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        found.setdefault((cell.recipe, cell.key), cell)
    return list(found.values())


def to_run(cells: list[Cell], store: CellStore, *, redo: bool = False, retry_failed: bool = True) -> list[Cell]:
    """The distinct cells that are to be run: all that have not finished; with `redo` those too."""
    done = {"finished"} if retry_failed else {"finished", "failed"}
    return [cell for cell in distinct(cells) if redo or (known := store.load(cell)) is None or known.state not in done]
