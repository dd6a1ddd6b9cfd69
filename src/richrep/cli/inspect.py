"""`richrep inspect`: what a checkpoint file is."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from richrep.cli import console, options


def inspect(
    backbone: Annotated[str, typer.Argument(metavar="BACKBONE", help="An address, as for probe -b.")],
    json: options.Json = None,
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
    from richrep.evaluation.facts import backbone_facts

    console.check_writable(json)
    loaded = load_backbone(backbone, seed=seed)
    facts = backbone_facts(loaded, loaded.name)
    if json is not None:
        content = facts.model_dump(mode="json") | {"num_classes": loaded.num_classes}
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
        ("preprocessing", facts.preprocessing),
        ("licence", facts.licence),
        ("sha256", facts.sha256),
        *(("load" if i == 0 else "", line) for i, line in enumerate(facts.load_report)),
    ]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    console.stdout().print(table)
