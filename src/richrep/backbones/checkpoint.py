"""Any checkpoint file -> Checkpoint: the tensors of one network by name, with containers and prefixes taken off.

A file may hold several networks, and may be readable in several ways; `PATH#NAME` says which is meant:

1. a network of the format that the file is in, by its name (`#ema`) or with the format (`#trex:ema`);
2. what lies under a key of a container, `#model`, `#net`, or `#ema` for an average of any spelling;
3. the tensors whose names start with NAME and a dot, `#backbone`, also within one of those, `#ema/backbone`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from richrep.backbones.files.reading import Content, read_content
from richrep.backbones.formats import FORMATS
from richrep.backbones.formats.format import Format, Network, under
from richrep.backbones.formats.masks_beside import check_no_masks
from richrep.backbones.formats.plain import main_networks, read_plain
from richrep.backbones.formats.pruned import PROJECTS
from richrep.backbones.formats.wrapped_layers import Unwrapped, unwrap_layers
from richrep.data.preprocessing import Preprocessing
from richrep.errors import CheckpointError, unknown_name_message

_LISTED = 8  # names listed in a message


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The tensors of one network of a file by name, as stored: not cast, not checked against any network.

    Attributes:
        tensors: name -> tensor on the CPU; may be mapped from the file, so clone what outlives it.
        metadata: texts stored beside the tensors (safetensors, config.json).
        path: the file or folder.
        sha256: of the file, or of the names and hashes of the files read in a folder (hex).
        notes: what was taken off or set aside on the way in, one sentence each.
        format: the training project whose format it is; empty for plain files.
        network: which network of the file, as in `PATH#NAME`; empty for the only one.
        preprocessing_stated: whether the file itself says `preprocessing`, else its format does.
        masks: name in `tensors` -> bool tensor, False where the weight was pruned; empty when the file has none.
        preprocessing: what the project feeds the network; None leaves it to the family.
        hints: what changes the features and no tensor says, e.g. {"stem_pool": "tf-same"}.
        architecture: as before '@' in an address, where the file knows it; empty means that it must be detected.
    """

    tensors: dict[str, torch.Tensor]
    path: Path
    sha256: str
    metadata: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    format: str = ""
    network: str = ""
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    preprocessing_stated: bool = False
    hints: Mapping[str, str] = field(default_factory=dict)
    architecture: str = ""


def load_checkpoint(path: Path | str, *, network: str = "", formats: Mapping[str, Format] = FORMATS) -> Checkpoint:
    """Reads safetensors, torch files, numpy archives and Hugging Face folders safely, and finds the network in them.

    Args:
        path: the file or folder.
        network: which of the file's networks; empty means the one the format puts first.
        formats: the formats to recognise; what none claims is read as a plain state dict.

    Raises:
        CheckpointError: the file is missing, empty, truncated, not a checkpoint, asks for code, holds no tensors, has
            no such network, or can be read in several ways.
    """
    readings = load_readings(path, network=network, formats=formats)
    if len(readings) > 1:
        raise CheckpointError(ask_which(readings))
    return readings[0]


def load_readings(
    path: Path | str, *, network: str = "", formats: Mapping[str, Format] = FORMATS
) -> tuple[Checkpoint, ...]:
    """The same, with every way to read the file: more than one when several formats, or networks alike, are in it."""
    path = Path(os.path.expanduser(path)).absolute()  # unlike Path.expanduser, no error for an unknown user
    content = read_content(path)
    every, refusal = _read_all(content, formats)
    chosen = _called(network, every) if network else [reading for reading in every if reading.is_meant]
    if not chosen:
        raise CheckpointError(refusal or _no_such_network(path, network, every))
    sha256 = content.sha256()
    names = [f"#{reading.name}" for reading in every if reading.is_listed and reading.name]
    return tuple(_checkpoint(reading, content, sha256, names) for reading in chosen)


def ask_which(readings: Sequence[Checkpoint]) -> str:
    """What to write instead of a PATH that can be read in several ways."""
    path = readings[0].path
    ways = ", ".join(f"{path}#{reading.network}" for reading in readings)
    return (
        f"{path} can be read in {len(readings)} ways. Write the one you mean: {ways}; or ARCH@PATH, which chooses when "
        "only one of them holds ARCH."
    )


class _Reading(NamedTuple):
    """One network of a file.

    Attributes:
        name: what to write after '#'; empty for the only one.
        is_meant: whether a bare PATH means it.
        is_listed: whether it is a network of its own, and not another's under another name.
    """

    name: str
    format: str
    network: Network
    is_meant: bool
    is_listed: bool = True


