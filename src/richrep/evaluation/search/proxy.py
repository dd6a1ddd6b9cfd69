"""The quick score of a subset: ridge regression on its Gram matrix, which is put together from its members'.

By samples, for few images: K(S) = Σ_m X_m·X_mᵀ, exact. By columns, for more: each member is turned to its leading
principal components, and the Gram matrix of a subset is the submatrix of their columns in the one of all, so that a
candidate costs the same however many images and features there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch.nn import functional as F

from richrep.data.split import carve_val
from richrep.evaluation.search.strategies import Subset
from richrep.features.feature_set import FeatureSet
from richrep.features.gram import cka_of_columns, cka_of_samples, column_gram
from richrep.features.normalize import fit_normalization, moments
from richrep.heads.ridge_path import Side
from richrep.heads.ridge_spectrum import RidgeSpectrum, spectrum_of_columns, spectrum_of_samples

MAX_SAMPLES = 600  # images up to which the side of the samples is the cheaper one: 0.05 s a candidate
MAX_EXACT = 1024  # columns of a member up to which its principal components come from an eigen-decomposition
MAX_ROWS = 20_000  # images; more are subsampled
SUBSAMPLE_SEED = 0
ProxyScore = Literal["val", "loo"]
PROXY_SCORES: dict[ProxyScore, str] = {
    "val": "accuracy on val",
    "loo": "accuracy on train, every image by the regression without it, in closed form: leaves val to the full probes",
}
PENALTIES = tuple(float(10.0**e) for e in np.arange(-6, 0.1, 0.5))  # times the trace of the subset's Gram matrix


@dataclass(frozen=True, eq=False)
class ColumnGrams:
    """Members in principal components, side by side.

    Attributes:
        gram: (P, P), XᵀX/N of all members' centred columns.
        slopes: (P, K), XᵀY/N.
        val: (N_val, P), around the training mean.
        train: (N, P), the same of the training rows; None where only val is scored.
        edges: (M + 1,) where each member's columns begin and end.
    """

    gram: torch.Tensor
    slopes: torch.Tensor
    val: torch.Tensor
    train: torch.Tensor | None
    edges: tuple[int, ...]

    def problem(
        self, subset: Subset, scales: Sequence[float], *, of_train: bool = False
    ) -> tuple[RidgeSpectrum, torch.Tensor]:
        """Ridge on the members `subset`, each times its scale, and val (or train) in its eigenvectors (N_val, r)."""
        spans = [torch.arange(self.edges[i], self.edges[i + 1]) for i in subset]
        columns = torch.cat(spans)
        scale = torch.cat([torch.full((len(s),), c) for s, c in zip(spans, scales, strict=True)]).to(self.gram)
        gram = self.gram[columns][:, columns] * scale * scale[:, None]
        spectrum = spectrum_of_columns(gram, self.slopes[columns] * scale[:, None])
        rows = self.train if of_train else self.val
        assert rows is not None, "train is kept where it is scored"
        return spectrum, (rows[:, columns] * scale) @ spectrum.vectors

    def cka(self) -> torch.Tensor:
        """(M, M) linear CKA."""
        return cka_of_columns(self.gram, self.edges)


@dataclass(frozen=True, eq=False)
class SampleGrams:
    """Gram matrices by samples.

    Attributes:
        grams: (M, N, N), XXᵀ/N of each member's centred rows.
        val: (M, N_val, N), X_val·Xᵀ.
        targets: (N, K), centred.
    """

    grams: torch.Tensor
    val: torch.Tensor
    targets: torch.Tensor

    def problem(
        self, subset: Subset, scales: Sequence[float], *, of_train: bool = False
    ) -> tuple[RidgeSpectrum, torch.Tensor]:
        """Ridge on the members `subset`, each times its scale, and val (or train) in its eigenvectors (N_val, r)."""
        squares = torch.tensor(scales).square().to(self.grams)
        members = list(subset)
        spectrum = spectrum_of_samples(torch.tensordot(squares, self.grams[members], 1), self.targets)
        lengths = (len(self.targets) * spectrum.values).sqrt()
        if of_train:
            return spectrum, spectrum.vectors * lengths
        return spectrum, torch.tensordot(squares, self.val[members], 1) @ (spectrum.vectors / lengths)

    def cka(self) -> torch.Tensor:
        """(M, M) linear CKA."""
        return cka_of_samples(self.grams)


@dataclass(frozen=True, eq=False)
class Proxy:
    """Accuracy of ridge regression on any subset of M members: on val, or leaving out one training image at a time.

    Attributes:
        grams: of the members, normalised ("block-rms") and centred on the training rows.
        side: of `grams`.
        num_rows: training images used; num_val: val images used.
        dims: columns kept of each member.
        target_mean: (K',) how frequent each class is.
        val_codes: (N_val,) class of each val image as a position among the classes with a training row; train_codes:
            (N,) of each training image.
        score_by: a member of PROXY_SCORES.
    """

    grams: ColumnGrams | SampleGrams
    side: Side
    num_rows: int
    num_val: int
    dims: tuple[int, ...]
    target_mean: torch.Tensor
    val_codes: torch.Tensor
    train_codes: torch.Tensor
    score_by: ProxyScore = "val"

    def describe(self) -> str:
        """One line for people."""
        by = "leave-one-out, " if self.score_by == "loo" else ""
        kept = f", {min(self.dims)} to {max(self.dims)} components a member" if self.side == "columns" else ""
        return f"{by}ridge by {self.side}, {self.num_rows} train and {self.num_val} val images{kept}"

    def score(self, subset: Subset, scales: Sequence[float] | None = None) -> float:
        """The best accuracy over `PENALTIES`, one eigen-decomposition.

        Args:
            scales: what each member of `subset` is multiplied by; None means 1.
        """
        of_train = self.score_by == "loo"
        spectrum, rows = self.grams.problem(subset, scales or [1.0] * len(subset), of_train=of_train)
        trace = float(spectrum.values.sum()) or 1.0  # of constant members: no penalty matters
        l2s = (torch.tensor(PENALTIES) * trace).to(rows)
        if of_train:
            targets = F.one_hot(self.train_codes, len(self.target_mean)).to(rows)
            logits = (spectrum.leave_one_out(rows, targets, self.target_mean, l2[None], self.num_rows)[0] for l2 in l2s)
            return max(float((given.argmax(1) == self.train_codes).double().mean()) for given in logits)
        logits = (torch.addmm(self.target_mean, rows, weights) for weights in spectrum.weights(l2s))
        return max(float((given.argmax(1) == self.val_codes).double().mean()) for given in logits)


def make_proxy(
    members: Sequence[FeatureSet],
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    *,
    max_dims: int = 128,
    max_rows: int = MAX_ROWS,
    side: Side | None = None,
    score_by: ProxyScore = "val",
) -> Proxy:
    """The proxy of some members, fitted on train and scored on val, or on train by leaving one image out.

    Args:
        members: features of train and val together, one FeatureSet a member, of the same images.
        train_rows, val_rows: disjoint rows of them.
        max_dims: principal components kept of a member, by columns; more cost time and bring the proxy closer.
        max_rows: images used of train, and of val; where there are more, as many of every class, drawn by a fixed seed.
        side: "samples" or "columns"; None takes the samples up to 600 training images.
    """
    labels = members[0].labels
    train = _subsample(train_rows, labels, max_rows)
    val = _subsample(val_rows, labels, max_rows)
    classes, codes = torch.unique(labels[train], return_inverse=True)
    targets = F.one_hot(codes).to(torch.float32)
    mean = targets.mean(0)
    chosen: Side = side or ("samples" if len(train) <= MAX_SAMPLES else "columns")
    grams: ColumnGrams | SampleGrams
    if chosen == "samples":
        grams, dims = _by_samples(members, train, val, targets - mean)
    else:
        keep_train = score_by == "loo"
        grams, dims = _by_columns(members, train, val, targets - mean, max_dims, keep_train=keep_train)
    position = torch.full((members[0].num_classes,), -1)
    position[classes] = torch.arange(len(classes))
    return Proxy(grams, chosen, len(train), len(val), dims, mean, position[labels[val]], codes, score_by)


def _subsample(rows: np.ndarray, labels: torch.Tensor, limit: int) -> torch.Tensor:
    """At most about `limit` of the rows, the same fraction of every class."""
    if len(rows) > limit:
        _, chosen = carve_val(labels.numpy()[rows], fraction=limit / len(rows), seed=SUBSAMPLE_SEED)
        rows = rows[chosen]
    return torch.as_tensor(rows, dtype=torch.int64)


def _centred(member: FeatureSet, train: torch.Tensor, val: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Train and val features in float32, over the member's root-mean-square and around its mean, both of train."""
    stats = moments(member.features, train, with_gram=False)
    fitted = fit_normalization("block-rms", stats, dtype=member.features.dtype)
    mean = stats.mean * fitted.scale

    def of_rows(rows: torch.Tensor) -> torch.Tensor:
        return fitted.apply(member.features[rows]).to(torch.float64).sub_(mean).to(torch.float32)

    return of_rows(train), of_rows(val)


def _by_samples(
    members: Sequence[FeatureSet], train: torch.Tensor, val: torch.Tensor, targets: torch.Tensor
) -> tuple[SampleGrams, tuple[int, ...]]:
    grams = torch.empty(len(members), len(train), len(train))
    cross = torch.empty(len(members), len(val), len(train))
    for gram, products, member in zip(grams, cross, members, strict=True):
        on_train, on_val = _centred(member, train, val)
        torch.mm(on_train, on_train.T, out=gram).div_(len(train))
        torch.mm(on_val, on_train.T, out=products)
    return SampleGrams(grams, cross, targets), tuple(member.feature_dim for member in members)


def _by_columns(
    members: Sequence[FeatureSet],
    train: torch.Tensor,
    val: torch.Tensor,
    targets: torch.Tensor,
    max_dims: int,
    *,
    keep_train: bool,
) -> tuple[ColumnGrams, tuple[int, ...]]:
    pairs = []
    for member in members:
        on_train, on_val = _centred(member, train, val)
        if member.feature_dim > max_dims:
            basis = _principal_components(on_train, max_dims)
            on_train, on_val = on_train @ basis, on_val @ basis
        pairs.append((on_train, on_val))
    edges = tuple(accumulate((len(one.T) for one, _ in pairs), initial=0))
    gram = column_gram([one for one, _ in pairs])
    slopes = torch.cat([one.T @ targets / len(train) for one, _ in pairs])
    of_train = torch.cat([one for one, _ in pairs], dim=1) if keep_train else None
    grams = ColumnGrams(gram, slopes, torch.cat([other for _, other in pairs], dim=1), of_train, edges)
    return grams, tuple(b - a for a, b in pairwise(edges))


def _principal_components(centred: torch.Tensor, count: int) -> torch.Tensor:
    """(D, count), exact for up to `MAX_EXACT` columns, by randomised iteration of a fixed seed above."""
    solver = "covariance_eigh" if centred.shape[1] <= MAX_EXACT else "randomized"
    found = PCA(min(count, len(centred)), svd_solver=solver, random_state=0).fit(centred.numpy())
    return torch.from_numpy(found.components_.T.copy()).to(centred)
