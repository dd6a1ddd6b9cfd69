"""RegNet-Y of any size, its shape read from the tensors; for formats that say it is one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from richrep.backbones.blank import shapes_only
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.family import Layout, linear_head
from richrep.backbones.families.library_index import count_values, load_index
from richrep.backbones.families.metadata import read_preprocessing
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import CheckpointError

_MAX_DEPTH = 100  # blocks of a stage; the deepest published has 18
_SE_RATIO = 0.25  # of the width at the block's input
_ASSUMED = Preprocessing(Geometry(size_px=(224, 224), resize_px=256))
_LAST_CONVOLUTION = re.compile(r"trunk_output\.block(\d+)\.block\1-(\d+)\.f\.c\.0\.weight")


@dataclass(frozen=True)
class RegNetShape:
    """Blocks, channels and channels per group of each stage, and the channels of the stem."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    group_widths: tuple[int, ...]
    stem_width: int = 32


# SEER's. Goyal et al. 2021, https://arxiv.org/abs/2103.01988; Goyal et al. 2022, https://arxiv.org/abs/2202.08360.
KNOWN = {
    "regnet_y_32gf": RegNetShape((2, 5, 12, 1), (232, 696, 1392, 3712), (232,) * 4),
    "regnet_y_64gf": RegNetShape((2, 5, 12, 1), (328, 984, 1968, 4920), (328,) * 4),
    "regnet_y_128gf": RegNetShape((2, 7, 17, 1), (528, 1056, 2904, 7392), (264,) * 4),
    "regnet_y_256gf": RegNetShape((2, 7, 17, 1), (746, 1492, 4103, 10444), (373,) * 4),
}


class RegNetFamily:
    """Radosavovic et al. Designing Network Design Spaces, CVPR 2020, https://arxiv.org/abs/2003.13678; torchvision's.

    Names of the parameters as in torchvision. Detects only files of VISSL, and of those the sizes that were published:
    a network that lost the last blocks of a stage looks like a smaller one. Any other is opened by a name that spells
    out its stages, e.g. `regnet_y_depths2-5-11-1_widths232-696-1392-3712@PATH`.
    """

    name = "regnet"
    yields_to: tuple[str, ...] = ("torchvision",)
    spelled = r"regnet_y_depths(\d+(?:-\d+)*)_widths(\d+(?:-\d+)*)"

    def architectures(self) -> Mapping[str, str]:
        """SEER's, of which torchvision has two."""
        return {name: f"SEER's RegNet-Y, {shape.widths[-1]} features" for name, shape in KNOWN.items()}

    def tags(self, architecture: str) -> Sequence[str]:
        """None: the format says the preprocessing."""
        return ()

    def detect(self, checkpoint: Checkpoint) -> Sequence[str]:
        """The one that the tensors say. Raises CheckpointError when it must be spelled out."""
        if checkpoint.format != "vissl" or "stem.0.weight" not in checkpoint.tensors:
            return []
        shape = _read_shape(checkpoint)
        name = _name(shape)
        if name not in KNOWN:
            _check_published(shape, f"{name}@{checkpoint.path}", checkpoint)
        return [name]

    def nearest(self, checkpoint: Checkpoint) -> Sequence[str]:
        """None: `detect` names the nearest already."""
        return ()

    def lay_out(self, architecture: str, checkpoint: Checkpoint) -> Layout:
        """Trunk up to the pooled features; head `fc`."""
        shape = KNOWN.get(architecture) or _spelled_shape(architecture, _read_shape(checkpoint), checkpoint)
        preprocessing, note = read_preprocessing(checkpoint, _ASSUMED, "224x224, ImageNet mean and std")
        width = shape.widths[-1]
        return Layout(
            trunk=_make_trunk(shape),
            preprocessing=preprocessing,
            feature_dim=width,
            tensors=checkpoint.tensors,
            notes=(note,),
            **linear_head(checkpoint.tensors, "fc", width=width),
        )


def _make_trunk(shape: RegNetShape) -> nn.Module:
    """torchvision's network without its classifier."""
    from torchvision.models.regnet import BlockParams, RegNet

    stages = len(shape.depths)
    params = BlockParams(
        depths=list(shape.depths),
        widths=list(shape.widths),
        group_widths=list(shape.group_widths),
        bottleneck_multipliers=[1.0] * stages,
        strides=[2] * stages,
        se_ratio=_SE_RATIO,
    )
    model: nn.Module = RegNet(params, num_classes=1, stem_width=shape.stem_width)
    model.fc = nn.Identity()
    return model


