"""`parquet:PATH`: Parquet files with columns `image` and `label`, the Hugging Face convention."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from richrep.data.sources.layout import (
    absolute,
    check_parts,
    folder_entries,
    is_folder,
    listing,
    make_dataset,
    part_named,
)
from richrep.data.sources.parquet_images import ParquetStore, damaged, open_parquet
from richrep.data.split import PARTS, Dataset, Split
from richrep.errors import DatasetError

# train.parquet, or a shard: train-00000-of-00002.parquet, train-00000-of-00002-0123456789abcdef.parquet
_FILE_NAME = re.compile(r"([A-Za-z]+)(?:-(\d+)-of-(\d+)(?:-[0-9a-f]+)?)?\.parquet")


def load(rest: str) -> Dataset:
    """The Parquet files of the folder `rest` (or of its `data` folder), or the one file `rest`.

    - Files: train, val (valid, validation) and test, each `PART.parquet` or all of its shards
      `PART-00000-of-00002.parquet`. Without test, and for one file, rows are split 80/20 per class by the fixed seed
      and interleaved by class, as for image folders; otherwise the order is that of the rows.
    - `image`: struct of `bytes` and `path`, or binary; see `ParquetStore`.
    - `label`: integers, with class names from the schema's `huggingface` metadata; without those, and for strings,
      the classes are the sorted distinct labels of train.

    Raises:
        DatasetError: a missing or damaged file, shard or column; a null label, or one without a class; no rows.

    Source: Hugging Face, "Create an image dataset" and "Structure your repository" (docs of datasets and hub).
    """
    path = absolute(rest)
    if os.path.isfile(path):
        name, files = f"{path.parent.name}-{path.stem}", {"train": [path]}
    else:
        name, files = path.name, _part_files(path)
        check_parts(files, where=path)
    return make_dataset(read_parts(files, name=name, where=str(path)), address=f"parquet:{rest}")


def read_parts(
    files: Mapping[str, Sequence[Path]], *, name: str, where: str, columns: tuple[str, str] = ("image", "label")
) -> dict[str, Split]:
    """The splits of the Parquet files of every part, in the order of their rows.

    Args:
        files: of train and, where stored, val and test; the shards in order.
        name: of the data set; where: what messages call the place.
        columns: the names of the image column and the label column.

    Raises:
        DatasetError: as `load`.
    """
    tables = {part: _read_table(part, files[part], columns) for part in PARTS if part in files}
    class_names, values = _classes(tables, where=where)
    return {part: _make_split(name, part, table, class_names, values) for part, table in tables.items()}


@dataclass(frozen=True, eq=False)
class _Table:
    """The rows of one part: images, labels (N,) as stored (int64, or object holding str), class names if written."""

    images: ParquetStore
    labels: np.ndarray
    class_names: tuple[str, ...] | None

    @property
    def has_text_labels(self) -> bool:
        return self.labels.dtype == object


def _part_files(root: Path) -> dict[str, list[Path]]:
    """The files of every part found in `root`, or else in `root/data`, shards in order."""
    entries = folder_entries(root)
    for folder in (root, root / "data"):
        found = _find_parts(folder) if os.path.isdir(folder) else {}
        if found:
            return {part: _check_shards(part, files) for part, files in found.items()}
    tables = [entry.name for entry in entries if entry.name.endswith(".parquet")]
    inside = [entry.name for entry in entries if is_folder(entry) and _find_parts(Path(entry.path))]
    hint = f" One file alone is read with parquet:{root / tables[0]}." if tables else ""
    hint += f" Its folder {inside[0]!r} holds such files: parquet:{root / inside[0]}." if inside else ""
    raise DatasetError(
        f"{root} holds no train.parquet or train-00000-of-00001.parquet, neither itself nor in data. "
        f"It holds {listing(entry.name for entry in entries) or 'nothing'}.{hint}"
    )


def _find_parts(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for entry in folder_entries(folder):
        match = _FILE_NAME.fullmatch(entry.name)
        part = part_named(match[1]) if match else None
        if part:
            found.setdefault(part, []).append(Path(entry.path))
    return found


def _check_shards(part: str, files: Sequence[Path]) -> list[Path]:
    """The files of one part in order: one whole file, or every shard exactly once."""
    shards = {}
    for path in files:
        match = _FILE_NAME.fullmatch(path.name)
        assert match
        shards[int(match[2] or 0), int(match[3] or 1)] = path
    counts = {count for _, count in shards}
    wanted = {(shard, count) for count in counts for shard in range(count)}
    if len(counts) > 1 or len(shards) < len(files):
        raise DatasetError(
            f"{files[0].parent} holds more than one set of files for the {part} part: "
            f"{listing(path.name for path in files)}. Keep one."
        )
    if set(shards) != wanted:
        missing = [f"{shard:05d}-of-{count:05d}" for shard, count in sorted(wanted - set(shards))]
        raise DatasetError(f"{files[0].parent} lacks shard {listing(missing)} of the {part} part. Fetch all shards.")
    return [shards[key] for key in sorted(shards)]


def _read_table(part: str, files: Sequence[Path], columns: tuple[str, str]) -> _Table:
    """Labels and layout of the files of one part; images stay on disk."""
    labels, group_rows, class_names = [], [], set()
    for path in files:
        with open_parquet(path) as parquet:
            _check_columns(path, parquet.schema_arrow, columns)
            metadata = parquet.metadata
            group_rows.append([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
            labels.append(_read_labels(path, parquet, columns[1]))
            class_names.add(_written_class_names(path, parquet.schema_arrow, columns[1]))
    if not sum(len(of_file) for of_file in labels):
        raise DatasetError(f"{files[0]} has no rows, so {part} holds no images. Write it again, or remove it.")
    if len(class_names) > 1:
        raise DatasetError(f"The shards of {part} in {files[0].parent} have different class names. Fetch them again.")
    kinds = {of_file.dtype for of_file in labels if len(of_file)}
    if len(kinds) > 1:
        raise DatasetError(f"The shards of {part} in {files[0].parent} have labels of different types, text and int.")
    stored = np.concatenate([of_file for of_file in labels if len(of_file)])
    return _Table(ParquetStore(files, group_rows, column=columns[0]), stored, class_names.pop())


def _check_columns(path: Path, schema: Any, columns: tuple[str, str]) -> None:
    image, label = columns
    if not {image, label} <= set(schema.names):
        raise DatasetError(
            f"{path} has the columns {listing(schema.names)}; wanted are {image!r} and {label!r}. Rename them."
        )
    kind = schema.field(image).type
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    is_struct = pa.types.is_struct(kind) and any(field.name in ("bytes", "path") for field in kind)
    if not (is_binary or is_struct):
        raise DatasetError(
            f"{path}: the column {image!r} is {kind}; wanted is a struct of bytes and path, or binary, holding encoded "
            "images (PNG, JPEG, …)."
        )


def _read_labels(path: Path, parquet: Any, name: str) -> np.ndarray:
    """(N,) int64, or object holding str, in the order of the rows."""
    try:
        column = parquet.read(columns=[name]).column(name)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        row = int(np.flatnonzero(pc.is_null(column).to_numpy())[0])
        raise DatasetError(f"{path} row {row}: the label is null. Give every image a label, or remove the row.")
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return np.asarray(column.cast(pa.int64()).to_numpy())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=object)
    raise DatasetError(f"{path}: the column {name!r} is {kind}; wanted are integers or strings, one class an image.")


def _written_class_names(path: Path, schema: Any, column: str) -> tuple[str, ...] | None:
    """The names of the ClassLabel `column` in the metadata that Hugging Face datasets writes, None without."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return None
    try:
        label = json.loads(raw)["info"]["features"].get(column)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path}: the schema's 'huggingface' metadata cannot be read as info.features ({error!r}), so the class "
            "names are not known. Write the file again, with that metadata or without."
        ) from error
    names = label.get("names") if isinstance(label, dict) else None
    return None if names is None else tuple(str(name) for name in names)


