import re

import pytest

from richrep.errors import RichrepError
from richrep.features.shards import Shard


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_the_shards_of_a_count_are_disjoint_and_have_every_block(count: int) -> None:
    blocks = [block for index in range(count) for block in Shard(index, count).blocks(20)]
    assert sorted(blocks) == list(range(20))


def test_a_shard_is_read_from_text_and_says_itself() -> None:
    assert Shard.parse("2/5") == Shard(2, 5) and str(Shard.parse(" 0 / 1 ")) == "0/1"
    assert list(Shard.parse("2/5").blocks(13)) == [2, 7, 12]


@pytest.mark.parametrize("text", ["x", "", "1", "1/", "/2", "-1/2", "1/2/3", "0.5/2", "1/9999999999"])
def test_what_is_no_shard_is_named(text: str) -> None:
    with pytest.raises(RichrepError, match=re.escape(repr(text)) + r" is no shard. Give i/n with 0 <= i < n, such as"):
        Shard.parse(text)


@pytest.mark.parametrize("text", ["5/4", "4/4", "0/0"])
def test_a_shard_beyond_the_last_is_named(text: str) -> None:
    with pytest.raises(RichrepError, match=f"There is no shard {text}. .*counted from 0"):
        Shard.parse(text)
