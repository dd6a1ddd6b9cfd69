"""One published checkpoint, or a set of them that is concatenated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from richrep.data.preprocessing import Preprocessing
from richrep.paths import home


@dataclass(frozen=True)
class ZooEntry:
    """A checkpoint that a paper published. Nothing is downloaded: licences differ, and some hosts want a click.

    Attributes:
        name: as in `zoo:NAME`.
        paper: who published it, e.g. "SwAV".
        architecture: in words, e.g. "ResNet-50, twice as wide".
        feature_dim: D; a file of another width under this name is refused.
        licence: of the weights, as published; "not stated" where there is none.
        file: path below the folder of checkpoints; empty for a set.
        published: where to get it: an address, or words when there is no direct one.
        family: what a load says of it; a file of another family under this name is refused. Empty: not compared.
        preprocessing: where the file does not say it.
        members: names of the entries that a set concatenates, in order.
        columns: of the one entry in `members`, the features [start, stop) that this is; None for anything else.
    """

    name: str
    paper: str
    architecture: str
    feature_dim: int
    licence: str
    file: str = ""
    published: str = ""
    members: tuple[str, ...] = ()
    family: str = ""
    preprocessing: Preprocessing | None = None
    columns: tuple[int, int] | None = None

    @property
    def path(self) -> Path:
        """Where the file belongs."""
        return checkpoints_root() / self.file

    def describe(self) -> str:
        """A few words for `richrep list backbones`."""
        if self.columns is not None:
            return f"{self.architecture}: features {self.columns[0]} to {self.columns[1]} of {self.members[0]}"
        if self.members:
            return f"{self.architecture}: {', '.join(self.members)}, concatenated"
        return f"{self.architecture}, {self.feature_dim} features; licence: {self.licence}"

    def how_to_get_it(self) -> str:
        """What to fetch and where to put it."""
        return f"Fetch it ({self.published}; licence: {self.licence}) and put it at {self.path}."


def checkpoints_root() -> Path:
    """`$RICHREP_HOME/checkpoints`."""
    return home() / "checkpoints"
