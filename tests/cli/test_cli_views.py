"""`--views` of extract and probe, and protocols of few images, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from richrep.features.cache import FeatureCache

SIZES = ("--train-size", 120, "--test-size", 50)


def test_what_extract_caches_probe_reads(cli, checkpoints, tmp_path: Path) -> None:
    shared = ["-b", checkpoints[0], "-b", checkpoints[1], "-d", "digits", *SIZES, "--views", 2]
    extracted = cli("extract", *shared)
    assert extracted.code == 0
    lines = extracted.out.splitlines()
    assert sum("trainval, view 0" in line for line in lines) == sum("trainval, view 1" in line for line in lines) == 2
    cache = FeatureCache(tmp_path / "home" / "features")
    before = {entry.key for entry in cache.entries()}
    assert len(before) == 8
    probed = cli("probe", *shared, "--normalization", "none", "--json", "-")
    assert probed.code == 0 and {entry.key for entry in cache.entries()} == before
    records = json.loads(probed.out)["records"]
    assert [record["protocol"]["views"] for record in records] == [2, 2, 2]
    assert records[0]["protocol"]["view"]["scale"] == [0.8, 1.0]
    assert "features, view 1" in " ".join(cli("cache", "list").out.split())


def test_the_scale_of_views_can_be_said(cli, small) -> None:
    outcome = cli("probe", *small, "--views", 2, "--view-scale", 0.5, "--json", "-")
    assert json.loads(outcome.out)["records"][0]["protocol"]["view"]["scale"] == [0.5, 1.0]


def test_shards_count_the_blocks_of_views(cli, checkpoints) -> None:
    shared = ["-b", checkpoints[0], "-d", "digits", *SIZES, "--part", "trainval", "--views", 2]
    outcome = cli("extract", *shared, "--shard", "0/1")
    assert outcome.code == 0 and "no block is missing" in outcome.out and outcome.out.count("1/1") == 3


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("extract", ["--part", "test", "--views", 2], "--views are of training images, and --part test has none"),
        ("extract", ["--view-scale", 0], "--view-scale must be above 0 and at most 1, got 0"),
        ("probe", ["--views", 2, "--view-scale", 1.5], "--view-scale must be above 0 and at most 1, got 1.5"),
        ("probe", ["--views", 0], "Invalid value for '--views': Input should be greater than or equal to 1"),
        ("probe", ["--protocol", "kshot:0"], "'kshot:0' is no protocol: after the colon comes the number"),
        ("probe", ["--protocol", "kshot:x"], "'kshot:x' is no protocol"),
        ("probe", ["--protocol", "kshot"], "Did you mean 'kshot:N'"),
        ("probe", ["--protocol", "kshot:50"], "kshot:50 needs 50 training images of every class, but class '"),
        ("probe", ["--protocol", "vtab1k"], "vtab1k needs 1,000 images of train, there are 120"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(cli, checkpoints, command, options, message) -> None:
    outcome = cli(command, "-b", checkpoints[0], "-d", "digits", *SIZES, *options)
    assert outcome.code == 2 and message in outcome.message


def test_few_shots_print_the_mean_over_draws(cli, small) -> None:
    outcome = cli("probe", *small, "--protocol", "kshot:2", "--json", "k.json")
    assert outcome.code == 0 and "20+0/50" in outcome.out and "probe/kshot:2" in outcome.out
    (record,) = json.loads(Path("k.json").read_text())["records"]
    assert len(record["repeats"]) == 10 and record["protocol"]["normalizations"] == ["none"]
    again = cli("results")
    assert again.code == 0 and "kshot:2" in again.out
