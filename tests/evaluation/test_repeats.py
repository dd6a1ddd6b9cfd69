"""Protocols that draw few images: one record for all draws, and a gain paired over them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from richrep.backbones.backbone import Backbone
from richrep.backbones.small_cnn import make_small_cnn
from richrep.errors import DatasetError
from richrep.evaluation.metrics import repeats_interval
from richrep.evaluation.probe import probe
from richrep.evaluation.protocols.kshot import KShotProtocol
from richrep.evaluation.protocols.vtab1k import Vtab1kProtocol
from richrep.evaluation.rank import rank
from richrep.evaluation.record import Record
from richrep.evaluation.repeats import gain_interval
from richrep.features.cache import FeatureCache
from richrep.reports.render import render_markdown
from richrep.reports.tables import make_probe_table

FEW = {"cs": (1e-2, 1.0, 100.0), "normalizations": ("standard",)}
SIZES = {"train_size": 200, "test_size": 150}
KSHOT = KShotProtocol("kshot:3", repeats=4, **FEW)


def make_backbones() -> list[Backbone]:
    return [make_small_cnn(10, widths=(4, 8)), make_small_cnn(10, widths=(4, 6), seed=1)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def records(cache: FeatureCache) -> list[Record]:
    return probe(make_backbones(), "digits", protocol=KSHOT, cache=cache, seed=2, **SIZES)


def test_a_record_has_the_mean_the_spread_and_every_draw(records) -> None:
    assert len(records) == 3
    for record in records:
        accuracies = [entry["test_accuracy"] for entry in record.repeats]
        assert [entry["seed"] for entry in record.repeats] == [[2, 0], [2, 1], [2, 2], [2, 3]]
        assert len(set(accuracies)) > 1 and all(entry["hyperparameters"]["l2"] > 0 for entry in record.repeats)
        test = record.metrics["test"]
        assert test["accuracy"] == pytest.approx(np.mean(accuracies))
        assert test["accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))
        expected = stats.t.interval(0.95, 3, np.mean(accuracies), stats.sem(accuracies))
        assert test["accuracy_ci95"] == pytest.approx(expected)
        assert {"nll", "ece", "top5_accuracy", "mean_per_class_accuracy", "log_odds"} <= set(test)
        assert test["log_odds"] == pytest.approx(np.log(test["accuracy"] / (1 - test["accuracy"])))
        assert (record.dataset.num_train, record.dataset.num_val, record.dataset.num_test) == (30, 0, 150)
        assert record.dataset.val == "3 folds of the drawn images, each held out once"
        assert record.protocol["name"] == "kshot:3" and record.hyperparameters["normalization"] == "standard"
        assert Record.from_json(record.to_json()) == record


def test_the_gain_is_paired_over_the_draws(records) -> None:
    *members, joint = records
    best = max(members, key=lambda member: member.score("val", "accuracy"))
    gains = [
        one["test_accuracy"] - other["test_accuracy"] for one, other in zip(joint.repeats, best.repeats, strict=True)
    ]
    assert joint.metrics["test"]["best_member"] == best.representation
    assert joint.score("test", "gain_over_best_member") == pytest.approx(np.mean(gains))
    assert joint.interval("test", "gain_over_best_member") == pytest.approx(repeats_interval(gains))
    table = make_probe_table(records)
    assert [row.num_repeats for row in table.rows] == [4, 4, 4]
    assert "paired over 4 draws" in render_markdown(table)


def test_a_record_of_whole_training_sets_has_no_repeats(cache) -> None:
    (record,) = probe(make_backbones()[:1], "digits", cache=cache, **SIZES)
    assert record.repeats == () and "repeats" not in json.loads(record.to_json())


def test_one_draw_has_the_interval_over_test_images(cache) -> None:
    one = KShotProtocol("kshot:3", repeats=1, **FEW)
    *members, joint = probe(make_backbones(), "digits", protocol=one, cache=cache, seed=2, **SIZES)
    assert len(joint.repeats) == 1 and "accuracy_std" not in joint.metrics["test"]
    assert joint.hyperparameters == joint.repeats[0]["hyperparameters"]
    assert joint.interval("test", "gain_over_best_member") is not None
    assert members[0].score("test", "accuracy") == members[0].repeats[0]["test_accuracy"]


def test_one_shot_has_no_val_and_says_why_there_is_no_gain(cache) -> None:
    *_, joint = probe(make_backbones(), "digits", protocol=KShotProtocol("kshot:1", repeats=3), cache=cache, **SIZES)
    assert set(joint.metrics) == {"test"} and joint.dataset.num_train == 10
    assert joint.metrics["test"]["gain_over_best_member"] is None
    assert "no val" in joint.metrics["test"]["gain_over_best_member_reason"]
    render_markdown(make_probe_table([joint]))


def test_vtab1k_has_the_facts_of_its_thousand_images(cache) -> None:
    (record,) = probe(
        make_backbones()[:1], "digits", protocol=Vtab1kProtocol(**FEW), cache=cache, seed=1, test_size=150
    )
    facts = record.dataset
    assert (facts.num_train, facts.num_val, facts.num_test) == (800, 200, 150)
    assert facts.val == "200 images drawn from train, seed 1" and record.repeats[0]["seed"] == [1]
    assert record.score("test", "accuracy") > 0.4
    assert record.interval("val", "accuracy") is not None


def test_too_few_images_are_said_before_anything_is_extracted(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    for protocol, message in ((Vtab1kProtocol(), "needs 1,000"), (KShotProtocol("kshot:40"), "needs 40 .* class")):
        with pytest.raises(DatasetError, match=message):
            probe(make_backbones(), "digits", protocol=protocol, cache=cache, **SIZES)
    assert not cache.root.exists()


def test_a_ranking_against_few_shot_probes_measures_the_draws(cache) -> None:
    options = {"protocol": KSHOT, "cache": cache, "seed": 2, "with_probe": True, **SIZES}
    found = rank(make_backbones(), "digits", scores=("logme",), **options)
    assert [len(record.repeats) for record in found if record.kind == "probe"] == [4, 4]


def test_the_interval_of_a_gain_by_hand() -> None:
    joint = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)  # 0.75, 0.5, 1
    best = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)  # 0.5 each
    # differences 0.25, 0, 0.5: mean 0.25, s = 0.25, t = 4.3027 for two degrees of freedom, 4.3027·0.25/√3 = 0.621
    assert gain_interval(joint, best) == pytest.approx((0.25 - 0.621, 0.25 + 0.621), abs=1e-3)
    low, high = gain_interval(joint[0], best[0])  # one draw: the bootstrap over four images
    assert low == 0.0 and high >= 0.5
    with pytest.raises(ValueError, match="at least two of them, got 1"):
        repeats_interval([0.5])
