"""A checkpoint file -> Backbone: of all ways to read it, the one that is a whole network, or a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from richrep.backbones.backbone import Backbone
from richrep.backbones.checkpoint import Checkpoint, ask_which, load_readings
from richrep.backbones.families import FAMILIES
from richrep.backbones.families.candidate import Candidate
from richrep.backbones.families.detection import build_backbone, find_architecture
from richrep.backbones.families.family import knows
from richrep.backbones.formats.pruned import PROJECTS
from richrep.backbones.prefixes import Inner, describe, inner_networks
from richrep.errors import CheckpointError

_MAX_PREFIXES = 12  # tried on a file that fits nothing as it stands; each takes up to a second
# Files of which nothing is known but their layers; other formats take off what they put on themselves
_MAY_HAVE_PREFIXES = ("", *PROJECTS)


@dataclass(frozen=True)
class _Match:
    """A reading of a file, and the architecture that it holds exactly.

    Attributes:
        others: addresses of other architectures that would fit as well.
    """

    checkpoint: Checkpoint
    candidate: Candidate
    others: tuple[str, ...]


def load_file(path: Path, *, address: str, architecture: str = "", network: str = "") -> Backbone:
    """The backbone in the checkpoint at `path`; its architecture is detected from the contents unless given.

    Args:
        network: which network of a file that holds several; empty means the one its format puts first.

    Raises:
        AddressError: there is no such architecture.
        CheckpointError: the file cannot be read safely, fits nothing, or several things alike.
    """
    readings = load_readings(path, network=network)
    match = _match(readings[0], architecture) if len(readings) == 1 else _only_match(readings, architecture)
    candidate = match.candidate
    backbone = build_backbone(candidate.family, candidate.architecture, match.checkpoint, address=address)
    facts = (f"also fits: {', '.join(match.others)}",) if match.others else ()
    if architecture:
        numbers = backbone.preprocessing.describe()
        facts = (f"architecture given by hand, images as it expects: {numbers}; --preprocess changes that", *facts)
    return replace(backbone, load_report=backbone.load_report + facts)


def _only_match(readings: Sequence[Checkpoint], architecture: str) -> _Match:
    """The one reading that holds `architecture`."""
    matches = []
    for reading in readings if architecture else ():
        try:
            matches.append(_match(reading, architecture))
        except CheckpointError:  # said below, for all readings together
            continue
    if len(matches) != 1:
        raise CheckpointError(ask_which(readings))
    return matches[0]


def _match(checkpoint: Checkpoint, architecture: str) -> _Match:
    """The architecture of the checkpoint as it stands, else of what lies under the one prefix that makes it fit."""
    wanted = architecture or (checkpoint.architecture if _is_known(checkpoint.architecture) else "")
    try:
        return _Match(checkpoint, *find_architecture(list(FAMILIES.values()), checkpoint, wanted=wanted))
    except CheckpointError as error:
        refusal = str(error)  # the exception itself would keep the file in memory
    fitting = []
    inner_ones = inner_networks(checkpoint) if checkpoint.format in _MAY_HAVE_PREFIXES else ()
    for inner in islice(inner_ones, _MAX_PREFIXES):
        try:
            found = find_architecture(list(FAMILIES.values()), inner.checkpoint, wanted=wanted)
        except CheckpointError:  # not this one; `refusal` speaks of the file as it stands
            continue
        fitting.append((inner, _Match(inner.checkpoint, *found)))
    if not fitting:
        raise CheckpointError(refusal)
    return _without_prefix(fitting)


def _without_prefix(fitting: Sequence[tuple[Inner, _Match]]) -> _Match:
    """The match under the only prefix; copies of one network under several are one."""
    inner, match = fitting[0]
    checkpoint = inner.checkpoint
    copies = [other.prefix for other, _ in fitting[1:] if other.is_copy_of(inner)]
    if len(copies) + 1 < len(fitting):
        raise CheckpointError(ask_which([other.checkpoint for other, _ in fitting]))
    strangers = tuple(name for name in inner.strangers if not name.startswith(tuple(copies)))
    if strangers:
        raise CheckpointError(
            f"{checkpoint.path}: what is called {inner.prefix}* is {match.candidate.address}, but beside it lie "
            f"{describe(strangers)}, which may belong to the network. If they do not, write "
            f"{checkpoint.path}#{checkpoint.network}."
        )
    if not copies:
        return match
    note = f"copies of the network set aside: {', '.join(copies)}"
    return replace(match, checkpoint=replace(checkpoint, notes=(*checkpoint.notes, note)))


def _is_known(architecture: str) -> bool:
    """Whether `FAMILY/ARCH` is in that family's list; some families also lay out what only a file describes."""
    family, _, name = architecture.partition("/")
    return family in FAMILIES and knows(FAMILIES[family], name)
