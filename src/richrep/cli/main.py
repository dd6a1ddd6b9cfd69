"""The command line: `run` is its entry point, one file a command."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from richrep.cli import cache, console, demo, extract, inspect, list_names, probe, results
from richrep.errors import RichrepError

app = typer.Typer(
    name="richrep",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with [bold]richrep demo[/bold]. Help on a command: richrep COMMAND --help.",
)
app.command("demo")(demo.demo)
app.command("inspect")(inspect.inspect)
app.command("list")(list_names.list_names)
app.command("extract")(extract.extract)
app.command("probe")(probe.probe)
app.command("results")(results.results)
app.command("cache")(cache.cache)


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More log on standard error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Which pretrained vision networks represent your task best, and how much better are they together?"""
    if version:
        from richrep.evaluation.record import richrep_version

        typer.echo(f"richrep {richrep_version()}")
        raise typer.Exit
    console.show_log(verbose=verbose)


def run() -> None:
    """Runs the command line. Exit code 0; 2 for a user's mistake (one message); 1 for anything else."""
    try:
        app()
    except RichrepError as error:
        console.say(f"Error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        console.say("Interrupted. Finished work is kept: the same command goes on from there.")
        sys.exit(130)
    except Exception as error:
        if os.environ.get("RICHREP_DEBUG"):
            raise
        console.say(
            f"Unexpected error ({type(error).__name__}): {error}\n"
            "This is a defect of richrep, or of a library it uses. RICHREP_DEBUG=1 shows where it happened."
        )
        sys.exit(1)
