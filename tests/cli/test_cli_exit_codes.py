"""0; 2 for a user's mistake with one message and no traceback; 1 with a hint for what nobody expected."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from richrep.cli import console
from richrep.evaluation.protocols import LEGACY_TEST_SELECTION, PROTOCOLS

COMMANDS = ("demo", "inspect", "convert", "list", "extract", "probe", "rank", "search", "results", "datasets")
COMMANDS += ("cache",)


def test_help_shows_defaults_that_are_not_values(cli) -> None:
    text = " ".join(cli("probe", "--help").out.replace("│", " ").split())
    for default in ("$RICHREP_HOME/data", "$RICHREP_HOME/features", "by device and size", "the first four", "runs"):
        assert f"[default: ({default})]" in text or f"[default: {default}]" in text


def test_the_help_of_probe_names_every_protocol_and_the_list_says_what_each_is(cli) -> None:
    text = " ".join(cli("probe", "--help").out.replace("│", " ").split())
    lines = cli("list", "protocols").out.splitlines()
    of_probe = [*PROTOCOLS, *LEGACY_TEST_SELECTION]
    assert [line.split()[0] for line in lines][: len(of_probe)] == of_probe
    for name, line in zip(PROTOCOLS, lines, strict=False):
        assert re.search(rf"\b{name}\b", text), name
        assert re.search(r": choose .+ on val( folds)?, then .*all training images", line), line


def test_version_needs_no_command(cli) -> None:
    outcome = cli("--version")
    assert outcome.code == 0
    assert outcome.out.startswith("richrep 0.")


def test_richrep_alone_shows_its_help(cli) -> None:
    outcome = cli()
    assert outcome.code == 2  # nothing was done: a script that forgot the command must notice
    assert "Commands" in outcome.out + outcome.err


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "richrep", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Usage: " in done.stdout and "richrep" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("foo", "No such command 'foo'"),
        ("probe -d digits", "Missing option '--backbone'"),
        ("probe -b x.th", "Missing option '--dataset'"),
        ("probe -b x.th -d digits --train-size many", "Invalid value for '--train-size'"),
        ("probe -b x.th -d digits --batch-size 0", "Invalid value for '--batch-size'"),
        ("probe -b x.th -d digits --num-workers -1", "Invalid value for '--num-workers'"),
        ("probe -b x.th -d digits --on-bad-image repair", "'repair' is not one of 'stop', 'skip'"),
        ("probe -b x.th -d digits --seed 0 --seed -1", "-1 is no seed. Give a number from 0 to"),
        ("extract -b x.th -d digits --seed 4294967296", "4294967296 is no seed"),
        ("inspect x.th --seed -1", "-1 is no seed"),
        ("demo --seed -1", "-1 is no seed"),
        ("demo --repeats 0", "Invalid value for '--repeats'"),
        ("probe -b x.th -d digits --no-such-option", "No such option"),
        ("probe -b missing.th -d digits", "No such checkpoint file"),
        ("inspect missing.th", "No such checkpoint file"),
        ("inspect timm/resnet5O", "Did you mean 'resnet50'"),
        ("probe -b x.th -d digitz", "Unknown dataset 'digitz'. Did you mean 'digits'?"),
        ("probe -b x.th -d cifar10 --data-root nowhere", "nowhere"),
        ("probe -b x.th -d digits --protocol logistc", "Unknown protocol 'logistc'. Did you mean 'logistic'?"),
        ("probe -b x.th -d digits --normalization blockrms", "Unknown normalization 'blockrms'. Did you mean"),
        ("extract -b x.th -d digits --store fp8", "Error: Unknown storage type 'fp8'. Known: fp16, fp32."),
        ("rank -b x.th -d digits --score logm", "Unknown score 'logm'. Did you mean 'logme'"),
        ("extract -b x.th -d digits --part tst", "Unknown part 'tst'. Did you mean 'test'"),
        ("probe -b x.th -d digits --json missing/all.json", "the folder missing does not exist"),
        ("probe -b x.th -d digits --json .", "is a folder. Give the name of a file"),
        ("list backbnes", "Unknown list 'backbnes'. Did you mean 'backbones'?"),
        ("list datasets zebra", "No datasets match 'zebra'. List all with: richrep list datasets"),
        ("cache clean", "Unknown cache action 'clean'"),
        ("results", "The records folder runs does not exist"),
        ("results --csv - --json -", "Only one of --csv, --markdown and --json can go to standard output"),
        ("results --csv a --markdown a", "would overwrite each other"),
        ("results --csv missing/a.csv", "the folder missing does not exist"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(cli, arguments, words, tmp_path) -> None:
    outcome = cli(*arguments.split())
    assert outcome.code == 2
    assert words in outcome.message
    assert outcome.out == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("size", ["2000", "0", "-5"])
def test_a_train_size_the_data_set_does_not_have(cli, small, size) -> None:
    outcome = cli("probe", *small, "--train-size", size)
    assert outcome.code == 2
    assert f"--train-size {size} does not fit digits/train, which has 1258 images" in outcome.message


@pytest.mark.parametrize("command", ["probe", "demo"])
@pytest.mark.parametrize("out", ["file", "file/below"])
def test_out_that_is_a_file_is_refused_before_any_work(cli, small, tmp_path, command, out) -> None:
    (tmp_path / "file").write_text("precious")
    outcome = cli(command, *(small if command == "probe" else []), "--out", out)
    assert outcome.code == 2
    assert f"--out {out} cannot be used" in outcome.message
    assert "is a file, not a folder" in outcome.message
    assert "matched" not in outcome.err  # no backbone was loaded
    assert (tmp_path / "file").read_text() == "precious"


def test_places_without_permission_are_refused_before_any_work(cli, small, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who may write anywhere
    outcome = cli("probe", *small, "--out", "deep/below")
    assert outcome.code == 2
    assert f"no permission to write to {tmp_path}" in outcome.err
    assert "matched" not in outcome.err
    outcome = cli("inspect", small[1], "--json", "all.json")
    assert (outcome.code, outcome.message) == (
        2,
        "Error: all.json cannot be written: no permission. Choose another place.",
    )


def test_a_cache_that_cannot_be_written(cli, small, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    outcome = cli("probe", *small, "--cache-dir", "file")
    assert outcome.code == 2
    assert "The feature cache cannot be written at file" in outcome.message and "--cache-dir" in outcome.message


def test_a_disk_that_fails_while_json_is_written_leaves_nothing(cli, small, tmp_path, monkeypatch) -> None:
    (tmp_path / "all.json").write_text("old")

    def fail(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(console.os, "replace", fail)
    outcome = cli("inspect", small[1], "--json", "all.json")
    assert outcome.code == 2
    assert "all.json cannot be written: No space left on device" in outcome.message
    assert [path.name for path in tmp_path.iterdir()] == ["all.json"]
    assert (tmp_path / "all.json").read_text() == "old"


def break_list(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setitem(sys.modules["richrep.cli.list_names"].LISTS, "engines", fail)


def test_an_unexpected_error_is_exit_code_1_and_says_how_to_see_more(cli, monkeypatch) -> None:
    break_list(monkeypatch, RuntimeError("the sky fell"))
    outcome = cli("list", "engines")
    assert outcome.code == 1
    assert "Unexpected error (RuntimeError): the sky fell" in outcome.err
    assert "RICHREP_DEBUG=1" in outcome.err


def test_with_richrep_debug_the_traceback_comes_through(cli, monkeypatch) -> None:
    from richrep.cli.main import run

    monkeypatch.setenv("RICHREP_DEBUG", "1")
    break_list(monkeypatch, RuntimeError("the sky fell"))
    monkeypatch.setattr(sys, "argv", ["richrep", "list", "engines"])
    with pytest.raises(RuntimeError, match="the sky fell"):
        run()


def test_ctrl_c_says_that_finished_work_is_kept(cli, monkeypatch) -> None:
    break_list(monkeypatch, KeyboardInterrupt())
    outcome = cli("list", "engines")
    assert outcome.code == 130
    assert "Interrupted. Finished work is kept" in outcome.err


def test_names_with_brackets_and_colons_are_printed_as_they_are(capsys) -> None:
    console.say("we[bold]ird:smile:.th")
    console.stdout().print("we[bold]ird:smile:.th")
    captured = capsys.readouterr()
    assert captured.out == captured.err == "we[bold]ird:smile:.th\n"


@pytest.mark.parametrize("variable", ["NO_COLOR", "COLUMNS"])
def test_output_that_is_no_terminal_has_no_escape_codes(cli, monkeypatch, variable) -> None:
    monkeypatch.setenv(variable, "120")
    outcome = cli("list", "datasets")
    assert "\x1b" not in outcome.out + outcome.err


def test_the_log_is_longer_with_verbose(cli, small) -> None:
    quiet, verbose = cli("extract", *small[:8]), cli("--verbose", "extract", *small[:8])
    assert "DEBUG" not in quiet.err
    assert "DEBUG: Extracting with" in verbose.err


def test_the_confirmation_of_clear_can_be_declined(cli, small, monkeypatch) -> None:
    assert cli("extract", *small[:8], "--part", "test").code == 0
    questions = []

    def decline(question: str, **options: object) -> None:
        questions.append(question)
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", decline)
    assert cli("cache", "clear").code == 1
    assert questions and questions[0].startswith("Clear 1 entries")
    assert "1 entries" in cli("cache").out
    assert Path("home").is_dir()


def test_a_bad_image_names_the_option_only_where_there_is_one(cli, checkpoints, image_folder) -> None:
    outcome = cli("finetune", "-b", checkpoints[0], "-d", f"folder:{image_folder}", "--epochs", 1, "--lr", 0.01)
    assert outcome.code == 2 and "03.png" in outcome.err
    assert "Repair or remove the image." in outcome.message and "--on-bad-image" not in outcome.message


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_too_little_memory_is_said_with_what_to_do(cli, small, monkeypatch, error) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("richrep.evaluation.probe.probe", fail)
    outcome = cli("probe", *small)
    assert outcome.code == 2 and "defect" not in outcome.err
    assert "Error: Out of memory." in outcome.message and "--batch-size" in outcome.message


def test_a_protocol_with_views_of_its_own_says_what_they_cost(cli, small) -> None:
    outcome = cli("probe", *small[:-2], "--protocol", "rrl-linear", "--weight-decay", 1e-4, "--json", "-")
    assert "rrl-linear: 28 random views of every training image" in outcome.message
    assert json.loads(outcome.out)["records"][0]["protocol"]["views"] == 28
    plain = cli("probe", *small[:-2], "--protocol", "rrl-linear", "--weight-decay", 1e-4, "--views", 1)
    assert "random views" not in plain.err
