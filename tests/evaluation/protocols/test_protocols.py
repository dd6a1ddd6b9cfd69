"""What every protocol does, whatever its head: one file over all members of PROTOCOLS."""

from __future__ import annotations

import inspect
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from richrep.errors import RichrepError
from richrep.evaluation.protocols import LEGACY_TEST_SELECTION, PROTOCOLS, as_protocol
from richrep.evaluation.protocols.protocol import Candidate, ProbeProtocol, best_on_val, distinct_angles, spans
from richrep.features.feature_set import Block, FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import DEFAULT_NORMALIZATIONS
from richrep.features.rows import Rows
from richrep.heads import HEADS
from richrep.heads.ridge import RidgeHead

BLOCKS = (Block("left", 0, 32), Block("right", 32, 64))
SMALLER = {  # fewer candidates, where all would take seconds
    "logistic": {"cs": (1e-2, 1.0)},
    "cosine": {"temperatures": (0.1, 0.3)},
    "rrl-linear": {"batch_size": 20, "weight_decays": (1e-4, 1e-2)},  # steps enough for 200 images
    "sparse-linear": {"batch_size": 20, "lrs": (0.1,), "epochs": 60, "milestones": (20, 40)},
    "swav-linear": {"batch_size": 20},
    "trex-sgd": {"trials": 3, "batch_size": 50, "epochs": 40},
    "trex-lbfgs": {"trials": 3},
    "legacy-trex-sgd": {"trials": 3, "batch_size": 50, "epochs": 40},
    "legacy-trex-lbfgs": {"trials": 3},
}
PAPERS = {"rrl-linear": "none", "sparse-linear": "none", "trex-sgd": "l2", "trex-lbfgs": "none"}  # one normalisation
PAPERS |= {"swav-linear": "none", "legacy-trex-sgd": "l2", "legacy-trex-lbfgs": "none"}


@pytest.fixture(scope="module")
def digits() -> FeatureSet:
    pixels, labels = load_digits(return_X_y=True)
    features = torch.from_numpy(pixels[:300]).float() / 16 * torch.tensor([1.0] * 32 + [0.01] * 32)
    return FeatureSet(features, torch.from_numpy(labels[:300]), 10, BLOCKS, key="digits")


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(0).permutation(300)
    return order[:200], order[200:]


@pytest.mark.parametrize("name", [name for name in (*PROTOCOLS, *LEGACY_TEST_SELECTION) if "N" not in name])
def test_a_name_does_for_a_protocol(name: str) -> None:
    assert as_protocol(name) == (PROTOCOLS | LEGACY_TEST_SELECTION)[name]()
    assert as_protocol(name).name == name


def test_a_name_with_a_number_is_the_protocols_own_and_none_is_the_default() -> None:
    assert as_protocol("kshot:3").name == "kshot:3"
    assert as_protocol("kshot:3-legacy-test-selection").name == "kshot:3-legacy-test-selection"
    assert as_protocol(None) == PROTOCOLS["logistic"]()
    with pytest.raises(RichrepError, match=r"Unknown protocol 'logistik'\. Did you mean 'logistic'"):
        as_protocol("logistik")


# Those that draw few images are measured draw by draw: test_kshot.py, test_vtab1k.py.
WHOLE = [name for name, make in PROTOCOLS.items() if not hasattr(make(), "draws")]


@pytest.fixture(params=WHOLE)
def protocol(request: pytest.FixtureRequest) -> ProbeProtocol:
    return PROTOCOLS[request.param](**SMALLER.get(request.param, {}))


def test_the_choice_is_what_refitting_on_train_alone_scores_on_val(protocol, digits, rows) -> None:
    choice = protocol.select(digits, *rows)
    head = protocol.refit(digits.take(rows[0]), choice)
    val = digits.take(rows[1])
    torch.testing.assert_close(head.logits(val.features).softmax(1), choice.val_logits.softmax(1), rtol=0, atol=2e-2)
    assert (choice.val_logits.argmax(1) == val.labels).double().mean() > 0.8


def test_the_refit_is_the_head_with_the_chosen_hyperparameters(protocol, digits, rows) -> None:
    choice = protocol.select(digits, *rows)
    refitted = protocol.refit(digits, choice)
    options = dict(choice.hyperparameters)
    if "c" in options:
        options["l2"] = 1 / (300 * options.pop("c"))
    kind = "sgd" if "lr" in options else "logistic" if "l2" in options and protocol.name in PAPERS else protocol.name
    if kind == "sgd":  # these have options of their own, which the protocol holds, not the choice
        options = refitted.get_params() | options
    alone = HEADS[kind](**options | {"blocks": [(0, 32), (32, 64)]})
    alone.fit(digits.features, digits.labels, num_classes=10)
    assert type(refitted) is HEADS[kind]
    torch.testing.assert_close(
        refitted.logits(digits.features).softmax(1), alone.logits(digits.features).softmax(1), rtol=0, atol=2e-2
    )


