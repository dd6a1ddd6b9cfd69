"""The picture: a line a method, with the points and bars of the table."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from richrep.errors import RichrepError
from richrep.reports.method_plot import write_plot
from richrep.reports.method_table import MethodRow, MethodTable, Place, Score

PLACES = (Place("cifar10", 500), Place("cifar10", 2000), Place("dtd", 100))
TABLE = MethodTable(
    (
        MethodRow("ERM", "accuracy", {PLACES[0]: Score(0.8, 0.01, 3), PLACES[1]: Score(0.85, 0.01, 3)}),
        MethodRow("CAT5", "accuracy", {PLACES[0]: Score(0.9, None, 1), PLACES[2]: Score(0.7, None, 1)}),
        MethodRow("not measured", "accuracy"),
    ),
    PLACES,
)


def test_every_method_and_data_set_is_drawn(tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="the extra plots is not installed")
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):  # texts as texts
        write_plot(TABLE, tmp_path / "curve.svg")
    texts = [
        element.text for element in ElementTree.parse(tmp_path / "curve.svg").iter() if element.tag.endswith("text")
    ]
    for wanted in ("ERM", "CAT5", "cifar10", "dtd", "500", "2,000", "training images", "test accuracy (%)"):
        assert wanted in texts
    assert "not measured" not in texts
    write_plot(TABLE, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_said(tmp_path) -> None:
    with pytest.raises(RichrepError, match=r"curve.gif is no picture. Give a file that ends in .png, .svg or .pdf"):
        write_plot(TABLE, tmp_path / "curve.gif")
    pytest.importorskip("matplotlib", reason="the extra plots is not installed")
    with pytest.raises(RichrepError, match="nothing was measured yet"):
        write_plot(MethodTable(TABLE.rows[2:], ()), tmp_path / "curve.png")
    with pytest.raises(RichrepError, match="cannot be written"):
        write_plot(TABLE, tmp_path / "no folder" / "curve.png")
