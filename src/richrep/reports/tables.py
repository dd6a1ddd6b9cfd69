"""Tables: records -> rows of plain data. Scores stay fractions; a cell that was not measured is None."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from richrep.evaluation.record import Record
from richrep.reports.identity import identity, variants


@dataclass(frozen=True)
class ProbeRow:
    """One record of one run. Accuracies, intervals and gains are fractions; times are seconds.

    Attributes:
        gain: test accuracy minus that of `best_member`, with its paired 95 % interval; only for a concatenation.
        num_repeats: draws of the training images; of several, scores are means and intervals over the draws.
        chosen: the hyper-parameters that have no column of their own, e.g. "k=20 temperature=0.07".
    """

    representation: str
    dataset: str | None = None
    kind: str | None = None
    protocol: str | None = None
    seed: int | None = None
    num_train: int | None = None
    num_val: int | None = None
    num_test: int | None = None
    feature_dim: int | None = None
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    test_accuracy_low: float | None = None
    test_accuracy_high: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    best_member: str | None = None
    num_repeats: int | None = None
    l2: float | None = None
    normalization: str | None = None
    extract_s: float | None = None
    select_s: float | None = None
    fit_s: float | None = None
    record_id: str | None = None
    chosen: str | None = None


@dataclass(frozen=True)
class ResultRow:
    """All seeds of one (representation, data set, protocol, kind): means, and sample standard deviations from two on.

    Attributes:
        variant: what tells this row from another of the same representation, data set, sizes, kind and protocol, e.g.
            "resnet20@12fca82f" (the weights) or "val_fraction=0.1"; "" when nothing needs telling apart.
        seeds: the seeds averaged, e.g. "0 1 2".
        test_accuracy_low, test_accuracy_high: 95 % interval over test images; only where num_seeds is 1.
    """

    representation: str
    variant: str
    dataset: str
    kind: str
    protocol: str
    num_train: int
    num_val: int
    num_test: int
    feature_dim: int
    num_seeds: int
    seeds: str
    val_accuracy: float | None
    val_accuracy_std: float | None
    test_accuracy: float | None
    test_accuracy_std: float | None
    test_accuracy_low: float | None
    test_accuracy_high: float | None
    test_mean_per_class_accuracy: float | None
    gain: float | None
    gain_std: float | None
    record_ids: str


@dataclass(frozen=True)
class ProbeTable:
    """Rows in the order measured; notes are sentences a reader of the rows must know."""

    rows: tuple[ProbeRow, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResultsTable:
    """Rows by data set, kind and protocol, the best test accuracy first; notes as in ProbeTable."""

    rows: tuple[ResultRow, ...]
    notes: tuple[str, ...] = ()


def make_probe_table(records: Iterable[Record], *, failures: Mapping[str, str] | None = None) -> ProbeTable:
    """One row per record, in the given order.

    Args:
        failures: representation -> reason, for those that were asked for and gave no record; each becomes an empty
            row and a note.
    """
    failures, records = failures or {}, list(records)
    rows = [_probe_row(record) for record in records] + [ProbeRow(representation=name) for name in failures]
    notes = [f"{name} was not measured: {reason}" for name, reason in failures.items()]
    return ProbeTable(tuple(rows), (*_warnings(records), *notes))


def make_results_table(records: Iterable[Record]) -> ResultsTable:
    """One row per representation (the very same weights), data set, protocol and kind; seeds become mean and spread.

    Two records are seeds of one row when representation, backbones (sha256; the address for `random/NAME`, whose
    weights are drawn from the seed), data set address and sizes, precision, decoding, how features are stored, protocol
    with all its options and kind agree. A seed measured more than once counts once, with its newest record; a note says
    how many were set aside.
    """
    records = list(records)
    seeds, told_apart, num_repeated = group_seeds(records)
    rows = [make_result_row(group, variant) for group, variant in zip(seeds, told_apart, strict=True)]
    rows.sort(key=lambda row: (row.dataset, row.kind, row.protocol, -(row.test_accuracy or 0.0), row.representation))
    return ResultsTable(tuple(rows), (*_warnings(records), *repeated_note(num_repeated)))


def group_seeds(records: Iterable[Record]) -> tuple[list[list[Record]], list[str], int]:
    """Records that are seeds of one row, what tells each row from others of its label, and how many were set aside."""
    groups: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.id):
        groups[identity(record)].append(record)
    seeds = [list({record.seed: record for record in group}.values()) for group in groups.values()]  # the newest wins
    num_repeated = sum(map(len, groups.values())) - sum(map(len, seeds))
    return seeds, variants([group[0] for group in seeds]), num_repeated


def repeated_note(num_repeated: int) -> list[str]:
    """A sentence on records that were set aside, if there are any."""
    what = (
        "older record of a seed measured again was"
        if num_repeated == 1
        else "older records of seeds measured again were"
    )
    return [f"{num_repeated} {what} left out."] if num_repeated else []


def _warnings(records: Sequence[Record]) -> list[str]:
    """What a reader must know of the numbers: a protocol that chose on test; cells of a grid that diverged."""
    notes = notes_on_test(records)
    for record in records:
        diverged = record.solver.get("diverged")
        if isinstance(diverged, list) and diverged:
            what = f"{record.representation}, {record.protocol_name}, seed {record.seed}"
            notes.append(f"{what}: SGD diverged and was left out: {'; '.join(map(str, diverged))}.")
    return notes


def notes_on_test(records: Iterable[Record]) -> list[str]:
    """What must be said of protocols that chose on test, one sentence each."""
    on_test = [record for record in records if is_chosen_on_test(record)]
    return list(dict.fromkeys(f"{record.protocol_name}: {record.protocol.get('note')}" for record in on_test))


def is_chosen_on_test(record: Record) -> bool:
    """Whether its protocol chose on test, as some papers did."""
    return record.protocol.get("selected_on") == "test"


def _probe_row(record: Record) -> ProbeRow:
    test_low, test_high = record.interval("test", "accuracy") or (None, None)
    gain_low, gain_high = record.interval("test", "gain_over_best_member") or (None, None)
    best_member = record.metrics.get("test", {}).get("best_member")
    l2 = record.hyperparameters.get("l2")
    normalization = record.hyperparameters.get("normalization")
    return ProbeRow(
        representation=record.representation,
        dataset=record.dataset.name,
        kind=record.kind,
        protocol=record.protocol_name,
        seed=record.seed,
        num_train=record.dataset.num_train,
        num_val=record.dataset.num_val,
        num_test=record.dataset.num_test,
        feature_dim=record.feature_dim,
        val_accuracy=record.score("val", "accuracy"),
        test_accuracy=record.score("test", "accuracy"),
        test_accuracy_low=test_low,
        test_accuracy_high=test_high,
        gain=record.score("test", "gain_over_best_member"),
        gain_low=gain_low,
        gain_high=gain_high,
        best_member=best_member if isinstance(best_member, str) else None,
        num_repeats=max(1, len(record.repeats)),
        l2=float(l2) if isinstance(l2, int | float) else None,
        normalization=normalization if isinstance(normalization, str) else None,
        extract_s=record.elapsed_s.get("extract"),
        select_s=record.elapsed_s.get("select"),
        fit_s=record.elapsed_s.get("fit"),
        record_id=record.id,
        chosen=_chosen(record),
    )


def _chosen(record: Record) -> str | None:
    """Hyper-parameters other than l2 and normalization; None when there are none."""
    others = {name: value for name, value in record.hyperparameters.items() if name not in ("l2", "normalization")}
    texts = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in others.items()}
    return " ".join(f"{name}={text}" for name, text in texts.items()) or None


def make_result_row(group: Sequence[Record], variant: str) -> ResultRow:
    """The row of records that differ in their seed alone."""
    group = sorted(group, key=lambda record: record.seed)
    first = group[0]
    val_mean, val_std = _mean_and_std([record.score("val", "accuracy") for record in group])
    test_mean, test_std = _mean_and_std([record.score("test", "accuracy") for record in group])
    per_class, _ = _mean_and_std([record.score("test", "mean_per_class_accuracy") for record in group])
    gain, gain_std = _mean_and_std([record.score("test", "gain_over_best_member") for record in group])
    own_interval = first.interval("test", "accuracy") if len(group) == 1 else None
    low, high = own_interval or (None, None)
    return ResultRow(
        representation=first.representation,
        variant=variant,
        dataset=first.dataset.name,
        kind=first.kind,
        protocol=first.protocol_name,
        num_train=first.dataset.num_train,
        num_val=first.dataset.num_val,
        num_test=first.dataset.num_test,
        feature_dim=first.feature_dim,
        num_seeds=len(group),
        seeds=" ".join(str(record.seed) for record in group),
        val_accuracy=val_mean,
        val_accuracy_std=val_std,
        test_accuracy=test_mean,
        test_accuracy_std=test_std,
        test_accuracy_low=low,
        test_accuracy_high=high,
        test_mean_per_class_accuracy=per_class,
        gain=gain,
        gain_std=gain_std,
        record_ids=" ".join(record.id for record in group),
    )


def _mean_and_std(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; both None when a seed lacks the value, the second for a single seed."""
    measured = [value for value in values if value is not None]
    if not measured or len(measured) < len(values):
        return None, None
    return statistics.fmean(measured), statistics.stdev(measured) if len(measured) > 1 else None
