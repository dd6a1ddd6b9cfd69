"""`richrep probe` and `richrep extract` end to end, on the bundled digits and networks of random weights."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import sys
from pathlib import Path

import pytest
import torch

from richrep.cli import console
from richrep.features.engines import ENGINES
from richrep.features.progress import ExtractionProgress


def records_in(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def test_a_table_on_stdout_the_log_on_stderr_and_records_on_disk(cli, checkpoints, tmp_path) -> None:
    a, b = checkpoints
    sizes = ["--train-size", 100, "--test-size", 50]
    outcome = cli("probe", "-b", a, "-b", b, "-d", "digits", *sizes, "--cache-dir", "cache", "--out", "records")
    assert outcome.code == 0
    for name in ("resnet20:a", "resnet20:b", "cat(resnet20:a+"):
        assert name in outcome.out
    assert "\x1b" not in outcome.out + outcome.err  # no terminal: no colours, no cursor movements
    assert "matched" not in outcome.out
    assert "matched" in outcome.err
    assert "3 records in records" in outcome.err
    records = records_in(tmp_path / "records")
    assert [r["representation"] for r in records] == ["resnet20:a", "resnet20:b", "cat(resnet20:a+resnet20:b)"]
    facts = records[2]["dataset"]
    assert (facts["num_train"], facts["num_val"], facts["num_test"]) == (80, 20, 50)
    assert records[2]["feature_dim"] == 128
    assert all(f"{100 * r['metrics']['test']['accuracy']:.2f}" in outcome.out for r in records)
    assert len(records[0]["protocol"]["normalizations"]) == 4
    assert list((tmp_path / "cache").glob("??/*"))
    assert not (tmp_path / "home").exists()


def test_json_on_stdout_is_alone_there(cli, small, tmp_path) -> None:
    outcome = cli("probe", *small, "--json", "-")
    assert outcome.code == 0
    content = json.loads(outcome.out)
    assert list(content) == ["records"]
    assert content["records"] == records_in(tmp_path / "runs")


def test_json_in_a_file_comes_beside_the_table(cli, small, tmp_path) -> None:
    (tmp_path / "all.json").write_text("old")
    outcome = cli("probe", *small, "--json", "all.json")
    assert outcome.code == 0
    assert "resnet20" in outcome.out
    assert len(json.loads((tmp_path / "all.json").read_text())["records"]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"all.json", "home", "runs"}  # no temporary file stays


def test_the_own_head_is_a_row_where_it_fits(cli, small, image_folder) -> None:
    outcome = cli("probe", *small, "--own-head")
    assert outcome.code == 0
    assert "own-head(resnet20)" in outcome.out
    (image_folder / "train" / "dark" / "03.png").unlink()
    backbone = small[1]
    outcome = cli("probe", "-b", backbone, "-d", f"folder:{image_folder}", "--normalization", "none", "--own-head")
    assert outcome.code == 0
    assert "own-head(" not in outcome.out
    assert "own head not scored, it has 10 classes; the data set has 2" in outcome.err


def test_seeds_are_measured_once_each(cli, small, tmp_path) -> None:
    outcome = cli("probe", *small, "--seed", 3, "--seed", 5, "--seed", 3)
    assert outcome.code == 0
    assert [record["seed"] for record in records_in(tmp_path / "runs")] == [3, 5]


def test_the_same_backbone_twice_gives_rows_that_can_be_told_apart(cli, small) -> None:
    outcome = cli("probe", *small, *small[:2], "--json", "-")
    names = [record["representation"] for record in json.loads(outcome.out)["records"]]
    assert len(set(names)) == 3
    assert names[2] == f"cat({names[0]}+{names[1]})"


def test_a_second_run_decodes_no_image(cli, small, monkeypatch) -> None:
    first = json.loads(cli("probe", *small, "--json", "-").out)["records"][0]

    def refuse(self: object, position: int) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("richrep.data.stores.ArrayStore.load", refuse)
    second = json.loads(cli("probe", *small, "--json", "-").out)["records"][0]
    assert second["metrics"] == first["metrics"]
    assert second["id"] != first["id"]


def test_probe_reads_what_extract_wrote(cli, small, monkeypatch) -> None:
    common = small[:8]  # without --normalization
    outcome = cli("extract", *common)
    assert outcome.code == 0
    assert "trainval" in outcome.out and "test" in outcome.out
    monkeypatch.setattr("richrep.data.stores.ArrayStore.load", None)
    assert cli("probe", *small).code == 0


@pytest.mark.parametrize(("part", "images"), [("trainval", [100]), ("test", [50]), ("all", [100, 50])])
def test_extract_takes_the_part_it_is_told(cli, small, part, images) -> None:
    assert cli("extract", *small[:8], "--part", part).code == 0
    listing = cli("cache", "list").out
    assert f"{len(images)} entries" in listing
    assert all(str(count) in listing for count in images)


def test_a_corrupt_image_stops_the_run_and_is_named(cli, checkpoints, image_folder, tmp_path) -> None:
    outcome = cli("probe", "-b", checkpoints[0], "-d", f"folder:{image_folder}")
    assert outcome.code == 2
    assert "03.png" in outcome.err and "--on-bad-image skip" in outcome.err
    assert not (tmp_path / "runs").exists()


def test_a_corrupt_image_can_be_skipped_and_is_recorded(cli, checkpoints, image_folder, tmp_path) -> None:
    options = ["--on-bad-image", "skip", "--normalization", "none"]
    outcome = cli("probe", "-b", checkpoints[0], "-d", f"folder:{image_folder}", *options)
    assert outcome.code == 0
    assert "1 images of pets/trainval were skipped" in outcome.err
    (record,) = records_in(tmp_path / "runs")
    assert [image["name"].endswith("03.png") for image in record["dataset"]["skipped_images"]] == [True]
    assert record["dataset"]["num_train"] + record["dataset"]["num_val"] == 23


def test_progress_without_a_terminal_is_lines_on_stderr(cli, small, monkeypatch) -> None:
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.0)
    outcome = cli("extract", *small[:8], "--batch-size", 10)
    assert "extracting 10/100 images" in outcome.err
    assert "images/s" in outcome.err
    assert "extracting" not in outcome.out


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_line_of_log_stands_above_the_bar(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", FakeTerminal())
    with console.extraction_progress() as show:
        show(ExtractionProgress(30, 100, 0, 0, 1, 0, elapsed_s=10.0))
        console.say("a line")
        console.say("another")
    console.say("afterwards")
    text = sys.stderr.getvalue()
    assert "30/100 images, 3 images/s" in text
    assert "\x1b[2Ka line\n" in text and "\x1b[2Kanother\n" in text  # the bar is wiped first
    assert text.endswith("afterwards\n")


def test_written_json_has_the_rights_of_any_new_file(tmp_path) -> None:
    console.write_text(str(tmp_path / "a.json"), "{}")
    (tmp_path / "b.json").write_text("{}")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.json", "b.json")}
    assert len(modes) == 1


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    console.write_text(str(tmp_path / "link.json"), "{}")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "{}\n"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    console.write_text(str(tmp_path / "pipe"), "{}")
    assert os.read(reader, 10) == b"{}\n"
    os.close(reader)


def test_two_cifar_networks_together_beat_each_on_real_images(cli, shared_data) -> None:
    """The independent figures are for 5,000 images: 0.837 and 0.851 alone, four together 0.883."""
    weights = shared_data / "weights"
    backbones = ["akamaster_cifar10_resnet20-12fca82f.th", "akamaster_cifar10_resnet32-d509ac18.th"]
    options = [item for name in backbones for item in ("-b", weights / name)]
    data = ["-d", f"parquet:{shared_data / 'cifar10'}", "--train-size", 1000, "--test-size", 500]
    outcome = cli("probe", *options, *data, "--json", "-")
    assert outcome.code == 0
    records = json.loads(outcome.out)["records"]
    assert [r["representation"] for r in records] == ["resnet20", "resnet32", "cat(resnet20+resnet32)"]
    scores = [record["metrics"]["test"]["accuracy"] for record in records]
    # standard error of 500 images at 0.84: 0.016; a fifth of the training images costs about two points
    assert all(0.76 < score < 0.90 for score in scores[:2])
    assert scores[2] >= max(scores[:2]) - 0.01
    gain = records[2]["metrics"]["test"]
    assert gain["gain_over_best_member_ci95"][0] <= gain["gain_over_best_member"]
    assert gain["gain_over_best_member"] <= gain["gain_over_best_member_ci95"][1]


def test_a_backbone_whose_features_overflow_is_left_out_and_the_others_are_measured(cli, checkpoints, tmp_path) -> None:
    a, b = checkpoints
    content = torch.load(a, weights_only=True)
    tensors = content.get("state_dict", content)
    (name,) = [name for name in tensors if name.endswith("layer3.2.bn2.weight")]
    tensors[name] *= 3e38
    torch.save(content, tmp_path / "huge.th")
    sizes = ["--train-size", 100, "--test-size", 50, "--cache-dir", "cache"]
    outcome = cli("probe", "-b", a, "-b", "huge.th", "-b", b, "-d", "digits", *sizes)
    assert outcome.code == 1
    assert "resnet20:huge: not measured. " in outcome.err
    assert "resnet20:huge was not measured: " in outcome.out.replace("\n", " ")
    found = {record["representation"] for record in records_in(tmp_path / "runs")}
    assert found == {"resnet20:net_a", "resnet20:net_b", "cat(resnet20:net_a+resnet20:net_b)"}
    outcome = cli("probe", "-b", "huge.th", "-d", "digits", *sizes)
    assert outcome.code == 2
    assert "No backbone gives features that can be used" in outcome.err


@pytest.mark.parametrize("protocol", ["knn", "prototypes", "cosine"])
def test_every_protocol_runs_from_the_command_line(cli, small, protocol) -> None:
    outcome = cli("probe", *small, "--protocol", protocol)
    assert outcome.code == 0, outcome.err
    assert f"probe/{protocol}" in outcome.out and "temperature=" in outcome.out.replace("\n", "")
    assert cli("results").code == 0


def test_a_projection_is_a_normalisation_and_a_bad_one_is_refused(cli, small) -> None:
    arguments = small[:-2]  # without --normalization none
    outcome = cli("probe", *arguments, "--normalization", "standard+pca:5", "--json", "-")
    (record,) = json.loads(outcome.out)["records"]
    assert record["hyperparameters"]["normalization"] == "standard+pca:5"
    assert record["protocol"]["normalizations"] == ["standard+pca:5"]
    outcome = cli("probe", *arguments, "--normalization", "pca:5000")
    assert outcome.code == 2 and "pca:5000 needs 5000 directions of variance" in outcome.message
    outcome = cli("probe", *arguments, "--normalization", "pca:x")
    assert outcome.code == 2 and "pca needs a number of components of at least 1, got 'pca:x'" in outcome.message


def test_a_projection_too_wide_for_one_member_leaves_that_out_and_measures_the_others(
    cli, checkpoints, tmp_path
) -> None:
    a, b = checkpoints
    sizes = ["-d", "digits", "--train-size", 150, "--test-size", 50]
    outcome = cli("probe", "-b", a, "-b", b, *sizes, "--normalization", "block-rms+pca:70")  # each has 64 features
    assert outcome.code == 1
    told = " ".join(outcome.out.split())
    for name in ("resnet20:a", "resnet20:b"):
        assert f"{name} was not measured: pca:70 needs 70 directions of variance" in told
    (record,) = records_in(tmp_path / "runs")
    assert record["representation"] == "cat(resnet20:a+resnet20:b)"
    assert record["hyperparameters"]["normalization"] == "block-rms+pca:70"
    assert f"{100 * record['metrics']['test']['accuracy']:.2f}" in outcome.out
    assert "points over" not in outcome.out  # no member was measured, so there is no gain
    outcome = cli("probe", "-b", a, "-b", b, *sizes, "--normalization", "pca:5000")
    assert outcome.code == 2
    assert "Error: No representation can be measured; the first: pca:5000 needs 5000 directions" in outcome.message


def test_precision_and_engine_are_in_the_record_and_apart_in_the_results(cli, small, tmp_path) -> None:
    assert cli("probe", *small, "--engine", "torch").code == 0
    outcome = cli("probe", *small, "--precision", "bf16", "--profile")
    assert outcome.code == 0
    full, half = records_in(tmp_path / "runs")
    assert (full["precision"], full["environment"]["engine"], full["fast_decode"]) == ("fp32", "torch", False)
    assert (half["precision"], half["environment"]["engine"]) == ("bf16", "torch")
    assert "engine torch, bf16, relative error" in outcome.err  # what was picked, and how close it is
    rows = [line for line in cli("results").out.splitlines() if "resnet20" in line]
    assert len(rows) == 2 and sum("bf16" in row for row in rows) == 1
    assert cli("probe", *small, "--precision", "bf16").code == 0  # from the cache
    assert records_in(tmp_path / "runs")[-1]["environment"]["engine"] == "torch (cached)"


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_an_optional_engine_gives_the_features_of_torch(cli, small, tmp_path, engine: str) -> None:
    if ENGINES[engine].problem(torch.device("cpu"), "fp32"):
        pytest.skip(f"needs {engine}")
    assert cli("probe", *small, "--cache-dir", "one").code == 0
    outcome = cli("probe", *small, "--cache-dir", "two", "--engine", engine)
    assert outcome.code == 0 and f"engine {engine}, fp32, relative error" in outcome.err
    torch_record, other = records_in(tmp_path / "runs")
    assert other["environment"]["engine"] == engine and engine in other["environment"]
    assert other["metrics"]["test"]["nll"] == pytest.approx(torch_record["metrics"]["test"]["nll"], rel=1e-3)
    one, two = (sorted((tmp_path / name).glob("??/*/features.bin")) for name in ("one", "two"))
    assert [path.parent.name for path in one] == [path.parent.name for path in two]  # one precision, one key
    for first, second in zip(one, two, strict=True):
        assert first.stat().st_size == second.stat().st_size
        torch.testing.assert_close(
            *(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.float32) for path in (first, second)),
            rtol=1e-3,
            atol=1e-4,
        )


def test_profile_says_where_the_time_went(cli, checkpoints) -> None:
    outcome = cli("extract", "-b", checkpoints[0], "-d", "digits", "--train-size", 60, "--test-size", 20, "--profile")
    assert outcome.code == 0
    for step in ("prepare", "decode", "resize", "normalize", "forward", "waiting"):
        assert re.search(rf"{step} +\d+\.\d\d +\d+ %", outcome.err), step
    assert "of their time for images" in outcome.err


@pytest.mark.parametrize("command", ["probe", "extract"])
def test_engines_and_precisions_that_are_not_there_are_named_before_any_work(cli, checkpoints, command: str) -> None:
    start = [command, "-b", checkpoints[0], "-d", "digits"]
    outcome = cli(*start, "--engine", "opnvino")
    assert outcome.code == 2 and "Unknown engine 'opnvino'. Did you mean 'openvino'?" in outcome.message
    outcome = cli(*start, "--precision", "bf61")
    assert outcome.code == 2 and "Unknown precision 'bf61'. Did you mean 'bf16'?" in outcome.message
    outcome = cli(*start, "--precision", "fp16", "--device", "cpu")
    assert outcome.code == 2 and "Use bf16 or fp32 on the CPU" in outcome.message
    assert not Path("home").exists()


def test_engines_are_listed_with_what_they_need(cli, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    lines = cli("list", "engines").out.splitlines()
    assert [line.split()[0] for line in lines] == ["auto", "torch", "torch-compile", "openvino", "onnxruntime"]
    assert 'pip install "richrep[openvino]"' in next(line for line in lines if line.startswith("openvino"))


def test_fast_decoding_and_resizing_are_other_entries_of_the_cache_and_in_the_record(cli, small, tmp_path) -> None:
    for option in ((), ("--fast-decode",), ("--fast-resize",)):
        assert cli("probe", *small, "--cache-dir", "cache", "--device", "cpu", *option).code == 0
    records = records_in(tmp_path / "runs")
    assert [record["fast_decode"] for record in records] == [False, True, False]
    assert [record["resizing"] for record in records] == ["pillow", "pillow", "torch-uint8"]
    assert len(list((tmp_path / "cache").glob("??/*/manifest.json"))) == 6  # trainval and test, three times
    lines = cli("results").out
    assert "fast decode" in lines and "resized by torch-uint8" in lines


def test_a_memory_limit_is_in_the_record_and_how_the_head_was_solved(cli, small, tmp_path) -> None:
    assert cli("probe", *small, "--memory-limit", "1.5GB").code == 0
    (record,) = records_in(tmp_path / "runs")
    assert record["solver"] == {
        "coordinates": "columns",
        "num_blocks": 1,
        "samples": "kept",
        "penalties_at_once": 23,
        "memory_limit": 1_500_000_000,
    }


@pytest.mark.parametrize(
    ("size", "words"),
    [("4", "'4' is no size of memory. Give a number above 0 with its unit"), ("9MB", "limit of 9 MB is too small")],
)
def test_a_memory_limit_that_cannot_be_is_refused_before_any_work(cli, small, tmp_path, size, words) -> None:
    outcome = cli("probe", *small, "--memory-limit", size)
    assert outcome.code == 2 and words in outcome.message
    assert not (tmp_path / "home").exists() and not (tmp_path / "runs").exists()


def test_a_papers_protocol_runs_from_the_command_line_and_keeps_its_options(cli, small, tmp_path) -> None:
    outcome = cli("probe", *small, "--protocol", "rrl-linear", "--seed", 3)
    assert outcome.code == 0
    (record,) = records_in(tmp_path / "runs")
    assert (record["protocol"]["name"], record["protocol"]["seed"], record["protocol"]["epochs"]) == (
        "rrl-linear",
        3,
        28,
    )
    assert record["protocol"]["weight_decays"] == [1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2]
    assert record["hyperparameters"]["weight_decay"] in record["protocol"]["weight_decays"]


def test_a_twin_that_chooses_on_test_is_announced_and_probe_alone_runs_it(cli, small) -> None:
    name = "logistic-legacy-test-selection"
    outcome = cli("probe", *small, "--protocol", name, "--normalization", "none")
    assert outcome.code == 0
    assert f"{name}: hyper-parameters" in outcome.err.replace("\n", " ")
    assert "optimistic" in outcome.out and "probe/logistic-legacy-test-selection" in outcome.out.replace("\n", "")
    refused = cli("rank", "-b", small[1], "-d", "digits", "--protocol", name)
    assert refused.code == 2
    assert f"{name} chooses on test; only richrep probe runs it" in refused.err.replace("\n", " ")


def test_every_protocol_is_listed_with_what_it_does(cli) -> None:
    listed = cli("list", "protocols").out
    for name in ("rrl-linear", "sparse-linear", "trex-sgd", "trex-lbfgs", "legacy-trex-sgd", "legacy-trex-lbfgs"):
        assert re.search(rf"^{name} +\S", listed, flags=re.MULTILINE)
    assert re.search(r"^rrl-linear-legacy-test-selection .*chosen on TEST", listed, flags=re.MULTILINE)


def test_the_grid_of_a_protocol_by_sgd_is_that_of_the_command_line(cli, tmp_path) -> None:
    grid = ("--lr", "0.01", "--lr", "1e30", "--weight-decay", "0.5")
    few = ("-b", "random/resnet20", "-d", "digits", "--train-size", "60", "--test-size", "30", "--out", tmp_path)
    outcome = cli("probe", *few, "--protocol", "sparse-linear", *grid, "--json", "-")
    assert outcome.code == 0, outcome.err
    record = json.loads(outcome.out)["records"][0]
    assert record["protocol"]["lrs"] == [0.01, 1e30] and record["protocol"]["weight_decays"] == [0.5]
    assert record["hyperparameters"]["lr"] == 0.01 and len(record["solver"]["diverged"]) == 1


def test_a_grid_for_a_protocol_without_one_is_refused(cli) -> None:
    outcome = cli("probe", "-b", "random/resnet20", "-d", "digits", "--lr", "0.1")
    assert (
        outcome.code == 2
        and "logistic has no --lr and --weight-decay; rrl-linear, sparse-linear and swav-linear have" in outcome.err
    )