def _read_shape(checkpoint: Checkpoint) -> RegNetShape:
    """From the last and the grouped convolutions of the blocks."""
    blocks = [match.groups() for name in checkpoint.tensors if (match := _LAST_CONVOLUTION.fullmatch(name))]
    stages = sorted({int(stage) for stage, _ in blocks})
    if not stages or stages != list(range(1, len(stages) + 1)):
        raise CheckpointError(f"{checkpoint.path} has blocks in the stages {stages}, expected 1, 2, 3, … of a RegNet.")
    firsts = [f"trunk_output.block{stage}.block{stage}-0.f" for stage in stages]
    widths = [len(_convolution(checkpoint, f"{first}.c.0.weight")) for first in firsts]
    group_widths = [_convolution(checkpoint, f"{first}.b.0.weight").shape[1] for first in firsts]
    for width, group_width in zip(widths, group_widths, strict=True):
        if width % group_width:
            raise CheckpointError(
                f"{checkpoint.path} has a stage of {width} channels in groups of {group_width}, expected a multiple. "
                "The file is damaged."
            )
    return RegNetShape(
        depths=tuple(len([b for b in blocks if int(b[0]) == stage]) for stage in stages),
        widths=tuple(widths),
        group_widths=tuple(group_widths),
        stem_width=len(_convolution(checkpoint, "stem.0.weight")),
    )


def _convolution(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    weight = checkpoint.tensors.get(name)
    if weight is None or weight.ndim != 4 or 0 in weight.shape:
        found = "missing" if weight is None else f"of shape {tuple(weight.shape)}"
        raise CheckpointError(f"{checkpoint.path}: {name} is {found}, expected the weight of a convolution.")
    return weight


def _spelled_shape(architecture: str, found: RegNetShape, checkpoint: Checkpoint) -> RegNetShape:
    """The stages that the name says; stem and groups are the file's."""
    match = re.fullmatch(RegNetFamily.spelled, architecture)
    assert match, architecture
    depths, widths = (tuple(int(number) for number in part.split("-")) for part in match.groups())
    if len(depths) != len(widths) or widths != found.widths or not all(1 <= depth <= _MAX_DEPTH for depth in depths):
        raise CheckpointError(
            f"{checkpoint.path} does not hold {architecture}: its stages have {_dashed(found.widths)} channels and "
            f"{_dashed(found.depths)} blocks; expected these channels and 1 to {_MAX_DEPTH} blocks. Correct the name."
        )
    return replace(found, depths=depths)


def _check_published(shape: RegNetShape, spelled: str, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError unless timm has a RegNet-Y whose every stage has as many values."""
    with shapes_only():
        trunk = _make_trunk(shape).get_submodule("trunk_output").state_dict()
    stages = {name.replace("block", "s"): count for name, count in count_values(trunk.items()).items()}
    entries = {name: entry for name, entry in load_index("timm").entries.items() if name.startswith("regnety_")}
    if any(stages == {top: n for top, n in entry.trunk.items() if top != "stem"} for entry in entries.values()):
        return
    alike = [name for name, entry in entries.items() if entry.feature_dim == shape.widths[-1]]
    known = f"{' and '.join(alike)} has as many channels but other stages" if alike else "none has as many channels"
    raise CheckpointError(
        f"{checkpoint.path} holds a RegNet-Y with stages of {_dashed(shape.depths)} blocks and {_dashed(shape.widths)} "
        f"channels, which was never published: of timm's, {known}. If blocks are missing, get the whole file. If it "
        f"was trained like this, say so: {spelled}."
    )


def _dashed(numbers: Sequence[int]) -> str:
    return "-".join(map(str, numbers))


def _name(shape: RegNetShape) -> str:
    """SEER's with these widths, be blocks missing or not, else depths and widths."""
    for name, known in KNOWN.items():
        if shape.widths == known.widths:
            return name
    return f"regnet_y_depths{_dashed(shape.depths)}_widths{_dashed(shape.widths)}"
