"""Coordinates in which the logistic objective is well conditioned for every penalty at once.

Böhning (1992): the Hessian of the mean cross-entropy is at most ½(I - 11ᵀ/K) ⊗ S, S the Gram matrix of the centred
features over N. In the eigenvectors of S, with coordinate j scaled by 1/√(s_j/2 + l2), the Hessian of the whole
objective is at most the identity. Where S is too large to be taken apart whole, it is done for M blocks of columns (the
members of a concatenation): S is at most M times its diagonal blocks, so the bound holds with M·s_j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from richrep.features.feature_set import Block
from richrep.features.gram import sample_gram, take_apart
from richrep.features.memory import MemoryBudget
from richrep.features.normalize import (
    PER_IMAGE,
    Moments,
    Normalization,
    centred_chunks,
    fit_normalization,
    moments,
)
from richrep.features.rows import Rows
from richrep.heads.basis import ColumnBasis, SampleBasis
from richrep.heads.plan import Spans, choose_spans
from richrep.heads.samples import RotatedSamples, Samples, StreamedSamples


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Centred features in an orthogonal basis of their row space.

    Attributes:
        samples: the centred, normalised features, to be read by the chunk.
        bound: (r,) float64: the Hessian of the mean cross-entropy is at most diag(bound)/2 in each class.
        mean: (D,) float64, mean of the normalised features.
        basis: the directions, given by the columns or, for N < D, by the samples.
        num_blocks: of columns, each with a basis of its own.
    """

    samples: Samples
    bound: torch.Tensor
    mean: torch.Tensor
    basis: ColumnBasis | SampleBasis
    num_blocks: int = 1

    @property
    def kind(self) -> str:
        """By what they were found: "columns", "blocks" of columns, or "samples"."""
        if isinstance(self.basis, SampleBasis):
            return "samples"
        return "columns" if self.num_blocks == 1 else "blocks"


# Below the penalty a direction moves the logits in proportion to its eigenvalue, so where all are below, what is this
# much smaller than the largest cannot change a prediction.
_INVISIBLE = 1e-6


