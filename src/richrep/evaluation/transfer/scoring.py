"""Scores of a backbone's own head on a split, from the deterministic view of every image."""

from __future__ import annotations

import torch

from richrep.backbones.backbone import Backbone
from richrep.data.split import Split
from richrep.evaluation.metrics import accuracy, nll
from richrep.features.extract import extract_features


def own_logits(backbone: Backbone, split: Split, *, device: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, K) of the backbone's own head in float32, and labels (N,)."""
    found = extract_features(backbone, split, layer="logits", device=device)
    return torch.as_tensor(found.features[:]), found.labels


def quick_scores(backbone: Backbone, split: Split, *, device: str | None) -> dict[str, float]:
    """Accuracy and nll: what is watched during training."""
    logits, labels = own_logits(backbone, split, device=device)
    return {"accuracy": accuracy(preds=logits.argmax(1), labels=labels), "nll": nll(logits=logits, labels=labels)}
