from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from richrep.data.datasets import load_dataset
from richrep.data.sources import parquet_images
from richrep.data.split import Dataset, Split
from richrep.errors import BadImageError, DatasetError

Write = Callable[..., Path]
Pixel = Callable[[Image.Image], int]


def load(path: Path) -> Dataset:
    return load_dataset(f"parquet:{path}")


@pytest.fixture
def whole(tmp_path: Path, write_parquet: Write) -> Path:
    """A folder with train (6 rows), val (2) and test (4) and written class names."""
    root = tmp_path / "pets"
    names = ["cat", "dog"]
    write_parquet(root / "train.parquet", [1, 0, 0, 1, 0, 1], class_names=names, row_group_size=2)
    write_parquet(root / "val.parquet", [0, 1], class_names=names, start=10)
    write_parquet(root / "test.parquet", [0, 1, 1, 1], class_names=names, start=20)
    return root


def values(split: Split, pixel: Pixel) -> list[int]:
    return [pixel(split.load_image(row)) for row in range(len(split))]


def test_stored_parts_keep_the_order_of_their_rows(whole: Path, pixel: Pixel) -> None:
    dataset = load(whole)
    assert dataset.name == "pets" and dataset.val is not None
    assert dataset.train.class_names == ("cat", "dog") and dataset.train.note == ""
    assert dataset.train.labels.tolist() == [1, 0, 0, 1, 0, 1]
    assert values(dataset.train, pixel) == [0, 1, 2, 3, 4, 5]
    assert values(dataset.val, pixel) == [10, 11]
    assert values(dataset.test, pixel) == [20, 21, 22, 23]


@pytest.mark.parametrize("name", ["valid.parquet", "validation.parquet", "validation-00000-of-00001.parquet"])
def test_other_names_of_val(whole: Path, name: str) -> None:
    (whole / "val.parquet").rename(whole / name)
    val = load(whole).val
    assert val is not None and len(val) == 2


def test_digest_is_that_of_the_encoded_bytes(whole: Path, png: Callable[..., bytes]) -> None:
    images = load(whole).train.images
    assert images.digest(3) == hashlib.sha256(png(3)).digest()


def test_shards_are_joined_in_order_and_rows_count_in_every_file(
    tmp_path: Path, write_parquet: Write, pixel: Pixel
) -> None:
    root = tmp_path / "shards"
    write_parquet(root / "data" / "train-00001-of-00002.parquet", [0, 1, 0], start=3, row_group_size=1)
    write_parquet(root / "data" / "train-00000-of-00002.parquet", [1, 0, 1], row_group_size=2)
    write_parquet(root / "data" / "test-00000-of-00001-0123456789abcdef.parquet", [0, 1], start=9)
    dataset = load(root)
    assert dataset.train.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert values(dataset.train, pixel) == [0, 1, 2, 3, 4, 5]
    assert dataset.train.image_name(2) == "train-00000-of-00002.parquet row 2"
    assert dataset.train.image_name(4) == "train-00001-of-00002.parquet row 1"
    assert values(dataset.test, pixel) == [9, 10]


def test_shards_and_one_file_with_the_same_rows_have_the_same_fingerprint(tmp_path: Path, write_parquet: Write) -> None:
    for root, files in (("one", {"train": (0, 4)}), ("two", {"train-0-of-2": (0, 1), "train-1-of-2": (1, 4)})):
        for name, (start, stop) in files.items():
            write_parquet(tmp_path / root / f"{name}.parquet", ([0, 1] * 2)[start:stop], start=start)
        write_parquet(tmp_path / root / "test.parquet", [0, 1], start=7)
    assert load(tmp_path / "one").train.fingerprint == load(tmp_path / "two").train.fingerprint


def test_a_missing_shard_is_named(tmp_path: Path, write_parquet: Write) -> None:
    for shard in (0, 2):
        write_parquet(tmp_path / f"train-0000{shard}-of-00003.parquet", [0, 1])
    with pytest.raises(DatasetError, match="lacks shard '00001-of-00003' of the train part"):
        load(tmp_path)


