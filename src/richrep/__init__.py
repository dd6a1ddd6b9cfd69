"""richrep: which pretrained vision networks represent a task best, and how much better they are together.

::

    images ──► backbone(s) ──► features ──► head ──► scores ──► record ──► report
    data/      backbones/      features/    heads/   evaluation/            reports/
                   ▲                          │
                   └─────── training/ ◄───────┘
    recipes/ runs all of this as recorded experiments; cli/ is the command line

>>> import richrep
>>> split = richrep.load_split("digits", "train")
>>> len(split), split.num_classes
(1258, 10)

Names are loaded when they are first used, so that `import richrep` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from richrep.backbones.addresses import load_backbone
    from richrep.backbones.backbone import Backbone
    from richrep.backbones.concat import concat
    from richrep.data.augment import RandomView
    from richrep.data.datasets import load_dataset, load_split
    from richrep.data.split import Dataset, Split
    from richrep.errors import RichrepError
    from richrep.evaluation.probe import probe
    from richrep.evaluation.protocols.logistic import LogisticProtocol
    from richrep.evaluation.rank import rank
    from richrep.evaluation.record import Record
    from richrep.evaluation.record_store import load_records, save_record
    from richrep.evaluation.search.search import SearchProtocol, search
    from richrep.evaluation.transfer.distill import distill
    from richrep.evaluation.transfer.finetune import finetune
    from richrep.evaluation.transfer.runs import Where
    from richrep.evaluation.transfer.two_stage import two_stage
    from richrep.features.cache import FeatureCache
    from richrep.features.extract import extract_features
    from richrep.features.feature_set import FeatureSet, concat_features
    from richrep.features.views import Views
    from richrep.heads.cosine import CosineHead
    from richrep.heads.knn import KnnHead
    from richrep.heads.logistic import LogisticHead
    from richrep.heads.logistic_path import fit_logistic_path
    from richrep.heads.prototypes import PrototypesHead
    from richrep.heads.ridge import RidgeHead
    from richrep.heads.ridge_path import fit_ridge_path
    from richrep.heads.sgd import SgdHead
    from richrep.training.pretrain import pretrain_supervised

_HOMES = {
    "Backbone": "richrep.backbones.backbone",
    "CosineHead": "richrep.heads.cosine",
    "Dataset": "richrep.data.split",
    "FeatureCache": "richrep.features.cache",
    "FeatureSet": "richrep.features.feature_set",
    "KnnHead": "richrep.heads.knn",
    "LogisticHead": "richrep.heads.logistic",
    "LogisticProtocol": "richrep.evaluation.protocols.logistic",
    "PrototypesHead": "richrep.heads.prototypes",
    "RandomView": "richrep.data.augment",
    "Record": "richrep.evaluation.record",
    "RichrepError": "richrep.errors",
    "RidgeHead": "richrep.heads.ridge",
    "SearchProtocol": "richrep.evaluation.search.search",
    "SgdHead": "richrep.heads.sgd",
    "Split": "richrep.data.split",
    "Views": "richrep.features.views",
    "Where": "richrep.evaluation.transfer.runs",
    "concat": "richrep.backbones.concat",
    "concat_features": "richrep.features.feature_set",
    "distill": "richrep.evaluation.transfer.distill",
    "extract_features": "richrep.features.extract",
    "finetune": "richrep.evaluation.transfer.finetune",
    "fit_logistic_path": "richrep.heads.logistic_path",
    "fit_ridge_path": "richrep.heads.ridge_path",
    "load_backbone": "richrep.backbones.addresses",
    "load_dataset": "richrep.data.datasets",
    "load_records": "richrep.evaluation.record_store",
    "load_split": "richrep.data.datasets",
    "pretrain_supervised": "richrep.training.pretrain",
    "probe": "richrep.evaluation.probe",
    "rank": "richrep.evaluation.rank",
    "save_record": "richrep.evaluation.record_store",
    "search": "richrep.evaluation.search.search",
    "two_stage": "richrep.evaluation.transfer.two_stage",
}

__all__ = [
    "Backbone",
    "CosineHead",
    "Dataset",
    "FeatureCache",
    "FeatureSet",
    "KnnHead",
    "LogisticHead",
    "LogisticProtocol",
    "PrototypesHead",
    "RandomView",
    "Record",
    "RichrepError",
    "RidgeHead",
    "SearchProtocol",
    "SgdHead",
    "Split",
    "Views",
    "Where",
    "concat",
    "concat_features",
    "distill",
    "extract_features",
    "finetune",
    "fit_logistic_path",
    "fit_ridge_path",
    "load_backbone",
    "load_dataset",
    "load_records",
    "load_split",
    "pretrain_supervised",
    "probe",
    "rank",
    "save_record",
    "search",
    "two_stage",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'richrep' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
