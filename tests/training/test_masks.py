from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import richrep
from richrep.backbones.small_cnn import make_small_cnn
from richrep.backbones.sparsity import infer_masks
from richrep.errors import RichrepError
from richrep.training.masks import keep_masks, mask_gradients, masked_parameters
from richrep.training.optimizers import OPTIMIZERS, OptimizerOptions, evaluation_point, make_optimizer
from richrep.training.parameter_groups import make_parameter_groups


def half_pruned(seed: int = 0) -> richrep.Backbone:
    """A small network of whose convolutions every second weight is pruned, with its masks."""
    backbone = make_small_cnn(3, widths=(4, 5), seed=seed)
    for parameter in backbone.trunk.parameters():
        if parameter.ndim == 4:
            parameter.data.view(-1)[::2] = 0
    return replace(backbone, masks=infer_masks(backbone.trunk, backbone.head), mask_source="zeros")


def train(backbone: richrep.Backbone, name: str, *, masked_gradients: bool) -> torch.optim.Optimizer:
    options = OptimizerOptions(name=name, lr=0.05, weight_decay=0.1)
    groups = make_parameter_groups(backbone.trunk, backbone.head, lr=options.lr, weight_decay=options.weight_decay)
    optimizer = make_optimizer(groups, options)
    masked = masked_parameters(backbone.trunk, backbone.head, backbone.masks)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        images, labels = torch.randn(6, 3, 8, 8, generator=generator), torch.randint(3, (6,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(backbone.head(backbone.trunk(images)), labels).backward()  # type: ignore[misc]
        if masked_gradients:
            mask_gradients(masked)
        optimizer.step()
        if not masked_gradients:
            keep_masks(masked, optimizer)
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_stay_zero_and_the_others_move_as_with_masked_gradients(name: str) -> None:
    ours, reference = half_pruned(), half_pruned()
    start = {key: value.clone() for key, value in ours.trunk.state_dict().items()}
    optimizers = [train(ours, name, masked_gradients=False), train(reference, name, masked_gradients=True)]
    with (
        evaluation_point(optimizers[0], ours.trunk, None),
        evaluation_point(optimizers[1], reference.trunk, None),
    ):
        for (parameter, pruned), (expected, _) in zip(
            *(masked_parameters(each.trunk, each.head, each.masks) for each in (ours, reference)), strict=True
        ):
            assert not parameter[pruned].any()
            torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-7)
    assert len(ours.masks) == 2
    assert all(not torch.equal(start[n], p) for n, p in ours.trunk.named_parameters())


def test_without_keeping_the_masks_pruned_weights_would_come_back() -> None:
    backbone = half_pruned()
    train(replace(backbone, masks={}), "sgd", masked_gradients=False)
    parameter, pruned = masked_parameters(backbone.trunk, None, backbone.masks)[0]
    assert parameter[pruned].all()


def test_keeping_masks_forgets_what_the_optimizer_remembers_of_pruned_weights() -> None:
    layer = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    masked = masked_parameters(layer, None, {"trunk.weight": torch.tensor([[True, False]])})
    keep_masks(masked, optimizer)
    state = optimizer.state[layer.weight]
    for values in (layer.weight, state["exp_avg"], state["exp_avg_sq"]):
        assert values[0, 0] != 0 and values[0, 1] == 0
    assert state["step"] == 1


def test_a_new_head_is_dense() -> None:
    backbone = half_pruned()
    masks = {**backbone.masks, "head.weight": torch.zeros(3, 5, dtype=torch.bool)}
    assert len(masked_parameters(backbone.trunk, None, masks)) == 2
    assert len(masked_parameters(backbone.trunk, backbone.head, masks)) == 3


def test_masks_of_a_concatenation_find_their_weights() -> None:
    both = richrep.concat(half_pruned(), half_pruned(seed=1))
    masked = masked_parameters(both.trunk, None, both.masks)
    assert len(masked) == 4
    assert all(not parameter[pruned].any() and parameter[~pruned].all() for parameter, pruned in masked)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"trunk.other": torch.ones(1)}, r"mask 'trunk.other' of shape \(1,\) fits nothing: .* no such parameter"),
        ({"trunk.weight": torch.ones(3, 2)}, r"shape \(3, 2\) fits nothing: .* a parameter of shape \(2, 2\)"),
    ],
)
def test_masks_that_fit_no_parameter_are_refused(mask: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(RichrepError, match=message):
        masked_parameters(nn.Linear(2, 2), None, {name: values.bool() for name, values in mask.items()})
