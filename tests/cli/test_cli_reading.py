"""The commands that read: inspect, list, results, cache."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch

from richrep.evaluation.record import Record
from richrep.evaluation.record_store import save_record


def make_record(representation: str, *, seed: int = 0, dataset: str = "cifar10", accuracy: float = 0.8) -> Record:
    return Record(
        kind="probe",
        representation=representation,
        backbones=(
            {
                "address": f"weights/{representation}.th",
                "name": representation,
                "family": "cifar-resnet",
                "architecture": representation,
                "feature_dim": 64,
                "parameters": 10,
                "sparsity": 0.0,
                "sha256": "ab" * 32,
            },
        ),
        feature_dim=64,
        dataset={
            "address": dataset,
            "name": dataset,
            "num_classes": 10,
            "num_train": 80,
            "num_val": 20,
            "num_test": 50,
            "fingerprint": "cd",
        },
        protocol={"name": "logistic"},
        seed=seed,
        hyperparameters={"l2": 0.001, "normalization": "none"},
        metrics={"val": {"accuracy": accuracy}, "test": {"accuracy": accuracy}},
        elapsed_s={"total": 1.0},
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """resnet20 with two seeds on cifar10, resnet32 on cifar100."""
    for record in (
        make_record("resnet20", seed=0, accuracy=0.80),
        make_record("resnet20", seed=1, accuracy=0.84),
        make_record("resnet32", dataset="cifar100", accuracy=0.30),
    ):
        save_record(record, tmp_path / "runs")
    return tmp_path / "runs"


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_results_average_the_seeds(cli, runs) -> None:
    outcome = cli("results", "cifar10", "resnet20")
    assert outcome.code == 0
    # (80 + 84) / 2 = 82; std with n - 1: sqrt((2² + 2²) / 1) = 2.83
    assert "82.00 ± 2.83" in outcome.out


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([], {"resnet20", "resnet32"}),
        (["resnet"], {"resnet20", "resnet32"}),
        (["RESNET", "cifar100"], {"resnet32"}),
        (["seed=1"], {"resnet20"}),
        (["dataset=cifar10"], {"resnet20"}),
    ],
)
def test_results_shows_what_matches_all_patterns(cli, runs, patterns, names) -> None:
    outcome = cli("results", *patterns, "--csv", "-")
    assert outcome.code == 0
    assert {row["representation"] for row in rows_of(outcome.out)} == names


def test_results_go_to_three_files_and_the_screen(cli, runs, tmp_path) -> None:
    outcome = cli("results", "--csv", "a.csv", "--markdown", "a.md", "--json", "a.json")
    assert outcome.code == 0
    assert "resnet20" in outcome.out
    assert len(rows_of((tmp_path / "a.csv").read_text())) == 2
    assert "| :--- |" in (tmp_path / "a.md").read_text()
    assert len(json.loads((tmp_path / "a.json").read_text())["records"]) == 3


def test_markdown_on_stdout_is_alone_there(cli, runs) -> None:
    outcome = cli("results", "resnet32", "--markdown", "-")
    assert outcome.out.count("resnet32") == 1
    assert "| :--- |" in outcome.out


def test_json_on_stdout_is_alone_there(cli, runs) -> None:
    records = json.loads(cli("results", "resnet32", "--json", "-").out)["records"]
    assert [record["representation"] for record in records] == ["resnet32"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vit", "cifar10"], "No records that match 'vit' and 'cifar10' in runs"),
        (["sed=1"], "Unknown key 'sed'. Did you mean 'seed'?"),
        (["--out", "runs/none"], "The records folder runs/none does not exist"),
        (["--out", "file"], "The records folder file is not a folder"),
    ],
)
def test_results_that_are_not_there(cli, runs, tmp_path, arguments, words) -> None:
    (tmp_path / "file").write_text("")
    outcome = cli("results", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.message


def test_a_damaged_record_is_named_and_the_others_are_shown(cli, runs) -> None:
    (runs / "broken.json").write_text("{")
    outcome = cli("results")
    assert outcome.code == 0
    assert "resnet20" in outcome.out
    assert "WARNING" in outcome.err and "broken.json is left out" in outcome.err


def test_inspect_says_what_a_file_is(cli, checkpoints) -> None:
    outcome = cli("inspect", checkpoints[0])
    assert outcome.code == 0
    lines = dict(line.split(maxsplit=1) for line in outcome.out.splitlines() if line and not line.startswith(" "))
    assert lines["family"].strip() == "cifar-resnet"
    assert lines["architecture"].strip() == "resnet20"
    assert lines["features"].strip() == "64"
    assert lines["head"].strip() == "10 classes"
    # akamaster's ResNet-20: 269,722 parameters, of which the head has 64·10 + 10
    assert lines["parameters"].strip() == "269,722 (trunk 269,072, head 650)"
    assert "matched" in lines["load"]


def test_inspect_as_json_is_the_same_facts(cli, checkpoints, tmp_path) -> None:
    outcome = cli("inspect", checkpoints[0], "--json", "-")
    facts = json.loads(outcome.out)
    assert (facts["architecture"], facts["num_classes"], facts["parameters"]) == ("resnet20", 10, 269722)
    assert "architecture" in cli("inspect", checkpoints[0], "--json", "facts.json").out
    assert json.loads((tmp_path / "facts.json").read_text()) == facts


def test_inspect_prints_a_path_with_brackets_as_it_is(cli, checkpoints, tmp_path) -> None:
    odd = tmp_path / "we[bold]ird.th"
    odd.write_bytes(checkpoints[0].read_bytes())
    assert "we[bold]ird.th" in cli("inspect", odd.name).out


def test_inspect_counts_zeros(cli, checkpoints, tmp_path) -> None:
    content = torch.load(checkpoints[0], weights_only=True)
    for tensor in content["state_dict"].values():
        tensor.zero_()
    torch.save(content, tmp_path / "zeros.th")
    assert "100.0% of the conv and linear weights are zero" in cli("inspect", "zeros.th").out


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("backbones", "cifar-resnet/resnet20@PATH"),
        ("datasets", "digits"),
        ("protocols", "logistic"),
        ("heads", "logistic"),
        ("engines", "torch"),
    ],
)
def test_each_list_has_a_name_and_a_description_a_line(cli, what, line) -> None:
    outcome = cli("list", what)
    assert outcome.code == 0
    lines = [text.split(maxsplit=1) for text in outcome.out.splitlines()]
    assert line in [name for name, _ in lines]
    assert all(description for _, description in lines)


def test_a_pattern_shortens_the_list(cli) -> None:
    lines = cli("list", "backbones", "torchvision resnet50").out.splitlines()
    assert any(line.startswith("torchvision/resnet50 ") for line in lines)
    assert all("torchvision" in line.lower() and "resnet50" in line.lower() for line in lines)


def test_the_cache_is_listed_verified_and_cleared(cli, small, tmp_path) -> None:
    empty = cli("cache")
    assert (empty.code, "0 entries" in empty.out) == (0, True)
    cli("extract", *small[:8])
    listing = cli("cache", "list").out
    assert "digits/trainval" in listing and "digits/test" in listing
    assert "2 entries, 0.0 MB" in listing
    assert "Every finished block matches" in cli("cache", "verify").out
    assert "1 entries" in cli("cache", "list", "trainval").out
    assert "Cleared 1 entries" in cli("cache", "clear", "digits/test", "--yes").out
    assert "Cleared 0 entries" in cli("cache", "clear", "no such thing").out  # nothing to ask about
    assert "1 entries" in cli("cache").out


def test_a_damaged_cache_is_exit_code_1_and_says_which_entry(cli, small, tmp_path) -> None:
    cli("extract", *small[:8], "--part", "test", "--cache-dir", "cache")
    data = max((path for path in Path("cache").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    outcome = cli("cache", "verify", "--cache-dir", "cache")
    assert outcome.code == 1
    assert "damaged: block 0" in outcome.out
    assert "Clear these entries" in outcome.err
