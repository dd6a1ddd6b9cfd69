"""`richrep results`: the table of records."""

from __future__ import annotations

from typing import Annotated

import typer

from richrep.cli import console, options


def results(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN", help="Only records that hold all of these; also key=value (seed=0)."),
    ] = None,
    out: options.Out = options.DEFAULT_OUT,
    csv: Annotated[str | None, typer.Option("--csv", metavar="FILE", help="Write CSV; - is standard output.")] = None,
    markdown: Annotated[
        str | None, typer.Option("--markdown", metavar="FILE", help="Write Markdown; - is standard output.")
    ] = None,
    json: options.Json = None,
) -> None:
    """The table of what was measured, seeds averaged to mean ± std.

    Example: richrep results cifar10 resnet20 --markdown table.md
    """
    from richrep.errors import RichrepError
    from richrep.evaluation.record_store import load_records
    from richrep.reports.render import render_csv, render_json, render_markdown, render_rich
    from richrep.reports.tables import make_results_table

    targets = [target for target in (csv, markdown, json) if target is not None]
    if targets.count("-") > 1:
        raise RichrepError("Only one of --csv, --markdown and --json can go to standard output.")
    if len(set(targets)) < len(targets):
        raise RichrepError("--csv, --markdown and --json would overwrite each other. Give each a file of its own.")
    for target in targets:
        console.check_writable(target)
    records = load_records(out, patterns or ())
    if not records:
        wanted = f" that match {' and '.join(map(repr, patterns))}" if patterns else ""
        raise RichrepError(f"No records{wanted} in {out}. See all with: richrep results --out {out}")
    table = make_results_table(records)
    if csv is not None:
        console.write_text(csv, render_csv(table))
    if markdown is not None:
        console.write_text(markdown, render_markdown(table))
    if json is not None:
        console.write_text(json, render_json(records))
    if "-" not in targets:
        screen = console.stdout()
        screen.print(render_rich(table, width=screen.width))
