"""The ensemble of members' own probes: the mean of their logits, beside them and their concatenation."""

from __future__ import annotations

import pytest
import torch

import richrep
from richrep.errors import RichrepError
from richrep.evaluation.ensemble import mean_logits
from richrep.evaluation.protocols import make_protocol

MEMBERS = ["random/resnet20", "random/resnet32"]


def test_the_mean_of_logits_by_hand() -> None:
    first, second = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert mean_logits([first, second]).tolist() == [[1.5, 0.5]]


def test_the_ensemble_stands_between_members_and_concatenation_and_has_their_times() -> None:
    options = {"train_size": 100, "test_size": 60, "cache": None, "protocol": make_protocol("ridge")}
    records = richrep.probe(MEMBERS, "digits", ensemble=True, **options)
    assert [record.kind for record in records] == ["probe", "probe", "ensemble", "probe"]
    ensemble = records[2]
    assert ensemble.representation == "ensemble(random-resnet20+random-resnet32)"
    assert ensemble.feature_dim == 128 and set(ensemble.metrics) == {"val", "test"}
    assert ensemble.hyperparameters["of_members"] == [record.hyperparameters for record in records[:2]]
    assert ensemble.elapsed_s["extract"] == records[0].elapsed_s["extract"]
    plain = richrep.probe(MEMBERS, "digits", **options)
    assert [record.metrics for record in plain] == [records[i].metrics for i in (0, 1, 3)]


def test_a_protocol_that_draws_has_no_ensemble() -> None:
    with pytest.raises(RichrepError, match="kshot:3 measures draw by draw"):
        richrep.probe(
            MEMBERS,
            "digits",
            protocol=make_protocol("kshot:3", repeats=2),
            ensemble=True,
            train_size=100,
            test_size=30,
            cache=None,
        )
