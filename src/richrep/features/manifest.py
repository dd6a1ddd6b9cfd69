"""Manifest: everything the values of one feature matrix depend on, as a key and as a file people can read."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.data.preprocessing import Resizing
from richrep.data.split import Split
from richrep.errors import FeatureError, unknown_name_message
from richrep.features.views import NumberedView

FORMAT = "richrep features 1"
BLOCK_ROWS = 1024  # at 30 to 3,000 images/s a block takes 0.3 to 30 s; 8 MB at D = 2,048

Layer = Literal["features", "logits"]
Store = Literal["fp32", "fp16"]  # how values lie on the disk
# What a number may depend on; which engine computed it may not (features/engines/choose.py has the tolerances).
# fp32: float32 arithmetic everywhere, no TF32. bf16, fp16: products of 16-bit numbers, summed in float32.
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Request:
    """One feature matrix that is wanted: the features of a backbone, or the logits of its own head.

    Attributes:
        view: of this random view of every image; None is the image as the backbone's preprocessing frames it.
    """

    backbone: Backbone
    layer: Layer = "features"
    view: NumberedView | None = None

    def __post_init__(self) -> None:
        if self.layer not in get_args(Layer):
            raise FeatureError(unknown_name_message("layer", self.layer, get_args(Layer)))
        if self.layer == "logits" and (self.backbone.head is None or self.backbone.num_classes is None):
            raise FeatureError(
                f"{self.backbone.address} has no head of its own, so it gives no logits. Ask for its 'features'."
            )

    @property
    def dim(self) -> int:
        """D of the features, or K of the own head."""
        dim = self.backbone.feature_dim if self.layer == "features" else self.backbone.num_classes
        assert dim is not None  # __post_init__
        return dim


@dataclass(frozen=True)
class Manifest:
    """What one cache entry holds. Every field is known before the first image is read, so that two runs write the same.

    Attributes:
        key: SHA-256 (hex) of all that decides the values; `backbone`, `address`, `family`, `dataset`, `part` and `note`
            are for people and not part of it.
        weights: fingerprint of the backbone's tensors; structure: SHA-256 of its printed modules, which sees what
            tensors do not show (padding, stride, activation).
        images: fingerprint of the split: images, labels, class names and their order.
        rows, dim: N and D; block_rows: rows of a block, whole or not there.
        store: type of the stored values; "fp16" rounds what was computed.
    """

    key: str
    format: str
    backbone: str
    address: str
    family: str
    architecture: str
    weights: str
    structure: str
    layer: str
    precision: str
    preprocessing: dict[str, Any]
    dataset: str
    part: str
    note: str
    images: str
    rows: int
    dim: int
    block_rows: int
    store: Store = "fp32"

    @property
    def dtype(self) -> np.dtype:
        """NumPy type of the stored values, little-endian."""
        return np.dtype({"fp32": "<f4", "fp16": "<f2"}[self.store])

    @property
    def num_blocks(self) -> int:
        """Blocks of `block_rows` rows; the last may be shorter."""
        return -(-self.rows // self.block_rows)

    @property
    def title(self) -> str:
        """One line for messages, e.g. 'features of resnet20 on cifar10/train (1a2b3c4d5e6f)'."""
        return f"{self.layer} of {self.backbone} on {self.dataset}/{self.part}{self.of_view} ({self.key[:12]})"

    @property
    def of_view(self) -> str:
        """Which view they are of, e.g. ', view 3'; "" for the deterministic features."""
        view = self.preprocessing.get("view")
        return "" if view is None else f", view {view['number']}"

    def block_range(self, block: int) -> range:
        """The rows of `block`."""
        return range(block * self.block_rows, min((block + 1) * self.block_rows, self.rows))

    def to_json(self) -> str:
        """The text of manifest.json."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The manifest in `text`. Raises ValueError or TypeError when it is not one."""
        fields = json.loads(text)
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise ValueError(f"not a manifest of format {FORMAT!r}")
        if fields.get("store", "fp32") not in get_args(Store):
            raise ValueError(f"no storage type {fields['store']!r}")
        return cls(**fields)


_DECIDES_NOTHING = {"key", "backbone", "address", "family", "dataset", "part", "note"}


def make_manifest(
    request: Request,
    split: Split,
    *,
    block_rows: int = BLOCK_ROWS,
    store: Store = "fp32",
    precision: Precision = "fp32",
    fast_decode: bool = False,
    resizing: Resizing = "pillow",
) -> Manifest:
    """The manifest of `request` on `split`, with its key.

    `fast_decode`, `resizing` and the view count as part of the preprocessing; a view is cut from the whole image by
    Pillow, so the other two are nothing to it. Logits are stored as float32: scores are made of them.
    """
    backbone = request.backbone
    manifest = Manifest(
        key="",
        format=FORMAT,
        backbone=backbone.name,
        address=backbone.address,
        family=backbone.family,
        architecture=backbone.architecture,
        weights=backbone.fingerprint,
        structure=_structure(backbone),
        layer=request.layer,
        precision=precision,
        preprocessing=asdict(backbone.preprocessing) | _framed(request, fast_decode, resizing),
        dataset=split.dataset,
        part=split.part,
        note=split.note,
        images=split.fingerprint,
        rows=len(split),
        dim=request.dim,
        block_rows=block_rows,
        store=store if request.layer == "features" else "fp32",
    )
    decides = {name: value for name, value in asdict(manifest).items() if name not in _DECIDES_NOTHING}
    if manifest.store == "fp32":
        del decides["store"]  # entries from before there was a choice keep their keys
    return replace(manifest, key=hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest())


def _framed(request: Request, fast_decode: bool, resizing: Resizing) -> dict[str, Any]:
    """What comes before the backbone's own preprocessing, or in place of its resize and crop."""
    if request.view is not None:
        return {"view": asdict(request.view)}
    resized = {} if resizing == "pillow" else {"resizing": resizing}  # keys of before there was a choice stay
    return ({"decoding": "scaled"} if fast_decode else {}) | resized


def _structure(backbone: Backbone) -> str:
    """SHA-256 (hex) of the printed modules, without memory addresses."""
    modules: tuple[nn.Module | None, ...] = (backbone.trunk, backbone.pool, backbone.head)
    printed = re.sub(r" at 0x[0-9a-fA-F]+", "", "\0".join(repr(module) for module in modules))
    return hashlib.sha256(printed.encode()).hexdigest()
