from dataclasses import replace

import pytest

from richrep.backbones.backbone import Backbone
from richrep.backbones.names import distinct_names
from richrep.backbones.small_cnn import make_small_cnn

CNN = make_small_cnn(2, widths=(2,))


def make(name: str, address: str) -> Backbone:
    return replace(CNN, name=name, address=address)


def names_of(*backbones: tuple[str, str]) -> list[str]:
    return distinct_names([make(name, address) for name, address in backbones])


def test_unique_names_stay() -> None:
    assert names_of(("resnet20", "a.pth"), ("resnet56", "b.pth")) == ["resnet20", "resnet56"]
    assert names_of(("resnet20", "a.pth")) == ["resnet20"]


def test_equal_names_get_what_their_files_do_not_share() -> None:
    assert names_of(("resnet20", "a/net_seed1.pth"), ("resnet20", "b/net_seed2.pth")) == [
        "resnet20:seed1",
        "resnet20:seed2",
    ]


def test_only_the_equal_ones_change_and_the_order_stays() -> None:
    assert names_of(("r20", "x_1.pth"), ("r56", "y.pth"), ("r20", "x_2.pth")) == ["r20:1", "r56", "r20:2"]


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    assert names_of(("r20", "run/seed1/best.pth"), ("r20", "run/seed2/best.pth")) == ["r20:seed1", "r20:seed2"]


def test_the_architecture_before_the_at_does_not_count() -> None:
    assert names_of(("r20", "resnet20@a_1.th"), ("r20", "resnet20@a_2.th")) == ["r20:1", "r20:2"]


def test_tags_of_the_library_are_told_apart() -> None:
    """The tag looks like a file's suffix: only the name with its suffix differs."""
    assert names_of(("resnet50", "timm/resnet50.a1_in1k"), ("resnet50", "timm/resnet50.a2_in1k")) == [
        "resnet50:a1",
        "resnet50:a2",
    ]


def test_one_file_in_two_formats_is_told_apart_by_the_suffix() -> None:
    assert names_of(("r20", "net.pth"), ("r20", "net.safetensors")) == ["r20:pth", "r20:safetensors"]


def test_a_file_that_adds_nothing_keeps_the_short_name() -> None:
    assert names_of(("r20", "net.pth"), ("r20", "net_ema.pth")) == ["r20", "r20:ema"]


def test_the_same_backbone_twice_is_numbered() -> None:
    assert names_of(("r20", "net.pth"), ("r20", "net.pth"), ("r56", "x.pth")) == ["r20#1", "r20#2", "r56"]


@pytest.mark.parametrize(
    "backbones",
    [
        [("r", "a"), ("r", "a"), ("r#1", "b")],
        [("r#1", "b"), ("r", "a"), ("r", "a")],
        [("r", "x_1.pth"), ("r", "x_2.pth"), ("r:1", "b")],
        [("r", "x_1.pth"), ("r", "x_2.pth"), ("r:1", "b"), ("r:1", "b"), ("r:1#1", "c")],
        [("r", "x_1_2.pth"), ("r", "x_2_1.pth")],
        [("r", "a/x.pth"), ("r", "a/x.pth"), ("r", "b/x.pth")],
        [("r", ""), ("r", ""), ("r", "x@"), ("r", "@x")],
        [("", "a"), ("", "a")],
    ],
    ids=str,
)
def test_names_are_always_different(backbones: list[tuple[str, str]]) -> None:
    names = names_of(*backbones)
    assert len(set(names)) == len(names)


def test_no_backbones_no_names() -> None:
    assert distinct_names([]) == []
