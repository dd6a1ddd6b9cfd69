"""Some columns of a backbone's features as a backbone of their own."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from richrep.backbones.backbone import Backbone


class Columns(nn.Module):
    """Features (B, D) -> their columns [start, stop)."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, stop - start)."""
        return features[:, self.start : self.stop]


def with_columns(backbone: Backbone, start: int, stop: int) -> Backbone:
    """The backbone whose features (B, stop - start) are those columns of its own; without its head, weights shared.

    Raises:
        ValueError: columns that are not there.
    """
    if not 0 <= start < stop <= backbone.feature_dim:
        raise ValueError(f"{backbone.address} has {backbone.feature_dim} features, so no columns {start} to {stop}.")
    return replace(
        backbone,
        pool=nn.Sequential(backbone.pool, Columns(start, stop)),
        head=None,
        num_classes=None,
        class_names=(),
        address=f"{backbone.address}:columns={start}-{stop}",
        name=f"{backbone.name}[{start}:{stop}]",
        feature_dim=stop - start,
        variant="; ".join(filter(None, (backbone.variant, f"columns {start} to {stop}"))),
        masks={name: mask for name, mask in backbone.masks.items() if name.startswith("trunk.")},
        origin=None,
    )
