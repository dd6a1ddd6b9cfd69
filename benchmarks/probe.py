"""Our tuned probe against t-ReX's procedure, on the same features, in one run.

    python benchmarks/probe.py                  both cases, prints Markdown
    python benchmarks/probe.py --case features  the first alone (--case pixels: the second)
    python benchmarks/probe.py --reference      also scikit-learn's float64 optimum for some penalties (minutes)

Case "features": concatenated features of four CIFAR ResNets, N = 25,000 images to train and select on, D = 256.
t-ReX's side (spec of naver/trex, transfer suite): 30 Optuna TPE trials over C in [1e-5, 1e6], scikit-learn's
LogisticRegression with L-BFGS and max_iter 2000 on float32, top-1 on val, then a refit on train and val.
Case "pixels": 10,000 CIFAR images as raw pixels, D = 3,072, the whole path of 15 penalties.

Needs `pip install -e ".[bench]"`. Reads ../shared/data; without it the features are drawn at random, and it says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from richrep.backbones.addresses import load_backbone
from richrep.data.datasets import load_dataset
from richrep.data.preprocessing import Geometry
from richrep.data.split import carve_val
from richrep.evaluation.environment import cpu_model
from richrep.evaluation.selection import DEFAULT_CS, select_logistic
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_features
from richrep.features.feature_set import Block, FeatureSet, concat_features
from richrep.features.normalize import DEFAULT_NORMALIZATIONS
from richrep.heads.logistic import LogisticHead
from richrep.heads.logistic_path import fit_logistic_path
from richrep.paths import default_cache_root
from richrep.training.batches import load_pixels

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NETWORKS = ("resnet20-12fca82f", "resnet32-d509ac18", "resnet44-014dd654", "resnet56-4bfd9763")
PIXEL_CS = tuple(float(c) for c in 10.0 ** np.linspace(-5, 2, 15))


@dataclass(frozen=True)
class Side:
    """What one side of the comparison reached."""

    name: str
    seconds: float
    c: float
    val: float
    test: float
    note: str = ""


def cifar_features(num_train: int) -> tuple[FeatureSet, FeatureSet, str]:
    """Train-and-val and test features, and what they are."""
    if not SHARED.is_dir():
        return (*random_features(num_train), "random features with a decaying spectrum (../shared/data is absent)")
    backbones = [load_backbone(str(SHARED / "weights" / f"akamaster_cifar10_{name}.th")) for name in NETWORKS]
    dataset = load_dataset(f"parquet:{SHARED / 'cifar10'}")
    cache = FeatureCache(default_cache_root())
    parts = (dataset.train.first(num_train), dataset.test)
    trainval, test = (concat_features(extract_features(backbones, part, cache=cache)) for part in parts)
    return trainval, test, "four akamaster CIFAR ResNets on cifar10 (JPEG)"


def random_features(num_train: int) -> tuple[FeatureSet, FeatureSet]:
    """Ten overlapping Gaussian classes in 256 dimensions whose variances fall like 1/j."""
    generator = torch.Generator().manual_seed(0)
    dim, classes = 256, 10
    spread = torch.arange(1, dim + 1).float().rsqrt()
    means = torch.randn(classes, dim, generator=generator) * spread * 0.6

    def draw(count: int, key: str) -> FeatureSet:
        labels = torch.arange(count) % classes
        features = means[labels] + torch.randn(count, dim, generator=generator) * spread
        return FeatureSet(features, labels, classes, (Block("random", 0, dim),), key)

    return draw(num_train, "train"), draw(10_000, "test")


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def ours(trainval: FeatureSet, test: FeatureSet, rows: tuple[np.ndarray, np.ndarray], names: tuple[str, ...]) -> Side:
    start = time.perf_counter()
    chosen = select_logistic(trainval, *rows, normalizations=names)
    blocks = [(block.start, block.stop) for block in trainval.blocks]
    head = LogisticHead(chosen.best.l2, normalization=chosen.best.normalization, blocks=blocks)
    head.fit(trainval.features, trainval.labels, num_classes=trainval.num_classes, near=chosen.linear)
    score = accuracy(head.logits(test.features), test.labels)
    seconds = time.perf_counter() - start
    count = len(chosen.candidates)
    note = f"{count} candidates, {sum(c.converged for c in chosen.candidates)} converged"
    label = f"ours, {len(names)} normalisation{'s' * (len(names) > 1)}"
    c = 1 / (len(rows[0]) * chosen.best.l2)
    return Side(label, seconds, c, chosen.best.val_accuracy, score, note)


def trex(
    trainval: FeatureSet,
    test: FeatureSet,
    rows: tuple[np.ndarray, np.ndarray],
    *,
    estimator: Callable[..., object],
    name: str,
    trials: int,
) -> Side:
    """t-ReX's L-BFGS protocol: see the module's docstring."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    x, y = trainval.features.numpy(), trainval.labels.numpy()
    train, val = rows
    start = time.perf_counter()
    x_train, x_val = x[train], x[val]
    unfinished = 0

    def objective(trial: optuna.Trial) -> float:
        nonlocal unfinished
        c = trial.suggest_float("C", 1e-5, 1e6, log=True)
        model = estimator(C=c, max_iter=2000, random_state=22).fit(x_train, y[train])  # type: ignore[attr-defined]
        unfinished += int(np.max(model.n_iter_) >= 2000)
        return float((model.predict(x_val) == y[val]).mean())

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=22))
    study.optimize(objective, n_trials=trials)
    c = study.best_params["C"]
    final = estimator(C=c, max_iter=2000, random_state=22).fit(x, y)  # type: ignore[attr-defined]
    score = float((final.predict(test.features.numpy()) == test.labels.numpy()).mean())
    seconds = time.perf_counter() - start
    return Side(name, seconds, c, study.best_value, score, f"{trials} trials, {unfinished} at max_iter")


