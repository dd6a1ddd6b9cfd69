from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from richrep.data.datasets import load_split
from richrep.data.verify import find_bad_images


@pytest.mark.parametrize("num_workers", [0, 1, 4, None])
def test_every_image_that_cannot_be_decoded_is_found_in_order(
    make_tree: Callable[..., Path], num_workers: int | None
) -> None:
    root = make_tree({"train/a": 100, "train/b": 100, "test/a": 1})
    (root / "train" / "a" / "07.png").write_bytes(b"no image")
    (root / "train" / "b" / "99.png").write_bytes(b"")
    split = load_split(f"folder:{root}", "train")
    done: list[int] = []
    bad = find_bad_images(split, num_workers=num_workers, progress=done.append)
    rows = [row for row in range(200) if split.image_name(row).endswith(("a/07.png", "b/99.png"))]
    assert [split.image_name(row) in reason for row, reason in zip(rows, bad, strict=True)] == [True, True]
    assert sum(done) == 200 and all(step <= 64 for step in done)


def test_a_whole_split_has_no_bad_images() -> None:
    assert find_bad_images(load_split("digits", "test")) == []
