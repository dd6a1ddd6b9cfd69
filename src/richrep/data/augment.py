"""Random views of an image for training: crop, flip; each drawn from (seed, draw, row) alone, whatever ran before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from richrep.data.preprocessing import Geometry
from richrep.errors import RichrepError

_TRIES = 10  # as torchvision's RandomResizedCrop: then the largest central crop of a ratio in range


@dataclass(frozen=True)
class RandomView:
    """A random crop, resized to the network's input size, and perhaps mirrored; in place of resize and centre crop.

    Attributes:
        scale: area of the crop as a fraction of the image, drawn evenly from this range.
        ratio: width/height of the crop, drawn log-evenly from this range.
        flip: probability of mirroring left and right, in [0, 1].

    Source: torchvision, RandomResizedCrop and RandomHorizontalFlip. Differs: the draws come from a generator of their
    own, so a view depends on neither the order of the images nor the number of threads.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise RichrepError(f"scale must be (low, high) with 0 < low <= high <= 1, got {self.scale}.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise RichrepError(f"ratio must be (low, high) with 0 < low <= high, got {self.ratio}.")
        if not 0 <= self.flip <= 1:
            raise RichrepError(f"flip must be a probability in [0, 1], got {self.flip}.")

    def apply(self, image: Image.Image, geometry: Geometry, generator: np.random.Generator) -> np.ndarray:
        """RGB image -> uint8 (H, W, 3), H and W as `geometry` says, resized by its interpolation."""
        left, top, width, height = self._crop(image.width, image.height, generator)
        mode = InterpolationMode(geometry.interpolation)
        view = F.resized_crop(image, top, left, height, width, list(geometry.size_px), interpolation=mode)
        if generator.random() < self.flip:
            view = F.horizontal_flip(view)
        return np.asarray(view, dtype=np.uint8)

    def _crop(self, width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
        """(left, top, width, height) of a random crop."""
        for _ in range(_TRIES):
            area = width * height * generator.uniform(*self.scale)
            ratio = math.exp(generator.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(generator.integers(0, width - w + 1)), int(generator.integers(0, height - h + 1)), w, h
        w, h = width, height
        if width / height < self.ratio[0]:
            h = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            w = round(height * self.ratio[1])
        return (width - w) // 2, (height - h) // 2, w, h

    def describe(self) -> str:
        """One line for people."""
        low, high = self.scale
        return f"random crop of {low:g}-{high:g} of the area, flip {self.flip:g}"


def view_generator(*, seed: int, draw: int, row: int) -> np.random.Generator:
    """The generator of one view: of image `row` of its split, in epoch (or for cached view) `draw`."""
    return np.random.default_rng([seed, draw, row])
