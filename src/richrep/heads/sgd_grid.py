"""Many linear heads trained at once by mini-batch SGD: every (lr, weight decay, seed) is one slice of a batched head.

With B rows of a batch, D features, K classes and G heads ("cells") of one seed, a step is two products, of (G·K, D)
with (D, B) and of (G·K, B) with (B, D): the rows are read once for all cells, which share the order of the batches.
Slopes are written down (softmax minus one-hot), there is no graph. Seeds have other batches and go one after the other:
as a further dimension of the products, three of them took 0.7 of the time at D = 64 and 1.05 to 1.2 from D = 512 on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from richrep.features.memory import MemoryBudget
from richrep.features.rows import Features, as_rows
from richrep.heads.linear import Linear
from richrep.heads.lr_factors import LrFactors, factor_at

INITS = ("default", "normal")
_LARGEST = 1e18  # beyond it products of two such numbers are infinite in float32: the cell has diverged
_NORMAL_STD = 0.01
_BN_EPS, _BN_MOMENTUM = 1e-5, 0.1  # torch's BatchNorm1d


@dataclass(frozen=True)
class SgdCell:
    """What is one head's own: learning rate > 0, weight decay >= 0, and the seed of its first weights and batches."""

    lr: float
    weight_decay: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class SgdRecipe:
    """What all heads trained at once share.

    Attributes:
        epochs: passes over the rows; batch_size: rows a step, fewer in the last one of an epoch.
        momentum, nesterov, dampening: as in torch.optim.SGD.
        decay_bias: whether weight decay (coupled, added to the slope) falls on the bias too.
        batch_norm: BatchNorm1d (eps 1e-5, running mean and variance with momentum 0.1, affine) before the linear layer.
        decay_batch_norm: whether weight decay falls on its scale and shift.
        init: "default" is torch's nn.Linear, uniform in ±1/sqrt(D); "normal" is N(0, 0.01²) with bias 0.
        lr_factors: of the learning rate, by place in a sequence or by a function of it; None means 1.
        lr_per: what a place counts from 0: "epoch" or "step".
    """

    epochs: int = 100
    batch_size: int = 256
    momentum: float = 0.9
    nesterov: bool = False
    dampening: float = 0.0
    decay_bias: bool = True
    batch_norm: bool = False
    decay_batch_norm: bool = True
    init: str = "default"
    lr_factors: LrFactors | None = None
    lr_per: str = "epoch"

    def check(self, num_rows: int) -> None:
        """Raises ValueError for options that make no training of `num_rows` rows."""
        if self.epochs < 1 or self.batch_size < 1 + self.batch_norm:
            least = "2 (batch normalisation needs two rows)" if self.batch_norm else "1"
            raise ValueError(
                f"epochs must be at least 1 and batch_size at least {least}, got epochs={self.epochs}, "
                f"batch_size={self.batch_size}."
            )
        if not 0 <= self.momentum < 1 or not 0 <= self.dampening <= 1:
            raise ValueError(
                f"momentum must be in [0, 1) and dampening in [0, 1], got momentum={self.momentum}, "
                f"dampening={self.dampening}."
            )
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(f"nesterov needs momentum > 0 and dampening 0, got {self.momentum} and {self.dampening}.")
        if self.init not in INITS or self.lr_per not in ("epoch", "step"):
            raise ValueError(
                f"init must be one of {', '.join(INITS)} and lr_per epoch or step, got init={self.init!r}, "
                f"lr_per={self.lr_per!r}."
            )
        steps = len(batches_of_epoch(num_rows, self, seed=0, epoch=0)) if self.lr_per == "step" else 1
        if self.lr_factors is not None and not callable(self.lr_factors) and len(self.lr_factors) < self.epochs * steps:
            raise ValueError(
                f"lr_factors must hold one factor for each {self.lr_per}, {self.epochs * steps}, "
                f"got {len(self.lr_factors)}."
            )

    def factor(self, epoch: int, step: int) -> float:
        """Of the learning rate, in a step (counted over all epochs) of an epoch."""
        place = epoch if self.lr_per == "epoch" else step
        return 1.0 if self.lr_factors is None else factor_at(self.lr_factors, place)


@dataclass(frozen=True, eq=False)
class TrainedCell:
    """What became of one cell: weights (K, D) and biases (K,) with batch normalisation folded in, or None where it
    diverged, in epoch `diverged_in` (from 0)."""

    cell: SgdCell
    linear: Linear | None
    diverged_in: int | None = None


