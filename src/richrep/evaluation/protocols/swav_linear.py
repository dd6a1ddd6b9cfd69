"""The linear probe of SwAV, by which its published numbers were made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from richrep.evaluation.protocols.sgd_linear import SgdLinearProtocol

# Caron et al., Unsupervised learning of visual features by contrasting cluster assignments, 2020,
# https://arxiv.org/abs/2006.09882: eval_linear.py of facebookresearch/swav. There every epoch sees other random crops;
# views of features stand for them, one an epoch, which cost as many extractions: `--views 1` takes the images as they
# are. One cell: nothing is chosen, val only says what to expect. Differs: the last epoch counts, theirs prints the best
# on the validation images that are the test; images are divided by ImageNet's standard deviations, theirs by 0.228 in
# the place of 0.229.
SWAV_LINEAR = SgdLinearProtocol(
    name="swav-linear",
    lrs=(0.3,),  # --lr, for 8 processes of 32 images
    weight_decays=(1e-6,),  # --wd
    epochs=100,
    batch_size=256,
    momentum=0.9,
    nesterov=False,
    decay_bias=True,
    batch_norm=False,  # --use_bn
    init="normal",  # N(0, 0.01²), bias 0
    cosine=True,  # --scheduler_type, stepped once an epoch, down to 0
    views=100,
    normalizations=("none",),
)


def swav_linear(**options: Any) -> SgdLinearProtocol:
    """Linear by SGD, 100 views, as SwAV: choose from a grid of one on val, then train on all training images."""
    return replace(SWAV_LINEAR, **options)
