"""One copy of a registered data set on disk: what is missing, its parts, and whether they have the stated sizes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from richrep.data.registry.entry import ROOT, DatasetEntry
from richrep.data.sources.layout import absence, interleaved, listing
from richrep.data.split import Dataset, Split
from richrep.data.stores import FileStore
from richrep.errors import DatasetError, RichrepError
from richrep.paths import default_data_root


class Read(Protocol):
    """The contract of a reader: a function of one argument that `DatasetEntry.reader` names."""

    def __call__(self, copy: RegisteredCopy) -> dict[str, Split]:
        """The parts of `copy.split`, each made with `copy.make_part` where its images are files."""
        ...


@dataclass(frozen=True)
class RegisteredCopy:
    """What a reader is given.

    Attributes:
        entry: which data set; split: divided how, one of `entry.splits`.
        data_root: the folder that `entry.needs` starts from.
    """

    entry: DatasetEntry
    split: str
    data_root: Path

    @property
    def name(self) -> str:
        """The name in records: with the split wherever there is more than one, 'sun397:split1'."""
        return self.entry.name if len(self.entry.splits) == 1 else f"{self.entry.name}:{self.split}"

    @property
    def needs(self) -> list[Path]:
        """Files and folders without which nothing can be read."""
        return [self.data_root / need for need in (*self.entry.needs, *self.entry.splits[self.split].needs)]

    def missing(self) -> list[Path]:
        """Those of `needs` that are not there."""
        return [path for path in self.needs if not os.path.exists(path)]

    def read(self) -> dict[str, Split]:
        """The parts, whatever their sizes.

        Raises:
            DatasetError: something is missing or cannot be read; the message says what to put where.
        """
        missing = self.missing()
        if missing and len(missing) == len(self.needs):
            raise self.error(f"is not there: {missing[0]} {absence(missing[0])}{self._elsewhere()}")
        if missing:
            raise self.error(f"in {self.data_root} is not complete: {listing(map(str, missing))} {absence(missing[0])}")
        module, function = self.entry.reader.split(".")
        read = cast(Read, getattr(import_module(f"richrep.data.sources.{module}"), function))
        try:
            return read(self)
        except (RichrepError, MemoryError):
            raise
        except Exception as error:  # parsers of .mat, .json and .csv raise whatever they stumble on
            reason = " ".join(str(error).split()) or type(error).__name__
            raise self.error(f"in {self.data_root} cannot be read ({type(error).__name__}: {reason})") from error

    def _elsewhere(self) -> str:
        """A hint where the data set lies one folder too deep, or the data root is one."""
        try:
            folders = [path for path in self.data_root.iterdir() if not path.name.startswith(".")]  # as of a download
            found = [p for p in (self.data_root.parent, *folders) if not replace(self, data_root=p).missing()]
        except (OSError, ValueError):
            found = []
        return f", but it is in {found[0]}: give --data-root {found[0]}" if found else ""

    def load(self) -> dict[str, Split]:
        """The parts, of the stated sizes. Raises DatasetError as `read`, and where a size differs."""
        parts = self.read()
        problems = self.count_problems(parts)
        if problems:
            raise self.error(f"in {self.data_root} is not complete, or not this data set: {'; '.join(problems)}")
        return parts

    def dataset(self, address: str) -> Dataset:
        """Train, test and the stored val, as `load`. Raises DatasetError too when no classifier can be trained."""
        info = self.entry.splits[self.split]
        if "train" not in info.sizes:
            raise DatasetError(
                f"{self.name} has no train part, so it cannot be probed alone: its images test classifiers of the "
                f"{self.entry.num_classes:,} classes of {self.entry.classes_of}. Train on {self.entry.classes_of}, and "
                f"score the images of richrep.load_split({address!r}, 'test'). Their features: richrep extract -d "
                f"{address} --part test."
            )
        if info.few_shot:
            raise DatasetError(
                f"{self.name} cannot be probed: its parts hold different classes, for few-shot tasks. Take the images "
                f"of one part with richrep.load_split({address!r}, 'test')."
            )
        parts = self.load()
        return Dataset(address=address, name=self.name, train=parts["train"], test=parts["test"], val=parts.get("val"))

    def count_problems(self, parts: Mapping[str, Split]) -> list[str]:
        """What differs from the registered sizes, e.g. 'train has 12 images, expected 50,000'; [] when nothing does."""
        info = self.entry.splits[self.split]
        problems = []
        for part, size in info.sizes.items():
            split = parts[part]
            if len(split) != size:
                problems.append(f"{part} has {len(split):,} images, expected {size:,}")
            found = split.num_classes if split.class_mask is None else int(split.class_mask.sum())
            expected = (info.num_classes or {}).get(part, self.entry.num_classes)
            if found != expected:
                problems.append(f"{part} has {found:,} classes, expected {expected:,}")
        return problems

    def how_to_get(self) -> str:
        """How to fetch it into this data root: with a command, by hand, from a mirror."""
        if not self.entry.torchvision:
            return self.by_hand()
        root = "" if self.data_root == default_data_root() else f" --data-root {shlex.quote(str(self.data_root))}"
        return f"Fetch it with: richrep datasets download {self.entry.name}{root} . Or by hand: {self.by_hand()}"

    def by_hand(self) -> str:
        """What to fetch, and where to put it under this data root."""
        text = self.entry.get.replace(ROOT, str(self.data_root))
        if self.entry.mirrors:
            text += f" A copy at Hugging Face is read with {' or '.join(self.entry.mirrors)}."
        return text

    def error(self, problem: str) -> DatasetError:
        """E.g. 'dtd:split1 is not there: … does not exist. Fetch it once with …'."""
        first = self.needs[0].relative_to(self.data_root) if self.needs else ""
        return DatasetError(
            f"{self.name} {problem}. {self.how_to_get()} Or give another --data-root, the folder that holds {first}. "
            f"Expected there: {self.entry.layout}."
        )

    def make_part(
        self,
        part: str,
        files: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str],
        *,
        folder: Path | None = None,
        groups: Sequence[str] | None = None,
        class_mask: np.ndarray | None = None,
    ) -> Split:
        """The images `files` (full paths, or below `folder`) with their labels, the classes taking turns.

        So the first images of every part are a fair sample of it. The rule of the split becomes the note.

        Raises:
            DatasetError: there are no images.
        """
        if not len(files):
            raise self.error(f"in {folder or self.data_root} is not complete: it has no images of {part}")
        split = Split(
            dataset=self.name,
            part=part,
            images=FileStore(folder or self.data_root, files),
            positions=np.arange(len(files)),
            labels=np.asarray(labels, dtype=np.int64),
            class_names=tuple(class_names),
            note=self.entry.splits[self.split].rule,
            groups=None if groups is None else np.asarray(groups, dtype=np.str_),
            class_mask=class_mask,
        )
        return interleaved(split)
