"""One cell as a process of its own: `python -m richrep COMMAND …`. Both executors run cells through here."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from richrep.recipes.grid import Cell
from richrep.recipes.store import CellState, CellStore, now

TAIL_BYTES = 2000
STOP_S = 10.0  # after Ctrl-C a command may finish what it writes for so long
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


@dataclass(frozen=True)
class Share:
    """What one cell gets of the machine.

    Attributes:
        threads: of computation, and of decoding where its command takes `--num-workers`.
        memory: bytes, for `--memory-limit`; None: not limited.
        restart: a command that would go on where it was begins anew.
    """

    threads: int
    memory: int | None = None
    restart: bool = False


def command_line(cell: Cell, out: Path, share: Share | None = None) -> list[str]:
    """The words after `richrep`: the cell's own, and what the run decides. Its own come first and win."""
    words = [cell.command, *cell.arguments]
    decided = {"out": str(out)}
    if share is not None:
        decided["num-workers"] = str(share.threads)
        if share.memory is not None:
            decided["memory-limit"] = f"{share.memory // 10**6}MB"
    extra = [
        word
        for name, text in decided.items()
        if name in cell.takes and not any(given.partition("=")[0] == f"--{name}" for given in words)
        for word in (f"--{name}", text)
    ]
    if share is not None and share.restart and "restart" in cell.takes and "--restart" not in words:
        extra.append("--restart")
    at = words.index("--") if "--" in words else len(words)
    return [*words[:at], *extra, *words[at:]]


class CellProcess:
    """A started cell. `poll` says whether it goes on, `finish` what became of it; leaving the block ends it."""

    def __init__(self, cell: Cell, store: CellStore, share: Share) -> None:
        self.cell, self.store = cell, store
        self._records = store.path(cell, "records").with_name(f".{cell.key}.records")
        self._records.unlink(missing_ok=True)
        words = command_line(cell, store.out, share)
        if "json" in cell.takes:
            at = words.index("--") if "--" in words else len(words)
            words = [*words[:at], "--json", str(self._records), *words[at:]]
        command = [sys.executable, "-m", "richrep", *words]
        self.state = CellState("running", cell.label, tuple(command), started=now(), job=_job())
        store.save(cell, self.state)
        self._log: IO[bytes] = open(store.path(cell, "log"), "wb")  # noqa: SIM115  # closed with the process
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=_environment(share.threads),
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends its cells in order
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._log.close()

    def poll(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def finish(self) -> CellState:
        """Waits for the end, and keeps what became of it."""
        code = self.process.wait()
        self._log.close()
        self.state = replace(
            self.state,
            state="finished" if code == 0 else "failed",
            ended=now(),
            exit_code=code,
            record_ids=_record_ids(self._records),
            error="" if code == 0 else self._tail(code),
        )
        self.store.save(self.cell, self.state)
        self._records.unlink(missing_ok=True)
        return self.state

    def interrupt(self) -> None:
        """Asks it to end, as Ctrl-C does."""
        if self.process.poll() is None:
            _signal_group(self.process, signal.SIGINT)

    def stop(self) -> None:
        """Ends the process and those it started, where it still runs: as Ctrl-C does, then for certain."""
        for ending in (signal.SIGINT, signal.SIGKILL):
            if self.process.poll() is not None:
                return
            _signal_group(self.process, ending)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                continue

    def _tail(self, code: int) -> str:
        text = self.store.path(self.cell, "log").read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace").strip()
        return text or (f"ended by signal {-code}" if code < 0 else f"exit code {code}, without a message")


def run_cell(cell: Cell, out: Path, share: Share) -> str:
    """Runs one cell to its end, and gives its state; what a job of a cluster does.

    A cell that has finished meanwhile, or that another process runs, is left alone.
    """
    store = CellStore(out)
    with store.claim(cell) as ours:
        known = store.load(cell)
        if not ours or (known is not None and known.state == "finished"):
            return known.state if known is not None else "running"
        with CellProcess(cell, store, share) as process:
            return process.finish().state


def _environment(threads: int) -> dict[str, str]:
    """This process's environment, with so many threads; fewer where the user says fewer."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    said = {name: os.environ.get(name, "") for name in names}
    return os.environ | {
        name: str(min(threads, int(text)) if text.isdecimal() and int(text) else threads) for name, text in said.items()
    }


def _job() -> str:
    """Number of this job in its array, as submitit writes it; "" outside a cluster."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{array}_{task}" if array and task else ""


def _record_ids(path: Path) -> tuple[str, ...]:
    """Ids in what `--json` wrote; none where the command ended before it wrote."""
    try:
        return tuple(record["id"] for record in json.loads(path.read_bytes())["records"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _signal_group(process: subprocess.Popen[bytes], ending: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
        os.killpg(process.pid, ending)


def _die_with_parent() -> None:
    """Linux: when `richrep run` is killed, its cells are too, so that the next run finds none half done beside it."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
