"""TensorFlow's SAME padding, by hand and against timm's implementation."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from richrep.backbones.padding import SameConv2d, use_same_padding
from richrep.errors import CheckpointError


def test_an_even_picture_is_padded_right_and_below_only() -> None:
    conv = SameConv2d(1, 1, 3, stride=2, bias=False)
    conv.weight.data = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0, 0]).reshape(1, 1, 3, 3)  # picks the top left pixel
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(conv(x)[0, 0], torch.tensor([[0.0, 2.0], [8.0, 10.0]]))  # nothing padded before


def test_an_odd_picture_is_padded_on_both_sides() -> None:
    conv = SameConv2d(1, 1, 3, stride=2, bias=False)
    conv.weight.data = torch.ones(1, 1, 3, 3)
    assert torch.equal(conv(torch.ones(1, 1, 3, 3))[0, 0], torch.full((2, 2), 4.0))


@pytest.mark.parametrize("height", [7, 8, 9])
@pytest.mark.parametrize("width", [10, 11])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (7, 4, 1), (3, 2, 2), (1, 2, 1)])
def test_it_agrees_with_timm(height: int, width: int, kernel: int, stride: int, dilation: int) -> None:
    ours = SameConv2d(3, 4, kernel, stride=stride, dilation=dilation)
    theirs = Conv2dSame(3, 4, kernel, stride=stride, dilation=dilation)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, height, width)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_only_strided_padded_convolutions_change_and_names_stay() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1, stride=2)),
    )
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    use_same_padding(network, what="x")
    assert [type(m).__name__ for m in network.modules() if isinstance(m, nn.Conv2d)] == [
        "SameConv2d",
        "Conv2d",
        "Conv2d",
    ]
    after = network.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_a_network_that_pools_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"x\.pt: the metadata asks for SAME padding, .* but 0 is a MaxPool2d"):
        use_same_padding(nn.Sequential(nn.MaxPool2d(3)), what="x.pt")
