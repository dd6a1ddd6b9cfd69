"""What a recipe may say, and the words with which anything else is refused."""

from __future__ import annotations

import pytest

from richrep.errors import RichrepError
from richrep.recipes.recipe import load_recipe, read_all


def test_cells_take_over_what_the_recipe_says_and_replace_what_they_say_themselves(write) -> None:
    path = write(
        """
command: probe
options: {dataset: digits, train-size: [100, 200], seed: 0}
grid: {normalization: [none, standard]}
rows: {both: together}
cells:
  - {name: a, options: {seed: 1}}
  - {name: b, command: search, grid: {train-size: [50, 60]}, options: {normalization: none}, rows: {own: alone}}
"""
    )
    a, b = load_recipe(path).specs()
    assert (a.command, a.options, a.grid, a.rows) == (
        "probe",
        {"dataset": "digits", "train-size": [100, 200], "seed": 1},
        {"normalization": ["none", "standard"]},
        {"both": "together"},
    )
    assert (b.command, b.grid) == ("search", {"train-size": [50, 60]})
    assert b.options == {"dataset": "digits", "seed": 0, "normalization": "none"}
    assert b.rows == {"own": "alone"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("comand: probe", r"trial.yaml: Unknown key 'comand'. Did you mean 'command'"),
        ("command: probe\ncells: [{nam: a}]", r"cells.0: Unknown key 'nam'. Did you mean 'name'"),
        ("command: probe\nexpected: {valu: 1}", r"expected.0: Unknown key 'valu'. Did you mean 'value'"),
        (
            "command: probe\nexpected: {value: 93.75}",
            r"Expected 93.75: accuracy is a fraction in \[0, 1\], not percent",
        ),
        ("command: probe\nvariables: {day: 2024-13-45}", r"cannot be read as YAML: month must be in 1..12"),
        ("command: probe\nvariables: {size: !!int x}", r"cannot be read as YAML: invalid literal for int"),
        (
            "command: probe\nrows: {each: alone}\nexpected: {value: 0.5, row: eech}",
            r"Unknown row 'eech'. Did you mean 'each'",
        ),
        ("command: probe\noptions: []", r"options: Input should be a valid dictionary"),
        ("command: probe\nmetric: acuracy", r"metric: Unknown metric 'acuracy'. Did you mean 'accuracy'"),
        ("command: probe\nvariables: {a-b: 1}", r"variables: 'a-b' is no name of a variable"),
        ("command: probe\nmemory: lots", r"memory: 'lots' is no size of memory"),
        ("hardware: none", r"Nothing to run. Give `command:`, `cells:` or `include:`"),
        ("cells: [{name: a}]", r"A cell has no command, and the recipe has none for all"),
        ("command: probe\ncommand: search", r"cannot be read as YAML: the key 'command' stands there twice"),
        ("command: probe\noptions: &a {x: *a}", r"aliases \(\*name\) are not allowed"),
        ("command: !!python/object/apply:os.system [ls]", r"could not determine a constructor for the tag"),
        (
            "unavailable: not yet\ncommand: probe\ncells: [{name: a, expected: {value: 0.5}}]",
            r"Unavailable: nothing can be run, so leave command, options, grid, rows and include out",
        ),
        ("unavailable: not yet\ncells: [{name: a}]", r"every cell needs a name and an expected number"),
        ("unavailable: not yet", r"every cell needs a name and an expected number"),
        ("command: [", r"cannot be read as YAML"),
        ("options: {backbone: [${a}/b]}", r"cannot be read as YAML: .* on one line needs quotes: '\${name}'"),
    ],
)
def test_what_is_no_recipe_is_refused_with_the_file_and_the_key(write, text, message) -> None:
    with pytest.raises(RichrepError, match=message):
        load_recipe(write(text))


@pytest.mark.parametrize("name", ["../up", "/abs", "a//b", "", ".hidden", "a b"])
def test_a_name_cannot_leave_the_folder_of_the_records(tmp_path, name) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"name: '{name}'\ndescription: d\ncommand: probe")
    with pytest.raises(RichrepError, match=r"name: .* is no name"):
        load_recipe(path)


def test_a_file_that_is_no_mapping_or_not_there_is_refused(tmp_path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(RichrepError, match="is no recipe: keys such as name"):
        load_recipe(path)
    with pytest.raises(RichrepError, match=r"nothing.yaml does not exist. Give a YAML file"):
        load_recipe(tmp_path / "nothing.yaml")
    with pytest.raises(RichrepError, match="is a folder"):
        load_recipe(tmp_path)
    path.write_text("#" * (2**20 + 1))
    with pytest.raises(RichrepError, match="larger than 1 MiB"):
        load_recipe(path)


def test_included_recipes_come_once_and_take_the_variables_of_the_including_one(write) -> None:
    write("command: probe\nvariables: {data: here, own: 1}", "inner")
    write("include: [inner.yaml]", "middle")
    path = write("include: [inner.yaml, middle.yaml]\nvariables: {data: there, other: 2}", "outer")
    outer, inner, middle = read_all(path)
    assert [recipe.name for recipe in (outer, inner, middle)] == ["outer", "inner", "middle"]
    assert inner.variables == {"data": "there", "own": 1}


def test_a_recipe_that_includes_itself_is_refused(write) -> None:
    write("include: [b.yaml]", "a")
    with pytest.raises(RichrepError, match="includes itself"):
        read_all(write("include: [a.yaml]", "b"))
