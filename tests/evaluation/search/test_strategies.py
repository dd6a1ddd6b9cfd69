"""Strategies against brute force, on scores made up by hand."""

from itertools import combinations

import pytest

from richrep.errors import RichrepError
from richrep.evaluation.search.strategies import STRATEGIES, Scored, Subset


def run(name, score, dims, *, max_members=3, beam_width=2) -> Scored:
    scored = Scored(score, dims)
    STRATEGIES[name](scored, max_members=max_members, beam_width=beam_width)
    return scored


def additive(values):
    return lambda subset: sum(values[i] for i in subset)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_finds_the_best_of_every_size_where_members_do_not_interact(name) -> None:
    values = (3.0, 1.0, 4.0, 2.0)
    scored = run(name, additive(values), (1, 1, 1, 1), max_members=3)
    assert [s for s in scored.path() if len(s) <= 3] == [(2,), (0, 2), (0, 2, 3)]


def test_exhaustive_scores_every_subset_up_to_the_limit() -> None:
    scored = run("exhaustive", len, (1,) * 5, max_members=3)
    assert set(scored.values) == {s for k in (1, 2, 3) for s in combinations(range(5), k)}


def pair_trap(subset: Subset) -> float:
    """0 is best alone, but 1 and 2 are best together."""
    return {(0,): 3, (1,): 2, (2,): 1, (0, 1): 4, (0, 2): 4, (1, 2): 9}.get(subset, 0)


def test_a_beam_finds_what_greedy_misses() -> None:
    assert run("greedy", pair_trap, (1, 1, 1), max_members=2).path() == [(0,), (0, 1)]
    assert run("beam", pair_trap, (1, 1, 1), max_members=2, beam_width=2).path() == [(0,), (1, 2)]
    assert run("exhaustive", pair_trap, (1, 1, 1), max_members=2).path() == [(0,), (1, 2)]


def test_backward_starts_from_all_and_takes_away() -> None:
    seen: list[Subset] = []

    def score(subset: Subset) -> float:
        seen.append(subset)
        return pair_trap(subset)

    scored = run("backward", score, (1, 1, 1), max_members=2)
    assert seen[0] == (0, 1, 2)
    assert (1, 2) in scored.values and (0,) not in scored.values  # 0 left first
    assert scored.path() == [(1,), (1, 2), (0, 1, 2)]


def test_every_subset_is_scored_once() -> None:
    seen: list[Subset] = []

    def score(subset: Subset) -> float:
        seen.append(subset)
        return float(sum(subset))

    scored = run("beam", score, (1,) * 6, max_members=4, beam_width=3)
    scored.path(), scored.best(seen)
    assert len(seen) == len(set(seen)) == len(scored.values)


def test_greedy_scores_as_many_candidates_as_it_must() -> None:
    assert (
        len(run("greedy", additive(range(16)), (512,) * 16, max_members=8).values)
        == 16 + 15 + 14 + 13 + 12 + 11 + 10 + 9
    )


def test_of_equal_scores_fewer_features_win_then_the_first_named() -> None:
    scored = Scored(lambda subset: 1.0, (8, 4, 4))
    assert scored.best([(0,), (1,), (2,)], 3) == [(1,), (2,), (0,)]
    assert scored.best([(0, 1), (2,)]) == [(2,)]


def test_more_members_than_there_are_end_with_all() -> None:
    assert run("greedy", len, (1, 1), max_members=2).path()[-1] == (0, 1)


def test_exhaustive_refuses_eleven_members_and_names_beam() -> None:
    with pytest.raises(RichrepError, match=r"at most 10 members .* got 11.*beam"):
        run("exhaustive", len, (1,) * 11)
