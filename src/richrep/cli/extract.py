"""`richrep extract`: fills the feature cache."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from richrep.cli import console, options


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
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    num_workers: options.NumWorkers = None,
    on_bad_image: options.OnBadImage = "stop",
    cache_dir: options.CacheDir = None,
) -> None:
    """Computes features of every backbone in one pass over the images, into the cache that probe reads.

    May be killed at any moment: the same command goes on from the last finished block of rows.

    Example: richrep extract -b a.pth -b timm/vit_small_patch16_224 -d folder:flowers
    """
    from dataclasses import replace

    from rich.table import Table

    from richrep.backbones.names import distinct_names
    from richrep.data.datasets import load_parts, part_among
    from richrep.errors import RichrepError, unknown_name_message
    from richrep.features.cache import FeatureCache
    from richrep.features.extract import extract_features
    from richrep.paths import default_cache_root

    parts = {"trainval": ("trainval",), "test": ("test",), "all": ("trainval", "test")}
    if part not in parts:
        raise RichrepError(unknown_name_message("part", part, parts))
    stored = load_parts(dataset, data_root=data_root)
    for name, size in (("train", train_size), ("test", test_size)):
        if size is not None:
            stored[name] = part_among(stored, name).first(size)
    if part == "all" and "train" not in stored:  # ImageNet-A, -R, -Sketch and -V2 are a test part alone
        parts["all"] = ("test",)
    splits = {name: part_among(stored, name) for name in parts[part]}
    loaded = console.load_backbones(backbones, seed=seed, preprocess=preprocess)
    loaded = [replace(b, name=name) for b, name in zip(loaded, distinct_names(loaded), strict=True)]
    table = Table("representation", "part", "images", "dim", "s", "key", box=None)
    for name, split in splits.items():
        start = time.perf_counter()
        with console.extraction_progress() as progress:
            feature_sets = extract_features(
                loaded,
                split,
                cache=FeatureCache(cache_dir or default_cache_root()),
                batch_size=batch_size,
                device=device,
                num_workers=num_workers,
                on_bad_image=on_bad_image,
                progress=progress,
            )
        took = f"{time.perf_counter() - start:.1f}"
        for backbone, features in zip(loaded, feature_sets, strict=True):
            table.add_row(backbone.name, name, str(len(features)), str(features.feature_dim), took, features.key[:12])
    console.stdout().print(table)
