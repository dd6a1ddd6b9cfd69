"""Many cells at once against torch.optim.SGD on the same batches, and against each cell alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

from richrep.errors import RichrepError
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.rows import Rows
from richrep.heads.sgd_grid import SgdCell, SgdRecipe, batches_of_epoch, first_linear, train_cells

N, D, K = 70, 6, 4
CELLS = [SgdCell(lr, decay, seed) for lr, decay, seed in product((0.05, 0.5), (0.0, 0.1), (0, 7))]


def make_data(views: int = 1) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(N) % K
    base = torch.randn(N, D, generator=generator) * 2 + torch.randn(K, D, generator=generator)[labels] + 1
    return [base + 0.3 * v * torch.randn(N, D, generator=generator) for v in range(views)], labels


def torch_loop(views: list[torch.Tensor], labels: torch.Tensor, cell: SgdCell, recipe: SgdRecipe) -> nn.Sequential:
    """The outside truth: nn.Linear and BatchNorm1d under torch.optim.SGD and autograd, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(cell.seed)
        linear = nn.Linear(D, K)  # draws weight, then bias
    if recipe.init == "normal":
        nn.init.normal_(linear.weight, std=0.01, generator=torch.Generator().manual_seed(cell.seed))
        nn.init.zeros_(linear.bias)
    norm = nn.BatchNorm1d(D) if recipe.batch_norm else nn.Identity()
    model = nn.Sequential(norm, linear)
    decays = {"weight_decay": cell.weight_decay}
    groups = [
        {"params": [linear.weight], **decays},
        {"params": [linear.bias], "weight_decay": cell.weight_decay * recipe.decay_bias},
        {"params": list(norm.parameters()), "weight_decay": cell.weight_decay * recipe.decay_batch_norm},
    ]
    options = {"momentum": recipe.momentum, "nesterov": recipe.nesterov, "dampening": recipe.dampening}
    optimizer = torch.optim.SGD([group for group in groups if group["params"]], lr=cell.lr, **options)
    steps = 0
    for epoch in range(recipe.epochs):
        for batch in batches_of_epoch(len(labels), recipe, seed=cell.seed, epoch=epoch):
            for group in optimizer.param_groups:
                group["lr"] = cell.lr * recipe.factor(epoch, steps)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(views[epoch % len(views)][batch]), labels[batch]).backward()
            optimizer.step()
            steps += 1
    return model.eval()


