"""`richrep convert`: any checkpoint -> one safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from richrep.cli import console


def convert(
    backbone: Annotated[str, typer.Argument(metavar="BACKBONE", help="An address, as for probe -b.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The new file.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Writes a checkpoint of any format as one safetensors file: weights, head, masks, preprocessing, its source.

    The new file loads back identically, here and without richrep: its tensors have the names of the library's network.

    Example: richrep convert checkpoint.pth.tar resnet50.safetensors
    """
    from richrep.backbones.addresses import load_backbone
    from richrep.backbones.convert import convert as convert_backbone

    loaded = load_backbone(backbone)
    path = convert_backbone(loaded, output, overwrite=overwrite)
    if loaded.head is not None and loaded.origin is not None and not loaded.origin.head_names:
        console.say(
            f"The head of {backbone} ({loaded.num_classes} classes) is not in {path}: it was trained on the features, "
            f"and is no part of {loaded.architecture}. {backbone} itself loads with it."
        )
    console.say(f"{backbone} ({loaded.family}, {loaded.architecture}) -> {path} ({path.stat().st_size / 1e6:.1f} MB)")
