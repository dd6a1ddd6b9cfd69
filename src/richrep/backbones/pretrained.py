"""Published weights of timm and torchvision, from the hub caches or, when the network is allowed, downloaded once.

Whatever arrives is read by `load_checkpoint` and loaded exactly, like a file of the user.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from richrep.backbones.backbone import Backbone
from richrep.backbones.blank import constant_weights
from richrep.backbones.checkpoint import load_checkpoint
from richrep.backbones.download import fetch_from_hugging_face, fetch_url
from richrep.backbones.families import FAMILIES
from richrep.backbones.families.detection import build_backbone, fits
from richrep.backbones.families.family import Family, knows, unknown_architecture
from richrep.backbones.families.torchvision_models import find_weights
from richrep.errors import AddressError, CheckpointError


def load_timm(name: str) -> Backbone:
    """`timm/NAME[.TAG]` with its published weights; without a tag, timm's default ones.

    Raises AddressError for an unknown name, CheckpointError when the weights are not there and cannot be fetched.
    """
    family = FAMILIES["timm"]
    _check_known(family, name)
    config = _timm_config(name)
    architecture, tag = config["architecture"], config["tag"]
    full_name = f"{architecture}.{tag}" if tag else architecture
    checkpoint = load_checkpoint(_timm_file(config, full_name), formats={})
    if config["label_offset"] or not fits(family, full_name, checkpoint):
        checkpoint = replace(checkpoint, tensors=_converted_by_timm(full_name, checkpoint.tensors))
    checkpoint = replace(checkpoint, metadata={"licence": config["license"] or "not stated"})
    backbone = build_backbone(family, full_name, checkpoint, address=f"timm/{name}")
    return _as_published(backbone, name=full_name, architecture=architecture)


def load_torchvision(name: str) -> Backbone:
    """`torchvision/NAME[.TAG]` with its published weights; without a tag, torchvision's default (best) ones.

    Raises AddressError for an unknown name, CheckpointError when the weights are not there and cannot be fetched.
    """
    family = FAMILIES["torchvision"]
    _check_known(family, name)
    architecture, _, tag = name.partition(".")
    weights = find_weights(architecture, tag or "DEFAULT")
    checkpoint = load_checkpoint(fetch_url(weights.url, what=f"torchvision/{name}"), formats={})
    full_name = f"{architecture}.{weights.name}"
    backbone = build_backbone(family, full_name, checkpoint, address=f"torchvision/{name}")
    return _as_published(backbone, name=full_name, architecture=architecture)


def _check_known(family: Family, name: str) -> None:
    if not knows(family, name):
        raise unknown_architecture([family], name)


def _as_published(backbone: Backbone, *, name: str, architecture: str) -> Backbone:
    """Preprocessing is not assumed here: it was published with the weights."""
    report = [line for line in backbone.load_report if not line.startswith("preprocessing:")]
    report.append(f"preprocessing: as published with {name}")
    return replace(backbone, name=name, architecture=architecture, load_report=tuple(report))


def _timm_config(name: str) -> dict[str, Any]:
    """timm's description of the weights: where they are, licence, number of classes."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    if config is None:
        raise AddressError(f"The installed timm does not know {name!r}; another version does. Install that version.")
    facts: dict[str, Any] = dataclasses.asdict(config)
    return {**facts, "architecture": name.partition(".")[0]}


def _timm_file(config: Mapping[str, Any], full_name: str) -> Path:
    what = f"timm/{full_name}"
    if config["hf_hub_id"]:
        return fetch_from_hugging_face(config["hf_hub_id"], config["hf_hub_filename"], what=what)
    if config["url"]:
        return fetch_url(config["url"], what=what)
    raise CheckpointError(
        f"timm publishes no weights of {full_name}. Use random/{full_name}, or ARCH@PATH with a file."
    )


def _converted_by_timm(full_name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under timm's names, by the conversion that timm has for these weights."""
    import timm

    try:
        with constant_weights():
            model = timm.create_model(full_name, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(tensors)})
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"timm cannot load its own weights of {full_name}: {' '.join(str(error).split())}"
        ) from None
    return dict(model.state_dict())
