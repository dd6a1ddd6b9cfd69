"""The command line: `run` is its entry point, one file a command."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from richrep.cli import (
    cache,
    console,
    convert,
    datasets,
    demo,
    distill,
    extract,
    finetune,
    inspect,
    list_names,
    probe,
    rank,
    results,
    search,
    two_stage,
)
from richrep.cli import run as run_recipe
from richrep.cli.torchrun import Worker
from richrep.errors import BadImageError, RichrepError

INTERRUPTED = 130  # 128 + SIGINT, as shells count
SKIP = "--on-bad-image skip"
_LESS_MEMORY = (
    "Take less at once: a smaller --batch-size, --precision bf16, for training --accumulate, for probes "
    "--memory-limit. Finished work is kept."
)

app = typer.Typer(
    name="richrep",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with **richrep demo**. Help on a command: richrep COMMAND --help.",
)
app.command("demo")(demo.demo)
app.command("inspect")(inspect.inspect)
app.command("convert")(convert.convert)
app.command("list")(list_names.list_names)
app.command("extract")(extract.extract)
app.command("probe")(probe.probe)
app.command("rank")(rank.rank)
app.command("search")(search.search)
app.command("finetune")(finetune.finetune)
app.command("two-stage")(two_stage.two_stage)
app.command("distill")(distill.distill)
app.command("run")(run_recipe.run)
app.command("results")(results.results)
app.command("datasets")(datasets.datasets)
app.command("cache")(cache.cache)


def _print_version(wanted: bool) -> None:
    if wanted:
        from richrep.evaluation.environment import richrep_version

        typer.echo(f"richrep {richrep_version()}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More log on standard error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Which pretrained vision networks represent your task best, and how much better are they together?"""
    console.show_log(verbose=verbose)
    worker = Worker.from_environment()
    console.speak_as("" if worker.prints_results else f"worker {worker.rank}")
    worker.check_command(context.invoked_subcommand)


def _can_skip() -> bool:
    """Whether the command that runs can leave images out."""
    command = typer.main.get_command(app)
    named = next((word for word in sys.argv[1:] if word in getattr(command, "commands", {})), "")
    known = getattr(command, "commands", {}).get(named)
    return known is not None and any(SKIP.split()[0] in option.opts for option in known.params)


def _is_out_of_memory(error: Exception) -> bool:
    """Python's own error, torch's of an accelerator, or the words of torch's allocator; torch need not be loaded."""
    words = "can't allocate memory" in str(error) or "Unable to allocate" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or words


def run() -> None:
    """Runs the command line. Exit code 0; 2 for a user's mistake (one message); 130 for Ctrl-C; 1 otherwise."""
    try:
        app()
    except RichrepError as error:
        console.say(f"Error: {error}")
        if isinstance(error, BadImageError) and SKIP not in str(error):
            console.say(
                f"Repair or remove the image{f', or leave such images out with {SKIP}' if _can_skip() else ''}."
            )
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer's answer to Ctrl-C
            console.say("Interrupted. Finished work is kept: the same command goes on from there.")
        raise
    except Exception as error:
        if os.environ.get("RICHREP_DEBUG"):
            raise
        if _is_out_of_memory(error):
            console.say(f"Error: Out of memory. {str(error).splitlines()[0] if str(error) else ''}\n{_LESS_MEMORY}")
            sys.exit(2)
        console.say(
            f"Unexpected error ({type(error).__name__}): {error}\n"
            "This is a defect of richrep, or of a library it uses. RICHREP_DEBUG=1 shows where it happened."
        )
        sys.exit(1)