def estimators() -> dict[str, Callable[..., object]]:
    """scikit-learn's LogisticRegression, and Intel's patched one where it is installed."""
    from sklearn.linear_model import LogisticRegression

    found: dict[str, Callable[..., object]] = {"t-ReX (scikit-learn)": LogisticRegression}
    if importlib.util.find_spec("sklearnex") is not None:
        from sklearnex.linear_model import LogisticRegression as IntelLogisticRegression

        found["t-ReX (scikit-learn-intelex)"] = IntelLogisticRegression
    return found


def print_sides(sides: list[Side], reference: Side) -> None:
    print("| side | time | ratio to ours | C | val accuracy | test accuracy | |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for side in sides:
        print(
            f"| {side.name} | {side.seconds:.2f} s | {side.seconds / reference.seconds:.1f} | {side.c:.3g} | "
            f"{side.val:.4f} | {side.test:.4f} | {side.note} |"
        )


def objective_of(
    features: torch.Tensor, labels: torch.Tensor, weight: np.ndarray, bias: np.ndarray, l2: float
) -> float:
    """(1/N) Σ cross-entropy + (l2/2)·‖W‖², in float64."""
    w = torch.as_tensor(weight, dtype=torch.float64)
    logits = features.double() @ w.T + torch.as_tensor(bias, dtype=torch.float64)
    return float(torch.nn.functional.cross_entropy(logits, labels) + l2 / 2 * w.square().sum())


def print_reference(features: torch.Tensor, labels: torch.Tensor, num_classes: int, cs: list[float]) -> None:
    """Objective of ours against scikit-learn's in float64 at tol 1e-10."""
    from sklearn.linear_model import LogisticRegression

    total = len(features)
    path = fit_logistic_path(features, labels, num_classes=num_classes, l2s=[1 / (total * c) for c in cs])
    print(
        "\n| C | ours (float32) | scikit-learn (float64, tol 1e-10) | ours / theirs - 1 | its iterations | its time |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    for i, c in enumerate(cs):
        start = time.perf_counter()
        model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10, max_iter=1000)  # exact, in minutes
        model.fit(features.double().numpy(), labels.numpy())
        seconds, l2 = time.perf_counter() - start, 1 / (total * c)
        mine = objective_of(features, labels, path.weights[i].numpy(), path.biases[i].numpy(), l2)
        theirs = objective_of(features, labels, model.coef_, model.intercept_, l2)
        print(
            f"| {c:.3g} | {mine:.7f} | {theirs:.7f} | {mine / theirs - 1:+.1e} | {model.n_iter_[0]} | {seconds:.1f} s |"
        )


def run_features(args: argparse.Namespace) -> None:
    trainval, test, what = cifar_features(args.num_train)
    rows = carve_val(trainval.labels.numpy(), seed=0)
    print(f"\n## Tuned probe: {what}, N = {len(trainval):,}, D = {trainval.feature_dim}, K = {trainval.num_classes}\n")
    one = ("none",)
    first = ours(trainval, test, rows, one)
    theirs = [
        trex(trainval, test, rows, estimator=estimator, name=name, trials=args.trials)
        for name, estimator in estimators().items()
    ]
    second = ours(trainval, test, rows, one)  # alternately: before and after the other side
    all_four = ours(trainval, test, rows, DEFAULT_NORMALIZATIONS)
    slower = max(first, second, key=lambda side: side.seconds)  # ratios are to our slower run: theirs has only one
    print_sides([first, *theirs, second, all_four], slower)
    print_memory(trainval.features, trainval.labels, trainval.num_classes, DEFAULT_CS, rows)
    if args.reference:
        train = torch.as_tensor(rows[0])
        cs = [1e-5, 1e-3, 1e-1, 1e1, 1e3, 1e6]
        print_reference(trainval.features[train], trainval.labels[train], trainval.num_classes, cs)


def cifar_pixels() -> tuple[torch.Tensor, torch.Tensor, str]:
    """Raw pixels (10000, 3072) in [0, 1] and labels."""
    if not SHARED.is_dir():
        trainval, _ = random_features(10_000)
        mixing = torch.randn(256, 3072, generator=torch.Generator().manual_seed(1))
        return trainval.features @ mixing / 16, trainval.labels, "random mixtures (../shared/data is absent)"
    split = load_dataset(f"parquet:{SHARED / 'cifar10'}").train.first(10_000)
    pixels = load_pixels(split, Geometry((32, 32), 32)).flatten(1).float() / 255
    return pixels, torch.from_numpy(split.labels), "raw CIFAR-10 pixels in [0, 1]"


def run_pixels(args: argparse.Namespace) -> None:
    from sklearn.linear_model import LogisticRegression

    features, labels, what = cifar_pixels()
    total = len(features)
    print(f"\n## Whole penalty path: {what}, N = {total:,}, D = {features.shape[1]:,}, {len(PIXEL_CS)} penalties\n")
    start = time.perf_counter()
    path = fit_logistic_path(features, labels, num_classes=10, l2s=[1 / (total * c) for c in PIXEL_CS])
    seconds = time.perf_counter() - start
    i = PIXEL_CS.index(min(PIXEL_CS, key=lambda c: abs(c - 10)))
    start = time.perf_counter()
    model = LogisticRegression(C=PIXEL_CS[i], max_iter=2000).fit(features.numpy(), labels.numpy())
    their_seconds = time.perf_counter() - start
    l2 = 1 / (total * PIXEL_CS[i])
    mine = objective_of(features, labels, path.weights[i].numpy(), path.biases[i].numpy(), l2)
    theirs = objective_of(features, labels, model.coef_, model.intercept_, l2)
    print("| side | penalties | time | objective at C = 10 | iterations |")
    print("|---|---:|---:|---:|---|")
    its, converged = path.iterations.tolist(), int(path.converged.sum())
    ours = f"ours, {converged} of {len(its)} converged"
    print(f"| {ours} | {len(its)} | {seconds:.1f} s | {mine:.6f} | {min(its)}-{max(its)} |")
    print(f"| scikit-learn, float32, tol 1e-4 | 1 | {their_seconds:.1f} s | {theirs:.6f} | {model.n_iter_[0]} |")
    print(
        f"\nscikit-learn for one penalty takes {their_seconds / seconds:.1f} times as long as ours for {len(its)}, "
        f"and stops {100 * (theirs / mine - 1):.2f} % above our objective."
    )
    print_memory(features, labels, 10, PIXEL_CS, None)


def print_memory(
    features: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    cs: tuple[float, ...],
    rows: tuple[np.ndarray, np.ndarray] | None,
) -> None:
    """Peak memory of the fit alone, in a process of its own that holds the features and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(
            Path(folder) / "x.npz", x=features.numpy(), y=labels.numpy(), rows=np.array([] if rows is None else rows[0])
        )
        command = [sys.executable, __file__, "--memory-child", folder, json.dumps([num_classes, list(cs)])]
        result = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    before, peak = json.loads(result.stdout.splitlines()[-1])
    matrix, used = features.numel() * 4 / 1e6, peak - before
    bound = 1.5 * matrix + 200
    print(
        f"\nPeak memory, features included: {used:.0f} MB. The feature matrix is {matrix:.0f} MB, so the bound of "
        f"1.5 x matrix + 200 MB is {bound:.0f} MB: {'met' if used <= bound else 'NOT met'}."
    )


def memory_child(folder: str, task: str) -> None:
    def memory_mb(name: str) -> float:
        """VmRSS (now) or VmHWM (highest) of this process; getrusage would begin with the parent's peak."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1e3

    num_classes, cs = json.loads(task)
    small = torch.randn(200, 8)  # loads what the libraries load on first use
    fit_logistic_path(small, torch.arange(200) % 2, num_classes=2, l2s=[1.0])
    before = memory_mb("VmRSS")
    content = np.load(Path(folder) / "x.npz")
    features, labels, rows = torch.from_numpy(content["x"]), torch.from_numpy(content["y"]), content["rows"]
    chosen = torch.from_numpy(rows).long() if len(rows) else None
    total = len(features) if chosen is None else len(chosen)
    fit_logistic_path(features, labels, num_classes=num_classes, l2s=[1 / (total * c) for c in cs], rows=chosen)
    print(json.dumps([before, memory_mb("VmHWM")]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("all", "features", "pixels"), default="all")
    parser.add_argument("--num-train", type=int, default=25_000, help="images to train and select on")
    parser.add_argument("--trials", type=int, default=30, help="Optuna trials of t-ReX's side")
    parser.add_argument("--reference", action="store_true", help="also compare objectives with a float64 optimum")
    parser.add_argument("--memory-child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_child:
        memory_child(*args.memory_child)
        return
    warnings.simplefilter("ignore")  # scikit-learn's ConvergenceWarning is counted in the table instead
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "scikit-learn"))
    print(f"{cpu_model()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, {versions}")
    if args.case in ("all", "features"):
        run_features(args)
    if args.case in ("all", "pixels"):
        run_pixels(args)


if __name__ == "__main__":
    main()