OnEpoch = Callable[[int, int, Linear], None]  # epoch from 0, position of the cell, what it is at the end of the epoch


def train_cells(
    views: Sequence[Features],
    labels: torch.Tensor,
    cells: Sequence[SgdCell],
    recipe: SgdRecipe,
    *,
    num_classes: int,
    memory: MemoryBudget,
    apply: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows,
    on_epoch: OnEpoch | None = None,
) -> list[TrainedCell]:
    """Every cell trained as if it were alone; a cell that diverges stops, the others go on.

    Args:
        views: V matrices (N, D) of the same rows; epoch e reads view e % V, by the batch.
        labels: (N,) in [0, K).
        cells: of any seeds; cells of one seed start from the same weights and see the same batches.
        memory: how many cells go at once; the results are the same.
        apply: turns the rows (B, D) of a batch into what the heads act on, (B, D').
        on_epoch: called for every living cell at the end of every epoch.

    Raises:
        RichrepError: `memory` has a limit that is too small for one cell.
    """
    recipe.check(len(labels))
    rows = [as_rows(view) for view in views]
    like = apply(rows[0][:1])
    needed = 4 * num_classes * like.shape[1] * like.element_size()  # weights, velocity, slope, scaled weights
    memory.check_state(needed, f"training a head of {num_classes:,} classes on {like.shape[1]:,} features")
    most = max(1, memory.state // needed)
    trained: dict[int, TrainedCell] = {}
    for seed in dict.fromkeys(cell.seed for cell in cells):
        of_seed = [place for place, cell in enumerate(cells) if cell.seed == seed]
        for first in range(0, len(of_seed), most):
            places = of_seed[first : first + most]
            group = _Group({place: cells[place] for place in places}, recipe, num_classes, like, seed)
            for epoch in range(recipe.epochs):
                view = rows[epoch % len(rows)]
                for batch in batches_of_epoch(len(labels), recipe, seed=seed, epoch=epoch):
                    batch = batch.to(labels.device)
                    group.step(apply(view[batch]), labels[batch], epoch)
                for place in group.drop_diverged():
                    trained[place] = TrainedCell(cells[place], None, epoch)
                if not group.places:
                    break
                if on_epoch is not None:
                    for place, linear in group.linears():
                        on_epoch(epoch, place, linear)
            trained |= {place: TrainedCell(cells[place], linear) for place, linear in group.linears()}
    return [trained[place] for place in range(len(cells))]


def batches_of_epoch(num_rows: int, recipe: SgdRecipe, *, seed: int, epoch: int) -> list[torch.Tensor]:
    """Row numbers of every batch of an epoch, drawn from (seed, epoch) alone; sorted within a batch.

    The last batch is what is left. Under batch normalisation, which has no use for one row, one row left joins the
    batch before.
    """
    order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(num_rows))
    batches = list(torch.split(order, recipe.batch_size))
    if recipe.batch_norm and len(batches[-1]) == 1 and len(batches) > 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return [batch.sort().values for batch in batches]  # in the order of the file, where the rows lie in one


