"""What the commands that train say at the end: the table, the records, and how to load the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from richrep.cli import console
from richrep.cli.torchrun import Worker

if TYPE_CHECKING:
    from richrep.evaluation.record import Record


def report_training(records: Sequence[Record], failures: Mapping[str, str], *, out: Path, json: str | None) -> None:
    """Prints the table, or writes JSON; of several processes the first does. The command's last act.

    Args:
        failures: representation -> reason, for those that gave no record.

    Raises:
        typer.Exit: with code 1, when some failed.
        DivergedError: all failed.
    """
    from richrep.backbones.run_model import run_address
    from richrep.errors import DivergedError
    from richrep.reports.render import render_json, render_rich
    from richrep.reports.training_table import print_training_table
    from richrep.training.processes import leave

    leave()
    if not records:
        raise DivergedError(f"Every training diverged. {next(iter(failures.values()))}")
    if Worker.from_environment().prints_results:
        if json != "-":
            screen = console.stdout()
            screen.print(render_rich(print_training_table(records, failures=failures), width=screen.width))
        if json is not None:
            console.write_text(json, render_json(records))
        models = ", ".join(run_address(out, str(record.solver["run"])) for record in records)
        console.say(f"{len(records)} records in {out}. The models: {models}")
    if failures:
        raise typer.Exit(1)
