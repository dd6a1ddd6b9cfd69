"""Registered data sets that are folders of class folders: Birdsnap, PACS; ImageNet uses the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from richrep.data.sources.folder import class_files
from richrep.data.sources.layout import listing
from richrep.data.sources.registered import RegisteredCopy
from richrep.data.split import Split

PACS_DOMAINS = ("art_painting", "cartoon", "photo", "sketch")


def read_birdsnap(copy: RegisteredCopy) -> dict[str, Split]:
    """Birdsnap as `birdsnap/{train,test}/CLASS/*`, the classes sorted.

    Source: T. Berg et al., Birdsnap, 2014; divided as in H. Salman et al., Do Adversarially Robust ImageNet Models
    Transfer Better, 2020.
    """
    folder = copy.data_root / "birdsnap"
    files = {part: class_files(folder / part) for part in ("train", "test")}
    names = tuple(files["train"])
    return {part: make_class_part(copy, part, folder / part, files[part], names) for part in files}


def read_pacs(copy: RegisteredCopy) -> dict[str, Split]:
    """PACS with the domain that names the split as test, the other three as train; groups are domains.

    Source: D. Li et al., Deeper, Broader and Artier Domain Generalization, 2017.
    """
    folder = copy.data_root / "PACS"
    stored = {domain: class_files(folder / domain) for domain in PACS_DOMAINS}
    names = tuple(stored["photo"])
    parts = {}
    for part in ("train", "test"):
        domains = [domain for domain in PACS_DOMAINS if (domain == copy.split) == (part == "test")]
        files: dict[str, list[str]] = {}
        for domain in domains:
            for name, of_class in stored[domain].items():
                files.setdefault(name, []).extend(f"{domain}/{file}" for file in of_class)
        groups = [file.partition("/")[0] for of_class in files.values() for file in of_class]
        parts[part] = make_class_part(copy, part, folder, files, names, groups=groups)
    return parts


def make_class_part(
    copy: RegisteredCopy,
    part: str,
    folder: Path,
    files: Mapping[str, Sequence[str]],
    class_names: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    class_mask: np.ndarray | None = None,
) -> Split:
    """The images `files` of every class, below `folder`; a label is the place of its class in `class_names`.

    Raises:
        DatasetError: a class that is not among `class_names`.
    """
    strange = sorted(set(files) - set(class_names))
    if strange:
        raise copy.error(f"in {folder} has folders of no class of {copy.name}, {listing(strange)}")
    label_of = {name: label for label, name in enumerate(class_names)}
    return copy.make_part(
        part,
        [file for of_class in files.values() for file in of_class],
        np.repeat([label_of[name] for name in files], [len(of_class) for of_class in files.values()]),
        class_names,
        folder=folder,
        groups=groups,
        class_mask=class_mask,
    )
