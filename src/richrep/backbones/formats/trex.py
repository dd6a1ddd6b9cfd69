"""t-ReX: a ResNet with a projector, its average over training, and a memory of projected images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from richrep.backbones.formats.container import read_container
from richrep.backbones.formats.format import Network, set_aside_note, split_off, under
from richrep.data.preprocessing import Geometry, Preprocessing

# naver/trex, transfer suite: the shorter side to 224 without a margin
TRANSFER = Preprocessing(Geometry(size_px=(224, 224), resize_px=224, interpolation="bicubic"))
_BESIDE = {  # what -> its names; the first that matches counts
    "projector": r"model\.head\.",
    "projector of the average": r"model_ema\.head\.",
    "memory": r"memory\.",
    "class weights": r"clf\.",
    "other tensors": r"",
}


class TrexFormat:
    """Training checkpoints of naver/trex; its encoder-only files are plain ResNets and need no format."""

    name = "trex"
    description = "t-ReX and t-ReX*: ResNet-50 as trained (#online) and averaged over training (#ema)"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The trained network "online", and its average "ema" unless the file is of the loss with class weights.

        Last the "memory" (features, labels, ptr): no network; `load_checkpoint` reads it, `load_backbone` refuses it.
        """
        tensors, notes = read_container(content, "model")
        online, average = under(tensors, "model.encoder."), under(tensors, "model_ema.encoder.")
        if not online or not under(tensors, "model.head.layers."):
            return []
        beside, _ = split_off(tensors, r"model(_ema)?\.encoder\.")
        for what, pattern in _BESIDE.items():
            beside, taken = split_off(beside, pattern)
            notes += set_aside_note(what, taken)
        networks = [Network(online, name="online", notes=notes, preprocessing=TRANSFER)]
        if average:
            networks.append(Network(average, name="ema", notes=notes, preprocessing=TRANSFER))
        if memory := under(tensors, "memory."):
            networks.append(Network(memory, name="memory", notes=("a memory of projected images, not a network",)))
        return networks
