"""Inert objects that take the place of classes a checkpoint names and nobody needs: optimisers, schedulers, configs."""

from __future__ import annotations

from collections import OrderedDict


class Placeholder:
    """Stands for an object of a class that is not loaded; takes any arguments and state, and keeps nothing."""

    __slots__ = ()

    def __new__(cls, *_arguments: object) -> Placeholder:
        """The same whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *_arguments: object) -> None:
        """Keeps nothing."""

    def __setstate__(self, _state: object) -> None:
        """Keeps nothing."""


class PlaceholderMapping(Placeholder):
    """The same for a class whose objects the file fills like a dictionary: the entries stay, the class goes."""

    __slots__ = ()

    def __new__(cls, *_arguments: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        """A dictionary of the only kind that torch's unpickler fills and gives a state."""
        return OrderedDict()


class PlaceholderList(Placeholder):
    """The same for a class whose objects the file fills like a list."""

    __slots__ = ()

    def __new__(cls, *_arguments: object) -> list[object]:  # type: ignore[misc]
        """An empty list."""
        return []
