"""Shard: the part of an entry's blocks that one job of a job array computes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from richrep.errors import RichrepError


@dataclass(frozen=True)
class Shard:
    """Every `count`-th block, from block `index` on; shards of one count are disjoint and together have all blocks.

    >>> list(Shard(1, 3).blocks(8))
    [1, 4, 7]
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise RichrepError(
                f"There is no shard {self.index}/{self.count}. Give i/n with 0 <= i < n: shards are counted from 0."
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard written "i/n". Raises RichrepError for anything else."""
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
        if match is None:
            raise RichrepError(f"{text!r} is no shard. Give i/n with 0 <= i < n, such as 0/4 for the first of four.")
        return cls(int(match[1]), int(match[2]))

    def blocks(self, num_blocks: int) -> range:
        """The blocks of this shard, of `num_blocks` in all."""
        return range(self.index, num_blocks, self.count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
