"""Supervised pretraining of the small network on the digits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from richrep.backbones.backbone import Backbone
from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.datasets import load_split
from richrep.data.split import Split
from richrep.errors import RichrepError
from richrep.training.batches import load_pixels
from richrep.training.pretrain import pretrain_supervised


@pytest.fixture(scope="module")
def digits() -> Split:
    return load_split("digits", "train").first(200)


def tiny(seed: int = 0) -> Backbone:
    return make_small_cnn(10, widths=(8, 16), seed=seed)


def loss_of(backbone: Backbone, split: Split) -> float:
    pixels = backbone.preprocessing.normalize(load_pixels(split, backbone.preprocessing.geometry))
    with torch.inference_mode():
        return F.cross_entropy(backbone.features_and_logits(pixels)[1], torch.from_numpy(split.labels)).item()


def test_the_loss_falls_and_the_original_stays(digits) -> None:
    backbone = tiny()
    fingerprint, before = backbone.fingerprint, loss_of(backbone, digits)
    trained = pretrain_supervised(backbone, digits, num_steps=120, batch_size=32)
    # chance is ln 10 = 2.30
    assert loss_of(trained, digits) < 0.5 * before
    fresh = replace(backbone)  # without the fingerprint kept from before
    assert fresh.fingerprint == fingerprint
    assert trained.fingerprint != fingerprint
    assert trained.sha256 != backbone.sha256
    for module in (backbone.trunk, backbone.head, trained.trunk, trained.head):
        assert module is not None and not any(part.training for part in module.modules())


def test_the_result_says_how_it_came_about(digits) -> None:
    trained = pretrain_supervised(tiny(), digits, num_steps=2, batch_size=16, seed=7)
    assert trained.address == "pretrain(small-cnn-8-16, digits, steps=2, seed=7)"
    assert trained.load_report == ("trained for 2 steps of 16 images of digits/train, seed 7",)
    assert (trained.architecture, trained.feature_dim, trained.num_classes) == ("small-cnn-8-16", 16, 10)


def with_dropout(backbone: Backbone) -> Backbone:
    return replace(backbone, trunk=nn.Sequential(backbone.trunk, nn.Dropout(0.5)).eval())


@pytest.mark.parametrize("change", [lambda backbone: backbone, with_dropout], ids=["plain", "dropout"])
def test_the_seed_decides_the_weights_and_nothing_else_does(digits, change) -> None:
    def train(seed: int) -> str:
        return pretrain_supervised(change(tiny()), digits, num_steps=5, batch_size=32, seed=seed).fingerprint

    state = torch.random.get_rng_state()
    first = train(0)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is not disturbed
    with torch.random.fork_rng():
        torch.manual_seed(1234)  # and does not count
        assert train(0) == first
    assert train(1) != first


def test_a_head_of_another_number_of_classes_is_refused(digits) -> None:
    with pytest.raises(RichrepError, match="small-cnn-8-16 has a head of 5 classes, digits/train has 10"):
        pretrain_supervised(make_small_cnn(5, widths=(8, 16)), digits, num_steps=1)


def test_a_backbone_without_a_head_is_refused(digits) -> None:
    with pytest.raises(RichrepError, match="small-cnn-8-16 has a head of no classes, digits/train has 10"):
        pretrain_supervised(replace(tiny(), head=None, num_classes=None), digits, num_steps=1)


def test_more_images_in_a_batch_than_there_are_is_refused(digits) -> None:
    with pytest.raises(RichrepError, match=r"batch_size must be in \[1, 200\].*got 201"):
        pretrain_supervised(tiny(), digits, num_steps=1, batch_size=201)


def test_a_learning_rate_that_is_too_high_is_named(digits) -> None:
    with pytest.raises(RichrepError, match=r"training diverged\. Lower the learning rate"):
        pretrain_supervised(tiny(), digits, num_steps=20, batch_size=32, lr=1e30)
