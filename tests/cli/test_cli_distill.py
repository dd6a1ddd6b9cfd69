"""`richrep distill` end to end, on the bundled digits and networks of random weights."""

import json
from pathlib import Path

import pytest

import richrep


@pytest.fixture
def short(checkpoints: tuple[Path, Path]) -> list[object]:
    """Options of a distillation that takes seconds."""
    sizes = ["--train-size", 40, "--test-size", 20, "--normalization", "none", "--preprocess", "size=8"]
    training = ["--epochs", 1, "--batch-size", 20, "--warmup-epochs", 0, "--lr", 0.05]
    return ["-b", checkpoints[0], "--student", "resnet20", "-d", "digits", *sizes, *training]


def test_the_table_compares_and_the_student_is_a_run(cli, short, checkpoints) -> None:
    more = ["-b", checkpoints[1], "-b", "random/test_resnet", "--tracker", "tensorboard"]
    outcome = cli("distill", *short, *more, "--name", "pupil", "--json", "a.json")
    assert outcome.code == 0, outcome.err
    words = " ".join(outcome.out.split())
    assert "-> random-resnet20), seed 0, in points of test accuracy:" in words
    assert "the teachers concatenated" in words and "the same student trained on labels alone" in words
    assert "resnet20:a: kl on the 10 logits of its own head" in outcome.err
    assert "random-test_resnet: cosine on its" in outcome.err and "it has no head" in outcome.err
    assert "The teachers run once on one view of every image: random crop of 0.8-1 of the area" in outcome.err
    assert "The models: run:pupil" in outcome.err
    assert len(list(Path("runs/pupil/curves").iterdir())) == 2  # of the student, and of the one on labels alone
    kinds = [record["kind"] for record in json.loads(Path("a.json").read_text())["records"]]
    assert kinds == ["probe"] * 4 + ["distill"] * 3
    assert cli("inspect", "run:pupil").code == 0
    assert richrep.load_backbone("run:pupil").head is None
    assert "distill(" in cli("results", "distill").out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "rrl-distil"], "Unknown protocol 'rrl-distil'. Did you mean 'rrl-distill'"),
        (["--loss", "kll"], "Unknown loss 'kll'. Did you mean 'kl'"),
        (["--temperature", 0], "temperature must be a number > 0, got 0.0"),
        (["--heads", "keep"], "heads must be 'discard' or 'average', got 'keep'"),
        (["--student", "resnet2O"], "Unknown backbone 'resnet2O'"),
        (["--views", -1], "--views"),
        (["--tracker", "tensorbord"], "Unknown tracker 'tensorbord'. Did you mean 'tensorboard'?"),
    ],
)
def test_mistakes_are_one_message(cli, short, options, message) -> None:
    outcome = cli("distill", *short, *options)
    assert outcome.code == 2
    assert message in outcome.message
    assert not outcome.out


def test_logits_of_teachers_without_a_head_are_refused(cli, short) -> None:
    outcome = cli("distill", "-b", "random/resnet20", *short[2:], "--loss", "kl")
    assert outcome.code == 2 and "none of the 1 teachers has a head" in outcome.message


def test_the_protocols_are_listed_with_their_sources(cli) -> None:
    lines = cli("list", "protocols", "distill").out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["default", "distill:"],
        ["rrl-distill", "distill:"],
        ["rfc-synthesis", "distill:"],
    ]
    assert "a reconstruction" in lines[1] and "https://arxiv.org/abs/2203.15516" in lines[2]
