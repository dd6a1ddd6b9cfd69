"""What every training method keeps, whatever its loss: one loop, the same promises."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from richrep import training
from richrep.backbones.backbone import Backbone
from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.augment import RandomView
from richrep.data.datasets import load_split
from richrep.errors import DivergedError
from richrep.training.distill import DistillOptions, distill
from richrep.training.finetune import FinetuneOptions, finetune
from richrep.training.optimizers import OptimizerOptions
from richrep.training.pretrain import pretrain_supervised
from richrep.training.teachers import choose_matches

SPLIT = load_split("digits", "train").first(40)
STEPS = 6  # two epochs of 16, 16 and 8 images
SGD = OptimizerOptions("sgd", lr=0.05)
Method = Callable[..., Sequence[nn.Module]]


def network(seed: int) -> Backbone:
    return make_small_cnn(10, widths=(4, 8), seed=seed)


def tune(given: Sequence[Backbone], *, seed: int, lr: float, more: dict[str, Any] | None = None, **options: Any):
    optimizer = replace(SGD, lr=lr)
    wanted = FinetuneOptions(
        epochs=2, batch_size=16, optimizer=optimizer, view=RandomView(), checkpoint_every=2, **options
    )
    made = finetune(given, SPLIT, wanted, seed=seed, device="cpu", **(more or {}))
    return [*(member.trunk for member in made.members), made.head]


def alone(given: Sequence[Backbone], **options: Any) -> Sequence[nn.Module]:
    return tune(given[:1], **options)


def jointly(given: Sequence[Backbone], **options: Any) -> Sequence[nn.Module]:
    return tune(given, **options)


def head_alone(given: Sequence[Backbone], **options: Any) -> Sequence[nn.Module]:
    return tune(given, freeze_trunk=True, **options)


def taught(given: Sequence[Backbone], *, seed: int, lr: float, more: dict[str, Any] | None = None):
    options = DistillOptions(
        epochs=2, batch_size=16, optimizer=replace(SGD, lr=lr), num_views=0, heads="average", checkpoint_every=2
    )
    matches = choose_matches(given[1:], "kl")
    made = distill(given[0], matches, SPLIT, options, seed=seed, device="cpu", **(more or {}))
    return [made.student.trunk, made.head]


def pretrained(given: Sequence[Backbone], *, seed: int, lr: float, more: dict[str, Any] | None = None):
    made = pretrain_supervised(given[0], SPLIT, num_steps=STEPS, batch_size=16, lr=lr, seed=seed)
    return [made.trunk, made.head]


METHODS: dict[str, Method] = {
    "finetune": alone,
    "init-cat": jointly,
    "second stage": head_alone,
    "distill": taught,
    "pretrain": pretrained,
}
GOES_ON = [name for name in METHODS if name != "pretrain"]  # which takes seconds and keeps no state


def run(name: str, *, seed: int = 0, lr: float = 0.05, **more: Any) -> torch.Tensor:
    """The weights that the method makes of two networks, in one row."""
    parts = METHODS[name]([network(1), network(2)], seed=seed, lr=lr, **({"more": more} if more else {}))
    return torch.cat([tensor.flatten().float() for part in parts for tensor in part.state_dict().values()])


@pytest.mark.parametrize("name", METHODS)
def test_the_seed_alone_decides_the_weights_and_global_generators_do_not(name: str) -> None:
    torch.manual_seed(1)
    first = run(name)
    after = torch.rand(1)
    torch.manual_seed(1)
    torch.rand(7)
    assert torch.equal(run(name), first)
    assert not torch.equal(run(name, seed=1), first)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)  # and they are left as they were


@pytest.mark.parametrize("name", METHODS)
def test_what_is_given_stays_as_it_is_and_what_is_made_is_in_evaluation_mode(name: str) -> None:
    given = [network(1), network(2)]
    before = [one.fingerprint for one in given]
    given[0].trunk.train()
    parts = METHODS[name](given, seed=0, lr=0.05)
    assert [one.fingerprint for one in given] == before and given[0].trunk.training
    assert not any(module.training for part in parts for module in part.modules())


@pytest.mark.parametrize("name", METHODS)
def test_a_rate_that_is_too_high_is_said(name: str) -> None:
    with pytest.raises(DivergedError, match=r"training diverged. Lower the learning rate, here 1e\+38"):
        run(name, lr=1e38)


class Kill(Exception):
    """In place of a signal."""


@pytest.mark.parametrize("name", GOES_ON)
def test_progress_is_heard_after_every_step_and_a_kill_costs_nothing_but_time(name: str, tmp_path: Path) -> None:
    heard: list[int] = []
    whole = run(name, on_progress=lambda progress: heard.append(progress.step))
    assert heard == list(range(1, STEPS + 1))

    def stop(progress: Any) -> None:
        if progress.step == 5:  # between two states
            raise Kill

    with pytest.raises(Kill):
        run(name, state_path=tmp_path / "state.pt", on_progress=stop)
    heard.clear()
    again = run(name, state_path=tmp_path / "state.pt", on_progress=lambda progress: heard.append(progress.step))
    assert torch.equal(again, whole) and heard == [5, 6]


def test_no_method_is_missing() -> None:
    """Every file that runs the loop has a member above."""
    folder = Path(training.__file__).parent
    runs_loop = {path.stem for path in folder.glob("*.py") if re.search(r"loop import .*\btrain\b", path.read_text())}
    assert runs_loop == {"finetune", "distill", "pretrain"}
