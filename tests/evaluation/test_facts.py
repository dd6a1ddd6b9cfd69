from __future__ import annotations

import torch

from richrep.evaluation.facts import engine_facts
from richrep.features.feature_set import Block, FeatureSet


def computed_by(engine: str) -> FeatureSet:
    return FeatureSet(torch.zeros(2, 3), torch.tensor([0, 1]), 2, (Block("a", 0, 3),), key="", engine=engine)


def test_the_engines_of_cached_and_fresh_features_are_each_named_once() -> None:
    sets = [computed_by("openvino (cached)+torch"), computed_by("torch"), computed_by("")]
    assert engine_facts(sets) == {"engine": "cache+openvino (cached)+torch"}  # no version of what was cached
