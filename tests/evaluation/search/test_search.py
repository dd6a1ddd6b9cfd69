"""The search protocol on small random networks and the bundled digits."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from richrep.backbones.backbone import Backbone
from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.datasets import load_dataset
from richrep.data.split import carve_val
from richrep.errors import FeatureError, RichrepError
from richrep.evaluation.ensemble import mean_logits
from richrep.evaluation.record import Record
from richrep.evaluation.record_store import load_records, save_record
from richrep.evaluation.search import probes
from richrep.evaluation.search.importance import block_importance, sizes_per_image
from richrep.evaluation.search.probes import Probes
from richrep.evaluation.search.records import trunk_parameters
from richrep.evaluation.search.search import SearchProtocol, search
from richrep.evaluation.selection import select_logistic
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_features
from richrep.features.feature_set import Block, FeatureSet, concat_features
from richrep.features.memory import FRUGAL
from richrep.features.rows import Rows
from richrep.heads.logistic import LogisticHead

SIZES = {"train_size": 200, "test_size": 150}
QUICK = SearchProtocol(cs=(0.1, 10.0), normalizations=("block-rms",), shortlist=2, max_members=3)


def make_backbones(count: int = 4) -> list[Backbone]:
    nets = [make_small_cnn(10, widths=(4, 8), seed=seed) for seed in range(count)]
    return [replace(net, name=f"net{i}") for i, net in enumerate(nets)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("cache"))


Run = Callable[..., list[Record]]


@pytest.fixture(scope="module")
def run(cache: FeatureCache) -> Run:
    def call(protocol: SearchProtocol = QUICK, backbones: list[Backbone] | None = None, **options) -> list[Record]:
        return search(backbones or make_backbones(), "digits", protocol=protocol, cache=cache, **(SIZES | options))

    return call


@pytest.fixture(scope="module")
def records(run: Run) -> list[Record]:
    return run(replace(QUICK, learn_scales=True))


def test_members_left_side_by_side_are_probed_as_their_concatenation(cache: FeatureCache) -> None:
    split = load_dataset("digits").train.first(100)
    members, rows = (
        extract_features(make_backbones(2), split, cache=cache),
        carve_val(split.labels, fraction=0.2, seed=0),
    )
    options = {"cs": (0.1, 10.0), "normalizations": ("block-rms",)}
    joined, apart = (
        Probes(members, members, *rows, **options, memory=memory) for memory in (FRUGAL, replace(FRUGAL, kept=0))
    )
    for one, other in (
        (joined.val_logits((0, 1)), apart.val_logits((0, 1))),
        (joined.score((0, 1)).test_logits, apart.score((0, 1)).test_logits),
    ):
        torch.testing.assert_close(one, other)
    assert isinstance(apart._joint(members, (0, 1)).features, Rows)


def test_a_probe_that_cannot_be_made_names_the_subset_and_where_the_others_are(cache: FeatureCache, tmp_path) -> None:
    split = load_dataset("digits").train.first(100)
    members, rows = (
        extract_features(make_backbones(2), split, cache=cache),
        carve_val(split.labels, fraction=0.2, seed=0),
    )
    probes = Probes(members, members, *rows, cs=(1.0,), normalizations=("pca:40",), keep_below=tmp_path)
    with pytest.raises(FeatureError, match=r"cannot be probed: pca:40 needs 40 directions") as failed:
        probes.val_accuracy((0, 1))
    assert str(failed.value).startswith("+".join(member.blocks[0].name for member in members))
    assert f"is kept in {tmp_path}" in str(failed.value)


def test_the_records_are_the_controls_and_the_chosen_subset_last(records) -> None:
    assert [record.kind for record in records] == ["probe", "probe", "ensemble", "search"]
    assert len(records[0].backbones) == 1 and len(records[1].backbones) == 4
    assert records[2].representation.replace("ensemble", "cat") == records[3].representation
    assert len(records[3].backbones) == len(records[3].search["chosen"]) <= 3


def test_the_path_grows_by_one_member_and_says_what_it_costs_and_gains(records) -> None:
    path = records[-1].search["path"]
    assert [len(step["members"]) for step in path] == [1, 2, 3]
    for before, step in pairwise(path):
        assert set(before["members"]) < set(step["members"]) and len(step["joined"]) == 1 and step["left"] == []
        assert step["gain"] == pytest.approx(step["val"] - before["val"])
        low, high = step["gain_ci95"]
        assert low <= step["gain"] <= high
    assert [step["feature_dim"] for step in path] == [8, 16, 24]
    assert [step["parameters"] for step in path] == [trunk_parameters(make_backbones(n)) for n in (1, 2, 3)]
    assert all(step["val_ci95"][0] <= step["val"] <= step["val_ci95"][1] for step in path)


def test_the_chosen_is_the_best_on_val_of_all_that_were_probed(records) -> None:
    details = records[-1].search
    probed = [*details["path"], *details["shortlist"]]
    assert len(details["shortlist"]) >= 2
    best = max(step["val"] for step in probed)
    (chosen,) = [step for step in probed if step["members"] == details["chosen"]]
    assert chosen["val"] == best == records[-1].score("val", "accuracy")
    assert chosen["feature_dim"] == min(step["feature_dim"] for step in probed if step["val"] == best)


def by_hand(subset: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Val and test logits of the full probe of `subset`."""
    data = load_dataset("digits")
    backbones = [make_backbones()[i] for i in subset]
    train, test = data.train.first(200), data.test.first(150)
    trainval = concat_features(extract_features(backbones, train))
    rows = carve_val(train.labels, fraction=0.2, seed=0)
    found = select_logistic(trainval, *rows, cs=QUICK.cs, normalizations=QUICK.normalizations)
    blocks = [(block.start, block.stop) for block in trainval.blocks]
    head = LogisticHead(found.best.l2, normalization=found.best.normalization, blocks=blocks)
    head.fit(trainval.features, trainval.labels, num_classes=10)
    return found.val_logits, head.logits(concat_features(extract_features(backbones, test)).features)


