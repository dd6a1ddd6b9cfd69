"""What a checkpoint's metadata says of preprocessing, padding, licence and architecture; unknown texts are errors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from richrep.backbones.checkpoint import Checkpoint
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import CheckpointError

_INPUT = re.compile(r"(\d+)\s*x\s*(\d+) RGB, x/255 then \(x-mean\)/std")
_SYMMETRIC = re.compile(r"symmetric\b", re.IGNORECASE)
_SAME = re.compile(r"(tensorflow|tf)[ _-]?same\b|same\b", re.IGNORECASE)


def read_preprocessing(checkpoint: Checkpoint, assumed: Preprocessing, source: str) -> tuple[Preprocessing, str]:
    """Preprocessing by the metadata `input`, `mean` and `std`; what they do not say is taken from `assumed`.

    An `input` of HxW means: shorter side to max(H, W), bilinear, centre crop of HxW.

    Args:
        source: where `assumed` comes from, for the load report.

    Returns:
        The preprocessing, and a sentence for the load report that says what was read and what was assumed.
    """
    metadata = checkpoint.metadata
    if "model_args" in metadata:
        raise CheckpointError(
            f"{checkpoint.path}: config.json changes the architecture with model_args {metadata['model_args'][:200]}, "
            "which richrep does not follow. Give the weights file itself when that makes no difference."
        )
    if "pretrained_cfg" in metadata:
        assumed, source = _of_timm_config(checkpoint), "by the file's pretrained_cfg"
    if checkpoint.preprocessing is not None:
        assumed, source = checkpoint.preprocessing, f"as {checkpoint.format} trains"
    if ("mean" in metadata) != ("std" in metadata):
        raise CheckpointError(f"{checkpoint.path}: metadata has only one of mean and std, expected both or neither.")
    preprocessing, read = assumed, []
    if "input" in metadata:
        preprocessing, read = replace(preprocessing, geometry=_geometry(checkpoint)), ["input"]
    if "mean" in metadata:
        mean, std = _three_numbers(checkpoint, "mean"), _three_numbers(checkpoint, "std")
        if min(std) <= 0:
            raise CheckpointError(f"{checkpoint.path}: metadata std is {metadata['std']!r}, expected numbers > 0.")
        preprocessing, read = replace(preprocessing, mean=mean, std=std), [*read, "mean and std"]
    missing = [part for part in ("input", "mean and std") if part not in read]
    facts = [f"{', '.join(read)} read from the file"] if read else []
    known = "stated by the file" if checkpoint.preprocessing_stated else f"assumed ({source})"
    facts += [f"{', '.join(missing)} {known}"] if missing else []
    return preprocessing, f"preprocessing: {'; '.join(facts)}"


def timm_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    """What a timm configuration asks for; a crop_mode other than "center" and the plain "squash" becomes a crop."""
    _, height, width = config["input_size"]
    fraction = config.get("crop_pct", 0.875)
    interpolation = config.get("interpolation", "bicubic")
    if config.get("crop_mode") == "squash" and fraction == 1.0:
        geometry = Geometry((height, width), None, interpolation)
    else:
        resize = max(math.floor(min(height, width) / fraction), height, width)
        geometry = Geometry((height, width), resize, interpolation)
    return Preprocessing(geometry, tuple(config["mean"]), tuple(config["std"]))


def _of_timm_config(checkpoint: Checkpoint) -> Preprocessing:
    """The preprocessing of the `pretrained_cfg` in a config.json, as timm saves it to Hugging Face."""
    text = checkpoint.metadata["pretrained_cfg"]
    try:
        return timm_preprocessing(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: pretrained_cfg is no configuration of timm ({type(error).__name__}: {error}): "
            f"{text[:200]}. Expected input_size, mean and std. Repair config.json, or give the weights file itself."
        ) from None


def wants_same_padding(checkpoint: Checkpoint) -> bool:
    """Whether the metadata `padding` asks for TensorFlow's SAME; False for symmetric padding or no word about it."""
    text = checkpoint.metadata.get("padding", "symmetric")
    if _SYMMETRIC.match(text.strip()):
        return False
    if _SAME.match(text.strip()):
        return True
    raise CheckpointError(
        f"{checkpoint.path}: unknown padding {text!r} in the metadata. Known: texts that start with 'symmetric' or "
        "with 'TensorFlow SAME'."
    )


def licence_of(checkpoint: Checkpoint) -> str:
    """The licence as stated in the metadata, or "not stated"."""
    stated = checkpoint.metadata.get("licence") or checkpoint.metadata.get("license") or "not stated"
    return "not stated" if stated == "none stated" else stated


def named_in_metadata(checkpoint: Checkpoint, names: Iterable[str]) -> list[str]:
    """Those of `names` that the metadata `arch` or `architecture` mentions as a whole word."""
    text = f"{checkpoint.metadata.get('arch', '')} {checkpoint.metadata.get('architecture', '')}"
    words = set(re.findall(r"[\w.-]+", text))
    return [name for name in names if name in words]


def _geometry(checkpoint: Checkpoint) -> Geometry:
    text = checkpoint.metadata["input"]
    match = _INPUT.fullmatch(text.strip())
    if not match or 0 in (sizes := (int(match[1]), int(match[2]))):
        raise CheckpointError(
            f"{checkpoint.path}: unknown input {text!r} in the metadata, expected 'HxW RGB, x/255 then (x-mean)/std'."
        )
    return Geometry(size_px=sizes, resize_px=max(sizes))


def _three_numbers(checkpoint: Checkpoint, key: str) -> tuple[float, float, float]:
    text = checkpoint.metadata[key]
    try:
        first, second, third = (float(number) for number in json.loads(text))
    except (ValueError, TypeError):
        raise CheckpointError(
            f"{checkpoint.path}: metadata {key} is {text!r}, expected three numbers such as [0.485, 0.456, 0.406]."
        ) from None
    return first, second, third
