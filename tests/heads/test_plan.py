from dataclasses import replace

import pytest
import torch

from richrep.errors import RichrepError
from richrep.features.feature_set import Block
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.heads.plan import choose_spans, make_schedule

TEN = [Block(f"m{i}", 2048 * i, 2048 * (i + 1)) for i in range(10)]  # CAT10 of ResNet50
SPANS = tuple((block.start, block.stop) for block in TEN)


def test_the_samples_are_taken_where_they_are_fewer() -> None:
    assert choose_spans(100, 256, None, FRUGAL) is None
    assert choose_spans(256, 256, None, FRUGAL) == ((0, 256),)
    assert choose_spans(5_000, 20_480, TEN, FRUGAL) is None


def test_up_to_8192_columns_are_taken_apart_whole_and_more_by_member() -> None:
    assert choose_spans(100_000, 8_192, None, FRUGAL) == ((0, 8_192),)
    assert choose_spans(100_000, 20_480, TEN, FRUGAL) == SPANS
    assert choose_spans(10_000, 20_480, TEN, FRUGAL) == SPANS  # fewer samples than columns, but too many of both


def test_without_members_columns_are_cut_into_equal_pieces() -> None:
    assert choose_spans(100_000, 9_000, None, FRUGAL) == ((0, 3_000), (3_000, 6_000), (6_000, 9_000))


def test_a_small_limit_cuts_members_into_pieces_that_cover_every_column_once() -> None:
    spans = choose_spans(100_000, 20_480, TEN, MemoryBudget.of("300MB"))
    assert spans is not None and len(spans) > 10
    edges = [0, *(stop for _, stop in spans)]
    assert [start for start, _ in spans] == edges[:-1] and edges[-1] == 20_480 and edges == sorted(set(edges))
    assert {start for start, _ in SPANS} <= set(edges)  # no piece lies in two members
    widest = max(stop - start for start, stop in spans)
    assert 12 * 20_480 * widest + 16 * widest**2 <= MemoryBudget.of("300MB").square


def test_a_small_limit_takes_blocks_of_columns_where_the_samples_are_too_many_too() -> None:
    assert choose_spans(3_000, 4_000, None, replace(FRUGAL, square=28 * 1_000**2)) is not None


def test_as_many_penalties_go_together_as_the_memory_allows() -> None:
    groups = [
        make_schedule(23, shape=(1000, 256, 256), itemsize=4, budget=MemoryBudget.of(limit)).group
        for limit in ("120MB", "1GB", "100GB")
    ]
    assert groups[0] == 1 and 1 < groups[1] < 23 and groups[2] == 23


def test_little_memory_remembers_fewer_steps_and_shares_no_rows() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        little = make_schedule(23, shape=(1000, 256, 256), itemsize=4, budget=MemoryBudget.of("100MB"))
        much = make_schedule(23, shape=(1000, 256, 256), itemsize=4, budget=MemoryBudget.of("10GB"))
    finally:
        torch.set_num_threads(threads)
    assert little.workers == 1 and much.workers == 2
    assert 3 <= little.carried_pairs < much.carried_pairs == 50


def test_what_cannot_fit_is_refused_with_the_limit_that_would_do() -> None:
    # 28 vectors of 8,142 x 2,049 numbers of 4 bytes are 1,868 MB, 35 % of 5,340 MB
    shape = (8142, 2048, 2048)
    with pytest.raises(
        RichrepError, match=r"2,000 MB is too small: .* 8,142 classes x 2,048 features\) takes 1,868 MB"
    ):
        make_schedule(23, shape=shape, itemsize=4, budget=MemoryBudget.of("2GB"))
    assert make_schedule(23, shape=shape, itemsize=4, budget=MemoryBudget.of("5.4GB")).group == 1
    assert make_schedule(23, shape=shape, itemsize=4, budget=FRUGAL).group == 1  # where nothing was said, one at a time
