"""The exceptions a caller may want to catch.

::

    ValueError
    └── RichrepError            what the user gave cannot be used; one message says what, why and what to do
        ├── AddressError        a backbone or dataset address that names nothing
        ├── CheckpointError     a checkpoint that cannot be loaded whole, exactly and safely
        ├── DatasetError        a data set whose files, labels or classes do not fit together
        ├── BadImageError       an image that cannot be decoded
        ├── EngineError         an engine or a precision that cannot run here, or not closely enough
        ├── DivergedError       a training of which nothing is left: every learning rate was too high
        ├── FeatureError        features that cannot be used (not finite, wrong width)
        ├── MemoryLimitError    a memory limit that is too small for what was asked
        ├── CacheError          the feature cache cannot be written or read
        └── RunBusyError        a run that another process is at work on

The command line prints the message without a traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RichrepError(ValueError):
    """What the user gave cannot be used; the message says what is wrong, what was expected and what to do."""


class AddressError(RichrepError):
    """A backbone or dataset address that names nothing."""


class CheckpointError(RichrepError):
    """A checkpoint that cannot be loaded whole, exactly and safely."""


class DatasetError(RichrepError):
    """A data set whose files, labels or classes do not fit together."""


class BadImageError(RichrepError):
    """An image that cannot be decoded; the message holds its name and position."""


class EngineError(RichrepError):
    """An engine or a precision that cannot run here, or whose features are too far from float32.

    Attributes:
        backbone: name of the one network it is about; "" where it is not known, or about all.
    """

    backbone: str = ""


class FeatureError(RichrepError):
    """Features that cannot be used: not finite, or of the wrong width.

    Attributes:
        backbone: name of the one network that gives them; "" where it is not known.
    """

    backbone: str = ""


class MemoryLimitError(RichrepError):
    """A memory limit that is too small for what was asked; the message says which would do."""


class CacheError(RichrepError):
    """The feature cache cannot be written or read; the message holds the path and the size needed."""


class DivergedError(RichrepError):
    """A training whose loss is no longer a finite number; of several learning rates, under every one."""


class RunBusyError(RichrepError):
    """A run that another process is at work on."""


def unknown_name_message(kind: str, name: str, known: Iterable[str], *, max_listed: int = 12) -> str:
    """One sentence for an unknown name: what was asked, the nearest known names, the known names.

    >>> unknown_name_message("head", "logistc", ["logistic", "ridge"])
    "Unknown head 'logistc'. Did you mean 'logistic'? Known: logistic, ridge."
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    guess = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    listed = ", ".join(names[:max_listed]) + (f", … ({len(names)} in all)" if len(names) > max_listed else "")
    return f"Unknown {kind} {name!r}.{guess} Known: {listed}."
