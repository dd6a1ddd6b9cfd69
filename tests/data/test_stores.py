from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from richrep.data.decode import as_image
from richrep.data.stores import ArrayStore, FileStore, JoinedStore
from richrep.errors import BadImageError


def test_array_store_gives_rgb_from_colour_and_from_grey() -> None:
    colour = ArrayStore(np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), source="toy")
    assert np.asarray(colour.load(1)).tolist() == [[[12, 13, 14], [15, 16, 17]], [[18, 19, 20], [21, 22, 23]]]
    grey = ArrayStore(np.full((3, 2, 2), 9, dtype=np.uint8), source="toy")
    assert (len(grey), np.asarray(grey.load(2))[0, 0].tolist(), grey.name(2)) == (3, [9, 9, 9], "toy image 2")


def test_array_digests_cover_pixels_and_shape() -> None:
    pixels = np.zeros((1, 2, 8), dtype=np.uint8)
    store = ArrayStore(pixels, source="a")
    assert store.digest(0) == hashlib.sha256(b"uint8 (2, 8)\n" + bytes(16)).digest()
    assert store.digest(0) != ArrayStore(pixels.reshape(1, 4, 4), source="a").digest(0)
    assert store.digest(0) == ArrayStore(pixels, source="b").digest(0)


@pytest.mark.parametrize("pixels", [np.zeros((2, 4, 4), dtype=np.float32), np.zeros((2, 4, 4, 4), dtype=np.uint8)])
def test_array_store_refuses_other_types_and_shapes(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=rf"pixels must be uint8 .* got {pixels.dtype} .* for toy"):
        ArrayStore(pixels, source="toy")


def test_file_store_reads_files_and_digests_their_bytes(tmp_path: Path, png: Callable[..., bytes]) -> None:
    (tmp_path / "a.png").write_bytes(png(5))
    store = FileStore(tmp_path, ["a.png"])
    assert (len(store), store.name(0), np.asarray(store.load(0))[0, 0, 0]) == (1, str(tmp_path / "a.png"), 5)
    assert store.digest(0) == hashlib.sha256(png(5)).digest()


def test_file_store_names_a_damaged_and_a_missing_file(tmp_path: Path, png: Callable[..., bytes]) -> None:
    (tmp_path / "cut.png").write_bytes(png(5)[:-20])
    (tmp_path / "empty.png").write_bytes(b"")
    store = FileStore(tmp_path, ["cut.png", "empty.png", "gone.png"])
    with pytest.raises(BadImageError, match=r"image 0 \(.*cut\.png\) cannot be decoded"):
        store.load(0)
    with pytest.raises(BadImageError, match=r"image 1 \(.*empty\.png\) is empty \(0 bytes\)"):
        store.load(1)
    for read in (store.load, store.digest):
        with pytest.raises(BadImageError, match=r"image 2 \(.*gone\.png\) cannot be read: No such file"):
            read(2)
    assert len(store.digest(1)) == 32  # a damaged file still has bytes, so the split still has a fingerprint


def test_joined_store_continues_with_the_second_member() -> None:
    first = ArrayStore(np.full((2, 1, 1), 1, dtype=np.uint8), source="train")
    second = ArrayStore(np.full((3, 1, 1), 2, dtype=np.uint8), source="val")
    joined = JoinedStore(first, second)
    assert len(joined) == 5
    assert [np.asarray(joined.load(i))[0, 0, 0] for i in range(5)] == [1, 1, 2, 2, 2]
    assert [joined.name(i) for i in (1, 2, 4)] == ["train image 1", "val image 0", "val image 2"]
    assert joined.digest(1) == first.digest(1) and joined.digest(2) == second.digest(0)


def test_images_of_any_store_become_pillow_images(tmp_path: Path, png: Callable[..., bytes]) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    Image.new("L", (4, 4)).save(tmp_path / "b.jpg")
    stores = [ArrayStore(np.zeros((1, 4, 4), dtype=np.uint8), source="x"), FileStore(tmp_path, ["a.png", "b.jpg"])]
    for store in stores:
        for position in range(len(store)):
            image = as_image(store.load(position))
            assert (image.mode, image.size) == ("RGB", (4, 4))


def test_a_device_is_not_read_for_ever() -> None:
    store = FileStore(Path("/dev"), ["zero"])
    with pytest.raises(BadImageError, match=r"\(/dev/zero\) cannot be read: it is no regular file"):
        store.load(0)
    with pytest.raises(BadImageError, match=r"\(/dev/zero\) cannot be read: it is no regular file"):
        store.digest(0)


@pytest.mark.parametrize("shape", [(5, 4, 6, 3), (5, 4, 6)])
def test_pixels_of_several_images_are_those_of_each(shape: tuple[int, ...]) -> None:
    store = ArrayStore(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), source="test")
    assert store.size_px == (4, 6)
    together = store.load_pixels(np.array([3, 0, 3]))
    np.testing.assert_array_equal(together, [np.asarray(store.load(position)) for position in (3, 0, 3)])
