"""A network as the graph that engines outside PyTorch read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from richrep.errors import EngineError
from richrep.features.engines.engine import Work
from richrep.features.forward import Network, has_hooks, made_ready


@contextlib.contextmanager
def exported(work: Work, engine: str) -> Iterator[torch.export.ExportedProgram]:
    """The network of `work` for batches of exactly `batch_size` images. Read it inside: its weights are the network's.

    Raises:
        EngineError: the network has hooks, or does what a graph cannot hold, now or when `engine` reads it.
    """
    backbone = work.backbone
    if has_hooks([backbone]):
        raise EngineError(f"{backbone.name!r} has forward hooks, which {engine} would lose. Use --engine torch.")
    size_px = backbone.preprocessing.geometry.size_px
    try:
        with made_ready([backbone], torch.device("cpu")), torch.no_grad():
            yield torch.export.export(Network(backbone, work.layers), (torch.zeros(work.batch_size, 3, *size_px),))
    except EngineError:
        raise
    except Exception as error:  # exporters raise whatever they stumble on
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EngineError(
            f"{backbone.name!r} ({backbone.address}) cannot be handed to {engine}: {reason} Use --engine torch."
        ) from error
