from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from richrep.errors import EngineError
from richrep.features.engines import ENGINES, choose
from richrep.features.engines.engine import Work
from richrep.features.extract import extract_features

CPU = torch.device("cpu")
needs_openvino = pytest.mark.skipif(bool(ENGINES["openvino"].problem(CPU, "fp32")), reason="needs openvino")


@pytest.mark.parametrize(
    ("engine", "package"),
    [("openvino", "openvino"), ("onnxruntime", "onnxruntime"), ("onnxruntime", "onnxscript")],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(tiny, monkeypatch, engine: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # its import raises ImportError, as without it
    expected = rf'needs the package {package}. Install it: pip install "richrep\[{engine}\]"'
    with pytest.raises(EngineError, match=expected):
        extract_features(tiny.make_backbone(), tiny.make_split(3), engine=engine, device="cpu")


@pytest.fixture
def break_import(monkeypatch):
    """Makes the import of a package raise an error, as one that is there but broken does."""

    def make_broken(package: str, error: Exception) -> None:
        real = importlib.import_module

        def import_module(name: str, *options: object) -> object:
            if name == package:
                raise error
            return real(name, *options)

        monkeypatch.delitem(sys.modules, package, raising=False)
        monkeypatch.setattr(importlib, "import_module", import_module)

    return make_broken


@pytest.mark.parametrize(("engine", "package"), [("openvino", "openvino"), ("onnxruntime", "onnxruntime")])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("libfoo.so: cannot open shared object file"), "ImportError: libfoo.so: cannot open shared object"),
        (ModuleNotFoundError("No module named 'ml_dtypes'", name="ml_dtypes"), "ModuleNotFoundError: No module named"),
        (RuntimeError("The wrong version.\nMore of it."), r"RuntimeError: The wrong version\)\. Repair it"),
        (OSError(), "OSError: no reason given"),
    ],
    ids=["library", "dependency", "other", "silent"],
)
def test_a_package_that_is_there_but_broken_is_named_with_its_reason(
    tiny, break_import, engine: str, package: str, error: Exception, said: str
) -> None:
    break_import(package, error)
    expected = rf"{engine} engine cannot use the package {package}, which is there but broken \({said}"
    with pytest.raises(EngineError, match=expected):
        extract_features(tiny.make_backbone(), tiny.make_split(3), engine=engine, device="cpu")


def test_auto_leaves_out_an_engine_whose_package_is_broken_and_says_so(tiny, break_import, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    choose._FOUND.clear()
    monkeypatch.setattr(choose, "AUTO_ORDER", ("torch", "openvino"))
    break_import("openvino", RuntimeError("The wrong version."))
    assert extract_features(tiny.make_backbone(), tiny.make_split(3), engine="auto", device="cpu").engine == "torch"
    assert "tiny: not openvino. The openvino engine cannot use the package openvino" in caplog.text
    choose._FOUND.clear()


def test_openvino_without_its_plugin_for_processors_is_broken(monkeypatch) -> None:
    class Core:
        def get_property(self, *names: str) -> None:
            raise RuntimeError("Device with CPU name is not registered")

    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=Core))
    assert "broken (RuntimeError: Device with CPU name is not" in ENGINES["openvino"].problem(CPU, "fp32")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_engines_for_the_cpu_refuse_other_devices(engine: str) -> None:
    assert "runs on the CPU, not on cuda" in ENGINES[engine].problem(torch.device("cuda"), "fp32")


@needs_openvino
def test_openvino_is_imported_without_its_telemetry() -> None:
    code = (
        "from richrep.features.engines.openvino_engine import import_openvino; import sys; import_openvino();"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')], "
        "sys.modules['openvino.tools.ovc.telemetry_utils'].tm.__name__)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["[]", "openvino.tools.ovc.telemetry_stub"]


@needs_openvino
def test_a_precision_that_openvino_does_not_take_is_refused(tiny, monkeypatch) -> None:
    from richrep.features.engines.openvino_engine import import_openvino

    core = import_openvino().Core
    if "FP16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has fp16")
    assert "has no fp16 arithmetic that OpenVINO uses" in ENGINES["openvino"].problem(CPU, "fp16")
    # Past that check OpenVINO falls back in silence, and what it took is looked at.
    backbone = replace(tiny.make_backbone(dim=3), trunk=nn.AvgPool2d(16), pool=nn.Flatten())
    work = Work(backbone, ("features",), "fp16", 2, CPU)
    with (
        pytest.raises(EngineError, match=r"OpenVINO computes in (bf16|f32) on this processor, not in f16"),
        ENGINES["openvino"].prepare(work),
    ):
        pass


class Branching(nn.Module):
    """What it does depends on the values, which no graph holds."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = images.mean(dim=(2, 3))
        return means if means.sum() > 0 else -means


@needs_openvino
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_network_that_is_no_graph_or_has_hooks_is_refused_by_name(tiny, engine: str) -> None:
    if ENGINES[engine].problem(CPU, "fp32"):
        pytest.skip(f"needs {engine}")
    backbone = replace(tiny.make_backbone("left", dim=3), trunk=Branching())
    with pytest.raises(EngineError, match=r"'left' \(memory/left\) cannot be handed to .*Use --engine torch"):
        extract_features(backbone, tiny.make_split(3), engine=engine)
    backbone.trunk.register_forward_hook(lambda module, inputs, output: None)
    with pytest.raises(EngineError, match=r"'left' has forward hooks, which .* would lose. Use --engine torch"):
        extract_features(backbone, tiny.make_split(3), engine=engine)
