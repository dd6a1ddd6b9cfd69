import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from richrep.backbones.backbone import Backbone
from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.datasets import load_dataset, load_split
from richrep.data.split import Dataset, carve_val
from richrep.errors import BadImageError, DatasetError, FeatureError, RichrepError
from richrep.evaluation.probe import probe
from richrep.evaluation.protocols.logistic import LogisticProtocol
from richrep.evaluation.protocols.ridge import RidgeProtocol
from richrep.evaluation.record import Record
from richrep.evaluation.selection import select_logistic
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_features
from richrep.features.feature_set import FeatureSet, concat_features
from richrep.features.memory import MemoryBudget
from richrep.heads.logistic import LogisticHead

SIZES = {"train_size": 200, "test_size": 150}
QUICK = LogisticProtocol(cs=(1e-2, 1.0, 100.0), normalizations=("none", "block-rms"))


def make_backbones(num_classes: int = 10) -> list[Backbone]:
    return [make_small_cnn(num_classes, widths=(4, 8)), make_small_cnn(num_classes, widths=(4, 6), seed=1)]


def measured(record: Record) -> dict[str, object]:
    """All that must repeat: no id, no times."""
    return {"metrics": record.metrics, "hyperparameters": record.hyperparameters, "dataset": record.dataset}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def records(cache: FeatureCache) -> list[Record]:
    """Two small random networks on digits, alone and together, each with its own head of ten classes."""
    return probe(make_backbones(), "digits", cache=cache, own_head=True, **SIZES)


@pytest.fixture(scope="module")
def quick(cache: FeatureCache) -> list[Record]:
    """The probes without own heads, with six candidates instead of 92."""
    return probe(make_backbones(), "digits", protocol=QUICK, cache=cache, **SIZES)


# The rows


def test_rows_are_each_alone_after_its_own_head_and_the_concatenation_last(records: list[Record]) -> None:
    assert [(record.kind, record.representation) for record in records] == [
        ("own-head", "own-head(small-cnn-4-8)"),
        ("probe", "small-cnn-4-8"),
        ("own-head", "own-head(small-cnn-4-6)"),
        ("probe", "small-cnn-4-6"),
        ("probe", "cat(small-cnn-4-8+small-cnn-4-6)"),
    ]
    assert [record.feature_dim for record in records] == [8, 8, 6, 6, 14]
    assert [len(record.backbones) for record in records] == [1, 1, 1, 1, 2]
    assert len({record.id for record in records}) == 5


def test_a_record_says_what_was_measured_and_how(records: list[Record]) -> None:
    for record in (records[1], records[3], records[4]):
        facts = record.dataset
        assert (facts.name, facts.address, facts.num_classes) == ("digits", "digits", 10)
        assert facts.num_train + facts.num_val == 200 and 35 <= facts.num_val <= 45  # 20 % of every class, rounded
        assert facts.num_test == 150
        assert facts.val == "20% of train, per class, seed 0"
        assert len(facts.fingerprint) == 64
        assert record.seed == 0
        assert record.protocol["name"] == "logistic" and record.protocol["val_fraction"] == 0.2
        assert len(record.protocol["cs"]) == 23 and len(record.protocol["normalizations"]) == 4
        assert record.hyperparameters["normalization"] in record.protocol["normalizations"]
        cs = [1 / (facts.num_train * record.hyperparameters["l2"])]
        assert np.isclose(record.protocol["cs"], cs).sum() == 1  # the penalty is one of those tried
        assert {"extract", "select", "fit", "total"} == set(record.elapsed_s)
        assert record.elapsed_s["total"] == pytest.approx(
            sum(record.elapsed_s[step] for step in ("extract", "select", "fit")), abs=0.003
        )
        for part in ("val", "test"):
            assert {"accuracy", "accuracy_ci95", "nll", "ece", "top5_accuracy"} <= set(record.metrics[part])
        assert record.score("test", "accuracy") > 0.3  # random networks; chance is 0.1
        assert record.environment["device"] and record.environment["torch"]


def test_a_record_says_what_the_backbones_are(records: list[Record]) -> None:
    one, two = make_backbones()
    assert [backbone.name for backbone in records[4].backbones] == ["small-cnn-4-8", "small-cnn-4-6"]
    for facts, backbone in zip(records[4].backbones, (one, two), strict=True):
        assert (facts.address, facts.family, facts.feature_dim) == (backbone.address, "small-cnn", backbone.feature_dim)
        assert facts.sha256 == backbone.sha256 and facts.parameters == backbone.parameters
        assert facts.preprocessing and facts.load_report


