"""The logistic path on features larger than memory: time, memory and bytes read as rows and classes grow.

    python benchmarks/scale.py           rows 10k to 1M, columns 256 and 2,048, classes 10 to 1,000; under ten minutes
    python benchmarks/scale.py --quick   the same in small, a minute
    python benchmarks/scale.py --full    also 300k and 1M rows of 2,048 columns (4 GB of disk), 8,142 classes; an hour
    python benchmarks/scale.py --series 64 8142 16284 700MB    one size: columns, classes, rows, memory limit

Features are drawn by blocks and written in float16: scales that fall as 1/j (eigenvalues as 1/j²), class means of the
same shape, a common offset, and a reflection that mixes the columns. Each size is fitted in a process of its own, with
a memory limit below the size of the features in float32, so that all but the smallest are streamed; the files are
deleted at the end. The penalties are the same for every size, so the number of passes is nearly the same. The slope is
the exponent a of time ~ rows^a over the sizes that are streamed: 1 where the cost of a row is flat.

"held" is the highest anonymous memory beside the libraries; pages of the mapped file are the system's, and come on top
in the resident peak. "read" counts what the solver asked for, from the disk or from the system's copy of it.

With an accelerator also 1.28M x 2,048 in float16 with 1,000 classes and 23 penalties, on it, in float32, with TF32
products until float32 finishes, and with TF32 alone: time, peak memory, and how near it is to the rate of the bare
matrix product of the same shape.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from richrep.evaluation.environment import cpu_model
from richrep.evaluation.selection import DEFAULT_CS
from richrep.features.memory import MemoryBudget, choose_budget
from richrep.features.rows import Rows
from richrep.heads.logistic_path import fit_logistic_path, solve_logistic_path
from richrep.heads.objective import Objective
from richrep.heads.path_ends import PathPoint

L2S = (1.0, 0.1, 1e-2, 1e-3, 1e-4)
BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Series:
    """Fits of the first `rows` of one file of features, for every number of them."""

    dim: int
    num_classes: int
    rows: tuple[int, ...]
    limit: str


DEFAULT = (
    Series(256, 10, (10_000, 30_000, 100_000, 300_000, 1_000_000), "100MB"),
    Series(2048, 10, (10_000, 30_000, 100_000), "300MB"),
    Series(256, 100, (30_000, 100_000, 300_000), "100MB"),
    Series(256, 1000, (30_000, 100_000), "100MB"),
)
QUICK = (Series(256, 10, (10_000, 30_000, 100_000), "100MB"), Series(256, 100, (10_000,), "100MB"))
FULL = (
    *DEFAULT[:1],
    Series(2048, 10, (10_000, 30_000, 100_000, 300_000, 1_000_000), "300MB"),
    *DEFAULT[2:],
    Series(64, 8142, (16_284,), "700MB"),
)


class Synthetic:
    """Rows of features with class structure, block by block, on any device; the same block is always the same."""

    def __init__(self, dim: int, num_classes: int, device: str = "cpu") -> None:
        generator = torch.Generator(device).manual_seed(0)
        self.dim, self.num_classes, self.device = dim, num_classes, device
        self._scales = torch.arange(1, dim + 1, device=device).reciprocal() * math.sqrt(dim)
        self._means = torch.randn(num_classes, dim, generator=generator, device=device) * self._scales * 0.5
        mirror = torch.randn(dim, generator=generator, device=device)
        self._mirror = mirror / mirror.norm()

    def block(self, number: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (count, D) float16 and labels (count,)."""
        generator = torch.Generator(self.device).manual_seed(1 + number)
        labels = torch.randint(self.num_classes, (count,), generator=generator, device=self.device)
        noise = torch.randn(count, self.dim, generator=generator, device=self.device) * self._scales
        values = noise + self._means[labels]
        values -= 2 * (values @ self._mirror)[:, None] * self._mirror
        return (values + 0.3).to(torch.float16), labels


class CountingRows(Rows):
    """Rows that count the bytes read from them."""

    def __init__(self, members: list[torch.Tensor]) -> None:
        super().__init__(members)
        self.bytes_read, self._lock = 0, threading.Lock()

    def __getitem__(self, chosen: slice | torch.Tensor) -> torch.Tensor:
        values = super().__getitem__(chosen)
        with self._lock:
            self.bytes_read += 2 * values.numel()
        return values


def write_features(folder: Path, dim: int, num_classes: int, rows: int) -> None:
    source, labels = Synthetic(dim, num_classes), []
    with (folder / "features.bin").open("wb") as file:
        for number, start in enumerate(range(0, rows, BLOCK_ROWS)):
            features, some = source.block(number, min(BLOCK_ROWS, rows - start))
            file.write(features.numpy().astype("<f2").tobytes())
            labels.append(some)
    np.save(folder / "labels.npy", torch.cat(labels).numpy())


def memory_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1e3


