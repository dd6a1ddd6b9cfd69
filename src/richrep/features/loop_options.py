"""The options of the loop over images: checked, and by default what suits device and image size."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import torch

from richrep.data.preprocessing import torch_resizing
from richrep.errors import RichrepError
from richrep.features.batches import OnBadImage
from richrep.features.block_loop import LoopOptions
from richrep.features.engines.choose import check_engine
from richrep.features.forward import choose_device
from richrep.features.manifest import Precision, Request
from richrep.features.profile import ExtractionProfile

logger = logging.getLogger(__name__)


def make_options(
    requests: Sequence[Request],
    *,
    batch_size: int | None,
    device: str | torch.device | None,
    num_workers: int | None,
    on_bad_image: OnBadImage,
    engine: str,
    precision: Precision,
    fast_decode: bool,
    fast_resize: bool,
    profile: ExtractionProfile | None,
) -> LoopOptions:
    """The options of the loop, with defaults by device and image size. Raises RichrepError for a bad one, or none."""
    if not requests:
        raise RichrepError("Nothing to extract: give at least one backbone.")
    if on_bad_image not in ("stop", "skip"):
        raise RichrepError(f"on_bad_image must be 'stop' or 'skip', got {on_bad_image!r}.")
    if batch_size is not None and batch_size < 1:
        raise RichrepError(f"batch_size must be at least 1, got {batch_size}.")
    if num_workers is not None and num_workers < 0:
        raise RichrepError(f"num_workers must be at least 0, got {num_workers}.")
    chosen = choose_device(device)
    check_engine(engine, precision, chosen)
    size_px = max(max(request.backbone.preprocessing.geometry.size_px) for request in requests)
    options = LoopOptions(
        batch_size=batch_size or default_batch_size(chosen, size_px, len({request.view for request in requests})),
        device=chosen,
        num_workers=default_num_workers(chosen) if num_workers is None else num_workers,
        on_bad_image=on_bad_image,
        engine=engine,
        precision=precision,
        fast_decode=fast_decode,
        resizing=torch_resizing(chosen) if fast_resize else "pillow",
        profile=profile,
    )
    logger.debug("Extracting with %s.", options)
    return options


def default_batch_size(device: torch.device, size_px: int, num_views: int = 1) -> int:
    """Images per forward pass: many for an accelerator; on the CPU few enough that activations are not fresh memory.

    The pixels of all views of a batch are in memory at once: 300 MB for 2,048 of 224 px.

    MobileNetV2 at 224 px, one thread: 70, 53, 42 images/s in batches of 8, 16, 32; CIFAR ResNet-20 at 32 px: 1,210,
    1,210, 990 in batches of 32, 64, 128 (benchmarks/extract.py has the whole loop).
    """
    if device.type != "cpu":
        return min(256, max(1, 2048 // num_views))
    return 64 if size_px <= 64 else 16 if size_px <= 128 else 8


def default_num_workers(device: torch.device) -> int:
    """Decoding threads: one a core, at most 16. On two cores 0, 1 and 2 of them measured the same within 5 %."""
    return min(available_cores(), 16)


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
