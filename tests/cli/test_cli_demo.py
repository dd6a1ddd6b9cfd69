"""`richrep demo`, shortened; that the claim holds at full length is shown by `make demo`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from richrep.cli import demo


def test_a_shortened_demo_runs_end_to_end(cli, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(demo, "NUM_SHORT", 2)
    monkeypatch.setattr(demo, "SHORT_STEPS", 3)
    monkeypatch.setattr(demo, "LONG_STEPS", 6)
    outcome = cli("demo", "--repeats", 1, "--json", "all.json", "--out", "records")
    assert outcome.code == 0
    text = " ".join(outcome.out.split())
    assert "2 networks x 3 steps, concatenated" in text
    assert "1 network x 6 steps" in text
    assert "Seen with 2 networks of 3 steps" in text
    assert "run 1 of 1" in outcome.err and "run 1 of 1" not in outcome.out
    records = json.loads((tmp_path / "all.json").read_text())["records"]
    assert [r["representation"] for r in records] == ["short1", "short2", "cat(short1+short2)", "long"]
    assert len({backbone["sha256"] for r in records for backbone in r["backbones"]}) == 3  # no two networks alike
    assert len(list((tmp_path / "records").glob("*.json"))) == 4
    assert not (tmp_path / "home").exists()  # keeps no features


def test_with_json_on_stdout_the_tables_are_not_there(cli, monkeypatch) -> None:
    monkeypatch.setattr(demo, "_accuracy", lambda record: 0.5)

    def two_records(source: object, target: object, *, seed: int) -> list[str]:
        return [f"a{seed}", f"b{seed}"]

    monkeypatch.setattr(demo, "run_once", two_records)
    monkeypatch.setattr("richrep.evaluation.record_store.save_record", lambda record, out: None)
    monkeypatch.setattr("richrep.reports.render.render_json", lambda records: json.dumps(records))
    outcome = cli("demo", "--repeats", 2, "--seed", 7, "--json", "-")
    assert json.loads(outcome.out) == ["a7", "b7", "a8", "b8"]


def test_the_two_tasks_share_no_class_and_no_image_is_lost() -> None:
    source, target = demo.digits_pair()
    # the digits hold 178, 182, 177, 183, 181 | 182, 181, 179, 174, 180 images of each class: 901 and 896
    assert len(source.train) + len(source.test) == 901
    assert len(target.train) + len(target.test) == 896
    assert source.train.class_names == source.test.class_names == tuple("01234")
    assert target.train.class_names == target.test.class_names == tuple("56789")
    for split in (source.train, source.test, target.train, target.test):
        assert np.unique(split.labels).tolist() == [0, 1, 2, 3, 4]
    assert (source.name, target.name) == ("digits-0-4", "digits-5-9")
    assert source.train.fingerprint != target.train.fingerprint


@pytest.mark.parametrize(
    ("together", "alone", "words"),
    [
        # gains 0.02 and 0.04: mean 3.0 points
        ([0.96, 0.97], [0.94, 0.93], "transferred better in every run, by 3.0 points on average"),
        # gains 0.05 and -0.01: mean 2.0 points
        ([0.97, 0.93], [0.92, 0.94], "was better in 1 of 2 runs, by 2.0 points on average"),
        # gains -0.05 and 0.01: mean -2.0 points
        ([0.92, 0.94], [0.97, 0.93], "the claim does not hold here"),
        ([0.92, 0.94], [0.97, 0.93], "better in 1 of 2 runs only, -2.0 points on average"),
        ([0.90], [0.90], "the claim does not hold here"),  # a tie is no gain
    ],
)
def test_the_sentence_says_what_was_seen(together, alone, words) -> None:
    sentence = demo.what_was_seen(together, alone)
    assert words in sentence
    assert sentence.startswith("Seen with 4 networks of 200 steps, concatenated, and one of 800 steps: ")


def test_the_spread_is_shown_from_two_runs_on() -> None:
    assert demo._mean_and_std([0.5]) == "0.500"
    assert demo._mean_and_std([0.4, 0.6]) == "0.500 ± 0.141"  # sqrt(0.1² + 0.1²) = 0.141
