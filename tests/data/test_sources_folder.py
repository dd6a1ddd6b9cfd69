from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from richrep.data.datasets import load_dataset, load_split
from richrep.data.sources.folder import EXTENSIONS
from richrep.data.split import Dataset
from richrep.errors import BadImageError, DatasetError

Tree = Callable[..., Path]


def load(root: Path) -> Dataset:
    return load_dataset(f"folder:{root}")


def test_extensions_are_those_of_torchvision() -> None:
    assert EXTENSIONS == IMG_EXTENSIONS


def test_stored_parts_are_read_as_they_are(make_tree: Tree) -> None:
    counts = {"train/dog": 4, "train/cat": 3, "test/cat": 1, "test/dog": 2, "val/cat": 1}
    dataset = load(make_tree(counts))
    assert dataset.name == "pets" and dataset.train.class_names == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 1, 0, 1, 0, 1, 1]
    assert dataset.test.labels.tolist() == [0, 1, 1]
    assert dataset.val is not None and dataset.val.labels.tolist() == [0]
    assert (dataset.train.note, dataset.val.part, dataset.test.part) == ("", "val", "test")


def test_an_image_keeps_its_label_through_shuffling(make_tree: Tree, pixel: Callable[[Image.Image], int]) -> None:
    dataset = load(make_tree({"train/cat": 5, "train/dog": 5, "test/cat": 2, "test/dog": 2}))
    for row in range(10):  # grey values 0 … 4 are cats, 5 … 9 dogs
        value = pixel(dataset.train.load_image(row))
        assert value // 5 == dataset.train.labels[row]
        assert f"{value % 5:02d}.png" in dataset.train.image_name(row)
    assert sorted(pixel(dataset.test.load_image(row)) for row in range(4)) == [10, 11, 12, 13]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "TESTING")])
def test_names_of_parts(make_tree: Tree, train: str, val: str, test: str) -> None:
    dataset = load(make_tree({f"{p}/{c}": 2 for p in (train, val, test) for c in "ab"}))
    assert dataset.val is not None
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (4, 4, 4)


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_without_a_test_part_a_fifth_of_every_class_is_split_off(make_tree: Tree, prefix: str) -> None:
    dataset = load(make_tree({f"{prefix}cat": 10, f"{prefix}dog": 5}))
    assert np.bincount(dataset.test.labels).tolist() == [2, 1]
    assert np.bincount(dataset.train.labels).tolist() == [8, 4]
    assert set(dataset.train.positions).isdisjoint(dataset.test.positions)
    assert dataset.train.note == dataset.test.note == "split 80/20 per class, seed 0"
    assert dataset.train.labels.tolist() == [0, 1] * 4 + [0] * 4
    assert dataset.val is None


def test_equal_content_in_another_folder_has_the_same_fingerprint(make_tree: Tree) -> None:
    counts = {"train/cat": 4, "train/dog": 4, "test/cat": 2, "test/dog": 2}
    one = load(make_tree(counts, name="one"))
    other = load(make_tree(dict(reversed(counts.items())), name="two"))
    assert one.train.fingerprint != other.train.fingerprint  # grey values follow the order of writing: other images
    shutil.rmtree(Path(other.train.image_name(0)).parents[2])
    shutil.copytree(Path(one.train.image_name(0)).parents[2], Path(other.train.image_name(0)).parents[2])
    again = load(Path(other.train.image_name(0)).parents[2])
    assert (again.train.fingerprint, again.test.fingerprint) == (one.train.fingerprint, one.test.fingerprint)


def test_a_renamed_class_changes_the_fingerprint(make_tree: Tree) -> None:
    root = make_tree({"cat": 4, "dog": 4})
    before = load(root).train.fingerprint
    (root / "dog").rename(root / "wolf")
    assert load(root).train.fingerprint != before


