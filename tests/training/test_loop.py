"""The training loop: schedule by hand, batches, and losses that diverge."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from richrep.data.datasets import load_split
from richrep.data.preprocessing import Geometry
from richrep.errors import RichrepError
from richrep.training.loop import cosine_lr, load_pixels, shuffled_batches, train_steps


def test_the_learning_rate_warms_up_and_follows_half_a_cosine() -> None:
    factors = [cosine_lr(step, num_steps=8, warmup_steps=4) for step in range(8)]
    # 1/4, 2/4, 3/4, 4/4, then (1 + cos(pi·k/4)) / 2 for k = 0 … 3
    half = math.sqrt(0.5)
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, (1 + half) / 2, 0.5, (1 - half) / 2])
    assert cosine_lr(8, num_steps=8, warmup_steps=4) == pytest.approx(0.0)


def test_without_a_warm_up_the_cosine_starts_at_once() -> None:
    assert cosine_lr(0, num_steps=2, warmup_steps=0) == 1.0
    assert cosine_lr(1, num_steps=2, warmup_steps=0) == pytest.approx(0.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_epoch_holds_every_image_at_most_once_and_no_short_batch() -> None:
    batches = list(itertools.islice(shuffled_batches(10, 4, generator()), 6))  # three epochs of two batches
    assert [len(batch) for batch in batches] == [4] * 6
    epochs = [torch.cat(batches[i : i + 2]).tolist() for i in (0, 2, 4)]
    assert [len(set(epoch)) for epoch in epochs] == [8, 8, 8]
    assert epochs[0] != epochs[1]
    assert {row for epoch in epochs for row in epoch} <= set(range(10))


def test_batches_that_fit_hold_every_image_once_an_epoch() -> None:
    rows = torch.cat(list(itertools.islice(shuffled_batches(6, 2, generator()), 3)))
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 4, 5]


def test_the_seed_decides_the_order() -> None:
    first, again, other = (next(shuffled_batches(50, 50, generator(seed))).tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_a_batch_size_out_of_range_is_refused(batch_size: int) -> None:
    with pytest.raises(RichrepError, match=rf"batch_size must be in \[1, 10\].*got {batch_size}\."):
        next(shuffled_batches(10, batch_size, generator()))


@pytest.mark.parametrize("batch_size", [1, 10])
def test_the_ends_of_the_range_are_allowed(batch_size: int) -> None:
    assert len(next(shuffled_batches(10, batch_size, generator()))) == batch_size


def batches_of(value: float):
    return itertools.repeat((torch.tensor([value]), torch.tensor([0])))


def test_steps_follow_the_gradient_and_the_factor() -> None:
    weight = torch.nn.Parameter(torch.tensor(1.0))
    losses = train_steps(
        lambda images, labels: 0.5 * weight**2 * images.sum(),  # gradient: weight
        batches_of(1.0),
        torch.optim.SGD([weight], lr=0.5),
        num_steps=3,
        lr_factor=lambda step: [1.0, 0.5, 0.0][step] if step < 3 else 0.0,
    )
    # 1 -> 1 - 0.5·1 = 0.5 -> 0.5 - 0.25·0.5 = 0.375 -> unchanged; losses before each step: w²/2
    assert losses == pytest.approx([0.5, 0.125, 0.0703125])
    assert weight.item() == pytest.approx(0.375)


def test_no_steps_change_nothing() -> None:
    weight = torch.nn.Parameter(torch.tensor(1.0))
    assert train_steps(lambda i, t: weight**2, batches_of(1.0), torch.optim.SGD([weight], lr=1.0), num_steps=0) == []
    assert weight.item() == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverging_loss_is_an_error_and_takes_no_step(bad: float) -> None:
    weight = torch.nn.Parameter(torch.tensor(1.0))
    values = iter([1.0, bad])
    with pytest.raises(RichrepError, match=f"The loss is {bad} at step 1: training diverged. Lower the learning rate"):
        train_steps(
            lambda images, labels: weight * next(values),
            batches_of(1.0),
            torch.optim.SGD([weight], lr=0.1),
            num_steps=5,
        )
    assert weight.item() == pytest.approx(0.9)  # of the first step alone


def test_pixels_are_those_of_the_split_in_its_order() -> None:
    split = load_split("digits", "train").first(5)
    pixels = load_pixels(split, Geometry((8, 8), 8))
    assert pixels.shape == (5, 8, 8, 3) and pixels.dtype == torch.uint8
    assert pixels[3, 2, 5].tolist() == list(split.load_image(3).getpixel((5, 2)))  # PIL counts columns first
