"""FeatureSet: features (N, D), labels (N,), and what produced them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from richrep.errors import FeatureError
from richrep.features.memory import MemoryBudget
from richrep.features.rows import Features, Rows, as_rows
from richrep.features.views import Views


@dataclass(frozen=True)
class Block:
    """The columns [start, stop) of a feature matrix that one backbone produced."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class SkippedImage:
    """An image that could not be decoded and was left out: its row in the split, its name, and the reason."""

    row: int
    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of a split under one backbone, or under several side by side.

    Attributes:
        features: (N, D), float32, or float16 from a cache that stores it; on the CPU, maybe in a memory-mapped file,
            but for `on`.
            Rows of several members where `concat_features` was told not to join them.
        labels: (N,) int64 in [0, K).
        num_classes: K.
        blocks: which columns came from which backbone.
        key: SHA-256 (hex) of everything the values depend on: weights, architecture, layer, preprocessing, precision
            class, images, labels and their order.
        skipped: images of the split that have no row here.
        images: SHA-256 (hex) of the split (images, labels, order) whose rows these are; "" when it is not known.
        engine: what computed them, e.g. "openvino (cached)+torch" where blocks of one engine were in the cache and
            another computed the rest in this run; "" when it is not known.
        views: V matrices (N, D) of the same rows and columns, one a random view of every image; () where there are
            none. They are for training; `features` are the images as they are.
        drawn: how the views were drawn; None when there are none, or it is not known.
    """

    features: Features
    labels: torch.Tensor
    num_classes: int
    blocks: tuple[Block, ...]
    key: str
    skipped: tuple[SkippedImage, ...] = ()
    images: str = ""
    engine: str = ""
    views: tuple[Features, ...] = ()
    drawn: Views | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) != len(self.labels):
            raise ValueError(
                f"features must have shape (N, D) and labels (N,), got {tuple(self.features.shape)} and "
                f"{tuple(self.labels.shape)}."
            )
        for view in self.views:
            if tuple(view.shape) != tuple(self.features.shape):
                raise ValueError(
                    f"views must have the shape of features, {tuple(self.features.shape)}, got {tuple(view.shape)}."
                )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def feature_dim(self) -> int:
        """D."""
        return self.features.shape[1]

    def take(self, rows: np.ndarray | torch.Tensor, *, max_bytes: int | None = None) -> FeatureSet:
        """The given rows (positions, or a mask of N booleans) in the given order. The key says which.

        Args:
            max_bytes: up to this size, all views counted, they are copied into one tensor each; larger ones stay where
                they are, as `Rows`. None means always copied.
        """
        index = torch.as_tensor(rows)
        if index.dtype == torch.bool:
            if index.shape != (len(self),):
                raise ValueError(f"A mask of rows must have shape ({len(self)},), got {tuple(index.shape)}.")
            index = index.nonzero().squeeze(1)
        index = index.to(torch.int64)

        def of_rows(digest: str) -> str:
            return hashlib.sha256(f"{digest} rows ".encode() + index.numpy().tobytes()).hexdigest()

        return replace(
            self,
            features=as_rows(self.features, index).joined_up_to(self._share(max_bytes)),
            views=tuple(as_rows(view, index).joined_up_to(self._share(max_bytes)) for view in self.views),
            labels=self.labels[index],
            key=of_rows(self.key),
            images=of_rows(self.images) if self.images else "",
        )

    def on(self, memory: MemoryBudget, *, by_block: bool = False) -> FeatureSet:
        """The same for a fit on `memory.device`: copied there where there is room, else read there by the block.

        The set itself where that is the device already.

        Args:
            by_block: never copied, for what is read only once.
        """
        if memory.device in (None, self.labels.device):
            return self
        room = self._share(0 if by_block else memory.resident)
        features, *views = (as_rows(matrix).on(memory.device, room) for matrix in (self.features, *self.views))
        return replace(self, features=features, views=tuple(views), labels=self.labels.to(memory.device))

    def _share(self, max_bytes: int | None) -> int | None:
        """What each of the 1 + V matrices may take."""
        return None if max_bytes is None else max_bytes // (1 + len(self.views))


def concat_features(members: Sequence[FeatureSet], *, max_bytes: int | None = None) -> FeatureSet:
    """The members' features side by side, (N, D1 + D2 + …): CATn without a forward pass.

    Args:
        max_bytes: up to this size, all views counted, they are copied into one tensor each; larger ones stay where they
            are, as `Rows`, which heads read by the block. None means always one tensor.

    Raises:
        FeatureError: the members do not hold the same images (other split, labels, count or skipped images), or not the
            same views of them.
    """
    if not members:
        raise ValueError("concat_features needs at least one FeatureSet, got none.")
    first = members[0]
    for member in members[1:]:
        if not _same_images(member, first):
            raise FeatureError(
                f"Features of {member.blocks[0].name!r} ({len(member)} rows) and {first.blocks[0].name!r} "
                f"({len(first)} rows) are not of the same images. Extract both from the same split."
            )
        if len(member.views) != len(first.views) or member.drawn != first.drawn:
            raise FeatureError(
                f"Features of {member.blocks[0].name!r} ({_views_of(member)}) and {first.blocks[0].name!r} "
                f"({_views_of(first)}) are not of the same views. Extract both with the same views and seed."
            )
    if len(members) == 1:
        return first
    blocks, start = [], 0
    for member in members:
        blocks += [Block(b.name, start + b.start, start + b.stop) for b in member.blocks]
        start += member.feature_dim
    key = hashlib.sha256(("concat " + " ".join(m.key for m in members)).encode()).hexdigest()
    share = first._share(max_bytes)
    joined, *views = (
        Rows(
            [tensor for one in side_by_side for tensor in _tensors(one)], device=as_rows(side_by_side[0]).device
        ).joined_up_to(share)
        for side_by_side in zip(*((member.features, *member.views) for member in members), strict=True)
    )
    engine = "+".join(sorted({name for member in members for name in member.engine.split("+") if name}))
    return replace(
        first, features=joined, blocks=tuple(blocks), key=key, engine=engine, views=tuple(views), drawn=first.drawn
    )


def _views_of(features: FeatureSet) -> str:
    """For messages, e.g. '8 views, seed 0: random crop of …'."""
    drawn = features.drawn
    return f"{len(features.views)} views" + (f", seed {drawn.seed}: {drawn.view.describe()}" if drawn else "")


def _tensors(features: Features) -> Sequence[torch.Tensor]:
    """The tensors whose columns features are, all rows of each."""
    if isinstance(features, torch.Tensor):
        return [features]
    return features.members if features.index is None else [features.joined()]


def _same_images(one: FeatureSet, other: FeatureSet) -> bool:
    """Whether row i is the same image in both; by labels and skipped rows only, where a split is not known."""
    return (
        len(one) == len(other)
        and one.num_classes == other.num_classes
        and (one.images == other.images or "" in (one.images, other.images))
        and [skipped.row for skipped in one.skipped] == [skipped.row for skipped in other.skipped]
        and torch.equal(one.labels, other.labels)
    )