def test_nested_files_count_and_hidden_and_other_files_do_not(make_tree: Tree, png: Callable[..., bytes]) -> None:
    root = make_tree({"a": 3, "b": 3})
    (root / "a" / "deep" / "er").mkdir(parents=True)
    (root / "a" / "deep" / "er" / "x.PNG").write_bytes(png(9))
    for stray in (".hidden.png", "Thumbs.db", "notes.txt"):
        (root / "b" / stray).write_bytes(png(9))
    (root / "b" / ".cache").mkdir()
    (root / "b" / ".cache" / "x.png").write_bytes(png(9))
    (root / ".git").mkdir()
    (root / "loose.png").write_bytes(png(9))
    dataset = load(root)
    counts = np.bincount(dataset.train.labels) + np.bincount(dataset.test.labels)
    assert dataset.train.class_names == ("a", "b") and counts.tolist() == [4, 3]


def test_a_class_named_as_a_part_gets_a_hint(make_tree: Tree) -> None:
    root = make_tree({"train": 2, "bus": 2, "car": 2})
    with pytest.raises(DatasetError, match=r"If 'train' is a class and not a part, put it and the others into train\."):
        load(root)
    (root / "all").mkdir()
    for name in ("train", "bus", "car"):
        (root / name).rename(root / "all" / name)
    (root / "all").rename(root / "train")
    assert load(root).train.class_names == ("bus", "car", "train")


