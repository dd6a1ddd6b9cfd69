"""The short list, on scores that are known for every subset."""

from itertools import combinations

from richrep.evaluation.search.shortlist import neighbours, probe_shortlist
from richrep.evaluation.search.strategies import Scored, Subset, beam

EVERYTHING = [subset for size in (1, 2, 3, 4) for subset in combinations(range(4), size)]


def test_neighbours_gain_lose_or_exchange_one_member() -> None:
    assert sorted(neighbours((0, 2), 4)) == [(0,), (0, 1), (0, 1, 2), (0, 2, 3), (0, 3), (1, 2), (2,), (2, 3)]
    assert sorted(neighbours((1,), 3)) == [(0,), (0, 1), (1, 2), (2,)]  # the empty set is none


def scores(best: Subset) -> dict[Subset, float]:
    """Larger the fewer members differ from `best`."""
    return {subset: -float(len(set(subset) ^ set(best))) for subset in EVERYTHING}


def probe(proxy: Scored, full: Scored, *, max_members: int, shortlist: int) -> None:
    """With bounds as good as the score itself."""
    probe_shortlist(proxy, full, lambda subset, best: full.score(subset), max_members=max_members, shortlist=shortlist)


def test_the_best_is_found_from_afar_where_each_step_is_better() -> None:
    proxy = Scored(scores((0, 1)).__getitem__, [1] * 4)  # misleads: the truth lies elsewhere
    beam(proxy, max_members=4, beam_width=1)
    full = Scored(scores((2, 3)).__getitem__, [1] * 4)
    probe(proxy, full, max_members=4, shortlist=8)
    assert full.path()[1] == (2, 3) and full.best(full.values) == [(2, 3)]


def test_every_member_alone_and_the_best_without_each_member_are_probed_whatever_the_proxy_says() -> None:
    proxy = Scored(scores((0, 1, 2)).__getitem__, [1] * 4)
    beam(proxy, max_members=3, beam_width=1)
    full = Scored(lambda subset: {(0, 1, 2): 1.0, (1, 2): 2.0}.get(subset, 0.0), [1] * 4)
    probe(proxy, full, max_members=3, shortlist=0)
    assert (1, 2) not in proxy.path() and full.best(full.values) == [(1, 2)]
    assert {(0,), (1,), (2,), (3,)} <= full.values.keys()


def test_no_subset_larger_than_allowed_is_probed() -> None:
    proxy = Scored(scores((0, 1, 2, 3)).__getitem__, [1] * 4)
    beam(proxy, max_members=4, beam_width=2)
    full = Scored(scores((0, 1, 2, 3)).__getitem__, [1] * 4)
    probe(proxy, full, max_members=2, shortlist=8)
    assert max(map(len, full.values)) == 2


def test_only_neighbours_that_must_be_better_are_scored_in_full() -> None:
    truth = scores((2, 3))
    proxy = Scored(scores((0, 1)).__getitem__, [1] * 4)
    beam(proxy, max_members=4, beam_width=1)
    full, asked = Scored(truth.__getitem__, [1] * 4), []

    def at_least(subset: Subset, best: Subset) -> float:
        asked.append((subset, best))
        return truth[subset] - 0.5  # a step to a better neighbour brings 1 or 2

    probe_shortlist(proxy, full, at_least, max_members=4, shortlist=8)
    assert full.best(full.values) == [(2, 3)] and len(full.values) < len(EVERYTHING) == 15
    assert {best for _, best in asked} <= full.values.keys()


def test_a_bound_that_was_too_high_is_tried_once_and_the_walk_ends() -> None:
    proxy = Scored(scores((0, 1)).__getitem__, [1] * 4)
    beam(proxy, max_members=4, beam_width=1)
    full = Scored(scores((0, 1)).__getitem__, [1] * 4)
    probe_shortlist(proxy, full, lambda subset, best: 1.0, max_members=4, shortlist=8)
    assert full.best(full.values) == [(0, 1)]
