"""Protocols: which head is tuned how, one file each. PROTOCOLS is the registry; `--protocol NAME` names a member."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from richrep.errors import RichrepError, unknown_name_message
from richrep.evaluation.protocols.cosine import CosineProtocol
from richrep.evaluation.protocols.knn import KnnProtocol
from richrep.evaluation.protocols.kshot import KShotProtocol
from richrep.evaluation.protocols.logistic import LogisticProtocol
from richrep.evaluation.protocols.protocol import ProbeProtocol
from richrep.evaluation.protocols.prototypes import PrototypesProtocol
from richrep.evaluation.protocols.ridge import RidgeProtocol
from richrep.evaluation.protocols.vtab1k import Vtab1kProtocol

# A name that ends in ":N" is written with a number there, and is the member's own name then: "kshot:5".
PROTOCOLS: dict[str, Callable[..., ProbeProtocol]] = {
    "logistic": LogisticProtocol,
    "ridge": RidgeProtocol,
    "knn": KnnProtocol,
    "prototypes": PrototypesProtocol,
    "cosine": CosineProtocol,
    "vtab1k": Vtab1kProtocol,
    "kshot:N": KShotProtocol,
    "kshot-whole-val:N": KShotProtocol,
}


def make_protocol(name: str, **options: Any) -> ProbeProtocol:
    """The protocol of that name, with options in place of its defaults.

    Raises:
        RichrepError: no such protocol, or no number where one belongs.
    """
    base, colon, _ = name.partition(":")
    if colon and f"{base}:N" in PROTOCOLS:
        return PROTOCOLS[f"{base}:N"](name=name, **options)
    if name not in PROTOCOLS:
        raise RichrepError(unknown_name_message("protocol", name, PROTOCOLS))
    return PROTOCOLS[name](**options)
