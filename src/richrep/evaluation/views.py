"""Which views a protocol trains on: as the user says, else as the protocol says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from richrep.backbones.backbone import Backbone
from richrep.data.augment import RandomView
from richrep.evaluation.protocols.protocol import ProbeProtocol
from richrep.features.views import Views, default_view


def choose_views(
    protocol: ProbeProtocol,
    backbones: Sequence[Backbone],
    *,
    count: int | None = None,
    view: RandomView | None = None,
) -> Views:
    """The views to extract: as asked for, else as the protocol's fields `views` and `view` say, else none.

    Their seed is 0 whatever the seed of the run: all runs on one data set share what is cached.

    Args:
        count: V; None leaves it to the protocol.
        view: None leaves it to the protocol, or to `default_view` of the backbones.
    """
    count = getattr(protocol, "views", 1) if count is None else count
    return Views(count, view or getattr(protocol, "view", None) or default_view(backbones))


def with_views(protocol: ProbeProtocol, views: Views) -> ProbeProtocol:
    """The protocol with the views it is given, where they are fields of it."""
    if not hasattr(protocol, "views"):
        return protocol
    drawn = {"view": views.view} if views.count > 1 else {}
    return cast(ProbeProtocol, replace(cast(Any, protocol), views=views.count, **drawn))


def reads_views(protocol: ProbeProtocol) -> bool:
    """Whether the protocol makes of `FeatureSet.views` what it needs: by a field `views`, or by `reads_views`."""
    return hasattr(protocol, "views") or bool(getattr(protocol, "reads_views", False))