def first_linear(init: str, dim: int, num_classes: int, seed: int) -> Linear:
    """Weights (K, D) and biases (K,) float32 as torch draws them after `torch.manual_seed(seed)`, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    if init == "normal":
        return torch.empty(num_classes, dim).normal_(0, _NORMAL_STD, generator=generator), torch.zeros(num_classes)
    bound = dim**-0.5
    weight = torch.empty(num_classes, dim).uniform_(-bound, bound, generator=generator)
    return weight, torch.empty(num_classes).uniform_(-bound, bound, generator=generator)


@dataclass(eq=False)
class _Group:
    """The living cells of one seed, side by side along the first axis of everything that is theirs."""

    cells: dict[int, SgdCell]
    recipe: SgdRecipe
    num_classes: int
    like: torch.Tensor  # (1, D'), of the type and device to compute with
    seed: int
    places: list[int] = field(init=False)
    steps: int = 0

    def __post_init__(self) -> None:
        self.places = list(self.cells)
        count, dim = len(self.places), self.like.shape[1]
        weight, bias = first_linear(self.recipe.init, dim, self.num_classes, self.seed)
        self.weight = weight.to(self.like).repeat(count, 1, 1)  # (G, K, D)
        self.bias = bias.to(self.like).repeat(count, 1)  # (G, K)
        self.lr = self.like.new_tensor([cell.lr for cell in self.cells.values()])  # (G,)
        self.decay = self.like.new_tensor([cell.weight_decay for cell in self.cells.values()])  # (G,)
        self.scale, self.shift = self.like.new_ones(count, dim), self.like.new_zeros(count, dim)  # of BatchNorm1d
        self.mean, self.variance = self.like.new_zeros(dim), self.like.new_ones(dim)  # running, of all cells alike
        self.velocity = [torch.zeros_like(value) for value, _ in self._parameters()]

    def _parameters(self) -> Iterator[tuple[torch.Tensor, bool]]:
        """What is trained, and whether weight decay falls on it."""
        yield self.weight, True
        yield self.bias, self.recipe.decay_bias
        if self.recipe.batch_norm:
            yield self.scale, self.recipe.decay_batch_norm
            yield self.shift, self.recipe.decay_batch_norm

    def step(self, rows: torch.Tensor, labels: torch.Tensor, epoch: int) -> None:
        """One step of torch.optim.SGD for every cell, on rows (B, D') and labels (B,)."""
        recipe, rate = self.recipe, self.lr * self.recipe.factor(epoch, self.steps)
        for (value, decays), velocity, slope in zip(
            self._parameters(), self.velocity, self._slopes(rows, labels), strict=True
        ):
            along = (-1,) + (1,) * (value.ndim - 1)
            if decays:
                slope.addcmul_(value, self.decay.view(along))
            if recipe.momentum and self.steps == 0:
                velocity.copy_(slope)
            elif recipe.momentum:
                velocity.mul_(recipe.momentum).add_(slope, alpha=1 - recipe.dampening)
            if recipe.nesterov:
                slope.add_(velocity, alpha=recipe.momentum)
            elif recipe.momentum:
                slope = velocity
            value.addcmul_(slope, rate.view(along), value=-1)
        self.steps += 1

    def _slopes(self, rows: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        """Of the mean cross-entropy of the batch, by each of the parameters as they are now."""
        weight, bias = self.weight, self.bias
        if self.recipe.batch_norm:
            rows = nn.functional.batch_norm(
                rows, self.mean, self.variance, training=True, momentum=_BN_MOMENTUM, eps=_BN_EPS
            )
            weight, bias = weight * self.scale[:, None], bias + (weight @ self.shift[:, :, None]).squeeze(2)
        flat = weight.view(-1, weight.shape[2])  # (G·K, D)
        logits = torch.addmm(bias.view(-1, 1), flat, rows.T).view(*bias.shape, -1)  # (G, K, B)
        residual = torch.softmax(logits, 1)
        index = labels.view(1, 1, -1).expand(len(bias), 1, -1)
        residual.scatter_add_(1, index, residual.new_full((1, 1, 1), -1.0).expand_as(index)).div_(len(labels))
        of_weight = (residual.view(len(flat), -1) @ rows).view_as(weight)
        of_bias = residual.sum(2)
        if not self.recipe.batch_norm:
            return [of_weight, of_bias]
        of_scale = (of_weight * self.weight).sum(1)  # of_weight is still that of the scaled weights
        of_shift = (of_bias[:, None] @ self.weight).squeeze(1)
        of_weight.mul_(self.scale[:, None]).addcmul_(of_bias[:, :, None], self.shift[:, None])
        return [of_weight, of_bias, of_scale, of_shift]

    def drop_diverged(self) -> list[int]:
        """Takes out the cells that are not finite any more, and says which they were."""
        largest = torch.stack([value.abs().flatten(1).amax(1) for value, _ in self._parameters()]).amax(0)
        kept = (largest < _LARGEST).cpu()  # not so for NaN either
        if bool(kept.all()):
            return []
        chosen = kept.nonzero().squeeze(1).to(self.lr.device)
        self.velocity = [velocity[chosen] for velocity in self.velocity]
        for name in ("weight", "bias", "lr", "decay", "scale", "shift"):
            setattr(self, name, getattr(self, name)[chosen])
        gone = [place for place, stays in zip(self.places, kept.tolist(), strict=True) if not stays]
        self.places = [place for place in self.places if place not in gone]
        return gone

    def linears(self) -> Iterator[tuple[int, Linear]]:
        """Position, weights (K, D') and biases (K,) of every living cell, batch normalisation as in evaluation."""
        spread = (self.variance.double() + _BN_EPS).sqrt()
        for i, place in enumerate(self.places):
            weight, bias = self.weight[i].double(), self.bias[i].double()
            if self.recipe.batch_norm:
                factor = self.scale[i] / spread  # (D',)
                bias = bias + weight @ (self.shift[i] - self.mean * factor)
                weight = weight * factor
            yield place, (weight.to(self.like), bias.to(self.like))
