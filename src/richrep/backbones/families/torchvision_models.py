"""Checkpoints of torchvision's classification architectures, with or without head, any number of classes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from richrep.backbones.blank import shapes_only
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.family import Layout, linear_head
from richrep.backbones.families.library_index import Entry, alike, count_values, load_index, nearest
from richrep.backbones.families.metadata import read_preprocessing
from richrep.backbones.families.stem_pool import heed_stem_pool
from richrep.data.preprocessing import Geometry, Preprocessing

# Published weights expect the input re-normalised inside the network; auxiliary heads serve training only.
_BUILD_OPTIONS: dict[str, dict[str, object]] = {
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": False, "init_weights": False},
}
_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
_SQUEEZENETS = {"squeezenet1_0": 512, "squeezenet1_1": 512}  # channels of the last map
_FIRST_WEIGHTS = ("IMAGENET1K_V1", "IMAGENET1K_SWAG_LINEAR_V1")  # every architecture has one, for its usual size


class TorchvisionFamily:
    """Whatever `torchvision.models.get_model` builds. A tag is a member of its weights enum, e.g. IMAGENET1K_V2."""

    name = "torchvision"
    yields_to: tuple[str, ...] = ()
    spelled = ""

    def architectures(self) -> Mapping[str, str]:
        """Every classification architecture of the index."""
        return {name: entry.describe() for name, entry in load_index(self.name).entries.items()}

    def tags(self, architecture: str) -> Sequence[str]:
        """Members of the weights enum, and DEFAULT."""
        import torchvision.models

        return tuple(torchvision.models.get_model_weights(architecture).__members__)

    def detect(self, checkpoint: Checkpoint) -> Sequence[str]:
        """By the number of values per top-level module."""
        return alike(load_index(self.name).entries, checkpoint.tensors)

    def nearest(self, checkpoint: Checkpoint) -> Sequence[str]:
        """By the same numbers."""
        return nearest(load_index(self.name).entries, checkpoint.tensors)

    def lay_out(self, architecture: str, checkpoint: Checkpoint) -> Layout:
        """Features are the input of the last linear layer; of SqueezeNet, the pooled map before its classifier."""
        name, _, tag = architecture.partition(".")
        assumed, source = published_preprocessing(name, tag)
        said = replace(checkpoint, preprocessing=None) if tag else checkpoint  # a tag given by hand counts more
        preprocessing, note = read_preprocessing(said, assumed, source)
        model = make_model(name, tag)
        hinted = heed_stem_pool(model, checkpoint.hints)
        auxiliary = [t for t in checkpoint.tensors if t.startswith(_AUXILIARY.get(name, ("\0",)))]
        notes = (note, f"auxiliary heads set aside: {len(auxiliary)} tensors") if auxiliary else (note,)
        if name in _SQUEEZENETS:
            parts = _squeezenet_parts(model, _SQUEEZENETS[name], checkpoint.tensors)
        else:
            parts = _linear_parts(model, checkpoint.tensors)
        return Layout(
            preprocessing=preprocessing, tensors=checkpoint.tensors, set_aside=auxiliary, notes=notes, **parts, **hinted
        )


def make_model(name: str, tag: str = "") -> nn.Module:
    """The architecture with 1000 classes; a ViT takes pictures of the size that the tag's weights expect."""
    import torchvision.models

    options = dict(_BUILD_OPTIONS.get(name, {}))
    if name.startswith("vit_") and tag:
        options["image_size"] = find_weights(name, tag).meta["min_size"][0]
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def list_names() -> list[str]:
    """Every classification architecture of the installed torchvision."""
    import torchvision.models

    return list(torchvision.models.list_models(module=torchvision.models))


def measure_entry(name: str) -> Entry:
    """The index entry of one architecture."""
    with shapes_only():
        model = make_model(name)
    if name in _SQUEEZENETS:
        return Entry(
            _SQUEEZENETS[name],
            ("classifier.1",),
            False,
            dict(count_values(model.get_submodule("features").state_dict(prefix="features.").items())),
        )
    prefix, linear = last_linear(model)
    _replace(model, prefix, nn.Identity())
    return Entry(linear.in_features, (prefix,), True, dict(count_values(model.state_dict().items())))


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the classifier: the last nn.Linear in order of definition."""
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return linears[-1]


def published_preprocessing(name: str, tag: str = "") -> tuple[Preprocessing, str]:
    """What torchvision's weights of that tag expect (default: its first weights), and a few words on the source."""
    weights = find_weights(name, *((tag,) if tag else _FIRST_WEIGHTS))
    transforms = weights.transforms()
    size, resize = transforms.crop_size[0], transforms.resize_size[0]
    geometry = Geometry((size, size), resize, str(transforms.interpolation.value))
    return Preprocessing(geometry, tuple(transforms.mean), tuple(transforms.std)), f"as torchvision's {weights.name}"


def find_weights(name: str, *tags: str) -> Any:
    """The first member of the architecture's weights enum that is one of `tags`."""
    import torchvision.models

    members = torchvision.models.get_model_weights(name).__members__
    return next(members[tag] for tag in tags if tag in members)


def _linear_parts(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    prefix, linear = last_linear(model)
    _replace(model, prefix, nn.Identity())
    head = linear_head(tensors, prefix, width=linear.in_features)
    return {"trunk": model, "feature_dim": linear.in_features, **head}


def _squeezenet_parts(model: Any, width: int, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The classifier is a 1x1 convolution before the pooling, so the trunk ends with the map."""
    parts: dict[str, Any] = {
        "trunk": nn.Sequential(OrderedDict(features=model.features)),
        "feature_dim": width,
        "pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    }
    weight = tensors.get("classifier.1.weight")
    if weight is not None and weight.ndim == 4:
        conv = nn.Conv2d(width, len(weight), kernel_size=1)
        head = nn.Sequential(OrderedDict(conv=conv, relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()))
        names = {"classifier.1.weight": "conv.weight", "classifier.1.bias": "conv.bias"}
        parts |= {"head": head, "head_names": names, "head_kind": "conv"}
    return parts


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
