"""Hashes of the checkpoints used so far: recorded on first use, checked ever after."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from richrep.errors import CheckpointError

_FILE = "hashes.json"


def check_hash(root: Path, name: str, sha256: str) -> bool:
    """Compares the hash of the file `name` below `root` with the recorded one; records it when there is none.

    Returns:
        Whether there was one. It is kept in `hashes.json` beside the checkpoints, written whole or not at all.

    Raises:
        CheckpointError: the file has changed since its first use, or the record cannot be read or written.
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
        return True
    _write(path, known | {name: sha256})
    return False


def _write(path: Path, content: dict[str, str]) -> None:
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".part", delete=False) as part:
            part.write(json.dumps(content, indent=1, sort_keys=True))
        os.chmod(part.name, 0o644)  # a temporary file is its owner's alone, the record may be everyone's
        os.replace(part.name, path)
    except OSError as error:
        raise CheckpointError(f"Cannot record the hash of a checkpoint in {path}: {error.strerror}.") from None
