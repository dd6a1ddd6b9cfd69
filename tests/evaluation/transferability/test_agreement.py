"""Rank correlations by hand and against their definitions, and where they are undefined."""

import pytest

from richrep.evaluation.transferability.agreement import rank_agreement

KEYS = ("spearman", "kendall", "weighted_kendall")


def test_the_same_order_is_1_and_the_opposite_minus_1() -> None:
    same = rank_agreement([0.1, 5.0, 2.0, 3.0], [0.2, 0.9, 0.5, 0.6])
    assert [same[key] for key in KEYS] == pytest.approx([1, 1, 1])
    opposite = rank_agreement([4, 3, 2, 1], [0.1, 0.2, 0.3, 0.4])
    assert [opposite[key] for key in KEYS] == pytest.approx([-1, -1, -1])
    assert same["num_networks"] == 4 and "reason" not in same


def test_one_exchanged_pair_by_hand() -> None:
    # Ranks 1 2 3 4 against 2 1 3 4: Spearman 1 - 6·(1 + 1)/(4·15) = 0.8; Kendall (5 - 1)/6 = 2/3.
    at_the_bottom = rank_agreement([1, 2, 3, 4], [0.2, 0.1, 0.3, 0.4])
    assert at_the_bottom["spearman"] == pytest.approx(0.8)
    assert at_the_bottom["kendall"] == pytest.approx(2 / 3)
    # The weighted one minds an exchange at the top more than one at the bottom. By hand, ranks r from 0 at the top and
    # a pair weighing 1/(r + 1) + 1/(s + 1): the pairs weigh 3/2, 4/3, 5/4, 5/6, 3/4 and 7/12, in all 25/4. The top pair
    # exchanged gives (25/4 - 2·3/2)/(25/4) = 13/25, the bottom pair (25/4 - 2·7/12)/(25/4) = 61/75.
    at_the_top = rank_agreement([1, 2, 3, 4], [0.1, 0.2, 0.4, 0.3])
    assert at_the_top["weighted_kendall"] == pytest.approx(13 / 25)
    assert at_the_bottom["weighted_kendall"] == pytest.approx(61 / 75)


@pytest.mark.parametrize(
    ("scores", "accuracies", "reason"),
    [
        ([], [], "0 networks, at least 3 are needed"),
        ([1.0], [0.5], "1 network, at least 3 are needed"),
        ([1.0, 2.0], [0.5, 0.6], "2 networks, at least 3 are needed"),
        ([1.0, 1.0, 1.0], [0.5, 0.6, 0.7], "all networks have the same score"),
        ([1.0, 2.0, 3.0], [0.5, 0.5, 0.5], "all networks have the same accuracy"),
    ],
)
def test_what_is_undefined_is_none_with_its_reason(scores, accuracies, reason) -> None:
    found = rank_agreement(scores, accuracies)
    assert [found[key] for key in KEYS] == [None, None, None]
    assert found["reason"] == reason and found["num_networks"] == len(scores)


def test_ties_among_some_are_allowed() -> None:
    found = rank_agreement([1.0, 1.0, 2.0], [0.5, 0.6, 0.7])
    assert all(0 < found[key] < 1 for key in KEYS)
