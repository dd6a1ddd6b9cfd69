"""Which commands come out of a recipe, and by what key each is known."""

from __future__ import annotations

import pytest

from richrep.errors import RichrepError
from richrep.recipes.grid import Cell, check_run_names, expand
from richrep.recipes.recipe import load_recipe
from richrep.training.run_folder import _NAME

PROBE = "command: probe\noptions: {dataset: digits, backbone: [a, b], "
FINETUNE = "command: finetune\noptions: {dataset: digits, backbone: a.pth, "


def cells_of(write, commands, text: str):
    return expand(load_recipe(write(text)), commands)


def test_a_list_is_a_grid_unless_the_option_may_be_repeated(write, commands) -> None:
    cells = cells_of(write, commands, PROBE + "train-size: [100, 200], seed: [0, 1]}")
    assert [cell.label for cell in cells] == ["trial train-size=100", "trial train-size=200"]
    assert cells[0].arguments == (
        *("--dataset", "digits", "--backbone", "a", "--backbone", "b"),
        *("--train-size", "100", "--seed", "0", "--seed", "1"),
    )


def test_under_grid_every_list_is_a_grid_and_the_last_varies_fastest(write, commands) -> None:
    cells = cells_of(
        write,
        commands,
        "command: probe\noptions: {dataset: digits, train-size: [100, 200]}\ngrid: {backbone: [a, [a, b]]}",
    )
    assert [cell.label for cell in cells] == [
        "trial train-size=100 backbone=a",
        "trial train-size=100 backbone=a+b",
        "trial train-size=200 backbone=a",
        "trial train-size=200 backbone=a+b",
    ]
    assert len({cell.key for cell in cells}) == 4


def test_lists_of_variables_are_laid_flat_and_null_leaves_an_option_out(write, commands) -> None:
    text = (
        "variables: {w: weights, two: ['${w}/a', '${w}/b'], root: null}\ncommand: probe\n"
        "options: {dataset: digits, backbone: ['${two}', c], data-root: '${root}', own-head: true, profile: false}"
    )
    (cell,) = cells_of(write, commands, text)
    assert cell.arguments == (
        *("--dataset", "digits", "--backbone", "weights/a", "--backbone", "weights/b", "--backbone", "c"),
        "--own-head",
    )


def test_the_key_knows_what_changes_the_result_and_nothing_else(write, commands) -> None:
    def key(options: str) -> str:
        (cell,) = cells_of(write, commands, PROBE + options + "}")
        return cell.key

    first = key("seed: 0, train-size: 100")
    assert key("train-size: 100, seed: [0], device: cpu, num-workers: 3, memory-limit: 2GB") == first
    assert key("seed: 0, train-size: '1e2'") == first  # equal numbers, however written
    assert len({first, key("seed: 1, train-size: 100"), key("seed: 0"), key("seed: [0, 1], train-size: 100")}) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("command: prob", r"trial.yaml: Unknown command 'prob'. Did you mean 'probe'"),
        (
            PROBE + "trainsize: 5}",
            r"trial: options.trainsize: Unknown option of probe 'trainsize'. Did you mean 'train-s",
        ),
        (PROBE + "train-size: many}", r"trial: options.train-size: a whole number was expected, got 'many'"),
        (PROBE + "seed: [0, x]}", r"options.seed: a whole number was expected, got 'x'"),
        (PROBE + "out: here}", r"options.out: richrep run decides 'out' itself"),
        (PROBE + "seed: []}", r"options.seed: an empty list"),
        (PROBE + "seed: 0}\ngrid: {train-size: []}", r"grid.train-size: an empty list"),
        (PROBE + "seed: 0}\ngrid: {train-size: [[1, 2]]}", r"'train-size' takes one value, got \[1, 2\]"),
        (PROBE + "seed: '${s}'}", r"options.seed: Unknown variable 's'"),
        ("command: probe\noptions: {dataset: digits}", r"trial: probe needs the option 'backbone'"),
        ("variables: {a: '${b}'}\n" + PROBE + "seed: 0}", r"Unknown variable 'b'"),
        ("variables: {n: 5}\n" + PROBE + "seed: 0}\ngrid: {train-size: '${n}'}", r"a list was expected, got 5"),
    ],
)
def test_what_the_command_would_not_take_is_said_before_anything_runs(write, commands, text, message) -> None:
    with pytest.raises(RichrepError, match=message):
        cells_of(write, commands, text)


