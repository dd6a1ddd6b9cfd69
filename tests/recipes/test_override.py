"""key=value on the command line, and files that are not there."""

from __future__ import annotations

import pytest

from richrep.errors import RichrepError
from richrep.recipes.grid import expand
from richrep.recipes.override import check_files, override
from richrep.recipes.recipe import read_all

TEXT = """
variables: {wd: [1, 2]}
command: probe
options: {dataset: digits, train-size: 50, normalization: '${wd}'}
cells:
  - {name: a, options: {backbone: a}}
  - {name: b, command: search, options: {backbone: [a, b], normalization: null}}
  - {name: c, grid: {backbone: [a, b]}}
"""


def labels(recipes, commands) -> list[str]:
    return [f"{cell.label} {' '.join(cell.arguments)}" for recipe in recipes for cell in expand(recipe, commands)]


def test_an_override_is_a_variable_first_and_else_an_option_of_every_command_that_has_it(write, commands) -> None:
    recipes = read_all(write(TEXT))
    by_variable = labels(override(recipes, {"wd": ["none"]}, commands), commands)
    assert sum("--normalization none" in line for line in by_variable) == 3
    by_option = labels(override(recipes, {"train_size": [50, 60], "own-head": True}, commands), commands)
    assert sum("train-size=60" in line for line in by_option) == 4  # a, b and two of c
    assert sum("--own-head" in line for line in by_option) == 6  # search has no such option


def test_an_override_of_a_grid_stays_a_grid_and_of_one_value_ends_it(write, commands) -> None:
    recipes = read_all(write(TEXT))
    grid = labels(override(recipes, {"backbone": ["x", "y"]}, commands), commands)
    assert [line.partition(" --")[0] for line in grid] == ["a", "b", "c backbone=x", "c backbone=y"]
    assert len(labels(override(recipes, {"backbone": "x"}, commands), commands)) == 3


def test_an_override_of_nothing_is_refused_with_what_there_is(write, commands) -> None:
    with pytest.raises(RichrepError, match=r"Unknown variable or option 'trainsize'. Did you mean 'train-size'"):
        override(read_all(write(TEXT)), {"trainsize": 5}, commands)
    with pytest.raises(RichrepError, match=r"Unknown variable or option 'wdd'. Did you mean 'wd'"):
        override(read_all(write(TEXT)), {"wdd": 5}, commands)


def test_a_file_that_is_missing_is_said_with_the_variable_it_lies_below(write, tmp_path) -> None:
    (tmp_path / "there.pth").touch()
    text = """
variables: {base: BASE, weights: '${base}/w'}
command: probe
options: {dataset: 'zoo:x', backbone: ['${base}/there.pth', 'resnet20@${weights}/gone.pth#ema', random/resnet20]}
""".replace("BASE", str(tmp_path))
    recipes = read_all(write(text))
    with pytest.raises(RichrepError, match=r"/w/gone.pth does not exist. .* variable 'weights', .* weights=FOLDER"):
        check_files(recipes)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "gone.pth").touch()
    check_files(recipes)


def test_a_word_that_a_variable_holds_is_no_file(write) -> None:
    text = """
variables: {precision: fp32, images: 500}
command: probe
options: {dataset: digits, backbone: random/resnet20, precision: '${precision}', train-size: '${images}'}
"""
    check_files(read_all(write(text)))
