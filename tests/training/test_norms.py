from __future__ import annotations

import pytest
import timm.layers
import timm.layers.grn
import torch
import torchvision
from torch import nn

from richrep.errors import RichrepError
from richrep.training.norms import is_norm, norm_types, recompute_norm_statistics, set_training


@pytest.mark.parametrize(
    "module",
    [
        nn.BatchNorm1d(2),
        nn.SyncBatchNorm(2),
        nn.InstanceNorm2d(2, affine=True),
        nn.GroupNorm(1, 2),
        nn.LayerNorm(2),
        nn.RMSNorm(2),
        timm.layers.LayerNorm2d(2),
        timm.layers.RmsNorm(2),
        timm.layers.BatchNormAct2d(2),
        timm.layers.EvoNorm2dS0(16),
        timm.layers.FilterResponseNormTlu2d(2),
        timm.layers.grn.GlobalResponseNorm(2),
        torchvision.ops.FrozenBatchNorm2d(2),
        torchvision.models.convnext.LayerNorm2d(2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_normalisation_layers_are_known_by_their_type(module: nn.Module) -> None:
    assert is_norm(module)


def test_every_class_of_timm_that_is_called_a_norm_is_known() -> None:
    classes = [c for name, c in vars(timm.layers).items() if "Norm" in name and isinstance(c, type)]
    modules = [c for c in classes if issubclass(c, nn.Module) and not issubclass(c, norm_types())]
    modules = [c for c in modules if not c.__name__.endswith(("ConvNormAct", "ConvNormActAa", "Mlp", "Head"))]
    assert modules == []  # but for layers with a norm inside, which is found by itself
    assert len(classes) > 20


def test_layers_with_a_norm_inside_are_not_norms() -> None:
    for module in (nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2)), timm.layers.ConvNormAct(2, 2)):
        assert not is_norm(module)


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_norms_in_eval_keep_their_statistics_while_their_weights_train() -> None:
    network = make_network()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    set_training(network, norms_in_eval=True)
    assert [module.training for module in network] == [True, False, True, True, False]
    network(torch.randn(5, 2)).sum().backward()
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(module.training for module in set_training(network))


def test_recomputed_statistics_are_the_mean_over_the_batches() -> None:
    network = nn.Sequential(nn.BatchNorm1d(1, momentum=0.3))
    network(torch.tensor([[100.0], [300.0]]))  # old statistics, to be forgotten
    recompute_norm_statistics(network, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [11.0]])])
    # means 2 and 8; unbiased variances 2 and 18
    assert network[0].running_mean == pytest.approx(5.0)
    assert network[0].running_var == pytest.approx(10.0)
    assert network[0].momentum == 0.3


def test_recomputing_agrees_with_torch_where_nothing_is_random() -> None:
    ours, theirs = make_network(), make_network()
    ours[2], theirs[2] = nn.Identity(), nn.Identity()
    batches = [torch.randn(6, 2) for _ in range(3)]
    recompute_norm_statistics(ours, batches)
    torch.optim.swa_utils.update_bn(batches, theirs)
    for found, expected in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(found, expected)


def test_recomputing_draws_nothing_and_leaves_modes_as_they_were() -> None:
    network = set_training(make_network(), norms_in_eval=True)
    modes, state = [module.training for module in network.modules()], torch.get_rng_state()
    recompute_norm_statistics(network, [torch.ones(2, 2)])
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_recomputing_from_nothing_is_refused() -> None:
    with pytest.raises(RichrepError, match="at least one batch of images, got none"):
        recompute_norm_statistics(make_network(), [])
    recompute_norm_statistics(nn.Linear(2, 2), [])  # nothing to recompute
