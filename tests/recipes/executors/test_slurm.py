"""The sbatch script, and jobs handed to an sbatch that only gives a number; submitit and the cells are real."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from richrep.errors import RichrepError
from richrep.recipes.executors.slurm import SlurmJobs, not_waiting, script, submit
from richrep.recipes.store import CellStore

pytest.importorskip("submitit", reason="the extra slurm is not installed")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Programs named as Slurm's: sbatch says a number, sacct knows job 77 as pending."""
    folder = tmp_path / "bin"
    folder.mkdir()
    answers = {
        "srun": "",
        "sbatch": "echo Submitted batch job 77",
        "sacct": "printf 'JobID|State|NodeList\\n77_0|PENDING|\\n77_1|FAILED|\\n'",
    }
    for name, answer in answers.items():
        (folder / name).write_text(f"#!/bin/sh\n{answer}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_script_asks_for_what_was_said_and_for_one_job_a_cell(tmp_path, listing) -> None:
    jobs = SlurmJobs(partition="gpu", minutes=30, memory="8GB", gpus=2, cpus=4, jobs=1)
    text = script([listing("digits"), listing("cifar")], CellStore(tmp_path), jobs, "rrl/trial")
    for line in ("array=0-1%1", "partition=gpu", "time=30", "mem=8GB", "gpus-per-node=2", "cpus-per-task=4"):
        assert f"#SBATCH --{line}\n" in text
    assert "#SBATCH --job-name=richrep-rrl-trial\n" in text
    assert f"-m submitit.core._submit {tmp_path}/rrl/trial/slurm" in text
    assert list(tmp_path.iterdir()) == []  # nothing is written
    assert "gpus" not in script([listing("digits")], CellStore(tmp_path), SlurmJobs(gpus=0), "trial")


def test_without_a_cluster_the_message_names_the_dry_run(tmp_path, listing, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RichrepError, match=r"could not be submitted: .*srun.* look at the script with --dry-run"):
        submit([listing("digits")], CellStore(tmp_path), SlurmJobs(), "trial")


def test_submitted_cells_are_noted_not_submitted_twice_and_run_as_jobs(tmp_path, listing, cluster) -> None:
    store, cells = CellStore(tmp_path), [listing("digits"), listing("no such data")]
    assert submit(cells, store, SlurmJobs(gpus=0), "trial") == ["77_0", "77_1"]
    assert [store.load(cell).state for cell in cells] == ["submitted", "submitted"]
    assert not_waiting(cells, store, "trial") == [cells[1]]  # the cluster says that its job failed
    done = subprocess.run(
        [sys.executable, "-m", "submitit.core._submit", str(tmp_path / "trial" / "slurm")],
        env=os.environ
        | {"SLURM_JOB_ID": "78", "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "0"}
        | {"SUBMITIT_EXECUTOR": "slurm", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
        | {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"},
        capture_output=True,
        text=True,
    )
    state = store.load(cells[0])
    assert done.returncode == 0, done.stderr
    assert state is not None and (state.state, state.job) == ("finished", "77_0")
