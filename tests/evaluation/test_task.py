"""Which backbones of a task are left out, and what that costs the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from richrep.backbones.backbone import Backbone
from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.datasets import load_dataset
from richrep.errors import EngineError, FeatureError, RichrepError
from richrep.evaluation.task import Task, TaskFeatures, extract_task, make_task
from richrep.features.cache import FeatureCache
from richrep.features.engines import ENGINES
from richrep.features.usable import extract_usable


class Infinite(torch.nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((1,), float(seed)))  # tells two of them apart

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.full((len(images), 8), torch.inf)


def good(name: str, seed: int) -> Backbone:
    return replace(make_small_cnn(10, widths=(4, 8), seed=seed), name=name)


def bad(name: str, seed: int) -> Backbone:
    made = make_small_cnn(10, widths=(4, 8), seed=seed)
    return replace(made, name=name, trunk=Infinite(seed), pool=torch.nn.Identity(), head=None, num_classes=None)


class CountingImages:
    """The images of digits, with how often each was decoded."""

    def __init__(self, images) -> None:
        self._images, self.decoded = images, Counter[int]()

    def __len__(self) -> int:
        return len(self._images)

    def load(self, position: int):
        self.decoded[position] += 1
        return self._images.load(position)

    def name(self, position: int) -> str:
        return self._images.name(position)

    def digest(self, position: int) -> bytes:
        return self._images.digest(position)


@pytest.fixture
def counted() -> tuple[Task, CountingImages]:
    """150 training and 100 test images of digits."""
    digits = load_dataset("digits")
    images = CountingImages(digits.train.images)
    parts = {"train": replace(digits.train, images=images), "test": replace(digits.test, images=images)}
    return make_task(replace(digits, **parts), data_root=None, train_size=150, test_size=100), images


def extract(backbones: Sequence[Backbone], task: Task, on_failure: Callable[[str, str], None] | None, **options):
    return extract_task(backbones, task, options, val_fraction=0.2, seed=0, on_failure=on_failure)


def names(features: TaskFeatures) -> list[str]:
    return [backbone.name for backbone in features.backbones]


def test_with_a_cache_no_image_is_decoded_again_for_the_networks_that_are_left(counted, tmp_path) -> None:
    task, images = counted
    members = [good("one", 0), bad("two", 1), good("three", 2), bad("four", 3), good("five", 4)]
    failures: dict[str, str] = {}
    found = extract(members, task, failures.__setitem__, cache=FeatureCache(tmp_path))
    assert names(found) == ["one", "three", "five"] and list(failures) == ["two", "four"]
    assert "features of 'four'" in failures["four"] and "are not finite for image 0" in failures["four"]
    # trainval with all five and with "four", which had no turn to be blamed; test with the three
    assert sorted(Counter(images.decoded.values()).items()) == [(1, 100), (2, 150)]


def test_without_a_cache_the_networks_that_are_left_share_one_pass(counted) -> None:
    task, images = counted
    members = [good("one", 0), bad("two", 1), good("three", 2), good("four", 3)]
    found = extract(members, task, lambda *_: None, cache=None)
    assert names(found) == ["one", "three", "four"]
    assert set(images.decoded.values()) == {1, 2}  # trainval with "two" and without, test once


def test_an_engine_that_cannot_run_one_network_runs_the_others_in_one_pass(counted, monkeypatch) -> None:
    class Refusing(type(ENGINES["torch"])):
        def prepare(self, work):
            if work.precision == "bf16" and work.backbone.name == "two":
                raise EngineError("It has loops.")
            return super().prepare(work)

    monkeypatch.setitem(ENGINES, "torch", Refusing())
    task, images = counted
    failures: dict[str, str] = {}
    members = [good(name, seed) for seed, name in enumerate(("one", "two", "three"))]
    found = extract(members, task, failures.__setitem__, cache=None, precision="bf16")
    assert names(found) == ["one", "three"] and failures == {"two": "It has loops."}
    assert max(images.decoded.values()) <= 3  # for the check of "two", of the others, and the pass


def test_without_on_failure_the_first_error_is_raised(counted) -> None:
    with pytest.raises(FeatureError, match=r"features of 'two' .* are not finite"):
        extract([good("one", 0), bad("two", 1)], counted[0], None, cache=None)


def test_where_no_backbone_is_left_the_first_reason_is_said(counted) -> None:
    failures: dict[str, str] = {}
    with pytest.raises(RichrepError, match=r"No backbone gives features that can be used; the first: .* of 'one'"):
        extract([bad("one", 0), bad("two", 1)], counted[0], failures.__setitem__, cache=None)
    assert list(failures) == ["one", "two"]


def test_an_error_that_names_no_backbone_is_looked_for_in_each_alone() -> None:
    members = [good(name, seed) for seed, name in enumerate(("one", "two", "three"))]
    asked: list[list[str]] = []

    def refuse_two(backbones: Sequence[Backbone]) -> int:
        asked.append([backbone.name for backbone in backbones])
        if "two" in asked[-1]:
            raise FeatureError("Something is wrong.")
        return len(backbones)

    failures: dict[str, str] = {}
    used, found = extract_usable(members, refuse_two, failures.__setitem__)
    assert [backbone.name for backbone in used] == ["one", "three"] and found == 2
    assert failures == {"two": "Something is wrong."}
    assert asked == [["one", "two", "three"], ["one"], ["two"], ["three"], ["one", "three"]]


def test_what_fails_only_together_is_raised() -> None:
    def refuse_pairs(backbones: Sequence[Backbone]) -> None:
        if len(backbones) > 1:
            raise FeatureError("These do not go together.")

    with pytest.raises(FeatureError, match="do not go together"):
        extract_usable([good("one", 0), good("two", 1)], refuse_pairs, lambda *_: None)
