"""Engines: the ways to run networks, and the registry of them."""

from richrep.features.engines.engine import Engine
from richrep.features.engines.onnxruntime_engine import OnnxRuntimeEngine
from richrep.features.engines.openvino_engine import OpenVinoEngine
from richrep.features.engines.torch_engine import TorchEngine

ENGINES: dict[str, Engine] = {
    "torch": TorchEngine(),
    "torch-compile": TorchEngine(compiled=True),
    "openvino": OpenVinoEngine(),
    "onnxruntime": OnnxRuntimeEngine(),
}
