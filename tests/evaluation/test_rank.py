"""Transferability scores end to end, on the bundled digits and small random networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from richrep.backbones.backbone import Backbone
from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.datasets import load_dataset
from richrep.errors import RichrepError
from richrep.evaluation.probe import probe
from richrep.evaluation.protocols.knn import KnnProtocol
from richrep.evaluation.rank import rank
from richrep.evaluation.record import Record
from richrep.evaluation.transferability import OWN_HEAD_SCORES, SCORES
from richrep.evaluation.transferability.agreement import rank_agreement
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_features

SIZES = {"train_size": 200, "test_size": 150}
QUICK = KnnProtocol(ks=(5,), temperatures=(0.07,), normalizations=("none",))


def make_backbones() -> list[Backbone]:
    """Three networks; the heads have another number of classes than digits, and the last has none."""
    widths = [(4, 8), (4, 6), (2, 3)]
    first, second, third = (make_small_cnn(7, widths=width, seed=seed) for seed, width in enumerate(widths))
    return [first, second, replace(third, head=None, num_classes=None)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def records(cache: FeatureCache) -> list[Record]:
    return rank(make_backbones(), "digits", protocol=QUICK, cache=cache, **SIZES)


def test_scores_come_first_then_probes_then_their_agreement(records: list[Record]) -> None:
    names = ["small-cnn-4-8", "small-cnn-4-6", "small-cnn-2-3"]
    assert [(record.kind, record.representation) for record in records] == [
        *(("rank", name) for name in names),
        *(("probe", name) for name in names),
        ("rank-agreement", f"rank({'+'.join(names)})"),
    ]


def test_the_scores_are_those_of_the_training_features_by_hand(records: list[Record]) -> None:
    train = load_dataset("digits").train.first(200)
    for record, backbone in zip(records[:3], make_backbones(), strict=True):
        features = extract_features(backbone, train)
        for name, function in SCORES.items():
            if name not in OWN_HEAD_SCORES:
                assert record.score("train", name) == pytest.approx(function(features.features, features.labels))
            elif backbone.head is not None:
                probs = extract_features(backbone, train, layer="logits").features.double().softmax(1)
                assert probs.shape == (200, 7)
                assert record.score("train", name) == pytest.approx(function(probs, features.labels))


def test_a_network_without_a_head_has_no_leep_and_says_why(records: list[Record]) -> None:
    found = records[2].metrics["train"]
    assert found["leep"] is None and found["nce"] is None
    assert found["leep_reason"] == "the checkpoint has no head of its own."
    assert "logme_reason" not in found


def test_only_training_images_are_read(records: list[Record], cache: FeatureCache) -> None:
    for record in records[:3]:
        assert (record.dataset.num_train, record.dataset.num_val, record.dataset.num_test) == (200, 0, 0)
        assert set(record.metrics) == {"train"}
    dataset = load_dataset("digits")
    other = replace(dataset, test=dataset.test.take(list(range(150, 300))))
    again = rank(make_backbones(), other, with_probe=False, cache=cache, train_size=200)
    assert [record.metrics for record in again] == [record.metrics for record in records[:3]]
    assert [record.kind for record in again] == ["rank"] * 3


def test_the_probes_are_those_of_probe(records: list[Record], cache: FeatureCache) -> None:
    alone = probe(make_backbones(), "digits", protocol=QUICK, cache=cache, **SIZES)[:3]
    assert [record.metrics for record in records[3:6]] == [record.metrics for record in alone]
    assert records[3].protocol["name"] == "knn"


def test_the_agreement_is_over_the_networks_that_have_the_score(records: list[Record]) -> None:
    accuracies = [record.score("test", "accuracy") for record in records[3:6]]
    found = records[6].metrics["test"]
    scores = [record.score("train", "logme") for record in records[:3]]
    assert found["logme"] == rank_agreement(scores, accuracies)
    assert found["leep"]["num_networks"] == 2 and found["leep"]["spearman"] is None
    assert found["leep"]["reason"] == "2 networks, at least 3 are needed"
    assert [facts.name for facts in records[6].backbones] == [record.representation for record in records[:3]]
    assert records[6].protocol["probe"]["name"] == "knn"


def test_records_survive_json_and_are_handed_over_as_they_come(records: list[Record], cache: FeatureCache) -> None:
    for record in records:
        assert Record.from_json(record.to_json()) == record
    seen: list[Record] = []
    again = rank(
        make_backbones()[:1], "digits", scores=["cka"], protocol=QUICK, cache=cache, on_record=seen.append, **SIZES
    )
    assert seen == again and list(again[0].metrics["train"]) == ["cka"]
    assert {"extract", "cka", "total"} == set(again[0].elapsed_s)


def test_constant_features_leave_a_score_empty_with_its_reason(cache: FeatureCache) -> None:
    class Constant(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(images), 8)

    dead = replace(make_backbones()[0], trunk=Constant(), pool=torch.nn.Identity(), head=None, sha256="0" * 64)
    (record,) = rank([dead], "digits", with_probe=False, cache=None, **SIZES)
    assert all(record.metrics["train"][name] is None for name in SCORES)
    assert record.metrics["train"]["cka_reason"] == "the features are the same for every image."


def test_a_network_whose_features_cannot_be_used_is_left_out(cache: FeatureCache) -> None:
    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 8), torch.nan)

    broken = replace(make_backbones()[1], trunk=Broken(), pool=torch.nn.Identity(), head=None, sha256="1" * 64)
    failures: dict[str, str] = {}
    found = rank(
        [make_backbones()[0], broken], "digits", with_probe=False, cache=None, on_failure=failures.__setitem__, **SIZES
    )
    assert [record.representation for record in found] == ["small-cnn-4-8"]
    assert list(failures) == ["small-cnn-4-6"]


def test_an_unknown_score_gets_a_guess() -> None:
    with pytest.raises(RichrepError, match=r"Unknown score 'logm'\. Did you mean 'logme'"):
        rank(make_backbones(), "digits", scores=["logm"])