def test_records_survive_json(records: list[Record]) -> None:
    for record in records:
        assert Record.from_json(record.to_json()) == record
        json.loads(record.to_json())


def test_the_gain_is_over_the_member_that_is_best_on_val(records: list[Record]) -> None:
    members, joint = [records[1], records[3]], records[4]
    best = max(members, key=lambda member: member.score("val", "accuracy"))
    test = joint.metrics["test"]
    assert test["best_member"] == best.representation
    assert test["gain_over_best_member"] == pytest.approx(
        joint.score("test", "accuracy") - best.score("test", "accuracy")
    )
    low, high = joint.interval("test", "gain_over_best_member")
    assert low <= test["gain_over_best_member"] <= high
    assert "gain_over_best_member" not in best.metrics["test"]


def by_hand(train: FeatureSet, test: FeatureSet, rows: tuple[np.ndarray, np.ndarray]) -> tuple[float, float, float]:
    """Val accuracy, test accuracy and l2 of: choose on val, refit on train and val, score test."""
    selection = select_logistic(train, *rows, cs=QUICK.cs, normalizations=QUICK.normalizations)
    head = LogisticHead(
        l2=selection.best.l2,
        normalization=selection.best.normalization,
        blocks=[(block.start, block.stop) for block in train.blocks],
    ).fit(train.features, train.labels, num_classes=train.num_classes)
    accuracy = (head.logits(test.features).argmax(1) == test.labels).double().mean().item()
    return selection.best.val_accuracy, accuracy, selection.best.l2


def test_the_scores_are_those_of_the_steps_done_by_hand(quick: list[Record]) -> None:
    dataset = load_dataset("digits")
    train, test = dataset.train.first(200), dataset.test.first(150)
    rows = carve_val(train.labels, fraction=0.2, seed=0)
    train_features = extract_features(make_backbones(), train)
    test_features = extract_features(make_backbones(), test)
    joint = concat_features(train_features), concat_features(test_features)
    pairs = [*zip(train_features, test_features, strict=True), joint]
    for record, (one, two) in zip(quick, pairs, strict=True):
        assert record.feature_dim == one.feature_dim
        val, accuracy, l2 = by_hand(one, two, rows)
        assert record.score("val", "accuracy") == pytest.approx(val)
        assert record.score("test", "accuracy") == pytest.approx(accuracy)
        assert record.hyperparameters["l2"] == pytest.approx(l2)


def test_a_memory_limit_changes_how_it_is_solved_and_no_score(quick: list[Record], cache: FeatureCache) -> None:
    limited = probe(make_backbones(), "digits", protocol=QUICK, cache=cache, memory_limit="100MB", **SIZES)
    for one, other in zip(quick, limited, strict=True):
        assert other.solver["memory_limit"] == 100_000_000 < one.solver["memory_limit"]
        assert one.hyperparameters == other.hyperparameters
        assert one.metrics["test"]["nll"] == pytest.approx(other.metrics["test"]["nll"], rel=1e-3)


# The own head


def test_the_own_head_is_scored_as_it_is(records: list[Record]) -> None:
    backbone = make_backbones()[0]
    test = load_dataset("digits").test.first(150)
    logits = extract_features(backbone, test, layer="logits")
    right = (logits.features.argmax(1) == logits.labels).double().mean().item()
    own = records[0]
    assert own.score("test", "accuracy") == pytest.approx(right)
    assert set(own.metrics) == {"test"}  # nothing was selected
    assert own.protocol == {"name": "own-head"} and own.hyperparameters == {}


def test_a_head_of_other_classes_gives_no_row(cache: FeatureCache) -> None:
    five = make_small_cnn(5, widths=(4, 8))
    headless = replace(make_backbones()[1], head=None, num_classes=None)
    found = probe([five, headless], "digits", protocol=QUICK, cache=cache, own_head=True, **SIZES)
    assert [record.kind for record in found] == ["probe", "probe", "probe"]


