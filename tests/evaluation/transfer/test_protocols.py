"""The numbers of the papers' fine-tuning, and learning rates at key steps."""

from __future__ import annotations

import pytest
import torch

import richrep
from richrep.data.augment import RandomView
from richrep.errors import RichrepError
from richrep.evaluation.transfer import FINETUNE_PROTOCOLS
from richrep.evaluation.transfer.protocol import FinetuneProtocol


def lrs(protocol: FinetuneProtocol, dataset: str, steps_per_epoch: int) -> list[float]:
    """Of the first step of every epoch, in the protocol's first cell; all steps of an epoch must have it."""
    options = protocol.cells(dataset)[0]
    total = options.epochs * steps_per_epoch
    every = [
        options.schedule.lr(step, base_lr=options.optimizer.lr, steps_per_epoch=steps_per_epoch, num_steps=total)
        for step in range(total)
    ]
    epochs = [every[start : start + steps_per_epoch] for start in range(0, total, steps_per_epoch)]
    assert all(len(set(epoch)) == 1 for epoch in epochs)
    return [epoch[0] for epoch in epochs]


@pytest.mark.parametrize("name", FINETUNE_PROTOCOLS)
def test_a_protocol_goes_by_its_name_and_says_where_its_numbers_are_from(name: str) -> None:
    protocol = FINETUNE_PROTOCOLS[name]
    assert protocol.name == name and len(protocol.source) > 20
    assert len(protocol.cells("anything")) == len(protocol.lrs) * len(protocol.weight_decays)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: richrep.finetune(["random/resnet20"], "digits", protocol="rrl-finetun"),
            r"protocol 'rrl-finetun'\. Did you mean 'rrl-finetune'",
        ),
        (
            lambda: richrep.two_stage(["random/resnet20", "random/resnet32"], "digits", stage2=["two-stage"]),
            "Unknown protocol of stage 2 'two-stage'",
        ),
        (
            lambda: richrep.distill(["random/resnet20"], ["resnet20"], "digits", protocol="rrl"),
            "Unknown protocol 'rrl'.*rrl-distill",
        ),
        (
            lambda: richrep.two_stage("random/resnet20", "digits", stage2="logistic"),
            "Unknown protocol of stage 2 'logistic'",
        ),
        (lambda: richrep.finetune("random/resnet20", "digits", joint=True), "give at least two"),
        (lambda: richrep.finetune(["random/resnet20"], "digits", seed=-1), "-1 is no seed"),
        (lambda: richrep.probe("resnet2O", "digits"), "Unknown backbone 'resnet2O'"),
    ],
)
def test_names_do_for_protocols_one_for_several_and_mistakes_are_said(call, message) -> None:
    with pytest.raises(RichrepError, match=message):
        call()


def test_rrl_fine_tunes_as_its_scripts_say() -> None:
    # 8 x 32 images, SGD 0.9 without nesterov, lr 0.01, 100 epochs, cosine to 1e-7, --wd_skip_bn, headinit none
    protocol = FINETUNE_PROTOCOLS["rrl-finetune"]
    options = protocol.options
    assert (options.epochs, options.batch_size, options.head_init) == (100, 256, "default")
    assert (options.optimizer.name, options.optimizer.momentum, options.optimizer.nesterov) == ("sgd", 0.9, False)
    assert (options.groups.decay_norms, options.groups.decay_biases, options.groups.head_lr) == (False, True, None)
    assert [cell.optimizer.weight_decay for cell in protocol.cells("cifar10")] == [0.0, 1e-5, 1e-4, 5e-4]
    assert [cell.optimizer.weight_decay for cell in protocol.cells("inaturalist")] == [1e-6, 1e-5, 1e-4]
    assert {cell.optimizer.lr for cell in protocol.cells("cifar100")} == {0.01}
    assert protocol.cells("cifar100")[0].view == RandomView(scale=(0.8, 1.0))
    assert options.clip_norm is None and options.label_smoothing == 0 and not options.mix.mixes


def test_rrls_learning_rates_are_those_of_torchs_cosine() -> None:
    found = lrs(FINETUNE_PROTOCOLS["rrl-finetune"], "cifar10", 3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=1e-7)
    expected = []
    for _ in range(100):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert found == pytest.approx(expected, rel=1e-9)
    assert found[50] == pytest.approx((0.01 + 1e-7) / 2)  # half way


def test_the_sparse_study_fine_tunes_as_its_main_says() -> None:
    protocol = FINETUNE_PROTOCOLS["sparse-finetune"]
    options = protocol.options
    assert (options.epochs, options.batch_size, options.head_init) == (150, 64, "default")
    assert (options.optimizer.name, options.optimizer.momentum, options.optimizer.nesterov) == ("sgd", 0.9, False)
    assert (options.groups.decay_norms, options.groups.decay_biases) == (True, True)
    assert protocol.weight_decays == (5e-4,) and options.norm_layers == "train"


@pytest.mark.parametrize(
    ("dataset", "lr"), [("cifar10", 0.001), ("caltech101", 0.001), ("fgvc_aircraft", 0.01), ("stanford_cars", 0.01)]
)
def test_the_sparse_studys_learning_rate_falls_at_epochs_51_and_101(dataset: str, lr: float) -> None:
    expected = [lr] * 51 + [lr / 10] * 50 + [lr / 100] * 49
    assert lrs(FINETUNE_PROTOCOLS["sparse-finetune"], dataset, 2) == pytest.approx(expected, rel=1e-9)


def test_our_default_warms_up_for_an_epoch_and_falls_to_zero() -> None:
    options = FINETUNE_PROTOCOLS["default"].options

    def at(step: int) -> float:
        return options.schedule.lr(step, base_lr=1.0, steps_per_epoch=10, num_steps=200)

    # 10 steps of warm-up: 1/10, …, 1; the remaining 190 follow half a cosine
    assert [at(0), at(9), at(10), at(105), at(200)] == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.0])
    assert {cell.optimizer.lr for cell in FINETUNE_PROTOCOLS["default"].cells("digits")} == {0.003, 0.01, 0.03}


def test_a_learning_rate_out_of_range_is_refused() -> None:
    from dataclasses import replace

    with pytest.raises(RichrepError, match=r"lr must be a number >= 0, got -0\.1"):
        replace(FINETUNE_PROTOCOLS["default"], lrs=(0.1, -0.1)).cells("digits")