@pytest.mark.parametrize("second", ["train-00000-of-00001.parquet", "train-00000-of-00002.parquet", "Training.parquet"])
def test_two_sets_of_files_for_one_part_are_an_error(tmp_path: Path, write_parquet: Write, second: str) -> None:
    for name in ("train.parquet", second):
        write_parquet(tmp_path / name, [0, 1])
    with pytest.raises(DatasetError, match=rf"more than one set of files for the train part: .*'{second}'"):
        load(tmp_path)


@pytest.mark.parametrize("as_folder", [True, False])
def test_one_table_is_split_by_the_seed_like_image_folders(
    tmp_path: Path, write_parquet: Write, pixel: Pixel, as_folder: bool
) -> None:
    path = write_parquet(tmp_path / "pets" / "train.parquet", [0] * 10 + [1] * 5)
    dataset = load(path.parent if as_folder else path)
    assert dataset.name == ("pets" if as_folder else "pets-train")
    assert np.bincount(dataset.test.labels).tolist() == [2, 1]
    assert dataset.train.labels.tolist() == [0, 1] * 4 + [0] * 4
    assert dataset.train.note == dataset.test.note == "split 80/20 per class, seed 0"
    assert sorted(values(dataset.train, pixel) + values(dataset.test, pixel)) == list(range(15))
    assert all((v >= 10) == label for v, label in zip(values(dataset.test, pixel), dataset.test.labels, strict=True))


def test_one_row_per_class_leaves_nothing_for_test(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, 2])
    with pytest.raises(DatasetError, match=r"stores no test part.*its 3 images are of 3 different classes"):
        load(tmp_path)


def test_val_is_never_taken_for_test(whole: Path) -> None:
    (whole / "test.parquet").unlink()
    with pytest.raises(DatasetError, match="stores train and val but no test part"):
        load(whole)


def test_a_missing_train_file_is_an_error(whole: Path) -> None:
    (whole / "train.parquet").unlink()
    with pytest.raises(DatasetError, match="pets stores 'test', 'val' but no train part"):
        load(whole)


@pytest.mark.parametrize(
    ("stored", "names", "labels"),
    [
        (pa.array([5, 3, 5, 9]), ("3", "5", "9"), [1, 0, 1, 2]),
        (pa.array([1, 0, 1, 2], pa.uint8()), ("0", "1", "2"), [1, 0, 1, 2]),
        (pa.array([True, False, True, True]), ("0", "1"), [1, 0, 1, 1]),
        (pa.array(["dog", "cat", "dog", "Ant"]), ("Ant", "cat", "dog"), [2, 1, 2, 0]),
        (pa.array(["b", "a", "b", "b"], pa.large_string()), ("a", "b"), [1, 0, 1, 1]),
        (pa.array(["b", "a", "b", "b"]).dictionary_encode(), ("a", "b"), [1, 0, 1, 1]),
    ],
)
def test_classes_without_written_names_are_the_sorted_labels(
    tmp_path: Path, write_parquet: Write, stored: Any, names: tuple[str, ...], labels: list[int]
) -> None:
    write_parquet(tmp_path / "train.parquet", stored)
    write_parquet(tmp_path / "test.parquet", stored.slice(0, 2), start=50)
    dataset = load(tmp_path)
    assert dataset.train.class_names == names
    assert dataset.train.labels.tolist() == labels and dataset.test.labels.tolist() == labels[:2]


def test_written_class_names_keep_classes_without_images(tmp_path: Path, write_parquet: Write) -> None:
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", [0, 2, 2, 0], class_names=["a", "b", "c"])
    dataset = load(tmp_path)
    assert dataset.train.num_classes == 3 and dataset.train.labels.tolist() == [0, 2, 2, 0]


def test_a_label_outside_the_class_names_is_named_with_its_row(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, 2, 0], class_names=["a", "b"])
    with pytest.raises(DatasetError, match=r"train\.parquet row 2: label 2 is none of the 2 classes of .*, 'a', 'b'"):
        load(tmp_path)