def test_a_head_that_names_its_classes_in_another_order_gives_no_row_and_says_so(
    cache: FeatureCache, caplog: pytest.LogCaptureFixture
) -> None:
    names = load_split("digits", "test").class_names
    same, turned = (replace(make_backbones()[0], class_names=found) for found in (names, names[::-1]))
    kinds = [
        [record.kind for record in probe([one], "digits", protocol=QUICK, cache=cache, own_head=True, **SIZES)]
        for one in (same, turned)
    ]
    assert kinds == [["own-head", "probe"], ["probe"]]
    assert "its classes (9, 8, 7, …) are not those of digits (0, 1, 2, …), or in another order" in caplog.text


def test_without_being_asked_for_own_heads_give_no_row(cache: FeatureCache) -> None:
    found = probe(make_backbones(), "digits", protocol=QUICK, cache=cache, **SIZES)
    assert [record.kind for record in found] == ["probe", "probe", "probe"]


# Seeds, caches, reporting


def test_the_same_seed_gives_the_same_numbers_with_and_without_the_cache(
    quick: list[Record], cache: FeatureCache
) -> None:
    for store in (cache, None):
        again = probe(make_backbones(), "digits", protocol=QUICK, cache=store, **SIZES)
        assert [measured(record) for record in again] == [measured(record) for record in quick]


def test_another_seed_gives_another_val(quick: list[Record], cache: FeatureCache) -> None:
    other = probe(make_backbones()[:1], "digits", protocol=QUICK, cache=cache, seed=1, **SIZES)[0]
    assert other.seed == 1
    assert other.dataset.val == "20% of train, per class, seed 1"
    assert other.metrics["val"]["nll"] != quick[0].metrics["val"]["nll"]
    assert other.dataset.fingerprint == quick[0].dataset.fingerprint  # the images are the same


def test_addresses_are_loaded_and_the_seed_draws_random_weights(cache: FeatureCache) -> None:
    options = {"protocol": QUICK, "cache": cache, "train_size": 60, "test_size": 30}
    zero, one, again = (probe(["random/test_resnet"], "digits", seed=seed, **options)[0] for seed in (0, 1, 0))
    assert zero.backbones[0].address == "random/test_resnet"
    assert zero.backbones[0].sha256 == again.backbones[0].sha256 != one.backbones[0].sha256
    assert measured(zero) == measured(again)


def test_features_are_kept_in_the_default_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: list[Record]
) -> None:
    monkeypatch.setenv("RICHREP_HOME", str(tmp_path))
    (found,) = probe(make_backbones()[:1], "digits", protocol=QUICK, **SIZES)
    assert any(path.is_file() for path in tmp_path.rglob("*"))
    assert measured(found) == measured(quick[0])


def test_each_record_is_handed_over_when_it_is_measured(cache: FeatureCache) -> None:
    seen: list[Record] = []
    returned = probe(make_backbones(), "digits", protocol=QUICK, cache=cache, on_record=seen.append, **SIZES)
    assert seen == returned
    assert seen[-1].score("test", "gain_over_best_member") is not None


def test_one_backbone_has_no_concatenation(cache: FeatureCache) -> None:
    (record,) = probe(make_backbones()[:1], "digits", protocol=QUICK, cache=cache, **SIZES)
    assert record.representation == "small-cnn-4-8"
    assert record.score("test", "gain_over_best_member") is None
    assert len(record.protocol["cs"]) == 3


def test_two_backbones_of_one_name_have_rows_of_their_own(cache: FeatureCache) -> None:
    twins = [make_small_cnn(10, widths=(4, 8), seed=seed) for seed in (0, 1)]
    found = probe(twins, "digits", protocol=QUICK, cache=cache, own_head=True, **SIZES)
    assert [record.representation for record in found] == [
        "own-head(small-cnn-4-8#1)",
        "small-cnn-4-8#1",
        "own-head(small-cnn-4-8#2)",
        "small-cnn-4-8#2",
        "cat(small-cnn-4-8#1+small-cnn-4-8#2)",
    ]
    assert found[0].metrics != found[2].metrics and found[1].metrics != found[3].metrics
    assert [backbone.name for backbone in found[4].backbones] == ["small-cnn-4-8#1", "small-cnn-4-8#2"]


def test_the_same_backbone_twice_gains_nothing(cache: FeatureCache) -> None:
    one, _ = make_backbones()
    found = probe([one, one], "digits", protocol=QUICK, cache=cache, **SIZES)
    assert found[0].metrics == found[1].metrics
    assert abs(found[2].score("test", "gain_over_best_member")) <= 0.05


