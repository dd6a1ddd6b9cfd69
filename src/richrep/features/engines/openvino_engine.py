"""OpenVINO: networks compiled for the processor, the fastest on the CPUs we measured."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import torch

from richrep.errors import EngineError
from richrep.features.engines.engine import Forward, Work, import_problem, padded
from richrep.features.engines.export import exported
from richrep.features.manifest import Layer, Precision

_TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}


class OpenVinoEngine:
    """A stream for each thread that calls, so that batches do not wait for one another; one batch shape, padded to.

    OpenVINO takes a precision as a hint, and takes another one where the processor lacks it. That would be a lie in the
    record, so it is refused.
    """

    name = "openvino"
    description = "OpenVINO on the CPU; fp32, bf16 where the processor has it"

    def problem(self, device: torch.device, precision: Precision) -> str:
        if device.type != "cpu":
            return f"The openvino engine runs on the CPU, not on {device.type}. Use --engine torch, or --device cpu."
        problem = import_problem(self.name, "openvino", _capabilities)
        if problem:
            return problem
        if _CAPABILITIES[precision] not in _capabilities():
            return f"This processor has no {precision} arithmetic that OpenVINO uses. Use --precision fp32."
        return ""

    @contextlib.contextmanager
    def prepare(self, work: Work) -> Iterator[Forward]:
        openvino = import_openvino()
        with exported(work, "OpenVINO") as program:
            model = openvino.convert_model(program)
            # What we hold is channels last: (B, H, W, 3) in memory, which goes in without a copy.
            steps = openvino.preprocess.PrePostProcessor(model)
            steps.input().tensor().set_layout(openvino.Layout("NHWC"))
            steps.input().model().set_layout(openvino.Layout("NCHW"))
            wanted = _TYPES[work.precision]
            options = {
                "INFERENCE_PRECISION_HINT": wanted,
                "NUM_STREAMS": work.num_batches,
                "INFERENCE_NUM_THREADS": work.num_batches * work.threads_per_batch,
                "ENABLE_CPU_PINNING": False,  # the cores are shared with the threads that decode
            }
            compiled = openvino.Core().compile_model(steps.build(), "CPU", options)
        got = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if got != wanted:
            raise EngineError(f"OpenVINO computes in {got} on this processor, not in {wanted}. Use --precision fp32.")
        requests = threading.local()

        def forward(images: torch.Tensor) -> dict[Layer, torch.Tensor]:
            if not hasattr(requests, "own"):
                requests.own = compiled.create_infer_request()
            batch = padded(images, work.batch_size).permute(0, 2, 3, 1).contiguous()  # (B, H, W, 3), seldom a copy
            given = requests.own.infer([batch.numpy()], share_inputs=True)
            return {layer: torch.from_numpy(given[i])[: len(images)] for i, layer in enumerate(work.layers)}

        yield forward


def _capabilities() -> list[str]:
    """What OpenVINO computes in on this processor; without its plugin for processors this raises."""
    known: list[str] = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return known


def import_openvino() -> ModuleType:
    """The package, without its telemetry, which reports every import to its makers unless the user opted out.

    With openvino_telemetry out of reach OpenVINO takes its own stub of it.
    """
    if sys.modules.get("openvino") is not None:
        return sys.modules["openvino"]
    hidden = "openvino_telemetry"
    before = sys.modules.get(hidden)
    sys.modules[hidden] = None  # type: ignore[assignment]  # makes its import raise ImportError
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[hidden]
        if before is not None:
            sys.modules[hidden] = before
