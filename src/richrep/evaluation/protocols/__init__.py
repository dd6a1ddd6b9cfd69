"""Protocols: which head is tuned how, one file each. `--protocol NAME` names a member of one of two registries.

PROTOCOLS select on val. LEGACY_TEST_SELECTION holds their twins that select on test as the papers did, and is a
registry of its own, so that no code that runs over PROTOCOLS meets one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from richrep.errors import RichrepError, unknown_name_message
from richrep.evaluation.protocols.cosine import CosineProtocol
from richrep.evaluation.protocols.knn import KnnProtocol
from richrep.evaluation.protocols.kshot import KShotProtocol, kshot_whole_val
from richrep.evaluation.protocols.legacy_test_selection import SUFFIX, LegacyTestSelection, twins
from richrep.evaluation.protocols.logistic import LogisticProtocol
from richrep.evaluation.protocols.protocol import ProbeProtocol
from richrep.evaluation.protocols.prototypes import PrototypesProtocol
from richrep.evaluation.protocols.ridge import RidgeProtocol
from richrep.evaluation.protocols.rrl_linear import rrl_linear
from richrep.evaluation.protocols.sparse_linear import sparse_linear
from richrep.evaluation.protocols.swav_linear import swav_linear
from richrep.evaluation.protocols.trex_lbfgs import TrexLbfgsProtocol, legacy_trex_lbfgs
from richrep.evaluation.protocols.trex_sgd import TrexSgdProtocol, legacy_trex_sgd
from richrep.evaluation.protocols.vtab1k import Vtab1kProtocol

# A name that ends in ":N" is written with a number there, and is the member's own name then: "kshot:5".
PROTOCOLS: dict[str, Callable[..., ProbeProtocol]] = {
    "logistic": LogisticProtocol,
    "ridge": RidgeProtocol,
    "knn": KnnProtocol,
    "prototypes": PrototypesProtocol,
    "cosine": CosineProtocol,
    "rrl-linear": rrl_linear,
    "sparse-linear": sparse_linear,
    "swav-linear": swav_linear,
    "trex-sgd": TrexSgdProtocol,
    "trex-lbfgs": TrexLbfgsProtocol,
    "legacy-trex-sgd": legacy_trex_sgd,
    "legacy-trex-lbfgs": legacy_trex_lbfgs,
    "vtab1k": Vtab1kProtocol,
    "kshot:N": KShotProtocol,
    "kshot-whole-val:N": kshot_whole_val,
}

_NUMBERED_TWIN = re.compile(rf"kshot:([1-9]\d{{0,8}})-{SUFFIX}")
LEGACY_TEST_SELECTION: dict[str, Callable[..., LegacyTestSelection]] = twins(
    {
        "logistic": LogisticProtocol,
        "rrl-linear": partial(rrl_linear, epoch="best"),  # "Best Acc@1 so far" is the highest of all epochs
        "sparse-linear": partial(sparse_linear, epoch="best"),  # best checkpoint = highest test top-1
        "swav-linear": partial(swav_linear, epoch="best"),  # "Best Acc@1 so far"
        "trex-sgd": TrexSgdProtocol,  # its papers' epoch is the last, and so is its twin's
        "trex-lbfgs": TrexLbfgsProtocol,
        "vtab1k": Vtab1kProtocol,
        "kshot:N": KShotProtocol,  # with test in the place of the folds
    }
)


def make_twin(name: str, **options: Any) -> LegacyTestSelection | None:
    """The twin of that name, with options in place of its base's defaults; None for a name that is no twin's."""
    number = _NUMBERED_TWIN.fullmatch(name)
    if number:
        return LEGACY_TEST_SELECTION[f"kshot:N-{SUFFIX}"](name=f"kshot:{number[1]}", **options)
    return LEGACY_TEST_SELECTION[name](**options) if name in LEGACY_TEST_SELECTION else None


def make_protocol(name: str, **options: Any) -> ProbeProtocol:
    """The protocol of that name, with options in place of its defaults.

    Raises:
        RichrepError: no such protocol, or no number where one belongs.
    """
    base, colon, _ = name.partition(":")
    if make_twin(name) is not None:
        raise RichrepError(f"{name} chooses on test; only richrep probe runs it, to compare with a paper's numbers.")
    if colon and f"{base}:N" in PROTOCOLS:
        return PROTOCOLS[f"{base}:N"](name=name, **options)
    if name not in PROTOCOLS:
        raise RichrepError(unknown_name_message("protocol", name, PROTOCOLS))
    return PROTOCOLS[name](**options)


def as_protocol(given: ProbeProtocol | LegacyTestSelection | str | None) -> ProbeProtocol | LegacyTestSelection:
    """`given`; for a name the protocol or the twin of that name; for None the default.

    Raises:
        RichrepError: no such name.
    """
    if given is None:
        return LogisticProtocol()
    return make_twin(given) or make_protocol(given) if isinstance(given, str) else given
