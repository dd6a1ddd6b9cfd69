"""Where data sets come from: one module a source, and the one list of them.

Every source has a function `load(rest, *, data_root) -> Dataset`; `rest` is what follows the colon of the address.
To add a source, write its module and a line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from richrep.data.split import Dataset


class Load(Protocol):
    """The contract of a source."""

    def __call__(self, rest: str, *, data_root: Path) -> Dataset:
        """The data set at `rest` (what follows the colon of its address), or under `data_root`."""
        ...


@dataclass(frozen=True)
class Source:
    """One line of the list: where `load` lives, and what people are told.

    Attributes:
        module, function: inside this package; imported when first used, since some pull in torch.
        description: one line for `richrep list datasets`.
        argument: what follows the colon of the address, e.g. "PATH"; "" when nothing does.
    """

    module: str
    function: str
    description: str
    argument: str = ""

    def load(self, rest: str, *, data_root: Path) -> Dataset:
        """The data set; imports the source's module."""
        load = cast(Load, getattr(import_module(f"{__name__}.{self.module}"), self.function))
        return load(rest, data_root=data_root)


SOURCES: dict[str, Source] = {
    "digits": Source("digits", "load", "1,797 handwritten digits of 8x8 pixels, bundled: works offline"),
    "cifar10": Source("torchvision_sets", "load_cifar10", "CIFAR-10 in torchvision's layout under --data-root"),
    "cifar100": Source("torchvision_sets", "load_cifar100", "CIFAR-100 in torchvision's layout under --data-root"),
    "folder": Source("folder", "load", "image folders, PATH/{train,val,test}/CLASS/* or PATH/CLASS/*", "PATH"),
    "parquet": Source("parquet", "load", "Parquet with columns image and label, a folder or one file", "PATH"),
}
