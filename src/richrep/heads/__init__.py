"""Heads: features (N, D) -> logits (N, K), one method per file. HEADS is the registry."""

from __future__ import annotations

from richrep.heads.logistic import LogisticHead

HEADS = {"logistic": LogisticHead}