RECIPES = {
    "plain": SgdRecipe(epochs=6, batch_size=16, momentum=0.0),
    "momentum": SgdRecipe(epochs=6, batch_size=16),
    "nesterov": SgdRecipe(epochs=6, batch_size=16, nesterov=True),
    "dampening": SgdRecipe(epochs=6, batch_size=16, dampening=0.9),
    "bias undecayed": SgdRecipe(epochs=6, batch_size=16, decay_bias=False),
    "normal": SgdRecipe(epochs=6, batch_size=16, init="normal"),
    "batch norm": SgdRecipe(epochs=6, batch_size=16, batch_norm=True),
    "batch norm undecayed, nesterov": SgdRecipe(
        epochs=6, batch_size=16, batch_norm=True, decay_batch_norm=False, nesterov=True, init="normal"
    ),
    "factor an epoch": SgdRecipe(epochs=6, batch_size=16, lr_factors=(1, 1, 0.5, 0.5, 0.1, 0.1)),
    "factor a step": SgdRecipe(epochs=6, batch_size=16, lr_factors=lambda step: 1 / (1 + step), lr_per="step"),
    "one row left": SgdRecipe(epochs=6, batch_size=23, batch_norm=True),  # 70 = 3·23 + 1
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_cell_is_what_torch_makes_of_it_on_the_same_batches(name: str) -> None:
    recipe = RECIPES[name]
    views, labels = make_data()
    trained = train_cells(views, labels, CELLS, recipe, num_classes=K, memory=FRUGAL)
    for found in trained:
        model = torch_loop(views, labels, found.cell, recipe)
        logits = views[0] @ found.linear[0].T + found.linear[1]
        torch.testing.assert_close(logits, model(views[0]).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["nesterov", "batch norm"])
def test_a_slice_is_what_the_cell_alone_becomes(name: str) -> None:
    views, labels = make_data()
    together = train_cells(views, labels, CELLS, RECIPES[name], num_classes=K, memory=FRUGAL)
    for found in together:
        (alone,) = train_cells(views, labels, [found.cell], RECIPES[name], num_classes=K, memory=FRUGAL)
        for one, other in zip(found.linear, alone.linear, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_groups_that_fit_a_small_memory_give_the_same() -> None:
    views, labels = make_data()
    recipe = RECIPES["nesterov"]
    whole = train_cells(views, labels, CELLS, recipe, num_classes=K, memory=FRUGAL)
    parts = train_cells(views, labels, CELLS, recipe, num_classes=K, memory=replace(FRUGAL, state=1))
    for one, other in zip(whole, parts, strict=True):
        assert one.cell == other.cell
        torch.testing.assert_close(one.linear[0], other.linear[0], rtol=1e-4, atol=1e-5)


def test_a_limit_too_small_for_one_cell_is_said() -> None:
    features, labels = torch.zeros(4, 1000), torch.tensor([0, 1, 2, 3])
    budget = replace(MemoryBudget.of("100MB"), state=1000)
    with pytest.raises(RichrepError, match="training a head of 4 classes on 1,000 features takes 0 MB"):
        train_cells([features], labels, CELLS[:1], SgdRecipe(), num_classes=4, memory=budget)


def test_epochs_cycle_through_the_views() -> None:
    views, labels = make_data(views=3)
    recipe = replace(RECIPES["batch norm"], epochs=5)
    (found,) = train_cells(views, labels, CELLS[:1], recipe, num_classes=K, memory=FRUGAL)
    model = torch_loop(views, labels, CELLS[0], recipe)
    torch.testing.assert_close(views[0] @ found.linear[0].T + found.linear[1], model(views[0]).detach())
    (other,) = train_cells(views[:1], labels, CELLS[:1], recipe, num_classes=K, memory=FRUGAL)
    assert not torch.allclose(found.linear[0], other.linear[0], atol=1e-3)


def test_a_cell_that_diverges_stops_and_leaves_the_others_alone() -> None:
    views, labels = make_data()
    recipe = RECIPES["momentum"]
    cells = [CELLS[0], SgdCell(10.0, 100.0), CELLS[2], SgdCell(1e30)]
    seen: list[tuple[int, int]] = []
    options = {"num_classes": K, "memory": FRUGAL}
    trained = train_cells(
        views, labels, cells, recipe, on_epoch=lambda epoch, place, _: seen.append((epoch, place)), **options
    )
    assert [found.linear is None for found in trained] == [False, True, False, True]
    assert trained[1].diverged_in is not None and 0 <= trained[1].diverged_in < 6
    assert trained[3].diverged_in == 0
    assert [place for epoch, place in seen if epoch == 5] == [0, 2]
    for place in (0, 2):
        (alone,) = train_cells(views, labels, [cells[place]], recipe, **options)
        torch.testing.assert_close(trained[place].linear[0], alone.linear[0], rtol=1e-4, atol=1e-5)


def test_when_all_diverge_training_ends_with_nothing() -> None:
    views, labels = make_data()
    trained = train_cells(views, labels, [SgdCell(1e30)] * 2, RECIPES["plain"], num_classes=K, memory=FRUGAL)
    assert [found.linear for found in trained] == [None, None]


def test_rows_side_by_side_in_half_precision_are_read_by_the_batch() -> None:
    views, labels = make_data()
    halves = Rows([views[0][:, :2].half(), views[0][:, 2:].half()])
    plain = torch.cat(halves.members, dim=1).float()
    recipe = RECIPES["momentum"]
    (streamed,) = train_cells([halves], labels, CELLS[:1], recipe, num_classes=K, memory=FRUGAL)
    (kept,) = train_cells([plain], labels, CELLS[:1], recipe, num_classes=K, memory=FRUGAL)
    torch.testing.assert_close(streamed.linear[0], kept.linear[0])


def test_batches_hold_every_row_once_and_the_last_is_what_is_left() -> None:
    recipe = SgdRecipe(batch_size=16)
    batches = batches_of_epoch(70, recipe, seed=3, epoch=2)
    assert [len(batch) for batch in batches] == [16, 16, 16, 16, 6]
    assert torch.cat(batches).sort().values.tolist() == list(range(70))
    again = batches_of_epoch(70, recipe, seed=3, epoch=2)
    assert all(torch.equal(one, two) for one, two in zip(batches, again, strict=True))
    assert not torch.equal(batches[0], batches_of_epoch(70, recipe, seed=3, epoch=3)[0])
    assert not torch.equal(batches[0], batches_of_epoch(70, recipe, seed=4, epoch=2)[0])


def test_one_row_left_joins_the_batch_before_under_batch_normalisation() -> None:
    recipe = SgdRecipe(batch_size=23, batch_norm=True)
    assert [len(batch) for batch in batches_of_epoch(70, recipe, seed=0, epoch=0)] == [23, 23, 24]
    plain = replace(recipe, batch_norm=False)
    assert [len(batch) for batch in batches_of_epoch(70, plain, seed=0, epoch=0)] == [23, 23, 23, 1]


def test_the_first_weights_are_torchs_and_depend_on_the_seed_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        linear = nn.Linear(D, K)
    weight, bias = first_linear("default", D, K, 5)
    torch.testing.assert_close(weight, linear.weight.detach())
    torch.testing.assert_close(bias, linear.bias.detach())
    weight, bias = first_linear("normal", 200, 50, 5)
    assert weight.std() == pytest.approx(0.01, rel=0.02)
    assert not bias.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1 .* got epochs=0"),
        ({"batch_size": 1, "batch_norm": True}, "batch_size at least 2 .* got epochs=100, batch_size=1"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\) .* got momentum=1.0"),
        ({"nesterov": True, "dampening": 0.5}, "nesterov needs momentum > 0 and dampening 0, got 0.9 and 0.5"),
        ({"init": "zeros"}, "init must be one of default, normal .* got init='zeros'"),
        ({"lr_per": "batch"}, "lr_per epoch or step, got .* lr_per='batch'"),
        ({"epochs": 3, "lr_factors": (1.0,)}, "one factor for each epoch, 3, got 1"),
        ({"epochs": 3, "batch_size": 35, "lr_factors": (1.0,) * 3, "lr_per": "step"}, "for each step, 6, got 3"),
    ],
)
def test_options_that_make_no_training_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SgdRecipe(**options).check(N)