def test_what_is_chosen_is_one_of_what_is_tried(protocol, digits, rows) -> None:
    options = {name: value for name, value in asdict(protocol).items() if isinstance(value, tuple)}
    chosen = dict(protocol.select(digits, *rows).hyperparameters)
    if "l2" in chosen and "cs" in options:
        l2 = chosen.pop("l2")
        chosen["c"] = next(c for c in options["cs"] if np.isclose(1 / (200 * c), l2))
    if "l2" in chosen and "ratios" in options:
        head = RidgeHead(normalization=chosen["normalization"], blocks=spans(digits))
        train = digits.take(rows[0])
        heads = head.along(train.features, train.labels, options["ratios"], num_classes=train.num_classes)
        assert any(np.isclose(head.l2, chosen["l2"]) for head in heads)
        del chosen["l2"]
    for name, value in chosen.items():
        if f"{name}_range" in options:
            low, high = options[f"{name}_range"]
            assert low <= value <= high
            continue
        assert value in next(values for option, values in options.items() if option.rstrip("s") == name)


def test_val_and_test_labels_beyond_the_rows_given_change_nothing(protocol, digits, rows) -> None:
    """Selection reads train and val rows only: what the other rows hold does not matter."""
    kept = rows[0][:150], rows[1][:50]
    other = np.concatenate([rows[0][150:], rows[1][50:]])
    features, labels = digits.features.clone(), digits.labels.clone()
    features[other], labels[other] = 1e3, 0
    one = protocol.select(digits, *kept)
    two = protocol.select(replace(digits, features=features, labels=labels), *kept)
    assert one.hyperparameters == two.hyperparameters
    torch.testing.assert_close(one.val_logits, two.val_logits)


def test_a_normalisation_of_ones_choice_is_the_only_one_tried(protocol, digits, rows) -> None:
    for name in ("standard", "pca:20"):
        only = replace(protocol, normalizations=(name,))
        assert only.select(digits, *rows).hyperparameters["normalization"] == name


def test_rows_that_are_both_train_and_val_are_refused(protocol, digits, rows) -> None:
    with pytest.raises(ValueError, match=r"disjoint train and val rows, got 200 and 101 with 1 in both"):
        protocol.select(digits, rows[0], np.append(rows[1], rows[0][0]))
    with pytest.raises(ValueError, match="got 200 and 0"):
        protocol.select(digits, rows[0], rows[1][:0])


def test_no_candidates_are_refused(protocol, digits, rows) -> None:
    with pytest.raises(ValueError, match="selection needs at least one"):
        replace(protocol, normalizations=()).select(digits, *rows)


def test_a_protocol_is_named_as_registered_and_states_every_option(protocol) -> None:
    assert PROTOCOLS[protocol.name]().name == protocol.name
    assert protocol.val_fraction == 0.2
    paper = PAPERS.get(protocol.name)
    assert protocol.normalizations == ((paper,) if paper else DEFAULT_NORMALIZATIONS)
    assert set(asdict(protocol)) == {field.name for field in fields(protocol)}
    assert not any("test" in name for name in inspect.signature(protocol.select).parameters)


def test_a_class_of_val_that_train_lacks_is_scored_as_wrong(protocol, digits, rows) -> None:
    train = rows[0][digits.labels[rows[0]].numpy() != 3]
    choice = protocol.select(digits, train, rows[1])
    assert 3 not in choice.val_logits.argmax(1)


LITTLE = replace(FRUGAL, rotated=0, state=1, kept=0, chunk_values=2000, pair_values=2000)


@pytest.fixture
def stored_and_held(tmp_path) -> tuple[FeatureSet, FeatureSet]:
    """The digits in half precision, side by side in mapped files; and as one tensor in memory."""
    pixels, labels = load_digits(return_X_y=True)
    noise = 0.02 * np.random.default_rng(0).standard_normal((300, 64))  # no two neighbours are equally near
    half = (pixels[:300] / 16 + noise).astype("<f2")
    files = []
    for block in BLOCKS:
        half[:, block.start : block.stop].tofile(tmp_path / block.name)
        mapped = np.memmap(tmp_path / block.name, dtype="<f2", mode="c", shape=(300, 32))
        files.append(torch.from_numpy(mapped))
    targets = torch.from_numpy(labels[:300])
    stored = FeatureSet(Rows(files), targets, 10, BLOCKS, key="stored")
    return stored, FeatureSet(torch.from_numpy(half).float(), targets, 10, BLOCKS, key="held")


