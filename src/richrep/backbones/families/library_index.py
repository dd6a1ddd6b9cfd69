"""What is known of every torchvision and timm architecture without building it: a shortlist for any checkpoint.

Building all of them, even without weights, takes minutes. The index (library_index.json, made by make_index.py) holds
for each the number of values per top-level module, and shortlists those worth building.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch

INDEX_FILE = "library_index.json"
_NEAREST = 3  # architectures to compare exactly when none fits
_RESEMBLES = 0.5  # share of values in common, below which a network is not called near


@dataclass(frozen=True)
class Entry:
    """One architecture.

    Attributes:
        feature_dim: D; 0 when the network does not give one vector per image.
        heads: modules that hold the classifier's weights, e.g. ("fc",).
        is_linear: whether the classifier is one nn.Linear applied to the features.
        trunk: top-level name -> number of values in its parameters and buffers (without `num_batches_tracked`).
    """

    feature_dim: int
    heads: tuple[str, ...]
    is_linear: bool
    trunk: Mapping[str, int]

    def describe(self) -> str:
        """A few words for `richrep list backbones`."""
        return f"{sum(self.trunk.values()) / 1e6:.1f} M weights, {self.feature_dim} features"

    def to_json(self) -> list[object]:
        """Short form; `from_json` reads it."""
        return [self.feature_dim, int(self.is_linear), list(self.heads), dict(self.trunk)]

    @classmethod
    def from_json(cls, row: list[object]) -> Entry:
        """Reads what `to_json` wrote."""
        feature_dim, is_linear, heads, trunk = row
        assert isinstance(feature_dim, int) and isinstance(heads, list) and isinstance(trunk, dict)
        return cls(feature_dim, tuple(heads), bool(is_linear), trunk)


@dataclass(frozen=True)
class LibraryIndex:
    """The architectures of one library, and the version of the library they were read from."""

    version: str
    entries: Mapping[str, Entry]


@cache
def load_index(library: str) -> LibraryIndex:
    """The index of "torchvision" or "timm". Kept for the life of the process (about 1 MB)."""
    text = files("richrep.backbones.families").joinpath(INDEX_FILE).read_text(encoding="utf-8")
    content = json.loads(text)[library]
    rows = content["architectures"]
    return LibraryIndex(content["version"], {name: Entry.from_json(row) for name, row in rows.items()})


def alike(entries: Mapping[str, Entry], tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Architectures whose every top-level module has as many values in the file.

    Modules of the file that an architecture lacks do not count here; the exact comparison decides about them.
    """
    sizes, by_module = _count(entries, tensors)
    return [
        name
        for name, entry in entries.items()
        if all(_in_trunk(top, sizes, by_module, entry) == count for top, count in entry.trunk.items())
    ]


def count_values(named: Iterable[tuple[str, torch.Tensor]]) -> Counter[str]:
    """Top-level name -> number of values, without `num_batches_tracked`."""
    sizes: Counter[str] = Counter()
    for name, tensor in named:
        if not name.endswith("num_batches_tracked"):
            sizes[name.partition(".")[0]] += tensor.numel()
    return sizes


def _values_by_module(tensors: Mapping[str, torch.Tensor], modules: set[str]) -> Counter[str]:
    """Module -> number of values directly in it, for the given modules."""
    values: Counter[str] = Counter()
    for name, tensor in tensors.items():
        module = name.rpartition(".")[0]
        if module in modules:
            values[module] += tensor.numel()
    return values


def _in_trunk(top: str, sizes: Mapping[str, int], by_module: Mapping[str, int], entry: Entry) -> int:
    """Values of the file under `top`, less those of the classifier."""
    return sizes.get(top, 0) - sum(by_module.get(head, 0) for head in entry.heads if head.partition(".")[0] == top)


def _count(entries: Mapping[str, Entry], tensors: Mapping[str, torch.Tensor]) -> tuple[Counter[str], Counter[str]]:
    """Values by top-level name, and by classifier."""
    heads = {head for entry in entries.values() for head in entry.heads}
    return count_values(tensors.items()), _values_by_module(tensors, heads)


def nearest(entries: Mapping[str, Entry], tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The few architectures with the most values in common, at least half of them; nearest first."""
    sizes, by_module = _count(entries, tensors)
    whole = sum(sizes.values())

    def share_in_common(name: str) -> float:
        """2 |A ∩ B| / (|A| + |B|), in values; 1 means the same."""
        entry = entries[name]
        common = sum(min(_in_trunk(top, sizes, by_module, entry), count) for top, count in entry.trunk.items())
        own = whole - sum(by_module.get(head, 0) for head in entry.heads)  # not top by top: a file may have thousands
        return 2 * common / max(own + sum(entry.trunk.values()), 1)

    scores = {name: share_in_common(name) for name in entries}
    near = [name for name, score in scores.items() if score >= _RESEMBLES]
    return sorted(near, key=lambda name: -scores[name])[:_NEAREST]
