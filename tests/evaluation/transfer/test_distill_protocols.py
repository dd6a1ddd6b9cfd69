"""The protocols of distillation: their numbers, as their sources state them."""

from __future__ import annotations

import pytest

import richrep
from richrep.evaluation.transfer import DISTILL_PROTOCOLS


def rate(name: str, epoch: int) -> float:
    """Learning rate of the first step of an epoch of ten steps."""
    protocol = DISTILL_PROTOCOLS[name]
    (options, *_) = protocol.cells("imagenet1k")
    steps = 10 * options.epochs
    return options.schedule.lr(10 * epoch, base_lr=options.optimizer.lr, steps_per_epoch=10, num_steps=steps)


def test_rrl_distill_is_the_reconstruction_of_its_source() -> None:
    assert [rate("rrl-distill", epoch) for epoch in (0, 89, 90, 179, 180, 269)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )
    (options,) = DISTILL_PROTOCOLS["rrl-distill"].cells("imagenet1k")
    assert (options.epochs, options.batch_size, options.cached_views) == (270, 256, 0)
    assert (options.optimizer.momentum, options.optimizer.weight_decay) == (0.9, 1e-4)
    assert options.groups.decay_norms and options.groups.decay_biases and options.heads == "discard"
    assert "reconstruction" in DISTILL_PROTOCOLS["rrl-distill"].source


def test_rfc_synthesis_takes_hard_labels_and_averages_the_heads() -> None:
    (options,) = DISTILL_PROTOCOLS["rfc-synthesis"].cells("camelyon17")
    assert (options.loss, options.heads, options.epochs, options.optimizer.weight_decay) == (
        "hard",
        "average",
        20,
        1e-6,
    )
    assert options.view is None and options.cached_views == 1
    assert options.halves and options.batch_size == 32  # 16 images that all teachers classify rightly, 16 others
    assert rate("rfc-synthesis", 19) == rate("rfc-synthesis", 0) == 0.001


def test_the_default_chooses_a_rate_and_crops_small_images_less() -> None:
    default = DISTILL_PROTOCOLS["default"]
    small, large = (richrep.load_backbone(f"random/{name}") for name in ("resnet20", "resnet10t"))
    cells = default.for_inputs_of([small]).cells("cifar10")
    assert [cell.optimizer.lr for cell in cells] == [0.03, 0.1]
    assert {cell.view.scale for cell in cells} == {(0.8, 1.0)}
    assert default.for_inputs_of([small, large]).cells("cifar10")[0].view.scale == (0.08, 1.0)


@pytest.mark.parametrize("name", DISTILL_PROTOCOLS)
def test_every_protocol_is_under_its_name_and_says_its_source(name: str) -> None:
    assert DISTILL_PROTOCOLS[name].name == name
    assert DISTILL_PROTOCOLS[name].source
