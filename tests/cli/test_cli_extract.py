"""`richrep extract`: shards, storage types, and several workers under torchrun."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from richrep.cli import console
from richrep.features.cache import FeatureCache


@contextmanager
def two_cores() -> Iterator[None]:
    """Processes started meanwhile have two cores at most, so that each of two workers computes in one thread."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:2])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def stopped(processes: list[int]) -> Iterator[None]:
    """None of `processes` gets any further meanwhile, on however fast a machine."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def wait_until_told_to_end(process: int) -> None:
    """Returns once a SIGTERM waits for the stopped `process`."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        status = Path(f"/proc/{process}/status").read_text().splitlines()
        pending = next(line.split()[1] for line in status if line.startswith("ShdPnd:"))
        if int(pending, 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.02)
    raise AssertionError("torchrun does not end the other worker")


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


@pytest.fixture
def many_images(tmp_path: Path) -> Path:
    """8,000 training images of 8 x 8 noise, which are eight blocks, and 20 test images."""
    generator = np.random.default_rng(0)
    (tmp_path / "noise").mkdir()
    for part, count in (("train", 8_000), ("test", 20)):
        encoded = []
        for pixels in generator.integers(0, 256, (count, 8, 8), dtype=np.uint8):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "bmp")
            encoded.append({"bytes": file.getvalue(), "path": None})
        table = pa.table({"image": encoded, "label": np.arange(count) % 2})
        pq.write_table(table, tmp_path / "noise" / f"{part}.parquet")
    return tmp_path / "noise"


def blocks_done(root: Path) -> int:
    return sum(entry.blocks_done for entry in FeatureCache(root).entries())


