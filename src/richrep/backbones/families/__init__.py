"""Checkpoint families: for each, which architectures a file may hold, and how trunk and head lie in it.

`FAMILIES` is the registry; family.py says how to add one.
"""

from __future__ import annotations

from richrep.backbones.families.cifar_resnet import CifarResNetFamily
from richrep.backbones.families.cifar_resnet18 import CifarResNet18Family
from richrep.backbones.families.family import Family
from richrep.backbones.families.mobilenet_v1 import MobileNetV1Family
from richrep.backbones.families.regnet import RegNetFamily
from richrep.backbones.families.side_by_side import SideBySideFamily
from richrep.backbones.families.timm_models import TimmFamily
from richrep.backbones.families.torchvision_models import TorchvisionFamily
from richrep.backbones.families.vit import VitFamily
from richrep.backbones.families.widened_resnet import WidenedResNetFamily

FAMILIES: dict[str, Family] = {
    "cifar-resnet": CifarResNetFamily(),
    "cifar-resnet18": CifarResNet18Family(),
    "widened-resnet": WidenedResNetFamily(),
    "mobilenet-v1": MobileNetV1Family(),
    "torchvision": TorchvisionFamily(),
    "timm": TimmFamily(),
    "regnet": RegNetFamily(),
    "vit": VitFamily(),
    "side-by-side": SideBySideFamily(
        (CifarResNetFamily(), CifarResNet18Family(), WidenedResNetFamily(), TorchvisionFamily())
    ),
}