def test_test_decides_nothing_but_its_own_scores(cache: FeatureCache, quick: list[Record]) -> None:
    dataset = load_dataset("digits")
    wrong = replace(dataset, test=replace(dataset.test, labels=(dataset.test.labels + 1) % 10))
    found = probe(make_backbones(), wrong, protocol=QUICK, cache=cache, **SIZES)
    for record, right in zip(found, quick, strict=True):
        assert record.hyperparameters == right.hyperparameters
        assert record.metrics["val"] == right.metrics["val"]
        assert record.score("test", "accuracy") < 0.2


# A data set of its own files


def write_images(root: Path, counts: dict[str, int]) -> Path:
    """Grey noise, dark in class `dark` and bright in `bright`: {"train/dark": 8, …}."""
    generator = np.random.default_rng(0)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            low = 0 if folder.endswith("dark") else 60
            pixels = generator.integers(low, low + 150, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i:02d}.png")
    return root


COUNTS = {"train/dark": 8, "train/bright": 9, "val/dark": 5, "val/bright": 4, "test/dark": 6, "test/bright": 6}


def test_a_stored_val_is_used_whatever_the_seed(tmp_path: Path) -> None:
    address = f"folder:{write_images(tmp_path / 'lamps', COUNTS)}"
    zero, one = (probe(make_backbones()[:1], address, protocol=QUICK, cache=None, seed=seed)[0] for seed in (0, 1))
    facts = zero.dataset
    assert (facts.num_train, facts.num_val, facts.num_test) == (17, 9, 12)
    assert facts.val == "as stored by the data set"
    assert measured(zero) == measured(one)


def test_train_size_cuts_train_and_leaves_the_stored_val_whole(tmp_path: Path) -> None:
    address = f"folder:{write_images(tmp_path / 'lamps', COUNTS)}"
    (record,) = probe(make_backbones()[:1], address, protocol=QUICK, cache=None, train_size=10, test_size=5)
    facts = record.dataset
    assert (facts.num_train, facts.num_val, facts.num_test) == (10, 9, 5)


def test_skipped_images_are_in_the_record_and_the_others_stay_in_their_parts(tmp_path: Path) -> None:
    root = write_images(tmp_path / "lamps", COUNTS)
    for name in ("train/dark/03.png", "val/bright/00.png", "test/dark/05.png"):
        path = root / name
        path.write_bytes(path.read_bytes()[:60])  # the header is whole, the pixels are not
    address = f"folder:{root}"
    with pytest.raises(BadImageError, match=r"03\.png|00\.png|05\.png"):
        probe(make_backbones()[:1], address, protocol=QUICK, cache=None)
    (record,) = probe(make_backbones()[:1], address, protocol=QUICK, cache=None, on_bad_image="skip")
    facts = record.dataset
    assert (facts.num_train, facts.num_val, facts.num_test) == (16, 8, 11)
    skipped = {(image.part, Path(image.name).as_posix()[-len("dark/03.png") :]) for image in facts.skipped_images}
    assert {part for part, _ in skipped} == {"trainval", "test"} and len(facts.skipped_images) == 3
    assert all(image.reason for image in facts.skipped_images)
    # val must be the stored one: with one row less before it, its rows begin one earlier
    dataset = load_dataset(address)
    options = {"on_bad_image": "skip"}
    val = extract_features(make_backbones()[0], dataset.val, **options)
    train = extract_features(make_backbones()[0], dataset.train, **options)
    head = LogisticHead(l2=record.hyperparameters["l2"], normalization=record.hyperparameters["normalization"])
    head.fit(train.features, train.labels, num_classes=2)
    accuracy = (head.logits(val.features).argmax(1) == val.labels).double().mean().item()
    assert record.score("val", "accuracy") == pytest.approx(accuracy)


# Bad input


