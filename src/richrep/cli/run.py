"""`richrep run`: a recorded experiment, and its table beside the published numbers."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from richrep.cli import console, options

if TYPE_CHECKING:
    from richrep.evaluation.record import Record
    from richrep.recipes.executors.local import Budget
    from richrep.recipes.executors.slurm import SlurmJobs
    from richrep.recipes.grid import Cell
    from richrep.recipes.recipe import Recipe
    from richrep.recipes.store import CellState, CellStore
    from richrep.reports.method_table import MethodTable


def run(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; recipes/ holds those of the papers.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Replaces a variable of the recipe, or an option of its commands; [a,b] is a list.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the commands (with slurm: the sbatch script) and run nothing.")
    ] = False,
    table_only: Annotated[
        bool, typer.Option("--table-only", help="Print the table of what is there, and run nothing.")
    ] = False,
    redo: Annotated[bool, typer.Option("--redo", help="Run finished cells again.")] = False,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed/--keep-failed", help="Run cells that failed before once more, or leave them."),
    ] = True,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", metavar="N", min=1, help="Cells at a time, sharing the cores.", show_default="1; slurm: 64"
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="What all running cells may take together, such as 8GB; with slurm, what each job asks for.",
            show_default="not limited; slurm: 16GB",
        ),
    ] = None,
    executor: Annotated[
        Literal["local", "slurm"], typer.Option("--executor", help="Processes of this machine, or a job array.")
    ] = "local",
    partition: Annotated[str, typer.Option("--partition", metavar="NAME", help="Slurm: where jobs run.")] = "",
    time_limit: Annotated[
        int, typer.Option("--time-limit", metavar="MIN", min=1, help="Slurm: minutes of a job.")
    ] = 240,
    gpus: Annotated[int, typer.Option("--gpus", metavar="N", min=0, help="Slurm: GPUs of a job.")] = 1,
    cpus: Annotated[int, typer.Option("--cpus", metavar="N", min=1, help="Slurm: cores of a job.")] = 8,
    markdown: Annotated[
        str | None, typer.Option("--markdown", metavar="FILE", help="Write the table; - is standard output.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png|svg", help="Draw accuracy against the number of training images."),
    ] = None,
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = None,
) -> None:
    """Every command of a recipe, as often as its lists say, and the table of the results beside the published ones.

    Finished cells are skipped, so the same command goes on after a failure or a kill. A list under `options` is one
    value where the command lets the option be repeated, else a grid; --dry-run shows what comes out.

    Examples:

    richrep run recipes/small/cat_linear_cifar10.yaml

    richrep run recipes/rrl/cifar10_cat_linear.yaml data_root=data wd='[1e-4,1e-3]' --dry-run

    richrep run recipes/small/cat_linear_cifar10.yaml train-size=500 --jobs 2 --markdown table.md --plot curve.png
    """
    from richrep.cli.declarations import declare_commands
    from richrep.recipes.executors.local import Budget
    from richrep.recipes.executors.slurm import SlurmJobs
    from richrep.recipes.grid import check_run_names, expand
    from richrep.recipes.outcome import load_records_of
    from richrep.recipes.override import check_files, override
    from richrep.recipes.recipe import read_all
    from richrep.recipes.store import CellStore, distinct, to_run
    from richrep.recipes.variables import parse_overrides
    from richrep.reports.method_plot import check_plot
    from richrep.reports.render import render_json

    _check_targets(markdown, json)
    console.check_folder(out, "--out")
    if plot is not None:
        check_plot(plot)
        console.check_writable(str(plot))
    commands = declare_commands(context)
    recipes = override(read_all(recipe), parse_overrides(overrides or ()), commands)
    cells = [cell for one in recipes for cell in expand(one, commands)]
    check_run_names(cells)
    for one in recipes:
        if one.unavailable:
            console.say(f"{one.name}: nothing can be run ({one.unavailable}). The table shows what was published.")
    commands_once = distinct(cells)
    store = CellStore(out.expanduser())
    wanted = to_run(cells, store, redo=redo, retry_failed=retry_failed)
    budget = Budget(jobs or 1, _size(memory), redo)
    budget.check(wanted if executor == "local" else [])
    asked = SlurmJobs(partition, time_limit, memory or "16GB", gpus, cpus, jobs or 64, redo)
    name = recipes[0].name
    if dry_run:
        _print_plan(wanted, len(commands_once), store, asked if executor == "slurm" else None, name)
        return
    if wanted and not table_only:
        check_files(recipes)
        if executor == "slurm":
            _submit(wanted, store, asked, name)
        else:
            _run(wanted, len(commands_once), store, budget)
    records = load_records_of(commands_once, store)
    table = _table(recipes, cells, store, records)
    _show(table, markdown, json)
    if json is not None:
        console.write_text(json, render_json(records[record_id] for record_id in sorted(records)))
    if plot is not None:
        _draw(table, plot)
    if _say_failed(commands_once, store):
        raise typer.Exit(1)


def _check_targets(markdown: str | None, json: str | None) -> None:
    from richrep.errors import RichrepError

    if markdown is not None and markdown == json:
        raise RichrepError("--markdown and --json would overwrite each other. Give each a file of its own.")
    console.check_writable(markdown)
    console.check_writable(json)


def _size(memory: str | None) -> int | None:
    from richrep.features.memory import parse_size

    return None if memory is None else parse_size(memory)


def _print_plan(wanted: list[Cell], total: int, store: CellStore, slurm: SlurmJobs | None, name: str) -> None:
    """The commands that would be run, ready to be copied; with slurm the script before them."""
    from richrep.recipes.executors.process import command_line
    from richrep.recipes.executors.slurm import script

    if slurm is not None and wanted:
        typer.echo(script(wanted, store, slurm, name))
    for position, cell in enumerate(wanted):
        job = f"[{position}] " if slurm is not None else ""
        typer.echo(f"# {job}{cell.label} ({cell.key})")
        typer.echo(shlex.join(["richrep", *command_line(cell, store.out)]))
    console.say(f"{len(wanted)} of {total} cells to run; nothing was started.")


def _submit(wanted: list[Cell], store: CellStore, slurm: SlurmJobs, name: str) -> None:
    from richrep.recipes.executors.slurm import not_waiting, submit

    free = not_waiting(wanted, store, name)
    if len(free) < len(wanted):
        console.say(f"{len(wanted) - len(free)} cells are queued or running already.")
    if free:
        jobs = submit(free, store, slurm, name)
        console.say(
            f"{len(jobs)} jobs submitted: {jobs[0]} to {jobs[-1]}. The same command with --table-only shows results."
        )


def _run(wanted: list[Cell], total: int, store: CellStore, budget: Budget) -> None:
    from richrep.recipes.executors.local import run_local

    if len(wanted) < total:
        console.say(f"{total - len(wanted)} of {total} cells have been run before.")
    begun = time.monotonic()
    running: set[str] = set()
    ended: list[str] = []

    def show(cell: Cell, state: CellState | None) -> None:
        if state is None:
            ended.append("elsewhere")
            console.say(f"{cell.label}: another process is running it; left to that one.")
            return
        if state.state == "running":
            running.add(cell.key)
            return
        running.discard(cell.key)
        ended.append(state.state)
        waiting = len(wanted) - len(ended) - len(running)
        left = (time.monotonic() - begun) / len(ended) * (len(wanted) - len(ended))
        console.say(
            f"[{len(ended)}/{len(wanted)}] {cell.label}: {state.state} in {state.elapsed_s or 0:.0f} s; "
            f"{len(running)} running, {waiting} waiting, {ended.count('failed')} failed, about {_duration(left)} left"
        )
        if state.state == "failed":
            console.say(f"  {state.error.splitlines()[-1]} (all of it: {store.path(cell, 'log')})")

    run_local(wanted, store, budget, show)


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _table(recipes: list[Recipe], cells: list[Cell], store: CellStore, records: dict[str, Record]) -> MethodTable:
    from richrep.recipes.outcome import measured, published, unavailable
    from richrep.reports.method_table import make_method_table

    metrics = {recipe.name: recipe.metric for recipe in recipes}
    rows = [*measured(cells, metrics, store, records), *unavailable(recipes)]
    return make_method_table(rows, published(recipes))


def _show(table: MethodTable, markdown: str | None, json: str | None) -> None:
    from richrep.reports.method_table import print_method_table
    from richrep.reports.render import render_markdown, render_rich

    printed = print_method_table(table)
    if markdown is not None:
        console.write_text(markdown, render_markdown(printed))
    if "-" not in (markdown, json):
        screen = console.stdout()
        if table.places:
            screen.print(printed.caption)  # around the table, which may be narrower than they are
            screen.print(render_rich(replace(printed, caption="", notes=()), width=screen.width))
        for note in printed.notes:
            screen.print(note)


def _draw(table: MethodTable, plot: Path) -> None:
    from richrep.reports.method_plot import write_plot

    write_plot(table, plot)
    console.say(f"Plot in {plot}.")


def _state(cell: Cell, store: CellStore) -> str:
    """In words; a cell that says it runs, but that no process holds, was interrupted."""
    state = store.load(cell)
    if state is None or state.state != "running":
        return "not run" if state is None else state.state
    with store.claim(cell) as free:
        return "interrupted" if free else "running"


def _say_failed(cells: list[Cell], store: CellStore) -> bool:
    """Whether a cell failed, said with what is not finished."""
    states = [_state(cell, store) for cell in cells]
    names = ("failed", "running", "interrupted", "submitted", "not run")
    counts = {name: states.count(name) for name in names if name in states}
    if counts:
        console.say(
            f"{len(cells) - sum(counts.values())} of {len(cells)} cells finished; "
            + ", ".join(f"{count} {name}" for name, count in counts.items())
            + ". The same command goes on with the others."
        )
    return "failed" in counts
