"""Measures on a device that is not the CPU, without an accelerator: `python far_device.py CACHE NAME …` prints a line
of JSON for each protocol. Run by test_other_device.py in a process of its own, since torch takes no device back.

The device "far" is torch's PrivateUse1. Its tensors hold a tensor of the CPU, which computes; but, as on CUDA, an
operation that meets tensors of both devices raises, unless they are single numbers or indices of the CPU.
"""

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from richrep.backbones.addresses import load_backbone
from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.datasets import load_split
from richrep.evaluation import probe as probe_module
from richrep.evaluation.probe import probe
from richrep.evaluation.protocols import make_protocol, make_twin
from richrep.evaluation.record import Record
from richrep.evaluation.search import search as search_module
from richrep.evaluation.search.search import SearchProtocol, search
from richrep.features import block_loop
from richrep.features.engines import choose
from richrep.features.extract import extract_features
from richrep.features.memory import FRUGAL

_REGISTERED: list[torch.library.Library] = []  # what is registered lasts as long as this
_TAKE_INDICES = {"index", "index_put", "index_put_", "_index_put_impl_"}


class FarTensor(torch.Tensor):
    """A tensor of the device "far"."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> "FarTensor":
        laid_out = {"strides": near.stride(), "storage_offset": near.storage_offset(), "dtype": near.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, near.size(), **laid_out, device="far:0")

    def __init__(self, near: torch.Tensor) -> None:
        self.near = near

    def tolist(self) -> Any:
        """As CUDA's tensors do, unlike other subclasses."""
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    name, is_far = func.overloadpacket.__name__, True
    if kwargs.get("device") is not None:
        is_far = torch.device(kwargs["device"]).type == "far"
        kwargs = {**kwargs, "device": "cpu"}
    elif name == "copy_":
        is_far = isinstance(args[0], FarTensor)
    elif not (name in _TAKE_INDICES and isinstance(args[0], FarTensor)) and any(
        one.ndim > 0 and not isinstance(one, FarTensor) for one in tensors
    ):
        raise RuntimeError(f"{func} meets tensors of two devices, {[tuple(one.shape) for one in tensors]}")
    far = {id(one.near): one for one in tensors if isinstance(one, FarTensor)}
    found = func(*tree_map(_near, args), **tree_map(_near, kwargs))

    def back(one: Any) -> Any:
        if not isinstance(one, torch.Tensor) or not is_far:
            return one
        return far[id(one)] if id(one) in far else FarTensor(one)  # what was written to stays the same object

    return tree_map(back, found)


def _near(one: Any) -> Any:
    return one.near if isinstance(one, FarTensor) else one


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> FarTensor:
    return FarTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> FarTensor:
    return FarTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy(to: torch.Tensor, of: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    _near(to).copy_(_near(of))
    return to


def make_device() -> torch.device:
    """The device, from now on and for all of the process: so nothing is done when pytest imports this for doctests."""
    _setup_privateuseone_for_python_backend("far")
    _REGISTERED.append(torch.library.Library("aten", "IMPL"))
    for name, function in (("empty.memory_format", _empty), ("empty_strided", _empty_strided), ("copy_", _copy)):
        _REGISTERED[0].impl(name, function, "PrivateUse1")
    return torch.device("far", 0)


BACKBONES = [make_small_cnn(10, widths=(4, 8)), make_small_cnn(10, widths=(4, 6), seed=1)]
SIZES: dict[str, Any] = {"train_size": 60, "test_size": 40}
QUICK: dict[str, Any] = {
    "cs": (0.1, 10.0),
    "normalizations": ("block-rms", "l2", "pca:4"),
    "temperatures": (0.1, 0.3),
    "ks": (1, 5),
    "trials": 3,
    "repeats": 2,
    "folds": 2,
    "num_train": 40,
    "num_val": 20,
    "epochs": 2,
    "lrs": (0.01, 0.1),
    "c_range": (0.01, 10.0),
}


def quick(name: str) -> Any:
    """The protocol with few candidates."""
    default = make_twin(name) or make_protocol(name)
    fields = getattr(default, "base", default).__dataclass_fields__
    options = {option: value for option, value in QUICK.items() if option in fields}
    return make_twin(name, **options) or make_protocol(name, **options)


def measured(name: str, cache: Path) -> list[Record]:
    """Of a protocol, or of a search."""
    where: dict[str, Any] = {"cache": cache, "device": "cpu"}
    if name == "search":
        chosen = {option: QUICK[option] for option in ("cs", "normalizations")}
        return search(BACKBONES, "digits", protocol=SearchProtocol(**chosen), **where, **SIZES)
    if name == "more features than images":
        return probe([make_small_cnn(10, widths=(4, 80))], "digits", protocol=quick("logistic"), **where, **SIZES)
    return probe(BACKBONES[:1], "digits", protocol=quick(name), views=1, **where, **SIZES)


def refused(far: torch.device) -> int:
    """How many of three operations on tensors of two devices are refused, as on CUDA; what is allowed there works."""
    there = torch.ones(2, 3, device=far)
    assert (there @ there.T).cpu().tolist() == [[3.0, 3.0], [3.0, 3.0]] and there[torch.tensor([0])].device == far
    count = 0
    for mixed in (lambda: there + torch.ones(3), lambda: torch.ones(3)[torch.tensor([1], device=far)], there.numpy):
        try:
            mixed()
        except RuntimeError:
            count += 1
    return count


def extracted() -> dict[str, float]:
    """Relative difference of features that were extracted on the device, and whether the network is back from there."""
    torch.far.get_amp_supported_dtype = lambda: [torch.bfloat16]  # type: ignore[attr-defined]
    # Tensors of inference mode cannot be held by others; without gradients is all that matters of it here.
    block_loop.inference = choose.inference = lambda device: contextlib.nullcontext(torch.set_grad_enabled(False))
    backbone = load_backbone("random/resnet10t", seed=0)
    split, before = load_split("digits", "train").first(40), list(backbone.trunk.parameters())
    plain, there, resized = (
        extract_features(backbone, split, device=device, fast_resize=fast, batch_size=16).features
        for device, fast in (("cpu", False), ("far", False), ("far", True))
    )
    return {
        "there": float((there - plain).norm() / plain.norm()),
        "resized there": float((resized - plain).norm() / plain.norm()),
        "left there": sum(one is not other for one, other in zip(before, backbone.trunk.parameters(), strict=True)),
    }


if __name__ == "__main__":
    far = make_device()
    ways = {  # features lie on the device, or on the CPU and never a second time in better coordinates
        "copied": replace(FRUGAL, device=far, resident=2**30),
        "by the block": replace(FRUGAL, device=far, resident=0, rotated=2**10),
    }
    print(json.dumps({"name": "two devices", "refused": refused(far)}))
    print(json.dumps({"name": "extraction"} | extracted()))
    torch.set_grad_enabled(True)
    kept = probe_module.choose_budget
    for name in sys.argv[2:]:
        found = {"near": measured(name, Path(sys.argv[1]))}
        for way, memory in ways.items():
            probe_module.choose_budget = search_module.choose_budget = lambda *_, chosen=memory: chosen
            try:
                found[way] = measured(name, Path(sys.argv[1]))
            finally:
                probe_module.choose_budget = search_module.choose_budget = kept
        scores = {way: [(r.hyperparameters, r.metrics["test"]) for r in records] for way, records in found.items()}
        print(json.dumps({"name": name} | scores), flush=True)
