"""Transferability: how well a network should do on a task, told from its training features without training a head.

One score per file; larger means better for all of them. SCORES is the registry.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from richrep.evaluation.transferability.cka import label_cka
from richrep.evaluation.transferability.h_score import h_score
from richrep.evaluation.transferability.leep import leep
from richrep.evaluation.transferability.logme import logme
from richrep.evaluation.transferability.nce import nce
from richrep.evaluation.transferability.shrunk_h_score import shrunk_h_score

Score = Callable[[torch.Tensor, torch.Tensor], float]

# Scores of features (N, D) and labels (N,).
FEATURE_SCORES: dict[str, Score] = {
    "logme": logme,
    "h-score": h_score,
    "shrunk-h-score": shrunk_h_score,
    "cka": label_cka,
}
# Scores of the probabilities (N, Z) that the network's own head gives its Z classes, and labels (N,).
OWN_HEAD_SCORES: dict[str, Score] = {"leep": leep, "nce": nce}
SCORES: dict[str, Score] = {**FEATURE_SCORES, **OWN_HEAD_SCORES}
