"""What the first of several processes does alone; two real ones are in tests/cli/test_cli_finetune.py."""

from __future__ import annotations

import pytest

from richrep.training.processes import _outcome, is_main, leave, on_main, rank_and_count


def test_a_process_by_itself_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")  # as other launchers set, without the rest
    assert rank_and_count() == (0, 1) and is_main()
    assert on_main(lambda: 7) == 7
    with pytest.raises(KeyError):
        on_main(lambda: {}["missing"])
    leave()


def test_torchruns_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    assert rank_and_count() == (1, 4) and not is_main()


def test_what_goes_to_the_others_is_the_result_or_the_error() -> None:
    assert _outcome(lambda: 7) == (7, None)
    result, error = _outcome(lambda: on_main(lambda: {}["missing"]))  # nested: nobody else would answer
    assert result is None and isinstance(error, KeyError)
