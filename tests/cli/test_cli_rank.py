"""`richrep rank` end to end, on the bundled digits and networks of random weights."""

from __future__ import annotations

import json

import pytest

from richrep.evaluation.transferability import SCORES


@pytest.fixture
def sizes() -> list[object]:
    return ["-d", "digits", "--train-size", 100, "--test-size", 50]


def test_scores_beside_probes_and_their_rank_correlation(cli, checkpoints, sizes, tmp_path) -> None:
    a, b = checkpoints
    names = ["-b", a, "-b", b, "-b", "random/resnet20"]
    outcome = cli("rank", *names, *sizes, "--protocol", "prototypes")
    assert outcome.code == 0, outcome.err
    for text in ("resnet20:a", "logme", "cka", "probe", "Spearman", "weighted Kendall"):
        assert text in outcome.out
    kinds = [json.loads(path.read_text())["kind"] for path in sorted((tmp_path / "runs").glob("*.json"))]
    assert sorted(kinds) == ["probe"] * 3 + ["rank"] * 3 + ["rank-agreement"]
    assert cli("results").code == 0  # the other tables read these records too


def test_two_networks_have_no_rank_correlation_and_that_is_said(cli, checkpoints, sizes) -> None:
    a, b = checkpoints
    outcome = cli("rank", "-b", a, "-b", b, *sizes, "--protocol", "prototypes", "--score", "logme")
    assert outcome.code == 0
    assert "logme: no rank correlation, 2 networks, at least 3 are needed." in " ".join(outcome.out.split())
    assert "cka" not in outcome.out


def test_no_probe_trains_nothing(cli, checkpoints, sizes, monkeypatch) -> None:
    monkeypatch.setattr("richrep.evaluation.rank.measure", None)
    outcome = cli("rank", "-b", checkpoints[0], *sizes, "--no-probe", "--json", "-")
    assert outcome.code == 0
    (record,) = json.loads(outcome.out)["records"]
    assert record["kind"] == "rank" and set(SCORES) <= set(record["metrics"]["train"])
    assert record["dataset"]["num_test"] == 0
    assert "digits/test" not in cli("cache", "--cache-dir", "cache").out  # nor reads test


def test_scores_need_no_val(cli, checkpoints) -> None:
    few = ["-d", "digits", "--train-size", 8, "--test-size", 8, "--preprocess", "size=8", "--cache-dir", "cache"]
    outcome = cli("rank", "-b", checkpoints[0], *few, "--no-probe", "--score", "cka")
    assert outcome.code == 0, outcome.err


def test_mistakes_are_one_message_and_exit_code_2(cli, checkpoints, sizes) -> None:
    outcome = cli("rank", "-b", checkpoints[0], *sizes, "--score", "logm")
    assert outcome.code == 2 and "Unknown score 'logm'. Did you mean 'logme'" in outcome.message
    assert "matched" not in outcome.err  # no backbone was loaded
    outcome = cli("rank", "-b", checkpoints[0], *sizes, "--protocol", "kn")
    assert outcome.code == 2 and "Unknown protocol 'kn'. Did you mean 'knn'" in outcome.message
    outcome = cli("rank", "-b", checkpoints[0], *sizes, "--memory-limit", "9MB")
    assert outcome.code == 2 and "limit of 9 MB is too small" in outcome.message


def test_a_memory_limit_holds_for_the_probes(cli, checkpoints, sizes) -> None:
    outcome = cli("rank", "-b", checkpoints[0], *sizes, "--protocol", "ridge", "--memory-limit", "100MB", "--json", "-")
    assert outcome.code == 0
    (probed,) = (record for record in json.loads(outcome.out)["records"] if record["kind"] == "probe")
    assert probed["solver"]["memory_limit"] == 100_000_000 and probed["solver"]["side"] == "columns"


def test_scores_are_listed_with_what_they_are(cli) -> None:
    outcome = cli("list", "scores")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == list(SCORES)