def _classes(tables: Mapping[str, _Table], *, where: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names (K) and, in the same order, the stored labels (K,) that mean them, ascending."""
    if len({table.has_text_labels for table in tables.values()}) > 1:
        kinds = ", ".join(f"{part}: {'text' if table.has_text_labels else 'int'}" for part, table in tables.items())
        raise DatasetError(f"{where}: the labels are of different types ({kinds}). Write them the same way.")
    train = tables["train"]
    _check_known(tables)
    written = {table.class_names for table in tables.values() if table.class_names is not None}
    if len(written) > 1:
        raise DatasetError(
            f"{where}: the class names in the metadata of {listing(tables)} differ. "
            "One number must mean one class; write the files again with the same names."
        )
    if written and not train.has_text_labels:
        names = written.pop()
        return names, np.arange(len(names))
    values = np.unique(train.labels)
    return tuple(str(value) for value in values), values


def _check_known(tables: Mapping[str, _Table]) -> None:
    """Raises DatasetError for a negative label: Hugging Face writes -1 where the makers publish no labels."""
    for part, table in tables.items():
        unknown = [] if table.has_text_labels else np.flatnonzero(table.labels < 0).tolist()
        if unknown:
            raise DatasetError(
                f"{table.images.name(unknown[0])}: the label is {table.labels[unknown[0]]}, which stands for a label "
                f"that is not known (rows of {part} with a negative label: {len(unknown)} of {len(table.labels)}). "
                "Hugging Face writes -1 in test parts that are published without labels: score another part in its "
                "place (hf:NAME?test=validation, or rename the files). Otherwise give every image its label, or remove "
                "the row."
            )


def _make_split(dataset: str, part: str, table: _Table, class_names: tuple[str, ...], values: np.ndarray) -> Split:
    """The split of a table, its stored labels replaced by their index among `values` (K,)."""
    labels = np.minimum(np.searchsorted(values, table.labels), len(values) - 1)  # (N,)
    wrong = np.flatnonzero(values[labels] != table.labels)
    if len(wrong):
        row = int(wrong[0])
        raise DatasetError(
            f"{table.images.name(row)}: label {table.labels[row : row + 1].tolist()[0]!r} is none of the "
            f"{len(class_names)} classes of {dataset}, {listing(class_names)} (rows of {part} with such a label: "
            f"{len(wrong)}). Correct the labels, or the class names."
        )
    return Split(
        dataset=dataset,
        part=part,
        images=table.images,
        positions=np.arange(len(labels)),
        labels=labels.astype(np.int64),
        class_names=class_names,
    )
