"""Where richrep keeps what it makes: `$RICHREP_HOME`, by default `~/.cache/richrep`; and files written whole."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def home() -> Path:
    """`$RICHREP_HOME`, or `~/.cache/richrep` when it is unset or empty."""
    return Path(os.path.expanduser(os.environ.get("RICHREP_HOME") or "~/.cache/richrep"))


def default_data_root() -> Path:
    """Where registered data sets are looked for when `--data-root` is not given."""
    return home() / "data"


def default_cache_root() -> Path:
    """Where extracted features are kept."""
    return home() / "features"


def is_offline() -> bool:
    """Whether `$RICHREP_OFFLINE` or `$HF_HUB_OFFLINE` forbids the network."""
    return any(
        os.environ.get(name, "").lower() not in ("", "0", "false") for name in ("RICHREP_OFFLINE", "HF_HUB_OFFLINE")
    )


def write_whole(path: Path, text: str) -> None:
    """Writes `text` to `path`, replacing what is there, whole or not at all; makes the folder. May raise OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
