"""Views: random views of every image that are extracted and cached beside its features, and how an image is framed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from richrep.backbones.backbone import Backbone
from richrep.data.augment import RandomView, view_generator
from richrep.data.decode import Decoded, as_image
from richrep.data.preprocessing import Geometry
from richrep.errors import RichrepError

_SMALL_PX = 64  # CIFAR's and the like: a crop of 8 % of the area would be 9 of 32 pixels wide


@dataclass(frozen=True)
class NumberedView:
    """One random view of every image: the same crop for every network, each of which resizes it to its own input."""

    view: RandomView
    seed: int
    number: int


@dataclass(frozen=True)
class Views:
    """Which views there are of every image.

    Attributes:
        count: V. 1 is the deterministic view alone; from 2 on, V random views for training, while val, test and all
            else keep the deterministic features.
        view: how the views are drawn.
        seed: with the number of the view and the row of the image in its split it decides a view (`view_generator`).
            View 3 of eight is view 3 of four: a larger count adds to what is cached.
    """

    count: int = 1
    view: RandomView = field(default_factory=RandomView)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RichrepError(f"The number of views must be at least 1, got {self.count}. 1 is no augmentation.")

    def numbered(self) -> tuple[NumberedView, ...]:
        """The V random views; none where V is 1."""
        return tuple(NumberedView(self.view, self.seed, i) for i in range(self.count)) if self.count > 1 else ()

    def facts(self) -> dict[str, Any]:
        """As a record states them, among the options of the protocol."""
        return {"views": self.count, "view": asdict(self.view), "view_seed": self.seed}


@dataclass(frozen=True)
class Framing:
    """How an image becomes pixels: the resize and centre crop of `geometry`, or a random view of that size instead."""

    geometry: Geometry
    view: NumberedView | None = None

    def keeps(self, height: int, width: int) -> bool:
        """Whether every image of this size comes out as it is."""
        return self.view is None and self.geometry.keeps(height, width)

    @property
    def needed_px(self) -> tuple[int, int] | None:
        """The least (height, width) the image may be decoded to; None asks for all of it.

        A view does: its crop may be any small part, and is drawn in pixels of the image.
        """
        return self.geometry.needed_px if self.view is None else None

    def apply(self, decoded: Decoded, row: int) -> np.ndarray:
        """RGB image of `row` of its split -> uint8 (H, W, 3)."""
        if self.view is None:
            return self.geometry.apply(decoded)
        generator = view_generator(seed=self.view.seed, draw=self.view.number, row=row)
        return self.view.view.apply(as_image(decoded), self.geometry, generator)


def default_view(backbones: Sequence[Backbone]) -> RandomView:
    """The view where none is asked for: torchvision's crops; of 80 % of the area or more, where every input is small.

    Small is up to 64 pixels, as CIFAR's 32.
    """
    return RandomView(scale=(0.8, 1.0)) if have_small_inputs(backbones) else RandomView()


def have_small_inputs(backbones: Sequence[Backbone]) -> bool:
    """Whether no network looks at more than 64 pixels a side: small crops of small images show little."""
    return max(max(backbone.preprocessing.geometry.size_px) for backbone in backbones) <= _SMALL_PX
