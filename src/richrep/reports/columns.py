"""Columns: rows of plain data -> the text a person reads. Percent, rounding and "—" happen here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from richrep.reports.tables import ProbeRow, ProbeTable, ResultRow, ResultsTable

EMPTY = "—"
EMPTY_NOTE = f"{EMPTY}: not measured, or not defined for this row."

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One printed column.

    Attributes:
        title: may hold a newline where a narrow terminal should break it.
        text: row -> cell.
        is_name: left-aligned, and wrapped when the terminal is narrow; else right-aligned and kept whole.
        shared: named once above the table, not in a column, when all rows agree.
        optional: left out when no row has it.
    """

    title: str
    text: Callable[[Row], str]
    is_name: bool = False
    shared: bool = False
    optional: bool = False


@dataclass(frozen=True)
class PrintedTable:
    """A table as text.

    Attributes:
        caption: what all rows share, "" when nothing.
        cells: one tuple of texts per row, one text per title.
        is_name: per column, whether it is a name (left-aligned, may wrap).
    """

    caption: str
    titles: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    is_name: tuple[bool, ...]
    notes: tuple[str, ...]


def print_table(table: ProbeTable | ResultsTable) -> PrintedTable:
    """The table as text: columns on which all rows agree go to the caption, gains to sentences below."""
    if isinstance(table, ProbeTable):
        return lay_out(PROBE_COLUMNS, table.rows, (*table.notes, *_gain_sentences(table.rows)))
    return lay_out(RESULT_COLUMNS, table.rows, (*table.notes, *_mean_gain_sentences(table.rows)))


def lay_out(columns: Sequence[Column[Row]], rows: Sequence[Row], notes: tuple[str, ...]) -> PrintedTable:
    """Rows as text under `columns`; what all rows share goes to the caption."""
    texts = [[column.text(row) for row in rows] for column in columns]
    caption, kept = [], []
    for column, cells in zip(columns, texts, strict=True):
        values = set(cells) - {EMPTY}
        if column.optional and not values:
            continue
        if not (column.shared and len(values) <= 1):
            kept.append((column, cells))
        elif values:
            caption.append(f"{one_line(column.title)} {values.pop()}")
    if any(EMPTY in cells for _, cells in kept):
        notes = (*notes, EMPTY_NOTE)
    return PrintedTable(
        caption=" · ".join(caption),
        titles=tuple(column.title for column, _ in kept),
        cells=tuple(zip(*(cells for _, cells in kept), strict=True)),
        is_name=tuple(column.is_name for column, _ in kept),
        notes=notes,
    )


def one_line(title: str) -> str:
    """A title without its line breaks: 'normal-⏎ization' -> 'normalization', 'kind/⏎protocol' -> 'kind/protocol'."""
    return title.replace("-\n", "").replace("/\n", "/").replace("\n", " ")


def format_percent(fraction: float | None) -> str:
    """0.8812 -> '88.12'."""
    return EMPTY if fraction is None else f"{100 * fraction:.2f}"


def format_interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """(0.8711, 0.8889) -> '87.1 – 88.9'."""
    if low is None or high is None:
        return EMPTY
    return f"{100 * low:+.1f} – {100 * high:+.1f}" if sign else f"{100 * low:.1f} – {100 * high:.1f}"


def format_seconds(seconds: float | None) -> str:
    """1.234 -> '1.2'; from 100 on without decimals."""
    if seconds is None:
        return EMPTY
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}"


def format_count(count: int | None) -> str:
    """256 -> '256'."""
    return EMPTY if count is None else str(count)


def format_l2(l2: float | None) -> str:
    """0.00123456 -> '0.0012'."""
    return EMPTY if l2 is None else f"{l2:.2g}"


def format_images(num_train: int | None, num_val: int | None, num_test: int | None) -> str:
    """(4000, 1000, 2000) -> '4000+1000/2000'."""
    return EMPTY if num_train is None else f"{num_train}+{num_val}/{num_test}"


def format_method(kind: str | None, protocol: str | None) -> str:
    """('probe', 'logistic') -> 'probe/logistic'."""
    return EMPTY if kind is None else f"{kind}/{protocol}"


def _times(row: ProbeRow) -> str:
    """Extraction, then choosing the penalty and fitting."""
    if row.extract_s is None and row.select_s is None and row.fit_s is None:
        return EMPTY
    head_s = None if row.select_s is None and row.fit_s is None else (row.select_s or 0.0) + (row.fit_s or 0.0)
    return f"{format_seconds(row.extract_s)}/{format_seconds(head_s)}"


