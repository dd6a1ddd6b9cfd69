"""Transfer by training: protocols of fine-tuning, two-stage fine-tuning and distillation; the registries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from richrep.errors import RichrepError, unknown_name_message
from richrep.evaluation.transfer import distill_default
from richrep.evaluation.transfer.as_is import AS_IS
from richrep.evaluation.transfer.finetune_default import DEFAULT
from richrep.evaluation.transfer.protocol import DistillProtocol, FinetuneProtocol
from richrep.evaluation.transfer.rfc_synthesis import RFC_SYNTHESIS
from richrep.evaluation.transfer.rrl_distill import RRL_DISTILL
from richrep.evaluation.transfer.rrl_finetune import RRL_FINETUNE
from richrep.evaluation.transfer.rrl_two_stage import RrlTwoStage
from richrep.evaluation.transfer.sparse_finetune import SPARSE_FINETUNE
from richrep.evaluation.transfer.stage2 import Stage2Protocol
from richrep.evaluation.transfer.two_stage_logistic import TwoStageLogistic

FINETUNE_PROTOCOLS: dict[str, FinetuneProtocol] = {
    "default": DEFAULT,
    "rrl-finetune": RRL_FINETUNE,
    "sparse-finetune": SPARSE_FINETUNE,
    "as-is": AS_IS,
}

STAGE2_PROTOCOLS: dict[str, Stage2Protocol] = {
    "rrl-two-stage": RrlTwoStage(),
    "two-stage-logistic": TwoStageLogistic(),
}

DISTILL_PROTOCOLS: dict[str, DistillProtocol] = {
    "default": distill_default.DEFAULT,
    "rrl-distill": RRL_DISTILL,
    "rfc-synthesis": RFC_SYNTHESIS,
}

Member = TypeVar("Member")


def by_name(given: Member | str, registry: Mapping[str, Member], what: str = "protocol") -> Member:
    """`given`, or the member of `registry` of that name.

    Raises:
        RichrepError: no such name; it says those that are there, after `what` they are.
    """
    if not isinstance(given, str):
        return given
    if given not in registry:
        raise RichrepError(unknown_name_message(what, given, registry))
    return registry[given]
