"""Several backbones as one: D = D1 + D2 + …; the features are the members' features side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from richrep.backbones.backbone import Backbone, MaskSource
from richrep.data.preprocessing import Preprocessing

_PLAIN_MEAN, _PLAIN_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def concat(*backbones: Backbone) -> Backbone:
    """One backbone whose features (B, D1 + D2 + …) are those of `backbones`, in order; it has no head.

    Members with different mean or std get the same pixels in [0, 1], and each normalises them itself.

    Raises:
        ValueError: no backbones, or members that cut and resize images differently.
    """
    if not backbones:
        raise ValueError("concat needs at least one backbone, got none.")
    geometries = {backbone.preprocessing.geometry for backbone in backbones}
    if len(geometries) > 1:
        listed = "; ".join(f"{b.address}: {b.preprocessing.describe()}" for b in backbones)
        raise ValueError(
            f"concat needs backbones that resize and crop alike, got {listed}. Extract their features separately "
            "and concatenate those."
        )
    same_norm = len({(b.preprocessing.mean, b.preprocessing.std) for b in backbones}) == 1
    first = backbones[0].preprocessing
    preprocessing = first if same_norm else Preprocessing(first.geometry, _PLAIN_MEAN, _PLAIN_STD)
    name = f"cat({'+'.join(b.name for b in backbones)})"
    return Backbone(
        trunk=SideBySide(backbones, renormalize=not same_norm).eval(),
        preprocessing=preprocessing,
        address=f"cat({'+'.join(b.address for b in backbones)})",
        name=name,
        family="concat",
        architecture=f"cat({'+'.join(b.architecture for b in backbones)})",
        feature_dim=sum(b.feature_dim for b in backbones),
        sha256=hashlib.sha256("".join(b.sha256 or b.fingerprint for b in backbones).encode()).hexdigest(),
        licence="; ".join(dict.fromkeys(b.licence for b in backbones)),
        variant="\0".join(b.fingerprint for b in backbones),
        load_report=tuple(f"{b.name}: {line}" for b in backbones for line in b.load_report),
        masks=_masks(backbones, renormalize=not same_norm),
        mask_source=_mask_source(backbones),
    )


def _masks(backbones: Sequence[Backbone], *, renormalize: bool) -> dict[str, torch.Tensor]:
    """The masks of the members' trunks, under the names that `SideBySide` gives their weights."""
    place = int(renormalize)  # of the trunk in `_member`
    return {
        f"trunk.members.{i}.{place}.{name.removeprefix('trunk.')}": mask
        for i, backbone in enumerate(backbones)
        for name, mask in backbone.masks.items()
        if name.startswith("trunk.")
    }


def _mask_source(backbones: Sequence[Backbone]) -> MaskSource:
    """ "file" when every mask came from one; else layers without mask count by their zeros, as when inferred."""
    sources = {backbone.mask_source for backbone in backbones} - {""}
    return "file" if sources == {"file"} else "zeros" if sources else ""


class SideBySide(nn.Module):
    """Members run one after the other on the same images; shares their modules."""

    def __init__(self, backbones: Sequence[Backbone], *, renormalize: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(_member(backbone, renormalize=renormalize) for backbone in backbones)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, D1 + D2 + …)."""
        return torch.cat([member(images) for member in self.members], dim=1)


class Normalize(nn.Module):
    """Pixels in [0, 1] -> normalised as one member expects."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] -> the same shape."""
        normalized: torch.Tensor = (pixels - self.get_buffer("mean")) / self.get_buffer("std")
        return normalized


def _member(backbone: Backbone, *, renormalize: bool) -> nn.Sequential:
    parts = [Normalize(backbone.preprocessing)] if renormalize else []
    return nn.Sequential(*parts, backbone.trunk, backbone.pool)
