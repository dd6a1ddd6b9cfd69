"""Options that mean the same in every command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Backbones = Annotated[
    list[str],
    typer.Option(
        "--backbone",
        "-b",
        metavar="ADDRESS",
        help="A checkpoint file, ARCH@FILE, timm/NAME, torchvision/NAME or random/NAME. Repeat for several.",
    ),
]
DatasetAddress = Annotated[
    str,
    typer.Option("--dataset", "-d", metavar="ADDRESS", help="digits, cifar10, cifar100, folder:PATH or parquet:PATH."),
]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", metavar="DIR", help="Where cifar10 and cifar100 lie.  [default: $RICHREP_HOME/data]"),
]
TrainSize = Annotated[
    int | None, typer.Option("--train-size", metavar="N", help="Only the first N training images, val included.")
]
TestSize = Annotated[int | None, typer.Option("--test-size", metavar="N", help="Only the first N test images.")]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", help="Images per forward pass.  [default: by device and size]"),
]
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, …  [default: best]")]
NumWorkers = Annotated[
    int | None, typer.Option("--num-workers", metavar="N", help="Threads that decode images.  [default: cores]")
]
OnBadImage = Annotated[
    Literal["stop", "skip"], typer.Option("--on-bad-image", help="What to do with an image that cannot be decoded.")
]
CacheDir = Annotated[
    Path | None,
    typer.Option("--cache-dir", metavar="DIR", help="The feature cache.  [default: $RICHREP_HOME/features]"),
]
DEFAULT_OUT = Path("runs")
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the records, one JSON file each.")]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Also write the records as JSON; - is standard output.")
]
