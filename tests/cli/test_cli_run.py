"""`richrep run` from a recipe to the table; what it starts are real commands in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import richrep
from richrep.recipes.grid import Cell
from richrep.recipes.store import CellStore

PROBE = """
name: tried/two
description: two networks of random weights
variables: {sizes: [100, 200]}
command: probe
options:
  dataset: digits
  backbone: [random/resnet20, random/resnet32]
  train-size: ${sizes}
  test-size: 50
  normalization: none
  seed: [0, 1]
rows: {each: alone, both: together}
expected: {value: 0.9, row: both, train-size: 100, source: by hand}
"""
LISTS = """
name: lists
description: quick cells, one of which fails
command: list
options: {what: datasets}
cells:
  - {name: fine, options: {pattern: [digits, cifar]}}
  - {name: broken, options: {pattern: no such data}}
"""


@pytest.fixture(autouse=True)
def cells_find_richrep(monkeypatch) -> None:
    source = str(Path(richrep.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")])))


@pytest.fixture
def write(tmp_path):
    def write_recipe(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_recipe


def test_a_recipe_runs_to_a_table_and_finished_cells_are_skipped(cli, write, tmp_path) -> None:
    path = write(PROBE)
    first = cli("run", path, "--jobs", 2, "--markdown", "table.md", "--json", "records.json", "sizes=[100]")
    assert first.code == 0, first.err
    assert "[1/1] two: finished" in first.err and "both" in first.out and "90.00 (" in first.out
    records = json.loads(Path("records.json").read_text())["records"]
    assert len(records) == 6  # two alone and both together, of two seeds
    assert all((tmp_path / "runs" / f"{record['id']}.json").is_file() for record in records)
    both = [record["metrics"]["test"]["accuracy"] for record in records if len(record["backbones"]) == 2]
    assert f"| both | {50 * sum(both):.2f} ± " in Path("table.md").read_text()
    second = cli("run", path, "sizes=[100]")
    assert second.code == 0 and "finished in" not in second.err and second.out == first.out
    results = cli("results")
    assert results.code == 0 and "left out" not in results.err  # states are not taken for records
    only = cli("run", path, "--table-only")
    assert only.code == 0 and "1 of 2 cells finished; 1 not run" in only.err and "90.00 (" in only.out


def test_a_failed_cell_gives_exit_code_1_and_is_tried_again(cli, write) -> None:
    path = write(LISTS)
    first = cli("run", path)
    assert first.code == 1 and "2 of 3 cells finished; 1 failed" in first.err
    assert "broken: failed" in first.err and "Error: No datasets match 'no such data'" in first.message
    kept = cli("run", path, "--keep-failed")
    assert kept.code == 1 and "broken" not in kept.err
    again = cli("run", path)
    assert again.code == 1 and "[1/1] broken: failed" in again.err
    redone = cli("run", path, "--redo", "pattern=digits")
    assert redone.code == 0 and "[1/1] fine: finished" in redone.err  # all cells are one command now


def test_a_dry_run_prints_the_commands_and_starts_nothing(cli, write, tmp_path) -> None:
    plan = cli("run", write(PROBE), "--dry-run", "--out", "there")
    assert plan.code == 0 and "2 of 2 cells to run; nothing was started." in plan.err
    commands = [line for line in plan.out.splitlines() if not line.startswith("#")]
    assert commands[1] == (
        "richrep probe --dataset digits --backbone random/resnet20 --backbone random/resnet32 --train-size 200 "
        "--test-size 50 --normalization none --seed 0 --seed 1 --out there"
    )
    assert not (tmp_path / "there").exists()


def test_a_dry_run_for_slurm_prints_the_script_and_the_cells(cli, write) -> None:
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    plan = cli("run", write(PROBE), "--dry-run", "--executor", "slurm", "--partition", "gpu", "--memory", "8GB")
    assert plan.code == 0 and plan.out.startswith("#!/bin/bash")
    assert "#SBATCH --array=0-1%2\n" in plan.out and "#SBATCH --mem=8GB\n" in plan.out
    assert "# [1] two train-size=200" in plan.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train-sizes=5"], "Unknown variable or option 'train-sizes'. Did you mean 'train-size'"),
        (["seed=x"], "recipe.yaml: two: options.seed: a whole number was expected, got 'x'."),
        (["seed"], "'seed' is no override. Write key=value"),
        (["--plot", "x.gif"], "x.gif is no picture"),
        (["--memory", "much"], "'much' is no size of memory"),
        (["--markdown", "a", "--json", "a"], "--markdown and --json would overwrite each other"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2_before_anything_runs(cli, write, tmp_path, words, message) -> None:
    outcome = cli("run", write(PROBE), *words)
    assert outcome.code == 2 and message in outcome.message
    assert not (tmp_path / "runs").exists()


def test_a_missing_file_names_the_variable_to_set(cli, write) -> None:
    text = PROBE.replace("variables: {", "variables: {weights: nowhere, ").replace(
        "random/resnet32", "'${weights}/a.pth'"
    )
    outcome = cli("run", write(text))
    assert outcome.code == 2 and "say where it is with weights=FOLDER" in outcome.message


def test_a_run_that_is_killed_goes_on_where_it_was(cli, write, tmp_path) -> None:
    probe = "{dataset: digits, backbone: random/resnet20, train-size: 100, test-size: 50, normalization: none}"
    path = write(
        "name: cut\ndescription: a quick cell and one of seconds\ncells:\n"
        "  - {name: quick, command: list, options: {what: datasets}}\n"
        f"  - {{name: probe, command: probe, options: {probe}}}\n"
    )
    run = subprocess.Popen([sys.executable, "-m", "richrep", "run", str(path)], stderr=subprocess.DEVNULL)
    try:
        key = _key_of_the_second(tmp_path / "runs" / "cut")
        child = _pid_of(f".{key}.records") if sys.platform == "linux" else None
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    if sys.platform == "linux":  # the child goes with its parent
        assert _is_gone(child)
    between = cli("run", path, "--table-only")
    assert between.code == 0 and "1 of 2 cells finished; 1 interrupted" in between.err
    again = cli("run", path)
    assert again.code == 0 and "1 of 2 cells have been run before" in again.err, again.err
    assert "[1/1] probe: finished" in again.err and len(list((tmp_path / "runs").glob("*.json"))) == 1


def _key_of_the_second(folder: Path) -> str:
    """Key of the cell named "probe", as soon as it is running."""
    for _ in range(600):
        running = [path.stem for path in folder.glob("*.cell") if json.loads(path.read_text())["label"] == "probe"]
        if running:
            return running[0]
        time.sleep(0.05)
    raise AssertionError("the second cell was not started within 30 s")


def _pid_of(word: str) -> int | None:
    """The process with `word` in its command line; None where the system does not say, or not within 10 s."""
    for _ in range(200):
        for entry in Path("/proc").glob("[0-9]*"):
            if word in _command_line(entry):
                return int(entry.name)
        time.sleep(0.05)
    return None


def _is_gone(pid: int | None) -> bool:
    """Whether that process ends within 10 s; one that never was is an error."""
    assert pid is not None
    for _ in range(200):
        if not _command_line(Path("/proc") / str(pid)):
            return True
        time.sleep(0.05)
    return False


def _command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_a_recipe_of_several_files_shares_what_they_have_finished(cli, write, tmp_path) -> None:
    one = write(LISTS.replace("  - {name: broken, options: {pattern: no such data}}\n", ""))
    assert cli("run", one).code == 0
    (tmp_path / "all.yaml").write_text("name: all\ndescription: both\ninclude: [recipe.yaml]\n")
    outcome = cli("run", tmp_path / "all.yaml")
    assert outcome.code == 0 and "finished in" not in outcome.err
    key = next((tmp_path / "runs" / "lists").glob("*.cell")).stem
    assert CellStore(tmp_path / "runs").load(Cell("lists", "", "", "", (), key)) is not None


def test_a_training_with_other_options_is_a_run_beside_the_first(cli, write, tmp_path) -> None:
    text = """
name: trial
description: short
command: finetune
options: {dataset: digits, backbone: random/resnet20, train-size: 40, test-size: 20, preprocess: [size=8],
  batch-size: 20, augment: false, lr: 0.01, epochs: 1}
"""
    assert cli("run", write(text)).code == 0
    assert cli("run", write(text), "epochs=2").code == 0
    assert len(list((tmp_path / "runs").glob("trial-*/model"))) == 2


def test_a_recipe_that_nothing_can_be_run_of_shows_what_was_published_and_why(cli, write, tmp_path) -> None:
    text = """
name: tried/recorded
description: numbers without networks
unavailable: no networks published
cells:
  - {name: CAT2, expected: [{value: 0.6, std: 0.01, dataset: CUB, source: table 1}, {value: 0.7, dataset: Cars}]}
"""
    outcome = cli("run", write(text), "--markdown", "table.md")
    assert outcome.code == 0
    assert "tried/recorded: nothing can be run (no networks published)." in outcome.message
    table = (tmp_path / "table.md").read_text()
    assert "60.00 ± 1.00" in table and "70.00" in table and "CUB" in table and "Published: table 1." in table
