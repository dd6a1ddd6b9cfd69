"""Checkpoint families: for each, which architectures a file may hold, and how trunk and head lie in it.

`FAMILIES` is the registry; family.py says how to add one.
"""

from __future__ import annotations

from richrep.backbones.families.cifar_resnet import CifarResNetFamily
from richrep.backbones.families.family import Family
from richrep.backbones.families.timm_models import TimmFamily
from richrep.backbones.families.torchvision_models import TorchvisionFamily

FAMILIES: dict[str, Family] = {
    "cifar-resnet": CifarResNetFamily(),
    "torchvision": TorchvisionFamily(),
    "timm": TimmFamily(),
}