def test_scores_and_gains_are_those_of_the_steps_done_by_hand(records) -> None:
    labels = torch.from_numpy(load_dataset("digits").test.first(150).labels)
    chosen = records[-1].search["chosen"]

    def accuracy(logits: torch.Tensor) -> float:
        return float((logits.argmax(1) == labels).double().mean())

    own = accuracy(by_hand(chosen)[1])
    everything = accuracy(by_hand([0, 1, 2, 3])[1])
    ensemble = accuracy(torch.stack([by_hand([i])[1] for i in chosen]).mean(0))
    assert records[-1].score("test", "accuracy") == pytest.approx(own)
    assert records[1].score("test", "accuracy") == pytest.approx(everything)
    assert records[2].score("test", "accuracy") == pytest.approx(ensemble)
    best_member = records[0].score("test", "accuracy")
    for name, other in (("best_member", best_member), ("all", everything), ("ensemble", ensemble)):
        assert records[-1].score("test", f"gain_over_{name}") == pytest.approx(own - other)
        assert records[-1].interval("test", f"gain_over_{name}") is not None
    assert records[-1].metrics["test"]["best_member"] == records[0].representation


def test_learned_scales_are_reported_against_the_subset(records) -> None:
    scales = records[-1].search["scales"]
    assert len(scales["scales"]) == 4 and max(scales["scales"]) > 0
    assert scales["val_gain_over_subset"] == pytest.approx(scales["val"] - records[-1].score("val", "accuracy"))
    assert scales["test_gain_over_subset"] == pytest.approx(scales["test"] - records[-1].score("test", "accuracy"))


