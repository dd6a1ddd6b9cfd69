"""`richrep search` end to end, on the bundled digits and networks of random weights."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def three(checkpoints: tuple[Path, Path]) -> list[object]:
    """Options of a search over three members that takes seconds."""
    a, b = checkpoints
    sizes = ["--train-size", 60, "--test-size", 30, "--normalization", "block-rms", "--shortlist", 0]
    return ["-b", a, "-b", b, "-b", "random/test_resnet", "--preprocess", "size=32", "-d", "digits", *sizes]


def test_path_plot_redundancy_importance_and_controls_are_printed(cli, three, tmp_path) -> None:
    outcome = cli("search", *three[:2], *three[4:], "--layer", "layer2", "--max-members", 2)
    assert outcome.code == 0
    for title in ("Path: accuracy on val", "95 % intervals", "Redundancy: linear CKA", "Chosen members:", "Chosen: "):
        assert title in outcome.out
    for name in ("resnet20", "resnet20.layer2", "random-test_resnet.layer2"):
        assert name in outcome.out
    words = " ".join(outcome.out.split())
    assert "█" in words and "points on test over the best member alone" in words and "optimistic" in words
    assert "\x1b" not in outcome.out + outcome.err
    assert "subsets by the proxy" in outcome.err and "features of 4 members" in outcome.err
    kinds = [json.loads(path.read_text())["kind"] for path in sorted((tmp_path / "runs").glob("*.json"))]
    assert kinds[-1] == "search" and "probe" in kinds
    assert cli("results").code == 0


def test_json_on_stdout_is_alone_there(cli, three, tmp_path) -> None:
    outcome = cli("search", *three, "--json", "-")
    assert outcome.code == 0
    records = json.loads(outcome.out)["records"]
    assert records[-1]["kind"] == "search" and len(records[-1]["search"]["cka"]) == 3
    assert records == [json.loads(path.read_text()) for path in sorted((tmp_path / "runs").glob("*.json"))]


def test_a_memory_limit_is_in_the_records_of_the_probes(cli, three) -> None:
    outcome = cli("search", *three, "--memory-limit", "100MB", "--json", "-")
    assert outcome.code == 0
    for record in json.loads(outcome.out)["records"]:
        limit = None if record["kind"] == "ensemble" else 100_000_000  # the ensemble is of several heads
        assert record["solver"].get("memory_limit") == limit


def test_a_second_run_decodes_no_image_and_another_strategy_reads_the_same_features(cli, three, monkeypatch) -> None:
    assert cli("search", *three).code == 0
    monkeypatch.setattr("richrep.data.stores.ArrayStore.load", None)
    outcome = cli("search", *three, "--strategy", "exhaustive", "--max-members", 2, "--scales")
    assert outcome.code == 0
    assert "6 subsets by the proxy" in outcome.err and "Learned scales" in outcome.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strategy", "gredy"], "Unknown strategy 'gredy'. Did you mean 'greedy'"),
        (["--layer", "layer22"], "Unknown layer 'layer22'. Did you mean"),
        (["--normalization", "l3"], "Unknown normalization 'l3'"),
        (["--max-members", 0], "--max-members"),
        (["--memory-limit", "9MB"], "limit of 9 MB is too small"),
        (["-b", "random/test_resnet"], "are the same network with the same preprocessing. Give each once."),
    ],
)
def test_mistakes_are_one_message(cli, three, options, message) -> None:
    outcome = cli("search", *three, *options)
    assert outcome.code == 2
    assert message in outcome.message
    assert not outcome.out


def test_one_backbone_is_sent_to_probe(cli, small) -> None:
    outcome = cli("search", *small)
    assert outcome.code == 2
    assert "at least two members, got 1" in outcome.message and "richrep probe" in outcome.message


def test_a_projection_that_a_member_has_no_room_for_is_said_before_any_probe(cli, three, tmp_path) -> None:
    outcome = cli("search", *three, "--normalization", "pca:50")  # 50 training images
    assert outcome.code == 2
    assert "pca:50 cannot be tried on resnet20" in outcome.message and "Use at most pca:49" in outcome.message
    assert "val " not in outcome.err.replace("val part", "") and not list((tmp_path / "runs").glob(".search-*"))


def test_the_proxy_may_leave_val_to_the_full_probes(cli, three) -> None:
    outcome = cli("search", *three, "--proxy-score", "loo", "--json", "-")
    assert outcome.code == 0 and "leave-one-out, ridge by" in outcome.err
    assert json.loads(outcome.out)["records"][-1]["search"]["proxy"]["score_by"] == "loo"
    refused = cli("search", *three, "--proxy-score", "leave-one-out")
    assert refused.code == 2 and "Unknown score of the proxy 'leave-one-out'" in refused.message


def test_a_layer_that_is_all_of_the_trunk_is_no_member_of_its_own(cli, three) -> None:
    outcome = cli("search", *three, "--layer", "layer3", "--json", "-")
    assert outcome.code == 0 and ".layer3 is left out: it gives the features of resnet20" in outcome.err
    members = json.loads(outcome.out)["records"][-1]["search"]["members"]
    assert (
        len(members) == 4 and sum("layer3" in member for member in members) == 1
    )  # that of test_resnet is not its last
