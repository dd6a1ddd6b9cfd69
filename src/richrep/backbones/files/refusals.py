"""How it is said that a checkpoint file cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from richrep.errors import CheckpointError

_LISTED = 8  # names listed in a message before "…"


def broken_file(path: Path, kind: str, reason: object) -> CheckpointError:
    """The file at `path` starts like a `kind` and does not go on like one."""
    lines = str(reason).strip().splitlines()
    text = lines[0].rstrip(".") if lines else type(reason).__name__
    return CheckpointError(
        f"{path} is a truncated or corrupt {kind} ({path.stat().st_size:,} bytes): {text}. Copy or download it again."
    )


def listed(names: Sequence[str]) -> str:
    """The first names, and how many there are."""
    return ", ".join(names[:_LISTED]) + (f", … ({len(names)} in all)" if len(names) > _LISTED else "")