def test_redundancy_and_importance_are_in_the_record(records) -> None:
    details = records[-1].search
    cka = torch.tensor(details["cka"])
    assert cka.shape == (4, 4) and torch.allclose(cka.diagonal(), torch.ones(4)) and torch.equal(cka, cka.T)
    assert [row["member"] for row in details["chosen_members"]] == details["chosen"]
    assert all(row["importance"] > 0 and row["marginal_gain"] is not None for row in details["chosen_members"])


def test_records_survive_json_and_the_disk_and_others_hold_no_empty_search(records, tmp_path) -> None:
    for record in records:
        save_record(record, tmp_path)
        assert Record.from_json(record.to_json()) == record
    assert load_records(tmp_path) == records
    assert ["search" in json.loads(record.to_json()) for record in records] == [False, False, False, True]


def measured(records: list[Record]) -> list[object]:
    return [(r.representation, r.metrics, r.hyperparameters, r.search) for r in records]


@pytest.mark.parametrize("strategy", ["beam", "backward", "exhaustive"])
def test_every_strategy_runs_and_repeats(run, strategy) -> None:
    protocol = replace(QUICK, strategy=strategy, shortlist=0)
    first = run(protocol)
    assert measured(first) == measured(run(protocol))
    assert first[-1].protocol["strategy"] == strategy
    assert [len(step["members"]) for step in first[-1].search["path"]] == [1, 2, 3]


def test_test_decides_nothing_but_its_own_scores(run, records, cache) -> None:
    dataset = load_dataset("digits")
    wrong = replace(dataset, test=replace(dataset.test, labels=(dataset.test.labels + 1) % 10))
    protocol = replace(QUICK, learn_scales=True)
    found = search(make_backbones(), wrong, protocol=protocol, cache=cache, **SIZES)
    for one, other in zip(found, records, strict=True):
        assert one.representation == other.representation
        assert one.hyperparameters == other.hyperparameters and one.metrics["val"] == other.metrics["val"]
    assert found[-1].search["path"] == records[-1].search["path"]
    assert found[-1].search["scales"]["scales"] == records[-1].search["scales"]["scales"]
    assert found[-1].metrics["test"]["accuracy"] < 0.3


def test_a_control_that_is_the_chosen_subset_is_not_measured_twice(run) -> None:
    two = run(replace(QUICK, max_members=1), make_backbones(2))
    assert [record.kind for record in two] == ["probe", "search"]  # the best member is the chosen one
    assert "gain_over_best_member" not in two[-1].metrics["test"]
    assert "gain_over_all" in two[-1].metrics["test"]


def test_layers_join_as_members_and_shared_weights_count_once(run) -> None:
    found = run(backbones=make_backbones(2), layers=["stages.stage0"])[-1]
    assert found.search["members"] == ["net0", "net0.stages.stage0", "net1", "net1.stages.stage0"]
    (net,) = make_backbones(1)
    assert trunk_parameters([net, net]) == net.trunk_parameters


def test_a_member_whose_features_cannot_be_used_is_left_out(run) -> None:
    broken = make_small_cnn(10, widths=(4, 8), seed=9)
    with torch.no_grad():
        next(broken.trunk.parameters()).fill_(torch.nan)
    failures: dict[str, str] = {}
    members = [*make_backbones(2), replace(broken, name="broken")]
    found = run(backbones=members, on_failure=failures.__setitem__)
    assert list(failures) == ["broken"]
    assert found[-1].search["members"] == ["net0", "net1"]


def test_what_cannot_be_searched_is_refused(run) -> None:
    with pytest.raises(RichrepError, match="at least two members, got 1"):
        run(backbones=make_backbones(1))
    with pytest.raises(RichrepError, match=r"net0#1 and net0#2 .* are the same network with the same preprocessing"):
        run(backbones=make_backbones(1) * 2)
    layers = ["stages.stage0"] * 2
    assert len(run(backbones=make_backbones(2), layers=layers)[-1].search["members"]) == 4  # named twice, there once
    with pytest.raises(RichrepError, match=r"at most 10 members .* got 11\. Use strategy 'beam'"):
        run(replace(QUICK, strategy="exhaustive"), make_backbones(11))
    with pytest.raises(RichrepError, match=r"Unknown strategy 'greed'\. Did you mean 'greedy'"):
        SearchProtocol(strategy="greed")
    with pytest.raises(RichrepError, match="max_members must be at least 1, got 0"):
        SearchProtocol(max_members=0)


