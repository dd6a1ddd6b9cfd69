"""`richrep datasets`: the registered data sets, what of them is on disk, and whether a copy is whole."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from richrep.cli import console, options

if TYPE_CHECKING:
    from richrep.data.registry.entry import DatasetEntry
    from richrep.data.sources.registered import RegisteredCopy
    from richrep.data.split import Split


def datasets(
    action: Annotated[str, typer.Argument(metavar="list|check|download", help="What to do.")] = "list",
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="list: only data sets with this in name, title or alias. check, download: an address.",
        ),
    ] = None,
    data_root: options.DataRoot = None,
    num_workers: options.NumWorkers = None,
) -> None:
    """Shows the registered data sets: classes, sizes, metric, splits, licence, what is on disk, how to get it.

    With check, compares the number of images and classes with the registered ones and decodes every image; exit code 1
    when something is wrong. With download, fetches a data set through torchvision, or hf:OWNER/NAME through Hugging
    Face's client; both check what came.

    Example: richrep datasets check flowers102
    """
    from richrep.errors import RichrepError, unknown_name_message

    actions = {"list": _list, "check": _check, "download": _download}
    if action not in actions:
        raise RichrepError(unknown_name_message("datasets action", action, actions))
    actions[action](name, data_root, num_workers)


def _list(pattern: str | None, data_root: Path | None, num_workers: int | None) -> None:
    from richrep.data.registry import REGISTRY, plain
    from richrep.errors import RichrepError

    wanted = plain(pattern or "")
    found = [
        entry for entry in REGISTRY.values() if any(wanted in plain(text) for text in (entry.title, *entry.spellings))
    ]
    if not found:
        raise RichrepError(f"No data sets match {pattern!r}. List all with: richrep datasets")
    for number, entry in enumerate(found):
        if number:
            console.stdout().print()
        _show(entry, data_root)


def _show(entry: DatasetEntry, data_root: Path | None) -> None:
    from richrep.data.datasets import find_copy

    copy = find_copy(entry.name, data_root=data_root)
    assert copy is not None
    splits = [
        f"{split}: {entry.describe_sizes(split)}" + (f"; {info.rule}" if info.rule else "")
        for split, info in entry.splits.items()
    ]
    splits[0] += " (the plain name)" if len(splits) > 1 else ""
    lines = [
        ("classes", entry.describe_classes(entry.default_split)),
        *(("" if number else "splits", text) for number, text in enumerate(splits)),
        ("sizes by", entry.sizes_from),
        ("metric", entry.describe_metric()),
        ("licence", entry.licence),
        ("on disk", _on_disk(copy)),
        ("get it", copy.how_to_get()),
        ("home page", entry.homepage),
    ]
    screen = console.stdout()
    screen.print(f"{entry.name}  {entry.title}", soft_wrap=True)
    for what, text in lines:
        screen.print(f"  {what:<9}  {text}", soft_wrap=True)  # paths stay whole, to be copied


def _on_disk(copy: RegisteredCopy) -> str:
    """'yes, in …', with the splits where not all are there; or 'no' or 'partly', and what is missing."""
    from dataclasses import replace

    if not copy.needs:
        return "yes, bundled"
    splits = copy.entry.splits
    complete = [split for split in splits if not replace(copy, split=split).missing()]
    if complete:
        which = "" if len(complete) == len(splits) else f", but only {', '.join(complete)}"
        return f"yes, in {copy.data_root}{which}"
    missing = copy.missing()
    return f"{'no' if len(missing) == len(copy.needs) else 'partly'}: lacks {', '.join(map(str, missing))}"


def _check(address: str | None, data_root: Path | None, num_workers: int | None) -> None:
    from richrep.data.datasets import find_copy, load_dataset, parts_of
    from richrep.data.verify import find_bad_images
    from richrep.errors import RichrepError

    if address is None:
        raise RichrepError("richrep datasets check needs a data set. Write for example: richrep datasets check digits")
    copy = find_copy(address, data_root=data_root)
    parts = parts_of(load_dataset(address)) if copy is None else _read(copy)
    problems = [] if copy is None else copy.count_problems(parts)
    with _progress(sum(map(len, parts.values()))) as progress:
        bad = {
            part: find_bad_images(split, num_workers=num_workers, progress=progress) for part, split in parts.items()
        }
    _report(address, parts, problems, bad)
    if problems or any(bad.values()):
        raise typer.Exit(1)


def _download(address: str | None, data_root: Path | None, num_workers: int | None) -> None:
    from richrep.data.datasets import find_copy, load_dataset, parts_of
    from richrep.data.download import download
    from richrep.errors import RichrepError

    if address is None:
        raise RichrepError("richrep datasets download needs a name. Write for example: richrep datasets download dtd")
    copy = find_copy(address, data_root=data_root)
    if copy is not None:
        console.stdout().print(f"{copy.entry.name} is in {download(copy)}", soft_wrap=True)
        return
    if not address.startswith("hf:"):
        raise RichrepError(f"{address} is read where it lies. To be downloaded are registered names and hf:OWNER/NAME.")
    sizes = ", ".join(f"{part} {len(split):,}" for part, split in parts_of(load_dataset(address)).items())
    console.stdout().print(f"{address} is in the Hugging Face cache: {sizes} images", soft_wrap=True)


def _read(copy: RegisteredCopy) -> dict[str, Split]:
    """The parts; exit code 1 for a copy that is there but cannot be read, and the error where there is none."""
    from richrep.errors import DatasetError

    try:
        return copy.read()
    except DatasetError as error:
        if len(copy.missing()) == len(copy.needs):
            raise
        console.stdout().print(f"wrong: {error}", soft_wrap=True)
        raise typer.Exit(1) from error


def _report(address: str, parts: Mapping[str, Split], problems: list[str], bad: Mapping[str, list[str]]) -> None:
    screen = console.stdout()
    for problem in problems:
        screen.print(f"wrong: {problem}", soft_wrap=True)
    for part, reasons in bad.items():
        for reason in reasons:
            screen.print(f"bad: {part}: {reason}", soft_wrap=True)
    sizes = ", ".join(f"{part} {len(split):,}" for part, split in parts.items())
    count = sum(map(len, bad.values()))
    state = f"{count} of them cannot be decoded" if count else "all can be decoded"
    counts = "; the sizes are not the registered ones" if problems else ""
    screen.print(f"{address}: {sizes} images, {state}{counts}.", soft_wrap=True)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A callback that counts decoded images: a bar on a terminal, else a line every 10 s."""
    from rich.progress import Progress

    if sys.stderr.isatty():
        with Progress(console=console.stderr(), transient=True) as bar:
            task = bar.add_task("decoding", total=total)
            yield lambda count: bar.advance(task, count)
        return
    done, last = 0, time.monotonic()

    def show(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= console.LINE_EVERY_S:
            last = time.monotonic()
            console.say(f"decoding {done}/{total} images")

    yield show
