"""The names `richrep.NAME` promises."""

from __future__ import annotations

import inspect

import pytest

import richrep


def test_all_names_have_a_home_and_are_sorted() -> None:
    assert set(richrep.__all__) == set(richrep._HOMES)
    assert richrep.__all__ == sorted(richrep.__all__)


@pytest.mark.parametrize("name", richrep.__all__)
def test_every_public_name_resolves_and_says_what_it_is(name: str) -> None:
    public = getattr(richrep, name)
    assert public.__name__ == name
    assert public.__module__ == richrep._HOMES[name]  # where it is defined, not where it passes through
    doc = inspect.getdoc(public)
    assert doc
    assert not doc.startswith(f"{name}(")  # the docstring that dataclass makes says nothing


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'richrep' has no attribute 'prob'"):
        richrep.prob  # noqa: B018


def test_dir_lists_the_public_names() -> None:
    assert set(richrep.__all__) <= set(dir(richrep))
