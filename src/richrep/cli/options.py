"""Options that mean the same in every command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

Backbones = Annotated[
    list[str],
    typer.Option(
        "--backbone",
        "-b",
        metavar="ADDRESS",
        help="A checkpoint file, ARCH@FILE, timm/NAME, torchvision/NAME, random/NAME, zoo:NAME or run:NAME. Repeat for "
        "several.",
    ),
]
DatasetAddress = Annotated[
    str,
    typer.Option(
        "--dataset",
        "-d",
        metavar="ADDRESS",
        help="digits, a registered NAME, folder:PATH, parquet:PATH, csv:PATH, hf:NAME.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root", metavar="DIR", help="Where registered data sets lie.", show_default="$RICHREP_HOME/data"
    ),
]
MAX_SEED = 2**32 - 1


def check_seed(seeds: int | list[int] | None) -> int | list[int] | None:
    """`seeds` as they are; typer.BadParameter for one that no generator takes."""
    for seed in [seeds] if isinstance(seeds, int) else seeds or []:
        if not 0 <= seed <= MAX_SEED:
            raise typer.BadParameter(f"{seed} is no seed. Give a number from 0 to {MAX_SEED}.")
    return seeds


TrainSize = Annotated[
    int | None,
    typer.Option("--train-size", metavar="N", help="Only the first N images of train, out of which val is carved."),
]
TestSize = Annotated[int | None, typer.Option("--test-size", metavar="N", help="Only the first N test images.")]
Preprocess = Annotated[
    list[str] | None,
    typer.Option(
        "--preprocess",
        metavar="KEY=VALUE",
        help="Override of every backbone: size, resize, interpolation, mean or std. Repeat for several.",
        show_default="as each backbone says",
    ),
]
Views = Annotated[
    int | None,
    typer.Option(
        "--views",
        metavar="V",
        min=1,
        help="Train on V random views (crop, flip) of every image, cached like features; 1 is the image as it is.",
        show_default="1, or as the protocol says",
    ),
]
ViewScale = Annotated[
    float | None,
    typer.Option(
        "--view-scale",
        metavar="LOW",
        help="Least area of a view's crop, as a fraction of the image.",
        show_default="as the protocol says; else 0.08, or 0.8 where every network's input is at most 64 pixels",
    ),
]


def check_view_scale(low: float | None) -> None:
    """Raises RichrepError for a --view-scale that no crop has."""
    from richrep.errors import RichrepError

    if low is not None and not 0 < low <= 1:
        raise RichrepError(f"--view-scale must be above 0 and at most 1, got {low:g}. 0.08 is ImageNet's, 1 the whole.")


BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", metavar="N", min=1, help="Images per forward pass.", show_default="by device and size"
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, …", show_default="cuda, else cpu")
]
NumWorkers = Annotated[
    int | None,
    typer.Option("--num-workers", metavar="N", min=0, help="Threads that decode images.", show_default="cores"),
]
OnBadImage = Annotated[
    Literal["stop", "skip"], typer.Option("--on-bad-image", help="What to do with an image that cannot be decoded.")
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="What runs the networks; auto takes the fastest that is close to float32 (richrep list engines).",
    ),
]
Precision = Annotated[
    str,
    typer.Option("--precision", metavar="fp32|bf16|fp16", help="Of the products in the networks; features differ."),
]
FastDecode = Annotated[
    bool,
    typer.Option("--fast-decode", help="Decode large JPEGs at a fraction of their size; values differ a little."),
]
FastResize = Annotated[
    bool,
    typer.Option(
        "--fast-resize", help="Resize by torch, where the networks run, in place of Pillow; values differ a little."
    ),
]
Profile = Annotated[bool, typer.Option("--profile", help="Say at the end where the time of the extraction went.")]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        "--memory-limit",
        metavar="SIZE",
        help="What fitting may take beside the features, such as 4GB or 500MB; the results are the same.",
        show_default="half of what is free",
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option("--cache-dir", metavar="DIR", help="The feature cache.", show_default="$RICHREP_HOME/features"),
]


StoreName = Literal["fp32", "fp16"]


def check_store(store: str) -> str:
    """`store` as it is; RichrepError for a type that the cache does not write."""
    from richrep.errors import RichrepError, unknown_name_message

    if store not in get_args(StoreName):
        raise RichrepError(unknown_name_message("storage type", store, get_args(StoreName)))
    return store


Store = Annotated[
    StoreName,
    typer.Option(
        "--store",
        metavar="fp32|fp16",
        parser=str,  # any text comes as far as the callback, whose message is that of other names
        callback=check_store,
        help="How the cache stores features; fp16 rounds them to half the room.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only every N-th block of images, from block I on; I counts from 0, so 0/4 to 3/4 are all. "
        "For job arrays: the jobs may run at any time, on machines that share the cache.",
    ),
]
DEFAULT_OUT = Path("runs")
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the records, one JSON file each.")]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write JSON; - is standard output, instead of the table.")
]
