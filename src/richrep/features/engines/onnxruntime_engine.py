"""ONNX Runtime: networks as ONNX graphs, on every CPU."""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from richrep.features.engines.engine import Forward, Work, import_problem, padded
from richrep.features.engines.export import exported
from richrep.features.manifest import Layer, Precision


class OnnxRuntimeEngine:
    """One session, called by all threads at once; one batch shape, padded to. Float32 only.

    Its bf16 and fp16 kernels for processors are few, and slower than float32.
    """

    name = "onnxruntime"
    description = "ONNX Runtime on the CPU; fp32"

    def problem(self, device: torch.device, precision: Precision) -> str:
        if device.type != "cpu":
            return f"The onnxruntime engine runs on the CPU, not on {device.type}. Use --engine torch, or --device cpu."
        if precision != "fp32":
            return f"The onnxruntime engine computes in fp32, not in {precision}. Use --engine torch or openvino."
        for package in ("onnxruntime", "onnxscript"):  # the second writes the graph
            problem = import_problem(self.name, package, partial(importlib.import_module, package))
            if problem:
                return problem
        return ""

    @contextlib.contextmanager
    def prepare(self, work: Work) -> Iterator[Forward]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = work.threads_per_batch
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are shared
        # Through a file, because a graph in memory may not exceed 2 GB.
        with tempfile.TemporaryDirectory() as folder, exported(work, "ONNX Runtime") as program:
            file = Path(folder) / "network.onnx"
            torch.onnx.export(program, (), file, dynamo=True, external_data=True, verbose=False)
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def forward(images: torch.Tensor) -> dict[Layer, torch.Tensor]:
            batch = padded(images, work.batch_size).contiguous()  # (B, 3, H, W)
            given = session.run(None, {name: batch.numpy()})
            return {layer: torch.from_numpy(out)[: len(images)] for layer, out in zip(work.layers, given, strict=True)}

        yield forward
