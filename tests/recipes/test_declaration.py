"""One value of an option, checked against what the command declares."""

from __future__ import annotations

import pytest

from richrep.errors import RichrepError
from richrep.recipes.declaration import OptionDeclaration


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("int", 5, "5"),
        ("int", "5", "5"),
        ("int", 1e3, "1000"),
        ("float", "1e-4", "0.0001"),  # YAML 1.1 reads 1e-4 as a text
        ("float", 0.0001, "0.0001"),
        ("float", 1, "1.0"),
        ("flag", True, "true"),
        ("text", "a b", "a b"),
        ("text", 3, "3"),
    ],
)
def test_a_value_becomes_the_text_of_the_command_line(kind, value, text) -> None:
    assert OptionDeclaration("x", kind).text(value) == text


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (OptionDeclaration("x", "int"), "five", "a whole number was expected, got 'five'"),
        (OptionDeclaration("x", "int"), 1.5, "a whole number was expected, got 1.5"),
        (OptionDeclaration("x", "int"), True, "a whole number was expected, got True"),
        (OptionDeclaration("x", "float"), "inf", "a number was expected, got 'inf'"),
        (OptionDeclaration("x", "flag"), "yes", "true or false was expected, got 'yes'"),
        (OptionDeclaration("x", "text"), {"a": 1}, "a text or a number was expected"),
        (OptionDeclaration("x", "int", low=1), 0, "a number of at least 1 was expected, got 0"),
        (OptionDeclaration("x", "float", low=0, high=1), 2, "a number of at least 0 and at most 1 was expected, got 2"),
        (OptionDeclaration("x", "choice", choices=("stop", "skip")), "stopp", r"Did you mean 'stop'"),
    ],
)
def test_a_value_of_another_kind_is_refused(option, value, message) -> None:
    with pytest.raises(RichrepError, match=message):
        option.text(value)


def test_the_real_commands_are_declared_with_types_and_repetition(commands) -> None:
    options = commands["probe"].options
    assert "run" not in commands  # a recipe does not start itself
    assert (options["seed"].kind, options["seed"].repeatable) == ("int", True)
    assert (options["train-size"].kind, options["train-size"].repeatable) == ("int", False)
    assert options["backbone"].required and options["backbone"].repeatable
    assert options["own-head"].kind == "flag" and options["batch-size"].low == 1
    assert options["on-bad-image"].choices == ("stop", "skip")
    assert commands["list"].options["what"].positional and not commands["list"].options["pattern"].required
