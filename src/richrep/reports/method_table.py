"""The table of methods: one row a method, one column a data set and training size, published numbers beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from richrep.evaluation.record import Record
from richrep.reports.columns import EMPTY, Column, PrintedTable, format_seconds, lay_out
from richrep.reports.identity import identity
from richrep.reports.tables import is_chosen_on_test, notes_on_test

PERCENT = ("accuracy", "mean_per_class_accuracy", "top5_accuracy", "ece")


@dataclass(frozen=True)
class Measured:
    """The records of one row of the table; none where nothing was measured yet.

    Attributes:
        metric: name of the test score that the row shows.
    """

    row: str
    metric: str
    records: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Published:
    """A published number, of the rows and columns it names; None names all, whose mean is then compared.

    Attributes:
        num_datasets: of a mean; while fewer columns are measured it stands alone.
    """

    rows: tuple[str, ...]
    metric: str
    value: float
    std: float | None = None
    tolerance: float | None = None
    dataset: str | None = None
    train_size: int | None = None
    num_datasets: int | None = None
    source: str = ""


@dataclass(frozen=True, order=True)
class Place:
    """A column: a data set and a number of training images (train and val together). The mean has neither."""

    dataset: str = ""
    train_size: int = 0


MEAN = Place()


@dataclass(frozen=True)
class Score:
    """Mean and sample standard deviation over `count` records; scores as in the records, fractions for accuracies."""

    mean: float
    std: float | None
    count: int


@dataclass(frozen=True)
class MethodRow:
    """One method.

    Attributes:
        elapsed_s: the mean of its records: what one run takes, features that were cached not counted.
        on_test: a protocol of it chose on test.
    """

    name: str
    metric: str
    scores: dict[Place, Score] = field(default_factory=dict)
    published: dict[Place, Published] = field(default_factory=dict)
    elapsed_s: float | None = None
    on_test: bool = False

    @property
    def label(self) -> str:
        """The name, with what must not be overlooked."""
        return f"{self.name} (chosen on TEST)" if self.on_test else self.name


@dataclass(frozen=True)
class MethodTable:
    """Rows in the order of the recipe, columns by data set and size; notes are sentences a reader must know."""

    rows: tuple[MethodRow, ...]
    places: tuple[Place, ...]
    notes: tuple[str, ...] = ()


def make_method_table(measured: Iterable[Measured], published: Iterable[Published] = ()) -> MethodTable:
    """The table of all rows, each seed and member counted once (its newest record).

    A published number whose tolerance the difference exceeds becomes a note; so does one of a row that is not there.
    """
    groups = [(group, _newest(group.records)) for group in measured]
    rows = [
        MethodRow(
            group.row,
            group.metric,
            _scores(group, records),
            {},
            _elapsed(records),
            on_test=any(map(is_chosen_on_test, records)),
        )
        for group, records in groups
    ]
    places = sorted({place for row in rows for place in row.scores})
    published = list(published)
    notes = notes_on_test(record for _, records in groups for record in records)
    notes += [note for number in published for note in _place(number, rows, places)]
    sources = list(dict.fromkeys(number.source for number in published if number.source))
    notes += [f"Published: {'; '.join(sources)}."] if sources else []
    shown = [place for place in places if place != MEAN]
    shown += [MEAN] if any(MEAN in (*row.scores, *row.published) for row in rows) else []
    return MethodTable(tuple(rows), tuple(shown), tuple(dict.fromkeys(notes)))


def print_method_table(table: MethodTable) -> PrintedTable:
    """The table as text; a column of published numbers follows every column that has any."""
    several_metrics = len({row.metric for row in table.rows}) > 1
    columns: list[Column[MethodRow]] = [
        Column("method", lambda row: row.label + (f" ({row.metric})" if several_metrics else ""), is_name=True)
    ]
    for place in table.places:
        title = _title(place, table.places)
        columns.append(Column(title, _score_text(place)))
        columns.append(Column("published\n(difference)", _published_text(place), optional=True))
    columns.append(Column("one run\n(s)", lambda row: format_seconds(row.elapsed_s), optional=True))
    printed = lay_out(columns, table.rows, table.notes)
    return PrintedTable(_caption(table), printed.titles, printed.cells, printed.is_name, printed.notes)


def _newest(records: Sequence[Record]) -> list[Record]:
    """One record for each measured thing: the newest where a seed was measured again."""
    ordered = sorted(records, key=lambda record: record.id)
    return list({(identity(record), record.seed): record for record in ordered}.values())


def _place_of(record: Record) -> Place:
    return Place(record.dataset.name, record.dataset.num_train + record.dataset.num_val)


def _scores(group: Measured, records: Sequence[Record]) -> dict[Place, Score]:
    values: dict[Place, list[float]] = {}
    for record in records:
        value = record.score("test", group.metric)
        if value is not None:
            values.setdefault(_place_of(record), []).append(value)
    return {place: _score(found) for place, found in values.items()}


def _score(values: Sequence[float]) -> Score:
    return Score(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def _elapsed(records: Sequence[Record]) -> float | None:
    times = [record.elapsed_s["total"] for record in records if "total" in record.elapsed_s]
    return statistics.fmean(times) if times else None


def _place(number: Published, rows: list[MethodRow], places: list[Place]) -> list[str]:
    """Puts `number` into its rows, and gives what a reader must know of it."""
    named = [row for row in rows if row.name in number.rows and row.metric == number.metric]
    if not named:
        return [f"No row for the published {' or '.join(number.rows)}: {_number(number.value, number.metric)}."]
    notes = []
    for row in named:
        matching = [place for place in row.scores if place != MEAN and _matches(number, place)]
        place = MEAN if number.num_datasets is not None else _column(number, matching, places)
        if place == MEAN and len(matching) >= (number.num_datasets or 2):
            row.scores[MEAN] = _score_of_means([row.scores[match] for match in matching])
        row.published[place] = number
        notes += _beyond_tolerance(row, place, number)
    return notes


def _beyond_tolerance(row: MethodRow, place: Place, number: Published) -> list[str]:
    score = row.scores.get(place)
    if score is None or number.tolerance is None or abs(score.mean - number.value) <= number.tolerance:
        return []
    return [
        f"{row.name}: {_number(score.mean, row.metric)} differs from the published "
        f"{_number(number.value, row.metric)} by more than {_number(number.tolerance, row.metric)}."
    ]


def _column(number: Published, matching: Sequence[Place], places: list[Place]) -> Place:
    """Where the number stands; a row without records takes the column that other rows have, or a new one."""
    if len(matching) > 1:
        return MEAN
    candidates = matching or [place for place in places if place != MEAN and _matches(number, place)]
    if len(candidates) == 1:
        return candidates[0]
    new = Place(number.dataset or "", number.train_size or 0)
    if new not in places:
        places.append(new)
    return new


def _score_of_means(scores: Sequence[Score]) -> Score:
    """The mean over columns; the spread is of that mean, seeds of different columns being independent."""
    stds = [score.std for score in scores]
    spread = sum(std**2 for std in stds if std is not None) ** 0.5 / len(stds) if None not in stds else None
    return Score(statistics.fmean(score.mean for score in scores), spread, min(score.count for score in scores))


def _matches(number: Published, place: Place) -> bool:
    return number.dataset in (None, place.dataset) and number.train_size in (None, place.train_size)


def _title(place: Place, places: Sequence[Place]) -> str:
    if place == MEAN:
        return "mean" if len(places) > 1 else "test"
    several = len({other.dataset for other in places if other != MEAN}) > 1
    sizes = {other.train_size for other in places if other.dataset == place.dataset}
    size = f"{place.train_size:,}" if place.train_size and (len(sizes) > 1 or not several) else ""
    return "\n".join(filter(None, [place.dataset if several or not size else "", size]))


def _caption(table: MethodTable) -> str:
    metrics = list(dict.fromkeys(row.metric for row in table.rows))
    names = [f"{metric.replace('_', ' ')}{' %' if metric in PERCENT else ''}" for metric in metrics]
    sized = [place for place in table.places if place.train_size]
    datasets = {place.dataset for place in table.places if place.dataset}
    what = [f"dataset {datasets.pop()}"] if len(datasets) == 1 else []
    counts = {score.count for row in table.rows for score in row.scores.values()}
    span = str(min(counts, default=0)) + (f" to {max(counts)}" if len(counts) > 1 else "")
    runs = f", mean ± std of {span} runs" if max(counts, default=0) > 1 else ""
    sizes = ["columns: training images"] if any(_title(place, table.places)[-1:].isdigit() for place in sized) else []
    return " · ".join([*what, f"test {' or '.join(names)}{runs}", *sizes])


def _score_text(place: Place) -> Callable[[MethodRow], str]:
    def text(row: MethodRow) -> str:
        score = row.scores.get(place)
        if score is None:
            return EMPTY
        return _number(score.mean, row.metric) + (
            f" ± {_number(score.std, row.metric)}" if score.std is not None else ""
        )

    return text


def _published_text(place: Place) -> Callable[[MethodRow], str]:
    def text(row: MethodRow) -> str:
        number, score = row.published.get(place), row.scores.get(place)
        if number is None:
            return EMPTY
        spread = f" ± {_number(number.std, row.metric)}" if number.std is not None else ""
        difference = f" ({_number(score.mean - number.value, row.metric, sign=True)})" if score is not None else ""
        return f"{_number(number.value, row.metric)}{spread}{difference}"

    return text


def _number(value: float, metric: str, *, sign: bool = False) -> str:
    """0.9375 -> '93.75' for accuracies; '1.170' for scores that are no fractions."""
    scaled, digits = (100 * value, 2) if metric in PERCENT else (value, 3)
    return f"{scaled:{'+' if sign else ''}.{digits}f}"
