"""${name} and key=value."""

from __future__ import annotations

import pytest

from richrep.errors import RichrepError
from richrep.recipes.variables import names_in, parse_overrides, substitute


def test_values_of_the_command_line_are_read_as_in_a_recipe() -> None:
    words = ["a=[1, x]", "b=true", "c=null", "d=", "e=k=v", "f=2.5", "g=../data"]
    assert parse_overrides(words) == {
        "a": [1, "x"],
        "b": True,
        "c": None,
        "d": "",
        "e": "k=v",
        "f": 2.5,
        "g": "../data",
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [("wd", "is no override. Write key=value"), ("a=[1", "cannot be read"), ("s=2024-13-45", "month must be in 1..12")],
)
def test_a_word_that_is_no_override_is_refused(word, message) -> None:
    with pytest.raises(RichrepError, match=message):
        parse_overrides([word])


def test_a_variable_alone_keeps_its_type_and_within_a_text_becomes_text() -> None:
    variables = {"n": 5, "list": ["a", "b"], "folder": "w"}
    assert substitute({"x": "${n}", "y": "${folder}/${n}.pth", "z": ["${list}", 1]}, variables) == {
        "x": 5,
        "y": "w/5.pth",
        "z": [["a", "b"], 1],
    }
    assert names_in({"x": ["${n}", "${folder}/a"], "y": 3}) == ["n", "folder"]


def test_an_unknown_variable_and_a_list_within_a_text_are_refused() -> None:
    with pytest.raises(RichrepError, match=r"Unknown variable 'fodler'. Did you mean 'folder'"):
        substitute("${fodler}/a", {"folder": "w"})
    with pytest.raises(RichrepError, match=r"the variable 'folder' is \['w'\], a text or a number was expected"):
        substitute("${folder}/a", {"folder": ["w"]})
