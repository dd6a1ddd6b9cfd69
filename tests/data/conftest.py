"""Small data sets on disk that the tests of data sources share."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


def encoded(colour: int, *, size: int = 4) -> bytes:
    """A PNG of one grey value; different values give different bytes."""
    buffer = io.BytesIO()
    Image.new("L", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def png() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[..., Path]:
    """make_tree({"train/cat": 3}): three PNG files in `train/cat`, every file of the tree with its own grey value."""

    def make(counts: dict[str, int], *, name: str = "pets") -> Path:
        root = tmp_path / name
        colour = 0
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True)
            for i in range(count):
                (root / folder / f"{i:02d}.png").write_bytes(encoded(colour))
                colour += 1
        return root

    return make


@pytest.fixture
def write_parquet() -> Callable[..., Path]:
    """write_parquet(path, labels, …): a Parquet file whose image i is grey value i, or the given column `images`."""

    def write(
        path: Path,
        labels: Any,
        *,
        images: Any = None,
        class_names: list[str] | None = None,
        columns: dict[str, str] | None = None,
        row_group_size: int | None = None,
        start: int = 0,
    ) -> Path:
        if images is None:
            images = [{"bytes": encoded(start + i), "path": f"{i}.png"} for i in range(len(labels))]
        table = pa.table({"image": images, "label": labels})
        if columns:
            table = table.rename_columns([columns.get(name, name) for name in table.column_names])
        if class_names is not None:
            features = {"image": {"_type": "Image"}, "label": {"names": class_names, "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=row_group_size)
        return path

    return write


@pytest.fixture
def shared_data() -> Path:
    """The real data sets beside the checkout; absent outside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data sets of ../shared/data are not on this machine")
    return SHARED_DATA


@pytest.fixture
def pixel() -> Callable[[Image.Image], int]:
    """The grey value of the top left pixel: which image of `make_tree` or `write_parquet` this is."""
    return lambda image: int(np.asarray(image)[0, 0, 0])
