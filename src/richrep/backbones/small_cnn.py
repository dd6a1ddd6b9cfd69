"""A small convolutional network for the demonstration and for tests: trains in seconds on a CPU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.backbones.blank import isolated_rng
from richrep.backbones.hashing import sha256_of_tensors
from richrep.data.preprocessing import Geometry, Preprocessing

_MEAN, _STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # pixels to [-1, 1]


def make_small_cnn(
    num_classes: int, *, size_px: int = 8, widths: Sequence[int] = (16, 32, 64), seed: int = 0
) -> Backbone:
    """An untrained network: per width a 3x3 convolution, batch norm and ReLU; then global average pooling and a head.

    The first stage keeps the resolution, every further one halves it.

    Args:
        num_classes: K of the linear head.
        size_px: height and width of the images.
        widths: channels of the stages; the last one is the feature dimension.
        seed: draws the weights; the global generators are not disturbed.
    """
    if num_classes < 1 or not widths:
        raise ValueError(f"A small CNN needs num_classes >= 1 and a width, got {num_classes} and {tuple(widths)}.")
    with isolated_rng(seed):
        trunk = nn.Sequential(OrderedDict((f"stage{i}", _make_stage(widths, i)) for i in range(len(widths))))
        head = nn.Linear(widths[-1], num_classes)
    architecture = f"small-cnn-{'-'.join(map(str, widths))}"
    return Backbone(
        trunk=nn.Sequential(OrderedDict(stages=trunk, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())).eval(),
        head=head.eval(),
        preprocessing=Preprocessing(Geometry((size_px, size_px), size_px), _MEAN, _STD),
        address=architecture,
        name=architecture,
        family="small-cnn",
        architecture=architecture,
        feature_dim=widths[-1],
        num_classes=num_classes,
        sha256=sha256_of_tensors({**trunk.state_dict(), **head.state_dict(prefix="head.")}),
        load_report=(f"weights drawn from seed {seed}; head: {num_classes} classes (linear)",),
    )


def _make_stage(widths: Sequence[int], index: int) -> nn.Sequential:
    in_channels = widths[index - 1] if index else 3
    conv = nn.Conv2d(in_channels, widths[index], 3, stride=2 if index else 1, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(widths[index]), nn.ReLU())
