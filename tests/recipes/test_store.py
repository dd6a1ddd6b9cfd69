"""What becomes of a cell is written whole, and one process at a time runs it."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace

import pytest

from richrep.errors import RichrepError
from richrep.recipes.grid import Cell
from richrep.recipes.store import CellState, CellStore, to_run

CELL = Cell("folder/trial", "a", "a seed=0", "list", ("datasets",), "0123456789abcdef")
DONE = CellState("finished", "a seed=0", ("richrep",), ("id1",), "2026-01-31T12:00:00.000+00:00")


def test_a_state_is_read_as_it_was_written(tmp_path) -> None:
    store = CellStore(tmp_path)
    assert store.load(CELL) is None
    state = replace(DONE, ended="2026-01-31T12:01:30.000+00:00", exit_code=0)
    store.save(CELL, state)
    assert store.load(CELL) == state and state.elapsed_s == 90
    assert [path.name for path in (tmp_path / "folder" / "trial").iterdir()] == ["0123456789abcdef.cell"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"state": "odd", "label": "a"}', '{"label": "a"}'])
def test_a_damaged_state_counts_as_never_run_and_is_said(tmp_path, caplog, text) -> None:
    store = CellStore(tmp_path)
    store.save(CELL, DONE)
    store.path(CELL).write_text(text)
    with caplog.at_level(logging.WARNING, logger="richrep"):
        assert store.load(CELL) is None
    assert "the cell counts as never run" in caplog.text


def test_what_is_to_be_run_depends_on_what_became_of_it(tmp_path) -> None:
    store = CellStore(tmp_path)
    new, done, failed, cut = (replace(CELL, key=str(i) * 16) for i in range(4))
    for cell, state in ((done, "finished"), (failed, "failed"), (cut, "running")):
        store.save(cell, replace(DONE, state=state))
    cells = [new, done, failed, cut, new]
    assert to_run(cells, store) == [new, failed, cut]
    assert to_run(cells, store, retry_failed=False) == [new, cut]
    assert to_run(cells, store, redo=True) == [new, done, failed, cut]


def test_a_cell_is_claimed_by_one_process_and_free_again_when_that_dies(tmp_path) -> None:
    code = (
        "import sys, time; from test_store_import import CELL, CellStore; from pathlib import Path\n"
        "with CellStore(Path(sys.argv[1])).claim(CELL) as ours: print(ours, flush=True); time.sleep(60)"
    )
    (tmp_path / "test_store_import.py").write_text(
        f"from richrep.recipes.grid import Cell\nfrom richrep.recipes.store import CellStore\nCELL = {CELL!r}\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        store = CellStore(tmp_path)
        with store.claim(CELL) as ours:
            assert not ours
        other.kill()
        other.wait()
        with store.claim(CELL) as ours:
            assert ours
    finally:
        other.kill()
        other.communicate()


def test_a_folder_that_cannot_be_written_is_said(tmp_path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(RichrepError, match=r"cannot be written: .* Give another --out"):
        CellStore(tmp_path).save(CELL, DONE)