def test_block_importance_by_hand() -> None:
    # block a: (|1| + |-3| + |2| + |0|) / 4 = 1.5; block b: (|4| + |-2|) / 2 = 3, half as large features: 1.5
    weights = torch.tensor([[1.0, -3.0, 4.0], [2.0, 0.0, -2.0]])
    assert block_importance(weights, [(0, 2), (2, 3)], sizes=[1.0, 1.0]) == [1.5, 3.0]
    assert block_importance(weights, [(0, 2), (2, 3)], sizes=[1.0, 0.5]) == [1.5, 1.5]


def test_sizes_of_features_divided_by_the_norm_of_their_image_by_hand() -> None:
    def member(rows: list[list[float]]) -> FeatureSet:
        features = torch.tensor(rows)
        return FeatureSet(features, torch.tensor([0, 1, 0]), 2, (Block("one", 0, features.shape[1]),), key="hand")

    members = [member([[3.0], [6.0], [9.0]]), member([[4.0, 0.0], [0.0, 8.0], [1.0, 1.0]])]
    rows = np.array([0, 1])  # of each 25 = 9 + 16 or 100 = 36 + 64: shares 0.36 and 0.64
    assert sizes_per_image(members, rows, together=True) == pytest.approx([0.36**0.5, 0.32**0.5])
    assert sizes_per_image(members, rows, together=False) == pytest.approx([1.0, 0.5**0.5])


@pytest.mark.parametrize("normalization", ["pca:6", "l2", "l2+pca:6", "block-l2+pca:6"])
def test_importance_is_that_of_the_members_columns_also_after_a_projection(run, normalization) -> None:
    details = run(replace(QUICK, normalizations=(normalization,), shortlist=0))[-1].search
    assert len(details["chosen_members"]) > 1
    assert all(0 < row["importance"] < math.inf for row in details["chosen_members"])


def test_an_ensemble_is_the_mean_of_logits() -> None:
    one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    assert mean_logits([one, other]).tolist() == [[1.0, 2.0]]


def test_a_search_that_was_killed_goes_on_where_it_was(run, records, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, said, made = replace(QUICK, learn_scales=True), [], []
    real = probes.select_logistic
    monkeypatch.setattr(probes, "select_logistic", lambda *args, **options: made.append(1) or real(*args, **options))

    def stop(line: str) -> None:
        said.append(line)
        if len(said) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(protocol, keep_below=tmp_path, on_step=stop)
    (folder,) = tmp_path.iterdir()
    kept, before = len(list(folder.glob("*.safetensors"))), len(made)
    assert kept >= 5
    (folder / "0.safetensors").write_bytes(b"half a file")
    kept_pair = next(folder.glob("?-?.safetensors"))
    kept_pair.write_bytes((folder / "1.safetensors").read_bytes())  # whole, but of fewer features than two members have
    assert measured(run(protocol, keep_below=tmp_path)) == measured(records)
    in_one_go = len(made) - before + kept - 2
    made.clear()
    assert measured(run(protocol)) == measured(records) and len(made) == in_one_go
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written_is_said_and_does_not_stop_a_search(run, records, tmp_path, caplog) -> None:
    (tmp_path / "file").write_text("no folder")
    assert measured(run(replace(QUICK, learn_scales=True), keep_below=tmp_path / "file")) == measured(records)
    assert "makes it anew" in caplog.text


def test_records_come_as_they_are_scored(run) -> None:
    order: list[str] = []
    run(on_step=lambda line: order.append("step"), on_record=lambda record: order.append(record.kind))
    assert order[-4:] == ["probe", "probe", "ensemble", "search"]