def test_a_label_that_train_lacks_is_named(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "train.parquet", ["cat", "dog"])
    write_parquet(tmp_path / "test.parquet", ["cat", "wolf", "zebra"])
    with pytest.raises(
        DatasetError, match=r"test\.parquet row 1: label 'wolf' is none of the 2 classes .* 'cat', 'dog' .* label: 2"
    ):
        load(tmp_path)


def test_a_named_class_with_images_in_test_only_is_an_error(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], class_names=["a", "b", "c"])
    write_parquet(tmp_path / "test.parquet", [0, 2], class_names=["a", "b", "c"])
    with pytest.raises(DatasetError, match="test holds images of 'c', of which train has none"):
        load(tmp_path)


def test_different_class_names_in_two_parts_are_an_error(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], class_names=["a", "b"])
    write_parquet(tmp_path / "test.parquet", [0, 1], class_names=["b", "a"])
    with pytest.raises(DatasetError, match="class names in the metadata of 'train', 'test' differ"):
        load(tmp_path)


def test_different_class_names_or_label_types_in_two_shards_are_an_error(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "train-0-of-2.parquet", [0, 1], class_names=["a", "b"])
    write_parquet(tmp_path / "train-1-of-2.parquet", [0, 1], class_names=["b", "a"])
    with pytest.raises(DatasetError, match=r"shards of train .* different class names"):
        load(tmp_path)
    write_parquet(tmp_path / "train-0-of-2.parquet", [0, 1])
    write_parquet(tmp_path / "train-1-of-2.parquet", ["0", "1"])
    with pytest.raises(DatasetError, match=r"shards of train .* labels of different types"):
        load(tmp_path)


def test_different_label_types_in_two_parts_are_an_error(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1])
    write_parquet(tmp_path / "test.parquet", ["0", "1"])
    with pytest.raises(DatasetError, match=r"different types \(train: int, test: text\)"):
        load(tmp_path)


def test_metadata_that_cannot_be_read_is_an_error_and_metadata_without_names_is_not(tmp_path: Path, png: Any) -> None:
    table = pa.table({"image": [png(0), png(1)], "label": [0, 1]})
    for metadata in ("not JSON", '{"info": {}}', "[1]"):
        pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "train.parquet")
        with pytest.raises(DatasetError, match=r"train.parquet: the schema's 'huggingface' metadata cannot be read"):
            load(tmp_path)
    for label in ({}, {"label": {"dtype": "int64", "_type": "Value"}}):
        info = json.dumps({"info": {"features": label}})
        pq.write_table(table.replace_schema_metadata({"huggingface": info}), tmp_path / "train.parquet")
        pq.write_table(table, tmp_path / "test.parquet")
        assert load(tmp_path).train.class_names == ("0", "1")


def test_a_null_label_is_named_with_its_row(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, None])
    with pytest.raises(DatasetError, match=r"train\.parquet row 2: the label is null"):
        load(tmp_path)


def test_labels_of_another_type_are_refused(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "train.parquet", [0.5, 1.0])
    with pytest.raises(DatasetError, match="the column 'label' is double; wanted are integers or strings"):
        load(tmp_path)


@pytest.mark.parametrize(("column", "other"), [("image", "img"), ("label", "fine_label")])
def test_missing_columns_are_named_with_those_found(
    tmp_path: Path, write_parquet: Write, column: str, other: str
) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], columns={column: other})
    with pytest.raises(DatasetError, match=rf"has the columns .*'{other}'.*; wanted are 'image' and 'label'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("images", "kind"), [([1, 2], "int64"), ([[1], [2]], "list"), ([{"x": 1}, {"x": 2}], "struct")]
)
def test_an_image_column_of_another_type_is_refused(
    tmp_path: Path, write_parquet: Write, images: list[Any], kind: str
) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], images=images)
    with pytest.raises(DatasetError, match=rf"the column 'image' is {kind}.*wanted is a struct of bytes and path"):
        load(tmp_path)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_images_may_be_plain_binary(tmp_path: Path, write_parquet: Write, png: Any, pixel: Pixel, kind: Any) -> None:
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", [0, 1], images=pa.array([png(3), png(4)], kind))
    train = load(tmp_path).train
    assert values(train, pixel) == [3, 4]
    assert train.images.digest(1) == hashlib.sha256(png(4)).digest()


