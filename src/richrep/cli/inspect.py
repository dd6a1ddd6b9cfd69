"""`richrep inspect`: what a checkpoint file is."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated

import typer

from richrep.cli import console, options

if TYPE_CHECKING:
    from rich.table import Table

    from richrep.backbones.backbone import Backbone
    from richrep.backbones.sparsity import LayerSparsity, Sparsity

_MASK_SOURCES = {"file": "from the file", "zeros": "inferred from weights that are exactly zero", "": "none"}


def inspect(
    backbone: Annotated[str, typer.Argument(metavar="BACKBONE", help="An address, as for probe -b.")],
    json: options.Json = None,
    layers: Annotated[bool, typer.Option("--layers", help="Also the sparsity of every layer.")] = False,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", callback=options.check_seed, help="Weights of a random/NAME backbone.")
    ] = 0,
) -> None:
    """What this backbone is: family, architecture, features, head, parameters, sparsity, preprocessing, licence.

    Opens checkpoints safely: nothing in the file is run, and nothing is loaded by half.

    Example: richrep inspect resnet20.th
    """
    from rich.table import Table

    from richrep.backbones.addresses import load_backbone
    from richrep.backbones.sparsity import measure_sparsity
    from richrep.evaluation.facts import backbone_facts

    console.check_writable(json)
    loaded = load_backbone(backbone, seed=seed)
    facts = backbone_facts(loaded, loaded.name)
    sparsity = measure_sparsity(loaded)
    if json is not None:
        content = (
            facts.model_dump(mode="json") | {"num_classes": loaded.num_classes} | _sparsity_facts(loaded, sparsity)
        )
        console.write_text(json, json_module.dumps(content, indent=2, ensure_ascii=False))
        if json == "-":
            return
    trunk = loaded.trunk_parameters
    rows = [
        ("address", facts.address),
        ("family", facts.family),
        ("architecture", facts.architecture),
        ("features", str(facts.feature_dim)),
        ("head", f"{loaded.num_classes} classes" if loaded.num_classes else "none"),
        ("parameters", f"{facts.parameters:,} (trunk {trunk:,}, head {facts.parameters - trunk:,})"),
        ("sparsity", f"{facts.sparsity:.1%} of the conv and linear weights are zero"),
        ("", _describe_pruning(sparsity)),
        ("masks", _describe_masks(loaded)),
        ("preprocessing", facts.preprocessing),
        ("licence", facts.licence),
        ("sha256", facts.sha256),
        *(("load" if i == 0 else "", line) for i, line in enumerate(facts.load_report)),
    ]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, console.printable(value))
    console.stdout().print(table)
    if layers:
        console.stdout().print(_layer_table(sparsity.layers))


def _describe_pruning(sparsity: Sparsity) -> str:
    return (
        f"pruned: backbone {sparsity.backbone:.1%}, with head {sparsity.prunable:.1%}, "
        f"whole model with biases and norms {sparsity.overall:.1%} of {sparsity.values:,}"
    )


def _describe_masks(backbone: Backbone) -> str:
    source = _MASK_SOURCES[backbone.mask_source]
    return f"{len(backbone.masks)}, {source}" if backbone.mask_source else source


def _sparsity_facts(backbone: Backbone, sparsity: Sparsity) -> dict[str, object]:
    """For --json; beside `sparsity`, the share of weights that are exactly zero."""
    return {
        "mask_source": backbone.mask_source or None,
        "masks": len(backbone.masks),
        "pruned": {"backbone": sparsity.backbone, "with_head": sparsity.prunable, "whole_model": sparsity.overall},
        "layers": [
            {
                "name": layer.name,
                "shape": layer.shape,
                "weights": layer.weights,
                "zeros": layer.zeros,
                "sparsity": layer.sparsity,
            }
            for layer in sparsity.layers
        ],
    }


def _layer_table(layers: tuple[LayerSparsity, ...]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("layer", overflow="fold")
    table.add_column("shape")
    for heading in ("weights", "zeros", "sparsity"):
        table.add_column(heading, justify="right")
    for layer in layers:
        shape = "x".join(map(str, layer.shape))
        table.add_row(layer.name, shape, f"{layer.weights:,}", f"{layer.zeros:,}", f"{layer.sparsity:.1%}")
    return table
