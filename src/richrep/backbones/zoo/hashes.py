"""Hashes of the checkpoints used so far: recorded on first use, checked ever after."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from richrep.errors import CheckpointError

_FILE = "hashes.json"


def check_hash(root: Path, name: str, sha256: str) -> str:
    """Compares the hash of the file `name` below `root` with the recorded one; records it when there is none.

    The record is `hashes.json` beside the checkpoints, written whole or not at all. It goes by the place of the file:
    what a link leads to counts. Where it cannot be written, as in a folder shared for reading, that is said.

    Returns:
        A sentence for the load report.

    Raises:
        CheckpointError: the file has changed since its first use, or the record cannot be read.
    """
    path = root / _FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read the hashes in {path}: {error}. Repair or delete the file.") from None
    if not isinstance(known, dict):
        raise CheckpointError(f"{path} holds {type(known).__name__}, expected names and hashes. Delete the file.")
    if name in known:
        if known[name] != sha256:
            raise CheckpointError(
                f"{root / name} has changed since it was first used: its sha256 is {sha256}, it was {known[name]}. "
                f"Fetch it again, or delete its line in {path} when the change is meant."
            )
        return "sha256 as on first use"
    try:
        _write(path, known | {name: sha256})
    except OSError as error:
        return f"sha256 not recorded, so later loads cannot compare it: {path} cannot be written ({error.strerror})"
    return "sha256 recorded: later loads compare it"


def _write(path: Path, content: dict[str, str]) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".part", delete=False) as part:
        try:
            part.write(json.dumps(content, indent=1, sort_keys=True))
            part.close()
            os.chmod(part.name, 0o644)  # a temporary file is its owner's alone, the record may be everyone's
            os.replace(part.name, path)
        except OSError:
            Path(part.name).unlink(missing_ok=True)
            raise
