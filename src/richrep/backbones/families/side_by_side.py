"""Several networks of one file as one backbone: `model0.*`, `model1.*`, …, and a head on all their features."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import nn

from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.detection import find_architecture
from richrep.backbones.families.family import Family, Layout, knows, linear_head
from richrep.errors import CheckpointError

_MAX_NETWORKS = 64
_PUBLISHED = (  # of TjuJianyu/RRL; detection also finds any other row of networks
    *(f"{n}resnet50" for n in (2, 4, 5, 10)),
    *(f"{n}resnet152" for n in (2, 5, 10)),
    *(f"{n}cifar_resnet18" for n in (2, 4)),
    "5resnet50+resnet50w2+resnet50w4",
    "5resnet50+resnet50w2+resnet50w4+resnet50w5",
)


class SideBySide(nn.Module):
    """Networks `model0`, `model1`, … on the same images; their features side by side."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        super().__init__()
        for i, layout in enumerate(layouts):
            self.add_module(f"model{i}", layout.trunk)
        self.pools = nn.ModuleList(layout.pool for layout in layouts)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, D1 + D2 + …)."""
        features = [pool(self.get_submodule(f"model{i}")(images)) for i, pool in enumerate(self.pools)]
        return torch.cat(features, dim=1)


class SideBySideFamily:
    """Rows of networks, e.g. 2resnet50 or 5resnet50+resnet50w2: each is of one of the given families.

    Args:
        parts: the families that the single networks may be of; no two share the name of an architecture.
    """

    name = "side-by-side"
    yields_to: tuple[str, ...] = ()
    spelled = ""

    def __init__(self, parts: Sequence[Family]) -> None:
        self.parts = tuple(parts)

    def architectures(self) -> Mapping[str, str]:
        """The published rows."""
        return {name: f"{len(_networks_in(name))} networks side by side, as one" for name in _PUBLISHED}

    def tags(self, architecture: str) -> Sequence[str]:
        """None: the preprocessing is the networks'."""
        return ()

    def detect(self, checkpoint: Checkpoint) -> Sequence[str]:
        """The row of the architectures found one by one.

        Raises CheckpointError when one of the networks fits nothing: the row cannot be anything else either.
        """
        numbers = {match[1] for name in checkpoint.tensors if (match := re.match(r"model(\d+)\.", name))}
        if len(numbers) < 2:
            return []
        if len(numbers) > _MAX_NETWORKS:
            raise CheckpointError(f"{len(numbers):,} networks side by side, expected at most {_MAX_NETWORKS}.")
        names = []
        for i in range(len(numbers)):
            try:
                names.append(find_architecture(self.parts, _part(checkpoint, i))[0].architecture)
            except CheckpointError as error:
                raise CheckpointError(f"Of {len(numbers)} networks side by side, model{i}: {error}") from None
        return [_name_of(names)]

    def nearest(self, checkpoint: Checkpoint) -> Sequence[str]:
        """None: `detect` names the nearest already."""
        return ()

    def lay_out(self, architecture: str, checkpoint: Checkpoint) -> Layout:
        """All networks, without the heads that single ones may have; head `fc` on their features side by side."""
        layouts = [
            next(family for family in self.parts if knows(family, name)).lay_out(name, _part(checkpoint, i))
            for i, name in enumerate(_networks_in(architecture))
        ]
        preprocessing = layouts[0].preprocessing
        if any(layout.preprocessing != preprocessing for layout in layouts):
            listed = "; ".join(f"model{i}: {each.preprocessing.describe()}" for i, each in enumerate(layouts))
            raise CheckpointError(
                f"{checkpoint.path}: networks side by side need the same preprocessing, got {listed}. "
                "Save each as a file of its own and give them together."
            )
        width = sum(layout.feature_dim for layout in layouts)
        own_heads = [f"model{i}.{n}" for i, each in enumerate(layouts) for n in (*each.head_names, *each.set_aside)]
        notes = tuple(dict.fromkeys(note for layout in layouts for note in layout.notes))
        return Layout(
            trunk=SideBySide(layouts),
            preprocessing=preprocessing,
            feature_dim=width,
            tensors=_named_tensors(layouts, checkpoint),
            set_aside=own_heads,
            variant="; ".join(dict.fromkeys(layout.variant for layout in layouts if layout.variant)),
            notes=(*notes, f"heads of single networks set aside: {len(own_heads)} tensors") if own_heads else notes,
            heeded=[hint for hint in checkpoint.hints if all(hint in layout.heeded for layout in layouts)],
            **linear_head(checkpoint.tensors, "fc", width=width),
        )


def _part(checkpoint: Checkpoint, i: int) -> Checkpoint:
    """The i-th network as a checkpoint of its own."""
    start = f"model{i}."
    return replace(
        checkpoint,
        tensors={name.removeprefix(start): t for name, t in checkpoint.tensors.items() if name.startswith(start)},
        masks={name.removeprefix(start): m for name, m in checkpoint.masks.items() if name.startswith(start)},
    )


def _named_tensors(layouts: Sequence[Layout], checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The tensors of every layout under the name of its network, and all of the file that belongs to none."""
    starts = tuple(f"model{i}." for i in range(len(layouts)))
    others = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith(starts)}
    return others | {
        f"{start}{n}": t for start, each in zip(starts, layouts, strict=True) for n, t in each.tensors.items()
    }


def _name_of(names: Sequence[str]) -> str:
    """["resnet50", "resnet50", "resnet50w2"] -> "2resnet50+resnet50w2"."""
    runs = [(name, len(list(group))) for name, group in groupby(names)]
    return "+".join(f"{count if count > 1 else ''}{name}" for name, count in runs)


def _networks_in(architecture: str) -> list[str]:
    """ "2resnet50+resnet50w2" -> ["resnet50", "resnet50", "resnet50w2"]."""
    return [name for count, name in re.findall(r"(\d*)([^+]+)", architecture) for _ in range(int(count or 1))]
