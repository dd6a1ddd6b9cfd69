"""Protocols: which head is tuned how, one file each. PROTOCOLS is the registry; `--protocol NAME` names a member."""

from __future__ import annotations

from collections.abc import Callable

from richrep.evaluation.protocols.cosine import CosineProtocol
from richrep.evaluation.protocols.knn import KnnProtocol
from richrep.evaluation.protocols.logistic import LogisticProtocol
from richrep.evaluation.protocols.protocol import ProbeProtocol
from richrep.evaluation.protocols.prototypes import PrototypesProtocol
from richrep.evaluation.protocols.ridge import RidgeProtocol

PROTOCOLS: dict[str, Callable[..., ProbeProtocol]] = {
    "logistic": LogisticProtocol,
    "ridge": RidgeProtocol,
    "knn": KnnProtocol,
    "prototypes": PrototypesProtocol,
    "cosine": CosineProtocol,
}
