"""Features that are stored as float16: whether they fit."""

from __future__ import annotations

import torch

from richrep.data.split import Split
from richrep.errors import FeatureError
from richrep.features.manifest import Manifest

FP16_MAX = 65504.0  # the largest float16


def check_range(features: torch.Tensor, rows: range, manifest: Manifest, split: Split) -> None:
    """Raises FeatureError when `manifest` stores float16 and a value of features (rows, D) does not fit."""
    if manifest.store == "fp32":
        return
    too_large = (features.abs() > FP16_MAX).any(dim=1)
    if bool(too_large.any()):
        first = int(too_large.nonzero()[0])
        row = rows[first]
        raise FeatureError(
            f"The {manifest.layer} of {manifest.backbone!r} ({manifest.address}) reach "
            f"{float(features[first].abs().max()):.6g} for image {row} of {split.dataset}/{split.part} "
            f"({split.image_name(row)}), but float16 ends at {FP16_MAX:.0f}. Store them as float32: --store fp32."
        )
