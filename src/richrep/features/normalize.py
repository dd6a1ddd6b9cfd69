"""Normalisation of features before a linear head: fitted on training features only, a value that can be folded away.

Members of a concatenation differ in scale, and an l2 penalty falls hardest on the small ones, so the choice decides
whether CAT helps. All choices but `l2` and `block-l2` only rescale columns, and fold into the weights of a linear head.
A projection on principal components may follow any of them: see pca.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from richrep.errors import unknown_name_message
from richrep.features.feature_set import Block
from richrep.features.rows import Features, Rows, as_rows, row_chunks

_CHUNK_VALUES = 2**20  # features turned to float64 at once

NORMALIZATIONS = {
    "none": "features as they are",
    "standard": "every column divided by its standard deviation",
    "block-rms": "every backbone's columns divided by their root-mean-square over the training images",
    "block-l2": "every image's features divided, backbone by backbone, by their l2 norm",
    "l2": "every image's features divided by their l2 norm, all backbones as one",
}
DEFAULT_NORMALIZATIONS = ("none", "standard", "block-rms", "block-l2")  # of one backbone, l2 is block-l2
PER_IMAGE = ("l2", "block-l2")  # act on each image by itself: nothing is fitted, and no linear layer can hold them


@dataclass(frozen=True, eq=False)
class Normalization:
    """A fitted normalisation: features (B, D) -> features (B, D) of the same type.

    Attributes:
        name: a key of NORMALIZATIONS.
        scale: (D,) float64, what the columns are multiplied by; all ones for "none", "l2" and "block-l2".
        blocks: the (start, stop) columns of each backbone.
    """

    name: str
    scale: torch.Tensor
    blocks: tuple[tuple[int, int], ...]

    @property
    def folds(self) -> bool:
        """Whether it only rescales columns, so that a linear head can take it into its weights."""
        return self.name not in PER_IMAGE

    def apply(self, features: torch.Tensor) -> torch.Tensor:
        """Normalised copy of features (B, D); the same object when there is nothing to do."""
        if self.name == "none":
            return features
        if self.folds:
            return features * self.scale.to(features)
        if self.name == "l2":
            return unit_rows(features)
        return torch.cat([unit_rows(features[:, start:stop]) for start, stop in self.blocks], dim=1)

    def to(self, device: torch.device) -> Normalization:
        """The same on another device."""
        return replace(self, scale=self.scale.to(device))

    def fold(self, weights: torch.Tensor, biases: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (…, K, D) and biases (…, K) on normalised features -> the same on raw ones; only where it folds."""
        return weights * self.scale.to(weights), biases

    def on_columns(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights (K, D) on normalised features -> the same; as `Pca.on_columns`, where nothing is projected."""
        return weights


def centred_chunks(
    rows: Rows, normalization: Normalization, mean: torch.Tensor, *, chunk_rows: int | None = None, first: int = 0
) -> Iterator[tuple[int, torch.Tensor]]:
    """(offset, normalised and centred features (B, D) float64) over the rows from `first` on."""
    step = chunk_rows or max(1, _CHUNK_VALUES // rows.shape[1])
    for start in range(first, len(rows), step):
        yield start, normalization.apply(rows[start : start + step]).to(torch.float64, copy=True).sub_(mean)


def unit_rows(features: torch.Tensor) -> torch.Tensor:
    """Every row divided by its l2 norm; a row of zeros stays. Squared in float64, where none vanishes or overflows."""
    norms: torch.Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=torch.float64).to(features)
    return features / norms.masked_fill_(norms == 0, 1.0)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and spread of features (N, D), in float64.

    Attributes:
        mean: (D,).
        gram: (D, D), (X - mean)ᵀ(X - mean)/N; None when only `variance` or only `block_grams` were asked for.
        variance: (D,), with 1/N.
        num_rows: N.
        block_grams: the blocks of `gram` that were asked for, (stop - start, stop - start) each.
    """

    mean: torch.Tensor
    gram: torch.Tensor | None
    variance: torch.Tensor
    num_rows: int
    block_grams: tuple[torch.Tensor, ...] = ()


def moments(
    features: Features,
    rows: torch.Tensor | None = None,
    *,
    with_gram: bool | Sequence[tuple[int, int]],
    normalization: Normalization | None = None,
) -> Moments:
    """Mean, variance and Gram matrix of features (N, D), or of some of their rows, in one pass in float64.

    The sums are taken around the mean of the first rows, so a large common offset costs no digits.

    Args:
        with_gram: whether the Gram matrix is wanted, or which blocks on its diagonal, (start, stop) of columns.
        normalization: the moments are those of its output.
    """
    chosen = as_rows(features, rows)
    spans = () if isinstance(with_gram, bool) else with_gram
    origin: torch.Tensor | None = None
    for _, chunk in row_chunks(chosen, None, chunk_rows=max(1, 2**20 // chosen.shape[1])):  # 8 MiB in float64
        values = (normalization.apply(chunk) if normalization is not None else chunk).to(torch.float64)
        if origin is None:
            origin = values.mean(0)
            first = torch.zeros_like(origin)
            second = torch.zeros_like(origin)
            gram = origin.new_zeros(len(origin), len(origin)) if with_gram is True else None
            grams = tuple(origin.new_zeros(stop - start, stop - start) for start, stop in spans)
        values = values - origin
        first += values.sum(0)
        if gram is not None:
            gram.addmm_(values.T, values)
        else:
            second += values.square().sum(0)
        for block, (start, stop) in zip(grams, spans, strict=True):
            block.addmm_(values[:, start:stop].T, values[:, start:stop])
    assert origin is not None, "features have at least one row"
    shift = first / len(chosen)
    for block, (start, stop) in zip(grams, spans, strict=True):
        block.div_(len(chosen)).addr_(shift[start:stop], shift[start:stop], alpha=-1)
    if gram is not None:
        gram.div_(len(chosen)).addr_(shift, shift, alpha=-1)
        second = gram.diagonal().clone()
    else:
        second = second / len(chosen) - shift.square()
    return Moments(shift + origin, gram, second.clamp_(min=0), len(chosen), grams)


def fit_normalization(
    name: str, stats: Moments, *, blocks: Sequence[Block] | None = None, dtype: torch.dtype = torch.float32
) -> Normalization:
    """The normalisation `name` for training features whose moments are `stats`.

    Args:
        blocks: which columns belong to which backbone; None means one block.
        dtype: type of the features; a column whose spread is within its rounding counts as constant and is left alone.

    Raises:
        ValueError: an unknown name, or blocks that leave a column out or hold one twice.

    Source: "standard" and per-row "l2" are t-ReX's features_norm (naver/trex). Differs: l2 and rms go by backbone.
    """
    if name not in NORMALIZATIONS:
        raise ValueError(unknown_name_message("normalization", name, NORMALIZATIONS))
    dim = len(stats.mean)
    spans = tuple((b.start, b.stop) for b in blocks) if blocks else ((0, dim),)
    edges = [0, *(stop for _, stop in spans)]
    if [start for start, _ in spans] != edges[:-1] or edges[-1] != dim or sorted(set(edges)) != edges:
        raise ValueError(f"blocks must follow one another from column 0 to {dim}, got {list(spans)}.")
    scale = torch.ones_like(stats.mean)
    if name == "standard":
        std = stats.variance.sqrt()
        constant = std <= 8 * torch.finfo(dtype).eps * stats.mean.abs()
        scale = torch.where(constant, scale, 1 / std.masked_fill(constant, 1.0))
    if name == "block-rms":
        power = stats.variance + stats.mean.square()  # mean of x²
        for start, stop in spans:
            rms = power[start:stop].mean().sqrt()
            scale[start:stop] = 1 / rms if rms > 0 else 1.0
    return Normalization(name=name, scale=scale, blocks=spans)
