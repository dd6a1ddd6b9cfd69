"""Heads: features (N, D) -> logits (N, K), one method per file. HEADS is the registry."""

from __future__ import annotations

from richrep.heads.cosine import CosineHead
from richrep.heads.estimator import EstimatorHead
from richrep.heads.knn import KnnHead
from richrep.heads.logistic import LogisticHead
from richrep.heads.prototypes import PrototypesHead
from richrep.heads.ridge import RidgeHead
from richrep.heads.sgd import SgdHead

HEADS: dict[str, type[EstimatorHead]] = {
    "logistic": LogisticHead,
    "ridge": RidgeHead,
    "knn": KnnHead,
    "prototypes": PrototypesHead,
    "cosine": CosineHead,
    "sgd": SgdHead,
}
