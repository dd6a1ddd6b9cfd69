"""Tables of `richrep rank`: the scores of each network beside its probe, and how well each score orders them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from richrep.evaluation.record import Record
from richrep.reports.columns import EMPTY, Column, PrintedTable, format_count, format_interval, format_percent, lay_out

NamedValues = tuple[str, Mapping[str, Any]]  # a score's name, and what `rank_agreement` found


def print_rank_table(records: Iterable[Record], *, failures: Mapping[str, str] | None = None) -> PrintedTable:
    """One row per network, the best probe first (without probes: the best by the first score).

    Args:
        records: of kinds "rank" and "probe".
        failures: representation -> reason, for those that gave no record; each becomes a note.
    """
    records = list(records)
    ranked = [record for record in records if record.kind == "rank"]
    probes = {record.representation: record for record in records if record.kind == "probe"}
    names = _score_names(ranked)

    def order(record: Record) -> float:
        probe = probes.get(record.representation)
        value = probe.score("test", "accuracy") if probe else record.score("train", names[0])
        return float("-inf") if value is None else value

    ranked.sort(key=order, reverse=True)
    columns = [
        Column[Record]("representation", lambda record: record.representation, is_name=True),
        Column[Record]("dataset", lambda record: record.dataset.name, is_name=True, shared=True),
        Column[Record]("training images", lambda record: str(record.dataset.num_train), shared=True),
        Column[Record]("dim", lambda record: format_count(record.feature_dim)),
        *(Column[Record](name.replace("-", "-\n", 1), _score_text(name)) for name in names),
    ]
    if probes:
        columns.append(Column("probe\ntest %", lambda record: format_percent(_accuracy(probes, record))))
        columns.append(Column("95 %\ninterval", lambda record: format_interval(*_interval(probes, record))))
    notes = [f"{name} was not measured: {reason}" for name, reason in (failures or {}).items()]
    return lay_out(columns, ranked, (*notes, *_reasons(ranked, names)))


def print_agreement_table(record: Record) -> PrintedTable:
    """One row per score of a record of kind "rank-agreement": its rank correlations with the probes' test accuracy."""
    found = [(name, values) for name, values in record.metrics["test"].items() if isinstance(values, dict)]
    columns = [
        Column[NamedValues]("score", lambda row: row[0], is_name=True),
        Column[NamedValues]("networks", lambda row: str(row[1]["num_networks"]), shared=True),
        *(
            Column[NamedValues](title, _correlation_text(key))
            for title, key in (
                ("Spearman", "spearman"),
                ("Kendall", "kendall"),
                ("weighted Kendall", "weighted_kendall"),
            )
        ),
    ]
    notes = [f"{name}: no rank correlation, {values['reason']}." for name, values in found if "reason" in values]
    return lay_out(columns, found, ("Rank correlation with the probes' test accuracy, in [-1, 1].", *notes))


def _accuracy(probes: Mapping[str, Record], record: Record) -> float | None:
    return probes[record.representation].score("test", "accuracy") if record.representation in probes else None


def _interval(probes: Mapping[str, Record], record: Record) -> tuple[float | None, float | None]:
    found = probes[record.representation].interval("test", "accuracy") if record.representation in probes else None
    return found or (None, None)


def _score_names(ranked: Sequence[Record]) -> list[str]:
    """The scores that were asked for, in their order."""
    scores = ranked[0].protocol["scores"] if ranked else []
    return [str(name) for name in scores] if isinstance(scores, list) else []


def _score_text(name: str) -> Callable[[Record], str]:
    def text(record: Record) -> str:
        value = record.score("train", name)
        return EMPTY if value is None else f"{value:#.4g}"

    return text


def _correlation_text(key: str) -> Callable[[NamedValues], str]:
    return lambda row: EMPTY if row[1][key] is None else f"{row[1][key]:+.3f}"


def _reasons(ranked: Sequence[Record], names: Sequence[str]) -> list[str]:
    """Why a score is missing, one sentence a reason."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for record in ranked:
        for name in names:
            reason = record.metrics["train"].get(f"{name}_reason")
            if isinstance(reason, str):
                lacking.setdefault((name, reason), []).append(record.representation)
    return [f"{name} of {', '.join(those)}: {reason}" for (name, reason), those in lacking.items()]
