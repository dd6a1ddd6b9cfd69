"""A backbone, whatever file it came from -> one safetensors file that loads back identically."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from richrep.backbones.backbone import Backbone
from richrep.backbones.formats.richrep_file import KEY, MASK, Facts
from richrep.errors import CheckpointError

_SUFFIX = ".safetensors"


def convert(backbone: Backbone, path: Path | str, *, overwrite: bool = False) -> Path:
    """Writes weights, own head, masks, preprocessing and the source's hash; whole, or not at all.

    Args:
        backbone: loaded from a checkpoint, a library or `random/NAME`.
        path: the new file, `*.safetensors`.
        overwrite: whether an existing file may be replaced.

    Raises:
        CheckpointError: the backbone is not one network of a known family, or the file cannot be written.
    """
    path = Path(os.path.expanduser(path))
    if backbone.origin is None:
        raise CheckpointError(
            f"{backbone.address} is not one network that richrep can lay out again, so it cannot be converted. "
            "Convert the networks it is made of."
        )
    if path.suffix != _SUFFIX:
        raise CheckpointError(f"{path} does not end in {_SUFFIX}, the format that convert writes. Name it so.")
    if os.path.exists(path) and not os.path.isfile(path):  # os.path: no error for names that no system has
        raise CheckpointError(f"{path} is there and is no file. Choose another name.")
    if os.path.exists(path) and not overwrite:
        raise CheckpointError(f"{path} is there already. Choose another name, or allow to overwrite it.")
    tensors = {name: tensor.contiguous() for name, tensor in _tensors(backbone).items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, temporary, metadata=_metadata(backbone))
        os.replace(temporary, path)
    except (OSError, SafetensorError, ValueError) as error:  # ValueError: a NUL byte in the name
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        raise CheckpointError(f"Cannot write {path} ({size / 1e6:.1f} MB are needed): {error}.") from None
    finally:
        if os.path.exists(temporary):
            temporary.unlink()
    return path


def _tensors(backbone: Backbone) -> dict[str, torch.Tensor]:
    """Trunk, head and masks under the names that the family expects in a file; no two share memory."""
    assert backbone.origin is not None
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in backbone.trunk.state_dict().items()}
    in_file = {f"trunk.{name}": name for name in tensors}
    head = backbone.head.state_dict() if backbone.head is not None else {}
    for name, name_in_head in backbone.origin.head_names.items():
        tensors[name] = head[name_in_head].detach().cpu().clone()
        in_file[f"head.{name_in_head}"] = name
    if backbone.mask_source == "file":
        tensors |= {f"{MASK}{in_file[name]}": mask.cpu().clone() for name, mask in backbone.masks.items()}
    return tensors


def _metadata(backbone: Backbone) -> dict[str, str]:
    """Texts beside the tensors: `richrep` for us, `arch`, `licence` and `padding` for everyone."""
    assert backbone.origin is not None
    geometry = backbone.preprocessing.geometry
    facts = Facts(
        family=backbone.family,
        layout=backbone.origin.family,
        architecture=backbone.architecture,
        size_px=geometry.size_px,
        resize_px=geometry.resize_px,
        interpolation=geometry.interpolation,
        mean=backbone.preprocessing.mean,
        std=backbone.preprocessing.std,
        hints=dict(backbone.origin.hints),
        licence=backbone.licence,
        source_address=backbone.address,
        source_sha256=backbone.sha256,
        notes=backbone.load_report,
    )
    padding = {"padding": "TensorFlow SAME"} if backbone.variant == "SAME padding" else {}
    return {
        KEY: facts.model_dump_json(by_alias=True),
        "arch": backbone.architecture,
        "licence": backbone.licence,
    } | padding
