"""BlockSink: where finished blocks of features go, to memory here, to disk in entry.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from richrep.features.manifest import Manifest


class BlockSink(Protocol):
    """Takes blocks of rows, in any order, each whole; the block loop asks it what is already there."""

    @property
    def manifest(self) -> Manifest:
        """What the sink is for."""
        ...

    def done(self) -> np.ndarray:
        """(number of blocks,) bool: which are there."""
        ...

    def claim(self, block: int) -> bool:
        """Whether the block is now the caller's to compute; False while another worker holds it."""
        ...

    def release(self, block: int) -> None:
        """Gives a claimed block back, finished or not."""
        ...

    def write_block(self, block: int, features: torch.Tensor, skipped: Mapping[int, str], *, engine: str = "") -> None:
        """Keeps a block: features (rows of the block, D) float32 on the CPU, zero in the rows of skipped images.

        `skipped` maps the row in the split of every image that could not be decoded to the reason; `engine` is the name
        of what computed the block, "" when it is not known. Ends the claim.
        """
        ...

    def features(self) -> torch.Tensor:
        """(N, D) in the type the manifest says, once every block is there."""
        ...

    def skipped(self) -> dict[int, str]:
        """Row and reason of every skipped image in the blocks that are there."""
        ...

    def engines(self) -> tuple[str, ...]:
        """Names of what computed the blocks that are there, as far as they are known, sorted."""
        ...


@dataclass(frozen=True)
class FinishedSink:
    """A BlockSink that has everything, from whatever source; asks nothing of the disk any more."""

    manifest: Manifest
    values: torch.Tensor
    skipped_images: dict[int, str]
    engine_names: tuple[str, ...] = ()

    def done(self) -> np.ndarray:
        return np.ones(self.manifest.num_blocks, dtype=bool)

    def claim(self, block: int) -> bool:
        return False

    def release(self, block: int) -> None:
        pass

    def write_block(self, block: int, features: torch.Tensor, skipped: Mapping[int, str], *, engine: str = "") -> None:
        raise AssertionError(f"Block {block} of the {self.manifest.title} is there already.")

    def features(self) -> torch.Tensor:
        return self.values

    def skipped(self) -> dict[int, str]:
        return self.skipped_images

    def engines(self) -> tuple[str, ...]:
        return self.engine_names


class MemorySink:
    """A BlockSink that lives and dies with the process."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._features = torch.empty(manifest.rows, manifest.dim)
        self._done = np.zeros(manifest.num_blocks, dtype=bool)
        self._skipped: dict[int, str] = {}
        self._engines: set[str] = set()

    def done(self) -> np.ndarray:
        return self._done.copy()

    def claim(self, block: int) -> bool:
        return True

    def release(self, block: int) -> None:
        pass

    def write_block(self, block: int, features: torch.Tensor, skipped: Mapping[int, str], *, engine: str = "") -> None:
        rows = self.manifest.block_range(block)
        self._features[rows.start : rows.stop] = features
        self._skipped.update(skipped)
        self._engines |= {engine} - {""}
        self._done[block] = True

    def features(self) -> torch.Tensor:
        return self._features

    def skipped(self) -> dict[int, str]:
        return dict(self._skipped)

    def engines(self) -> tuple[str, ...]:
        return tuple(sorted(self._engines))
