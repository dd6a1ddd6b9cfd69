"""Writes library_index.json from the installed torchvision and timm: `python -m richrep.backbones.families.make_index`.

Takes a few minutes; run it after raising either library's version in constraints.txt.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import timm
import torchvision

from richrep.backbones.families import timm_models, torchvision_models
from richrep.backbones.families.library_index import INDEX_FILE, Entry


def describe_library(version: str, names: Iterable[str], measure_entry: Callable[[str], Entry]) -> dict[str, object]:
    """The index of one library; an architecture that cannot be built or run is left out and named on stderr."""
    architectures = {}
    for name in names:
        try:
            architectures[name] = measure_entry(name).to_json()
        except Exception as error:  # whatever an architecture raises, the others are worth having
            sys.stderr.write(f"left out {name}: {error!r}\n")
    return {"version": version, "architectures": architectures}


def write_index(path: Path) -> None:
    """Both libraries, one architecture a line."""
    content = {
        "torchvision": describe_library(
            torchvision.__version__.partition("+")[0], torchvision_models.list_names(), torchvision_models.measure_entry
        ),
        "timm": describe_library(timm.__version__, timm_models.list_names(), timm_models.measure_entry),
    }
    text = json.dumps(content, separators=(",", ":")).replace(']],"', ']],\n"').replace('}],"', '}],\n"')
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_index(Path(__file__).with_name(INDEX_FILE))
