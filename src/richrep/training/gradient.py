"""Loss and gradient of one batch, over all processes, in as many parts as memory needs."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from richrep.errors import RichrepError
from richrep.training.batches import Batch

logger = logging.getLogger(__name__)

_ONE_VALUE = "Expected more than 1 value per channel"  # torch, batch_norm in training mode


@dataclass
class BatchGradient:
    """Computes the gradient of a batch.

    Attributes:
        accelerator: accelerate's. network: the objective as it wrapped it.
        seed: with step and process, of every random draw in the network (dropout, stochastic depth).
        parts: in which a batch goes through the network; doubled when it runs out of memory.
    """

    accelerator: Any
    network: nn.Module
    seed: int
    parts: int

    def compute(self, batch: Batch, step: int) -> torch.Tensor:
        """Mean loss of a batch over all processes, detached; its gradient is left in the parameters.

        Raises:
            RichrepError: a single image does not fit into memory, or is too little for batch normalisation.
        """
        while True:
            self.network.zero_grad(set_to_none=True)
            self._seed(step)
            try:
                return self._add_up(batch)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
            except ValueError as error:
                if _ONE_VALUE not in str(error):
                    raise
                raise RichrepError(
                    f"Batch normalisation cannot train on a single image, and {len(batch[0])} images in {self.parts} "
                    "parts leave one with 1 image. Use a larger --batch-size, a smaller --accumulate, or "
                    "--norm-layers eval."
                ) from error
            self._halve(len(batch[0]))

    def _add_up(self, batch: Batch) -> torch.Tensor:
        """The loss, part by part."""
        size, count = len(batch[0]), self.accelerator.num_processes
        share = size if count == 1 else self._sum(size) / count  # what this process would have of equal shares
        part_size = math.ceil(size / min(self.parts, size))
        total = torch.zeros((), device=self.accelerator.device)
        for start in range(0, size, part_size):
            part = tuple(values[start : start + part_size] for values in batch)
            is_last = start + part_size >= size
            with nullcontext() if is_last else self.accelerator.no_sync(self.network):
                loss = self.network(*part) * (len(part[0]) / share)
                self.accelerator.backward(loss)
            total += loss.detach()
        mean: torch.Tensor = self.accelerator.reduce(total, reduction="mean")
        return mean

    def _sum(self, number: int) -> int:
        """Over all processes."""
        return int(self.accelerator.reduce(torch.tensor(number, device=self.accelerator.device), reduction="sum"))

    def _seed(self, step: int) -> None:
        entropy = [self.seed, step, self.accelerator.process_index]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def _halve(self, size: int) -> None:
        if self.accelerator.num_processes > 1:  # the others wait for this one's gradient, and cannot begin again
            raise RichrepError(
                f"Out of memory with {size} images a process in {self.parts} parts. Give --accumulate "
                f"{2 * self.parts} or a smaller --batch-size."
            )
        if self.parts >= size:
            raise RichrepError(
                "Training does not fit into memory, not even one image at a time. Use a smaller network or image size, "
                "--precision bf16, or another device."
            )
        self.parts *= 2
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning(
            "Out of memory: a batch of %d images now goes through the network in %d parts, whose gradients are added. "
            "Batch normalisation in training mode sees one part at a time.",
            size,
            self.parts,
        )


def _is_out_of_memory(error: RuntimeError) -> bool:
    """torch's own error of accelerators, or the words of its allocator on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
