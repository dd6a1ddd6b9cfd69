"""The linear probe of sparse transfer, on features extracted beforehand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from richrep.evaluation.protocols.sgd_linear import SgdLinearProtocol

# Iofinova, Peste, Kurtz, Alistarh, How well do sparse ImageNet models transfer?, 2022,
# https://arxiv.org/abs/2111.13445:
# finetune_pre_extracted_features.py of IST-DASLab/sparse-imagenet-transfer. No augmentation. One cell: nothing is
# chosen, val only says what to expect. Differs: the last epoch counts, theirs keeps that of highest test accuracy.
SPARSE_LINEAR = SgdLinearProtocol(
    name="sparse-linear",
    lrs=(0.01,),
    weight_decays=(5e-4,),
    epochs=150,
    batch_size=64,  # shuffled, last partial batch kept
    momentum=0.9,
    nesterov=False,
    decay_bias=True,  # weight decay on weight and bias
    batch_norm=False,
    init="default",  # uniform in ±1/sqrt(D)
    milestones=(51, 101),  # the rate falls at the end of epochs 50 and 100: 51 epochs at 1e-2, 50 at 1e-3, 49 at 1e-4
    gamma=0.1,
    normalizations=("none",),
)


def sparse_linear(**options: Any) -> SgdLinearProtocol:
    """Linear layer by SGD, as sparse transfer: choose from a grid of one on val, then train on all training images."""
    return replace(SPARSE_LINEAR, **options)
