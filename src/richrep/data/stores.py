"""Image stores: an array in memory, files on disk, two stores one after the other."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from richrep.data.decode import Decoded, bad_image, decode_image
from richrep.data.split import ImageStore
from richrep.errors import BadImageError


class ArrayStore:
    """Decoded images in memory.

    Args:
        pixels: uint8, (N, H, W, 3) RGB or (N, H, W) grey.
        source: what the images are called in messages, e.g. "cifar10 train".
    """

    def __init__(self, pixels: np.ndarray, *, source: str) -> None:
        if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)):
            raise ValueError(
                f"pixels must be uint8 (N, H, W, 3) or (N, H, W), got {pixels.dtype} {pixels.shape} for {source}."
            )
        self._pixels = np.ascontiguousarray(pixels)
        self._source = source

    def __len__(self) -> int:
        return len(self._pixels)

    @property
    def size_px(self) -> tuple[int, int]:
        """(height, width) of every image."""
        height, width = self._pixels.shape[1:3]
        return height, width

    def load(self, position: int) -> Decoded:
        """The image as RGB; grey is repeated in the three channels."""
        pixels: np.ndarray = self.load_pixels(np.array([position]))[0]
        return pixels

    def load_pixels(self, positions: np.ndarray) -> np.ndarray:
        """The images at positions (B,) as uint8 (B, H, W, 3); equal to `load`'s."""
        pixels = self._pixels[positions]
        return pixels if pixels.ndim == 4 else np.repeat(pixels[..., None], 3, axis=3)

    def name(self, position: int) -> str:
        """E.g. 'cifar10 train image 17'."""
        return f"{self._source} image {position}"

    def digest(self, position: int) -> bytes:
        """SHA-256 of shape and pixels."""
        pixels = self._pixels[position]
        return hashlib.sha256(f"uint8 {pixels.shape}\n".encode() + pixels.tobytes()).digest()


class FileStore:
    """Encoded images, one file each.

    Args:
        root: the folder the files lie in.
        files: paths relative to `root`.
    """

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self._root = root
        self._files = tuple(files)

    def __len__(self) -> int:
        return len(self._files)

    def load(self, position: int) -> Decoded:
        """The image as RGB. Raises BadImageError when the file cannot be read or decoded."""
        return load_file(self._root / self._files[position], position=position)

    def name(self, position: int) -> str:
        """The path."""
        return str(self._root / self._files[position])

    def digest(self, position: int) -> bytes:
        """SHA-256 of the file's content. Raises BadImageError when it cannot be read."""
        return digest_file(self._root / self._files[position], position=position)


class JoinedStore:
    """The images of `first`, then those of `second`; messages name the member's own position."""

    def __init__(self, first: ImageStore, second: ImageStore) -> None:
        self._first = first
        self._second = second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def _member(self, position: int) -> tuple[ImageStore, int]:
        start = len(self._first)
        return (self._first, position) if position < start else (self._second, position - start)

    def load(self, position: int) -> Decoded:
        """The image as RGB. Raises BadImageError when it cannot be decoded."""
        store, own = self._member(position)
        return store.load(own)

    def name(self, position: int) -> str:
        """The name in the member."""
        store, own = self._member(position)
        return store.name(own)

    def digest(self, position: int) -> bytes:
        """SHA-256 as in the member."""
        store, own = self._member(position)
        return store.digest(own)


def _read(path: Path) -> bytes:
    """The content of a regular file; a device or a pipe might never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file")
    return path.read_bytes()


def load_file(path: Path, *, position: int) -> Decoded:
    """The image file `path` as RGB. Raises BadImageError, naming it and `position`."""
    try:
        data = _read(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, position=position) from error
    return decode_image(data, position=position, name=lambda: str(path))


def digest_file(path: Path, *, position: int) -> bytes:
    """SHA-256 (32 bytes) of the content of `path`. Raises BadImageError, naming it and `position`."""
    try:
        return hashlib.sha256(_read(path)).digest()  # faster than file_digest, which clears 256 kB a file
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, position=position) from error


def _unreadable(path: Path, error: Exception, *, position: int) -> BadImageError:
    """The error for a file that the system does not open; a path with a NUL is a ValueError."""
    reason = error.strerror if isinstance(error, OSError) else error
    name = str(path)
    return bad_image(f"cannot be read: {reason}", position=position, name=name if name.isprintable() else repr(name))