@pytest.mark.parametrize("as_struct", [True, False])
def test_jpegs_do_not_take_the_long_way_over_pillow(tmp_path: Path, write_parquet: Write, as_struct: bool) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (90, 90, 90)).save(buffer, "JPEG")
    data = buffer.getvalue()
    split = write_images(tmp_path, write_parquet, 2 * [{"bytes": data, "path": "a.jpg"} if as_struct else data])
    pixels = split.load_decoded(0)
    assert isinstance(pixels, np.ndarray) and (pixels == 90).all()


def write_images(tmp_path: Path, write_parquet: Write, images: list[Any]) -> Split:
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", [0, 1], images=images)
    return load(tmp_path).train


def test_an_image_without_bytes_is_read_from_its_path(
    tmp_path: Path, write_parquet: Write, png: Any, pixel: Pixel
) -> None:
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "a.png").write_bytes(png(8))
    stored = {"bytes": png(7), "path": "elsewhere/b.png"}  # a path beside bytes is only a name
    split = write_images(tmp_path, write_parquet, [{"bytes": None, "path": "pics/a.png"}, stored])
    assert values(split, pixel) == [8, 7]
    assert split.images.digest(0) == hashlib.sha256(png(8)).digest()


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "/etc/passwd", "..\\secret.png", "C:\\x.png"])
def test_a_path_that_leads_out_of_the_folder_is_refused(
    tmp_path: Path, write_parquet: Write, png: Any, path: str
) -> None:
    (tmp_path / "secret.png").write_bytes(png(0))
    split = write_images(tmp_path / "set", write_parquet, [{"bytes": None, "path": path}] * 2)
    for read in (split.load_image, split.images.digest):
        with pytest.raises(BadImageError, match=r"image 0 \(train.parquet row 0\) has the path .* leads out of"):
            read(0)


def test_missing_and_null_images_are_named(tmp_path: Path, write_parquet: Write) -> None:
    images = [{"bytes": None, "path": "gone.png"}, {"bytes": None, "path": None}]
    split = write_images(tmp_path, write_parquet, images)
    with pytest.raises(BadImageError, match=r"image 0 \(.*gone\.png\) cannot be read: No such file"):
        split.load_image(0)
    for second in (images[1], None):
        split = write_images(tmp_path, write_parquet, [images[0], second])
        with pytest.raises(BadImageError, match=r"image 1 \(train\.parquet row 1\) is null: it has neither bytes nor"):
            split.load_image(1)


def test_a_corrupt_and_an_empty_image_are_named_with_their_row(tmp_path: Path, write_parquet: Write, png: Any) -> None:
    images = [{"bytes": png(1)[:-25], "path": None}, {"bytes": b"", "path": None}]
    split = write_images(tmp_path, write_parquet, images)
    with pytest.raises(BadImageError, match=r"^image 0 \(train\.parquet row 0\) cannot be decoded: "):
        split.load_image(0)
    with pytest.raises(BadImageError, match=r"^image 1 \(train\.parquet row 1\) is empty"):
        split.load_image(1)
    assert len(split.fingerprint) == 64


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.99])
def test_a_truncated_file_is_named(whole: Path, kept: float) -> None:
    path = whole / "train.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
    with pytest.raises(DatasetError, match=r"pets/train\.parquet cannot be read as Parquet: .*Is it complete"):
        load(whole)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("image,label\n" * 10)
    with pytest.raises(DatasetError, match=r"x\.csv cannot be read as Parquet"):
        load(tmp_path / "x.csv")


