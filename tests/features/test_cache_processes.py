"""What other processes can do to the cache: be killed, compete, run out of room."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from richrep.features.cache import FeatureCache

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and kills processes")
BLOCK_ROWS = 4  # of extraction_server.py
Run = Callable[..., list[dict]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs jobs at the same time, see extraction_server.py."""
    script = Path(__file__).with_name("extraction_server.py")
    server = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run_jobs(*jobs: dict) -> list[dict]:
        defaults = {"size": 40, "delay_s": 0.0, "names": ["one"]}
        print(json.dumps([{**defaults, **job} for job in jobs]), file=server.stdin, flush=True)
        return json.loads(server.stdout.readline())

    yield run_jobs
    server.stdin.close()
    server.stdout.close()
    assert server.wait(timeout=20) == 0


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_ten_kills_at_random_leave_the_cache_of_an_undisturbed_run(run: Run, tmp_path: Path) -> None:
    generator = random.Random(0)
    job = {"size": 600, "names": ["one", "two"], "bad": [3, 150, 151, 599], "delay_s": 0.004}  # at least 2.4 s of work
    killed = [
        run({**job, "root": str(tmp_path / "killed"), "kill_after_s": generator.uniform(0.0, 0.3)})[0]
        for _ in range(10)
    ]
    assert [result["signal"] for result in killed] == [9] * 10
    before = FeatureCache(tmp_path / "killed", block_rows=BLOCK_ROWS).entries()
    assert len(before) == 2
    assert all(0 < info.blocks_done < info.blocks_total == 150 for info in before)

    (last,) = run({**job, "root": str(tmp_path / "killed")})
    (fresh,) = run({**job, "root": str(tmp_path / "fresh")})
    assert last["error"] == fresh["error"] == ""
    assert contents(tmp_path / "killed") == contents(tmp_path / "fresh")
    assert fresh["decoded"] == 600
    # Finished blocks were not done again.
    assert last["decoded"] == BLOCK_ROWS * (150 - min(info.blocks_done for info in before))


def test_a_kill_while_an_entry_is_created_leaves_nothing_that_disturbs(run: Run, tmp_path: Path) -> None:
    job = {"size": 20, "names": ["one", "two", "three"]}
    for milliseconds in range(0, 40, 4):
        run({**job, "root": str(tmp_path / "killed"), "kill_after_s": milliseconds / 1000})
    run({**job, "root": str(tmp_path / "killed")}, {**job, "root": str(tmp_path / "fresh")})
    assert contents(tmp_path / "killed") == contents(tmp_path / "fresh")


def test_processes_that_want_the_same_entry_share_its_blocks(run: Run, tmp_path: Path) -> None:
    job = {"root": str(tmp_path / "many"), "delay_s": 0.005}
    results = run(job, job, job)
    assert [result["error"] for result in results] == [""] * 3
    assert sum(result["decoded"] for result in results) == 40
    run({**job, "root": str(tmp_path / "one")})
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_workers_killed_at_random_cost_their_unfinished_blocks_only(run: Run, tmp_path: Path) -> None:
    generator = random.Random(1)
    job = {"size": 240, "names": ["one", "two"], "bad": [3, 150, 239], "delay_s": 0.01}
    victims = [{**job, "root": str(tmp_path / "many"), "kill_after_s": generator.uniform(0.05, 0.4)} for _ in range(4)]
    *killed, survivor = run(*victims, {**job, "root": str(tmp_path / "many")})
    signals = {result["signal"] for result in killed}  # who started late may find all done
    assert 9 in signals and signals <= {0, 9} and survivor["error"] == ""
    run({**job, "root": str(tmp_path / "one")})
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert survivor["decoded"] <= 240, "it did something twice"


def test_processes_that_want_overlapping_entries_in_another_order_both_finish(run: Run, tmp_path: Path) -> None:
    results = run(
        {"root": str(tmp_path), "delay_s": 0.002, "names": ["one", "two", "three"]},
        {"root": str(tmp_path), "delay_s": 0.002, "names": ["four", "three", "two"]},
        {"root": str(tmp_path), "delay_s": 0.002, "names": ["two", "one", "four"]},
    )
    assert [result["signal"] for result in results] == [0, 0, 0]
    cache = FeatureCache(tmp_path, block_rows=BLOCK_ROWS)
    assert sorted(info.backbone for info in cache.entries()) == ["four", "one", "three", "two"]
    assert all(info.complete for info in cache.entries()) and cache.verify() == []


def test_a_lock_dies_with_its_process(run: Run, tmp_path: Path) -> None:
    holder = {"root": str(tmp_path), "delay_s": 0.05, "kill_after_s": 0.5}  # 2 s of work
    killed, other = run(holder, {"root": str(tmp_path), "wait_for_entry": True})
    assert killed["signal"] == 9 and other["error"] == "" and other["decoded"] > 0
    assert FeatureCache(tmp_path, block_rows=BLOCK_ROWS).entries()[0].complete


def test_a_limit_on_the_size_of_files_is_a_full_disk(run: Run, tmp_path: Path) -> None:
    # 40 rows of 5 float32 are 800 bytes
    (result,) = run({"root": str(tmp_path), "file_limit": 512})
    assert "No room for features at" in result["error"] and str(tmp_path) in result["error"]
    assert FeatureCache(tmp_path).entries() == []
