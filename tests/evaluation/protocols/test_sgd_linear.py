"""The options of the SGD protocols: grids by data set, the best epoch, views, and cells that diverge."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

import pytest
import torch

from richrep.errors import DivergedError, RichrepError
from richrep.evaluation.protocols.sgd_linear import SgdLinearProtocol
from richrep.features.feature_set import FeatureSet
from richrep.features.rows import Features

SHORT = SgdLinearProtocol(lrs=(0.1,), weight_decays=(0.0, 0.1), epochs=6, batch_size=32)


@dataclass(frozen=True, eq=False)
class WithViews(FeatureSet):
    """A feature set with random views, whatever else it holds."""

    views: tuple[Features, ...] = field(default=())


def test_the_grid_of_a_data_set_takes_the_place_of_the_default() -> None:
    protocol = replace(SHORT, weight_decays_of=(("cifar10", (1.0,)), ("mine", (2.0,))))
    assert protocol.for_dataset("CIFAR-10").weight_decays == (1.0,)  # a spelling of a registered name
    assert protocol.for_dataset("mine").weight_decays == (2.0,)
    assert protocol.for_dataset("other").weight_decays == (0.0, 0.1)
    assert protocol.for_dataset("mine").weight_decays_of == ()  # a record holds what was used alone


def test_the_best_epoch_is_the_first_of_highest_val_accuracy_and_the_refit_stops_there(pixels, parts) -> None:
    protocol = replace(SHORT, weight_decays=(0.0,), epoch="best", milestones=(4,))
    choice = protocol.select(pixels, *parts)
    epochs = choice.hyperparameters["epochs"]
    labels = pixels.labels[parts[1]]
    best = (choice.val_logits.argmax(1) == labels).double().mean()
    for count in range(1, 7):
        shorter = replace(protocol, epoch="last", epochs=count).select(pixels, *parts)
        reached = (shorter.val_logits.argmax(1) == labels).double().mean()
        assert reached <= best
        if count == epochs:
            torch.testing.assert_close(shorter.val_logits, choice.val_logits)
    assert protocol.refit(pixels, choice).epochs == epochs


def test_a_cell_that_diverges_is_said_and_the_others_compete(pixels, parts, caplog) -> None:
    protocol = replace(SHORT, lrs=(0.1, 1e30))
    with caplog.at_level(logging.WARNING):
        choice = protocol.select(pixels, *parts)
    assert choice.hyperparameters["lr"] == 0.1
    assert choice.solver["diverged"] == [
        "lr=1e+30 weight_decay=0 seed=0 in epoch 0 (none)",
        "lr=1e+30 weight_decay=0.1 seed=0 in epoch 0 (none)",
    ]
    assert "SGD diverged and was left out: lr=1e+30" in caplog.text
    assert "diverged" not in SHORT.select(pixels, *parts).solver


def test_when_every_cell_diverges_the_message_names_them(pixels, parts) -> None:
    with pytest.raises(DivergedError, match=r"SGD diverged: lr=1e\+30 .*; lr=1e\+30 .*Lower the learning rate"):
        replace(SHORT, lrs=(1e30,)).select(pixels, *parts)


def test_random_views_of_the_training_rows_are_cycled_through_and_val_stays_as_it_is(pixels, parts) -> None:
    views = tuple(pixels.features + 0.1 * v for v in range(3))
    seen = WithViews(**vars(pixels) | {"views": views})
    choice, plain = SHORT.select(seen, *parts), SHORT.select(pixels, *parts)
    assert (choice.solver["views"], plain.solver["views"]) == (3, 1)
    assert not torch.allclose(choice.val_logits, plain.val_logits, atol=1e-3)
    same = WithViews(**vars(pixels) | {"views": (pixels.features,) * 2})
    torch.testing.assert_close(SHORT.select(same, *parts).val_logits, plain.val_logits)
    refitted = SHORT.refit(same, choice)
    torch.testing.assert_close(refitted.weight_, SHORT.refit(pixels, choice).weight_)


def test_the_seed_decides_first_weights_and_batches(pixels, parts) -> None:
    one, two = (replace(SHORT, seed=seed).select(pixels, *parts).val_logits for seed in (1, 2))
    assert not torch.allclose(one, two, atol=1e-3)


def test_an_unknown_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="epoch must be 'last' or 'best', got 'first'"):
        SgdLinearProtocol(epoch="first")


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"lrs": [-1.0], "weight_decays": None}, "lr must be a number > 0, got -1.0"),
        ({"lrs": [0.1, 0.0], "weight_decays": None}, "lr must be a number > 0, got 0.0"),
        ({"lrs": None, "weight_decays": [float("nan")]}, "weight_decay must be a number >= 0, got nan"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_trained(grid, message: str) -> None:
    with pytest.raises(RichrepError, match=message):
        SgdLinearProtocol().with_grid(**grid)
    assert SgdLinearProtocol().with_grid(lrs=None, weight_decays=[0.0]).weight_decays == (0.0,)
