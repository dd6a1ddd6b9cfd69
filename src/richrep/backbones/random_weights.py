"""Backbones with random weights: the control that says what an architecture is worth without training."""

from __future__ import annotations

from pathlib import Path

from richrep.backbones.backbone import Backbone, Origin
from richrep.backbones.blank import isolated_rng
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.cifar_resnet import CifarResNetFamily
from richrep.backbones.families.family import Family, knows, unknown_architecture
from richrep.backbones.families.timm_models import TimmFamily
from richrep.backbones.hashing import sha256_of_tensors

_FAMILIES: tuple[Family, ...] = (TimmFamily(), CifarResNetFamily())  # timm first; they share no name


def known_names() -> list[str]:
    """Architectures that `random/NAME` builds."""
    return [name for family in _FAMILIES for name in family.architectures()]


def make_random_backbone(name: str, seed: int) -> Backbone:
    """The timm or CIFAR architecture `name`, initialised as its library does, from `seed`.

    The same name, seed and library version give the same weights; the global generators are not disturbed.
    """
    family = next((family for family in _FAMILIES if knows(family, name)), None)
    if family is None:
        raise unknown_architecture(_FAMILIES, name)
    nothing = Checkpoint(tensors={}, path=Path(f"random/{name}"), sha256="")
    with isolated_rng(seed):
        layout = family.lay_out(name, nothing)
    trunk = layout.trunk.eval()
    return Backbone(
        trunk=trunk,
        pool=layout.pool,
        preprocessing=layout.preprocessing,
        address=f"random/{name}",
        name=f"random-{name}",
        family=family.name,
        architecture=name,
        feature_dim=layout.feature_dim,
        sha256=sha256_of_tensors(trunk.state_dict()),
        origin=Origin(family.name),
        load_report=(f"weights drawn from seed {seed}; head: none", *layout.notes),
    )
