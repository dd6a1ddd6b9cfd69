"""The twins that choose on test: what they choose, and that nothing else can run them."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

from richrep.errors import RichrepError
from richrep.evaluation.protocols import LEGACY_TEST_SELECTION, PROTOCOLS, make_protocol, make_twin
from richrep.evaluation.protocols.legacy_test_selection import SUFFIX, LegacyTestSelection

SMALLER = {
    "logistic": {"cs": (1e-2, 1.0), "normalizations": ("none", "standard")},
    "rrl-linear": {"batch_size": 50, "weight_decays": (1e-4, 1e-2)},
    "sparse-linear": {"epochs": 20, "milestones": (10,)},
    "swav-linear": {"epochs": 20},
    "trex-sgd": {"trials": 3, "epochs": 20},
    "trex-lbfgs": {"trials": 3},
    "vtab1k": {"cs": (1e-2, 1.0), "normalizations": ("none", "standard")},
    "kshot:N": {"cs": (1e-2, 1.0), "normalizations": ("none", "standard")},
}


@pytest.mark.parametrize("base", list(SMALLER))
def test_a_twin_is_its_base_with_test_in_the_place_of_val(base: str, pixels, parts) -> None:
    """Chosen on `test` after training on all of `train`: what the base would choose were test its val."""
    twin = LEGACY_TEST_SELECTION[f"{base}-{SUFFIX}"](**SMALLER[base])
    train, test = (pixels.take(rows) for rows in parts)
    choice = twin.base.choose(train, test)
    expected = twin.base.select(pixels, *parts)
    assert choice.hyperparameters == pytest.approx(expected.hyperparameters)
    torch.testing.assert_close(choice.val_logits.softmax(1), expected.val_logits.softmax(1), rtol=0, atol=1e-4)
    assert len(choice.val_logits) == len(test)


@pytest.mark.parametrize("base", ["rrl-linear", "sparse-linear", "swav-linear"])
def test_the_papers_that_kept_the_best_epoch_have_twins_that_do(base: str, pixels, parts) -> None:
    train, test = (pixels.take(rows) for rows in parts)
    twin = LEGACY_TEST_SELECTION[f"{base}-{SUFFIX}"](**SMALLER[base])
    assert (twin.base.epoch, PROTOCOLS[base]().epoch) == ("best", "last")
    best = twin.base.choose(train, test).val_logits
    last = replace(twin.base, epoch="last").choose(train, test).val_logits
    right_best, right_last = ((logits.argmax(1) == test.labels).sum() for logits in (best, last))
    assert right_best >= right_last


def test_a_twin_is_named_as_registered_and_says_what_it_is() -> None:
    assert {name.removesuffix(f"-{SUFFIX}") for name in LEGACY_TEST_SELECTION} == set(SMALLER)
    for name, make in LEGACY_TEST_SELECTION.items():
        options = make().options()
        assert make().name == options["name"] == name.replace(":N", ":5")
        assert "legacy" in name
        assert options["selected_on"] == "test" and "chosen on the test set" in options["note"]


def test_no_protocol_is_a_twin_and_no_twin_can_be_run_as_a_protocol() -> None:
    assert not set(PROTOCOLS) & set(LEGACY_TEST_SELECTION)
    for make in PROTOCOLS.values():
        assert not isinstance(make(), LegacyTestSelection)
        assert not any("test" in name for name in inspect.signature(make().select).parameters)
    for make in LEGACY_TEST_SELECTION.values():
        assert not hasattr(make(), "select") and not hasattr(make(), "refit")


def test_a_number_in_the_name_of_a_twin_is_that_of_its_base() -> None:
    twin = make_twin(f"kshot:3-{SUFFIX}", repeats=2)
    assert twin is not None and (twin.name, twin.base.shots, twin.base.repeats) == (f"kshot:3-{SUFFIX}", 3, 2)
    assert make_twin("logistic") is None and make_twin(f"kshot-{SUFFIX}") is None
    for name in (f"kshot:3-{SUFFIX}", f"logistic-{SUFFIX}"):
        with pytest.raises(RichrepError, match=f"{name} chooses on test; only richrep probe runs it"):
            make_protocol(name)
