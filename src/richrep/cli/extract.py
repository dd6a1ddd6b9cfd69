"""`richrep extract`: fills the feature cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from richrep.cli import console, options

if TYPE_CHECKING:
    from richrep.backbones.backbone import Backbone
    from richrep.features.shards import Shard


def extract(
    backbones: options.Backbones,
    dataset: options.DatasetAddress,
    part: Annotated[
        str, typer.Option("--part", metavar="trainval|test|all", help="Which part; trainval holds train and val.")
    ] = "all",
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", callback=options.check_seed, help="Weights of random/NAME backbones.")
    ] = 0,
    train_size: options.TrainSize = None,
    test_size: options.TestSize = None,
    data_root: options.DataRoot = None,
    preprocess: options.Preprocess = None,
    views: options.Views = None,
    view_scale: options.ViewScale = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    num_workers: options.NumWorkers = None,
    on_bad_image: options.OnBadImage = "stop",
    engine: options.Engine = "torch",
    precision: options.Precision = "fp32",
    fast_decode: options.FastDecode = False,
    fast_resize: options.FastResize = False,
    profile: options.Profile = False,
    cache_dir: options.CacheDir = None,
    store: options.Store = "fp32",
    shard: options.Shard = None,
) -> None:
    """Computes features of every backbone in one pass over the images, into the cache that probe reads.

    May be killed at any moment: the same command goes on with the blocks of images that are missing. Started several
    times at once, on one machine or on several that share the cache, the processes divide the blocks among themselves;
    torchrun starts one a GPU: torchrun --nproc-per-node 8 -m richrep extract …

    A network whose features are not finite, or that the engine cannot run closely enough, is left out; the others are
    extracted all the same, and the exit code is 1.

    With --views also V random views of every image of trainval, each an entry of its own, as probe --views reads them.

    Example: richrep extract -b a.pth -b timm/vit_small_patch16_224 -d folder:flowers
    """
    from dataclasses import replace

    from richrep.backbones.names import distinct_names
    from richrep.cli.torchrun import Worker
    from richrep.data.augment import RandomView
    from richrep.data.datasets import load_parts, part_among
    from richrep.errors import RichrepError, unknown_name_message
    from richrep.features.cache import FeatureCache
    from richrep.features.extract import extract_layers, with_views
    from richrep.features.extract_shard import extract_shard
    from richrep.features.manifest import Request
    from richrep.features.profile import ExtractionProfile
    from richrep.features.shards import Shard
    from richrep.features.usable import extract_usable
    from richrep.features.views import Views, default_view
    from richrep.paths import default_cache_root

    parts = {"trainval": ("trainval",), "test": ("test",), "all": ("trainval", "test")}
    if part not in parts:
        raise RichrepError(unknown_name_message("part", part, parts))
    options.check_view_scale(view_scale)
    if part == "test" and (views or 1) > 1:
        raise RichrepError("--views are of training images, and --part test has none. Leave one of them out.")
    own = None if shard is None else Shard.parse(shard)
    worker = Worker.from_environment()
    measured = ExtractionProfile()
    common: dict[str, Any] = {
        "cache": FeatureCache(cache_dir or default_cache_root(), store=store),
        "batch_size": batch_size,
        "device": worker.choose_device(device),
        "num_workers": worker.share_cores(num_workers),
        "on_bad_image": on_bad_image,
        "engine": engine,
        "precision": precision,
        "fast_decode": fast_decode,
        "fast_resize": fast_resize,
        "profile": measured if profile else None,
    }
    console.check_engine(engine, precision, common["device"])
    stored = load_parts(dataset, data_root=data_root)
    for name, size in (("train", train_size), ("test", test_size)):
        if size is not None:
            stored[name] = part_among(stored, name).first(size)
    if part == "all" and "train" not in stored:  # ImageNet-A, -R, -Sketch and -V2 are a test part alone
        parts["all"] = ("test",)
    splits = {name: part_among(stored, name) for name in parts[part]}
    loaded = console.load_backbones(backbones, seed=seed, preprocess=preprocess, report=worker.prints_results)
    loaded = [replace(b, name=name) for b, name in zip(loaded, distinct_names(loaded), strict=True)]
    drawn = Views(views or 1, default_view(loaded) if view_scale is None else RandomView(scale=(view_scale, 1.0)))
    took_s = dict.fromkeys(splits, 0.0)

    def fill(backbones: Sequence[Backbone]) -> tuple[list[tuple[str, ...]], int]:
        """Extracts every part under `backbones`: the rows of the table, and the blocks that other shards lack."""
        rows: list[tuple[str, ...]] = []
        missing = 0
        for name, split in splits.items():
            start = time.perf_counter()
            seen = drawn if name == "trainval" else None
            requests = [one for backbone in backbones for one in with_views(Request(backbone), seen)]
            try:
                with console.extraction_progress() if worker.prints_results else nullcontext() as progress:
                    if own is None:
                        made = extract_layers(requests, split, progress=progress, **common)
                        facts = [(f"{len(f)}", f"{f.feature_dim}", f.key) for f in made]
                    else:
                        reports = extract_shard(backbones, split, shard=own, views=seen, progress=progress, **common)
                        facts = [(f"{r.blocks_done}/{r.blocks_total}", f"{r.dim}", r.key) for r in reports]
                        missing += sum(r.blocks_total - r.blocks_done for r in reports)
            finally:
                took_s[name] += time.perf_counter() - start  # also of tries that ended with a network left out
            for request, (count, dim, key) in zip(requests, facts, strict=True):
                label = name if request.view is None else f"{name}, view {request.view.number}"
                rows.append((request.backbone.name, label, count, dim, f"{took_s[name]:.1f}", key[:12]))
        return rows, missing

    def fail(name: str, reason: str) -> None:
        console.say(f"{name}: not extracted. {reason}")

    used, (rows, missing) = extract_usable(loaded, fill, fail)
    if not worker.prints_results:
        return  # torchrun ends all workers with the first that fails; the one that prints fails of the same networks
    _print_table(rows, own, missing)
    if profile:
        console.say_profile(measured)
    if len(used) < len(loaded):
        raise typer.Exit(1)


def _print_table(rows: list[tuple[str, ...]], shard: Shard | None, missing: int) -> None:
    from rich.table import Table

    table = Table("representation", "part", "images" if shard is None else "blocks", "dim", "s", "key", box=None)
    for row in rows:
        table.add_row(*row)
    console.stdout().print(table)
    if shard is not None:
        rest = f"{missing} blocks of other shards are still missing" if missing else "no block is missing any more"
        console.stdout().print(f"Shard {shard} is done; {rest}.")
