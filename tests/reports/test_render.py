import csv
import io
import json
import re

import pytest
from rich.console import Console

from richrep.evaluation.record import Record
from richrep.reports.render import render_csv, render_json, render_markdown, render_rich, wrap_name
from richrep.reports.tables import make_probe_table, make_results_table


def terminal(table, width=80, **options):
    file = io.StringIO()
    Console(file=file, width=width, **options).print(render_rich(table, width=width))
    return file.getvalue()


@pytest.fixture
def mixed_results(make_record):
    """Two data sets, kinds and sizes, two checkpoints of one name: nothing to say once."""
    return make_results_table(
        [
            make_record("resnet20", 0.84, interval=[0.826, 0.853]),
            make_record("resnet20", 0.85, interval=[0.836, 0.863], sha256="cd" * 32),
            make_record("resnet20 resnet32 resnet44 resnet56", 0.881, interval=[0.867, 0.894], dataset="cifar100"),
            make_record("resnet20", 0.9167, interval=[0.911, 0.922], kind="own-head", num_test=10000),
        ]
    )


# Terminal


def test_the_five_rows_are_whole_at_eighty_columns(five_rows):
    lines = terminal(make_probe_table(five_rows)).splitlines()
    assert all(len(line) <= 80 for line in lines)
    for record in five_rows[:4]:
        (line,) = [line for line in lines if re.match(rf"{record.representation} +64 ", line)]
        assert f"{100 * record.score('test', 'accuracy'):.2f}  82.6 – 85.3  0.0032  block-rms  12.0/1.2" in line
    assert "…" not in "".join(lines)


def test_the_name_of_a_concatenation_breaks_between_members_and_is_whole_where_there_is_room(five_rows):
    table = make_probe_table(five_rows)
    column = [line[:20].rstrip() for line in terminal(table).splitlines()]
    start = column.index(next(text for text in column if text.startswith("cat(resnet20+")))
    assert column[start + 1].startswith("resnet")
    assert "cat(resnet20+resnet32+resnet44+resnet56)  256" in terminal(table, width=110)


def test_mixed_results_are_whole_at_eighty_columns(mixed_results):
    text = terminal(mixed_results)
    assert all(len(line) <= 80 for line in text.splitlines())
    for cell in ("84.00 (82.6 – 85.3)", "85.00 (83.6 – 86.3)", "88.10 (86.7 – 89.4)", "91.67 (91.1 – 92.2)"):
        assert cell in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_asked_and_nothing_is_cut(five_rows, mixed_results, width):
    for table in (make_probe_table(five_rows), mixed_results):
        text = terminal(table, width=width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text


def test_square_brackets_are_text_and_not_markup(make_record):
    record = make_record("[red]net[/red]")
    assert "[red]net[/red]" in terminal(make_probe_table([record]), width=120)


def test_no_color_is_respected(five_rows, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = terminal(make_probe_table(five_rows), force_terminal=True)
    assert not re.search("\x1b\\[[0-9;]*3[0-9]m", text)


@pytest.mark.parametrize("make_table", [make_probe_table, make_results_table])
def test_an_empty_table_renders(make_table):
    assert "representation" in terminal(make_table([]))
    assert render_markdown(make_table([])).startswith("| representation |")
    assert len(render_csv(make_table([])).splitlines()) == 1


# Names


def test_a_short_name_is_left_alone():
    assert wrap_name("resnet20", 12) == "resnet20"


def test_names_break_after_a_plus_first_and_inside_a_member_only_where_it_is_too_long():
    assert wrap_name("cat(a-1+b-2+c-3)", 8) == "cat(a-1+\nb-2+c-3)"
    assert wrap_name("mobilenet_v2-caltech+b", 10) == "mobilenet_\nv2-\ncaltech+b"
    assert wrap_name("abcdefghij", 4) == "abcd\nefgh\nij"


def test_a_very_long_name_loses_its_middle():
    name = f"cat({'+'.join(f'resnet{at}' for at in range(20, 60))})"
    lines = wrap_name(name, 20).split("\n")
    assert len(lines) == 6
    assert lines[0] == "cat(resnet20+" and lines[-2] == "…" and lines[-1].endswith("resnet59)")


@pytest.mark.parametrize("width", [5, 12, 14, 33])
def test_wrapping_keeps_every_character_and_the_width(width):
    name = "cat(resnet20+mobilenet_v2@12fca82f+a/b/c [seed=1])"
    wrapped = wrap_name(name, width, max_lines=100)
    assert wrapped.replace("\n", "").replace(" ", "") == name.replace(" ", "")
    assert max(map(len, wrapped.split("\n"))) <= width


# Markdown


def test_markdown_has_caption_table_and_notes(make_record):
    records = [make_record("a", interval=[0.78, 0.82]), make_record("a b", interval=[0.78, 0.82], gain=0.01)]
    assert render_markdown(make_probe_table(records)) == (
        "**dataset cifar10 · images train+val/test 4000+1000/2000 · kind/protocol probe/logistic · seed 0**\n"
        "\n"
        "| representation | dim | val % | test % | 95 % interval | l2 | normalization | extract/fit (s) |\n"
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| a | 64 | 81.00 | 80.00 | 78.0 – 82.0 | 0.0032 | block-rms | 12.0/1.2 |\n"
        "| cat(a+b) | 128 | 81.00 | 80.00 | 78.0 – 82.0 | 0.0032 | block-rms | 12.0/1.2 |\n"
        "\n"
        "cat(a+b): +1.00 points over b, its best member on val.\n"
    )


def test_a_pipe_in_a_name_does_not_break_the_markdown_table(make_record):
    assert "| a\\|b |" in render_markdown(make_probe_table([make_record("a|b")]))


# CSV and JSON


def test_csv_holds_raw_fractions_under_one_header(five_rows):
    rows = list(csv.DictReader(io.StringIO(render_csv(make_probe_table(five_rows)))))
    assert len(rows) == 5
    assert rows[-1]["representation"] == "cat(resnet20+resnet32+resnet44+resnet56)"
    assert float(rows[-1]["test_accuracy"]) == five_rows[-1].score("test", "accuracy")
    assert (float(rows[-1]["gain_low"]), float(rows[-1]["gain_high"])) == (0.022, 0.042)
    assert float(rows[0]["l2"]) == 0.0031622
    assert rows[0]["gain"] == ""


def test_csv_of_results_has_means_and_spreads(make_record):
    table = make_results_table([make_record(test=0.8), make_record("resnet20", 0.9, seed=1)])
    (row,) = csv.DictReader(io.StringIO(render_csv(table)))
    assert float(row["test_accuracy"]) == pytest.approx(0.85)
    assert float(row["test_accuracy_std"]) == pytest.approx(0.0707, abs=5e-5)
    assert (row["num_seeds"], row["seeds"], row["test_accuracy_low"]) == ("2", "0 1", "")


def test_a_comma_or_quote_in_a_name_survives_csv(make_record):
    (row,) = csv.DictReader(io.StringIO(render_csv(make_probe_table([make_record('a,"b"')]))))
    assert row["representation"] == 'a,"b"'


def test_json_holds_the_records_whole(five_rows):
    content = json.loads(render_json(five_rows))
    assert list(content) == ["records"]
    assert [Record.from_json(json.dumps(record)) for record in content["records"]] == five_rows
    assert json.loads(render_json([])) == {"records": []}
