"""Networks at work: modules made ready for a device and given back as they were, threads to run them, one batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.data.preprocessing import Preprocessing
from richrep.errors import FeatureError, RichrepError
from richrep.features.manifest import Layer
from richrep.features.threads import Workers, worker_threads
from richrep.features.views import Framing, NumberedView

_MAX_FORWARD_THREADS = 8  # more would wait for the interpreter: a small network spends a tenth of its time in Python


def choose_device(device: str | torch.device | None) -> torch.device:
    """`device`, tried out; None means CUDA when there is one, else the CPU.

    Raises:
        RichrepError: torch does not know the device, or it is not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RichrepError(
            f"Device {str(device)!r} cannot be used: {reason}. Name one that is there, such as 'cpu', or leave it out."
        ) from error
    return chosen


@contextlib.contextmanager
def made_ready(backbones: Iterable[Backbone], device: torch.device) -> Iterator[None]:
    """Puts the backbones' modules in evaluation mode, on `device`, channels last; afterwards all is as it was.

    The very tensors of before are put back, so that devices, memory layout and identity are the caller's again. Modules
    must flatten a feature map with `flatten` or `reshape`: `view` does not work on channels-last tensors.
    """
    modules = _modules(backbones)
    parts = [part for module in modules for part in module.modules()]
    training = [(part, part.training) for part in parts]
    parameters = [(part, name, p, p.data, p.grad) for part in parts for name, p in part.named_parameters(recurse=False)]
    buffers = [(part, name, b) for part in parts for name, b in part.named_buffers(recurse=False)]
    try:
        for *_, parameter, _, _ in parameters:
            parameter.grad = None  # or it would move too
        for module in modules:
            _to_device(module.eval(), device)
        yield
    finally:
        for part, name, parameter, data, grad in parameters:
            setattr(part, name, parameter)  # some devices replace it
            parameter.data = data
            parameter.grad = grad
        for part, name, buffer in buffers:
            setattr(part, name, buffer)
        for part, flag in training:
            part.training = flag


def _to_device(module: nn.Module, device: torch.device) -> None:
    """Moves the module, weights channels last: 1.1 to 2 times faster than NCHW on the CPU, CIFAR nets included."""
    module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextlib.contextmanager
def inference(device: torch.device) -> Iterator[None]:
    """No gradients and, whatever the caller has switched on, no autocast."""
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        yield


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """No TF32 and no bfloat16 products, whatever the caller has switched on, by torch's older or newer switches."""
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    with contextlib.ExitStack() as stack:
        stack.enter_context(_products("highest"))
        inherited = [owner.fp32_precision for owner in (torch.backends, cudnn)]
        if set(inherited) == {"none"} and _is_older(lambda: cudnn.allow_tf32):
            flags = cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            stack.enter_context(flags)
        else:
            stack.enter_context(_switched(cudnn, "benchmark", False))
            stack.enter_context(_switched(cudnn, "deterministic", True))
        for part in (cudnn.conv, cudnn.rnn, mkldnn.conv, mkldnn.rnn):  # type: ignore[attr-defined]
            if part.fp32_precision not in ("none", "ieee"):
                stack.enter_context(_switched(part, "fp32_precision", "ieee"))
        yield


def tf32_products() -> contextlib.AbstractContextManager[None]:
    """Products of float32 matrices on CUDA with 10 bits of every factor, summed in float32; on the CPU as ever."""
    return _products("high")


@contextlib.contextmanager
def _products(precision: str) -> Iterator[None]:
    """Products of matrices in the precision of that name."""
    if not _is_older(torch.get_float32_matmul_precision):
        newer = {"highest": "ieee", "high": "tf32"}[precision]
        with (
            _switched(torch.backends.cuda.matmul, "fp32_precision", newer),
            _switched(torch.backends.mkldnn.matmul, "fp32_precision", newer),  # type: ignore[attr-defined]
        ):
            yield
        return
    before = torch.get_float32_matmul_precision()
    if before == precision:  # setting it again would not leave all as it was
        yield
        return
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _is_older(read: Callable[[], object]) -> bool:
    """Whether one of the older switches can be read: torch refuses where a newer one says something else.

    What can be switched by the older is: to export a network torch reads them.
    """
    try:
        read()
    except RuntimeError:
        return False
    return True


