"""Records on disk: one JSON file each in a folder that many processes and machines may write to at once."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from richrep.errors import RichrepError, unknown_name_message
from richrep.evaluation.record import Record

logger = logging.getLogger(__name__)


def save_record(record: Record, folder: str | Path) -> Path:
    """Writes `record` to `folder`/ID.json, whole or not at all, and returns that path.

    The text goes to a hidden temporary file in the same folder, reaches the disk, and is then renamed. A process
    killed on the way leaves at most a hidden file ending in .tmp, which is never read.

    Raises:
        RichrepError: the folder cannot be made or written.
    """
    folder = Path(folder).expanduser()
    path = folder / f"{record.id}.json"
    temporary = folder / f".{record.id}.{secrets.token_hex(4)}.tmp"
    content = record.to_json().encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:  # x: never someone else's file
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(folder)
    except OSError as error:
        raise RichrepError(
            f"Record {record.id} ({len(content)} bytes) cannot be written to {folder}: {error.strerror or error}. "
            "Free space or give another folder with --out."
        ) from error
    return path


def read_record(folder: str | Path, record_id: str) -> Record | None:
    """The record of that id in `folder`; None where it is gone or damaged."""
    try:
        return Record.from_json((Path(folder).expanduser() / f"{record_id}.json").read_bytes())
    except (RichrepError, OSError):
        return None


def load_records(folder: str | Path, patterns: Sequence[str] = ()) -> list[Record]:
    """The records in every *.json below `folder` that match all `patterns`, oldest first.

    A file that is damaged or no record is named in a logged warning and left out; the others are not lost. A record
    found twice (a copied folder) counts once.

    Args:
        patterns: see `filter_records`.

    Raises:
        RichrepError: there is no such folder, or a pattern's key is unknown.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise RichrepError(f"The records folder {folder} {what}. Run `richrep probe` first, or give another folder.")
    records: dict[str, Record] = {}
    for path in sorted(folder.rglob("*.json")):
        if path.name.startswith(".") or not path.is_file():
            continue
        try:
            record = Record.from_json(path.read_bytes())
        except (RichrepError, OSError) as error:
            logger.warning("%s is left out: %s", path, error)
        else:
            records[record.id] = record
    return filter_records([records[record_id] for record_id in sorted(records)], patterns)


def filter_records(records: Iterable[Record], patterns: Sequence[str]) -> list[Record]:
    """The records that match every pattern, in the given order; upper and lower case do not matter.

    A plain pattern matches where it is part of the representation, the data set's name or address, the kind, the
    protocol's name, an architecture, a family or the id. KEY=VALUE asks for equality: seed=0, dataset=cifar10 (not
    cifar100), l2=1e-3, any protocol option; keys are those `facts_of` lists.

    Raises:
        RichrepError: KEY=VALUE where no record knows the key.
    """
    records = list(records)
    for pattern in patterns:
        _check_key(pattern, records)
    return [record for record in records if all(_matches(record, pattern) for pattern in patterns)]


def facts_of(record: Record) -> dict[str, list[str]]:
    """What KEY=VALUE patterns compare with: for every key the values that count as equal, as text."""
    facts = {
        **{key.lower(): [_text(value)] for key, value in protocol_options(record) if key != "name"},
        **{key.lower(): [_text(value)] for key, value in record.hyperparameters.items()},
    }
    return facts | {
        "id": [record.id],
        "kind": [record.kind],
        "seed": [str(record.seed)],
        "representation": [record.representation],
        "dataset": [record.dataset.name, record.dataset.address],
        "protocol": [record.protocol_name],
        "architecture": [backbone.architecture for backbone in record.backbones],
        "family": [backbone.family for backbone in record.backbones],
        "backbone": [text for b in record.backbones for text in (b.name, b.address, b.sha256)],
    }


def protocol_options(record: Record) -> Iterator[tuple[str, object]]:
    """Every option of the protocol with its value; those inside options as "epochs", "optimizer.momentum"."""
    return _leaves(record.protocol)


def _leaves(options: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, prefix if key == "options" else f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


SEARCHED = ("representation", "dataset", "kind", "protocol", "architecture", "family", "id")


def _matches(record: Record, pattern: str) -> bool:
    facts = facts_of(record)
    wanted = pattern.casefold()
    if any(wanted in text.casefold() for key in SEARCHED for text in facts[key]):
        return True
    key, equals, value = pattern.partition("=")
    return bool(equals) and any(_same(text, value) for text in facts.get(key.strip().lower(), []))


def _check_key(pattern: str, records: Sequence[Record]) -> None:
    key, equals, _ = pattern.partition("=")
    if not equals or not records:
        return
    known = {key for record in records for key in facts_of(record)}
    if key.strip().lower() not in known and not any(_matches(record, pattern) for record in records):
        raise RichrepError(unknown_name_message("key", key, known, max_listed=40))


def _same(text: str, value: str) -> bool:
    """Equal as text, or as numbers: 0.001 and 1e-3."""
    if text.casefold() == value.strip().casefold():
        return True
    try:
        return float(text) == float(value)
    except ValueError:
        return False


def _text(value: object) -> str:
    return ",".join(_text(item) for item in value) if isinstance(value, list) else str(value)


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut, where the system lets a folder be opened (not on Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
