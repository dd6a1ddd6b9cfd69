"""Checkpoint formats: for each training project, how its files hold their networks.

`FORMATS` is the registry; format.py says how to add one. Plain files (a state dict, perhaps in a container under
"state_dict" or "model") need no format.
"""

from __future__ import annotations

from richrep.backbones.formats.barlow_twins import BarlowTwinsFormat
from richrep.backbones.formats.byol import ByolFormat
from richrep.backbones.formats.clip import ClipFormat
from richrep.backbones.formats.dino import DinoFormat
from richrep.backbones.formats.format import Format
from richrep.backbones.formats.lottery import LotteryFormat
from richrep.backbones.formats.mae import MaeFormat
from richrep.backbones.formats.mfac import MfacFormat
from richrep.backbones.formats.moco import MocoFormat
from richrep.backbones.formats.richrep_file import RichrepFormat
from richrep.backbones.formats.rigl import RiglFormat
from richrep.backbones.formats.rigl_tensorflow import RiglTensorFlowFormat
from richrep.backbones.formats.rrl import RrlFormat
from richrep.backbones.formats.simsiam import SimSiamFormat
from richrep.backbones.formats.soft_threshold import StrFormat
from richrep.backbones.formats.sparse import SparseFormat
from richrep.backbones.formats.swav import SwavFormat
from richrep.backbones.formats.time_cat import TimeCatFormat
from richrep.backbones.formats.trex import TrexFormat
from richrep.backbones.formats.vicreg import VicregFormat
from richrep.backbones.formats.vissl import VisslFormat
from richrep.backbones.formats.vit_npz import VitNpzFormat

FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        RichrepFormat(),
        RrlFormat(),
        SwavFormat(),
        TimeCatFormat(),
        TrexFormat(),
        SparseFormat(),
        StrFormat(),
        LotteryFormat(),
        MfacFormat(),
        RiglFormat(),
        RiglTensorFlowFormat(),
        VisslFormat(),
        VitNpzFormat(),
        DinoFormat(),
        MocoFormat(),
        SimSiamFormat(),
        ByolFormat(),
        BarlowTwinsFormat(),
        VicregFormat(),
        MaeFormat(),
        ClipFormat(),
    )
}
