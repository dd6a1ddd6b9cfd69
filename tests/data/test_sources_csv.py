from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from richrep.data.datasets import load_dataset, load_split
from richrep.data.split import Dataset
from richrep.errors import BadImageError, DatasetError

Pixel = Callable[[Image.Image], int]


@pytest.fixture
def write_csv(tmp_path: Path, png: Callable[..., bytes]) -> Callable[..., Path]:
    """write_csv("path,label", "a.png,cat", …): the file and its images, of grey values 0, 1, …."""

    def write(*lines: str, encoding: str = "utf-8") -> Path:
        for colour, line in enumerate(lines[1:]):
            image = tmp_path / line.partition(",")[0]
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(png(colour))
        (tmp_path / "list.csv").write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
        return tmp_path / "list.csv"

    return write


def load(path: Path) -> Dataset:
    return load_dataset(f"csv:{path}")


PARTS = ("train,cat", "train,dog", "Training,dog", "validation,cat", "test,dog")


def test_parts_labels_and_groups_are_read(write_csv: Callable[..., Path], pixel: Pixel) -> None:
    lines = [f"{i}.png,{place.split(',')[1]},{place.split(',')[0]},zoo {i}" for i, place in enumerate(PARTS)]
    dataset = load(write_csv("Path, LABEL ,split,group", *lines))
    assert (dataset.name, dataset.train.class_names) == ("list", ("cat", "dog"))
    assert dataset.val is not None
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (3, 1, 1)
    for split in (dataset.train, dataset.val, dataset.test):
        for row in range(len(split)):
            number = pixel(split.load_image(row))
            assert split.class_names[split.labels[row]] == PARTS[number].split(",")[1]
            assert split.groups is not None and split.groups[row] == f"zoo {number}"
    trainval = load_split(f"csv:{dataset.address.partition(':')[2]}", "trainval")
    assert trainval.groups is not None and sorted(trainval.groups) == ["zoo 0", "zoo 1", "zoo 2", "zoo 3"]


def test_without_a_split_column_a_fifth_of_every_class_is_split_off(write_csv: Callable[..., Path]) -> None:
    lines = [f"{i}.png,{i % 2},note {i}" for i in range(20)]
    dataset = load(write_csv("path,label,remark", *lines))
    assert np.bincount(dataset.test.labels).tolist() == [2, 2]
    assert dataset.train.note == "split 80/20 per class, seed 0" and dataset.train.groups is None


def test_groups_follow_their_images_through_the_split(write_csv: Callable[..., Path], pixel: Pixel) -> None:
    dataset = load(write_csv("path,label,group", *(f"{i}.png,{i % 2},g{i}" for i in range(20))))
    for split in (dataset.train, dataset.test):
        assert split.groups is not None
        assert split.groups.tolist() == [f"g{pixel(split.load_image(row))}" for row in range(len(split))]
    chosen = dataset.train.select_classes([1])
    assert chosen.groups is not None and all(int(group[1:]) % 2 for group in chosen.groups)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ((10, 9, 2), ("2", "9", "10")),
        (("b", "10", "a"), ("10", "a", "b")),
        (("10", "9", "cat"), ("10", "9", "cat")),  # mixed: all are text
        (("1_0", "9"), ("1_0", "9")),
        (("nan", "inf"), ("inf", "nan")),
        ((" 2", "1 "), ("1", "2")),  # spaces around a cell do not count
        (("Cat", "cat"), ("Cat", "cat")),  # case does
        (("9" * 20, "1"), ("1", "9" * 20)),
    ],
)
def test_numbers_are_sorted_as_numbers_and_text_as_text(
    labels: tuple[object, ...], names: tuple[str, ...], write_csv: Callable[..., Path]
) -> None:
    lines = [f"{i}{label}.png,{label}" for label in labels for i in range(3)]
    assert load(write_csv("path,label", *lines)).train.class_names == names


