"""What a protocol is told before it runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from richrep.errors import DatasetError
from richrep.evaluation.prepare import prepare
from richrep.evaluation.protocols import LEGACY_TEST_SELECTION, PROTOCOLS
from richrep.evaluation.record import DatasetFacts
from richrep.evaluation.task import TaskFeatures
from richrep.features.feature_set import Block, FeatureSet

LABELS = np.repeat([0, 1], [20, 4])


def make_features(labels: np.ndarray = LABELS, name: str = "cifar10") -> TaskFeatures:
    """A task of one backbone whose val is the first three rows."""
    values = torch.zeros(len(labels), 2)
    features = FeatureSet(values, torch.from_numpy(labels), 2, (Block("one", 0, 2),), key="")
    counts = {"num_train": max(0, len(labels) - 3), "num_val": 3, "num_test": len(labels)}
    facts = DatasetFacts(address=name, name=name, num_classes=2, fingerprint="", val="by the seed", **counts)
    rows = np.arange(3, len(labels)), np.arange(3)
    return TaskFeatures((), (features,), (features,), {}, *rows, facts, 0.0)


def test_a_protocol_without_wishes_is_left_as_it_is() -> None:
    protocol, features = PROTOCOLS["logistic"](), make_features()
    assert prepare(protocol, features, seed=5) == (protocol, features)


def test_the_seed_and_the_data_sets_grid_reach_the_protocol() -> None:
    protocol, features = prepare(PROTOCOLS["rrl-linear"](), make_features(name="inat2018"), seed=5)
    assert (protocol.seed, protocol.weight_decays) == (5, (1e-6, 1e-5, 1e-4))
    assert features.facts.num_val == 3  # its val is the common one


def test_a_protocol_with_a_rule_for_val_cuts_its_own() -> None:
    protocol, features = prepare(PROTOCOLS["trex-lbfgs"](), make_features(), seed=5)
    assert len(features.val_rows) == 4 + 1  # 20·0.2, and one of four
    assert sorted([*features.train_rows, *features.val_rows]) == list(range(24))
    assert (features.facts.num_train, features.facts.num_val) == (19, 5)
    assert features.facts.val == "20% of train and val, per class, by trex-lbfgs, seed 5"
    again = prepare(protocol, make_features(), seed=5)[1]
    np.testing.assert_array_equal(again.val_rows, features.val_rows)


def test_a_rule_that_leaves_no_val_is_said() -> None:
    with pytest.raises(DatasetError, match="cifar10: no class has two training images"):
        prepare(PROTOCOLS["trex-sgd"](), make_features(np.array([0, 1])), seed=0)


def test_a_twin_trains_on_every_row_and_its_record_says_so() -> None:
    twin, features = prepare(LEGACY_TEST_SELECTION["rrl-linear-legacy-test-selection"](), make_features(), seed=5)
    assert twin.base.seed == 5 and twin.base.weight_decays_of == ()
    assert (len(features.train_rows), len(features.val_rows)) == (24, 0)
    assert (features.facts.num_train, features.facts.num_val) == (24, 0)
    assert features.facts.val == "none: selected on test, as the paper did"
    assert replace(twin, base=twin.base).name == "rrl-linear-legacy-test-selection"
