"""The record of a search -> its tables and its plot for the terminal: path, controls, redundancy, importance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from richrep.errors import RichrepError
from richrep.evaluation.record import Record
from richrep.reports.columns import EMPTY, format_interval, format_percent
from richrep.reports.render import wrap_name

NAME_WIDTH = 30
CELL_WIDTH = 6  # of the redundancy matrix
PLOT_WIDTH = 40
CONTROLS = {
    "best_member": "the best member alone",
    "all": "all members together",
    "ensemble": "the ensemble of the chosen members' own probes",
}


def render_search(record: Record, *, width: int = 100) -> Group:
    """Everything a search found, for `rich.console.Console(width=width).print`.

    Raises:
        RichrepError: the record is not of a search.
    """
    if not record.search:
        raise RichrepError(f"Record {record.id} is of kind {record.kind!r}, one of kind 'search' was expected.")
    details: dict[str, Any] = dict(record.search)
    parts: list[RenderableType] = []
    for caption, table in (
        ("Path: accuracy on val as members join (* chosen)", _path_table(details)),
        _plot(details),
        ("Redundancy: linear CKA", _cka_table(details, width)),
        ("Chosen members: share of the head's weight, and val points lost without them", _shares(details)),
    ):
        parts += [Text(caption, style="bold"), table, Text("")]
    return Group(*parts, *map(Text, sentences(record)))


def sentences(record: Record) -> list[str]:
    """What was chosen and what it gains over every control, one sentence each."""
    test, val = record.score("test", "accuracy"), record.score("val", "accuracy")
    interval = format_interval(*(record.interval("test", "accuracy") or (None, None)))
    lines = [
        f"Chosen: {record.representation}, test {format_percent(test)} % (95 % interval {interval}), "
        f"val {format_percent(val)} %."
    ]
    for name, what in CONTROLS.items():
        gain = record.score("test", f"gain_over_{name}")
        if gain is not None:
            between = format_interval(*(record.interval("test", f"gain_over_{name}") or (None, None)), sign=True)
            who = f" ({record.metrics['test']['best_member']})" if name == "best_member" else ""
            lines.append(f"  {100 * gain:+.2f} points on test over {what}{who} (95 % interval {between}, paired).")
    scales: Any = record.search.get("scales")
    if scales:
        lines.append(_scales_sentence(scales, record.search["members"]))
    return [*lines, str(record.search["note"])]


def _scales_sentence(scales: dict[str, Any], members: Any) -> str:
    used = ", ".join(f"{n} x {s:g}" for n, s in zip(members, scales["scales"], strict=True) if s)
    val, test = scales["val_gain_over_subset"], scales["test_gain_over_subset"]
    between = format_interval(*scales["test_gain_over_subset_ci95"], sign=True)
    verdict = "beat" if val > 0 else "do not beat"
    return (
        f"Learned scales ({used}) {verdict} the subset on val: {100 * val:+.2f} points on val, "
        f"{100 * test:+.2f} on test (95 % interval {between}, paired)."
    )


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in titles:
        if title == "member":
            table.add_column(Text(title), overflow="fold")
        else:
            table.add_column(Text(title), justify="right", overflow="fold")
    return table


def _path_table(details: dict[str, Any]) -> Table:
    """A row for every size, the chosen one marked."""
    titles = ("", "member", "features", "parameters", "proxy\nval %", "val %", "95 %\ninterval", "gain\n95 %")
    table = _table(*titles)
    for step in details["path"]:
        table.add_row(
            f"{'*' if step['members'] == details['chosen'] else ''}{len(step['members'])}",
            Text(_change(step, details["members"])),
            f"{step['feature_dim']:,}",
            f"{step['parameters'] / 1e6:.2f} M",
            format_percent(step["proxy_val"]),
            format_percent(step["val"]),
            format_interval(*step["val_ci95"]),
            format_interval(*step["gain_ci95"], sign=True) if "gain" in step else EMPTY,
        )
    return table


def _change(step: dict[str, Any], members: Sequence[str]) -> str:
    """'+ resnet20', and on a path whose subsets are not nested also '- resnet32'."""
    lines = [f"+ {members[i]}" for i in step["joined"]] + [f"- {members[i]}" for i in step["left"]]
    return "\n".join(wrap_name(line, NAME_WIDTH - 2) for line in lines)


def _plot(details: dict[str, Any]) -> tuple[str, Table]:
    """The 95 % intervals of the path, one bar a size, and a caption that says where the bars' ends are."""
    low = min(step["val_ci95"][0] for step in details["path"])
    high = max(step["val_ci95"][1] for step in details["path"])
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(justify="right")
    for step in details["path"]:
        begin, end = (value - low for value in step["val_ci95"])
        bar = Bar(max(high - low, 1e-9), begin, end, width=PLOT_WIDTH)
        table.add_row(str(len(step["members"])), bar, format_percent(step["val"]))
    return f"Val accuracy by members, 95 % intervals, from {100 * low:.1f} to {100 * high:.1f} %", table


def _cka_table(details: dict[str, Any], width: int) -> Table:
    """How alike the members are: the whole matrix where it fits, else for each member the most alike one."""
    members, cka = details["members"], details["cka"]
    if NAME_WIDTH + CELL_WIDTH * len(members) <= width:
        table = _table("", "member", *map(str, range(1, len(members) + 1)))
        for i, (name, row) in enumerate(zip(members, cka, strict=True), start=1):
            table.add_row(str(i), Text(wrap_name(name, NAME_WIDTH - 8)), *(f"{value:.2f}" for value in row))
        return table
    table = _table("", "member", "CKA", "with the member most like it")
    for i, (name, row) in enumerate(zip(members, cka, strict=True)):
        other = max((j for j in range(len(members)) if j != i), key=lambda j: row[j])
        table.add_row(str(i + 1), Text(wrap_name(name, NAME_WIDTH)), f"{row[other]:.2f}", Text(members[other]))
    return table


def _shares(details: dict[str, Any]) -> Table:
    table = _table("member", "importance", "loss without")
    total = sum(row["importance"] for row in details["chosen_members"]) or 1.0
    for row in details["chosen_members"]:
        lost = row["marginal_gain"]
        table.add_row(
            Text(wrap_name(details["members"][row["member"]], NAME_WIDTH)),
            f"{100 * row['importance'] / total:.1f} %",
            EMPTY if lost is None else f"{100 * lost:+.2f}",
        )
    return table
