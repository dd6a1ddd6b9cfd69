"""Backbone addresses: what a user types -> Backbone.

=====================================  ====================================================================
`timm/NAME[.TAG]`                      a timm architecture with its pretrained weights, from the hub cache
`torchvision/NAME[.TAG]`               the same of torchvision; TAG e.g. IMAGENET1K_V2
`random/NAME`                          an architecture with weights drawn from the seed
`PATH`                                 a checkpoint file, recognised by its contents
`ARCH@PATH`                            the same, architecture given: `resnet20@x.th`, `timm/resnet50@x.pt`
=====================================  ====================================================================
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from richrep.backbones import pretrained, random_weights
from richrep.backbones.backbone import Backbone
from richrep.backbones.checkpoint import load_checkpoint
from richrep.backbones.families import FAMILIES
from richrep.backbones.families.detection import build_backbone, find_architecture
from richrep.errors import AddressError, CheckpointError

_SUFFIXES = {".bin", ".ckpt", ".model", ".npz", ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".th", ".torch"}
_MAX_GUESSES = 3


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
    path = Path(address).expanduser()
    if path.exists():
        return load_file(path, address=address)
    if address.startswith("run:"):
        raise AddressError(
            f"{address!r}: this version of richrep cannot load runs. Give the checkpoint file of the run."
        )
    architecture, at, file = address.partition("@")
    if at:
        return load_file(Path(file).expanduser(), address=address, architecture=architecture)
    scheme, _, name = address.partition("/")
    if name and scheme in _SCHEMES:
        return _SCHEMES[scheme](name, seed)
    if _looks_like_a_path(address):
        raise CheckpointError(f"No such checkpoint file: {path.absolute()}. Check the path.")
    raise AddressError(_unknown_address(address, path))


def load_file(path: Path, *, address: str, architecture: str = "") -> Backbone:
    """The backbone in the checkpoint at `path`; its architecture is detected from the contents unless given."""
    checkpoint = load_checkpoint(path)
    found, others = find_architecture(list(FAMILIES.values()), checkpoint, wanted=architecture)
    backbone = build_backbone(found.family, found.architecture, checkpoint, address=address)
    also = (f"also fits: {', '.join(others)}",) if others else ()
    return replace(backbone, load_report=backbone.load_report + also)


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
    return [line for line in lines if all(word in " ".join(line).lower() for word in words)]


_SCHEMES: dict[str, Callable[[str, int], Backbone]] = {
    "timm": lambda name, seed: pretrained.load_timm(name),
    "torchvision": lambda name, seed: pretrained.load_torchvision(name),
    "random": random_weights.make_random_backbone,
}


def _looks_like_a_path(address: str) -> bool:
    """Whether the user will have meant a file: it starts or ends like one, or names a folder that exists."""
    path = Path(address).expanduser()
    starts_like_one = address.startswith((".", "~", "/")) or path.is_absolute()
    return starts_like_one or path.suffix.lower() in _SUFFIXES or (len(path.parts) > 1 and path.parent.is_dir())


def _unknown_address(address: str, path: Path) -> str:
    """Nearest addresses, by the whole address or by the architecture alone."""
    listed = [line.address for line in list_backbones() if not line.address.endswith("@PATH")]
    known = listed + [f"random/{name}" for name in random_weights.known_names()]
    by_name = {name.partition("/")[2]: name for name in reversed(known)}
    near = difflib.get_close_matches(address, known, n=_MAX_GUESSES, cutoff=0.75)
    near += [by_name[n] for n in difflib.get_close_matches(address.rpartition("/")[2], by_name, n=_MAX_GUESSES)]
    guesses = list(dict.fromkeys(near))[:_MAX_GUESSES]
    guess = f" Did you mean {' or '.join(map(repr, guesses))}?" if guesses else ""
    return (
        f"Unknown backbone {address!r}: no such file ({path.absolute()}), and no such address.{guess} "
        "Known forms: timm/NAME, torchvision/NAME, random/NAME, PATH, ARCH@PATH; `richrep list backbones` lists names."
    )