@contextlib.contextmanager
def _switched(owner: object, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def forward_threads(backbones: Iterable[Backbone], device: torch.device) -> contextlib.AbstractContextManager[Workers]:
    """Threads to run batches in: one for an accelerator, on the CPU one a core (at most 8).

    On the CPU every thread takes a batch of its own, and its operations share the cores that are left: no operation
    waits for another core. Measured on two cores, MobileNetV2 at 224 px: 105 images/s against 84 with both cores in
    every operation, and 48 against 10 while other programs kept the cores busy. Networks with forward hooks, which may
    keep what they see, run one batch at a time.
    """
    cores = torch.get_num_threads()
    count = 1 if device.type != "cpu" or has_hooks(backbones) else min(cores, _MAX_FORWARD_THREADS)
    return worker_threads(count)


def has_hooks(backbones: Iterable[Backbone]) -> bool:
    """Whether a module of any of them has a forward hook, which may keep or change what it sees."""
    parts = (part for module in _modules(backbones) for part in module.modules())
    return any(part._forward_hooks or part._forward_pre_hooks for part in parts)


def _modules(backbones: Iterable[Backbone]) -> list[nn.Module]:
    return [m for b in backbones for m in (b.trunk, b.pool, b.head) if m is not None]


class Network(nn.Module):
    """The wanted layers of a backbone as one module, from one pass; shares the backbone's modules."""

    def __init__(self, backbone: Backbone, layers: tuple[Layer, ...]) -> None:
        super().__init__()
        self.trunk = backbone.trunk
        self.ends = nn.ModuleList(_end(backbone, layer) for layer in layers)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, H, W) -> (B, D) for each layer, in order."""
        hidden = self.trunk(images)
        return tuple(end(hidden) for end in self.ends)


def _end(backbone: Backbone, layer: Layer) -> nn.Module:
    end = backbone.pool if layer == "features" else backbone.head
    assert end is not None  # a Request for logits is refused without a head
    return end


class NormalizedBatch:
    """One batch on the device: pixels are moved once for each framing, normalised once for each preprocessing of it.

    Args:
        pixels: uint8 (B, H, W, 3) by framing; on the way to CUDA from the moment this is made, if pinned.
        stream: for the way to CUDA, beside the stream that computes; None on other devices.
    """

    def __init__(
        self, pixels: dict[Framing, torch.Tensor], device: torch.device, stream: torch.cuda.Stream | None = None
    ) -> None:
        with torch.cuda.stream(stream):  # does nothing for None
            self._pixels = {f: p.to(device, non_blocking=p.is_pinned()) for f, p in pixels.items()}
            self._arrived = stream.record_event() if stream is not None else None
        self._view: NumberedView | None = None
        self._images: dict[Preprocessing, torch.Tensor] = {}

    def images(self, preprocessing: Preprocessing, view: NumberedView | None = None) -> torch.Tensor:
        """Float32 (B, 3, H, W), channels last in memory. Kept until another view is asked for."""
        if view != self._view:
            self._view, self._images = view, {}
        if preprocessing not in self._images:
            pixels = self._pixels[Framing(preprocessing.geometry, view)]
            if self._arrived is not None:
                here = torch.cuda.current_stream(pixels.device)
                here.wait_event(self._arrived)
                pixels.record_stream(here)  # or its memory might be given to a later batch too early
            self._images[preprocessing] = preprocessing.normalize(pixels)
        return self._images[preprocessing]


def check_shape(output: torch.Tensor, shape: tuple[int, int], *, title: str) -> None:
    """Raises FeatureError when `output` has not the shape (B, D)."""
    if tuple(output.shape) != shape:
        raise FeatureError(
            f"The {title} have shape {tuple(output.shape)} for a batch of {shape[0]} images, expected {shape}. "
            "Pool a feature map to one row an image, and state its width as the backbone's feature_dim or num_classes."
        )
