"""What is behind three choices of the logistic path's solver, each against what else could have been chosen.

    OMP_NUM_THREADS=1 python benchmarks/solver.py    # a quarter of an hour; or --case order, tf32 or refit

order: 23 penalties on streamed rows, all as one batch, or the strongest third so and the others followed one by one, as
    `solve_path` does it. A pass is an evaluation for any number of heads; "products" counts every head in it.
tf32: how many evaluations of one head in float32 the batch still takes when it begins with products whose factors are
    rounded to 10 bits, as TF32 rounds them on CUDA, until less progress than a tolerance is predicted.
refit: how far apart the objectives of held and streamed rows are, at the tolerance of the candidates and of the refit,
    on features of four CIFAR ResNets of 6,000 images of ../shared/data, kept in the default cache.

Other features are those of benchmarks/scale.py. Times are processor seconds. Prints Markdown; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

from extract import CIFAR, SHARED_DATA, machine
from richrep.backbones.addresses import load_backbone
from richrep.data.datasets import load_split
from richrep.data.split import carve_val
from richrep.evaluation import selection
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_features
from richrep.features.feature_set import Block, FeatureSet, concat_features
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.heads import logistic_path, path_solver
from richrep.heads.logistic_path import LogisticPath, fit_logistic_path
from richrep.heads.objective import Objective
from richrep.heads.path_solver import Solved
from richrep.paths import default_cache_root
from scale import Synthetic

Solve = Callable[..., Iterator[Solved]]  # as `solve_path`
STREAMED = replace(FRUGAL, rotated=0)
ORDER_SIZES = ((30_000, 256, 10), (8_000, 512, 50), (5_000, 256, 200))  # N, D, K
TF32_SIZES = ((20_000, 256, 10), (6_000, 512, 100), (20_000, 256, 100))
REFIT_CS = (0.1, 1.0, 10.0, 100.0, 1e3, 1e6)
ROUGH_TOLS = (1e-3, 1e-4)
PRODUCTS = {torch.mm, torch.addmm, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.addmm_}


class TenBitProducts(TorchFunctionMode):
    """Products of float32 matrices with 10 of the 23 bits of every factor, summed in float32, as TF32 has them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            factors = [((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32) for x in args[-2:]]
            args = (*args[:-2], *factors)
        return func(*args, **(kwargs or {}))


def fit(size: tuple[int, int, int], memory: MemoryBudget, solve: Solve) -> tuple[LogisticPath, float, Counter[str]]:
    """The 23 penalties on made-up features (N, D) of K classes, `size`: path, seconds, and what was evaluated."""
    features, labels = Synthetic(*size[1:]).block(0, size[0])
    evaluate, counts, batch = Objective.__call__, Counter[str](), list[Objective]()

    def counted(self: Objective, active: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heads, is_rough, is_batch = len(active), type(self) is not Objective, self is batch[0]
        counts.update({"passes": 1, "heads": heads, "rough passes": is_rough, "batch heads": is_batch * heads})
        return evaluate(self, active, points)

    def watched(objective: Objective, *args: Any, **options: Any) -> Iterator[Solved]:
        batch.append(objective)
        return solve(objective, *args, **options)

    l2s = [1 / (len(labels) * c) for c in selection.DEFAULT_CS]
    with mock.patch.object(Objective, "__call__", counted), mock.patch.object(logistic_path, "solve_path", watched):
        start = time.process_time()
        path = fit_logistic_path(features, labels, num_classes=size[2], l2s=l2s, memory=memory)
        seconds = time.process_time() - start
    print(f"{size}, {solve.__name__}: {seconds:.1f} s, {dict(counts)}", file=sys.stderr)
    return path, seconds, counts


def all_together(objective: Objective, start: Any, schedule: Any, **options: Any) -> Iterator[Solved]:
    """`solve_path` with all L penalties as one batch: as the strongest third of 3·L, of which no other is solved."""
    count = len(objective.penalties)
    others = [int(objective.penalties.argmin())] * (2 * count)
    objective.scales = torch.cat([objective.scales, objective.scales[others]])
    objective.penalties = torch.cat([objective.penalties, objective.penalties[others] / 2])
    return itertools.islice(path_solver.solve_path(objective, start, replace(schedule, group=count), **options), count)


def beginning_rough(objective: Objective, *args: Any, **options: Any) -> Iterator[Solved]:
    """`solve_path` as on CUDA, with rounded factors in place of TF32."""
    with mock.patch("richrep.heads.objective.tf32_products", TenBitProducts):
        yield from path_solver.solve_path(objective, *args, **options | {"rough": objective.with_tf32()})


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def run_order() -> None:
    print("\n| streamed penalties | N x D, K | time | iterations | passes | products | converged |")
    print("|---|---|---:|---:|---:|---:|---:|")
    ways = {"all together": all_together, "a third together, the others one by one": path_solver.solve_path}
    for size, (name, solve) in itertools.product(ORDER_SIZES, ways.items()):
        path, seconds, counts = fit(size, STREAMED, solve)
        cells = [name, "{:,} x {}, {}".format(*size), f"{seconds:.1f} s", f"{int(path.iterations.sum()):,}"]
        print_row(*cells, str(counts["passes"]), f"{counts['heads']:,}", f"{int(path.converged.sum())} of 23")


def run_tf32() -> None:
    print("\n| N x D, K | float32 throughout |", " | ".join(f"rough until {tol:.0e}" for tol in ROUGH_TOLS), end=" | ")
    print(f"largest relative difference of objectives |\n|---|{'---:|' * (2 + len(ROUGH_TOLS))}")
    for size in TF32_SIZES:
        exact, _, counts = fit(size, FRUGAL, path_solver.solve_path)
        cells, worst = ["{:,} x {}, {}".format(*size), str(counts["batch heads"])], 0.0
        for tol in ROUGH_TOLS:
            with mock.patch.object(path_solver, "_ROUGH_TOL", tol):
                path, _, counts = fit(size, FRUGAL, beginning_rough)
            cells.append(f"{counts['batch heads']}, after {counts['rough passes']} passes")
            worst = max(worst, float((path.objectives / exact.objectives - 1).abs().max()))
        print_row(*cells, f"{worst:.1e}")


def refit_features(dataset: str) -> FeatureSet:
    if not SHARED_DATA.is_dir():
        num_classes = int(dataset.removeprefix("cifar"))
        return FeatureSet(*Synthetic(256, num_classes).block(0, 6000), num_classes, (Block("", 0, 256),), "made up")
    backbones = [load_backbone(str(SHARED_DATA / "weights" / file)) for file in CIFAR]
    split = load_split(f"parquet:{SHARED_DATA / dataset}", "train").first(6000)
    return concat_features(extract_features(backbones, split, cache=FeatureCache(default_cache_root())))


def run_refit() -> None:
    print("\n| classes | C | tol | held | streamed | objective | relative difference |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for features, c in itertools.product(map(refit_features, ("cifar10", "cifar100")), REFIT_CS):
        rows, only = carve_val(features.labels.numpy(), seed=0), {"cs": [c], "normalizations": ["block-rms"]}
        near = {m: selection.select_logistic(features, *rows, **only, memory=m) for m in (FRUGAL, STREAMED)}
        for tol in (5e-6, selection._FINAL_TOL):
            cells, values = [str(features.num_classes), f"{c:g}", f"{tol:.0e}"], []
            for memory, found in near.items():
                chosen, start = {"l2": found.best.l2, "normalization": "block-rms"}, time.process_time()
                with mock.patch.object(selection, "_FINAL_TOL", tol):
                    head = selection.refit_logistic(features, chosen, found.linear, memory=memory)
                cells.append(f"{head.n_iter_} iterations, {time.process_time() - start:.2f} s")
                values.append(head.objective_)
            print_row(*cells, f"{values[0]:.6g}", f"{abs(values[0] / values[1] - 1):.1e}")


def main() -> None:
    cases = {"order": run_order, "tf32": run_tf32, "refit": run_refit}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=cases, help="only this one; all three by default")
    chosen = parser.parse_args().case
    torch.set_num_threads(1)
    print(machine())
    for run in [cases[chosen]] if chosen else cases.values():
        run()


if __name__ == "__main__":
    main()
