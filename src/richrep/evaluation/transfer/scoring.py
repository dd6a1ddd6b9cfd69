"""Scores of a backbone's own head on a split, from the deterministic view of every image."""

from __future__ import annotations

import torch

from richrep.backbones.backbone import Backbone
from richrep.data.split import Split
from richrep.errors import DivergedError, FeatureError
from richrep.evaluation.metrics import accuracy, nll
from richrep.features.extract import extract_features


def own_logits(backbone: Backbone, split: Split, *, device: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, K) of the backbone's own head in float32, and labels (N,).

    Raises:
        DivergedError: a logit is not finite: the last step went too far, though the loss before it was finite.
    """
    try:
        found = extract_features(backbone, split, layer="logits", device=device)
    except FeatureError as error:
        raise DivergedError(
            f"Training diverged: the logits of {backbone.name} are not finite any more. Lower the learning rate."
        ) from error
    return torch.as_tensor(found.features[:]), found.labels


def quick_scores(backbone: Backbone, split: Split, *, device: str | None) -> dict[str, float]:
    """Accuracy and nll: what is watched during training."""
    logits, labels = own_logits(backbone, split, device=device)
    return {"accuracy": accuracy(preds=logits.argmax(1), labels=labels), "nll": nll(logits=logits, labels=labels)}
