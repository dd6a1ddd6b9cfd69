"""What lies on the stack while a pickle is walked through: a few words for each value, whatever its size."""

from __future__ import annotations

from dataclasses import dataclass, field


class RefusedPickle(Exception):
    """Why a pickle is not read, in words that follow the name of the file."""


class LargePickle(RefusedPickle):
    """Refused for its length alone, so nobody should read the rest of it either."""


class BrokenPickle(Exception):
    """The pickle is truncated or no pickle."""


@dataclass(slots=True)
class Storage:
    """A storage of `size` bytes, read in items of `item_bytes`."""

    size: int
    item_bytes: int


@dataclass(slots=True, eq=False)
class Name:
    """A function or class that the pickle names."""

    full: str


@dataclass(slots=True, eq=False)
class Made:
    """What a call of `maker` gave."""

    maker: str


@dataclass(slots=True, eq=False)
class Bytes:
    """Bytes, which a call made from a text."""

    size: int


@dataclass(slots=True, eq=False)
class Tuple:
    """A tuple; `values` counts what it holds through all levels, as often as it is held."""

    items: list[object]
    depth: int
    values: int


@dataclass(slots=True, eq=False)
class Items:
    """A list, dictionary or set of `size` entries; only a list keeps them.

    Attributes:
        odd_keys: keys that could collide, as `Limits.count_key` counts them.
        next_key: the number that would go on where the keys so far left off.
    """

    kind: str
    size: int = 0
    items: list[object] = field(default_factory=list)
    odd_keys: int = 0
    next_key: int = 0
