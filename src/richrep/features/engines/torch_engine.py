"""PyTorch: every device, every network."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator

import torch
from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.errors import EngineError
from richrep.features.engines.engine import Forward, Work, padded
from richrep.features.forward import Network, inference, made_ready
from richrep.features.manifest import Layer, Precision

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """Channels last; bf16 and fp16 under autocast, which keeps normalisations and sums in float32.

    Autocast is closer to float32 than a network cast as a whole (largest relative error of bf16 features: CIFAR
    ResNet-20 0.8 % against 1.6 %, MobileNetV2 4 % against 7 %), and as fast once the weights of convolutions and
    linear layers are cast beforehand instead of in every batch.

    Args:
        compiled: run `torch.compile`d networks: seconds of compiling each, then faster batches.
    """

    def __init__(self, *, compiled: bool = False) -> None:
        self._compiled = compiled
        self.name = "torch-compile" if compiled else "torch"
        self.description = (
            "PyTorch with torch.compile; needs a C++ compiler on the CPU"
            if compiled
            else "PyTorch, channels last; CUDA or CPU; the default"
        )

    def problem(self, device: torch.device, precision: Precision) -> str:
        if device.type == "cpu" and precision == "fp16":
            return "PyTorch computes fp16 on processors several times slower than fp32. Use bf16 or fp32 on the CPU."
        compiler = os.environ.get("CXX", "g++")
        if self._compiled and device.type == "cpu" and not (shutil.which(compiler) or shutil.which("clang++")):
            return f"torch.compile needs a C++ compiler ({compiler}), and none is there. Install one or set CXX."
        return ""

    @contextlib.contextmanager
    def prepare(self, work: Work) -> Iterator[Forward]:
        low = work.precision != "fp32"
        with made_ready([work.backbone], work.device):
            if low:
                _cast_products(work.backbone, _DTYPES[work.precision])
            network: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] = Network(work.backbone, work.layers)
            if self._compiled:
                network = torch.compile(network, fullgraph=True, dynamic=False)

            def forward(images: torch.Tensor) -> dict[Layer, torch.Tensor]:
                count = len(images)
                batch = padded(images, work.batch_size) if self._compiled else images
                with torch.autocast(work.device.type, dtype=_DTYPES[work.precision] if low else None, enabled=low):
                    given = network(batch)
                return {layer: out[:count].float() for layer, out in zip(work.layers, given, strict=True)}

            if self._compiled:
                _compile_now(forward, work)
            yield forward


def _cast_products(backbone: Backbone, dtype: torch.dtype) -> None:
    """Casts what autocast would cast in every batch; `made_ready` puts the float32 tensors back."""
    for module in (backbone.trunk, backbone.pool, backbone.head):
        for part in module.modules() if module is not None else ():
            if isinstance(part, nn.Conv2d) or type(part) is nn.Linear:
                for parameter in part.parameters(recurse=False):
                    parameter.data = parameter.data.to(dtype)


def _compile_now(forward: Forward, work: Work) -> None:
    """Compiles for the one shape of `work`, here and not in all the threads at once."""
    size_px = work.backbone.preprocessing.geometry.size_px
    try:
        # torch gives up after 8 networks that share a line of code, and all of ours begin in Network.forward
        limits = torch._dynamo.config.patch(recompile_limit=2**16, accumulated_recompile_limit=2**16)
        with limits, inference(work.device):  # the zeros too: code compiled for other tensors is no use for inference's
            zeros = torch.zeros(work.batch_size, 3, *size_px, device=work.device)
            forward(zeros.contiguous(memory_format=torch.channels_last))
    except Exception as error:  # compilers raise whatever they stumble on
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EngineError(f"{work.backbone.name!r} cannot be compiled: {reason} Use --engine torch.") from error
