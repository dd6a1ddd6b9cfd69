"""`richrep cache`: lists, checks and clears the cached features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from richrep.cli import console, options

if TYPE_CHECKING:
    from richrep.features.cache import FeatureCache


def cache(
    action: Annotated[str, typer.Argument(metavar="list|verify|clear", help="What to do.")] = "list",
    pattern: Annotated[
        str | None, typer.Argument(metavar="PATTERN", help="Only entries with this in backbone, data set or key.")
    ] = None,
    cache_dir: options.CacheDir = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Clear without asking.")] = False,
) -> None:
    """Lists the cached features with their sizes, checks them against their checksums, or clears them.

    Example: richrep cache clear resnet20 --yes
    """
    from richrep.errors import RichrepError, unknown_name_message
    from richrep.features.cache import FeatureCache
    from richrep.paths import default_cache_root

    store = FeatureCache(cache_dir or default_cache_root())
    actions = {"list": _list, "verify": _verify, "clear": _clear}
    if action not in actions:
        raise RichrepError(unknown_name_message("cache action", action, actions))
    actions[action](store, pattern, yes)


def _list(store: FeatureCache, pattern: str | None, yes: bool) -> None:
    from rich.table import Table

    entries = [entry for entry in store.entries() if entry.matches(pattern)]
    table = Table("representation", "layer", "data", "images", "dim", "dtype", "blocks", "MB", "key", box=None)
    for entry in entries:
        table.add_row(
            entry.backbone or entry.problem,
            entry.layer,
            f"{entry.dataset}/{entry.part}",
            str(entry.rows),
            str(entry.dim),
            entry.store,
            f"{entry.blocks_done}/{entry.blocks_total}",
            f"{entry.size_bytes / 1e6:.1f}",
            entry.key[:12],
        )
    screen = console.stdout()
    if entries:
        screen.print(table)
    total = sum(entry.size_bytes for entry in entries) / 1e6
    screen.print(f"{len(entries)} entries, {total:.1f} MB in {store.root}", soft_wrap=True)


def _verify(store: FeatureCache, pattern: str | None, yes: bool) -> None:
    damaged = store.verify(pattern)
    for block in damaged:
        console.stdout().print(f"damaged: block {block.block} of {block.entry.key} ({block.entry.backbone})")
    if damaged:
        console.say("Clear these entries (richrep cache clear KEY) and extract them again.")
        raise typer.Exit(1)
    console.stdout().print("Every finished block matches its checksum.")


def _clear(store: FeatureCache, pattern: str | None, yes: bool) -> None:
    entries = [entry for entry in store.entries() if entry.matches(pattern)]
    total = sum(entry.size_bytes for entry in entries) / 1e6
    if entries and not yes:
        typer.confirm(f"Clear {len(entries)} entries, {total:.1f} MB, in {store.root}?", abort=True, err=True)
    count, size = store.clear(pattern)
    console.stdout().print(f"Cleared {count} entries, {size / 1e6:.1f} MB.")
