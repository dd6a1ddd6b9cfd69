"""Split: N labelled images in a fixed order, with a fingerprint of all three; one split, never "the data set"."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from PIL import Image

from richrep.data.decode import Decoded, as_image
from richrep.errors import BadImageError, DatasetError

PARTS = ("train", "val", "trainval", "test")

_UNREADABLE = hashlib.sha256(b"unreadable").digest()
_DIGEST_BLOCK = 64  # images per thread task: 32 B x 64 = 2 kB of result, and few enough tasks for a million images


class ImageStore(Protocol):
    """Where encoded images lie: files, rows of a table, an array. Positions count from 0.

    `load` and `digest` are called from several threads at once.
    """

    def __len__(self) -> int:
        """Number of images."""
        ...

    def load(self, position: int) -> Decoded:
        """The image as RGB, as it is there. Raises BadImageError, naming image and position, when it is damaged."""
        ...

    def name(self, position: int) -> str:
        """What a person needs to find the image: a file path, or a file and a row."""
        ...

    def digest(self, position: int) -> bytes:
        """SHA-256 (32 bytes) of the image as stored."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """N labelled images in a fixed order.

    Attributes:
        dataset: short name of the data set, e.g. "cifar10"; shown to people, decides nothing.
        part: "train", "val", "trainval" or "test".
        images: the store the images are read from, when asked for.
        positions: (N,) int64, the position in `images` of each image of this split.
        labels: (N,) int64 in [0, K).
        class_names: K names; `labels` index them.
        note: how the split came about when that is not obvious ("20 % per class, seed 0"), else "".
        groups: (N,) text, the domain, hospital, … of every image; None where the data set has no such thing.
        class_mask: (K,) bool, the classes that can occur here, to which scores are restricted; None means all.
    """

    dataset: str
    part: str
    images: ImageStore
    positions: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    note: str = field(default="")
    groups: np.ndarray | None = None
    class_mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {self.part!r}.")
        if self.positions.shape != self.labels.shape or self.labels.ndim != 1:
            raise ValueError(
                f"positions and labels must both have shape (N,), got {self.positions.shape} and {self.labels.shape}."
            )
        if self.groups is not None and self.groups.shape != self.labels.shape:
            raise ValueError(f"groups must have shape {self.labels.shape}, as labels, got {self.groups.shape}.")
        if self.class_mask is not None and self.class_mask.shape != (self.num_classes,):
            raise ValueError(f"class_mask must have shape ({self.num_classes},), got {self.class_mask.shape}.")
        if len(self) and not (self.positions.min() >= 0 and self.positions.max() < len(self.images)):
            bad = self.positions[(self.positions < 0) | (self.positions >= len(self.images))][0]
            raise ValueError(f"position {bad} is outside [0, {len(self.images)}), the images of the store.")
        if len(self) and not (self.labels.min() >= 0 and self.labels.max() < self.num_classes):
            bad = self.labels[(self.labels < 0) | (self.labels >= self.num_classes)][0]
            raise DatasetError(
                f"{self.dataset}/{self.part}: label {bad} is outside [0, {self.num_classes}), the range of its "
                f"{self.num_classes} class names. Check the label column against the class names."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """K, the number of class names; a class may have no image in this split."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over every image as stored, the labels, the class names and their order.

        Says what the images are, not where they lie: names, part and note do not count. Reads every image once (not
        decoded), in threads; kept for the life of the object.
        """
        head = json.dumps({"images": len(self), "class_names": self.class_names})
        digest = hashlib.sha256(f"richrep split 1 {head}\n".encode())
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").tobytes())
        for block in self._image_digests():
            digest.update(block)
        return digest.hexdigest()

    def _image_digests(self) -> Iterator[bytes]:
        """The digests of all images in order, a block at a time; the order of the threads does not show."""

        def digests_of(start: int) -> bytes:
            block = self.positions[start : start + _DIGEST_BLOCK]
            return b"".join(self._digest_of(int(position)) for position in block)

        with ThreadPoolExecutor() as pool:  # min(32, cores + 4) threads; a failing block cancels the ones not begun
            yield from pool.map(digests_of, range(0, len(self), _DIGEST_BLOCK))

    def _digest_of(self, position: int) -> bytes:
        try:
            return self.images.digest(position)
        except BadImageError:  # what cannot be read is said, or skipped, when the image is wanted
            return _UNREADABLE

    def load_image(self, row: int) -> Image.Image:
        """Image `row` of the split as RGB. Raises BadImageError when it cannot be decoded."""
        return as_image(self.load_decoded(row))

    def load_decoded(self, row: int) -> Decoded:
        """The same as its decoder gave it: for small images the way over Pillow costs more than decoding."""
        return self.images.load(int(self.positions[row]))

    def image_name(self, row: int) -> str:
        """What a person needs to find image `row`."""
        return self.images.name(int(self.positions[row]))

    def take(self, rows: np.ndarray | Sequence[int], *, part: str | None = None) -> Split:
        """The split of the given rows (or of those a mask (N,) marks True), in the given order."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64)
        return replace(
            self,
            positions=self.positions[rows],
            labels=self.labels[rows],
            groups=None if self.groups is None else self.groups[rows],
            part=part or self.part,
        )

    def first(self, size: int | None) -> Split:
        """The first `size` images in the split's order; None means all.

        Raises:
            DatasetError: `size` is not in [1, N].
        """
        if size is None:
            return self
        if not 1 <= size <= len(self):
            raise DatasetError(
                f"--{'test' if self.part == 'test' else 'train'}-size {size} does not fit {self.dataset}/{self.part}, "
                f"which has {len(self)} images. Give a number from 1 to {len(self)}, or leave it out for all."
            )
        return self.take(np.arange(size))

    def select_classes(self, classes: Sequence[int]) -> Split:
        """Only the images of `classes`, relabelled 0, 1, … in the given order; the order of images stays.

        Raises:
            ValueError: a class is given twice, or is outside [0, K).
        """
        if len(set(classes)) < len(classes) or any(not 0 <= c < self.num_classes for c in classes):
            raise ValueError(f"classes must be distinct and in [0, {self.num_classes}), got {list(classes)}.")
        new_label = np.full(self.num_classes, -1)
        new_label[list(classes)] = np.arange(len(classes))
        rows = np.flatnonzero(new_label[self.labels] >= 0)
        return replace(
            self,
            positions=self.positions[rows],
            labels=new_label[self.labels[rows]],
            class_names=tuple(self.class_names[c] for c in classes),
            groups=None if self.groups is None else self.groups[rows],
            class_mask=None if self.class_mask is None else self.class_mask[list(classes)],
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """The parts of one data set as they are stored: train, test and, where the source has one, its own val.

    Attributes:
        address: what the user typed; name: its short form.
    """

    address: str
    name: str
    train: Split
    test: Split
    val: Split | None = None


def rows_of_each_class(labels: np.ndarray) -> list[np.ndarray]:
    """The rows of every label that occurs in `labels` (N,), ascending; the list is in the order of the labels.

    >>> [rows.tolist() for rows in rows_of_each_class(np.array([7, 3, 7]))]
    [[1], [0, 2]]
    """
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    return np.split(order, starts) if len(labels) else []


def interleave_by_class(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Rows in which classes take turns: one of every class, then the next of every class, …; (N,) int64.

    Within a class the order is drawn from `seed`, so that a prefix of the result is representative: where classes
    have equal counts, every prefix of k·K rows holds exactly k of each.

    >>> labels = np.array([0, 0, 0, 1, 1])
    >>> labels[interleave_by_class(labels, seed=0)].tolist()
    [0, 1, 0, 1, 0]
    """
    generator = np.random.default_rng(seed)
    turn = np.empty(len(labels), dtype=np.int64)
    for rows in rows_of_each_class(labels):
        turn[generator.permutation(rows)] = np.arange(len(rows))
    return np.lexsort((labels, turn))


def carve_val(labels: np.ndarray, *, fraction: float = 0.2, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (train, val) of a split with the given labels (N,): `fraction` of every class goes to val.

    Per class, n·fraction images are drawn (rounded half up, at least 1, at most n - 1); a class of one image stays
    in train. The same labels and seed give the same rows; both results are sorted.

    Source: t-ReX's transfer suite (naver/trex) draws floor(n·fraction) per class. Differs: rounded, and the fraction
    never changes from one class to the next (theirs is overwritten by the first small class).

    >>> train, val = carve_val(np.array([0, 0, 0, 0, 0, 1]), seed=0)
    >>> len(train), len(val)
    (5, 1)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}.")
    generator = np.random.default_rng(seed)
    val = []
    for rows in rows_of_each_class(labels):
        rows = generator.permutation(rows)
        size = min(max(int(len(rows) * fraction + 0.5), 1), len(rows) - 1)
        val.append(rows[:size])
    val_rows = np.sort(np.concatenate(val)) if val else np.empty(0, dtype=np.int64)
    return np.setdiff1d(np.arange(len(labels)), val_rows), val_rows