def test_damage_inside_the_image_column_is_found_when_it_is_read(
    tmp_path: Path, write_parquet: Write, png: Any
) -> None:
    path = write_parquet(tmp_path / "train.parquet", [0, 1], images=pa.array([png(1), png(2)]))
    write_parquet(tmp_path / "test.parquet", [0, 1])
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 20] = b"\xff" * 20
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match=r"train\.parquet cannot be read as Parquet"):
        load(tmp_path).train.load_image(0)


def test_a_table_without_rows_is_an_error(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "train.parquet", pa.array([], pa.int64()), images=pa.array([], pa.binary()))
    with pytest.raises(DatasetError, match=r"train\.parquet has no rows, so train holds no images"):
        load(tmp_path)


def test_an_empty_shard_is_passed_over(tmp_path: Path, write_parquet: Write, pixel: Pixel) -> None:
    write_parquet(tmp_path / "train-0-of-3.parquet", [0], row_group_size=1)
    write_parquet(tmp_path / "train-1-of-3.parquet", pa.array([], pa.int64()), images=pa.array([], pa.binary()))
    write_parquet(tmp_path / "train-2-of-3.parquet", [1], start=5)
    write_parquet(tmp_path / "test.parquet", [0, 1])
    train = load(tmp_path).train
    assert values(train, pixel) == [0, 5] and train.image_name(1) == "train-2-of-3.parquet row 0"


def test_a_missing_folder_and_one_without_the_files_are_named(tmp_path: Path, write_parquet: Write) -> None:
    with pytest.raises(DatasetError, match=rf"{tmp_path}/absent does not exist"):
        load(tmp_path / "absent")
    with pytest.raises(DatasetError, match=r"holds no train\.parquet .*It holds nothing\.$"):
        load(tmp_path)
    write_parquet(tmp_path / "photo.parquet", [0, 1])
    (tmp_path / "README.md").touch()
    with pytest.raises(DatasetError, match=r"It holds 'README.md', 'photo.parquet'\. .*parquet:.*/photo\.parquet\.$"):
        load(tmp_path)


def test_memory_stays_bounded_and_images_right_when_row_groups_are_dropped(
    tmp_path: Path, write_parquet: Write, pixel: Pixel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1] * 20, row_group_size=4)
    write_parquet(tmp_path / "test.parquet", [0, 1])
    fits_two_groups = 1000  # 4 images of about 75 to 80 bytes and their paths: about 400 bytes a group
    monkeypatch.setattr(parquet_images, "CACHE_BYTES", fits_two_groups)
    train = load(tmp_path).train
    order = np.random.default_rng(0).permutation(40)
    assert [pixel(train.load_image(row)) for row in order] == order.tolist()
    held = train.images._columns  # type: ignore[attr-defined]
    assert 1 <= len(held) <= 3 and sum(column.nbytes for column in held.values()) <= fits_two_groups


def test_a_row_group_is_read_once_while_it_fits(
    tmp_path: Path, write_parquet: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1] * 20, row_group_size=4)
    write_parquet(tmp_path / "test.parquet", [0, 1])
    read: list[int] = []
    original = parquet_images.ParquetStore._read_column

    def counted(self: Any, group: int) -> Any:
        read.append(group)
        return original(self, group)

    monkeypatch.setattr(parquet_images.ParquetStore, "_read_column", counted)
    train = load(tmp_path).train
    _ = train.fingerprint
    assert [train.load_image(row).mode for row in range(40)] == ["RGB"] * 40
    assert sorted(read) == list(range(10))


def test_many_threads_read_the_right_images(
    tmp_path: Path, write_parquet: Write, pixel: Pixel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1] * 100, row_group_size=7)
    write_parquet(tmp_path / "test.parquet", [0, 1])
    monkeypatch.setattr(parquet_images, "CACHE_BYTES", 3000)  # row groups come and go under the threads' feet
    train = load(tmp_path).train
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda row: pixel(train.load_image(row)), range(200))) == list(range(200))


