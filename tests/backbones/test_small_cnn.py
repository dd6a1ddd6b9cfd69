"""The small network of the demonstration."""

from __future__ import annotations

import pytest
import torch

from richrep.backbones.small_cnn import make_small_cnn


def test_shapes_counts_and_facts() -> None:
    backbone = make_small_cnn(5, widths=(4, 8), seed=0)
    # convolutions 9 * 3 * 4 and 9 * 4 * 8, batch norms 2 * 4 and 2 * 8
    assert backbone.trunk_parameters == 108 + 288 + 8 + 16
    assert backbone.parameters == backbone.trunk_parameters + 8 * 5 + 5  # the head's weights and biases
    assert (backbone.name, backbone.family, backbone.feature_dim) == ("small-cnn-4-8", "small-cnn", 8)
    with torch.inference_mode():
        features, logits = backbone.features_and_logits(torch.zeros(3, 3, 8, 8))
    assert features.shape == (3, 8) and logits.shape == (3, 5) and backbone.num_classes == 5


def test_weights_depend_on_the_seed_alone() -> None:
    rng = torch.get_rng_state()
    first, again, other = make_small_cnn(2, seed=1), make_small_cnn(2, seed=1), make_small_cnn(2, seed=2)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize(("num_classes", "widths"), [(0, (4,)), (2, ())])
def test_no_classes_and_no_widths_are_refused(num_classes: int, widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"needs num_classes >= 1 and a width, got"):
        make_small_cnn(num_classes, widths=widths)