def _read_all(content: Content, formats: Mapping[str, Format]) -> tuple[list[_Reading], str]:
    """Every network of the file, and why a format that knows the file, or all of them, cannot use it.

    A text and no exception, which would keep the content in memory as long as it is kept itself.
    """
    refusal = ""
    every: list[_Reading] = []
    unwrapped = Unwrapped(content.value)
    try:
        if formats:
            unwrapped = _unwrap(content)
        claims = _claims(content, unwrapped, formats)
    except CheckpointError as error:
        claims, refusal = {}, str(error)
    for name, networks in claims.items():
        for i, network in enumerate(networks):
            called = ":".join(filter(None, (name, network.name))) if len(claims) > 1 else network.name
            every.append(_Reading(called, name, network, is_meant=i == 0))
    try:
        plain = [unwrapped.keep_masks(network) for network in read_plain(unwrapped.content)]
    except CheckpointError as error:
        return every, refusal or ("" if every else f"{content.path} {error}")
    known = {id(tensor) for reading in every for tensor in reading.network.tensors.values()}
    meant = [] if claims or refusal else main_networks(plain)
    for network in plain:
        is_new = not any(id(tensor) in known for tensor in network.tensors.values())
        is_listed = is_new and not (refusal or (claims and not network.name))
        name = "" if len(plain) == 1 and not claims else network.name
        every.append(_Reading(name, "", network, is_meant=network in meant, is_listed=is_listed))
    return every, refusal


def _unwrap(content: Content) -> Unwrapped:
    try:
        return unwrap_layers(content.value)
    except (CheckpointError, ValueError, RuntimeError) as error:  # tensors of any shape
        raise CheckpointError(f"{content.path}, a file of pruned layers: {error}") from None


def _claims(content: Content, unwrapped: Unwrapped, formats: Mapping[str, Format]) -> dict[str, Sequence[Network]]:
    """Format -> the networks that it finds in the file. Wrapped layers are for the other formats to unwrap first."""
    if "richrep" in content.metadata:  # our own files say so themselves
        formats = {name: entry for name, entry in formats.items() if name == "richrep"}
    if unwrapped.content is not content.value:
        others = {name: entry for name, entry in formats.items() if name not in PROJECTS}
        if claims := _read_with(others, unwrapped.content, content):
            return {name: [unwrapped.keep_masks(network) for network in found] for name, found in claims.items()}
    return _read_with(formats, content.value, content)


def _read_with(formats: Mapping[str, Format], value: object, content: Content) -> dict[str, Sequence[Network]]:
    claims: dict[str, Sequence[Network]] = {}
    if not isinstance(value, Mapping):
        return claims
    for name, entry in formats.items():
        try:
            if networks := entry.read(value, content.metadata):
                check_no_masks(_beside(value), applied=("mask", "masks") if name in PROJECTS else ())
        except (CheckpointError, ValueError, TypeError, LookupError, RuntimeError) as error:  # tensors of any shape
            raise CheckpointError(f"{content.path}, a file in the format of {name}: {error}") from None
        if networks:
            claims[name] = networks
    return claims


def _beside(value: Mapping[object, object]) -> dict[object, object]:
    """What may lie beside the weights in a container; nothing when `value` is the state dict itself."""
    is_container = any(isinstance(entry, Mapping) for entry in value.values())
    return {name: entry for name, entry in value.items() if is_container or not isinstance(entry, torch.Tensor)}


def _called(wanted: str, every: Sequence[_Reading]) -> list[_Reading]:
    """Those that `wanted` names, in the order of the module's docstring."""
    if found := [reading for reading in every if wanted in (reading.name, reading.network.name)]:
        return found[:1] if found[0].name == wanted else found
    for reading in sorted(every, key=lambda reading: reading.format != ""):
        for start in {"", f"{reading.name}/" if reading.name else ""}:
            prefix = f"{wanted.removeprefix(start)}."
            if wanted.startswith(start) and (tensors := under(reading.network.tensors, prefix)):
                beside = len(reading.network.tensors) - len(tensors)
                note = f"only what is called {prefix}*, as asked for; set aside: {beside} tensors"
                network = replace(
                    reading.network,
                    tensors=tensors,
                    masks=under(reading.network.masks, prefix),
                    notes=(*reading.network.notes, note),
                )
                return [reading._replace(name=wanted, network=network)]
    return []


def _no_such_network(path: Path, wanted: str, every: Sequence[_Reading]) -> str:
    named = [reading.name for reading in every if reading.is_listed and reading.name]
    starts = {name.partition(".")[0] for reading in every for name in reading.network.tensors if "." in name}
    if not named:
        return (
            f"{path} holds one network, so {wanted!r} after '#' names nothing, nor do its tensors' names start so: "
            f"{', '.join(sorted(starts)[:_LISTED]) or 'they have no parts'}. Leave it out."
        )
    return unknown_name_message(f"network in {path}", wanted, named)


def _checkpoint(reading: _Reading, content: Content, sha256: str, names: Sequence[str]) -> Checkpoint:
    found = reading.network
    others = [name for name in names if name != f"#{reading.name}"]
    also = (f"the file also holds {', '.join(others)}",) if others else ()
    return Checkpoint(
        tensors=dict(found.tensors),
        path=content.path,
        sha256=sha256,
        metadata=content.metadata,
        notes=(*found.notes, *also),
        format=found.family or reading.format,
        network=reading.name,
        masks=found.masks,
        preprocessing=found.preprocessing,
        preprocessing_stated=found.preprocessing_stated,
        hints=found.hints,
        architecture=found.architecture,
    )
