"""NCE: how much the own head's predicted class leaves open about the new one."""

from __future__ import annotations

import torch

from richrep.evaluation.transferability.inputs import as_float64, one_hot


def nce(probs: torch.Tensor, labels: torch.Tensor) -> float:
    """NCE: minus the entropy of the labels given the class the network's own head predicts.

    -H(Y|Z) in nats, Z the likeliest class of each row of probs (N, Z), Y the labels (N,); <= 0. Where Z is one
    class for every image it is -H(Y).

    Source: Tran, Nguyen, Hassner, Transferability and Hardness of Supervised Classification Tasks, 2019,
    https://arxiv.org/abs/1908.08142. Differs: the network's predicted class stands for the source label,
    as in LEEP's comparison, because the images have none.
    """
    values = as_float64(probs, labels, may_be_alike=True)
    joint = one_hot(labels).T @ one_hot(values.argmax(1)) / len(labels)  # (K, Z'), P(y, z)
    return float(torch.xlogy(joint, joint / joint.sum(0)).sum())
