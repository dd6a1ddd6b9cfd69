"""`richrep datasets`: what is shown, and the exit codes of check."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import re
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import DTD

from richrep.data.registry import REGISTRY
from richrep.data.registry.entry import NamedSplit


def words(text: str) -> str:
    return " ".join(text.split())


def test_every_registered_data_set_is_shown_with_all_that_is_known(cli) -> None:
    outcome = cli("datasets")
    assert outcome.code == 0
    shown = words(outcome.out)
    for entry in REGISTRY.values():
        assert f"{entry.name} {entry.title}" in shown
        assert f"metric {entry.describe_metric()}" in shown and f"licence {entry.licence}"[:60] in shown
    for word in ("classes", "splits", "on disk", "get it", "home page"):
        assert shown.count(f" {word} ") >= len(REGISTRY)


def test_a_pattern_shows_what_is_meant_and_where_it_belongs(cli, tmp_path) -> None:
    shown = words(cli("datasets", "list", "cars196").out)
    assert shown.startswith(
        "stanford_cars Stanford Cars classes 196 splits official: train 8,144, test 8,041 "
        "sizes by the loaders of t-ReX (naver/trex) metric top-1"
    )
    assert "on disk no: lacks" in shown and "home/data/stanford_cars/devkit/cars_meta.mat" in shown
    assert "hf:tanganke/stanford_cars" in shown
    shown = words(cli("datasets", "list", "imagenet-cog").out)
    assert all(f"imagenet_cog_l{level} " in shown for level in range(1, 6))
    assert "on disk yes, bundled" in words(cli("datasets", "list", "digits").out)


def test_a_data_set_that_is_partly_there_says_what_it_lacks(cli, tmp_path) -> None:
    (tmp_path / "sets" / "dtd" / "dtd" / "images").mkdir(parents=True)
    shown = words(cli("datasets", "list", "dtd", "--data-root", "sets").out)
    assert "on disk partly: lacks " in shown and "sets/dtd/dtd/labels" in shown
    (tmp_path / "sets" / "dtd" / "dtd" / "labels").mkdir()
    assert "on disk yes, in " in words(cli("datasets", "list", "dtd", "--data-root", "sets").out)


def test_a_data_set_of_which_some_splits_are_there_names_them(cli, tmp_path) -> None:
    (tmp_path / "sets" / "imagenetv2-top-images-format-val").mkdir(parents=True)
    shown = words(cli("datasets", "list", "imagenetv2-top-images", "--data-root", "sets").out)
    assert shown.startswith("imagenet_v2 ") and f"on disk yes, in {tmp_path}/sets, but only top-images" in shown


def test_a_whole_data_set_is_exit_code_0(cli) -> None:
    outcome = cli("datasets", "check", "digits", "--num-workers", "2")
    assert (outcome.code, words(outcome.out)) == (
        0,
        "digits: train 1,258, test 539 images, all can be decoded.",
    )


def test_bad_images_are_listed_with_exit_code_1(cli, image_folder) -> None:
    outcome = cli("datasets", "check", "folder:pets")
    assert outcome.code == 1
    assert "bad: train: image 3 (" in outcome.out and "train/dark/03.png) cannot be decoded" in outcome.out
    assert "folder:pets: train 24, test 8 images, 1 of them cannot be decoded." in words(outcome.out)


@pytest.fixture
def birds(tmp_path, monkeypatch) -> Path:
    """Birdsnap of two classes with two training images and one test image each, registered with these sizes."""
    for part, count in (("train", 2), ("test", 1)):
        for name in "ab":
            folder = tmp_path / "sets" / "birdsnap" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / f"{i}.png")
    entry = replace(REGISTRY["birdsnap"], num_classes=2, splits={"sparse": NamedSplit({"train": 4, "test": 2})})
    monkeypatch.setitem(REGISTRY, "birdsnap", entry)
    return tmp_path / "sets"


def test_wrong_counts_are_reported_and_the_images_decoded_all_the_same(cli, birds) -> None:
    assert cli("datasets", "check", "birds", "--data-root", birds).code == 0
    (birds / "birdsnap" / "train" / "a" / "0.png").unlink()
    (birds / "birdsnap" / "test" / "b" / "0.png").write_bytes(b"")
    outcome = cli("datasets", "check", "birds", "--data-root", birds)
    assert outcome.code == 1
    assert "wrong: train has 3 images, expected 4" in outcome.out
    assert "bad: test: image" in outcome.out and "test/b/0.png) is empty" in outcome.out
    assert "1 of them cannot be decoded; the sizes are not the registered ones." in words(outcome.out)


def test_a_copy_that_cannot_be_read_is_exit_code_1_and_an_absent_one_2(cli, birds) -> None:
    for file in (birds / "birdsnap" / "train" / "a").iterdir():
        file.unlink()
    outcome = cli("datasets", "check", "birds", "--data-root", birds)
    assert (outcome.code, "wrong: " in outcome.out, "has an empty class" in outcome.out) == (1, True, True)
    outcome = cli("datasets", "check", "birds", "--data-root", "nowhere")
    assert (outcome.code, outcome.out, "is not there" in outcome.message) == (2, "", True)


@pytest.fixture
def shifted(tmp_path, monkeypatch) -> Path:
    """ImageNet-A of two classes with three images each."""
    for wnid in ("n01498041", "n01531178"):
        folder = tmp_path / "sets" / "imagenet-a" / wnid
        folder.mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(folder / f"{i}.jpg", "PNG")
    splits = {"official": NamedSplit({"test": 6}, num_classes={"test": 2})}
    monkeypatch.setitem(REGISTRY, "imagenet_a", replace(REGISTRY["imagenet_a"], splits=splits))
    return tmp_path / "sets"


@pytest.mark.parametrize("arguments", [("--part", "test"), ("--part", "all"), ()])
def test_features_of_a_test_part_alone_can_be_extracted(cli, shifted, arguments) -> None:
    common = ["-b", "random/resnet20", "-d", "imagenet_a", "--data-root", shifted]
    outcome = cli("extract", *common, *arguments, "--test-size", 4)
    assert outcome.code == 0
    assert [line.split()[1:4] for line in outcome.out.splitlines()[1:]] == [["test", "4", "64"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "--part", "trainval"], "imagenet_a stores no trainval part, only test"),
        (["extract", "--train-size", "2"], "imagenet_a stores no train part, only test"),
        (["probe"], "imagenet_a has no train part, .* Their features: richrep extract -d imagenet_a --part test"),
    ],
)
def test_a_test_part_alone_has_no_train_part(cli, shifted, arguments, message) -> None:
    outcome = cli(*arguments, "-b", "random/resnet20", "-d", "imagenet_a", "--data-root", shifted)
    assert outcome.code == 2 and re.search(message, outcome.message)


def test_a_test_part_alone_is_checked_like_any_other(cli, shifted) -> None:
    assert cli("datasets", "check", "imagenet-adversarial", "--data-root", shifted).code == 0
    (shifted / "imagenet-a" / "n01498041" / "1.jpg").write_bytes(b"GIF89a")
    outcome = cli("datasets", "check", "imagenet_a", "--data-root", shifted)
    assert (outcome.code, outcome.out.count("bad: ")) == (1, 1)


def test_features_of_few_shot_parts_can_be_extracted(cli, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "sets" / "mini_imagenet"
    (folder / "images").mkdir(parents=True)
    for label, part in enumerate(("train", "val", "test")):
        files = [f"n{label}_{i}.jpg" for i in range(2)]
        (folder / f"{part}.csv").write_text("\n".join(["filename,label", *(f"{file},n{label}" for file in files)]))
        for file in files:
            Image.new("RGB", (8, 8), (40 * label, 0, 0)).save(folder / "images" / file, "PNG")
    parts = ("train", "val", "test")
    split = NamedSplit(dict.fromkeys(parts, 2), num_classes=dict.fromkeys(parts, 1), few_shot=True)
    entry = replace(REGISTRY["mini_imagenet"], num_classes=3, splits={"official": split})
    monkeypatch.setitem(REGISTRY, "mini_imagenet", entry)
    outcome = cli("extract", "-b", "random/resnet20", "-d", "mini_imagenet", "--data-root", tmp_path / "sets")
    assert outcome.code == 0
    assert [line.split()[1:3] for line in outcome.out.splitlines()[1:]] == [["trainval", "4"], ["test", "2"]]


def test_a_download_says_where_the_data_set_is(cli, tmp_path, monkeypatch, request) -> None:
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "JPEG")
    archive = tmp_path / "dtd.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for part in ("train", "val", "test"):
            names = [f"{name}/{part}.jpg" for name in ("banded", "dotted")]
            files = {f"images/{name}": image.getvalue() for name in names}
            for name, content in {**files, f"labels/{part}1.txt": "\n".join(names).encode()}.items():
                member = tarfile.TarInfo(f"dtd/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    request.addfinalizer(server.server_close)
    request.addfinalizer(server.shutdown)
    monkeypatch.setattr(DTD, "_URL", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    monkeypatch.setattr(DTD, "_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    splits = {"split1": NamedSplit({"train": 2, "val": 2, "test": 2})}
    monkeypatch.setitem(REGISTRY, "dtd", replace(REGISTRY["dtd"], num_classes=2, splits=splits))
    for name in ("RICHREP_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    outcome = cli("datasets", "download", "textures")
    assert (outcome.code, outcome.out) == (0, f"dtd is in {tmp_path / 'home' / 'data' / 'dtd'}\n")
    assert cli("datasets", "check", "dtd").code == 0
    again = cli("datasets", "download", "dtd")
    assert again.code == 2 and "dtd is there already" in again.message


@pytest.mark.parametrize("address", ["folder:~nosuch/x", f"csv:{'x' * 300}", "parquet:a/../b", "folder:a\0b"])
def test_odd_paths_are_one_message_and_exit_code_2(cli, address) -> None:
    for command in (["datasets", "check", address], ["probe", "-b", "random/resnet20", "-d", address]):
        outcome = cli(*command)
        assert (outcome.code, outcome.out) == (2, "") and "does not exist" in outcome.message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("datasets chek digits", "Unknown datasets action 'chek'. Did you mean 'check'?"),
        ("datasets check", "needs a data set"),
        ("datasets check digitz", "Unknown dataset 'digitz'. Did you mean 'digits'?"),
        ("datasets list zebra", "No data sets match 'zebra'"),
        ("datasets download", "needs a name"),
        ("datasets download digits", "digits need not be downloaded"),
        ("datasets download folder:pets", "is read where it lies"),
        ("datasets download cars", "stanford_cars cannot be downloaded: torchvision has no working address"),
        ("probe -b random/resnet20 -d imagenet_v2", "imagenet_v2:matched-frequency has no train part"),
        ("probe -b random/resnet20 -d flowers", "flowers102 is not there"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(cli, arguments, message) -> None:
    outcome = cli(*arguments.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.message