def child(folder: Path, rows: int, dim: int, num_classes: int, limit: str) -> None:
    """Fits the first `rows` and prints what it took."""
    fit_logistic_path(torch.randn(200, 8), torch.arange(200) % 2, num_classes=2, l2s=[1.0])  # libraries are loaded
    mapped = np.memmap(folder / "features.bin", dtype="<f2", mode="c", shape=(rows, dim))
    features, labels = CountingRows([torch.from_numpy(mapped)]), torch.from_numpy(np.load(folder / "labels.npy")[:rows])
    before, highest, done = memory_mb("RssAnon"), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            highest[0] = max(highest[0], memory_mb("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    points: list[PathPoint] = []
    start = time.perf_counter()
    solver = solve_logistic_path(
        features,
        labels,
        lambda point: points.append(replace(point, weights=torch.empty(0))),
        num_classes=num_classes,
        l2s=L2S,
        memory=MemoryBudget.of(limit),
    )
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    found = {
        "seconds": seconds,
        "held_mb": highest[0] - before,
        "resident_mb": memory_mb("VmHWM"),
        "read_mb": features.bytes_read / 1e6,
        "passes": features.bytes_read / features.num_bytes,
        "iterations": sum(point.iterations for point in points),
        "converged": sum(point.converged for point in points),
        "samples": solver["samples"],
    }
    print(json.dumps(found))


def measure(folder: Path, rows: int, series: Series) -> dict[str, Any]:
    task = [str(folder), str(rows), str(series.dim), str(series.num_classes), series.limit]
    command = [sys.executable, __file__, "--child", *task]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_series(series: Series) -> None:
    print(f"\n## D = {series.dim:,}, K = {series.num_classes:,}, {len(L2S)} penalties, --memory-limit {series.limit}\n")
    print("| rows | on disk | time | us a row | us a row and pass | passes | read | held | resident peak | |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    streamed: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(prefix="richrep-scale-") as name:
        folder = Path(name)
        write_features(folder, series.dim, series.num_classes, max(series.rows))
        for rows in series.rows:
            found = measure(folder, rows, series)
            if found["samples"] == "streamed":
                streamed.append((rows, found["seconds"]))
            print(
                f"| {rows:,} | {rows * series.dim * 2 / 1e6:,.0f} MB | {found['seconds']:.1f} s | "
                f"{1e6 * found['seconds'] / rows:.0f} | {1e6 * found['seconds'] / rows / found['passes']:.2f} | "
                f"{found['passes']:.0f} | {found['read_mb'] / 1e3:,.1f} GB | {found['held_mb']:,.0f} MB | "
                f"{found['resident_mb']:,.0f} MB | {found['samples']}, {found['iterations']} iterations, "
                f"{found['converged']} of {len(L2S)} converged |",
                flush=True,
            )
    if len(streamed) > 1:
        rows, times = zip(*streamed, strict=True)
        print(f"\nTime ~ rows^{np.polyfit(np.log(rows), np.log(times), 1)[0]:.2f} over the sizes that are streamed.")


def product_rate(heads: int, dim: int, rows: int = 4096) -> float:
    """Operations a second of the bare product (heads, dim) x (dim, rows) on the accelerator."""
    left, right = torch.randn(heads, dim, device="cuda"), torch.randn(dim, rows, device="cuda")
    torch.mm(left, right)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        torch.mm(left, right)
    torch.cuda.synchronize()
    return 10 * 2 * heads * dim * rows / (time.perf_counter() - start)


def run_accelerator(rows: int = 1_280_000, dim: int = 2048, num_classes: int = 1000) -> None:
    source = Synthetic(dim, num_classes, "cuda")
    features = torch.empty(rows, dim, dtype=torch.float16, device="cuda")
    labels = torch.empty(rows, dtype=torch.int64, device="cuda")
    for number, start in enumerate(range(0, rows, BLOCK_ROWS)):
        stop = min(start + BLOCK_ROWS, rows)
        features[start:stop], labels[start:stop] = source.block(number, stop - start)
    l2s = [1 / (rows * c) for c in DEFAULT_CS]
    budget = choose_budget(None, torch.device("cuda"))
    card = torch.cuda.get_device_name()
    print(f"\n## {card}: {rows:,} x {dim:,} in float16, K = {num_classes:,}, {len(l2s)} penalties\n")
    print("| products | time | peak memory | iterations | of the bare product's rate | worst objective / float32 - 1 |")
    print("|---|---:|---:|---:|---:|---:|")
    reference: torch.Tensor | None = None
    begin = Objective.with_tf32
    for name, precision, begins in (
        ("float32 throughout", "highest", False),
        ("TF32 begins, float32 finishes (the default)", "highest", True),
        ("TF32 throughout", "high", True),
    ):
        torch.set_float32_matmul_precision(precision)
        Objective.with_tf32 = begin if begins else lambda self: None
        torch.cuda.reset_peak_memory_stats()
        start_s = time.perf_counter()
        path = fit_logistic_path(features, labels, num_classes=num_classes, l2s=l2s, memory=budget)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start_s
        done = 4.0 * rows * dim * num_classes * int(path.iterations.sum())  # logits and slopes of accepted steps alone
        reference = path.objectives if reference is None else reference
        worst = float((path.objectives / reference - 1).abs().max())
        share = done / seconds / product_rate(num_classes * len(l2s), dim)
        print(
            f"| {name} | {seconds:.1f} s | {torch.cuda.max_memory_allocated() / 1e9:.1f} GB | "
            f"{int(path.iterations.sum())}, {int(path.converged.sum())} of {len(l2s)} converged | {share:.0%} | "
            f"{worst:.1e} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small sizes only")
    size.add_argument("--full", action="store_true", help="also a million rows of 2,048 columns")
    size.add_argument(
        "--series", nargs=4, metavar=("D", "K", "ROWS", "LIMIT"), help="one size, such as 64 8142 16284 700MB"
    )
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        folder, rows, dim, num_classes, limit = args.child
        child(Path(folder), int(rows), int(dim), int(num_classes), limit)
        return
    print(f"{cpu_model()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    chosen = QUICK if args.quick else FULL if args.full else DEFAULT
    if args.series:
        dim, num_classes, rows = map(int, args.series[:3])
        chosen = (Series(dim, num_classes, (rows,), args.series[3]),)
    for series in chosen:
        run_series(series)
    if torch.cuda.is_available():
        run_accelerator()
    else:
        print("\nNo accelerator: its case was left out.")


if __name__ == "__main__":
    main()