def format_mean_accuracy(row: ResultRow) -> str:
    """Test accuracy: '85.00 ± 7.07' over seeds; '88.00 (86.6 – 89.3)' for one seed."""
    if row.test_accuracy is not None and row.test_accuracy_std is not None:
        return f"{format_percent(row.test_accuracy)} ± {format_percent(row.test_accuracy_std)}"
    interval = format_interval(row.test_accuracy_low, row.test_accuracy_high)
    return format_percent(row.test_accuracy) + ("" if interval == EMPTY else f" ({interval})")


def _gain_sentences(rows: Sequence[ProbeRow]) -> list[str]:
    sentences = []
    with_gain = [row for row in rows if row.gain is not None]
    several_seeds = len({row.seed for row in with_gain}) > 1
    for row in with_gain:
        if row.gain is not None:
            seen = verdict(row.gain_low, row.gain_high)
            interval = format_interval(row.gain_low, row.gain_high, sign=True)
            paired = "on the same test images" if (row.num_repeats or 1) == 1 else f"over {row.num_repeats} draws"
            seed = f", seed {row.seed}" if several_seeds else ""
            sentences.append(
                f"{row.representation}{seed}: {100 * row.gain:+.2f} points over "
                f"{f'{row.best_member}, ' if row.best_member else ''}"
                f"its best member on {'test' if row.val_accuracy is None else 'val'}"
                + (f" (95 % interval {interval}, paired {paired}): {seen}." if seen else ".")
            )
    return sentences


def verdict(low: float | None, high: float | None) -> str:
    """What the 95 % interval of a difference says; "" without one."""
    if low is None or high is None:
        return ""
    return "a gain" if low > 0 else "a loss" if high < 0 else "no clear difference"


def _mean_gain_sentences(rows: Sequence[ResultRow]) -> list[str]:
    """One a concatenation; kind, protocol and images are named where the sentences differ in them."""
    with_gain = [row for row in rows if row.gain is not None]
    several_methods = len({(row.kind, row.protocol) for row in with_gain}) > 1
    several_sizes = len({(row.num_train, row.num_val, row.num_test) for row in with_gain}) > 1
    sentences = []
    for row in with_gain:
        if row.gain is not None:
            method = f", {format_method(row.kind, row.protocol)}" if several_methods else ""
            part = "test" if row.val_accuracy is None else "val"
            images = f", {format_images(row.num_train, row.num_val, row.num_test)} images" if several_sizes else ""
            sentences.append(
                f"{row.representation} on {row.dataset}{images}{method}{f' [{row.variant}]' if row.variant else ''}: "
                f"{100 * row.gain:+.2f}{f' ± {100 * row.gain_std:.2f}' if row.gain_std is not None else ''} "
                f"points over its best member on {part} ({row.num_seeds} seed{'s' if row.num_seeds > 1 else ''})."
            )
    return sentences


PROBE_COLUMNS: tuple[Column[ProbeRow], ...] = (
    Column("representation", lambda row: row.representation, is_name=True),
    Column("dataset", lambda row: row.dataset or EMPTY, is_name=True, shared=True),
    Column(
        "images\ntrain+val/\ntest",
        lambda row: format_images(row.num_train, row.num_val, row.num_test),
        is_name=True,
        shared=True,
    ),
    Column("kind/\nprotocol", lambda row: format_method(row.kind, row.protocol), is_name=True, shared=True),
    Column("seed", lambda row: format_count(row.seed), shared=True),
    Column("dim", lambda row: format_count(row.feature_dim)),
    Column("val %", lambda row: format_percent(row.val_accuracy)),
    Column("test %", lambda row: format_percent(row.test_accuracy)),
    Column("95 %\ninterval", lambda row: format_interval(row.test_accuracy_low, row.test_accuracy_high)),
    Column("l2", lambda row: format_l2(row.l2), optional=True),
    Column("chosen", lambda row: row.chosen or EMPTY, is_name=True, optional=True),
    Column("normal-\nization", lambda row: row.normalization or EMPTY),
    Column("extract/\nfit (s)", _times),
)

RESULT_COLUMNS: tuple[Column[ResultRow], ...] = (
    Column(
        "representation",
        lambda row: row.representation + (f" [{row.variant}]" if row.variant else ""),
        is_name=True,
    ),
    Column("dataset", lambda row: row.dataset, is_name=True, shared=True),
    Column(
        "images\ntrain+val/\ntest",
        lambda row: format_images(row.num_train, row.num_val, row.num_test),
        is_name=True,
        shared=True,
    ),
    Column("kind/\nprotocol", lambda row: format_method(row.kind, row.protocol), is_name=True, shared=True),
    Column("seeds", lambda row: str(row.num_seeds)),
    Column("test %: mean ± std,\n(95 %) of one seed", format_mean_accuracy),
)
