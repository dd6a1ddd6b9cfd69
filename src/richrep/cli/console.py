"""What the commands say: results on standard output, progress and log on standard error."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from richrep.errors import RichrepError

if TYPE_CHECKING:
    from richrep.backbones.backbone import Backbone
    from richrep.evaluation.transfer.cells import CellProgress
    from richrep.features.profile import ExtractionProfile
    from richrep.features.progress import ExtractionProgress

LINE_EVERY_S = 10.0  # without a terminal, progress is a line now and then

_prefix = ""  # before every line of log
_bar_console: Console | None = None  # while a bar is drawn: it must be drawn again below every line of log


def stdout() -> Console:
    """The console for results; 100 columns when standard output is no terminal, so that files read well."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100
    return Console(width=width, highlight=False, markup=False, emoji=False)  # names may hold [brackets] and :colons:


def stderr() -> Console:
    """The console for progress and log."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(text: str) -> None:
    """One line of log, above the progress bar where one is drawn."""
    (_bar_console or stderr()).print(printable(_prefix + text))


def speak_as(name: str) -> None:
    """From now on every line of log begins with [name]; "" ends that."""
    global _prefix
    _prefix = f"[{name}] " if name else ""


def printable(text: str) -> str:
    """`text` with control characters, which could steer a terminal, as escapes; names in files come from strangers."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


class _LogHandler(logging.Handler):
    """The library's log as lines of `say`."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def show_log(*, verbose: bool = False) -> None:
    """Sends the library's log to standard error."""
    handler = _LogHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("richrep")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    logging.getLogger("richrep.features.engines").setLevel(
        logging.DEBUG if verbose else logging.INFO
    )  # what was picked


def load_backbones(
    addresses: list[str], *, seed: int = 0, preprocess: list[str] | None = None, report: bool = True
) -> list[Backbone]:
    """The backbones; with `report`, what each load matched, set aside and ignored is said on standard error."""
    from richrep.backbones.addresses import load_backbone
    from richrep.backbones.override import override_preprocessing

    backbones = []
    for address in addresses:
        backbone = override_preprocessing(load_backbone(address, seed=seed), preprocess or ())
        for line in (f"{backbone.name}  {address}", *(f"  {line}" for line in backbone.load_report)):
            if report:
                say(line)
        backbones.append(backbone)
    return backbones


@contextmanager
def extraction_progress() -> Iterator[Callable[[ExtractionProgress], None]]:
    """A callback that shows images done, images/s and time left: a bar on a terminal, else a line every 10 s."""
    if not sys.stderr.isatty():
        yield extraction_lines()
        return
    columns = (
        TextColumn("extracting"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} images, {task.fields[rate]:.0f} images/s, left"),
        TimeRemainingColumn(),
    )
    global _bar_console
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task("extract", rate=0.0, total=None)
        _bar_console = bar.console
        try:
            yield lambda p: bar.update(task, completed=p.images_done, total=p.images_total, rate=p.images_per_s)
        finally:
            _bar_console = None


def extraction_lines() -> Callable[[ExtractionProgress], None]:
    """A callback that says images done, images/s and time left every 10 s."""
    last = time.monotonic()

    def show(progress: ExtractionProgress) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S and 0 < progress.images_done < progress.images_total:
            last = time.monotonic()
            left = f", {progress.seconds_left:.0f} s left" if progress.seconds_left is not None else ""
            done = f"{progress.images_done}/{progress.images_total} images"
            say(f"extracting {done}, {progress.images_per_s:.0f} images/s{left}")

    return show


@contextmanager
def training_progress() -> Iterator[Callable[[CellProgress], None]]:
    """A callback that shows steps, loss, val accuracy and time left: a bar on a terminal, else a line every 10 s."""
    if not sys.stderr.isatty():
        yield _training_lines()
        return
    columns = (
        TextColumn("{task.fields[what]}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps, {task.fields[state]}, left"),
        TimeRemainingColumn(),
    )
    global _bar_console
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task("train", what="training", state="", total=None)
        _bar_console = bar.console

        def show(progress: CellProgress) -> None:
            training = progress.training
            what = f"training {progress.number}/{progress.total}"
            bar.update(task, completed=training.step, total=training.num_steps, what=what, state=_state(progress))

        try:
            yield show
        finally:
            _bar_console = None


def _training_lines() -> Callable[[CellProgress], None]:
    last = time.monotonic()

    def show(progress: CellProgress) -> None:
        nonlocal last
        training = progress.training
        if time.monotonic() - last >= LINE_EVERY_S and training.step < training.num_steps:
            last = time.monotonic()
            left = f", {training.seconds_left:.0f} s left" if training.seconds_left is not None else ""
            which = f"training {progress.number}/{progress.total} ({progress.cell})"
            say(f"{which}: step {training.step}/{training.num_steps}, {_state(progress)}{left}")

    return show


def _state(progress: CellProgress) -> str:
    training = progress.training
    val = f", val {100 * training.scores['accuracy']:.1f} %" if "accuracy" in training.scores else ""
    return f"loss {training.loss:.3f}{val}, {training.images_per_s:.0f} images/s"


def check_engine(engine: str, precision: str, device: str | None) -> None:
    """Raises RichrepError when the engine is unknown or cannot run so here; done before any work."""
    from richrep.features.engines import choose
    from richrep.features.forward import choose_device

    choose.check_engine(engine, precision, choose_device(device))


def say_profile(profile: ExtractionProfile) -> None:
    """Where the time of the extraction went, and which step the others waited for."""
    from rich.table import Table

    from richrep.features.profile import STEPS

    table = Table("step", "s", "share", "", box=None)
    for step, seconds in profile.seconds.items():
        table.add_row(step, f"{seconds:.2f}", f"{100 * profile.shares[step]:.0f} %", STEPS[step])
    stderr().print(table)
    say(profile.verdict)


def check_writable(target: str | None) -> None:
    """Raises RichrepError when `target` (a file; - or None pass) cannot be written; done before any work."""
    if target in (None, "-"):
        return
    path = Path(str(target)).expanduser()
    if path.is_dir():
        raise RichrepError(f"{path} is a folder. Give the name of a file to write, or - for standard output.")
    if not path.parent.is_dir():
        raise RichrepError(f"{path} cannot be written: the folder {path.parent} does not exist. Make it first.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise RichrepError(f"{path} cannot be written: no permission. Choose another place.")


def check_folder(folder: Path, option: str) -> None:
    """Raises RichrepError when no file can be written to `folder`, which need not exist yet; done before any work."""
    folder = folder.expanduser()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise RichrepError(f"{option} {folder} cannot be used: {there} is a file, not a folder. Give another folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RichrepError(f"{option} {folder} cannot be used: no permission to write to {there}. Give another folder.")


def write_text(target: str, text: str) -> None:
    """Writes `text` to the file `target`, whole or not at all, or to standard output for -."""
    text = text if text.endswith("\n") else text + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    path = Path(target).expanduser()
    try:
        if path.exists() and not path.is_file():  # a pipe or a device is written to, never replaced
            path.write_text(text, encoding="utf-8")
        else:
            _replace(path.resolve(), text)  # a link stays, the file it names is replaced
    except OSError as error:
        raise RichrepError(f"{path} cannot be written: {error.strerror}. Choose another place.") from error


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
