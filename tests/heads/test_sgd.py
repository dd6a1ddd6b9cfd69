"""What SgdHead adds to the contract of a head: many cells, views, divergence, batch normalisation folded in."""

from __future__ import annotations

import pytest
import torch

from richrep.errors import DivergedError, FeatureError
from richrep.features.memory import FRUGAL
from richrep.heads.sgd import SgdHead
from richrep.heads.sgd_grid import SgdCell

OPTIONS = {"epochs": 8, "batch_size": 16}


def make_data(n: int = 60, d: int = 5, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % k
    return torch.randn(n, d, generator=generator) + 2 * torch.randn(k, d, generator=generator)[labels], labels


def test_the_heads_of_a_grid_are_those_fitted_alone() -> None:
    features, labels = make_data()
    cells = [SgdCell(0.1, 0.0), SgdCell(0.1, 0.5), SgdCell(0.01, 0.0, seed=3)]
    head = SgdHead(**OPTIONS, normalization="standard", batch_norm=True)
    found = head.along(features, labels, cells, num_classes=3)
    assert [(h.lr, h.weight_decay, h.seed) for h in found.heads] == [(0.1, 0.0, 0), (0.1, 0.5, 0), (0.01, 0.0, 3)]
    for one in found.heads:
        alone = SgdHead(**one.get_params()).fit(features, labels, num_classes=3)
        torch.testing.assert_close(one.logits(features), alone.logits(features), rtol=1e-4, atol=1e-5)
    assert not found.diverged


def test_batch_normalisation_makes_up_for_the_scale_of_the_columns() -> None:
    features, labels = make_data()
    head = SgdHead(**OPTIONS, batch_norm=True).fit(features, labels, num_classes=3)
    scaled = features * torch.tensor([1.0, 100.0, 0.1, 5.0, 1.0]) + 10
    other = SgdHead(**OPTIONS, batch_norm=True).fit(scaled, labels, num_classes=3)
    # the running statistics begin at mean 0 and variance 1, so the agreement is of the training, not of the last digits
    assert (other.logits(scaled).argmax(1) == head.logits(features).argmax(1)).double().mean() > 0.9


def test_the_same_seed_gives_the_same_head_and_another_seed_another() -> None:
    features, labels = make_data()
    one, two, other = (
        SgdHead(**OPTIONS, seed=seed).fit(features, labels, num_classes=3).logits(features) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.allclose(one, other, atol=1e-3)


def test_views_are_trained_on_in_place_of_the_features() -> None:
    features, labels = make_data()
    moved = features + 1
    expected = SgdHead(**OPTIONS).fit(moved, labels, num_classes=3)
    head = SgdHead(**OPTIONS).fit(features, labels, num_classes=3, views=[moved])
    torch.testing.assert_close(head.weight_, expected.weight_)
    assert head.solver_["views"] == 1
    two = SgdHead(**OPTIONS).fit(features, labels, num_classes=3, views=[features, moved])
    assert two.solver_["views"] == 2
    assert not torch.allclose(two.weight_, head.weight_, atol=1e-3)


def test_views_of_another_shape_are_refused() -> None:
    features, labels = make_data()
    with pytest.raises(FeatureError, match=r"the shape of the features, \(60, 5\), got \(59, 5\)"):
        SgdHead().fit(features, labels, num_classes=3, views=[features[:59]])


def test_a_learning_rate_that_is_too_high_is_named() -> None:
    features, labels = make_data()
    with pytest.raises(DivergedError, match=r"SGD diverged: lr=1e\+30 weight_decay=0.1 seed=0 in epoch 0\. Lower"):
        SgdHead(1e30, 0.1, **OPTIONS).fit(features, labels, num_classes=3)
    found = SgdHead(**OPTIONS).along(features, labels, [SgdCell(1e30), SgdCell(0.1)], num_classes=3)
    assert [head.lr for head in found.heads] == [0.1]
    assert found.say_diverged() == ["lr=1e+30 weight_decay=0 seed=0 in epoch 0"]


def test_every_epoch_can_be_looked_at() -> None:
    features, labels = make_data()
    seen: dict[int, torch.Tensor] = {}
    head = SgdHead(**OPTIONS)
    options = {"num_classes": 3, "on_epoch": lambda epoch, now: seen.__setitem__(epoch, now.logits(features))}
    head.along(features, labels, [SgdCell(0.1)], **options)
    assert list(seen) == list(range(8))
    three = SgdHead(0.1, epochs=3, batch_size=16).fit(features, labels, num_classes=3)
    torch.testing.assert_close(seen[2], three.logits(features))


def test_what_is_not_kept_in_memory_is_streamed_to_the_same_result() -> None:
    features, labels = make_data()
    little = FRUGAL.__class__(kept=0)
    for normalization in ("none", "standard", "l2"):
        head = SgdHead(**OPTIONS, normalization=normalization).fit(features.half(), labels, num_classes=3)
        streamed = SgdHead(**OPTIONS, normalization=normalization)
        streamed.fit(features.half(), labels, num_classes=3, memory=little)
        assert (head.solver_["samples"], streamed.solver_["samples"]) == ("kept", "streamed")
        torch.testing.assert_close(streamed.logits(features), head.logits(features))


@pytest.mark.parametrize("cell", [SgdCell(0.0), SgdCell(0.1, -1.0), SgdCell(0.1, 0.0, -1), SgdCell(float("inf"))])
def test_a_cell_that_is_none_is_refused(cell: SgdCell) -> None:
    with pytest.raises(ValueError, match=f"lr must be > 0, .* got lr={cell.lr}, .* seed={cell.seed}"):
        SgdHead().along(*make_data(), [cell], num_classes=3)
