"""`richrep datasets`: what is shown, and the exit codes of check."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

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
        "stanford_cars Stanford Cars classes 196 splits official: train 8,144, test 8,041 metric top-1"
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("datasets chek digits", "Unknown datasets action 'chek'. Did you mean 'check'?"),
        ("datasets check", "needs a data set"),
        ("datasets check digitz", "Unknown dataset 'digitz'. Did you mean 'digits'?"),
        ("datasets list zebra", "No data sets match 'zebra'"),
        ("probe -b random/resnet20 -d imagenet_v2", "imagenet_v2:matched-frequency has no train part"),
        ("probe -b random/resnet20 -d flowers", "flowers102 is not there"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(cli, arguments, message) -> None:
    outcome = cli(*arguments.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.message
