"""Table of the training methods: what was chosen, how long it trained, val, test; seeds averaged."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from richrep.evaluation.record import Record
from richrep.reports.columns import (
    EMPTY,
    Column,
    PrintedTable,
    format_images,
    format_interval,
    format_mean_accuracy,
    format_method,
    format_percent,
    format_seconds,
    lay_out,
    verdict,
)
from richrep.reports.tables import ResultRow, group_seeds, make_result_row, repeated_note

_OWN_COLUMNS = ("lr", "weight_decay", "steps")


@dataclass(frozen=True)
class TrainingRow:
    """All seeds of one training method on one data set.

    Attributes:
        result: means and spread of the scores.
        lr, weight_decay, steps: what selection chose, "0.01, 0.03" where seeds differ; None where nothing says.
        chosen: the other hyper-parameters, "temperature=4".
        train_s: seconds of choosing and training, its members' included, the mean over seeds; None where nothing says.
    """

    result: ResultRow
    lr: str | None
    weight_decay: str | None
    steps: str | None
    chosen: str | None
    train_s: float | None


def make_training_rows(records: Iterable[Record]) -> list[TrainingRow]:
    """One row a method, in the order in which they were first measured."""
    groups, variants, _ = group_seeds(records)
    return [_row(group, variant) for group, variant in zip(groups, variants, strict=True)]


def print_training_table(records: Iterable[Record], *, failures: Mapping[str, str] | None = None) -> PrintedTable:
    """The table as text.

    Args:
        records: of fine-tuning, two-stage fine-tuning, distillation.
        failures: representation -> reason, for those that gave no record; each becomes a note.
    """
    records = list(records)
    notes = [f"{name} was not measured: {reason}" for name, reason in (failures or {}).items()]
    notes += [*repeated_note(group_seeds(records)[2]), *_gain_sentences(records)]
    return lay_out(TRAINING_COLUMNS, make_training_rows(records), tuple(notes))


def _gain_sentences(records: Sequence[Record]) -> list[str]:
    """What every joint model gains over the best of its members, and over the mean of their logits."""
    several_seeds = len({record.seed for record in records}) > 1
    sentences = []
    for record in records:
        best = record.metrics.get("test", {}).get("best_member")
        over = {
            "gain_over_best_member": f"{f'{best}, ' if best else ''}its best member on val",
            "gain_over_ensemble": "the mean of its members' logits",
        }
        gains = [_gain(record, name, text) for name, text in over.items() if record.score("test", name) is not None]
        seed = f", seed {record.seed}" if several_seeds else ""
        if gains:
            sentences.append(f"{record.representation}, {record.protocol_name}{seed}: {'; '.join(gains)}.")
    return sentences


def _gain(record: Record, name: str, over: str) -> str:
    low, high = record.interval("test", name) or (None, None)
    seen = f" (95 % interval {format_interval(low, high, sign=True)}, paired on the same test images)"
    said = f"{seen}: {verdict(low, high)}" if low is not None else ""
    return f"{100 * (record.score('test', name) or 0.0):+.2f} points over {over}{said}"


def _row(group: Sequence[Record], variant: str) -> TrainingRow:
    others = {name for record in group for name in record.hyperparameters} - set(_OWN_COLUMNS)
    seconds = [
        record.elapsed_s.get("members", 0.0) + record.elapsed_s["select"] + record.elapsed_s["fit"]
        for record in group
        if {"select", "fit"} <= {*record.elapsed_s}
    ]
    return TrainingRow(
        result=make_result_row(group, variant),
        lr=_values(group, "lr"),
        weight_decay=_values(group, "weight_decay"),
        steps=_values(group, "steps"),
        chosen=" ".join(f"{name}={_values(group, name)}" for name in sorted(others)) or None,
        train_s=statistics.fmean(seconds) if len(seconds) == len(group) else None,
    )


def _values(group: Sequence[Record], name: str) -> str | None:
    """The values of a hyper-parameter over the seeds, each once."""
    found = [record.hyperparameters[name] for record in group if record.hyperparameters.get(name) is not None]
    texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in found]
    return ", ".join(dict.fromkeys(texts)) or None


def _representation(row: TrainingRow) -> str:
    return row.result.representation + (f" [{row.result.variant}]" if row.result.variant else "")


def _images(row: TrainingRow) -> str:
    return format_images(row.result.num_train, row.result.num_val, row.result.num_test)


TRAINING_COLUMNS: tuple[Column[TrainingRow], ...] = (
    Column("representation", _representation, is_name=True),
    Column("dataset", lambda row: row.result.dataset, is_name=True, shared=True),
    Column("images\ntrain+val/\ntest", _images, is_name=True, shared=True),
    Column(
        "kind/\nprotocol", lambda row: format_method(row.result.kind, row.result.protocol), is_name=True, shared=True
    ),
    Column("seeds", lambda row: row.result.seeds, shared=True),
    Column("lr", lambda row: row.lr or EMPTY),
    Column("weight\ndecay", lambda row: row.weight_decay or EMPTY),
    Column("steps", lambda row: row.steps or EMPTY),
    Column("chosen", lambda row: row.chosen or EMPTY, is_name=True, optional=True),
    Column("val %", lambda row: format_percent(row.result.val_accuracy)),
    Column("test %: mean ± std,\n(95 %) of one seed", lambda row: format_mean_accuracy(row.result)),
    Column("train\n(s)", lambda row: format_seconds(row.train_s)),
)