def test_a_member_the_protocol_cannot_be_fitted_on_is_reported_and_the_others_are_measured(cache: FeatureCache) -> None:
    protocol = replace(QUICK, normalizations=("pca:7",))  # the members have 8 and 6 features
    failures: dict[str, str] = {}
    options = {"protocol": protocol, "cache": cache, **SIZES}
    alone, joint = probe(make_backbones(), "digits", on_failure=failures.__setitem__, **options)
    assert list(failures) == ["small-cnn-4-6"] and "pca:7 needs 7 directions" in failures["small-cnn-4-6"]
    assert [alone.representation, joint.representation] == ["small-cnn-4-8", "cat(small-cnn-4-8+small-cnn-4-6)"]
    assert "gain_over_best_member" not in joint.metrics["test"]  # the best member may be the one not measured
    with pytest.raises(FeatureError, match="pca:7 needs 7 directions"):
        probe(make_backbones(), "digits", **options)
    with pytest.raises(RichrepError, match="No representation can be measured; the first: pca:7 needs"):
        probe(make_backbones()[1:], "digits", on_failure=failures.__setitem__, **options)


def test_a_representation_beyond_the_memory_limit_is_reported_and_the_others_are_measured(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(MemoryBudget.of("100MB"), square=24 * 8**2)  # 24·D²: of 8 features, not of 14
    monkeypatch.setattr("richrep.evaluation.probe.choose_budget", lambda *_: small)
    failures: dict[str, str] = {}
    records = probe(
        make_backbones(), "digits", protocol=RidgeProtocol(), cache=cache, on_failure=failures.__setitem__, **SIZES
    )
    assert [record.representation for record in records] == ["small-cnn-4-8", "small-cnn-4-6"]
    assert "Raise --memory-limit" in failures["cat(small-cnn-4-8+small-cnn-4-6)"]


def test_ridge_on_constant_features_says_the_largest_class(cache: FeatureCache) -> None:
    dead = make_backbones()[0]
    for parameter in dead.trunk.parameters():
        parameter.data.zero_()
    (record,) = probe([dead], "digits", protocol=RidgeProtocol(), cache=cache, **SIZES)
    assert 0 < record.score("test", "accuracy") < 0.2


def digits_with_train(rows: np.ndarray) -> Dataset:
    dataset = load_dataset("digits")
    return replace(dataset, train=dataset.train.take(rows))


def test_a_class_in_test_alone_is_named_with_its_counts() -> None:
    labels = load_dataset("digits").train.labels
    dataset = digits_with_train(np.flatnonzero((labels != 7) & (labels != 9)))
    sevens = int((dataset.test.labels == 7).sum())
    expected = (
        f"digits: class '7' has {sevens} test images but none among the {len(dataset.train)} training images, "
        r"so no head can learn it \(2 such classes\)\. Use a larger --train-size"
    )
    with pytest.raises(DatasetError, match=expected):
        probe(make_backbones(), dataset, cache=None)


def test_a_train_size_larger_than_the_split_says_how_large_it_is() -> None:
    with pytest.raises(DatasetError, match=r"--train-size 5000 does not fit digits/train, which has 1258 images"):
        probe(make_backbones(), "digits", cache=None, train_size=5000)
    with pytest.raises(DatasetError, match=r"--test-size 0 does not fit digits/test, which has 539 images"):
        probe(make_backbones(), "digits", cache=None, test_size=0)


def test_one_image_a_class_leaves_nothing_for_val() -> None:
    labels = load_dataset("digits").train.labels
    dataset = digits_with_train(np.unique(labels, return_index=True)[1])
    with pytest.raises(DatasetError, match="no class has two training images, so none can go to val"):
        probe(make_backbones(), dataset, cache=None)


def test_training_images_of_one_class_are_refused() -> None:
    dataset = load_dataset("digits")
    threes = replace(
        digits_with_train(np.flatnonzero(dataset.train.labels == 3)),
        test=dataset.test.take(dataset.test.labels == 3),
    )
    with pytest.raises(DatasetError, match=r"the \d+ training images are all of one class; two are needed"):
        probe(make_backbones(), threes, cache=None)


def test_no_backbone_is_nothing_to_probe() -> None:
    with pytest.raises(RichrepError, match="Nothing to measure: give at least one backbone"):
        probe([], "digits")


def test_the_backbones_handed_in_are_left_as_they_were(cache: FeatureCache) -> None:
    backbones = make_backbones()
    before = [{name: tensor.clone() for name, tensor in b.trunk.state_dict().items()} for b in backbones]
    probe([backbones[0], backbones[0]], "digits", protocol=QUICK, cache=cache, **SIZES)
    assert [b.name for b in backbones] == ["small-cnn-4-8", "small-cnn-4-6"]
    for backbone, state in zip(backbones, before, strict=True):
        for name, tensor in backbone.trunk.state_dict().items():
            assert torch.equal(tensor, state[name])
