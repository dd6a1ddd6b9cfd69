"""Cells and their records -> what the table of methods shows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from richrep.errors import RichrepError
from richrep.evaluation.record import Record
from richrep.evaluation.record_store import filter_records
from richrep.recipes.grid import Cell
from richrep.recipes.recipe import Expected, Recipe
from richrep.recipes.store import CellStore
from richrep.reports.method_table import Measured, Published
from richrep.reports.tables import is_chosen_on_test

logger = logging.getLogger(__name__)

ALONE, TOGETHER = "alone", "together"
BEST_ON_VAL = "best-on-val"


def measured(
    cells: Iterable[Cell], metrics: Mapping[str, str], store: CellStore, records: Mapping[str, Record]
) -> list[Measured]:
    """The rows of the table with their records, in the order of the recipe; rows without a record are there too.

    Args:
        metrics: recipe -> its metric.
        records: by id; those a state names and that are no longer there are left out.
    """
    found: dict[tuple[str, str], dict[str, Record]] = {}
    for cell in cells:
        state = store.load(cell)
        ids = state.record_ids if state is not None else ()
        own = [records[record_id] for record_id in ids if record_id in records]
        for row, chosen in _rows(cell, own):
            found.setdefault((row, metrics[cell.recipe]), {}).update((record.id, record) for record in chosen)
    return [Measured(row, metric, tuple(chosen.values())) for (row, metric), chosen in found.items()]


def unavailable(recipes: Iterable[Recipe]) -> list[Measured]:
    """The rows of recipes that nothing can be run of: their published numbers stand alone."""
    return [
        Measured(str(cell.name), recipe.metric) for recipe in recipes if recipe.unavailable for cell in recipe.cells
    ]


def load_records_of(cells: Iterable[Cell], store: CellStore) -> dict[str, Record]:
    """The records that the cells wrote, by id; one that is gone or damaged is logged and left out."""
    records: dict[str, Record] = {}
    for cell in cells:
        state = store.load(cell)
        for record_id in state.record_ids if state is not None else ():
            path = store.out / f"{record_id}.json"
            try:
                records[record_id] = Record.from_json(path.read_bytes())
            except (OSError, RichrepError) as error:
                logger.warning("%s of %s cannot be read (%s). --redo measures it again.", path, cell.label, error)
    return records


def _rows(cell: Cell, records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    if cell.rows:
        return [(row, _matching(records, patterns)) for row, patterns in cell.rows]
    names = list(dict.fromkeys(record.representation for record in records))
    if len(names) <= 1:
        return [(cell.row, list(records))]
    return [(f"{cell.row}: {name}", [record for record in records if record.representation == name]) for name in names]


def _matching(records: Sequence[Record], patterns: Iterable[str]) -> list[Record]:
    """The records that match every pattern; "best-on-val" keeps one of those that match the patterns before it."""
    chosen = list(records)
    for pattern in patterns:
        if pattern == BEST_ON_VAL:
            chosen = _best_on_val(chosen)
            continue
        if pattern in (ALONE, TOGETHER):
            chosen = [
                record for record in chosen if _is_alone(record) == (pattern == ALONE) and record.kind != "own-head"
            ]
        elif chosen:
            chosen = filter_records(chosen, [pattern])
    return chosen


def _best_on_val(records: Sequence[Record]) -> list[Record]:
    """Of the records of one data set, training size and seed, the one of highest val accuracy; of equal ones the first.

    Test does not choose, but among records whose protocol chose on test already, which have no val score and are marked
    in every table; others without a val score are left out.
    """
    best: dict[tuple[str, int, int], tuple[float, Record]] = {}
    for record in records:
        accuracy = record.score("test" if is_chosen_on_test(record) else "val", "accuracy")
        data = record.dataset
        key = (data.name, data.num_train + data.num_val, record.seed)
        if accuracy is not None and (key not in best or accuracy > best[key][0]):
            best[key] = accuracy, record
    return [record for _, record in best.values()]


def _is_alone(record: Record) -> bool:
    return len(record.backbones) == 1


def published(recipes: Iterable[Recipe]) -> list[Published]:
    """Every published number of the recipes, with the rows it is of."""
    return [
        _published(expected, rows, recipe)
        for recipe in recipes
        for rows, numbers in _numbers(recipe)
        for expected in numbers
    ]


def _numbers(recipe: Recipe) -> list[tuple[list[str], list[Expected]]]:
    """Rows and the numbers that are said of them: of one cell, or of the whole recipe."""
    if recipe.unavailable:
        return [([str(cell.name)], cell.expected) for cell in recipe.cells]
    specs = recipe.specs()
    rows = [list(spec.rows) or [spec.name or str(spec.command)] for spec in specs]
    if not recipe.cells:
        return [(rows[0], recipe.expected)] if rows else []
    return [
        ([name for names in rows for name in names], recipe.expected),
        *((names, spec.expected) for names, spec in zip(rows, specs, strict=True)),
    ]


def _published(expected: Expected, rows: list[str], recipe: Recipe) -> Published:
    return Published(
        rows=(expected.row,) if expected.row is not None else tuple(rows),
        metric=recipe.metric,
        value=expected.value,
        std=expected.std,
        tolerance=expected.tolerance,
        dataset=expected.dataset,
        train_size=expected.train_size,
        num_datasets=expected.num_datasets,
        source=expected.source
        or (f"{recipe.source.paper}, {recipe.source.table}".rstrip(", ") if recipe.source else ""),
    )
