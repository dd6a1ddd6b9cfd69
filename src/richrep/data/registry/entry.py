"""What is known about a registered data set: how many images and classes, how it is divided, where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ROOT = "DATA_ROOT"  # stands for the data root in the texts below
OFFICIAL = "official"  # the name of the one split of a data set that everybody divides alike


@dataclass(frozen=True)
class NamedSplit:
    """One way to divide a data set.

    Attributes:
        sizes: part -> number of images; asserted on load. Parts are train, val and test, as far as there are any.
        rule: how images come to their part, where that is no official list; recorded with every result.
        needs: what this split reads below the data root, beside what the data set always needs.
        num_classes: part -> number of classes that occur in it, where these are not all.
        few_shot: whether the parts hold different classes, so that a classifier of train can score none of test.
        aliases: names of the data set that mean this split of it.
    """

    sizes: Mapping[str, int]
    rule: str = ""
    needs: tuple[str, ...] = ()
    num_classes: Mapping[str, int] | None = None
    few_shot: bool = False
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetEntry:
    """One registered data set, as data.

    Attributes:
        name: its address; title: what people call it.
        reader: "module.function" in `richrep.data.sources`; see `RegisteredCopy`.
        num_classes: K, asserted on load.
        splits: name -> split; the first is the one that the plain name means.
        metric: the primary one, as the papers use it; both are recorded always.
        sizes_from: who states the numbers of images and classes.
        licence, homepage: as stated by its makers.
        needs: files and folders below the data root without which nothing can be read, "/" between them.
        layout: what lies where below the data root.
        get: how to get it by hand; ROOT stands for the data root.
        torchvision: the class of `torchvision.datasets` that downloads it; "" where none can.
        mirrors: addresses of copies at Hugging Face; their order and numbers are not asserted.
        aliases: other spellings, beside those of the mirrors; case, dashes, underscores, dots and spaces never matter.
        classes_of: for a data set without a train part, the one that a classifier is trained on.
    """

    name: str
    title: str
    reader: str
    num_classes: int
    splits: Mapping[str, NamedSplit]
    sizes_from: str
    licence: str
    homepage: str
    layout: str
    get: str
    needs: tuple[str, ...] = ()
    metric: Literal["accuracy", "mean_per_class_accuracy"] = "accuracy"
    torchvision: str = ""
    mirrors: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    classes_of: str = ""

    @property
    def default_split(self) -> str:
        """The name of the split that the plain name means."""
        return next(iter(self.splits))

    @property
    def spellings(self) -> dict[str, str]:
        """Every way to write its name -> the split that it means, mostly "" for the default.

        Of a mirror, OWNER/NAME and NAME are two.
        """
        repos = [mirror.removeprefix("hf:").partition("?")[0] for mirror in self.mirrors]
        names = (self.name, *self.aliases, *repos, *(repo.partition("/")[2] for repo in repos))
        of_splits = {alias: split for split, info in self.splits.items() for alias in info.aliases}
        return {**dict.fromkeys(names, ""), **of_splits}

    def describe_sizes(self, split: str) -> str:
        """E.g. 'train 2,040, test 6,149'."""
        return ", ".join(f"{part} {size:,}" for part, size in self.splits[split].sizes.items())

    def describe_classes(self, split: str) -> str:
        """E.g. '102', or '200 of 1,000' where not all occur in every part."""
        counts = [n for n in (self.splits[split].num_classes or {}).values() if n != self.num_classes]
        some = f"{', '.join(map(str, counts))} of " if counts else ""
        return f"{some}{self.num_classes:,}"

    def describe_metric(self) -> str:
        """The primary metric as papers write it: 'top-1' or 'mean per-class'."""
        return "top-1" if self.metric == "accuracy" else "mean per-class"
