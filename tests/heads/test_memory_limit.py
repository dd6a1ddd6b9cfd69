"""The memory a fit takes, measured in a process of its own: below its limit, where without one it would be above."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = """
    import sys, threading, time
    import numpy, torch
    from richrep.evaluation.protocols import PROTOCOLS
    from richrep.evaluation.selection import select_logistic
    from richrep.features.feature_set import Block, FeatureSet
    from richrep.features.memory import MemoryBudget
    from richrep.features.rows import Rows
    from richrep.heads.logistic_path import fit_logistic_path

    torch.set_num_threads(1)

    def held_mb():  # without mapped files, whose copies in memory are the system's to give up
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1e3

    def map_features(name, count, dim, classes):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(count) % classes
        means = torch.randn(classes, dim, generator=generator)
        with open(name, "wb") as file:
            for chunk in labels.split(2000):
                values = torch.randn(len(chunk), dim, generator=generator) + means[chunk]
                file.write(values.numpy().astype("<f2").tobytes())
        return torch.from_numpy(numpy.memmap(name, dtype="<f2", mode="c", shape=(count, dim))), labels

    def peak_of(function):
        before, highest, done = held_mb(), [0.0], threading.Event()
        def watch():
            while not done.wait(0.002):
                highest[0] = max(highest[0], held_mb())
        watcher = threading.Thread(target=watch)
        watcher.start()
        result = function()
        done.set()
        watcher.join()
        return highest[0] - before, result

    def select(features, labels, classes, limit):
        count = len(labels)
        whole = FeatureSet(features, labels, classes, (Block("all", 0, features.shape[1]),), key="test")
        rows = numpy.arange(count)
        return select_logistic(
            whole, rows[rows % 10 > 0], rows[rows % 10 == 0], cs=numpy.logspace(-5, -3, 5), normalizations=["standard"],
            memory=MemoryBudget.of(limit),
        )

    def tune(name, features, labels, classes, limit, every):
        whole = FeatureSet(features, labels, classes, (Block("all", 0, features.shape[1]),), key="test")
        rows, memory = numpy.arange(len(labels)), MemoryBudget.of(limit)
        protocol = PROTOCOLS[name](normalizations=("standard",))
        choice = protocol.select(whole, rows[rows % every > 0], rows[rows % every == 0], memory=memory)
        head = protocol.refit(whole, choice, memory=memory)
        few = whole.take(rows[:300], max_bytes=0)
        return (head.logits(few.features).argmax(1) == few.labels).double().mean()

    fit_logistic_path(torch.randn(200, 8), torch.arange(200) % 2, num_classes=2, l2s=[1.0])  # libraries are loaded
    count, dim, classes = map(int, sys.argv[1:4])
    features, labels = map_features("features.bin", count, dim, classes)
    if len(sys.argv) > 5:
        apart = Rows(features.split(dim // 2, dim=1))
        peak, accuracy = peak_of(lambda: tune(*sys.argv[5:6], apart, labels, classes, sys.argv[4], int(sys.argv[6])))
        print(peak, "accuracy", round(100 * float(accuracy)))
        sys.exit()
    peak, selection = peak_of(lambda: select(features, labels, classes, sys.argv[4]))
    assert selection.best.converged
    print(peak, selection.solver["samples"], selection.solver["penalties_at_once"])
"""


def measure(folder: Path, *arguments: object) -> tuple[float, str, int]:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc/self/status")
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    peak, samples, together = done.stdout.split()
    return float(peak), samples, int(together)


def test_many_classes_stay_below_the_limit(tmp_path: Path) -> None:
    # 2,000 x 256 weights are 2 MB; 5 penalties at once, with 32 vectors each, would be 330 MB
    peak_mb, samples, together = measure(tmp_path, 3_000, 256, 2_000, "180MB")
    assert (samples, together) == ("kept", 1)
    assert peak_mb <= 180


def test_features_larger_than_the_limit_are_streamed_below_it(tmp_path: Path) -> None:
    # 40,000 x 512 values are 41 MB on the disk, 82 MB in float32, and rotated as much again
    peak_mb, samples, together = measure(tmp_path, 40_000, 512, 5, "100MB")
    assert (samples, together) == ("streamed", 5)
    assert peak_mb <= 100


@pytest.mark.parametrize("protocol", ["ridge", "knn"])
def test_members_larger_than_the_limit_are_neither_joined_nor_copied(tmp_path: Path, protocol: str) -> None:
    # 120,000 x 2 x 128 values are 61 MB on the disk, 123 MB in float32
    peak_mb, _, accuracy = measure(tmp_path, 120_000, 256, 5, "100MB", protocol, 400)
    assert accuracy > 95
    assert peak_mb <= 100


@pytest.mark.parametrize("protocol", ["ridge", "knn", "prototypes"])
def test_candidates_of_many_classes_are_scored_without_holding_their_logits(tmp_path: Path, protocol: str) -> None:
    # logits of 2,500 val images and 4,000 classes are 40 MB: those of the chosen one, and never of two candidates
    peak_mb, _, _ = measure(tmp_path, 10_000, 32, 4_000, "100MB", protocol, 4)
    assert peak_mb <= 100 + 40
