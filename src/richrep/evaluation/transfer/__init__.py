"""Transfer by training: protocols of fine-tuning, two-stage fine-tuning and distillation; FINETUNE_PROTOCOLS."""

from __future__ import annotations

from richrep.evaluation.transfer.finetune_default import DEFAULT
from richrep.evaluation.transfer.protocol import FinetuneProtocol
from richrep.evaluation.transfer.rrl_finetune import RRL_FINETUNE
from richrep.evaluation.transfer.sparse_finetune import SPARSE_FINETUNE

FINETUNE_PROTOCOLS: dict[str, FinetuneProtocol] = {
    "default": DEFAULT,
    "rrl-finetune": RRL_FINETUNE,
    "sparse-finetune": SPARSE_FINETUNE,
}
