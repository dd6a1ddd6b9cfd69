"""The softmax cross-entropy of many heads at once, accurate where a sample is nearly certain."""

from __future__ import annotations

import torch

# exp(-60) = 9e-27 adds nothing to a loss; kept, such terms become denormal numbers, which processors multiply 100x
# more slowly.
_NEGLIGIBLE = -60.0


def cross_entropy_and_residual_(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropies (A, B) of A heads; `logits` (A, K, B) become the residuals softmax - one-hot, in place.

    With d = logits - logits of the true class, the loss is log1p of the sum of exp(d) over the other classes. Neither
    it nor the residual of the true class, minus that sum over 1 plus it, subtracts two nearly equal numbers, so both
    keep their relative accuracy when the sample is fitted almost perfectly (weak penalties, separable classes).
    """
    index = labels.view(1, 1, -1).expand(len(logits), 1, -1)  # (A, 1, B)
    logits.sub_(logits.gather(1, index))
    logits.scatter_(1, index, -torch.inf)
    peak = logits.amax(1, keepdim=True).clamp_(min=0)  # (A, 1, B): 0 where the true class leads
    torch.threshold_(logits.sub_(peak), _NEGLIGIBLE, -torch.inf)
    odds = logits.exp_()  # the true class holds 0
    others = odds.sum(1, keepdim=True)  # (A, 1, B)
    total = others + torch.exp(-peak)
    losses = torch.where(peak == 0, torch.log1p(others), peak + torch.log(total))
    odds.div_(total)
    odds.scatter_(1, index, -others / total)
    return losses.squeeze(1)
