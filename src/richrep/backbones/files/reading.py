"""A checkpoint file or folder -> its content: tensors by name or containers of them, read safely, whatever the kind.

==================  =================================================================================
safetensors         safetensors_file.py
torch, zip, legacy  torch_file.py, after pickle_check.py and with the allow-list of pickle_names.py
numpy archive       numpy_archive.py
Hugging Face        folder.py, for the files above with their config.json
==================  =================================================================================
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from richrep.backbones.files.checkpoint_file import read_file
from richrep.backbones.files.folder import read_folder
from richrep.backbones.files.name_limits import check_names


@dataclass(frozen=True, eq=False)
class Content:
    """What a file or folder holds.

    Attributes:
        value: a mapping of names to tensors, of containers to such mappings, or whatever else the file holds; objects
            that are neither tensors nor plain values are `Placeholder`s.
        metadata: texts stored beside the tensors (safetensors, config.json).
        path: the file or folder.
        files: the files that were read.
    """

    value: object
    path: Path
    files: tuple[Path, ...]
    metadata: dict[str, str] = field(default_factory=dict)

    def sha256(self) -> str:
        """Of the file; for a folder, of the names and hashes of the files that were read (hex)."""
        digests = {file.name: _sha256(file) for file in sorted(self.files)}
        if self.files == (self.path,):
            return digests[self.path.name]
        return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in digests.items()).encode()).hexdigest()


def read_content(path: Path) -> Content:
    """Reads safetensors, torch files (zip and legacy), numpy archives and Hugging Face folders, told apart by content.

    No code of a file can run, nothing that it names is imported, and it costs no more memory than its size.

    Raises:
        CheckpointError: the file is missing, empty, truncated, not a checkpoint, too large for one, or asks for code.
    """
    if os.path.isdir(path):
        value, metadata, files = read_folder(path)
    else:
        (value, metadata), files = read_file(path), (path,)
    check_names(value, where=str(path))
    return Content(value, path, files, metadata)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
