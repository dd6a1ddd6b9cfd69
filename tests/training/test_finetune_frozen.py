"""Training a head on frozen networks: they stay, no state holds them, the head is what a linear layer learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from richrep.backbones.backbone import Backbone
from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.datasets import load_split
from richrep.data.split import Split
from richrep.features.extract import extract_features
from richrep.training.batches import ImageBatches
from richrep.training.finetune import Finetuned, FinetuneOptions, finetune, joined
from richrep.training.loop_values import TrainingProgress
from richrep.training.optimizers import OptimizerOptions
from richrep.training.schedules import Schedule
from richrep.training.state import load_state

OPTIONS = FinetuneOptions(
    epochs=2,
    batch_size=16,
    optimizer=OptimizerOptions("sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    schedule=Schedule("constant"),
    head_init="cat-weights",
    view=None,
    freeze_trunk=True,
)


@pytest.fixture(scope="module")
def digits() -> Split:
    return load_split("digits", "train").first(40)  # steps of 16, 16 and 8 images


@pytest.fixture
def members() -> list[Backbone]:
    return [make_small_cnn(10, widths=(8, 8 + 4 * seed), seed=seed) for seed in range(2)]


def tensors_of(members: list[Backbone]) -> list[torch.Tensor]:
    return [tensor.clone() for member in members for tensor in member.trunk.state_dict().values()]


def test_the_networks_and_their_statistics_stay_and_the_head_moves(digits: Split, members: list[Backbone]) -> None:
    before = tensors_of(members)
    made = finetune(members, digits, OPTIONS, seed=0)
    for network in (members, list(made.members)):
        assert all(torch.equal(a, b) for a, b in zip(before, tensors_of(network), strict=True))
    assert all(p.requires_grad for member in members for p in member.trunk.parameters())
    start = finetune(members, digits, OPTIONS, seed=0, num_steps=0).head
    assert not torch.equal(made.head.weight, start.weight)


def test_the_head_is_that_of_a_linear_layer_on_the_features(digits: Split, members: list[Backbone]) -> None:
    made = finetune(members, digits, OPTIONS, seed=3)
    features = torch.cat([extract_features(member, digits).features[:] for member in members], dim=1)
    start = finetune(members, digits, OPTIONS, seed=3, num_steps=0).head
    layer = nn.Linear(features.shape[1], 10)
    layer.load_state_dict(start.state_dict())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    batches = ImageBatches(digits, members[0].preprocessing, 16, seed=3)
    for step in range(6):
        rows = batches.rows(step)
        loss = F.cross_entropy(layer(features[rows]), torch.from_numpy(digits.labels[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(made.head.weight, layer.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.head.bias, layer.bias, rtol=1e-4, atol=1e-5)


class Stopped(Exception):
    """Raised in place of a kill."""


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_stopped_training_goes_on_bit_by_bit_from_a_state_without_the_networks(
    ema_decay: float | None, digits: Split, members: list[Backbone], tmp_path: Path
) -> None:
    options = replace(OPTIONS, checkpoint_every=1, ema_decay=ema_decay)

    def run(stop_at: int | None) -> Finetuned:
        def stop(progress: TrainingProgress) -> None:
            if progress.step == stop_at:
                raise Stopped

        return finetune(members, digits, options, seed=0, state_path=tmp_path / "state.pt", on_progress=stop)

    with pytest.raises(Stopped):
        run(4)
    state = load_state(tmp_path / "state.pt")
    assert state is not None and state.step == 4 and state.objective is not None
    assert set(state.objective) == {"head.1.weight", "head.1.bias"}
    assert not any("trunk" in name for name in (state.ema or {}))
    whole = finetune(members, digits, options, seed=0)
    gone_on = run(None)
    assert torch.equal(gone_on.head.weight, whole.head.weight) and torch.equal(gone_on.head.bias, whole.head.bias)


def test_without_steps_the_logits_are_the_mean_of_the_members(digits: Split, members: list[Backbone]) -> None:
    head = finetune(members, digits, OPTIONS, seed=0, num_steps=0).head
    one = extract_features(joined(members, head), digits, layer="logits").features[:]
    logits = [extract_features(member, digits, layer="logits").features[:] for member in members]
    torch.testing.assert_close(one, torch.stack(logits).mean(0), rtol=1e-5, atol=1e-6)
