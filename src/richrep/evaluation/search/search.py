"""The protocol: which subset of many networks is best together, by val; test is scored after the choice, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import torch

from richrep.backbones.backbone import Backbone
from richrep.backbones.layers import with_layers
from richrep.data.split import Dataset
from richrep.errors import FeatureError, RichrepError, unknown_name_message
from richrep.evaluation.measure import common_facts
from richrep.evaluation.record import Record
from richrep.evaluation.search.found import Found, SoftSubset
from richrep.evaluation.search.probes import Probes
from richrep.evaluation.search.proxy import PROXY_SCORES, Proxy, ProxyScore, make_proxy
from richrep.evaluation.search.records import make_records
from richrep.evaluation.search.scales import scaled, search_scales, unit_factors
from richrep.evaluation.search.shortlist import probe_shortlist
from richrep.evaluation.search.strategies import MAX_EXHAUSTIVE, STRATEGIES, Scored, Subset, too_many_message
from richrep.evaluation.selection import DEFAULT_CS
from richrep.evaluation.task import (
    ExtractOptions,
    TaskFeatures,
    extract_task,
    load_members,
    make_task,
)
from richrep.features.feature_set import FeatureSet
from richrep.features.forward import choose_device
from richrep.features.memory import MemoryBudget, choose_budget
from richrep.features.normalize import DEFAULT_NORMALIZATIONS
from richrep.features.pca import split_pca
from richrep.features.rows import as_rows
from richrep.features.usable import OnFailure

_COMPARED = 100  # images by which two members are told apart


@dataclass(frozen=True)
class SearchProtocol:
    """Subsets scored by a proxy on val, the best of them by the full probe on val, one of them on test.

    Attributes:
        name: of the full probe.
        strategy: a key of STRATEGIES; beam_width: of "beam".
        max_members: of the chosen subset.
        shortlist: subsets that are probed, quickly, besides the members and the best of every size, and again in every
            step from there to a better neighbour; see `probe_shortlist`.
        learn_scales: also search a scale for every member, and probe the members so scaled.
        max_dims: principal components of a member that the proxy sees.
        proxy_score: a key of PROXY_SCORES.
        cs, normalizations, val_fraction: of the full probe, as in LogisticProtocol.
    """

    name: str = "logistic"
    strategy: str = "greedy"
    beam_width: int = 4
    max_members: int = 8
    shortlist: int = 8
    learn_scales: bool = False
    max_dims: int = 128
    proxy_score: ProxyScore = "val"
    cs: tuple[float, ...] = DEFAULT_CS
    normalizations: tuple[str, ...] = DEFAULT_NORMALIZATIONS
    val_fraction: float = 0.2

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise RichrepError(unknown_name_message("strategy", self.strategy, STRATEGIES))
        if self.proxy_score not in PROXY_SCORES:
            raise RichrepError(unknown_name_message("score of the proxy", self.proxy_score, PROXY_SCORES))
        for name, least in (("beam_width", 1), ("max_members", 1), ("shortlist", 0), ("max_dims", 1)):
            if getattr(self, name) < least:
                raise RichrepError(f"{name} must be at least {least}, got {getattr(self, name)}.")


def search(
    backbones: Sequence[str | Backbone],
    dataset: str | Dataset,
    *,
    layers: Sequence[str] = (),
    protocol: SearchProtocol | None = None,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    data_root: Path | str | None = None,
    memory_limit: int | str | None = None,
    on_record: Callable[[Record], None] | None = None,
    on_failure: OnFailure | None = None,
    on_step: Callable[[str], None] | None = None,
    keep_below: Path | None = None,
    **extraction: Unpack[ExtractOptions],
) -> list[Record]:
    """The subset of many networks that is best together on val, and what it scores on test.

    The strategy asks for subsets, which the proxy scores on val; the best of every size, a short list and the
    neighbours of the best are probed in full on val; the best of those is refitted on train and val. Test is scored for
    it and for the controls after all choices are made. The val accuracy of the best of many is optimistic, the test
    accuracy is not.

    Args:
        backbones, dataset, seed, train_size, … on_failure: as for `probe`.
        memory_limit: of the full probes, as for `probe`; the proxy holds at most 20,000 train and as many val images of
            a member beside it, and learned scales a copy of the members.
        layers: inner layers that are members too, of every backbone that has them.
        on_step: called with one line when a step is finished.
        keep_below: folder in which full probes are kept while it is at work: after a kill the same search goes on.

    Returns:
        One record each of the controls (the best member alone by val, all members together, the ensemble of the chosen
        members' own probes; those that differ from the chosen subset), and last the chosen subset's, of kind "search".

    Raises:
        RichrepError: fewer than two members, a member given twice, too many for the strategy; or as for `probe`.
    """
    protocol = protocol or SearchProtocol()
    memory = choose_budget(memory_limit, choose_device(extraction.get("device")))
    say = on_step or (lambda line: None)
    members = with_layers(load_members(backbones, seed=seed), layers)
    _check_members(members, protocol)
    task = make_task(dataset, data_root=data_root, train_size=train_size, test_size=test_size)
    features = extract_task(
        members, task, extraction, val_fraction=protocol.val_fraction, seed=seed, on_failure=on_failure
    )
    features = _without_copies(features, say)
    _check_members(features.backbones, protocol)
    _check_components(features, protocol)
    say(f"features of {len(features.backbones)} members: {features.elapsed_s:.1f} s")
    found = _choose(features, protocol, memory, say, keep_below)
    records = []
    for record in make_records(found, features, asdict(protocol), common_facts(features, extraction, seed=seed)):
        records.append(record)
        if on_record is not None:
            on_record(record)
    found.probes.end()
    return records


def _check_members(members: Sequence[Backbone], protocol: SearchProtocol) -> None:
    if len(members) < 2:
        raise RichrepError(
            f"A search needs at least two members, got {len(members)}. Give more backbones or layers; "
            "one network alone is measured by: richrep probe."
        )
    seen: dict[tuple[str, str], Backbone] = {}
    for member in members:
        same = seen.setdefault((member.fingerprint, repr(member.preprocessing)), member)
        if same is not member:
            raise RichrepError(
                f"{same.name} and {member.name} ({member.address}) are the same network with the same preprocessing. "
                "Give each once."
            )
    if protocol.strategy == "exhaustive" and len(members) > MAX_EXHAUSTIVE:
        raise RichrepError(too_many_message(len(members)))


def _without_copies(features: TaskFeatures, say: Callable[[str], None]) -> TaskFeatures:
    """Without members that give the features of one before them, such as a layer that is the last before the pool."""
    kept: list[int] = []
    for place, backbone in enumerate(features.backbones):
        for other in kept:
            if _look_alike(features.trainval[place], features.trainval[other]):
                say(f"{backbone.name} is left out: it gives the features of {features.backbones[other].name}.")
                break
        else:
            kept.append(place)

    def some(members: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(members[place] for place in kept)

    return replace(
        features, backbones=some(features.backbones), trainval=some(features.trainval), test=some(features.test)
    )


def _look_alike(one: FeatureSet, other: FeatureSet) -> bool:
    """Whether the features are the same but for rounding, by some rows from all over the set."""
    if one.feature_dim != other.feature_dim:
        return False
    rows = torch.arange(0, len(one), max(1, len(one) // _COMPARED))
    first, second = (as_rows(features.features, rows)[:] for features in (one, other))
    return bool(torch.allclose(first, second, rtol=1e-4, atol=1e-4 * float(first.abs().mean())))


def _check_components(features: TaskFeatures, protocol: SearchProtocol) -> None:
    """Raises FeatureError where a member alone has too few columns or images for a projection, before any probe."""
    for name in protocol.normalizations:
        _, count = split_pca(name)
        for backbone in features.backbones:
            most = min(backbone.feature_dim, len(features.train_rows) - 1)
            if most < count:
                raise FeatureError(
                    f"{name} cannot be tried on {backbone.name} alone: {len(features.train_rows)} training images of "
                    f"{backbone.feature_dim} features have at most {most} principal components. "
                    f"Use at most pca:{most}, or leave the member out."
                )


def _choose(
    features: TaskFeatures,
    protocol: SearchProtocol,
    memory: MemoryBudget,
    say: Callable[[str], None],
    keep_below: Path | None,
) -> Found:
    """All choices, by train and val alone: test features are handed on unread."""
    start = time.perf_counter()
    rows = features.train_rows, features.val_rows
    proxy = make_proxy(features.trainval, *rows, max_dims=protocol.max_dims, score_by=protocol.proxy_score)
    scored = Scored(proxy.score, [b.feature_dim for b in features.backbones])
    limit = min(protocol.max_members, len(features.backbones))
    STRATEGIES[protocol.strategy](scored, max_members=limit, beam_width=protocol.beam_width)
    search_s = time.perf_counter() - start
    say(f"{len(scored.values)} subsets by the proxy ({proxy.describe()}): {search_s:.1f} s")
    options: dict[str, Any] = {"cs": protocol.cs, "normalizations": protocol.normalizations, "memory": memory}
    probes = Probes(features.trainval, features.test, *rows, **options, keep_below=keep_below)

    def told(what: str, subset: Subset, accuracy: float) -> float:
        names = " + ".join(features.backbones[i].name for i in subset)
        say(f"val {what}{100 * accuracy:.2f} % (proxy {100 * scored.values[subset]:.2f} %): {names}")
        return accuracy

    full = Scored(lambda subset: told("", subset, probes.val_accuracy(subset)), scored.dims)
    probe_shortlist(
        scored,
        full,
        lambda subset, best: told("at least ", subset, probes.at_least(subset, best)),
        max_members=limit,
        shortlist=protocol.shortlist,
    )
    path = tuple(full.path())
    (chosen,) = full.best(path)
    extra = [subset for subset in full.best(full.values, len(full.values)) if subset not in path]
    soft = _learn_scales(features, protocol, proxy, chosen, memory, say) if protocol.learn_scales else None
    everything = tuple(range(len(features.backbones)))
    say(f"val {100 * probes.val_accuracy(path[0]):.2f} %: the best member alone")
    say(f"val {100 * probes.val_accuracy(everything):.2f} %: all members together")
    return Found(scored, proxy, probes, path, tuple(extra), chosen, soft, search_s)


def _learn_scales(
    features: TaskFeatures,
    protocol: SearchProtocol,
    proxy: Proxy,
    chosen: Subset,
    memory: MemoryBudget,
    say: Callable[[str], None],
) -> SoftSubset:
    """Scales for all members, and the full probe of the members so scaled, with no further normalisation."""
    start = time.perf_counter()
    scales, proxy_accuracy = search_scales(proxy, chosen, len(features.backbones))
    units = unit_factors(features.trainval, features.train_rows)
    factors = [scale * unit for scale, unit in zip(scales, units, strict=True)]

    def one(members: Sequence[FeatureSet]) -> list[FeatureSet]:
        return [scaled(members, factors)]

    probes = Probes(
        one(features.trainval),
        one(features.test),
        features.train_rows,
        features.val_rows,
        cs=protocol.cs,
        normalizations=("none",),
        memory=memory,
    )
    accuracy = probes.val_accuracy((0,))
    took = time.perf_counter() - start
    say(f"val {100 * accuracy:.2f} % (proxy {100 * proxy_accuracy:.2f} %): learned scales, {took:.1f} s")
    return SoftSubset(tuple(scales), proxy_accuracy, probes)
