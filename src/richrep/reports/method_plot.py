"""The table of methods as a picture: accuracy against the number of training images, one line a method."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from richrep.errors import RichrepError
from richrep.reports.method_table import MEAN, PERCENT, MethodTable

FORMATS = (".png", ".svg", ".pdf")

_MARKERS = "os^D"  # ten colours with each


def check_plot(path: str | Path) -> None:
    """Raises RichrepError when no plot can be written as `path`; done before any work."""
    if Path(path).suffix.lower() not in FORMATS:
        raise RichrepError(
            f"{path} is no picture. Give a file that ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}."
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise RichrepError("A plot needs matplotlib. Install it with: pip install 'richrep[plots]'")


def write_plot(table: MethodTable, path: str | Path) -> None:
    """Writes the plot: one panel a data set, training images on a logarithmic axis, bars of one standard deviation.

    Raises:
        RichrepError: nothing was measured, matplotlib is missing, or the file cannot be written.
    """
    check_plot(path)
    datasets = list(dict.fromkeys(place.dataset for place in table.places if place != MEAN))
    measured = [name for name in datasets if any(place.dataset == name for row in table.rows for place in row.scores)]
    if not measured:
        raise RichrepError(f"{path} is not drawn: nothing was measured yet. Run the recipe without --table-only first.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(measured) + 2.5, 4), layout="constrained")
    for axes, dataset in zip(figure.subplots(1, len(measured), squeeze=False)[0], measured, strict=True):
        sizes: set[int] = set()
        for number, row in enumerate(table.rows):
            scale = 100 if row.metric in PERCENT else 1
            places = sorted(p for p in row.scores if p.dataset == dataset)
            if places:
                sizes |= {place.train_size for place in places}
                axes.errorbar(
                    [place.train_size for place in places],
                    [scale * row.scores[place].mean for place in places],
                    yerr=[scale * (row.scores[place].std or 0.0) for place in places],
                    color=f"C{number % 10}",
                    marker=_MARKERS[number // 10 % len(_MARKERS)],
                    markersize=4,
                    capsize=3,
                    label=row.label,
                )
        axes.set(xscale="log", xlabel="training images", ylabel=_label(table), title=dataset)
        axes.set_xticks(sorted(sizes), [f"{size:,}" for size in sorted(sizes)])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    handles = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), fontsize="small", loc="outside right upper")
    try:
        figure.savefig(Path(path).expanduser(), dpi=150)
    except OSError as error:
        raise RichrepError(f"{path} cannot be written: {error.strerror or error}. Choose another place.") from error


def _label(table: MethodTable) -> str:
    metrics = list(dict.fromkeys(row.metric for row in table.rows))
    return " or ".join(f"test {name.replace('_', ' ')}{' (%)' if name in PERCENT else ''}" for name in metrics)
