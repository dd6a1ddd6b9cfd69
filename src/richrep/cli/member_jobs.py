"""The members of a two-stage fine-tuning trained at once: one `richrep finetune` each, as a job array would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import typer

from richrep.cli import console

_NOT_OF_FINETUNE = {"backbones", "stage2", "jobs", "seeds", "name", "restart", "json", "memory_limit", "cache_dir"}
_THREADS = "OMP_NUM_THREADS"


def train_in_parallel(context: typer.Context, runs: Mapping[str, str], *, seed: int, jobs: int) -> None:
    """Runs `richrep finetune` for every member, `jobs` at once, with this command's own options.

    One that fails says why; its run is then gone through again by the caller, which raises what stops it.

    Args:
        context: of the `two-stage` command; its parameters are handed on.
        runs: name of a member's run -> address of the member.
    """
    shared = list(_words(context))
    commands = [
        ["-b", address, *shared, "--seed", str(seed), "--name", run, "--keep-selected"] for run, address in runs.items()
    ]
    environment = {**os.environ, _THREADS: str(max(1, _threads() // jobs))}
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(partial(_run, environment=environment), runs, commands))


def _words(context: typer.Context) -> Iterator[str]:
    """The options of the command that differ from their defaults, as words for `richrep finetune`."""
    for parameter in context.command.params:
        value: Any = context.params.get(str(parameter.name))
        if parameter.name in _NOT_OF_FINETUNE or value is None or value == parameter.get_default(context):
            continue
        if isinstance(value, bool):
            yield parameter.opts[0] if value else parameter.secondary_opts[0]
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            yield from (parameter.opts[0], str(one))


def _run(run: str, words: Sequence[str], *, environment: dict[str, str]) -> None:
    """One job, whose log is said here, every line after the name of its run."""
    command = [sys.executable, "-m", "richrep", "finetune", *words]
    options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **options) as process:
        assert process.stderr is not None
        for line in process.stderr:
            console.say(f"[{run}] {line.rstrip()}")


def _threads() -> int:
    import torch

    return torch.get_num_threads()