def test_arguments_without_a_name_come_last_and_are_never_taken_for_options(write, commands) -> None:
    (cell,) = cells_of(write, commands, "command: list\noptions: {what: datasets, pattern: --help}")
    assert cell.arguments == ("--", "datasets", "--help")
    (cell,) = cells_of(write, commands, PROBE + "device: -x}")
    assert "--device=-x" in cell.arguments


def test_a_grid_that_would_fill_the_memory_is_refused_before_it_is_made(write, commands) -> None:
    many = ", ".join(map(str, range(1, 201)))
    text = (
        f"command: probe\noptions: {{dataset: digits, backbone: [a]}}\ngrid: {{train-size: [{many}], seed: [{many}]}}"
    )
    with pytest.raises(RichrepError, match=r"40,000 commands \(200 of train-size x 200 of seed\), at most 10,000"):
        cells_of(write, commands, text)


@pytest.mark.parametrize("variables", ["a: '${b}', b: 2", "a: 'x${a}', b: 2"])
def test_a_variable_names_those_above_it_only(variables: str, write, commands) -> None:
    text = f"variables: {{{variables}}}\n{PROBE}preprocess: '${{a}}'}}"
    with pytest.raises(RichrepError, match=r"The variable 'a' refers to '[ab]', which does not stand above it"):
        cells_of(write, commands, text)


def names_of(cells) -> list[str]:
    return [cell.arguments[1] if cell.arguments[0] == "--name" else "" for cell in cells]


def test_runs_of_a_grid_that_would_be_called_the_same_get_names_of_their_own(write, commands) -> None:
    text = """
command: finetune
options: {dataset: digits, backbone: a.pth, train-size: [50, 60], epochs: [1, 2], seed: [0, 1]}
"""
    cells = cells_of(write, commands, text)
    names = names_of(cells)
    assert len(set(names)) == 4 and all(name.endswith(cell.key[:6]) for name, cell in zip(names, cells, strict=True))
    assert all(name.startswith("trial-") for name in names)
    one = cells_of(write, commands, text.replace("[1, 2]", "2"))  # the same runs, so that they are found again
    assert names_of(one) == names[1::2] and [cell.key for cell in one] == [cell.key for cell in cells[1::2]]
    plain = cells_of(write, commands, text.replace("epochs: [1, 2]", "device: cpu"))
    assert names_of(plain) == ["", ""]  # images and seeds are in the names that the command gives


@pytest.mark.parametrize(("row", "start"), [("Größe", "Groe-"), ("(b) two", "b-two-"), ("日本", "run-")])
def test_names_of_runs_are_names_that_a_run_may_have(row: str, start: str, write, commands) -> None:
    cells = cells_of(write, commands, f"cells: [{{name: '{row}'}}]\n{FINETUNE}epochs: 1}}")
    (name,) = names_of(cells)
    assert name.startswith(start) and _NAME.fullmatch(name)


def test_runs_with_a_name_and_commands_without_runs_keep_theirs(write, commands) -> None:
    grid = "options: {dataset: digits, backbone: a.pth, test-size: [50, 60]"
    assert names_of(cells_of(write, commands, f"command: probe\n{grid}}}")) == ["", ""]
    (named,) = cells_of(write, commands, f"{FINETUNE}name: mine, epochs: 2}}")
    assert named.arguments.count("--name") == 1 and "mine" in named.arguments


def test_a_name_for_several_runs_is_refused_also_across_recipes(write, commands) -> None:
    def one(epochs: int) -> list[Cell]:
        return cells_of(write, commands, f"{FINETUNE}name: mine, epochs: {epochs}}}")

    check_run_names([*one(1), *one(1)])  # the same command twice is run once
    with pytest.raises(RichrepError, match=r"trial \(trial\) and trial \(trial\) would both call their runs 'mine'"):
        check_run_names([*one(1), *one(2)])
