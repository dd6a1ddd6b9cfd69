"""A run on disk: its options, the state of its trainings, and in the end its model, which `run:NAME` loads."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from richrep.errors import RichrepError, RunBusyError
from richrep.features.entry_lock import try_alone
from richrep.paths import write_whole
from richrep.training.processes import is_main, on_main

_OPTIONS = "options.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")
_MAX_LISTED = 12


@dataclass(frozen=True)
class RunFolder:
    """The folder `OUT/NAME` of a run that this process holds alone.

    Attributes:
        path: the folder. `states/` below it holds the training states, `model/` the finished model, `selected/` where
            it is kept the network that val chose, trained on train alone, laid out as a run of its own.
    """

    path: Path

    @property
    def name(self) -> str:
        """What stands after `run:`."""
        return self.path.name

    @property
    def model(self) -> Path:
        """The folder of the finished model; there is none before the end."""
        return self.path / "model"

    @property
    def selected(self) -> Path:
        """The folder of the chosen cell's model, trained on train alone: `run:NAME/selected`."""
        return self.path / "selected" / "model"

    @property
    def curves(self) -> Path:
        """The folder of what a tracker draws."""
        return self.path / "curves"

    def state(self, cell: str) -> Path:
        """The state file of one training of the run."""
        return self.path / "states" / f"{cell}.pt"

    def read_done(self, cell: str) -> dict[str, Any] | None:
        """What `write_done` was given for this training; None before that."""
        path = self.path / "states" / f"{cell}.yaml"
        return on_main(lambda: _read_yaml(path) if path.exists() else None)

    def write_done(self, cell: str, facts: Mapping[str, Any]) -> None:
        """Marks one training of the run as finished, with what came of it."""
        text = yaml.safe_dump(dict(facts), sort_keys=False)
        on_main(lambda: write_whole(self.path / "states" / f"{cell}.yaml", text))

    def leave_out(self, cell: str, facts: Mapping[str, Any]) -> None:
        """Marks a training that had been chosen as of no use after all, and removes what was made of it since."""
        self.write_done(cell, facts)
        if is_main():
            shutil.rmtree(self.selected, ignore_errors=True)
            self.state("final").unlink(missing_ok=True)

    def drop_model(self) -> None:
        """Removes a model that turned out to be of no use, so that `run:NAME` does not load it."""
        shutil.rmtree(self.model, ignore_errors=True)

    def drop_states(self) -> None:
        """Removes the training states, which a finished run does not need; what came of each stays."""
        if is_main():
            for path in (self.path / "states").glob("*.pt"):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def open_run(out: Path | str, name: str, options: Mapping[str, Any], *, restart: bool = False) -> Iterator[RunFolder]:
    """The run `name` below `out`, new or begun earlier with the same options; held alone meanwhile.

    Of several processes that train together, the first holds it for all.

    Args:
        options: all that the result depends on, as plain data.
        restart: begin anew, whatever is there.

    Raises:
        RichrepError: a name that no folder can have, other options than the run was begun with (all differences are
            listed), or a folder that cannot be written.
        RunBusyError: another process is at work on it.
    """
    with contextlib.ExitStack() as stack:
        yield on_main(lambda: stack.enter_context(_open(Path(out), name, _plain(options), restart=restart)))


@contextlib.contextmanager
def _open(out: Path, name: str, options: dict[str, Any], *, restart: bool) -> Iterator[RunFolder]:
    if not _NAME.fullmatch(name):
        raise RichrepError(
            f"A run cannot be called {name!r}: letters, digits, dots, dashes and underscores are possible. Use --name."
        )
    path = out.expanduser() / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RichrepError(f"The folder of the run, {path}, cannot be made: {error.strerror}. Use --out.") from error
    with try_alone(path / ".lock") as held:
        if not held:
            raise RunBusyError(f"Another process is at work on run {name!r} in {path}. Wait for it, or use --name.")
        if restart:
            for part in ("states", "model", "selected", "curves"):
                shutil.rmtree(path / part, ignore_errors=True)
            (path / _OPTIONS).unlink(missing_ok=True)
        _check_options(path, name, options)
        _drop_unfinished(path)
        yield RunFolder(path)


def _drop_unfinished(path: Path) -> None:
    """Removes what a killed process was writing; nobody else writes here now."""
    for part in [*path.glob(".model.*.tmp"), *(path / "states").glob(".*.tmp")]:
        shutil.rmtree(part) if part.is_dir() else part.unlink()


def _check_options(path: Path, name: str, options: dict[str, Any]) -> None:
    """Writes the options of a run that has trained nothing yet; refuses others than those of the run that is there."""
    file = path / _OPTIONS
    begun = any((path / part).exists() for part in ("states", "model"))
    if not (file.exists() and begun):
        write_whole(file, yaml.safe_dump(options, sort_keys=False))
        return
    before = _read_yaml(file)
    differing = [
        f"{key}: {before.get(key, 'not set')} then, {options.get(key, 'not set')} now"
        for key in dict.fromkeys([*before, *options])
        if before.get(key) != options.get(key)
    ]
    if differing:
        listed = "; ".join(differing[:_MAX_LISTED]) + ("; …" if len(differing) > _MAX_LISTED else "")
        raise RichrepError(
            f"Run {name!r} in {path} was begun with other options ({listed}). Give those again to go on, --restart to "
            "begin it anew, or --name for another run beside it."
        )


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """As YAML gives them back: tuples as lists, nested options under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": item for inner, item in _plain(value).items()}
        else:
            flat[key] = [*value] if isinstance(value, list | tuple) else value
    return dict(yaml.safe_load(yaml.safe_dump(flat, sort_keys=False)))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RichrepError(f"{path} cannot be read: {error}. Begin the run anew with --restart.") from error
    if not isinstance(content, dict):
        raise RichrepError(f"{path} is not what a run writes. Begin it anew with --restart.")
    return content
