"""One architecture held against one file, and what is said when none or several of them fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.family import Family
from richrep.backbones.matching import Comparison

_HEAD_ONLY = re.compile(
    r"(.*\.)?(fc|head|heads|classifier|linear|clf|bn)(\.\w+)*\.(weight|bias|running_\w+|num_\w+)|weight|bias"
)


@dataclass(frozen=True)
class Candidate:
    """One architecture held against one checkpoint.

    Attributes:
        preprocessing: what an image would go through before it, in words.
        unheeded: what the file asks for and the architecture cannot do, e.g. "stem_pool: tf-same".
    """

    family: Family
    architecture: str
    comparison: Comparison
    preprocessing: str = ""
    unheeded: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the file holds exactly this network, and this network does all that the file asks for."""
        return self.comparison.fits and not self.unheeded

    @property
    def address(self) -> str:
        """What to write before '@', e.g. "timm/resnet50"."""
        return f"{self.family.name}/{self.architecture}"


def several_fit(candidates: Sequence[Candidate], checkpoint: Checkpoint) -> str:
    """What tells them apart, and how to name the right one."""
    listed = "; ".join(f"{candidate.address} ({candidate.preprocessing})" for candidate in candidates)
    first = candidates[0]
    tags = {each.address: [tag for tag in each.family.tags(each.architecture) if tag] for each in candidates}
    tagged = "; ".join(f"{address} has {', '.join(names)}" for address, names in tags.items() if names)
    published = f" ARCH.TAG@PATH takes the preprocessing of published weights: {tagged}." if tagged else ""
    return (
        f"{checkpoint.path} fits {len(candidates)} architectures alike: {listed}. They differ in what tensors "
        f"do not say (preprocessing, padding). Name the right one as ARCH@PATH, e.g. {first.address}@{checkpoint.path}."
        f"{published} --preprocess mean=… std=… size=… sets the preprocessing by hand."
    )


def nothing_fits(candidates: Sequence[Candidate], checkpoint: Checkpoint, wanted: str) -> str:
    """The nearest architectures, and every mismatch against the nearest one."""
    if all(_HEAD_ONLY.fullmatch(name) for name in checkpoint.tensors):
        return (
            f"{checkpoint.path} holds only a head ({', '.join(list(checkpoint.tensors)[:4])}), no network that gives "
            "features. Give the checkpoint of the network."
        )
    if not candidates:
        names = list(checkpoint.tensors)
        return (
            f"{checkpoint.path} resembles no known architecture: it holds {len(names)} tensors "
            f"({', '.join(names[:6])}{', …' if len(names) > 6 else ''}). If you know it, write ARCH@PATH; "
            "`richrep list backbones` shows the architectures."
        )
    ordered = sorted(candidates, key=lambda candidate: candidate.comparison.mismatches)
    nearest = ordered[0]
    others = ", ".join(f"{c.address} ({c.comparison.mismatches} mismatches)" for c in ordered[1:3])
    if nearest.comparison.fits:
        return (
            f"{checkpoint.path} has the tensors of {nearest.address}, but needs {', '.join(nearest.unheeded)}, which "
            "that one cannot do. Leave the architecture out, and the right one is found."
        )
    advice = ""
    if nearest.comparison.mismatches == len(nearest.comparison.unexpected):
        advice = " If these take no part in its features, delete them from the state dict and save it again."
    start = "does not hold" if wanted else "fits no known architecture; the nearest is"
    return (
        f"{checkpoint.path} {start} {nearest.address}{f', then {others}' if others and not wanted else ''}. "
        f"Against {nearest.address}: {nearest.comparison.describe()}. Nothing was loaded.{advice}"
    )
