"""Strategies: which subsets of M members are scored. Pure functions of a score; nothing here knows what it measures.

A subset is a sorted tuple of positions. Of equal scores the subset of fewer features wins, then the one named first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from richrep.errors import RichrepError

Subset = tuple[int, ...]
MAX_EXHAUSTIVE = 10  # members: 1,023 subsets


@dataclass
class Scored:
    """A score that is computed once a subset.

    Attributes:
        score: subset -> larger is better.
        dims: features of each of the M members.
        values: what has been scored.
    """

    score: Callable[[Subset], float]
    dims: Sequence[int]
    values: dict[Subset, float] = field(default_factory=dict)

    def best(self, subsets: Iterable[Subset], count: int = 1) -> list[Subset]:
        """The `count` best of `subsets`, best first."""
        wanted = set(subsets)
        for subset in sorted(wanted - self.values.keys()):
            self.values[subset] = self.score(subset)
        return sorted(wanted, key=self._rank)[:count]

    def path(self) -> list[Subset]:
        """The best subset of every size that was scored, smallest first."""
        sizes = sorted({len(subset) for subset in self.values})
        return [self.best(s for s in self.values if len(s) == size)[0] for size in sizes]

    def _rank(self, subset: Subset) -> tuple[float, int, Subset]:
        return -self.values[subset], sum(self.dims[i] for i in subset), subset


def beam(scored: Scored, *, max_members: int, beam_width: int) -> None:
    """From single members, the best `beam_width` subsets of each size grow by one member, up to `max_members`."""
    members = range(len(scored.dims))
    kept: list[Subset] = [()]
    for _ in range(max_members):
        grown = {tuple(sorted((*subset, i))) for subset in kept for i in members if i not in subset}
        kept = scored.best(grown, beam_width)


def greedy(scored: Scored, *, max_members: int, beam_width: int) -> None:
    """From the best single member, the member that helps most joins, up to `max_members`: a beam of one."""
    beam(scored, max_members=max_members, beam_width=1)


def backward(scored: Scored, *, max_members: int, beam_width: int) -> None:
    """From all members, the one that is missed least leaves, down to one; `max_members` limits what may be chosen."""
    current = tuple(range(len(scored.dims)))
    scored.best([current])
    while len(current) > 1:
        (current,) = scored.best(combinations(current, len(current) - 1))


def exhaustive(scored: Scored, *, max_members: int, beam_width: int) -> None:
    """Every subset up to `max_members`.

    Raises:
        RichrepError: more than 10 members.
    """
    count = len(scored.dims)
    if count > MAX_EXHAUSTIVE:
        raise RichrepError(too_many_message(count))
    scored.best(s for size in range(1, max_members + 1) for s in combinations(range(count), size))


def too_many_message(count: int) -> str:
    """Why `count` members are not searched exhaustively, and what to do."""
    return (
        f"Strategy 'exhaustive' takes at most {MAX_EXHAUSTIVE} members (1,023 subsets), got {count}. "
        "Use strategy 'beam', which comes close with a fraction of the subsets."
    )


STRATEGIES = {"greedy": greedy, "beam": beam, "backward": backward, "exhaustive": exhaustive}
