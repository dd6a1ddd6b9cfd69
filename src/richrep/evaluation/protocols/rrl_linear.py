"""The linear probe of rich representations and of time-CAT, which follows that of VISSL and SEER."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from richrep.evaluation.protocols.sgd_linear import SgdLinearProtocol

# Zhang and Bottou, Learning useful representations for shifting tasks and distributions, 2023,
# https://arxiv.org/abs/2212.07346: the scripts of its repository (TjuJianyu/RRL), and time-CAT's, which say the same.
# There every epoch sees other random crops; views of features stand for them, one an epoch, which cost as many
# extractions: `--views 1` takes the images as they are. Differs: val chooses, and the last epoch counts.
_CIFAR = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2)  # also for data sets the papers do not have: the widest of their grids
RRL_LINEAR = SgdLinearProtocol(
    name="rrl-linear",
    lrs=(0.01,),  # for 256 images a step, no warm-up
    weight_decays=_CIFAR,
    weight_decays_of=(
        ("cifar10", _CIFAR),
        ("cifar100", _CIFAR),
        ("inat2018", (1e-6, 1e-5, 1e-4)),
        ("imagenet1k", (1e-4, 5e-4)),  # time-CAT
    ),
    epochs=28,
    batch_size=256,
    momentum=0.9,
    nesterov=True,  # --nesterov True; the default became False on 2023-03-07
    decay_bias=True,  # only batch normalisation is left out
    batch_norm=True,  # --use_bn True
    decay_batch_norm=False,  # --wd_skip_bn True
    init="normal",  # --headinit normal: N(0, 0.01²), bias 0
    milestones=(8, 16, 24),  # --decay_epochs 8 16 24
    gamma=0.1,
    views=28,
    normalizations=("none",),  # batch normalisation does it
)


def rrl_linear(**options: Any) -> SgdLinearProtocol:
    """BN and linear by SGD, 28 views, as RRL: choose the weight decay on val, then train on all training images."""
    return replace(RRL_LINEAR, **options)
