"""TensorFlow's SAME padding: what networks trained in TensorFlow expect where PyTorch pads both sides alike."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from richrep.errors import CheckpointError

_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d)


class SameConv2d(nn.Conv2d):
    """A convolution whose output is ceil(input / stride) pixels wide; the odd pixel of padding goes right and below.

    Source: TensorFlow, tf.nn.convolution, padding "SAME". At stride 2, kernel 3 and an even width: 0 before, 1 after.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        pads = []
        for axis in (1, 0):  # F.pad counts from the last dimension
            pixels, stride = input.shape[2 + axis], self.stride[axis]
            reach = (self.kernel_size[axis] - 1) * self.dilation[axis]  # pixels the kernel covers beyond the first
            total = max((-(-pixels // stride) - 1) * stride + reach + 1 - pixels, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(input, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def use_same_padding(network: nn.Module, *, what: str) -> None:
    """Replaces, in place, every strided padded convolution of `network` by one with SAME padding; names stay.

    Raises CheckpointError when the network also pools with stride: what SAME would mean there is not known.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, _POOLING):
            raise CheckpointError(
                f"{what}: the metadata asks for SAME padding, which is only known for convolutions, but {name} is a "
                f"{type(module).__name__}. Remove `padding` from the metadata if the network pads symmetrically."
            )
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and module.padding not in ((0, 0), 0, "valid"):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, _as_same(module))


def _as_same(conv: nn.Conv2d) -> SameConv2d:
    same = SameConv2d(
        conv.in_channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        stride=(conv.stride[0], conv.stride[1]),
        dilation=(conv.dilation[0], conv.dilation[1]),
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",
    )
    same.weight, same.bias = conv.weight, conv.bias
    return same
