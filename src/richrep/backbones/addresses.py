"""Backbone addresses: what a user types -> Backbone.

=====================================  ====================================================================
`timm/NAME[.TAG]`                      a timm architecture with its pretrained weights, from the hub cache
`torchvision/NAME[.TAG]`               the same of torchvision; TAG e.g. IMAGENET1K_V2
`random/NAME`                          an architecture with weights drawn from the seed
`PATH`                                 a checkpoint file, recognised by its contents
`ARCH@PATH`                            the same, architecture given: `resnet20@x.th`, `timm/resnet50@x.pt`
`PATH#NAME`                            one network of a file that holds several: `trex.pth#ema`, `x.ckpt#backbone`
`zoo:NAME`                             a published checkpoint, or set of them, under `$RICHREP_HOME/checkpoints`
`run:NAME`, `run:DIR/NAME`             what an earlier richrep run produced, below `runs` or DIR
=====================================  ====================================================================
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from richrep.backbones import pretrained, random_weights
from richrep.backbones.backbone import Backbone
from richrep.backbones.columns import with_columns
from richrep.backbones.concat import concat
from richrep.backbones.families import FAMILIES
from richrep.backbones.load_file import load_file
from richrep.backbones.run_model import load_run
from richrep.backbones.zoo import ZOO
from richrep.backbones.zoo.entry import ZooEntry, checkpoints_root
from richrep.backbones.zoo.hashes import check_hash
from richrep.errors import AddressError, CheckpointError, unknown_name_message

_SUFFIXES = {".bin", ".ckpt", ".model", ".npz", ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".th", ".torch"}
_MAX_GUESSES = 3
_ZOO = "zoo:"
_KNOWN_FORMS = (
    "Known forms: timm/NAME, torchvision/NAME, random/NAME, zoo:NAME, run:NAME, PATH, ARCH@PATH, PATH#NETWORK; "
    "`richrep list backbones` lists names."
)


class BackboneListing(NamedTuple):
    """One line of `richrep list backbones`."""

    address: str
    family: str
    description: str


def load_backbone(address: str, *, seed: int = 0) -> Backbone:
    """The backbone that `address` names, on the CPU, in evaluation mode.

    Changes no global state: neither the random generators nor any setting of torch.

    Args:
        seed: draws the weights of `random/NAME`; without effect on other addresses.

    Raises:
        AddressError: the address names nothing.
        CheckpointError: the checkpoint cannot be loaded whole, exactly and safely.
    """
    if not address:
        raise AddressError(f"The address of a backbone is empty. {_KNOWN_FORMS}")
    path = Path(os.path.expanduser(address))
    if os.path.exists(path):  # unlike Path.exists, no error for a name that is too long
        return load_file(path, address=address)
    if address.startswith(_ZOO):
        return _load_zoo(address.removeprefix(_ZOO))
    if address.startswith("run:"):
        return load_run(address.removeprefix("run:"), address=address)
    if (found := _file_with_choices(address)) is not None:
        return load_file(found.path, address=address, architecture=found.architecture, network=found.network)
    scheme, _, name = address.partition("/")
    if name and scheme in _SCHEMES:
        return _SCHEMES[scheme](name, seed)
    if _looks_like_a_path(address):
        return load_file(path, address=address)  # which says why it cannot be opened
    raise AddressError(_unknown_address(address, path))


def _load_zoo(name: str) -> Backbone:
    """The published checkpoint `name`, or the concatenation of a set; its hash is recorded, or compared."""
    name, _, network = name.partition("#")
    entry = ZOO.get(name)
    if entry is None:
        raise AddressError(f"{unknown_name_message('zoo checkpoint', name, ZOO)} See: richrep list backbones zoo:")
    if entry.members:
        missing = [ZOO[member] for member in entry.members if not ZOO[member].path.is_file()]
        if missing:
            raise CheckpointError(
                f"zoo:{name} needs {len(missing)} files that are not there: "
                f"{'; '.join(f'zoo:{member.name}. {member.how_to_get_it()}' for member in missing)}"
            )
        found = [_load_zoo(member) for member in entry.members]
        made = concat(*found) if entry.columns is None else with_columns(found[0], *entry.columns)
        return replace(made, address=f"zoo:{name}", name=name)
    if not entry.path.is_file():
        raise CheckpointError(f"zoo:{name} is not there. {entry.how_to_get_it()}")
    address = f"zoo:{name}#{network}" if network else f"zoo:{name}"
    backbone = load_file(entry.path, address=address, network=network)
    if backbone.feature_dim != entry.feature_dim or entry.family not in ("", backbone.family):
        raise CheckpointError(
            f"{entry.path} is not zoo:{name}: it gives {backbone.feature_dim} features "
            f"({backbone.family}, {backbone.architecture}), expected {entry.feature_dim} ({entry.architecture}). "
            f"{entry.how_to_get_it()}"
        )
    if entry.preprocessing is not None:
        backbone = replace(backbone, preprocessing=entry.preprocessing)
    note = check_hash(checkpoints_root(), entry.file, backbone.sha256)
    licence = entry.licence if backbone.licence == "not stated" else backbone.licence
    return replace(backbone, name=name, licence=licence, load_report=(*backbone.load_report, note))


class _FileAddress(NamedTuple):
    """`ARCH@PATH#NETWORK`, where ARCH and NETWORK may be empty."""

    path: Path
    architecture: str
    network: str


def _file_with_choices(address: str) -> _FileAddress | None:
    """`ARCH@PATH`, `PATH#NETWORK` or both; None for an address with neither.

    Of several ways to split, the one whose file exists; names of files may hold both signs.
    """
    before, at, after = address.partition("@")
    starts = [(before, after)] * bool(at and before and after) + [("", address)]
    found = []
    for architecture, file in starts:
        stem, sharp, network = file.rpartition("#")
        ends = [(file, "")] + [(stem, network)] * bool(sharp and stem and network)
        found += [_FileAddress(Path(os.path.expanduser(name)), architecture, network) for name, network in ends]
    chosen = [choice for choice in found if choice.architecture or choice.network]
    return next((choice for choice in chosen if os.path.exists(choice.path)), chosen[0] if chosen else None)


def list_backbones(pattern: str = "") -> list[BackboneListing]:
    """Addresses of the libraries' pretrained architectures, and the architectures that `ARCH@PATH` knows.

    Args:
        pattern: words separated by blanks; a line is listed when all occur in its address, family or description.
    """
    words = pattern.lower().split()
    lines = [
        BackboneListing(
            f"{family.name}/{name}" + ("" if family.name in _SCHEMES else "@PATH"), family.name, description
        )
        for family in FAMILIES.values()
        for name, description in family.architectures().items()
    ]
    lines += [BackboneListing(f"{_ZOO}{entry.name}", entry.paper, _describe(entry)) for entry in ZOO.values()]
    return [line for line in lines if all(word in " ".join(line).lower() for word in words)]


def _describe(entry: ZooEntry) -> str:
    """What it is, and whether its files are there."""
    paths = [ZOO[member].path for member in entry.members] or [entry.path]
    there = sum(path.is_file() for path in paths)
    state = "on disk" if there == len(paths) else f"{there} of {len(paths)} files on disk" if there else "not on disk"
    return f"{entry.describe()}; {state}"


_SCHEMES: dict[str, Callable[[str, int], Backbone]] = {
    "timm": lambda name, seed: pretrained.load_timm(name),
    "torchvision": lambda name, seed: pretrained.load_torchvision(name),
    "random": random_weights.make_random_backbone,
}


def _looks_like_a_path(address: str) -> bool:
    """Whether the user will have meant a file: it starts or ends like one, or names a folder that exists."""
    path = Path(os.path.expanduser(address))
    starts_like_one = address.startswith((".", "~", "/")) or path.is_absolute()
    return starts_like_one or path.suffix.lower() in _SUFFIXES or (len(path.parts) > 1 and os.path.isdir(path.parent))


def _unknown_address(address: str, path: Path) -> str:
    """Nearest addresses, by the whole address or by the architecture alone."""
    listed = [line.address for line in list_backbones() if not line.address.endswith("@PATH")]
    known = listed + [f"random/{name}" for name in random_weights.known_names()]
    by_name = {name.partition("/")[2]: name for name in reversed(known)}
    near = difflib.get_close_matches(address, known, n=_MAX_GUESSES, cutoff=0.75)
    near += [by_name[n] for n in difflib.get_close_matches(address.rpartition("/")[2], by_name, n=_MAX_GUESSES)]
    guesses = list(dict.fromkeys(near))[:_MAX_GUESSES]
    guess = f" Did you mean {' or '.join(map(repr, guesses))}?" if guesses else ""
    return f"Unknown backbone {address!r}: no such file ({path.absolute()}), and no such address.{guess} {_KNOWN_FORMS}"
