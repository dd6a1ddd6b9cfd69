"""Writes the table of registered data sets: python -m richrep.data.make_docs docs/datasets.md."""

from __future__ import annotations

import sys
from pathlib import Path

from richrep.data.registry import REGISTRY
from richrep.data.registry.entry import DatasetEntry
from richrep.data.sources import SOURCES

_HEAD = """# Data sets

Written from `src/richrep/data/registry` by `python -m richrep.data.make_docs docs/datasets.md`; do not edit.

A registered data set is found by its name under `--data-root` (default `$RICHREP_HOME/data`, below called DATA_ROOT).
Case, dashes, underscores, dots and spaces in names do not matter. The numbers of images and classes are compared with
the registered ones when a data set is loaded; another number is an error. `NAME:SPLIT` chooses a split, the plain name
means the first one. Parts are interleaved by class (CIFAR keeps its order), so that their first images are a fair
sample. Top-1 accuracy and mean per-class accuracy are both recorded always; the metric below is the one papers state.

`richrep datasets` shows the same with what is on disk, and `richrep datasets check NAME` decodes every image.
`richrep datasets download NAME` fetches what torchvision can download, with the official MD5 checked, into DATA_ROOT:
whole or not at all. Nothing else is downloaded but by `hf:`, through Hugging Face's client.
"""


_CSV = """
A CSV file is UTF-8 with a header line. `path` is absolute or from the folder of the CSV file, and may lead out of it;
an image is listed once. `label` is the name of a class: sorted as numbers where all are whole numbers, else as text;
`1` and `01` for one class are an error, and so is a negative number. `split` is train, val or test; without it, images
are split 80/20 per class by a fixed seed. `group` is a domain, a hospital, …. Spaces around a cell do not count.
"""


def render_datasets_markdown() -> str:
    """The text of docs/datasets.md."""
    lines = [_HEAD, "| name | data set | classes | images | metric | licence |", "|---|---|---:|---|---|---|"]
    for entry in REGISTRY.values():
        sizes = entry.describe_sizes(entry.default_split)
        classes, metric = entry.describe_classes(entry.default_split), entry.describe_metric()
        lines.append(f"| `{entry.name}` | {entry.title} | {classes} | {sizes} | {metric} | {entry.licence} |")
    lines += ["", "## Any other data set", "", "| address | what it reads |", "|---|---|"]
    lines += [f"| `{name}:{source.argument}` | {source.description} |" for name, source in SOURCES.items()]
    lines += [_CSV, "## Each registered data set"]
    for entry in REGISTRY.values():
        lines += ["", *_section(entry)]
    return "\n".join(lines) + "\n"


def _section(entry: DatasetEntry) -> list[str]:
    """Splits, spellings, layout and source of one data set."""
    others = [(name, split) for name, split in entry.spellings.items() if name != entry.name]
    lines = [f"### {entry.name}", "", f"[{entry.title}]({entry.homepage}).", ""]
    for split, info in entry.splits.items():
        rule = f"; {info.rule}" if info.rule else ""
        lines.append(f"- split `{split}`: {entry.describe_sizes(split)}{rule}")
    lines.append(f"- sizes as stated by: {entry.sizes_from}")
    aliases = [f"{name}` = `{entry.name}:{split}" if split else name for name, split in others]
    if aliases:
        lines.append(f"- also called {', '.join(f'`{alias}`' for alias in aliases)}")
    if entry.classes_of:
        lines.append(f"- without a train part: its images test classifiers of the classes of `{entry.classes_of}`")
    lines.append(f"- lies in DATA_ROOT as: {entry.layout}")
    if entry.torchvision:
        lines.append(f"- `richrep datasets download {entry.name}` (torchvision's `{entry.torchvision}`)")
    lines.append(f"- {'by hand: ' if entry.torchvision else ''}{entry.get}")
    if entry.mirrors:
        lines.append(f"- at Hugging Face: {', '.join(f'`{mirror}`' for mirror in entry.mirrors)} (sizes not checked)")
    return lines


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render_datasets_markdown(), encoding="utf-8")