@pytest.mark.parametrize("stray", ["__MACOSX", "@eaDir", "lost+found", ".ipynb_checkpoints"])
def test_folders_that_archives_and_servers_add_are_no_classes(
    make_tree: Tree, png: Callable[..., bytes], stray: str
) -> None:
    root = make_tree({"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    (root / "train" / stray / "a").mkdir(parents=True)
    (root / "train" / stray / "a" / "._00.png").write_bytes(png(9))
    (root / "train" / stray / "a" / "thumb.png").write_bytes(png(9))
    (root / "train" / ".DS_Store").write_bytes(b"Bud1")
    dataset = load(root)
    assert dataset.train.class_names == ("a", "b") and len(dataset.train) == 4


def test_folders_of_folders_are_classes_but_it_is_said(make_tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    root = make_tree({"a/abbey": 2, "a/airport": 2, "b/barn": 3, "b/bar": 3})
    assert load(root).train.class_names == ("a", "b")
    assert "its 2 folders hold no images but 4 folders of images, e.g. 'a/abbey'." in caplog.text
    caplog.clear()
    load(make_tree({"a": 3, "a/close": 2, "b": 3}, name="mixed"))
    load(make_tree({"a/images": 3, "b/images": 3}, name="padded"))
    assert not caplog.text


@pytest.mark.parametrize("name", ["x.JPG", "x.jpeg", "x.bmp", "x.webp", "x.tiff", "x.PPM"])
def test_every_listed_format_is_read(make_tree: Tree, name: str) -> None:
    root = make_tree({"train/a": 1, "train/b": 1, "test/a": 1})
    (root / "train" / "a" / "00.png").unlink()
    Image.new("RGB", (4, 4), (250, 0, 0)).save(root / "train" / "a" / name)
    pixels = np.asarray(load_split(f"folder:{root}", "train").load_image(0))
    assert pixels[0, 0, 0] > 240 and pixels[0, 0, 1] < 10


def test_symbolic_links_are_followed_but_not_in_a_circle(make_tree: Tree, tmp_path: Path) -> None:
    make_tree({"a": 3, "b": 3}, name="real")
    root = make_tree({"c": 3}, name="linked")
    (root / "a").symlink_to(tmp_path / "real" / "a")
    (root / "c" / "link.png").symlink_to(tmp_path / "real" / "b" / "00.png")
    dataset = load(root)
    assert dataset.train.class_names == ("a", "c")
    assert len(dataset.train) + len(dataset.test) == 3 + 4
    (root / "c" / "round").symlink_to(root / "c")
    with pytest.raises(DatasetError, match=r"linked/c/round is a symbolic link to a folder around it"):
        load(root)


def test_a_link_to_nowhere_is_reported_when_read(make_tree: Tree, tmp_path: Path) -> None:
    root = make_tree({"train/a": 1, "train/b": 1, "test/a": 1})
    (root / "train" / "b" / "00.png").unlink()
    (root / "train" / "b" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "test" / "a" / "self.png").symlink_to(root / "test" / "a" / "self.png")
    split = load(root).train
    with pytest.raises(BadImageError, match=r"image 1 \(.*test/a/self.png\) cannot be read"):
        load(root).test.images.load(1)
    with pytest.raises(BadImageError, match=r"image 1 \(.*train/b/gone.jpg\) cannot be read"):
        split.load_image(1)


def test_a_corrupt_image_is_named_with_its_path(make_tree: Tree) -> None:
    root = make_tree({"train/a": 1, "train/b": 1, "test/a": 1})
    (root / "train" / "b" / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(BadImageError, match=r"image 1 \(.*pets/train/b/00\.png\) cannot be decoded"):
        load(root).train.load_image(1)


def test_a_relative_path_and_the_home_directory_work(make_tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_tree({"a": 3, "b": 3})
    monkeypatch.chdir(root.parent)
    monkeypatch.setenv("HOME", str(root.parent))
    fingerprints = {load_dataset(f"folder:{path}").train.fingerprint for path in ("pets", "./pets/", "~/pets", root)}
    assert len(fingerprints) == 1
    monkeypatch.chdir(root)
    assert load_dataset("folder:.").name == "pets"


def test_a_missing_directory_is_named_with_its_full_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=rf"{tmp_path}/absent does not exist"):
        load_dataset("folder:absent")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="file is a file, not a folder"):
        load_dataset("folder:file")


def test_a_directory_without_images_is_an_error(make_tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"pets holds no images in its folders 'a', 'b'.*\.jpg"):
        load(make_tree({"a": 0, "b": 0}))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DatasetError, match=r"nothing holds no images. Expected CLASS/\*"):
        load(tmp_path / "nothing")


def test_images_without_class_folders_are_an_error(make_tree: Tree) -> None:
    with pytest.raises(DatasetError, match=r"train holds 3 images but no class folders"):
        load(make_tree({"train": 3, "test/a": 1}))


def test_a_folder_of_parquet_files_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").touch()
    with pytest.raises(DatasetError, match="use parquet:PATH"):
        load(tmp_path)


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_empty_class_is_named(make_tree: Tree, part: str) -> None:
    counts = {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1} | {f"{part}/dog": 0}
    with pytest.raises(DatasetError, match=rf"pets/{part} has an empty class: no images in 'dog'"):
        load(make_tree(counts))


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_outside_train_is_named(make_tree: Tree, part: str) -> None:
    counts = {"train/cat": 2, "train/dog": 2, "val/cat": 1, "test/cat": 1} | {f"{part}/wolf": 1}
    with pytest.raises(DatasetError, match=rf"{part} holds the class 'wolf', of which train has no folder"):
        load(make_tree(counts))


def test_val_is_never_taken_for_test(make_tree: Tree) -> None:
    with pytest.raises(DatasetError, match=r"pets stores train and val but no test part.*rename it to 'test'"):
        load(make_tree({"train/a": 2, "train/b": 2, "val/a": 1}))


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_missing_train_part_is_an_error(make_tree: Tree, part: str) -> None:
    with pytest.raises(DatasetError, match=rf"pets stores '{part}' but no train part"):
        load(make_tree({f"{part}/a": 2}))


def test_two_folders_for_one_part_are_an_error(make_tree: Tree) -> None:
    with pytest.raises(DatasetError, match="holds both 'val' and 'valid'"):
        load(make_tree({"train/a": 1, "val/a": 1, "valid/a": 1, "test/a": 1}))


def test_one_class_is_not_a_classification_data_set(make_tree: Tree) -> None:
    with pytest.raises(DatasetError, match=r"has one class, 'images'.*give that folder instead"):
        load(make_tree({"images/cat": 3, "images/dog": 3}))


def test_one_image_per_class_leaves_nothing_for_test(make_tree: Tree) -> None:
    with pytest.raises(DatasetError, match=r"pets stores no test part.*its 2 images are of 2 different classes"):
        load(make_tree({"a": 1, "b": 1}))


def test_a_thousand_files_keep_their_order_and_fingerprint(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(500):
            (tmp_path / label / f"{i}.jpg").touch()
    first, again = load(tmp_path).train, load(tmp_path).train
    assert (first.positions == again.positions).all() and first.fingerprint == again.fingerprint
