"""Where data sets come from: one module a source, and the one list of them.

A source reads whatever lies where its address says: `load(rest) -> Dataset`, `rest` being what follows the colon.
To add one, write its module and a line here. The data sets known by name are in `richrep.data.registry`; their readers
lie here too, see `registered.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from richrep.data.split import Dataset


class Load(Protocol):
    """The contract of a source."""

    def __call__(self, rest: str) -> Dataset:
        """The data set at `rest`, what follows the colon of its address."""
        ...


@dataclass(frozen=True)
class Source:
    """One line of the list: where `load` lives, and what people are told.

    Attributes:
        module, function: inside this package; imported when first used, since some pull in torch.
        description: one line for `richrep list datasets`.
        argument: what follows the colon of the address, e.g. "PATH".
    """

    module: str
    function: str
    description: str
    argument: str

    def load(self, rest: str) -> Dataset:
        """The data set; imports the source's module."""
        load = cast(Load, getattr(import_module(f"{__name__}.{self.module}"), self.function))
        return load(rest)


SOURCES: dict[str, Source] = {
    "folder": Source("folder", "load", "image folders, PATH/{train,val,test}/CLASS/* or PATH/CLASS/*", "PATH"),
    "parquet": Source("parquet", "load", "Parquet with columns image and label, a folder or one file", "PATH"),
    "csv": Source("csv_manifest", "load", "a CSV file with columns path and label, also split and group", "FILE"),
    "hf": Source("hugging_face", "load", "Parquet files of a Hugging Face data set, OWNER/NAME[:CONFIG]", "NAME"),
}
