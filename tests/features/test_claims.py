import logging
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from richrep.features.cache import FeatureCache
from richrep.features.claims import BlockClaims
from richrep.features.manifest import Manifest, Request, make_manifest
from richrep.features.progress import ProgressMeter
from richrep.features.sink import BlockSink, MemorySink

ROWS, BLOCK_ROWS = 22, 4
BLOCKS = range(6)


@pytest.fixture
def manifests(tiny) -> list[Manifest]:
    split = tiny.make_split(ROWS)
    return [
        make_manifest(Request(tiny.make_backbone(seed=seed, dim=3 + seed)), split, block_rows=BLOCK_ROWS)
        for seed in range(3)
    ]


def block_values(manifest: Manifest, block: int) -> torch.Tensor:
    """What every worker computes for a block: other values for every entry and row."""
    rows = manifest.block_range(block)
    return torch.arange(rows.start, rows.stop)[:, None] * 10.0 + torch.arange(manifest.dim) / manifest.dim


def claims_of(sinks: list[BlockSink], seen: list | None = None) -> BlockClaims:
    callback = None if seen is None else seen.append
    return BlockClaims(sinks, BLOCKS, ProgressMeter(callback, images=ROWS, blocks=len(BLOCKS)))


def work(root: Path, manifests: list[Manifest], held: set[tuple[str, int]]) -> Iterator[None]:
    """One worker, step by step; `held` are the claims of all workers."""
    mine: set[tuple[str, int]] = set()
    try:
        with FeatureCache(root, block_rows=BLOCK_ROWS).open(manifests) as sinks:
            for claimed in claims_of(sinks).rounds():
                for block, positions in claimed:
                    pairs = {(sinks[i].manifest.key, block) for i in positions}
                    assert not pairs & held, "two workers hold one block"
                    held |= pairs
                    mine |= pairs
                    yield
                    for i in positions:
                        sinks[i].write_block(block, block_values(sinks[i].manifest, block), {})
                    held -= pairs
                    yield
                yield
    finally:
        held -= mine


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


@pytest.mark.parametrize("seed", range(8))
def test_any_interleaving_of_workers_that_come_and_go_leaves_the_same_bytes(
    manifests, tmp_path, monkeypatch, seed
) -> None:
    monkeypatch.setattr("richrep.features.claims._POLL_S", (0.0, 0.0))
    generator = random.Random(seed)
    held: set[tuple[str, int]] = set()
    wishes = [manifests, manifests[:2], manifests[1:], manifests[::-1], manifests[2:]]
    workers = [work(tmp_path / "many", wish, held) for wish in wishes]
    while workers:
        worker = generator.choice(workers)
        if len(workers) > 1 and generator.random() < 0.04:
            worker.close()  # its claims are free, its other blocks stay
            workers[workers.index(worker)] = work(tmp_path / "many", generator.choice(wishes), held)
        elif next(worker, "done") == "done":
            workers.remove(worker)
    list(work(tmp_path / "many", manifests, held))  # what nobody was left for
    list(work(tmp_path / "one", manifests, set()))
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert all(info.complete for info in FeatureCache(tmp_path / "many").entries())


def test_a_round_ends_without_waiting_for_blocks_that_others_hold(manifests, tmp_path) -> None:
    cache = FeatureCache(tmp_path, block_rows=BLOCK_ROWS)
    with cache.open(manifests[:1]) as (other,), cache.open(manifests[:2]) as sinks:
        assert other.claim(1) and other.claim(4)
        todo = next(claims_of(sinks).rounds())
        assert [(block, positions) for block, positions in todo] == [(b, [0, 1]) for b in (0, 2, 3, 5)]
        assert sinks[1].claim(1), "a block that is held in one entry is left free in the others"


def test_a_block_is_claimed_for_those_who_lack_it(manifests) -> None:
    one, two = MemorySink(manifests[0]), MemorySink(manifests[1])
    two.write_block(0, block_values(two.manifest, 0), {})
    assert list(next(claims_of([one, two]).rounds()))[:2] == [(0, [0]), (1, [0, 1])]


def test_a_block_whose_holder_is_lost_is_taken_over(manifests, tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr("richrep.features.claims._SILENT_WAIT_S", 0.1)
    caplog.set_level(logging.WARNING)
    held: set[tuple[str, int]] = set()
    lost = work(tmp_path, manifests, held)
    next(lost)
    finisher = threading.Thread(target=lambda: list(work(tmp_path, manifests, set())))
    finisher.start()
    while "Waiting for blocks that other processes are computing: features of tiny on noise" not in caplog.text:
        time.sleep(0.01)
    assert [info.blocks_done for info in FeatureCache(tmp_path).entries()] == [5, 5, 5]
    lost.close()
    finisher.join(timeout=20)
    assert all(info.complete for info in FeatureCache(tmp_path).entries())


def test_progress_counts_the_blocks_of_other_workers(manifests, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("richrep.features.claims._POLL_S", (0.0, 0.0))
    cache, seen = FeatureCache(tmp_path, block_rows=BLOCK_ROWS), []
    with cache.open(manifests[:1]) as (other,), cache.open(manifests[:1]) as (sink,):
        other.write_block(0, block_values(manifests[0], 0), {})  # before we came
        rounds = claims_of([sink], seen).rounds()
        assert next(next(rounds)) == (1, [0])
        other.write_block(5, block_values(manifests[0], 5), {})  # meanwhile; the last block has 2 rows
        sink.write_block(1, block_values(manifests[0], 1), {})
        assert next(next(rounds)) == (2, [0])
    assert (seen[0].images_done, seen[0].images_cached, seen[0].blocks_cached) == (4, 4, 1)
    assert (seen[-1].images_done, seen[-1].images_cached, seen[-1].blocks_done) == (
        6,
        4,
        2,
    )  # ours are not counted here


def test_a_claim_leaves_no_file_behind(manifests, tmp_path) -> None:
    cache = FeatureCache(tmp_path, block_rows=BLOCK_ROWS)
    key = manifests[0].key
    with cache.open(manifests[:1]) as (sink,):
        assert sink.claim(0) and sink.claim(3)
        sink.write_block(0, block_values(manifests[0], 0), {})
        assert [file.name for file in (tmp_path / key[:2] / f"{key}.claims").iterdir()] == ["00000003"]
    assert sorted(path.name for path in (tmp_path / key[:2]).iterdir()) == [key, f"{key}.lock"]
