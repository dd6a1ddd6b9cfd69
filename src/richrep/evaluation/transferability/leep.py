"""LEEP: how well the network's own classes, as it sees them, tell the new ones."""

from __future__ import annotations

import torch

from richrep.evaluation.transferability.inputs import as_float64, one_hot


def leep(probs: torch.Tensor, labels: torch.Tensor) -> float:
    """LEEP: log likelihood of the labels given what the network's own head predicts.

    Mean log Σ_z P(y|z)·θ(x)_z, θ(x) being `probs` (N, Z) of the own head, and P(y|z) counted with them; <= 0. A head
    that gives every image the same tells nothing: minus the entropy of the labels.

    Source: Nguyen, Hassner, Seeger, Archambeau, LEEP: A New Measure to Evaluate Transferability of Learned
    Representations, 2020, https://arxiv.org/abs/2002.12462, equation 2.
    """
    values = as_float64(probs, labels, may_be_alike=True)
    targets = one_hot(labels)  # (N, K)
    joint = targets.T @ values / len(labels)  # (K, Z), P(y, z)
    conditional = joint / joint.sum(0).clamp(min=torch.finfo(torch.float64).tiny)  # P(y|z); an unused z weighs 0
    expected = (values @ conditional.T * targets).sum(1)  # (N,), of the true class
    return float(expected.log().mean())
