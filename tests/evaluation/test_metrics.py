import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch import tensor

from richrep.evaluation import metrics
from richrep.evaluation.metrics import (
    accuracy,
    bootstrap_interval,
    ece,
    log_odds,
    mean_per_class_accuracy,
    nll,
    paired_bootstrap_interval,
    score,
    top_k_accuracy,
)

INF = float("inf")
NAN = float("nan")


def random_logits_and_labels(num_images=500, num_classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num_images,), generator=generator)
    logits = 2 * torch.randn(num_images, num_classes, generator=generator)
    logits[torch.arange(num_images), labels] += 2
    return logits, labels


def flat_score(logits, labels):
    scores = score(logits, labels, 7)
    low, high = scores.pop("accuracy_ci95")
    return scores | {"low": low, "high": high}


def bools(num_right, num_images):
    return torch.arange(num_images) < num_right


# By hand


def test_accuracy_is_the_fraction_that_agrees():
    assert accuracy(preds=tensor([0, 1, 2, 2]), labels=tensor([0, 1, 2, 0])) == 0.75


@pytest.mark.parametrize(("preds", "expected"), [([0, 1], 1.0), ([1, 0], 0.0)])
def test_accuracies_reach_their_ends(preds, expected):
    assert accuracy(preds=tensor(preds), labels=tensor([0, 1])) == expected
    assert mean_per_class_accuracy(preds=tensor(preds), labels=tensor([0, 1])) == expected


def test_mean_per_class_accuracy_counts_classes_and_not_images():
    # class 0: 3 of 4 right, class 1: 0 of 1 right -> (3/4 + 0) / 2 = 0.375; plain accuracy would say 3/5
    assert mean_per_class_accuracy(preds=tensor([0, 0, 0, 1, 0]), labels=tensor([0, 0, 0, 0, 1])) == 0.375


def test_a_class_without_images_is_left_out_of_the_mean():
    # classes 0 and 3 have images: (1/2 + 1/1) / 2; classes 1, 2 and the predicted 5 have none
    assert mean_per_class_accuracy(preds=tensor([0, 5, 3]), labels=tensor([0, 0, 3])) == 0.75


def test_top_k_looks_at_the_k_largest_logits():
    logits = tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    labels = tensor([0, 1, 2])
    assert [top_k_accuracy(logits=logits, labels=labels, k=k) for k in (1, 2, 3)] == [1 / 3, 2 / 3, 1.0]


def test_with_fewer_classes_than_k_every_image_is_within_the_top_k():
    logits, labels = random_logits_and_labels(num_classes=4)
    assert top_k_accuracy(logits=logits, labels=labels, k=5) == 1.0


def test_ties_go_to_the_lower_class_so_that_top_1_equals_accuracy():
    logits, labels = torch.zeros(6, 6), torch.arange(6)
    assert top_k_accuracy(logits=logits, labels=labels, k=1) == 1 / 6
    assert top_k_accuracy(logits=logits, labels=labels, k=5) == 5 / 6
    assert score(logits, labels, 6)["accuracy"] == 1 / 6


def test_nll_of_equal_logits_is_the_log_of_the_number_of_classes():
    assert nll(logits=torch.zeros(3, 4), labels=tensor([0, 1, 3])) == pytest.approx(math.log(4), abs=1e-15)


def test_nll_by_hand():
    # probabilities of the true class 3/4 and 1/4: -(ln 3/4 + ln 1/4) / 2
    logits = tensor([[3.0, 1.0], [3.0, 1.0]], dtype=torch.float64).log()
    assert nll(logits=logits, labels=tensor([0, 1])) == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_nll_stays_finite_at_probability_zero_and_exact_at_one():
    assert nll(logits=tensor([[0.0, -INF]]), labels=tensor([0])) == 0.0
    assert nll(logits=tensor([[0.0, -INF]]), labels=tensor([1])) == pytest.approx(708.396, abs=1e-3)
    assert nll(logits=tensor([[0.0, -1e30]]), labels=tensor([1])) == pytest.approx(708.396, abs=1e-3)
    # not clipped: e^-500 is above the floor although float32 could not hold it
    assert nll(logits=tensor([[0.0, -500.0]]), labels=tensor([1])) == pytest.approx(500.0)


