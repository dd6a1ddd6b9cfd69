"""`richrep list`: the names that addresses and options take."""

from __future__ import annotations

from typing import Annotated

import typer

from richrep.cli import console


def list_names(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="backbones, datasets, protocols, heads, scores or engines.")
    ],
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Only lines that hold this text.")] = "",
) -> None:
    """The names that addresses and options take, one a line.

    Example: richrep list backbones resnet50
    """
    from richrep.errors import RichrepError, unknown_name_message

    if what not in LISTS:
        raise RichrepError(unknown_name_message("list", what, LISTS))
    lines = [line for line in LISTS[what]() if all(word in " ".join(line).lower() for word in pattern.lower().split())]
    if not lines:
        raise RichrepError(f"No {what} match {pattern!r}. List all with: richrep list {what}")
    width = max(len(name) for name, _ in lines)
    screen = console.stdout()
    for name, description in lines:
        screen.print(f"{name:<{width}}  {description}".rstrip(), soft_wrap=True)


def _backbones() -> list[tuple[str, str]]:
    from richrep.backbones.addresses import list_backbones

    lines = [(line.address, f"{line.family}: {line.description}") for line in list_backbones()]
    return [
        *lines,
        ("random/NAME", "a timm architecture with weights drawn from --seed"),
        ("PATH", "a checkpoint file"),
    ]


def _datasets() -> list[tuple[str, str]]:
    from richrep.data.datasets import list_datasets

    return list(list_datasets().items())


def _protocols() -> list[tuple[str, str]]:
    """Those of every command, with the kind of record that they give first."""
    from richrep.evaluation.protocols import LEGACY_TEST_SELECTION, PROTOCOLS
    from richrep.evaluation.transfer import DISTILL_PROTOCOLS, FINETUNE_PROTOCOLS, STAGE2_PROTOCOLS

    twin = "probe: the same, but chosen on TEST, as papers did: optimistic"
    return [
        *((name, f"probe: {_first_line(protocol)}") for name, protocol in PROTOCOLS.items()),
        *((name, twin) for name in LEGACY_TEST_SELECTION),
        *((name, f"finetune: {protocol.summary}") for name, protocol in FINETUNE_PROTOCOLS.items()),
        *((name, f"two-stage: {_first_line(protocol)}") for name, protocol in STAGE2_PROTOCOLS.items()),
        *((name, f"distill: {protocol.summary}") for name, protocol in DISTILL_PROTOCOLS.items()),
    ]


def _heads() -> list[tuple[str, str]]:
    from richrep.heads import HEADS

    return [(name, _first_line(head)) for name, head in HEADS.items()]


def _scores() -> list[tuple[str, str]]:
    from richrep.evaluation.transferability import SCORES

    return [(name, _first_line(score)) for name, score in SCORES.items()]


def _engines() -> list[tuple[str, str]]:
    """What runs here, and for the others why not."""
    import torch

    from richrep.features.engines import ENGINES
    from richrep.features.engines.choose import AUTO_ORDER

    lines = [("auto", f"the fastest of {', '.join(AUTO_ORDER)} on the first images that is close enough to float32")]
    for name, engine in ENGINES.items():
        problem = engine.problem(torch.device("cpu"), "fp32")
        lines.append((name, f"{engine.description} [not here: {problem}]" if problem else engine.description))
    return lines


def _first_line(documented: object) -> str:
    return (documented.__doc__ or "").strip().splitlines()[0]


LISTS = {
    "backbones": _backbones,
    "datasets": _datasets,
    "protocols": _protocols,
    "heads": _heads,
    "scores": _scores,
    "engines": _engines,
}