def test_quotes_absolute_paths_and_a_byte_order_mark_are_understood(write_csv: Callable[..., Path]) -> None:
    path = write_csv("path,label", "a.png,x", "b.png,x", "c.png,y", encoding="utf-8-sig")
    folder = path.parent
    lines = ["path,label,split", f'"{folder}/a.png","cat, big",train', "b.png,dog,train", 'c.png,"cat, big",test']
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    dataset = load(path)
    assert dataset.train.class_names == ("cat, big", "dog")
    assert [dataset.train.load_image(row).mode for row in range(2)] == ["RGB", "RGB"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["path,labels", "a.png,x"], "has the columns 'path', 'labels'; wanted is a header with 'path', 'label'"),
        (["path;label", "a.png;x"], "has the columns 'path;label'; wanted is a header with 'path', 'label', and maybe"),
        (["path\tlabel", "a.png\tx"], "Separate cells with commas."),
        (
            ["path,label", "a.png,1", "b.png,2", "c.png,01"],
            "lines 2 and 4: the labels '1' and '01' are the same number",
        ),
        (["path,label", "a.png,1", "b.png,cat", "c.png,1.0"], "lines 2 and 4: the labels '1' and '1.0' are the same"),
        (["path,label", "a.png,+1", "b.png,1"], "lines 2 and 3: the labels '+1' and '1' are the same number"),
        (
            ["path,label,split", "a.png,1,train", "b.png,2,train", "c.png,01,test"],
            "the labels '1' and '01' are the same",
        ),
        (["path,label", "a.png,cat", "b.png,-1"], "line 3: the label is -1; negative numbers"),
        (["path,label,path", "a.png,x,b"], "has the column 'path' twice"),
        (["path,label"], "lists no images"),
        ([], "has the columns none"),
        (["path,label", "a.png,x", "b.png,"], "line 3: the label is ''"),
        (["path,label", "a.png,x", ",y"], "line 3: the path is ''"),
        (["path,label", "a.png"], "line 2: more or fewer cells than the header"),
        (["path,label", "a.png,x,y"], "line 2: more or fewer cells than the header"),
        (["path,label,split", "a.png,x,dev"], "line 2: the split is 'dev'; wanted is train, val or test"),
        (["path,label,group", "a.png,x,"], "line 2: the group is ''"),
        (["path,label", "a.png,x", "./a.png,y"], r"lists './a.png' twice, in lines 2 and 3"),
        (["path,label", "a.png,0", "b.png,-1"], "line 3: the label is -1; negative numbers"),
        (
            ["path,label,split", "a.png,x,train", "b.png,y,train", "c.png,z,test"],
            "line 4: the label 'z' is none of the 2",
        ),
        (["path,label,split", "a.png,x,train", "b.png,y,val"], "stores train and val but no test part"),
        (["path,label,split", "a.png,x,test"], "stores 'test' but no train part"),
        (["path,label", "a.png,x", "b.png,x"], "has one class, 'x'"),
        (["path,label", "a.png,x", "b\0.png,y"], r"line 3: the path is 'b\\x00.png'"),
        (["path,label", '"a.png,x'], "cannot be read as CSV"),
    ],
)
def test_a_mistake_is_named_with_its_line(lines: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(DatasetError) as caught:
        load(tmp_path / "list.csv")
    assert words.replace("\\\\", "\\") in str(caught.value) and "list.csv" in str(caught.value)


def test_paths_may_lead_out_of_the_folder_of_the_manifest(tmp_path: Path, png: Callable[..., bytes]) -> None:
    (tmp_path / "lists").mkdir()
    for colour, name in enumerate(("up.png", "absolute.png")):
        (tmp_path / name).write_bytes(png(colour))
    lines = [
        "path,label,split",
        "../up.png,a,train",
        f"{tmp_path}/absolute.png,b,train",
        f"{tmp_path}/lists/x.png,a,test",
    ]
    (tmp_path / "lists" / "list.csv").write_text("\n".join(lines))
    train = load(tmp_path / "lists" / "list.csv").train
    assert [train.load_image(row).size for row in range(2)] == [(4, 4)] * 2
    (tmp_path / "lists" / "again.csv").write_text("\n".join([*lines, "../lists/../up.png,a,test"]))
    with pytest.raises(DatasetError, match=r"lists '\.\./lists/\.\./up\.png' twice, in lines 2 and 5"):
        load(tmp_path / "lists" / "again.csv")


def test_one_image_under_two_names_by_a_link_is_listed_twice(write_csv: Callable[..., Path], tmp_path: Path) -> None:
    path = write_csv("path,label", "a.png,x", "b.png,y")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    path.write_text("path,label,split\na.png,x,train\nb.png,y,train\nlink.png,x,test\n")
    with pytest.raises(DatasetError, match=r"lists 'link\.png' twice, in lines 2 and 4"):
        load(path)


def test_line_ends_of_windows_quotes_in_quotes_and_cells_of_several_lines(
    write_csv: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_csv("path,label", "a.png,x", "b.png,y", "c.png,y")
    lines = ['"path","label","split","remark"', 'a.png,"a ""big"" cat",train,"two', 'lines"', "b.png,dog,train,", ""]
    path.write_bytes("\r\n".join([*lines, 'c.png,"a ""big"" cat",test,x', ""]).encode("utf-8-sig"))
    dataset = load(path)
    assert dataset.train.class_names == ('a "big" cat', "dog") and dataset.test.labels.tolist() == [0]
    path.write_bytes("path,label\n\u00e9.png,x\n".encode("utf-16"))
    with pytest.raises(DatasetError, match=r"cannot be read as CSV: .*Write it again, as UTF-8"):
        load(path)


def test_a_folder_and_a_file_of_another_kind_are_errors(tmp_path: Path, png: Callable[..., bytes]) -> None:
    with pytest.raises(DatasetError, match="is a folder, not a CSV file"):
        load(tmp_path)
    (tmp_path / "x.csv").write_bytes(b"\x89PNG" + png(3))
    with pytest.raises(DatasetError, match=r"x\.csv cannot be read as CSV: .*UTF-8"):
        load(tmp_path / "x.csv")


def test_images_that_are_not_there_are_bad_images(tmp_path: Path) -> None:
    paths = ("gone.png", "~nosuch/a.png", "x" * 300)
    lines = [f"{path},{'ab'[i % 2]},train" for i, path in enumerate(paths)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *lines, "t.png,a,test"]))
    train = load(tmp_path / "list.csv").train
    for row in range(3):
        with pytest.raises(BadImageError, match="cannot be read: "):
            train.load_image(row)


def test_one_image_written_in_two_ways_is_listed_twice(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"path,label,split\na.png,x,train\n{tmp_path / 'a.png'},x,test\n")
    with pytest.raises(DatasetError, match="twice, in lines 2 and 3"):
        load_dataset(f"csv:{tmp_path / 'x.csv'}")
