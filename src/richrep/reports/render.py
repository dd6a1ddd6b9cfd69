"""Render: table -> terminal, Markdown or CSV; records -> JSON. Returns text or a rich table; prints nothing."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import astuple, fields

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from richrep.evaluation.record import Record
from richrep.reports.columns import PrintedTable, one_line, print_table
from richrep.reports.tables import ProbeRow, ProbeTable, ResultRow, ResultsTable

GAP = 2  # characters between two columns
# The first column, the representation, keeps 24 characters until the other names are as narrow as they can be.
GOOD_NAME_WIDTH = 24
MIN_NAME_WIDTH = 12
MAX_NAME_LINES = 6


def render_rich(table: ProbeTable | ResultsTable | PrintedTable, *, width: int = 80) -> RichTable:
    """A table for `rich.console.Console(width=width).print`; names wrap so that numbers stay whole.

    80 columns suffice for the records of one data set. In less room numbers fold onto more lines; none is cut or
    left out. rich leaves colour out when NO_COLOR is set.
    """
    printed = table if isinstance(table, PrintedTable) else print_table(table)
    widths = _column_widths(printed, width)
    rich_table = RichTable(
        title=Text(printed.caption) if printed.caption else None,
        caption=Text("\n".join(printed.notes)) if printed.notes else None,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),  # the box adds one
    )
    for title, is_name, column_width in zip(printed.titles, printed.is_name, widths, strict=True):
        if is_name:
            rich_table.add_column(Text(title), overflow="fold", width=column_width)
        else:
            rich_table.add_column(Text(title), justify="right", overflow="fold")
    for cells in printed.cells:
        wrapped = [
            wrap_name(cell, column_width) if is_name else cell
            for cell, is_name, column_width in zip(cells, printed.is_name, widths, strict=True)
        ]
        rich_table.add_row(*map(Text, wrapped))
    return rich_table


def render_markdown(table: ProbeTable | ResultsTable | PrintedTable) -> str:
    """A Markdown table, what the rows share above it and the notes below it, ending in a newline."""
    printed = table if isinstance(table, PrintedTable) else print_table(table)
    lines = [f"**{_escape(printed.caption)}**", ""] if printed.caption else []
    lines.append(_markdown_row(one_line(title) for title in printed.titles))
    lines.append(_markdown_row(":---" if is_name else "---:" for is_name in printed.is_name))
    lines += [_markdown_row(cells) for cells in printed.cells]
    for note in printed.notes:
        lines += ["", _escape(note)]
    return "\n".join(lines) + "\n"


def render_csv(table: ProbeTable | ResultsTable) -> str:
    """One header line, one line per row, for machines: fractions, times in seconds, empty where not measured."""
    row_type = ProbeRow if isinstance(table, ProbeTable) else ResultRow
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(field.name for field in fields(row_type))
    writer.writerows(astuple(row) for row in table.rows)
    return file.getvalue()


def render_json(records: Iterable[Record]) -> str:
    """`{"records": [...]}`, the records whole, ending in a newline."""
    content = {"records": [record.to_dict() for record in records]}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def wrap_name(name: str, width: int, *, max_lines: int = MAX_NAME_LINES) -> str:
    """`name` on lines of at most `width` characters, broken after + / _ - @ : , or a space where possible.

    A name that needs more than `max_lines` loses its middle: first lines, "…", last line.

    >>> print(wrap_name("cat(resnet20+resnet32+resnet44)", 22))
    cat(resnet20+resnet32+
    resnet44)
    """
    lines = [""]
    for piece in _breakable_pieces(name, width):
        if len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 2], "…", lines[-1]]
    return "\n".join(line.rstrip() for line in lines)


def _breakable_pieces(name: str, width: int) -> list[str]:
    """Pieces of `name` between which a line may end: members of a concatenation, smaller only where too long."""
    pieces = []
    for member in re.split(r"(?<=[+ /])", name):
        smaller = re.split(r"(?<=[_@:,-])", member) if len(member.rstrip()) > width else [member]
        pieces += [part[start : start + width] for part in smaller for start in range(0, len(part), width)]
    return pieces


def _column_widths(printed: PrintedTable, width: int) -> list[int]:
    """Natural widths; where they do not fit into `width`, names give way, and only names."""
    columns = [[title, *(row[at] for row in printed.cells)] for at, title in enumerate(printed.titles)]
    widths = [max(len(line) for text in texts for line in text.split("\n")) for texts in columns]
    excess = sum(widths) + GAP * (len(widths) - 1) - width
    others = [at for at, is_name in enumerate(printed.is_name) if is_name and at > 0]
    floors = [(0, GOOD_NAME_WIDTH), *((at, _longest_piece(columns[at])) for at in others), (0, MIN_NAME_WIDTH)]
    for at, floor in floors:
        cut = max(0, min(excess, widths[at] - floor))
        widths[at] -= cut
        excess -= cut
    return widths  # what still does not fit, rich folds


def _longest_piece(texts: Iterable[str]) -> int:
    return max(len(piece.rstrip()) for text in texts for piece in re.split(r"(?<=[+/ \n])", text))


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_escape, cells))} |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
