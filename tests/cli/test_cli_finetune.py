"""`richrep finetune`: options, tables and records, what is refused, and several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import richrep
from richrep.cli.training_options import changed
from richrep.data.augment import RandomView
from richrep.errors import DivergedError
from richrep.evaluation.transfer import FINETUNE_PROTOCOLS, finetune
from richrep.training.mix import MixOptions
from richrep.training.optimizers import OptimizerOptions
from richrep.training.schedules import Schedule

DEFAULT = FINETUNE_PROTOCOLS["default"]
COMMON = ["-d", "digits", "--train-size", 60, "--test-size", 20, "--preprocess", "size=8", "--device", "cpu"]
SMALL = ["finetune", "-b", "random/resnet20", *COMMON, "--epochs", 1, "--batch-size", 20, "--no-augment"]


def test_one_network_is_trained_kept_and_shown(cli, tmp_path: Path) -> None:
    outcome = cli(*SMALL, "--lr", 0.05, "--lr", 0.01, "--name", "mine", "--tracker", "tensorboard")
    assert outcome.code == 0, outcome.err
    assert "finetune(random-resnet20)" in outcome.out and "kind/protocol finetune/default" in outcome.out
    assert "run:mine" in outcome.err
    (record,) = richrep.load_records("runs")
    assert set(record.solver["tried"]) == {"lr 0.05, weight decay 0.0001", "lr 0.01, weight decay 0.0001"}
    options = yaml.safe_load(Path("runs/mine/options.yaml").read_text())
    assert options["protocol.options.epochs"] == 1 and options["protocol.lrs"] == [0.05, 0.01]
    assert sorted(path.name for path in Path("runs/mine/curves").iterdir()) == [
        "final", "lr_0.01__weight_decay_0.0001", "lr_0.05__weight_decay_0.0001"
    ]  # fmt: skip
    probed = cli("probe", "-b", "run:mine", *COMMON[:6], "--normalization", "none", "--own-head")
    assert probed.code == 0 and "mine" in probed.out  # loads like any other
    again = cli(*SMALL, "--lr", 0.05, "--lr", 0.01, "--name", "mine", "--json", "-")
    assert [found["id"] for found in json.loads(again.out)["records"]] == [record.id]
    refused = cli(*SMALL, "--lr", 0.05, "--name", "mine", "--label-smoothing", 0.1)
    assert refused.code == 2
    for text in ("lrs: [0.05, 0.01] then, [0.05] now", "label_smoothing: 0.0 then, 0.1 now", "--restart"):
        assert text in refused.message
    assert cli(*SMALL, "--lr", 0.05, "--name", "mine", "--restart").code == 0
    assert cli(*SMALL, "--lr", 0.05, "--name", "mine", "--checkpoint-steps", 1).code == 0  # decides no number
    assert "finetune(" in cli("results", "epochs=1").out and "finetune(" not in cli("results", "epochs=2").out


def test_two_seeds_and_joint_training_are_one_table(cli) -> None:
    two = ["-b", "random/resnet32", "--init-cat", "--lr", 0.05, "--seed", 0, "--seed", 1]
    outcome = cli(*SMALL, *two)
    assert outcome.code == 0, outcome.err
    assert "init-cat(random-resnet20+" in outcome.out.replace("\n", "") and "±" in outcome.out
    table = cli("results").out
    assert "init-cat/default" in table and "±" in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "defalt"], "Unknown protocol 'defalt'. Did you mean 'default'?"),
        (["--init-cat"], "give at least two with -b"),
        (["--lr", -1], "lr must be a number >= 0, got -1.0"),
        (["--weight-decay", -1], "weight_decay must be a number >= 0, got -1.0"),
        (["--optimizer", "adam"], "Unknown optimizer 'adam'. Did you mean 'adamw'"),
        (["--schedule", "cosin"], "Unknown schedule 'cosin'. Did you mean 'cosine'?"),
        (["--schedule", "step"], "--schedule step needs the epochs"),
        (["--schedule", "cosine", "--milestone", 3], "--milestone is of --schedule step, got --schedule cosine"),
        (["--milestone", 3, "--milestone", 2], "milestones must be epochs > 0 in increasing order"),
        (["--warmup-epochs", 5], "The warm-up lasts 5 epochs, training 1"),
        (["--head-init", "norml"], "Unknown head init 'norml'. Did you mean 'normal'?"),
        (["--layer-decay", 0], "layer_decay must be in (0, 1], 1 for none, got 0.0"),
        (["--label-smoothing", 1], "label_smoothing must be in [0, 1), got 1.0"),
        (["--norm-layers", "evl"], "Unknown mode of norm layers 'evl'. Did you mean 'eval'?"),
        (["--ema", 1], "must be in [0, 1), got 1.0"),
        (["--clip-norm", 0], "clip_norm must be a number > 0, got 0.0"),
        (["--crop-scale", 2], "0 < low <= high <= 1, got (2.0, 1.0)"),
        (["--crop-scale", 0.5], "--crop-scale is of the random crops that --no-augment leaves out"),
        (["--tracker", "tensorbord"], "Unknown tracker 'tensorbord'. Did you mean 'tensorboard'?"),
        (["--precision", "fp16"], "fp16 cannot train on the CPU. Use --precision bf16 or fp32"),
        (["--precision", "fp8"], "Unknown precision 'fp8'"),
        (["--device", "gpu"], "Device 'gpu' cannot be used"),
        (["--name", "../up"], "A run cannot be called '../up'"),
        (["--head-init", "from-checkpoint"], "has no head of its own"),
        (["--lr", 1e30, "--epochs", 3], "training diverged. Lower the learning rate, here 1e+30"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_what_cannot_be_used_is_refused_with_one_message(cli, options: list[object], message: str) -> None:
    outcome = cli(*(option for option in SMALL if option != "--no-augment" or options != ["--crop-scale", 2]), *options)
    assert outcome.code == 2 and message in outcome.message, outcome.message
    assert outcome.out == "" and not list(Path().glob("runs/*/model"))


def test_with_several_seeds_a_name_is_told_apart_by_them(cli) -> None:
    outcome = cli(*SMALL, "--name", "mine", "--seed", 0, "--seed", 1, "--lr", 0.01)
    assert outcome.code == 0, outcome.err
    assert sorted(path.parent.name for path in Path("runs").glob("*/model")) == ["mine-s0", "mine-s1"]


def test_a_network_that_diverges_leaves_the_others_and_exit_code_1(cli, checkpoints) -> None:
    wild = torch.load(checkpoints[0], weights_only=True)
    wild["state_dict"]["module.conv1.weight"].fill_(1e30)
    torch.save(wild, "wild.th")
    command = [*SMALL[:1], "-b", "wild.th", "-b", checkpoints[1], *SMALL[3:], "--norm-layers", "eval", "--lr", 0.05]
    outcome = cli(*command)
    assert outcome.code == 1, outcome.err
    assert len(richrep.load_records("runs")) == 1
    assert "finetune(resnet20:wild) was not measured: The loss is" in " ".join(outcome.out.split())


def test_a_seed_that_diverges_leaves_the_others(cli, monkeypatch) -> None:
    measure = finetune.finetune_run

    def diverging(*given, seed, **options):
        if seed == 1:
            raise DivergedError("The loss is nan at step 3")
        return measure(*given, seed=seed, **options)

    monkeypatch.setattr(finetune, "finetune_run", diverging)
    outcome = cli(*SMALL, "--lr", 0.01, "--seed", 0, "--seed", 1, "--seed", 2, "--json", "all.json")
    assert outcome.code == 1, outcome.err
    assert [record["seed"] for record in json.loads(Path("all.json").read_text())["records"]] == [0, 2]
    words = " ".join(outcome.out.split())
    assert "finetune(random-resnet20), seed 1 was not measured: The loss is nan at step 3" in words
    assert cli(*SMALL, "--lr", 0.01, "--seed", 1).code == 2  # nothing is measured


@pytest.mark.parametrize(
    ("given", "field", "expected"),
    [
        ({"epochs": 3}, "epochs", 3),
        ({"batch_size": 7}, "batch_size", 7),
        ({"head_init": "cat-weights"}, "head_init", "cat-weights"),
        ({"label_smoothing": 0.1}, "label_smoothing", 0.1),
        ({"norm_layers": "eval"}, "norm_layers", "eval"),
        ({"ema_decay": 0.9}, "ema_decay", 0.9),
        ({"clip_norm": 1.0}, "clip_norm", 1.0),
        ({"accumulate": 2}, "accumulate", 2),
        ({"early_stop": 3}, "early_stop", 3),
        ({"checkpoint_every": 9}, "checkpoint_every", 9),
        ({"mixup": 0.2}, "mix", MixOptions(mixup=0.2)),
        ({"cutmix": 0.2, "mixup": 0.1}, "mix", MixOptions(mixup=0.1, cutmix=0.2)),
        ({"crop_scale": 0.4}, "view", RandomView(scale=(0.4, 1.0))),
        ({"augment": False}, "view", None),
        ({"schedule": "linear"}, "schedule", Schedule("linear", warmup_epochs=1)),
        ({"warmup_epochs": 2.5}, "schedule", Schedule("cosine", warmup_epochs=2.5)),
        ({"milestones": [3.0, 5.0]}, "schedule", Schedule("step", warmup_epochs=1, milestones=(3.0, 5.0))),
        ({"optimizer": "schedulefree-sgd"}, "schedule", Schedule("constant", warmup_epochs=1)),
        ({"optimizer": "schedulefree-sgd", "schedule": "cosine"}, "schedule", Schedule("cosine", warmup_epochs=1)),
    ],
    ids=str,
)
def test_every_option_reaches_the_training(given: dict[str, object], field: str, expected: object) -> None:
    cell = changed(DEFAULT, given).cells("cifar10")[0]
    assert getattr(cell, field) == expected


def test_options_of_groups_grid_and_optimizer_reach_the_cells() -> None:
    protocol = changed(
        FINETUNE_PROTOCOLS["rrl-finetune"],
        {
            "lrs": [0.1, 0.2],
            "weight_decays": [0.0],
            "optimizer": "adamw",
            "head_lr": 1.0,
            "layer_decay": 0.5,
            "refit": False,
        },
    )
    cells = protocol.cells("cifar10")  # whose own weight decays gave way
    assert [(cell.optimizer.lr, cell.optimizer.weight_decay) for cell in cells] == [(0.1, 0.0), (0.2, 0.0)]
    assert (cells[0].groups.head_lr, cells[0].groups.layer_decay, cells[0].groups.decay_norms) == (1.0, 0.5, False)
    assert cells[0].optimizer == OptimizerOptions("adamw", lr=0.1) and not protocol.refit
    assert changed(DEFAULT, {"epochs": None}) == DEFAULT


def test_the_help_leads_to_the_list_and_the_list_names_every_protocol(cli) -> None:
    assert "richrep list protocols" in " ".join(cli("finetune", "--help").out.replace("│", " ").split())
    lines = cli("list", "protocols", "finetune:").out.splitlines()
    assert [line.split()[0] for line in lines] == list(FINETUNE_PROTOCOLS)
    assert "sgd, 150 epochs of batches of 64, step lr 0.001" in lines[2] and "nothing is trained" in lines[3]


def test_two_processes_train_as_one_does_and_the_first_alone_speaks(cli) -> None:
    # 61 images in batches of 20: the last batch has fewer images than there are processes; no norm sees the batch
    command = ["finetune", "-b", "random/resnet20", *COMMON, "--train-size", 61, "--epochs", 2, "--batch-size", 20]
    command += [
        "--norm-layers",
        "eval",
        "--lr",
        0.02,
        "--lr",
        1e30,
        "--early-stop",
        1,
        "--label-smoothing",
        0.1,
        "--name",
        "mine",
    ]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "richrep"]
    together = subprocess.run(
        [*launch, *map(str, command), "--out", "together"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("finetune(random-resnet20)") == 1 and "[worker 1]" not in together.stderr
    assert together.stderr.count("The other cells go on") == 1
    alone = cli(*command, "--out", "alone")
    assert alone.code == 0, alone.err
    (one,), (two,) = richrep.load_records("alone"), richrep.load_records("together")
    assert one.hyperparameters == two.hyperparameters and one.solver["tried"].keys() == two.solver["tried"].keys()
    assert two.solver["tried"]["lr 1e+30, weight decay 0.0001"] == "diverged"
    first, second = (richrep.load_backbone(f"run:{folder}/mine") for folder in ("alone", "together"))
    for part in ("trunk", "head"):
        torch.testing.assert_close(
            getattr(first, part).state_dict(), getattr(second, part).state_dict(), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lr", 0.1], "--lr says nothing"),
        (["--epochs", 1, "--ema", 0.9], "--epochs, --ema says nothing"),
        (["--head-init", "normal"], "--head-init says nothing"),
        (["--weight-decay", 1e-4, "--weight-decay", 1e-3], "--weight-decay of several says nothing"),
        (["--no-augment"], "--augment says nothing"),
    ],
)
def test_options_of_a_training_are_refused_where_there_is_none(cli, checkpoints, tmp_path, options, words) -> None:
    outcome = cli("finetune", "-b", checkpoints[0], "-d", "digits", "--protocol", "as-is", *options)
    assert outcome.code == 2 and "Protocol as-is trains nothing" in outcome.message and words in outcome.message
    assert not (tmp_path / "runs").exists()


def test_a_head_that_was_trained_here_is_said_to_be_left_out_of_a_converted_file(cli, tmp_path) -> None:
    assert cli(*SMALL, "--lr", 0.05, "--name", "tuned").code == 0
    outcome = cli("convert", "run:tuned", tmp_path / "tuned.safetensors")
    assert outcome.code == 0 and "itself loads with it" in outcome.message
    assert "The head of run:tuned (10 classes) is not in" in outcome.message
