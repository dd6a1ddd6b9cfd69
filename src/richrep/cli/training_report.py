"""What the commands that train say at the end: the table, the records, and how to load the models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from richrep.cli import console
from richrep.cli.torchrun import Worker
from richrep.errors import DivergedError

if TYPE_CHECKING:
    from richrep.evaluation.record import Record
    from richrep.reports.tables import ProbeTable


def say(text: str) -> None:
    """A message; of several processes the first says it."""
    if Worker.from_environment().prints_results:
        console.say(text)


def say_record(record: Record) -> None:
    """One line for a record that was just measured."""
    accuracy = record.score("test", "accuracy") or 0.0
    run = f", {record.solver['run']}" if "run" in record.solver else ""
    say(f"{record.representation}, {record.protocol_name}: test {100 * accuracy:.2f} % (seed {record.seed}){run}")


@dataclass
class Failures:
    """What gave no record, and why: `reasons` by name, with the seed where there are several.

    Attributes:
        many: whether other trainings go on beside one that fails, so that it is said at once.
    """

    seeds: Sequence[int]
    many: bool
    reasons: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def of_seed(self, seed: int, *, what: str) -> Iterator[Callable[[str, str], None]]:
        """A callback for what fails; a seed of which nothing is measured does not stop the others.

        Args:
            what: is not measured where training diverges without the callback being told.
        """
        several = len(self.seeds) > 1

        def fail(name: str, reason: str) -> None:
            label = f"{name}, seed {seed}" if several else name
            self.reasons[label] = reason
            if self.many or several:
                say(f"{label}: not measured. {reason}")

        told = len(self.reasons)
        try:
            yield fail
        except DivergedError as error:
            if len(self.reasons) == told:
                fail(what, str(error))


def report_training(
    records: Sequence[Record],
    failures: Mapping[str, str] | None = None,
    *,
    out: Path,
    json: str | None,
    table: ProbeTable | None = None,
) -> None:
    """Prints the table, or writes JSON; of several processes the first does. The command's last act.

    Args:
        failures: representation -> reason, for those that gave no record.
        table: in place of that of the training methods.

    Raises:
        typer.Exit: with code 1, when some failed.
        DivergedError: all failed.
    """
    from richrep.backbones.run_model import run_address
    from richrep.reports.render import render_json, render_rich
    from richrep.reports.training_table import print_training_table
    from richrep.training.processes import leave

    leave()
    if not records and failures:
        several = "Every training diverged. " if len(failures) > 1 else ""
        raise DivergedError(f"{several}{next(iter(failures.values()))}")
    if Worker.from_environment().prints_results:
        if json != "-":
            screen = console.stdout()
            screen.print(render_rich(table or print_training_table(records, failures=failures), width=screen.width))
        if json is not None:
            console.write_text(json, render_json(records))
        named = [str(record.solver["run"]) for record in records if "run" in record.solver]
        models = dict.fromkeys(run_address(out, name) for name in named)
        console.say(f"{len(records)} records in {out}. The models: {', '.join(models)}")
    if failures:
        raise typer.Exit(1)