def _eigh_kept(
    symmetric: torch.Tensor, *, threshold: float, rounding: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues worth keeping, smallest first, with their eigenvectors as columns.

    Dropped is what lies below `threshold` (too little to lower the objective) and is `_INVISIBLE` beside the largest,
    and what lies below `rounding` times the largest.

    Overwrites its input on the CPU, see `take_apart`.
    """
    values, vectors = take_apart(symmetric)
    largest = max(float(values[-1]), 0.0)
    kept = int((values > max(min(threshold, _INVISIBLE * largest), rounding * largest)).sum())
    return values[len(values) - kept :], vectors[:, len(values) - kept :]  # a view: nothing is copied


def column_coordinates(
    rows: Rows,
    *,
    stats: Moments,
    spans: Spans,
    normalization: Normalization,
    threshold: float,
    max_rotated_bytes: int,
    chunk_values: int,
) -> Coordinates:
    """From the Gram matrix of the columns (D, D), or from the blocks on its diagonal.

    Args:
        stats: moments of the normalised features; on the CPU their Gram matrices are used up.
        spans: the (start, stop) of the blocks; one that covers all columns takes the whole matrix apart.
        threshold: see `_eigh_kept`.
        max_rotated_bytes: up to this size the features are kept a second time, rotated: fewer products an iteration,
            and directions of tiny variance keep all their digits. Above it they are streamed.
        chunk_values: in a chunk of streamed features; four times as many in one of kept ones, which is no copy.
    """
    grams = stats.block_grams if stats.gram is None else (stats.gram,)
    taken_apart = [_eigh_kept(gram, threshold=threshold / len(spans)) for gram in grams]
    bound = len(spans) * torch.cat([values for values, _ in taken_apart])
    exact = ColumnBasis(spans, [vectors for _, vectors in taken_apart])
    basis = exact.to(rows.dtype)
    if len(rows) * len(bound) * rows.dtype.itemsize > max_rotated_bytes:
        samples = StreamedSamples(rows, normalization, stats.mean, basis, max_values=chunk_values)
        return Coordinates(samples, bound, stats.mean, basis, len(spans))
    rotated = torch.empty(len(rows), len(bound), dtype=rows.dtype, device=rows.device)
    for start, centred in centred_chunks(rows, normalization, stats.mean):
        rotated[start : start + len(centred)] = exact.to_coordinates(centred)  # float64: small directions keep digits
    kept = RotatedSamples(rotated, max_values=4 * chunk_values)  # a chunk of these is a view
    return Coordinates(kept, bound, stats.mean, basis, len(spans))


def sample_coordinates(
    rows: Rows, *, normalization: Normalization, threshold: float, memory: MemoryBudget
) -> Coordinates:
    """From the Gram matrix of the samples, (N, N); for N < D. The optimum lies in the row space, so this is exact."""
    total = len(rows)
    mean = moments(rows, with_gram=False, normalization=normalization).mean
    gram = sample_gram(rows, normalization=normalization, mean=mean, memory=memory)
    # Directions the rows do not span (the mean, equal rows) come out as rounding, and dividing by their length below
    # would make weights of it.
    rounding = total * torch.finfo(gram.dtype).eps
    spectrum, vectors = _eigh_kept(gram.div_(total), threshold=threshold, rounding=rounding)
    lengths = (total * spectrum).sqrt()
    rotated = (vectors * lengths).to(rows.dtype)  # (N, r)
    basis = SampleBasis(rows, normalization, mean, vectors / lengths)
    return Coordinates(RotatedSamples(rotated), spectrum, mean, basis)


def choose_coordinates(
    rows: Rows,
    normalization: str,
    blocks: Sequence[Block] | None,
    *,
    threshold: float,
    raw_moments: Moments | None,
    memory: MemoryBudget,
) -> tuple[Normalization, Coordinates]:
    """The fitted normalisation and the coordinates, by samples, by columns or by blocks of them, see `choose_spans`.

    Args:
        raw_moments: of the rows as they are, when the caller has them; used where they hold what is needed.
    """
    spans = choose_spans(*rows.shape, blocks, memory)
    raw = raw_moments
    if raw is None or not (normalization in PER_IMAGE or _holds(raw, spans)):
        raw = moments(rows, with_gram=False if normalization in PER_IMAGE else _wanted(spans))
    fitted = fit_normalization(normalization, raw, blocks=blocks, dtype=rows.dtype)
    if spans is None:
        return fitted, sample_coordinates(rows, normalization=fitted, threshold=threshold, memory=memory)
    if fitted.folds:
        stats = _scaled(raw, fitted.scale, spans, keep=raw is raw_moments)
    else:
        width = fitted.apply(rows[:1]).shape[1]  # a normalisation may make fewer columns
        spans = spans if width == rows.shape[1] else choose_spans(width, width, None, memory) or ((0, width),)
        stats = moments(rows, with_gram=_wanted(spans), normalization=fitted)
    return fitted, column_coordinates(
        rows,
        stats=stats,
        spans=spans,
        normalization=fitted,
        threshold=threshold,
        max_rotated_bytes=memory.rotated,
        chunk_values=memory.chunk_values,
    )


def shared_moments(rows: Rows, blocks: Sequence[Block] | None, memory: MemoryBudget) -> Moments | None:
    """Moments that serve several normalisations of the same rows; None where there is no memory to keep them."""
    spans = choose_spans(*rows.shape, blocks, memory)
    size = sum(8 * (stop - start) ** 2 for start, stop in spans or ())
    return moments(rows, with_gram=_wanted(spans)) if size <= memory.kept else None


def _wanted(spans: Spans | None) -> bool | Spans:
    """What `moments` is asked for."""
    return spans is not None if spans is None or len(spans) == 1 else spans


def _holds(raw: Moments, spans: Spans | None) -> bool:
    if spans is None:
        return True
    if len(spans) == 1:
        return raw.gram is not None
    return [len(gram) for gram in raw.block_grams] == [stop - start for start, stop in spans]


def _scaled(raw: Moments, scale: torch.Tensor, spans: Spans, *, keep: bool) -> Moments:
    """The moments of features times `scale`; in the memory of `raw` unless it is to be kept."""
    grams = raw.block_grams if raw.gram is None else (raw.gram,)
    scaled = [gram.clone() if keep else gram for gram in grams]
    for gram, (start, stop) in zip(scaled, spans, strict=True):
        gram.mul_(scale[start:stop]).mul_(scale[start:stop, None])
    mean, variance = raw.mean * scale, raw.variance * scale.square()
    if raw.gram is not None:
        return Moments(mean, scaled[0], variance, raw.num_rows)
    return Moments(mean, None, variance, raw.num_rows, tuple(scaled))
