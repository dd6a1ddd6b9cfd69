"""Checkpoints of timm's architectures, with or without head, any number of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from richrep.backbones.blank import constant_weights, shapes_only
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.family import Layout, linear_head
from richrep.backbones.families.library_index import Entry, alike, count_values, load_index, nearest
from richrep.backbones.families.metadata import read_preprocessing, timm_preprocessing
from richrep.backbones.families.stem_pool import heed_stem_pool
from richrep.backbones.families.vit_hints import heed_vit_hints
from richrep.backbones.input_size import HINT, REFUSALS, hinted_size, set_size
from richrep.data.preprocessing import Preprocessing
from richrep.errors import CheckpointError

_INDEX_CLASSES = 1000  # of the classifiers that the index describes
_HIDDEN_LAYER = "pre_logits."  # of the first ViTs, also in files that timm published until 2022


class TimmFamily:
    """Whatever `timm.create_model` builds; features are what is left after `reset_classifier(0)`.

    A tag names weights of the architecture, e.g. `vit_base_patch16_224.augreg_in21k`, and with them preprocessing.
    """

    name = "timm"
    yields_to: tuple[str, ...] = ("torchvision", "vit")
    spelled = ""

    def architectures(self) -> Mapping[str, str]:
        """Every architecture of the index; the installed timm may lack the newest or know a few more."""
        return {name: entry.describe() for name, entry in load_index(self.name).entries.items()}

    def tags(self, architecture: str) -> Sequence[str]:
        """Of the weights that timm publishes for it."""
        from timm.models import list_pretrained

        return [name.partition(".")[2] for name in list_pretrained(f"{architecture}.*")]

    def detect(self, checkpoint: Checkpoint) -> Sequence[str]:
        """By the number of values per top-level module; only what the installed timm can build."""
        return _installed(alike(load_index(self.name).entries, checkpoint.tensors))

    def nearest(self, checkpoint: Checkpoint) -> Sequence[str]:
        """By the same numbers."""
        return _installed(nearest(load_index(self.name).entries, checkpoint.tensors))

    def lay_out(self, architecture: str, checkpoint: Checkpoint) -> Layout:
        """Trunk without classifier; head when the classifier is one nn.Linear on the features."""
        name, _, tag = architecture.partition(".")
        entry = find_entry(name)
        if not entry.feature_dim:
            raise CheckpointError(f"timm/{name} does not give one feature vector per image, so richrep cannot use it.")
        model = make_model(architecture)
        resized = _heed_size(model, checkpoint)
        assumed, note = published_preprocessing(model)
        model.reset_classifier(0)
        said = replace(checkpoint, preprocessing=None) if tag else checkpoint  # a tag given by hand counts more
        preprocessing, report = read_preprocessing(said, assumed, note)
        hidden = [n for n in checkpoint.tensors if n.startswith(_HIDDEN_LAYER)]  # between the features and the head
        is_linear = entry.is_linear and not hidden
        head = linear_head(checkpoint.tensors if is_linear else {}, "".join(entry.heads[:1]), width=entry.feature_dim)
        classifier = [n for n in checkpoint.tensors if n.rpartition(".")[0] in entry.heads]
        set_aside = [n for n in (*hidden, *classifier) if n not in head["head_names"]]
        notes = (
            (report, f"head set aside, it is not one linear layer: {len(set_aside)} tensors")
            if set_aside
            else (report,)
        )
        layout = Layout(
            trunk=model,
            preprocessing=preprocessing,
            feature_dim=entry.feature_dim,
            tensors=checkpoint.tensors,
            set_aside=set_aside,
            notes=notes,
            **head,
            **heed_stem_pool(model, checkpoint.hints),
        )
        layout = heed_vit_hints(layout, checkpoint)
        return replace(layout, heeded=(*layout.heeded, *resized))


def _heed_size(model: Any, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Sets a model to the size of images that the file says its network was set to; the hints heeded."""
    size = hinted_size(checkpoint)
    if size is None or not hasattr(model, "set_input_size"):
        return ()
    try:
        set_size(model, size)
    except REFUSALS as error:
        raise CheckpointError(
            f"{checkpoint.path} says that its network takes {size[0]}x{size[1]} px, and it cannot: "
            f"{str(error).rstrip('.')}. Get the file anew."
        ) from None
    return (HINT,)


def make_model(name: str, *, num_classes: int = _INDEX_CLASSES) -> Any:
    """The architecture in evaluation mode, without pretrained weights."""
    import timm

    return timm.create_model(name, pretrained=False, num_classes=num_classes).eval()


def list_names() -> list[str]:
    """Every architecture of the installed timm."""
    import timm

    return list(timm.list_models())


def find_entry(name: str) -> Entry:
    """From the index when it was made with the installed timm, else measured anew (about a second)."""
    import timm

    index = load_index("timm")
    if name in index.entries and index.version == timm.__version__:
        return index.entries[name]
    return measure_entry(name)


def measure_entry(name: str) -> Entry:
    """The index entry of one architecture, from a run without weights; where that cannot work, with constant ones."""
    try:
        with shapes_only():
            return _run_once(name, "meta")
    except (RuntimeError, NotImplementedError):  # constants of the network that do not move to the meta device
        with constant_weights():
            return _run_once(name, "cpu")


def _run_once(name: str, device: str) -> Entry:
    """The index entry from one pass of one image.

    The classifier counts as linear when its output is the network's output, and its input what the trunk returns.
    """
    model = make_model(name).to(device)
    full = model.state_dict()
    classifier = model.get_classifier()
    seen: dict[str, Any] = {}
    if isinstance(classifier, nn.Linear):
        classifier.register_forward_hook(lambda module, inputs, output: seen.update(input=inputs[0], output=output))
    images = torch.zeros(1, *model.pretrained_cfg["input_size"], device=device)
    with torch.no_grad():
        logits = model(images)
        model.reset_classifier(0)
        features = model(images)
    trunk = model.state_dict()
    heads = tuple(dict.fromkeys(n.rpartition(".")[0] for n in full if n not in trunk))
    is_vector = isinstance(features, torch.Tensor) and features.ndim == 2
    is_linear = is_vector and logits is seen.get("output") and seen["input"].shape == features.shape and len(heads) == 1
    return Entry(features.shape[1] if is_vector else 0, heads, bool(is_linear), dict(count_values(trunk.items())))


def published_preprocessing(model: Any) -> tuple[Preprocessing, str]:
    """What the architecture's default (or tagged) weights expect, and a few words on the source."""
    from timm.data.config import resolve_model_data_config

    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    known = (model.pretrained_cfg["architecture"], model.pretrained_cfg.get("tag"))
    note = f"as timm's {'.'.join(filter(None, known))}"
    if config["crop_mode"] != "center" and not (config["crop_mode"] == "squash" and config["crop_pct"] == 1.0):
        note += f", but cropped where timm would {config['crop_mode']}"
    return timm_preprocessing(config), note


def _installed(names: Sequence[str]) -> list[str]:
    """Those of `names` that the installed timm can build; timm is imported only when there are any."""
    if not names:
        return []
    import timm

    return [name for name in names if timm.is_model(name)]
