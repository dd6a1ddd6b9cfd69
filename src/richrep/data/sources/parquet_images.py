"""The image column of Parquet files as an image store: row groups are read when asked for, in bounded memory."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from richrep.data.decode import Decoded, bad_image, decode_image
from richrep.data.stores import digest_file, load_file
from richrep.errors import DatasetError

CACHE_BYTES = 2 << 30  # encoded images kept per store; CIFAR-10 takes 17 MB, 2 GiB hold about 20,000 photographs


def open_parquet(path: Path) -> Any:
    """The `pyarrow.parquet.ParquetFile` at `path`, memory-mapped; a context manager.

    Raises:
        DatasetError: the file cannot be read, or is damaged.
    """
    try:
        return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> DatasetError:
    """The error for a file that is not whole, with pyarrow's reason."""
    reason = " ".join(str(error).split())
    return DatasetError(f"{path} cannot be read as Parquet: {reason}. Is it complete? Fetch or write it again.")


@dataclass(frozen=True)
class _Column:
    """The images of a row group, null where there is none: two pyarrow.ChunkedArrays, or None without such a field."""

    data: Any
    paths: Any
    nbytes: int


def _split_column(column: Any) -> _Column:
    """A struct is taken apart once: picking the fields of every image costs as much as decoding a small one."""
    if not pa.types.is_struct(column.type):
        return _Column(column, None, column.nbytes)
    fields = dict(zip((field.name for field in column.type), column.flatten(), strict=True))  # a null struct: all null
    return _Column(fields.get("bytes"), fields.get("path"), column.nbytes)


class ParquetStore:
    """Encoded images in one column of one or more Parquet files, one after the other.

    An image is a struct of `bytes` and `path`, or plain binary. Where `bytes` is null, `path` names a file in the
    folder of the Parquet file; a path that leads out of that folder is refused.

    A row group is read whole when its first image is asked for, and kept as an Arrow column (no Python object per
    image) until newer ones fill CACHE_BYTES. A set larger than that is best read in the order of its rows.

    Args:
        files: the Parquet files.
        group_rows: for each of them, the number of rows of every row group.
        column: the name of the image column.
    """

    def __init__(self, files: Sequence[Path], group_rows: Sequence[Sequence[int]], *, column: str = "image") -> None:
        self._files = tuple(files)
        self._column_name = column
        self._file_starts = np.cumsum([0, *(sum(rows) for rows in group_rows)])
        self._groups = [(file, group) for file, rows in enumerate(group_rows) for group in range(len(rows))]
        self._group_starts = list(accumulate((count for rows in group_rows for count in rows), initial=0))
        self._columns: dict[int, _Column] = {}  # row group -> its images, the latest used last
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._file_starts[-1])

    def load(self, position: int) -> Decoded:
        """The image as RGB. Raises BadImageError when it is missing or cannot be decoded."""
        content = self._content(position)
        if isinstance(content, Path):
            return load_file(content, position=position)
        return decode_image(content, position=position, name=lambda: self.name(position))

    def name(self, position: int) -> str:
        """E.g. 'train.parquet row 17'; rows count from 0 in every file."""
        file = self._file_of(position)
        return f"{self._files[file].name} row {position - int(self._file_starts[file])}"

    def digest(self, position: int) -> bytes:
        """SHA-256 of the encoded image. Raises BadImageError when it is missing."""
        content = self._content(position)
        if isinstance(content, Path):
            return digest_file(content, position=position)
        return hashlib.sha256(content).digest()

    def _file_of(self, position: int) -> int:
        return int(np.searchsorted(self._file_starts, position, side="right")) - 1

    def _content(self, position: int) -> memoryview | Path:
        """The encoded image, a view into the Arrow column, or the file that holds it."""
        group = bisect_right(self._group_starts, position) - 1
        column, row = self._column(group), position - self._group_starts[group]
        data = column.data[row] if column.data is not None else None
        if data is not None and data.is_valid:
            return memoryview(data.as_buffer()).cast("B")  # pyarrow says signed bytes, which decoders refuse
        path = column.paths[row] if column.paths is not None else None
        if path is not None and path.is_valid:
            return self._file_inside(path.as_py(), position)
        raise bad_image("is null: it has neither bytes nor path", position=position, name=self.name(position))

    def _file_inside(self, path: str, position: int) -> Path:
        """The file `path` names, beside the Parquet file; `path` comes from outside and is not trusted."""
        for flavour in (PurePosixPath(path), PureWindowsPath(path)):
            if flavour.anchor or ".." in flavour.parts:
                raise bad_image(
                    f"has the path {path!r}, which leads out of the folder of its Parquet file. Store it as bytes",
                    position=position,
                    name=self.name(position),
                )
        return self._files[self._file_of(position)].parent / path

    def _column(self, group: int) -> _Column:
        """The image column of a row group, from the cache or the file."""
        with self._lock:
            column = self._columns.pop(group, None)
            if column is None:
                column = self._read_column(group)
                self._cached_bytes += column.nbytes
            self._columns[group] = column
            while self._cached_bytes > CACHE_BYTES and len(self._columns) > 1:
                self._cached_bytes -= self._columns.pop(next(iter(self._columns))).nbytes
        return column

    def _read_column(self, group: int) -> _Column:
        file, group_in_file = self._groups[group]
        with open_parquet(self._files[file]) as parquet:
            try:
                return _split_column(
                    parquet.read_row_group(group_in_file, columns=[self._column_name]).column(self._column_name)
                )
            except (pa.ArrowException, OSError) as error:
                raise damaged(self._files[file], error) from error
