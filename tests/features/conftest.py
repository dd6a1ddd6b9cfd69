"""Tiny splits and networks that extract in milliseconds: `tiny` in the tests, imported by extraction_server.py."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.data.split import Split
from richrep.errors import BadImageError

collect_ignore = ["extraction_server.py"]  # a program of its own, not a module with doctests

SQUARE_16 = Preprocessing(Geometry((16, 16), None), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
CROP_12 = Preprocessing(Geometry((12, 12), 14), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class CountingStore:
    """Random pixels in memory; counts what is decoded.

    `bad` positions cannot be decoded; those in `broken` raise RuntimeError, as a disk that fails would; `delay_s` makes
    decoding slow; `begin` is called before the first image is decoded.
    """

    def __init__(self, size: int, *, seed: int = 0, delay_s: float = 0.0) -> None:
        generator = np.random.default_rng(seed)
        self.pixels = generator.integers(0, 256, (size, 20, 18, 3), dtype=np.uint8)
        self.decoded: Counter[int] = Counter()
        self.bad: set[int] = set()
        self.broken: set[int] = set()
        self.begin: Callable[[], object] = lambda: None
        self._delay_s = delay_s
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.pixels)

    def load(self, position: int) -> Image.Image:
        with self._lock:
            begin = (lambda: None) if self.decoded else self.begin
            self.decoded[position] += 1
        begin()
        if position in self.broken:
            raise RuntimeError(f"the disk fails at {position}")
        if position in self.bad:
            raise BadImageError(f"{self.name(position)} (position {position}) cannot be decoded.")
        time.sleep(self._delay_s)
        return Image.fromarray(self.pixels[position])

    def name(self, position: int) -> str:
        return f"memory/{position}.png"

    def digest(self, position: int) -> bytes:
        return hashlib.sha256(self.pixels[position].tobytes()).digest()


def make_split(size: int = 10, **store_options: float) -> Split:
    """`size` random images of three classes."""
    return Split(
        dataset="noise",
        part="train",
        images=CountingStore(size, **store_options),
        positions=np.arange(size),
        labels=np.arange(size) % 3,
        class_names=("a", "b", "c"),
    )


class TinyTrunk(nn.Module):
    """Convolution, batch norm, ReLU, spatial mean: (B, 3, H, W) -> (B, dim). Counts its calls and keeps what it saw."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, dim, 3, stride=2)
        self.norm = nn.BatchNorm2d(dim)
        self.calls = 0
        self.seen: list[torch.Tensor] = []
        self._lock = threading.Lock()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with self._lock:
            self.calls += 1
            self.seen.append(images)
        return self.norm(self.conv(images)).relu().mean(dim=(2, 3))


def make_backbone(
    name: str = "tiny", *, seed: int = 0, dim: int = 5, preprocessing: Preprocessing = SQUARE_16, num_classes: int = 0
) -> Backbone:
    """A backbone of random weights whose batch norm has statistics that matter."""
    generator = torch.Generator().manual_seed(seed)
    trunk = TinyTrunk(dim)
    for tensor in trunk.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    head = nn.Linear(dim, num_classes) if num_classes else None
    if head is not None:
        for parameter in head.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return Backbone(
        trunk=trunk.eval(),
        preprocessing=preprocessing,
        address=f"memory/{name}",
        name=name,
        family="tiny",
        architecture="tiny",
        feature_dim=dim,
        head=head,
        num_classes=num_classes or None,
    )


@pytest.fixture
def tiny() -> ModuleType:
    """The builders of this file."""
    return sys.modules[__name__]
