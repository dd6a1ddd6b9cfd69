"""Subset search: time of the proxy, and what it loses against probing every subset in full.

Case "speed": 16 members of 512 features, N = 5,000, greedy to 8 members; members are random ReLU features of one latent
picture of each image, each blind to another part of it, with decaying spectra.
Case "quality": the 8 CIFAR-10 networks of ../shared/data on cifar100, all 255 subsets probed in full, against what
each strategy chooses; "regret" is in points of val accuracy. Without ../shared/data it uses the made-up members.
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from richrep.backbones.addresses import load_backbone
from richrep.backbones.names import distinct_names
from richrep.data.datasets import load_dataset
from richrep.data.split import carve_val
from richrep.evaluation.environment import cpu_model
from richrep.evaluation.search.probes import Probes
from richrep.evaluation.search.proxy import make_proxy
from richrep.evaluation.search.shortlist import probe_shortlist
from richrep.evaluation.search.strategies import STRATEGIES, Scored
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_features
from richrep.features.feature_set import Block, FeatureSet
from richrep.paths import default_cache_root

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CS = tuple(float(c) for c in 10.0 ** np.arange(-2.5, 1.1, 0.5))


def made_up_members(count: int, dim: int, num_rows: int, num_classes: int) -> list[FeatureSet]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_rows) % num_classes
    means = 0.35 * torch.randn(num_classes, 256, generator=generator)
    latent = means[labels] + torch.randn(num_rows, 256, generator=generator)
    sizes = torch.arange(1, 257).rsqrt()[:, None]
    members = []
    for i in range(count):
        seen = torch.randperm(256, generator=generator)
        mixing = sizes * torch.randn(256, dim, generator=generator) * (torch.arange(256) < 160)[:, None]
        noise = 0.5 * torch.randn(num_rows, dim, generator=generator)
        features = (latent[:, seen] @ mixing + noise).relu()
        members.append(FeatureSet(features, labels, num_classes, (Block(str(i), 0, dim),), f"made-up {i}"))
    return members


def real_members(count: int, num_rows: int) -> list[FeatureSet]:
    files = sorted((SHARED / "weights").glob("*cifar10*"))[:count]
    backbones = [load_backbone(str(file)) for file in files]
    backbones = [replace(b, name=name) for b, name in zip(backbones, distinct_names(backbones), strict=True)]
    split = load_dataset(f"parquet:{SHARED / 'cifar100'}").train.first(num_rows)
    return extract_features(backbones, split, cache=FeatureCache(default_cache_root()))


def run_speed(args: argparse.Namespace) -> None:
    count, dim, num_rows = (8, 128, 1500) if args.quick else (16, 512, 5000)
    print(f"\n## Greedy to 8 of {count} members of {dim} features, N = {num_rows:,}\n")
    print("| K | components | Gram matrices | greedy | together | subsets | proxy val of 1, 2, 4, 8 |")
    print("|---:|---:|---:|---:|---:|---:|---|")
    for num_classes in (10, 100):
        members = made_up_members(count, dim, num_rows, num_classes)
        rows = carve_val(members[0].labels.numpy(), seed=0)
        for max_dims in (64, 128):
            start = time.perf_counter()
            proxy = make_proxy(members, *rows, max_dims=max_dims, side="columns")
            made = time.perf_counter()
            scored = Scored(proxy.score, [member.feature_dim for member in members])
            STRATEGIES["greedy"](scored, max_members=8, beam_width=1)
            end = time.perf_counter()
            path = {len(subset): scored.values[subset] for subset in scored.path()}
            vals = ", ".join(f"{path[size]:.3f}" for size in (1, 2, 4, 8))
            times = f"{made - start:.1f} s | {end - made:.1f} s | {end - start:.1f} s"
            print(f"| {num_classes} | {max_dims} | {times} | {len(scored.values)} | {vals} |")


def run_quality(args: argparse.Namespace) -> None:
    count, num_rows = (4, 1000) if args.quick else (8, args.num_train)
    if SHARED.is_dir():
        members, what = real_members(count, num_rows), "CIFAR-10 networks on cifar100"
    else:
        members, what = made_up_members(count, 64, num_rows, 20), "made-up members (../shared/data is absent)"
    train, val = carve_val(members[0].labels.numpy(), seed=0)
    print(f"\n## {count} {what}: {len(train)} train and {len(val)} val images, {2**count - 1} subsets\n")
    probes, quick = (Probes(members, (), train, val, cs=CS, normalizations=("block-rms",)) for _ in range(2))
    start = time.perf_counter()
    everything = [s for size in range(1, count + 1) for s in combinations(range(count), size)]
    truth = {subset: probes.val_accuracy(subset) for subset in everything}
    best = max(truth.values())
    took = time.perf_counter() - start
    one = 100 / len(val)
    print(f"All subsets in full: {took:.0f} s, best val {100 * best:.2f} %. One val image is {one:.2f} points.\n")
    print("| strategy | subsets by proxy | proxy | regret: path alone | short list 4 | 8 | 16 |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, strategy in STRATEGIES.items():
        start = time.perf_counter()
        scored = Scored(make_proxy(members, train, val).score, [member.feature_dim for member in members])
        strategy(scored, max_members=count, beam_width=4)
        took = time.perf_counter() - start
        regrets = []
        for shortlist in (0, 4, 8, 16):
            full = Scored(truth.__getitem__, scored.dims)
            proxy = replace(scored, values=dict(scored.values))  # the short list adds to it
            probe_shortlist(proxy, full, quick.at_least, max_members=count, shortlist=shortlist)
            regrets.append(f"{100 * (best - max(full.values.values())):.2f} ({len(full.values)} probed)")
        print(f"| {name} | {len(scored.values)} | {took:.1f} s | {' | '.join(regrets)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("all", "speed", "quality"), default="all")
    parser.add_argument("--num-train", type=int, default=5000, help="images of case quality, a fifth of them val")
    parser.add_argument("--quick", action="store_true", help="smaller, to see that it runs")
    args = parser.parse_args()
    print(
        f"{cpu_model()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
    if args.case in ("all", "speed"):
        run_speed(args)
    if args.case in ("all", "quality"):
        run_quality(args)


if __name__ == "__main__":
    main()
