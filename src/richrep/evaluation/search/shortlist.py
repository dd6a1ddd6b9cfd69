"""The short list: which subsets, of all that the proxy ranked, are probed in full."""

from __future__ import annotations

from collections.abc import Iterator

from richrep.evaluation.search.strategies import Scored, Subset


def probe_shortlist(proxy: Scored, full: Scored, *, max_members: int, shortlist: int) -> tuple[Subset, ...]:
    """Scores in full what is promising, and goes on from the best of it until no neighbour is better.

    First the best subset of every size and the next `shortlist` by the proxy. Then, again and again, of the neighbours
    of the best in full the best `shortlist` by the proxy: the proxy finds the region, the full probe the place in it.

    Args:
        proxy: scored by a strategy; neighbours are added.
        full: the score that decides; what it has scored in the end is all that may be chosen.
        shortlist: 0 probes the path alone.

    Returns:
        The path: the best subset of every size by the proxy, smallest first, all of them scored in full.
    """
    path = [subset for subset in proxy.path() if len(subset) <= max_members]
    others = [subset for subset in proxy.values if len(subset) <= max_members and subset not in path]
    (best,) = full.best([*path, *proxy.best(others, shortlist)])
    while True:
        around = [s for s in neighbours(best, len(proxy.dims)) if len(s) <= max_members and s not in full.values]
        full.best(proxy.best(around, shortlist))
        (better,) = full.best(full.values)
        if better == best:
            return tuple(path)
        best = better


def neighbours(subset: Subset, count: int) -> Iterator[Subset]:
    """The subsets of `count` members that differ from `subset` by one member that joins, leaves or is exchanged."""
    outside = [i for i in range(count) if i not in subset]
    for i in outside:
        yield tuple(sorted((*subset, i)))
    for leaving in subset:
        rest = tuple(i for i in subset if i != leaving)
        if rest:
            yield rest
        for i in outside:
            yield tuple(sorted((*rest, i)))