@pytest.mark.parametrize("num_train", [200, 40])  # by columns, and by samples where the head knows both
# logistic in test_selection.py; legacy ones as their namesakes
@pytest.mark.parametrize("name", [name for name in WHOLE if name != "logistic" and "legacy" not in name])
def test_streamed_from_files_with_little_memory_is_the_same(stored_and_held, rows, name, num_train) -> None:
    options = {"temperatures": (0.2,)} if name == "knn" else SMALLER.get(name, {})  # 1/T multiplies float32's rounding
    protocol = PROTOCOLS[name](normalizations=("standard", "block-l2", "pca:10"), **options)
    found = []
    for features, memory in zip(stored_and_held, (LITTLE, FRUGAL), strict=True):
        choice = protocol.select(features, rows[0][:num_train], rows[1], memory=memory)
        head = protocol.refit(features, choice, memory=memory)
        found.append((choice, head.logits(features.features)))
    (streamed, its_logits), (kept, logits) = found
    assert streamed.hyperparameters == pytest.approx(kept.hyperparameters)
    atol = 5e-3 if name == "trex-lbfgs" else 1e-6  # an optimiser that stops near the minimum, from another side
    for one, other in ((streamed.val_logits, kept.val_logits), (its_logits, logits)):
        torch.testing.assert_close(one.softmax(1), other.softmax(1), rtol=0, atol=atol)
    if name in ("prototypes", "cosine"):
        assert (streamed.solver["samples"], kept.solver["samples"]) == ("streamed", "kept")


def test_a_record_can_state_the_limit_and_how_the_head_was_solved(protocol, digits, rows) -> None:
    choice = protocol.select(digits, *rows, memory=MemoryBudget.of("100MB"))
    assert choice.solver["memory_limit"] == 100_000_000
    if protocol.name == "ridge":
        assert choice.solver == {"side": "columns", "rows": 200, "columns": 64, "memory_limit": 100_000_000}


# The shared steps


def test_ties_in_accuracy_go_to_the_lower_nll_and_then_to_the_first() -> None:
    labels = torch.tensor([0, 1])
    wrong, unsure, sure = (torch.tensor([[a, 0.0], [0.0, b]]) for a, b in ((5.0, -1.0), (1.0, 1.0), (3.0, 3.0)))
    candidates = [Candidate({"i": i}, logits.__getitem__) for i, logits in enumerate((wrong, unsure, sure, sure))]
    for size in (1, 2):
        assert best_on_val(candidates, labels, block_rows=size).hyperparameters == {"i": 2}
        assert best_on_val(candidates[:2], labels, block_rows=size).hyperparameters == {"i": 1}
        assert torch.equal(best_on_val(candidates, labels, block_rows=size).val_logits, sure)


def test_of_one_backbone_normalisations_that_keep_angles_are_tried_once(digits) -> None:
    alone = replace(digits, blocks=(Block("one", 0, 64),))
    assert distinct_angles(DEFAULT_NORMALIZATIONS, digits) == list(DEFAULT_NORMALIZATIONS)
    assert distinct_angles(DEFAULT_NORMALIZATIONS, alone) == ["none", "standard"]
    assert distinct_angles(["block-rms", "pca:3", "none"], alone) == ["block-rms", "pca:3"]


def test_k_above_the_number_of_training_images_is_tried_once(digits) -> None:
    knn = PROTOCOLS["knn"](ks=(500, 5, 100, 50), temperatures=(0.07,), normalizations=("none",))
    rows = torch.arange(60)
    tried = [found.hyperparameters["k"] for found in knn._candidates(digits, rows, torch.arange(60, 100))]
    assert tried == [5, 50, 100]


def test_one_search_for_every_k_gives_what_a_head_of_that_k_gives(digits, rows) -> None:
    knn = PROTOCOLS["knn"](ks=(3, 30), temperatures=(0.05, 0.5), normalizations=("block-l2",))
    train, val = digits.take(rows[0]), digits.take(rows[1])
    for found in knn._candidates(digits, *map(torch.as_tensor, rows)):
        head = HEADS["knn"](**found.hyperparameters, blocks=[(0, 32), (32, 64)]).fit(
            train.features, train.labels, num_classes=10
        )
        torch.testing.assert_close(found.logits(torch.arange(len(val))), head.logits(val.features))
