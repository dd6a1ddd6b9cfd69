"""Several networks at once, of which one may give no features: the others go on without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from richrep.backbones.backbone import Backbone
from richrep.errors import EngineError, FeatureError, RichrepError

OnFailure = Callable[[str, str], None]  # name of a backbone, and the reason
Found = TypeVar("Found")


def extract_usable(
    backbones: Sequence[Backbone], extract: Callable[[Sequence[Backbone]], Found], on_failure: OnFailure | None
) -> tuple[list[Backbone], Found]:
    """The backbones (of distinct names) that give features, and what `extract` finds for all of them at once.

    One that an error names is left out and `on_failure` hears why; then the others go on together, so that they still
    share one pass over the images. What is cached is not redone.

    Raises:
        FeatureError, EngineError: `on_failure` is None, or they fail together while none fails alone.
        RichrepError: no backbone is left.
    """
    used, reasons = list(backbones), dict[str, str]()
    while used:
        try:
            return used, extract(used)
        except (FeatureError, EngineError) as error:
            failing = {} if on_failure is None else _failing(used, extract, error)
            if on_failure is None or not failing:
                raise
        for name, reason in failing.items():
            on_failure(name, reason)
        reasons |= failing
        used = [backbone for backbone in used if backbone.name not in failing]
    first = next(iter(reasons.values()), "none was given.")
    raise RichrepError(f"No backbone gives features that can be used; the first: {first}")


def _failing(
    backbones: Sequence[Backbone], extract: Callable[[Sequence[Backbone]], Found], error: FeatureError | EngineError
) -> dict[str, str]:
    """Reasons by name: of the backbone that `error` is about; where it does not say, of those that fail alone."""
    culprit = error.backbone if len(backbones) > 1 else backbones[0].name
    if any(backbone.name == culprit for backbone in backbones):
        return {culprit: str(error)}
    reasons: dict[str, str] = {}
    for backbone in backbones:
        try:
            extract([backbone])
        except (FeatureError, EngineError) as own:
            reasons[backbone.name] = str(own)
    return reasons
