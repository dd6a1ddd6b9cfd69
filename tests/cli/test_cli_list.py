"""`richrep list` where something is broken."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder


class Breaking(MetaPathFinder):
    """Stands for an installed package whose import fails."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "openvino":
            raise RuntimeError("libfoo.so: wrong version [x]")


def test_an_engine_whose_package_is_broken_is_listed_with_the_reason(cli, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Breaking(), *sys.meta_path])
    outcome = cli("list", "engines")
    lines = outcome.out.splitlines()
    assert outcome.code == 0 and [line.split()[0] for line in lines][-2:] == ["openvino", "onnxruntime"]
    assert "[not here: " in lines[-2] and "broken (RuntimeError: libfoo.so: wrong version [x])" in lines[-2]
