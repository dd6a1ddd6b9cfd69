"""Engine: what runs a network; a network and the shape of its batches in, a function of one batch out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch.nn import functional as F

from richrep.backbones.backbone import Backbone
from richrep.errors import EngineError, FeatureError
from richrep.features.manifest import Layer, Precision

# Images float32 (B, 3, H, W), channels last in memory, B at most the planned batch size -> for each layer (B, D)
# float32 on the device of the images. May be called by several threads at once.
Forward: TypeAlias = Callable[[torch.Tensor], dict[Layer, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Work:
    """A network that is to run, and how.

    Attributes:
        layers: what is wanted of it, each once; all come from one pass.
        precision: of the products; sums, and what comes back, are float32.
        batch_size: images of a full batch; the last batch of a block may be shorter.
        num_batches: threads that call at once, each with a batch of its own.
        threads_per_batch: cores that one batch may use.
    """

    backbone: Backbone
    layers: tuple[Layer, ...]
    precision: Precision
    batch_size: int
    device: torch.device
    num_batches: int = 1
    threads_per_batch: int = 1


class Engine(Protocol):
    """One way to run networks. A member of ENGINES, and free of state."""

    name: str
    description: str

    def problem(self, device: torch.device, precision: Precision) -> str:
        """Why it cannot run networks so on this machine, as a sentence that says what to do; "" when it can."""
        ...

    def prepare(self, work: Work) -> AbstractContextManager[Forward]:
        """The network made ready; on leaving, its modules are as they were.

        Raises EngineError when this engine cannot run this network.
        """
        ...


@contextlib.contextmanager
def blamed_on(backbone: Backbone) -> Iterator[None]:
    """Names the backbone in a FeatureError or EngineError from inside; the first name stays."""
    try:
        yield
    except (FeatureError, EngineError) as error:
        error.backbone = error.backbone or backbone.name
        raise


def import_problem(engine: str, package: str, load: Callable[[], object]) -> str:
    """Why `load`, which imports the package, fails, as a sentence that says what to do; "" when it does not.

    A package that is not there is installed, one that is there and broken (a library it needs is missing, or of another
    version) is repaired: what it raises, and that may be anything, is said.
    """
    try:
        load()
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            return f'The {engine} engine needs the package {package}. Install it: pip install "richrep[{engine}]".'
        said = next(iter(str(error).strip().splitlines()), "no reason given").rstrip(".")
        return (
            f"The {engine} engine cannot use the package {package}, which is there but broken ({type(error).__name__}: "
            f"{said}). Repair it, pip install --force-reinstall {package}, or use --engine torch."
        )
    return ""


def padded(images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Images (B, 3, H, W) with rows of zeros up to `batch_size`: a compiled network then sees one shape only."""
    missing = batch_size - len(images)
    return F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else images
