"""The pooling of a ResNet's stem, where a file asks for another than torchvision's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from torch import nn


class Heeded(TypedDict, total=False):
    """The two fields of a `Layout` that say so."""

    heeded: Sequence[str]
    variant: str


def heed_stem_pool(model: nn.Module, hints: Mapping[str, str]) -> Heeded:
    """Follows {"stem_pool": "tf-same"}, in place, where `model` is a ResNet: pads one pixel right and below, no other.

    Padding with zeros or with -inf is the same there: the pooling follows a ReLU. Other networks stay as they are.
    """
    pool = getattr(model, "maxpool", None)
    is_usual = isinstance(pool, nn.MaxPool2d) and (pool.kernel_size, pool.stride, pool.padding) == (3, 2, 1)
    if not is_usual or hints.get("stem_pool") != "tf-same":
        return {}
    model.maxpool = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, stride=2))
    return {"heeded": ("stem_pool",), "variant": "SAME pooling in the stem"}
