"""`richrep two-stage` end to end, members in processes of their own; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

SMALL = ["-d", "digits", "--train-size", 60, "--test-size", 30, "--preprocess", "size=8", "--preprocess", "resize=8"]
SHORT = ["--epochs", 1, "--batch-size", 30, "--lr", 0.05, "--no-augment", "--cache-dir", "cache"]
CURVES = ["--tracker", "tensorboard"]


def test_members_in_two_processes_then_the_joint_heads(cli, checkpoints, tmp_path: Path) -> None:
    a, b = checkpoints
    outcome = cli("two-stage", "-b", a, "-b", b, *SMALL, *SHORT, "--jobs", 2, "--json", "all.json", *CURVES)
    assert outcome.code == 0, outcome.err
    records = json.loads((tmp_path / "all.json").read_text())["records"]
    assert [(r["representation"], r["protocol"]["name"]) for r in records] == [
        ("finetune(resnet20:a)", "default"),
        ("finetune(resnet20:b)", "default"),
        ("ensemble(resnet20:a+resnet20:b)", "ensemble"),
        ("two-stage(resnet20:a+resnet20:b)", "rrl-two-stage"),
        ("two-stage(resnet20:a+resnet20:b)", "two-stage-logistic"),
    ]
    assert outcome.out.count("two-stage-logistic") >= 2  # its row, and its gain in a sentence
    for record in records[:2]:
        run = record["solver"]["run"]
        assert f"[{run}] 1 records in runs. The models: run:{run}" in outcome.err  # another process made it
        assert (tmp_path / "runs" / run / "selected" / "model" / "model.yaml").is_file()
        assert len(list((tmp_path / "runs" / run / "curves").iterdir())) == 2  # on train alone, and on train and val
        options = yaml.safe_load((tmp_path / "runs" / run / "options.yaml").read_text())
        assert options["protocol.options.view"] is None  # --no-augment got there
        assert options["protocol.options.epochs"] == 1
        assert options["preprocessing"] == [record["backbones"][0]["preprocessing"]]
    again = cli("two-stage", "-b", a, "-b", b, *SMALL, *SHORT, "--json", "-")
    assert json.loads(again.out)["records"] == records
    assert "training" not in again.err


def test_finetune_keeps_what_stage_2_needs_when_asked(cli, checkpoints, tmp_path: Path) -> None:
    outcome = cli("finetune", "-b", checkpoints[0], *SMALL, *SHORT[:-2], "--keep-selected", "--name", "mine")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "runs" / "mine" / "selected" / "model" / "model.yaml").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Two-stage fine-tuning joins several backbones: give at least two with -b."),
        (["--stage2", "rrl"], "Unknown protocol of stage 2 'rrl'. Known: rrl-two-stage, two-stage-logistic."),
        (["--protocol", "rrl"], "Unknown protocol 'rrl'."),
        (["--memory-limit", "lots"], "'lots' is no size of memory"),
        (["--tracker", "tensorbord"], "Unknown tracker 'tensorbord'. Did you mean 'tensorboard'?"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_training(words, message, cli, checkpoints, tmp_path: Path) -> None:
    outcome = cli("two-stage", "-b", checkpoints[0], *SMALL, *words)
    assert outcome.code == 2
    assert message in outcome.message
    assert not (tmp_path / "runs").exists()


def test_the_protocols_of_stage_2_are_listed(cli) -> None:
    outcome = cli("list", "protocols", "two-stage")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == ["rrl-two-stage", "two-stage-logistic"]
    assert "RRL" in outcome.out and "penalty and normalisation chosen on val" in outcome.out
