"""Which views a protocol trains on: as the user says, else as the protocol says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from richrep.backbones.backbone import Backbone
from richrep.data.augment import RandomView
from richrep.errors import RichrepError
from richrep.evaluation.protocols.legacy_test_selection import LegacyTestSelection
from richrep.evaluation.protocols.protocol import ProbeProtocol
from richrep.features.views import Views, default_view

Viewed = TypeVar("Viewed", bound=ProbeProtocol | LegacyTestSelection)


def choose_views(
    protocol: ProbeProtocol | LegacyTestSelection,
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
    fields = protocol.base if isinstance(protocol, LegacyTestSelection) else protocol
    count = getattr(fields, "views", 1) if count is None else count
    return Views(count, view or getattr(fields, "view", None) or default_view(backbones))


def with_views(protocol: Viewed, views: Views) -> Viewed:
    """The protocol with the views it is given, where they are fields of it.

    Raises:
        RichrepError: views for a twin that has no epochs to take them in.
    """
    if isinstance(protocol, LegacyTestSelection):
        if views.count > 1 and not hasattr(protocol.base, "views"):
            raise RichrepError(f"{protocol.name} has no epochs to take views in. Leave --views out.")
        return cast(Viewed, protocol.with_base(with_views(cast(Any, protocol.base), views)))
    if not hasattr(protocol, "views"):
        return protocol
    drawn = {"view": views.view} if views.count > 1 else {}
    return cast(Viewed, replace(cast(Any, protocol), views=views.count, **drawn))


def reads_views(protocol: object) -> bool:
    """Whether the protocol makes of `FeatureSet.views` what it needs: by a field `views`, or by `reads_views`."""
    return hasattr(protocol, "views") or bool(getattr(protocol, "reads_views", False))
