"""Tensors of a file against a network: by hand on a three-layer network."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from richrep.backbones.matching import check_finite, compare, describe_ignored, load_exactly
from richrep.errors import CheckpointError


def make_network() -> nn.Module:
    return nn.Sequential(
        OrderedDict(conv1=nn.Conv2d(3, 4, 3), bn1=nn.BatchNorm2d(4), layer1=nn.Sequential(nn.Linear(4, 2)))
    )


def make_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    state = make_network().state_dict()
    return {n: torch.randn(t.shape, generator=generator) if t.is_floating_point() else t for n, t in state.items()}


def test_everything_is_loaded_and_counted_without_batch_counters() -> None:
    network, tensors = make_network(), make_tensors()
    comparison = load_exactly(network, tensors, what="file")
    # conv1: 2, bn1: weight, bias, mean, variance, layer1.0: 2
    assert (comparison.matched, comparison.total, comparison.ignored) == (8, 8, ())
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in network.state_dict().items())


def test_loaded_weights_share_no_memory_with_the_file() -> None:
    network, tensors = make_network(), make_tensors()
    load_exactly(network, tensors, what="file")
    tensors["conv1.weight"].zero_()
    assert network.state_dict()["conv1.weight"].abs().sum() > 0


def test_old_files_without_batch_counters_load() -> None:
    network, tensors = make_network(), make_tensors()
    del tensors["bn1.num_batches_tracked"]
    load_exactly(network, tensors, what="file")
    assert network.state_dict()["bn1.num_batches_tracked"] == 0


def test_a_network_on_the_meta_device_is_filled() -> None:
    with torch.device("meta"):
        network = make_network()
    load_exactly(network, make_tensors(), what="file")
    assert not any(t.is_meta for t in network.state_dict().values())
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_cast_to_float32(dtype: torch.dtype) -> None:
    network, tensors = make_network(), make_tensors()
    tensors["conv1.weight"] = tensors["conv1.weight"].to(dtype)
    load_exactly(network, tensors, what="file")
    assert torch.equal(network.state_dict()["conv1.weight"], tensors["conv1.weight"].float())
    assert network.state_dict()["conv1.weight"].dtype == torch.float32


def test_all_mismatches_are_listed_at_once_by_side_and_nothing_is_loaded() -> None:
    network, tensors = make_network(), make_tensors()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    del tensors["conv1.bias"], tensors["bn1.running_var"]
    tensors["layer1.1.weight"] = torch.zeros(1)
    tensors["layer2.0.weight"] = torch.zeros(1)
    tensors["conv1.weight"] = torch.zeros(4, 3, 1, 1)  # would broadcast
    with pytest.raises(CheckpointError) as caught:
        load_exactly(network, tensors, what="a.pth as net")
    assert str(caught.value) == (
        "a.pth as net does not fit: 2 in the network but missing in the file: conv1.bias, bn1.running_var; "
        "2 in the file but not in the network: layer1.1.weight, layer2.0.weight; "
        "1 of another shape or type: conv1.weight: file (4, 3, 1, 1), network (4, 3, 3, 3). Nothing was loaded."
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (torch.zeros(2, dtype=torch.int8), "file torch.int8, network torch.float32"),
        (torch.zeros(2, dtype=torch.complex64), "file torch.complex64, network torch.float32"),
        (torch.zeros(2).to_sparse(), "file holds a torch.sparse_coo tensor, network a dense one"),
    ],
)
def test_integers_and_sparse_tensors_are_no_weights(tensor: torch.Tensor, text: str) -> None:
    comparison = compare({**make_tensors(), "layer1.0.bias": tensor}, make_network().state_dict())
    assert comparison.misshapen == (f"layer1.0.bias: {text}",)


def test_surplus_under_foreign_names_is_ignored_and_under_numbered_siblings_is_not() -> None:
    surplus = {name: torch.zeros(1) for name in ("projector.0.weight", "ema.conv1.weight", "conv2.weight", "bn7.bias")}
    comparison = compare({**make_tensors(), **surplus}, make_network().state_dict())
    assert comparison.ignored == ("projector.0.weight", "ema.conv1.weight")
    assert comparison.unexpected == ("conv2.weight", "bn7.bias")


@pytest.mark.parametrize("name", ["register_tokens", "pool.p", "adapter.conv.weight", "lora.a", "fc_norm.weight"])
def test_surplus_of_an_unknown_name_is_unexpected(name: str) -> None:
    comparison = compare({**make_tensors(), name: torch.zeros(1)}, make_network().state_dict())
    assert (comparison.unexpected, comparison.ignored, comparison.fits) == ((name,), (), False)


def test_values_that_are_not_finite_name_their_tensors() -> None:
    tensors = make_tensors()
    tensors["conv1.weight"][0] = float("nan")
    tensors["bn1.bias"][1] = float("inf")
    with pytest.raises(
        CheckpointError, match=r"a\.pth: 2 tensors hold values that are not finite .*conv1\.weight, bn1"
    ):
        load_exactly(make_network(), tensors, what="a.pth")
    check_finite({"n": torch.tensor(3)}, what="integers are always finite")
    check_finite({"n": torch.ones(3).to(torch.float8_e4m3fn)}, what="a type without most operations")


def test_ignored_tensors_are_described_in_one_phrase() -> None:
    assert describe_ignored([]) == "none"
    assert describe_ignored(["a"]) == "1 tensor (a)"
    assert describe_ignored("abcdefgh") == "8 tensors (a, b, c, d, e, f, …)"


def test_long_lists_are_cut_and_counted() -> None:
    comparison = compare({}, {f"w{i}": torch.zeros(1) for i in range(45)})
    assert comparison.describe().endswith("w39, … (5 more)")


def test_in_a_whole_network_nothing_is_foreign() -> None:
    tensors = {**make_tensors(), "projector.0.weight": torch.zeros(1)}
    comparison = compare(tensors, make_network().state_dict(), whole=True)
    assert (comparison.ignored, comparison.unexpected) == ((), ("projector.0.weight",))