# counts and classes as ../shared/data/README.md states them: train, val, test, classes
REAL = {
    "cifar10": (50000, None, 10000, 10),
    "cifar10_png": (2500, None, 4000, 10),
    "cifar100": (6000, None, 2500, 100),
    "caltech101": (808, None, 505, 101),
    "mnist": (15000, None, 5000, 10),
    "usps": (7291, None, 2007, 10),
    "pneumoniamnist": (3882, 524, 624, 2),
    "rsscn7": (420, None, 280, 7),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data_sets_have_their_stated_counts(name: str, shared_data: Path) -> None:
    dataset = load(shared_data / name)
    val = None if dataset.val is None else len(dataset.val)
    assert (len(dataset.train), val, len(dataset.test), dataset.train.num_classes) == REAL[name]
    for split in (dataset.train, dataset.test):
        for row in (0, len(split) - 1):
            assert split.load_image(row).mode == "RGB"


def test_real_class_names_stand_in_their_standard_order(shared_data: Path) -> None:
    cifar10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert load(shared_data / "cifar10").train.class_names == cifar10
    assert load(shared_data / "cifar10_png").train.class_names == cifar10
    assert load(shared_data / "pneumoniamnist").train.class_names == ("normal", "pneumonia")
    assert load(shared_data / "cifar100").train.class_names[:3] == ("apple", "aquarium_fish", "baby")
    assert load(shared_data / "rsscn7").train.class_names[3] == "RiverLake"


def test_every_real_data_set_with_train_and_test_is_in_the_list(shared_data: Path) -> None:
    found = {
        path.parent.name for path in shared_data.glob("*/train.parquet") if (path.parent / "test.parquet").exists()
    }
    assert found == set(REAL)


def test_pacs_has_no_train_file_and_the_error_names_its_files(shared_data: Path) -> None:
    with pytest.raises(
        DatasetError,
        match=r"pacs holds no train\.parquet .*'art_painting.parquet', 'cartoon.parquet', 'photo.parquet', 'sketch",
    ):
        load(shared_data / "pacs")


def test_one_domain_of_pacs_is_split_by_the_seed(shared_data: Path) -> None:
    dataset = load(shared_data / "pacs" / "photo.parquet")
    assert dataset.name == "pacs-photo" and dataset.train.class_names[0] == "dog"
    assert np.bincount(dataset.test.labels).tolist() == [9] * 7  # a fifth of 45


def test_one_image_per_class_of_imagenet_cannot_be_split(shared_data: Path) -> None:
    with pytest.raises(DatasetError, match=r"imagenet1k_samples stores no test part.*500 images are of 500 different"):
        load(shared_data / "imagenet1k_samples")


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("class_names", [None, ["a", "b"]])
def test_a_negative_label_is_named_with_its_row_and_what_it_means(
    tmp_path: Path, write_parquet: Write, part: str, class_names: list[str] | None
) -> None:
    for name in ("train", "test"):
        labels = [0, 1, -1 if name == part else 0, 1, -1 if name == part else 1]
        write_parquet(tmp_path / f"{name}.parquet", labels, class_names=class_names)
    pattern = rf"{part}\.parquet row 2: the label is -1, .* not known \(rows of {part} .*: 2 of 5\)\. .*without labels"
    with pytest.raises(DatasetError, match=pattern):
        load(tmp_path)


@pytest.mark.parametrize("path", ["a\0b.png", "x" * 300, "~nosuch/a.png"])
def test_a_path_that_no_file_has_is_a_bad_image(tmp_path: Path, write_parquet: Write, path: str) -> None:
    split = write_images(tmp_path, write_parquet, [{"bytes": None, "path": path}] * 2)
    for read in (split.load_image, split.images.digest):
        with pytest.raises(BadImageError, match=r"image 0 \(.*\) cannot be read: "):
            read(0)


def test_a_folder_of_data_sets_points_at_one(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "sets" / "pets" / "train.parquet", ["a", "b"] * 5)
    with pytest.raises(DatasetError, match=r"Its folder 'pets' holds such files: parquet:.*/sets/pets\."):
        load(tmp_path / "sets")
