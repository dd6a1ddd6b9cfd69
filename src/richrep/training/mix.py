"""Mixup and CutMix: two images of a batch become one, and their labels soft targets; drawn from (seed, step) alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from richrep.backbones.blank import isolated_rng
from richrep.errors import RichrepError

_STREAM = 1  # fourth word of the seed: keeps these draws apart from those of the random views, which have three


@dataclass(frozen=True)
class MixOptions:
    """How often and how strongly images are mixed; a value to print, compare and store. The default mixes nothing.

    Attributes:
        mixup: alpha of mixup, >= 0; 0: never. The share of the first image is drawn from Beta(alpha, alpha).
        cutmix: alpha of CutMix, >= 0; 0: never. The share of the area that is kept is drawn likewise.
        probability: of mixing a batch at all, in [0, 1].
        cutmix_share: how often it is CutMix when both are on, in [0, 1].

    Source: Zhang et al., mixup, 2018, https://arxiv.org/abs/1710.09412; Yun et al., CutMix, 2019,
    https://arxiv.org/abs/1905.04899. One draw for a batch, as timm's default.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    cutmix_share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise RichrepError(f"{name} must be a number >= 0, 0 for never, got {getattr(self, name)}.")
        for name in ("probability", "cutmix_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise RichrepError(f"{name} must be in [0, 1], got {getattr(self, name)}.")

    @property
    def mixes(self) -> bool:
        """Whether any batch is ever mixed."""
        return bool(self.probability and (self.mixup or self.cutmix))


def mix_batch(
    images: torch.Tensor, labels: torch.Tensor, options: MixOptions, *, num_classes: int, seed: int, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images like `images` (B, 3, H, W), and soft targets (B, K) for labels (B,); each image mixed with its neighbour.

    The same numbers are drawn for the same (seed, step), whatever was drawn before, so a resumed training mixes alike;
    the global generators are not disturbed.

    Args:
        step: any number that no other batch of the training has.
    """
    from torchvision.transforms import v2

    generator = np.random.default_rng([seed, step, 0, _STREAM])
    mixes, is_cutmix = generator.random() < options.probability, generator.random() < options.cutmix_share
    if not (mixes and options.mixes):
        return images, F.one_hot(labels, num_classes).to(images.dtype)
    if options.cutmix and (is_cutmix or not options.mixup):
        mix = v2.CutMix(alpha=options.cutmix, num_classes=num_classes)
    else:
        mix = v2.MixUp(alpha=options.mixup, num_classes=num_classes)
    with isolated_rng(int(generator.integers(2**63))):  # torchvision draws from torch's generator of the CPU
        mixed, targets = mix(images, labels)
    return mixed, targets.to(images.dtype)
