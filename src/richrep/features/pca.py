"""Principal components: a projection fitted on training features only, which a linear head can fold into its weights.

Written `pca:C` for the C leading components, or after another normalisation, `block-rms+pca:C`: members of a
concatenation differ in scale, and the components of the raw features are those of the largest member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import scipy.linalg
import torch

from richrep.errors import FeatureError, RichrepError, unknown_name_message
from richrep.features.feature_set import Block
from richrep.features.gram import sample_gram
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import NORMALIZATIONS, Normalization, centred_chunks, fit_normalization, moments
from richrep.features.rows import Features, as_rows, row_chunks

_GRAM_BYTES = 24  # a value: the Gram matrix, LAPACK's copy and its eigenvectors


@dataclass(frozen=True, eq=False)
class Pca:
    """A fitted projection: features (B, D) -> centred scores (B, C) of the same type, largest variance first.

    Attributes:
        before: the normalisation whose output is projected.
        mean: (D,) float64, of that output over the training rows.
        components: (C, D) float64, orthonormal rows; signs are arbitrary.

    Source: Jolliffe, Principal Component Analysis, 2002; as scikit-learn's PCA without whitening.
    """

    before: Normalization
    mean: torch.Tensor
    components: torch.Tensor

    @property
    def name(self) -> str:
        """As an option writes it, e.g. "pca:64" or "standard+pca:64"."""
        projection = f"pca:{len(self.components)}"
        return projection if self.before.name == "none" else f"{self.before.name}+{projection}"

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """The (start, stop) columns of each backbone."""
        return self.before.blocks

    @property
    def folds(self) -> bool:
        """Whether a linear head can take it into its weights."""
        return self.before.folds

    def apply(self, features: torch.Tensor) -> torch.Tensor:
        """Scores (B, C) of features (B, D)."""
        return (self.before.apply(features) - self.mean.to(features)) @ self.components.T.to(features)

    def to(self, device: torch.device) -> Pca:
        """The same on another device."""
        return replace(
            self, before=self.before.to(device), mean=self.mean.to(device), components=self.components.to(device)
        )

    def project(self, features: Features, rows: torch.Tensor | None, *, memory: MemoryBudget = FRUGAL) -> torch.Tensor:
        """Scores (N, C) of the given rows, or all, in float64 by chunks: small components keep their digits.

        Raises MemoryLimitError where they are more than `memory` allows of a copy.
        """
        chosen = as_rows(features, rows)
        count = len(self.components)
        size = len(chosen) * count * chosen.dtype.itemsize
        memory.check_copy(size, f"the projection of {len(chosen):,} images on {count} components")
        scores = torch.empty(len(chosen), count, dtype=chosen.dtype, device=chosen.device)
        for start, chunk in row_chunks(chosen, None, chunk_rows=max(1, 2**20 // chosen.shape[1])):
            centred = self.before.apply(chunk).to(torch.float64) - self.mean
            scores[start : start + len(chunk)] = centred @ self.components.T
        return scores

    def fold(self, weights: torch.Tensor, biases: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (…, K, C) and biases (…, K) on scores -> the same on raw features (B, D); only where it folds."""
        columns = weights.to(torch.float64) @ self.components  # (…, K, D)
        offsets = biases.to(torch.float64) - columns @ self.mean
        return self.before.fold(columns, offsets)[0].to(weights), offsets.to(biases)

    def on_columns(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights (K, C) on scores -> (K, D) on the columns that are projected."""
        return weights.to(torch.float64) @ self.components

    def unfold(self, weights: torch.Tensor, biases: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `fold` for weights (K, D) in the span of the components, else the nearest in it."""
        columns = weights.to(torch.float64) / self.before.scale
        return (columns @ self.components.T).to(weights), (biases.to(torch.float64) + columns @ self.mean).to(biases)


def split_pca(name: str) -> tuple[str, int]:
    """ "standard+pca:64" -> ("standard", 64); without pca the number is 0.

    Raises:
        RichrepError: a normalisation that does not exist, or a number of components that is none.

    >>> split_pca("pca:64"), split_pca("block-rms")
    (('none', 64), ('block-rms', 0))
    """
    before, plus, projection = name.rpartition("+")
    if not projection.startswith("pca:"):
        before, plus, projection = name, "", ""
    if before not in NORMALIZATIONS and not (projection and not plus):
        raise RichrepError(unknown_name_message("normalization", before, [*NORMALIZATIONS, "pca:C"]))
    count = projection.removeprefix("pca:")
    if projection and not (count.isascii() and count.isdigit() and int(count) > 0):
        raise RichrepError(f"pca needs a number of components of at least 1, got {name!r}. Write e.g. pca:64.")
    return before or "none", int(count or 0)


def fit_pca(
    features: Features,
    rows: torch.Tensor | None = None,
    *,
    before: str = "none",
    num_components: int,
    blocks: Sequence[Block] | None = None,
    memory: MemoryBudget = FRUGAL,
) -> Pca:
    """The leading components of the given rows of features (N, D), or of all.

    By the columns, (D, D), or by the rows, (N, N), whichever are fewer; in float64.

    Raises:
        FeatureError: the training features have fewer directions of variance than `num_components`.
        MemoryLimitError: the Gram matrix is more than `memory` allows.
    """
    chosen = as_rows(features, rows)
    total, dim = chosen.shape
    side = min(total, dim)
    memory.check_square(_GRAM_BYTES * side**2, f"the principal components of {total:,} images x {dim:,} features")
    first = fit_normalization(before, moments(chosen, with_gram=False), blocks=blocks, dtype=chosen.dtype)
    stats = moments(chosen, with_gram=total >= dim, normalization=first)
    if stats.gram is not None:
        values, vectors = _leading(stats.gram, num_components)
        components = vectors.T
    else:
        gram = sample_gram(chosen, normalization=first, mean=stats.mean, memory=memory).div_(total)
        values, vectors = _leading(gram, num_components)
        on_samples = (vectors / (total * values).clamp(min=torch.finfo(torch.float64).tiny).sqrt()).T  # (C, N)
        components = on_samples.new_zeros(len(on_samples), dim)
        for start, centred in centred_chunks(chosen, first, stats.mean):
            components.addmm_(on_samples[:, start : start + len(centred)], centred)
    variance = float(stats.variance.sum())
    rounding = max(total, dim) * torch.finfo(torch.float64).eps * variance
    rank = int((values > rounding).sum())
    if rank < num_components:
        advice = (
            f"Use at most pca:{rank}, more images, or no projection." if rank else "They are constant: look at them."
        )
        raise FeatureError(
            f"pca:{num_components} needs {num_components} directions of variance, the {total} training rows of "
            f"{dim} features have {rank}. {advice}"
        )
    return Pca(before=first, mean=stats.mean, components=components.contiguous())


def _leading(symmetric: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest eigenvalues (all, where there are fewer), largest first, and their vectors as columns."""
    size = len(symmetric)
    values, vectors = scipy.linalg.eigh(
        symmetric.cpu().numpy(), subset_by_index=(max(0, size - count), size - 1), check_finite=False
    )
    found = torch.from_numpy(values[::-1].copy()), torch.from_numpy(vectors[:, ::-1].copy())
    return found[0].to(symmetric.device), found[1].to(symmetric.device)


def fit_named(
    name: str,
    features: Features,
    rows: torch.Tensor | None = None,
    *,
    blocks: Sequence[Block] | None = None,
    memory: MemoryBudget = FRUGAL,
) -> Normalization | Pca:
    """The normalisation `name`, with or without "pca:C", fitted on the given rows of features (N, D), or on all."""
    before, num_components = split_pca(name)
    if num_components:
        return fit_pca(features, rows, before=before, num_components=num_components, blocks=blocks, memory=memory)
    chosen = as_rows(features, rows)
    return fit_normalization(before, moments(chosen, with_gram=False), blocks=blocks, dtype=chosen.dtype)
