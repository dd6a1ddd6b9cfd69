"""A run's folder: its options, going on, beginning anew, and who may work on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from richrep.errors import RichrepError
from richrep.training.run_folder import open_run

OPTIONS = {"lr": 0.01, "epochs": 3, "view": {"scale": (0.1, 1.0)}, "names": ("a", "b")}


def test_the_same_options_go_on_where_they_were(tmp_path: Path) -> None:
    with open_run(tmp_path, "mine", OPTIONS) as run:
        run.write_done("lr 0.01", {"accuracy": 0.5})
        assert (run.name, run.path) == ("mine", tmp_path / "mine")
    with open_run(tmp_path, "mine", OPTIONS) as run:
        assert run.read_done("lr 0.01") == {"accuracy": 0.5}
        assert run.read_done("another") is None


def test_other_options_are_refused_with_all_differences(tmp_path: Path) -> None:
    with open_run(tmp_path, "mine", OPTIONS) as run:
        run.write_done("lr 0.01", {"accuracy": 0.5})
    changed = OPTIONS | {"lr": 0.1, "view": {"scale": (0.5, 1.0)}, "new": 1}
    with pytest.raises(RichrepError) as error, open_run(tmp_path, "mine", changed):
        pass
    for text in (
        "lr: 0.01 then, 0.1 now",
        "view.scale: [0.1, 1.0] then, [0.5, 1.0] now",
        "new: not set then, 1 now",
        "--restart",
        "--name",
    ):
        assert text in str(error.value)
    assert "epochs" not in str(error.value)


def test_a_run_that_trained_nothing_yet_takes_other_options(tmp_path: Path) -> None:
    for lr in (0.01, 0.1):  # the first had an option that could not be used, say
        with open_run(tmp_path, "mine", OPTIONS | {"lr": lr}):
            pass
    assert "lr: 0.1" in (tmp_path / "mine" / "options.yaml").read_text()


def test_restart_begins_anew_with_other_options(tmp_path: Path) -> None:
    with open_run(tmp_path, "mine", OPTIONS) as run:
        run.write_done("cell", {"accuracy": 0.5})
        run.model.mkdir()
    with open_run(tmp_path, "mine", {"lr": 1.0}, restart=True) as run:
        assert run.read_done("cell") is None and not run.model.exists()
    with open_run(tmp_path, "mine", {"lr": 1.0}):
        pass


def test_two_processes_do_not_work_on_one_run(tmp_path: Path) -> None:
    with (
        open_run(tmp_path, "mine", OPTIONS),
        pytest.raises(RichrepError, match="Another process is at work on run 'mine'"),
        open_run(tmp_path, "mine", OPTIONS),
    ):
        pass


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 200])
def test_names_that_are_no_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RichrepError, match="A run cannot be called"), open_run(tmp_path, name, OPTIONS):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_options_file_is_said(tmp_path: Path) -> None:
    with open_run(tmp_path, "mine", OPTIONS) as run:
        run.write_done("lr 0.01", {"accuracy": 0.5})
        (run.path / "options.yaml").write_text("- a list\n")
    with (
        pytest.raises(RichrepError, match=r"options\.yaml is not what a run writes.*--restart"),
        open_run(tmp_path, "mine", OPTIONS),
    ):
        pass


def test_training_states_are_dropped_and_what_came_of_them_stays(tmp_path: Path) -> None:
    with open_run(tmp_path, "mine", OPTIONS) as run:
        run.state("cell").parent.mkdir()
        run.state("cell").write_bytes(b"state")
        run.write_done("cell", {"accuracy": 0.5})
        run.drop_states()
        assert not run.state("cell").exists()
        assert run.read_done("cell") == {"accuracy": 0.5}
