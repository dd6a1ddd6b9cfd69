"""Cells as a job array of a Slurm cluster, through submitit: one job a cell, each as `richrep run` runs it locally.

The folder of the records must be on a disk that all nodes share.
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from richrep.errors import RichrepError
from richrep.recipes.executors.process import Share, run_cell
from richrep.recipes.grid import Cell
from richrep.recipes.store import CellState, CellStore, now

_GOING_ON = ("PENDING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "COMPLETING", "SUSPENDED")
_KNOWN_AFTER = timedelta(minutes=10)  # accounting may not know a new job yet


@dataclass(frozen=True)
class SlurmJobs:
    """What every job asks the cluster for.

    Attributes:
        partition: "" for the cluster's default; minutes: time limit; memory: as Slurm writes it, e.g. "16GB".
        gpus, cpus: of one job; jobs: how many run at a time; restart: as in `Share`.
    """

    partition: str = ""
    minutes: int = 60
    memory: str = "16GB"
    gpus: int = 1
    cpus: int = 8
    jobs: int = 64
    restart: bool = False

    def parameters(self, name: str) -> dict[str, Any]:
        """Keywords of submitit."""
        asked: dict[str, Any] = {
            "job_name": f"richrep-{name.replace('/', '-')}",
            "time": self.minutes,
            "mem": self.memory,
            "cpus_per_task": self.cpus,
            "ntasks_per_node": 1,
            "array_parallelism": self.jobs,
        }
        asked |= {"partition": self.partition} if self.partition else {}
        return asked | ({"gpus_per_node": self.gpus} if self.gpus else {})


def script(cells: list[Cell], store: CellStore, jobs: SlurmJobs, name: str) -> str:
    """The sbatch script that `submit` would hand over; needs no cluster."""
    _check_installed()
    from submitit.slurm.slurm import _make_sbatch_string  # what its executor writes the file with

    folder = _folder(store, name)
    loader = shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(folder)])
    return str(_make_sbatch_string(loader, folder / "%j", map_count=len(cells), **jobs.parameters(name)))


def submit(cells: list[Cell], store: CellStore, jobs: SlurmJobs, name: str) -> list[str]:
    """Submits one job a cell, and notes its number with the cell; gives the numbers.

    Raises:
        RichrepError: submitit is not installed, there is no Slurm here, or it refuses the jobs.
    """
    _check_installed()
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        executor = submitit.SlurmExecutor(_folder(store, name))
        executor.update_parameters(**jobs.parameters(name))
        share, out = Share(jobs.cpus, restart=jobs.restart), store.out.resolve()
        count = len(cells)
        for cell in cells:  # before the jobs exist: one may finish before the last is submitted
            store.save(cell, CellState("submitted", cell.label, started=now()))
        submitted = executor.map_array(run_cell, cells, [out] * count, [share] * count)
    except (RuntimeError, FailedJobError, FailedSubmissionError, OSError) as error:
        raise RichrepError(
            f"The jobs could not be submitted: {' '.join(str(error).split())} "
            "Run this on a node of the cluster that has sbatch, or look at the script with --dry-run."
        ) from error
    ids = [str(job.job_id) for job in submitted]
    for cell, job in zip(cells, ids, strict=True):
        with store.claim(cell) as ours:  # a job that has begun writes its number itself
            state = store.load(cell)
            if ours and state is not None and state.state == "submitted":
                store.save(cell, replace(state, job=job))
    return ids


def not_waiting(cells: list[Cell], store: CellStore, name: str) -> list[Cell]:
    """The cells without a job that is queued or running, so that none is submitted twice."""
    return [cell for cell in cells if not _is_waiting(store.load(cell), _folder(store, name))]


def _is_waiting(state: CellState | None, folder: Path) -> bool:
    if state is None or not state.job or state.state not in ("submitted", "running"):
        return False
    import submitit

    found = str(submitit.SlurmJob(folder=folder, job_id=state.job).state).upper()
    is_new = datetime.now(UTC) - datetime.fromisoformat(state.started) < _KNOWN_AFTER
    return found.startswith(_GOING_ON) or (found == "UNKNOWN" and is_new)


def _folder(store: CellStore, name: str) -> Path:
    return store.out.resolve() / name / "slurm"


def _check_installed() -> None:
    if importlib.util.find_spec("submitit") is None:
        raise RichrepError("--executor slurm needs submitit. Install it with: pip install 'richrep[slurm]'")