def test_nll_of_huge_logits_does_not_overflow():
    assert nll(logits=tensor([[1e30, 1e30]]), labels=tensor([0])) == pytest.approx(math.log(2))


def test_ece_by_hand():
    # two images at confidence 3/4, one right: gap |1/2 - 3/4|; two at confidence 1, both right: gap 0
    # -> 2/4 · 1/4 + 2/4 · 0 = 0.125
    logits = tensor([[3.0, 1.0], [3.0, 1.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).log()
    assert ece(logits=logits, labels=tensor([0, 1, 0, 1])) == pytest.approx(0.125)


def test_ece_reaches_its_ends():
    sure = tensor([[0.0, -INF], [0.0, -INF]])
    assert ece(logits=sure, labels=tensor([0, 0])) == 0.0
    assert ece(logits=sure, labels=tensor([1, 1])) == 1.0


def test_gaps_of_opposite_sign_cancel_within_a_bin_only():
    # confidences 0.75 (right) and 1.0 (wrong): |1 - 0.75| / 2 + |0 - 1| / 2 in two bins, |1 - 1.75| / 2 in one
    logits = tensor([[3.0, 1.0], [1.0, 0.0]], dtype=torch.float64).log()
    assert ece(logits=logits, labels=tensor([0, 1])) == pytest.approx(0.625)
    assert ece(logits=logits, labels=tensor([0, 1]), num_bins=1) == pytest.approx(0.375)


def test_log_odds_are_clipped_at_half_of_one_image():
    # 100 images, all right: p = 99.5 / 100, ln(99.5 / 0.5)
    assert log_odds(1.0, num_images=100) == pytest.approx(math.log(199))
    assert log_odds(0.0, num_images=100) == pytest.approx(-math.log(199))
    assert log_odds(1.0, num_images=1) == 0.0


# Against outside truth


@pytest.mark.parametrize(("percent", "expected"), [(50, 0.0), (75, 1.0986), (90, 2.1972), (95, 2.9444)])
def test_log_odds_agree_with_the_values_of_the_t_rex_paper(percent, expected):
    # spec/trex.md section 5.7
    assert log_odds(percent / 100, num_images=10_000) == pytest.approx(expected, abs=5e-5)


def test_scores_agree_with_scikit_learn():
    logits, labels = random_logits_and_labels()
    scores = score(logits, labels, 7)
    probs = logits.double().softmax(1).numpy()
    preds = probs.argmax(1)
    assert scores["accuracy"] == sklearn.metrics.accuracy_score(labels, preds)
    assert scores["mean_per_class_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, preds))
    assert scores["top5_accuracy"] == pytest.approx(sklearn.metrics.top_k_accuracy_score(labels, probs, k=5))
    assert scores["nll"] == pytest.approx(sklearn.metrics.log_loss(labels, probs))


def test_ece_agrees_with_the_definition_written_as_a_loop():
    # Guo et al. 2017, equations 1-3, as sets
    logits, labels = random_logits_and_labels()
    probs = logits.double().softmax(1).numpy()
    confidences, correct = probs.max(1), probs.argmax(1) == labels.numpy()
    expected = 0.0
    for m in range(1, 16):
        members = (confidences > (m - 1) / 15) & (confidences <= m / 15)
        if members.any():
            expected += members.mean() * abs(correct[members].mean() - confidences[members].mean())
    assert ece(logits=logits, labels=labels) == pytest.approx(expected, abs=1e-12)


def test_bootstrap_interval_agrees_with_resampling_image_by_image():
    correct = bools(880, 1000)
    rng = np.random.default_rng(1)
    means = correct.numpy()[rng.integers(1000, size=(4000, 1000))].mean(1)
    expected = np.quantile(means, [0.025, 0.975])
    assert bootstrap_interval(correct) == pytest.approx(expected, abs=0.003)


def test_bootstrap_interval_agrees_with_the_normal_approximation():
    # 0.88 ± 1.96 · sqrt(0.88 · 0.12 / 2000) = 0.88 ± 0.01424
    assert bootstrap_interval(bools(1760, 2000)) == pytest.approx((0.86576, 0.89424), abs=0.0015)


def test_paired_interval_agrees_with_resampling_image_by_image():
    rng = np.random.default_rng(2)
    a, b = rng.random(1000) < 0.9, rng.random(1000) < 0.85
    rows = rng.integers(1000, size=(4000, 1000))
    expected = np.quantile(a[rows].mean(1) - b[rows].mean(1), [0.025, 0.975])
    assert paired_bootstrap_interval(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, abs=0.003)


# Invariants


def test_score_has_the_names_of_the_record_and_plain_values():
    scores = score(*random_logits_and_labels(), num_classes=7)
    assert list(scores) == [
        "accuracy",
        "accuracy_ci95",
        "mean_per_class_accuracy",
        "top5_accuracy",
        "nll",
        "ece",
        "log_odds",
    ]
    low, high = scores.pop("accuracy_ci95")
    assert 0 <= low <= scores["accuracy"] <= high <= 1
    assert all(type(value) is float for value in scores.values())


def test_the_order_of_the_images_does_not_matter():
    logits, labels = random_logits_and_labels()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    assert flat_score(logits[order], labels[order]) == pytest.approx(flat_score(logits, labels), abs=1e-12)


def test_the_chunk_size_does_not_matter(monkeypatch):
    logits, labels = random_logits_and_labels()
    whole = flat_score(logits, labels)
    monkeypatch.setattr(metrics, "CHUNK_VALUES", 33)
    assert flat_score(logits, labels) == pytest.approx(whole, abs=1e-12)


def test_adding_a_constant_to_a_row_changes_no_score():
    logits, labels = random_logits_and_labels()
    logits = logits.double()
    shift = torch.linspace(-50, 50, len(labels), dtype=torch.float64).unsqueeze(1)
    assert flat_score(logits + shift, labels) == pytest.approx(flat_score(logits, labels), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_of_logits_is_scored(dtype):
    logits, labels = random_logits_and_labels()
    assert score(logits.to(dtype), labels, 7)["accuracy"] == pytest.approx(
        score(logits, labels, 7)["accuracy"], abs=0.02
    )


def test_an_interval_is_the_same_on_every_call_and_moves_with_the_seed():
    correct = bools(700, 1000)
    assert bootstrap_interval(correct) == bootstrap_interval(correct)
    assert bootstrap_interval(correct) != bootstrap_interval(correct, seed=1)


def test_a_higher_level_gives_a_wider_interval():
    narrow, wide = (bootstrap_interval(bools(700, 1000), level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < 0.7 < narrow[1] < wide[1]


@pytest.mark.parametrize(("num_right", "expected"), [(0, (0.0, 0.0)), (50, (1.0, 1.0))])
def test_the_interval_has_no_width_where_all_images_agree(num_right, expected):
    assert bootstrap_interval(bools(num_right, 50)) == expected


def test_paired_interval_of_a_method_with_itself_is_zero_and_swapping_turns_the_sign():
    a, b = bools(900, 1000), bools(850, 1000)
    assert paired_bootstrap_interval(a, a) == (0.0, 0.0)
    low, high = paired_bootstrap_interval(a, b)
    assert 0 < low < 0.05 < high
    assert paired_bootstrap_interval(b, a) == pytest.approx((-high, -low), abs=0.002)


def test_pairing_narrows_the_interval_when_errors_are_shared():
    a, b = bools(900, 1000), bools(890, 1000)
    paired = paired_bootstrap_interval(a, b)
    alone = bootstrap_interval(a)
    assert paired[1] - paired[0] < 0.5 * (alone[1] - alone[0])


# Errors


@pytest.mark.parametrize("function", [accuracy, mean_per_class_accuracy])
def test_a_score_over_no_images_is_an_error(function):
    empty = torch.empty(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="labels are empty; a score over no images is undefined"):
        function(preds=empty, labels=empty)


@pytest.mark.parametrize("function", [top_k_accuracy, nll, ece])
def test_a_score_of_no_logits_is_an_error(function):
    with pytest.raises(ValueError, match="labels are empty"):
        function(logits=torch.empty(0, 3), labels=torch.empty(0, dtype=torch.int64))


def test_preds_and_labels_of_other_shapes_are_an_error():
    with pytest.raises(ValueError, match=r"same shape \(N,\), got \(2,\) and \(3,\)"):
        accuracy(preds=tensor([0, 1]), labels=tensor([0, 1, 2]))


@pytest.mark.parametrize("labels", [tensor([0.0]), tensor([True]), tensor([[0]])])
def test_labels_must_be_integers_in_one_dimension(labels):
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(N,\)"):
        accuracy(preds=labels, labels=labels)


def test_negative_labels_are_an_error():
    with pytest.raises(ValueError, match=r"class indices in \[0, K\), got -1"):
        accuracy(preds=tensor([0]), labels=tensor([-1]))


def test_a_label_beyond_the_logits_is_an_error():
    with pytest.raises(ValueError, match="K = 3, got 3"):
        nll(logits=torch.zeros(1, 3), labels=tensor([3]))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 0)])
def test_logits_need_one_row_per_label(shape):
    with pytest.raises(ValueError, match=r"logits must have shape \(N, K\) with N = 3"):
        nll(logits=torch.zeros(shape), labels=tensor([0, 0, 0]))


def test_logits_need_num_classes_columns():
    with pytest.raises(ValueError, match=r"num_classes = 4 columns, got shape \(1, 3\)"):
        score(torch.zeros(1, 3), tensor([0]), 4)


@pytest.mark.parametrize("row", [[0.0, NAN], [0.0, INF], [-INF, -INF]])
def test_logits_that_are_not_finite_are_an_error_that_names_the_row(row):
    with pytest.raises(ValueError, match="1 of 2 rows are not; the first is row 1"):
        score(tensor([[0.0, 1.0], row]), tensor([0, 1]), 2)


@pytest.mark.parametrize("value", [-0.1, 1.1, 88.0, NAN])
def test_log_odds_want_a_fraction(value):
    with pytest.raises(ValueError, match=r"accuracy must be a fraction in \[0, 1\], got"):
        log_odds(value, num_images=10)


def test_log_odds_of_no_images_are_an_error():
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        log_odds(0.5, num_images=0)


def test_intervals_refuse_what_is_not_a_vector_of_bools():
    with pytest.raises(ValueError, match=r"correct must be bool of shape \(N,\), got torch.int64"):
        bootstrap_interval(tensor([1, 0]))
    with pytest.raises(ValueError, match="correct is empty"):
        bootstrap_interval(torch.empty(0, dtype=torch.bool))


def test_paired_interval_refuses_other_numbers_of_images():
    with pytest.raises(ValueError, match="must be of the same images, got 2 and 3"):
        paired_bootstrap_interval(bools(1, 2), bools(1, 3))


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_the_level_is_a_fraction_between_the_ends(level):
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got"):
        bootstrap_interval(bools(1, 2), level=level)


def test_counts_that_must_be_positive_are_checked():
    logits, labels = torch.zeros(1, 2), tensor([0])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        top_k_accuracy(logits=logits, labels=labels, k=0)
    with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
        ece(logits=logits, labels=labels, num_bins=0)
    with pytest.raises(ValueError, match="num_resamples must be at least 1, got 0"):
        bootstrap_interval(bools(1, 2), num_resamples=0)