@pytest.mark.skipif(sys.platform != "linux", reason="limits the cores of a process and looks for its children")
def test_a_worker_of_torchrun_that_is_killed_costs_its_unfinished_blocks_only(
    cli, checkpoints, many_images, tmp_path
) -> None:
    command = ["extract", "-b", str(checkpoints[0]), "-d", f"parquet:{many_images}", "--part", "trainval"]
    command += ["--device", "cpu", "--preprocess", "size=8", "--cache-dir"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--monitor-interval", "0.05"]
    with two_cores():
        running = subprocess.Popen(
            [*torchrun, "-m", "richrep", *command, "many"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    with running:
        while blocks_done(Path("many")) == 0:
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.005)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        workers = [int(pid) for pid in children if b"richrep" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(workers) == 2
        with stopped(workers):
            kept = blocks_done(Path("many"))
            os.kill(workers[1], signal.SIGKILL)
            wait_until_told_to_end(workers[0])
        out, err = running.communicate(timeout=300)
    assert running.returncode != 0 and out == "" and "Signal 9 (SIGKILL)" in err
    assert 1 <= kept <= blocks_done(Path("many")) < 8

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the workers had
    try:
        assert cli(*command, "many").code == 0
        assert cli(*command, "one").code == 0
    finally:
        torch.set_num_threads(threads)
    assert contents(Path("many")) == contents(Path("one"))


def test_shards_of_a_job_array_fill_one_cache(cli, small, tmp_path) -> None:
    command = ["extract", *small[:4], "--part", "trainval", "--preprocess", "size=8", "--cache-dir"]
    first = cli(*command, "shards", "--shard", "0/2")
    assert first.code == 0 and " 1/2 " in first.out
    assert "Shard 0/2 is done; 1 blocks of other shards are still missing." in first.out
    second = cli(*command, "shards", "--shard", "1/2")
    assert second.code == 0 and "Shard 1/2 is done; no block is missing any more." in second.out
    assert cli(*command, "whole").code == 0
    assert contents(Path("shards")) == contents(Path("whole"))


@pytest.mark.parametrize(
    ("shard", "message"),
    [("5/4", "There is no shard 5/4."), ("0/0", "There is no shard 0/0."), ("x", "'x' is no shard. Give i/n")],
)
def test_a_shard_that_is_none_is_refused_before_anything_is_loaded(cli, shard, message) -> None:
    outcome = cli("extract", "-b", "nowhere.pth", "-d", "digits", "--shard", shard)
    assert outcome.code == 2 and message in outcome.message


def test_features_stored_as_float16_are_probed_and_listed(cli, small) -> None:
    assert cli("extract", *small[:8], "--store", "fp16").code == 0
    before = cli("cache").out
    assert before.count(" fp16 ") == 2 and "2 entries" in before
    half = cli("probe", *small, "--store", "fp16", "--json", "-")
    assert half.code == 0 and cli("cache").out == before, "probe reads what extract stored"
    full = cli("probe", *small, "--json", "-")
    assert cli("cache").out.count(" fp32 ") == 2
    (rounded,), (exact,) = (json.loads(outcome.out)["records"] for outcome in (half, full))
    assert (rounded["environment"]["features"], exact["environment"]["features"]) == ("float16", "float32")
    # 50 test images; rounding by 2^-11 moves hardly any of them
    assert rounded["metrics"]["test"]["nll"] == pytest.approx(exact["metrics"]["test"]["nll"], abs=0.05)


@pytest.fixture
def broken(checkpoints, tmp_path) -> Path:
    """A checkpoint of finite weights whose features are not finite."""
    stored = torch.load(checkpoints[0])
    for block in (1, 2):  # the second adds its 3e38 to those of the first
        stored["state_dict"][f"module.layer3.{block}.bn2.bias"].fill_(3e38)
    torch.save(stored, tmp_path / "net_broken.th")
    return tmp_path / "net_broken.th"


def test_a_network_whose_features_are_not_finite_is_left_out_and_the_others_are_extracted(
    cli, checkpoints, broken
) -> None:
    sizes = ["-d", "digits", "--train-size", 60, "--test-size", 40, "--cache-dir", "cache", "--device", "cpu"]
    outcome = cli("extract", "-b", checkpoints[0], "-b", broken, "-b", checkpoints[1], *sizes)
    assert outcome.code == 1
    rows = [line.split()[:4] for line in outcome.out.splitlines()[1:]]
    assert rows == [
        ["resnet20:a", "trainval", "60", "64"],
        ["resnet20:b", "trainval", "60", "64"],
        ["resnet20:a", "test", "40", "64"],
        ["resnet20:b", "test", "40", "64"],
    ]
    assert "resnet20:broken: not extracted. The features of 'resnet20:broken'" in outcome.message
    assert "are not finite for image 0 of digits/trainval" in outcome.message
    before = contents(Path("cache"))
    again = cli("extract", "-b", checkpoints[0], "-b", checkpoints[1], *sizes)
    assert again.code == 0 and contents(Path("cache")) == before  # nothing was missing


def test_a_network_the_precision_is_not_close_enough_for_is_left_out(cli, checkpoints, monkeypatch) -> None:
    from richrep.features.engines import choose

    real = choose.relative_error
    errors = iter([1.0])  # of the first network; the others are measured
    monkeypatch.setattr(choose, "relative_error", lambda *given: next(errors, None) or real(*given))
    both = ["-b", checkpoints[0], "-b", checkpoints[1], "-d", "digits", "--part", "test", "--test-size", 40]
    outcome = cli("extract", *both, "--precision", "bf16", "--device", "cpu")
    assert outcome.code == 1 and "resnet20:b " in outcome.out and "resnet20:a " not in outcome.out
    assert "resnet20:a: not extracted. 'resnet20:a' in bf16 with the engine torch is 1.0e+00" in outcome.message


def test_a_shard_leaves_out_a_network_too(cli, checkpoints, broken) -> None:
    some = ["-d", "digits", "--part", "trainval", "--train-size", 60, "--device", "cpu", "--shard", "0/2"]
    outcome = cli("extract", "-b", broken, "-b", checkpoints[0], *some)
    assert outcome.code == 1 and "resnet20:broken: not extracted. " in outcome.message
    assert "resnet20:a " in outcome.out and " 1/1 " in outcome.out and "resnet20:broken" not in outcome.out
    assert "Shard 0/2 is done; no block is missing any more." in outcome.out


def test_where_no_network_is_left_there_is_no_table_and_the_code_is_2(cli, broken) -> None:
    outcome = cli("extract", "-b", broken, "-d", "digits", "--train-size", 60, "--test-size", 40)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Error: No backbone gives features that can be used; the first: The features of" in outcome.message


def test_of_torchruns_workers_only_the_one_that_prints_fails_for_a_network_left_out(
    cli, checkpoints, broken, monkeypatch
) -> None:
    command = ["extract", "-b", checkpoints[0], "-b", broken, "-d", "digits", "--part", "test", "--test-size", 40]
    threads = torch.get_num_threads()
    codes = []
    try:
        for rank in ("1", "0"):
            for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
                monkeypatch.setenv(name, value)
            codes.append(cli(*command, "--device", "cpu").code)
    finally:
        torch.set_num_threads(threads)
        console.speak_as("")
    assert codes == [0, 1]
