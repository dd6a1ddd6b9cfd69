"""Which engine runs a network: the one asked for, or the first of an order that is not slower than torch.

Either must give features close enough to float32.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

import torch

from richrep.backbones.backbone import Backbone
from richrep.errors import EngineError, unknown_name_message
from richrep.features.engines import ENGINES
from richrep.features.engines.engine import Forward, Work
from richrep.features.forward import inference
from richrep.features.manifest import Layer, Precision

logger = logging.getLogger(__name__)

AUTO = "auto"
# The order of speed on CPUs (benchmarks/extract.py). torch is always there; the others must beat it on the first batch.
AUTO_ORDER = ("openvino", "onnxruntime", "torch")

# Of ‖features − reference‖ / ‖reference‖, the mean over the images of the first batch; the reference is torch in fp32.
# Measured on real images: fp32 1e-6 and less. bf16: CIFAR ResNets 7e-3, SqueezeNet 1e-2, ViT-S 7e-3, ResNet-50 4e-3,
# while MobileNetV2 loses a digit (4e-2 to 7e-2) and is refused. fp16: MobileNetV2 3e-3, the others 9e-4.
TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}

Key = TypeVar("Key")
ImagesOf = Callable[[Backbone], torch.Tensor]


@dataclass(frozen=True)
class Runner:
    """A network ready to run, and the name of the engine that runs it."""

    engine: str
    forward: Forward


def check_engine(engine: str, precision: str, device: torch.device) -> None:
    """Raises EngineError for an unknown name, or an engine that cannot run so on this machine."""
    if engine not in (AUTO, *ENGINES):
        raise EngineError(unknown_name_message("engine", engine, (AUTO, *ENGINES)))
    if precision not in get_args(Precision):
        raise EngineError(unknown_name_message("precision", precision, get_args(Precision)))
    candidates = AUTO_ORDER if engine == AUTO else (engine,)
    problems = [ENGINES[name].problem(device, precision) for name in candidates]  # type: ignore[arg-type]
    if all(problems):
        raise EngineError(f"No engine computes {precision} here. " * (engine == AUTO) + " ".join(problems))


@contextlib.contextmanager
def runners(works: Mapping[Key, Work], engine: str, images_of: ImagesOf) -> Iterator[dict[Key, Runner]]:
    """Every network of `works` under `engine`, checked on images unless it is torch in fp32, the reference.

    Args:
        engine: a key of ENGINES, or "auto": for each network the first of AUTO_ORDER that keeps the tolerance of the
            precision and takes no longer for the first batch than torch.
        images_of: the normalised first images (B, 3, H, W) for a backbone; asked only when there is something to check.

    Raises:
        EngineError: no engine can run a network closely enough; the message has the numbers.
    """
    references = {key: _Reference.of(work, images_of) for key, work in works.items() if _needs_check(work, engine)}
    with contextlib.ExitStack() as stack:
        ready: dict[Key, Runner] = {}
        for key, reference in references.items():
            chosen = _choose(reference, engine, stack)
            if chosen is not None:
                ready[key] = chosen
        for key, work in works.items():  # last, because torch casts weights that backbones may share
            if key not in ready:
                ready[key] = Runner("torch", stack.enter_context(ENGINES["torch"].prepare(work)))
        yield ready


def relative_error(features: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean of ‖features − reference‖ / ‖reference‖ over the images (B, D) whose reference is finite and not zero.

    Infinite when a feature is not finite; NaN when there is no such image, so that nothing can be compared.

    >>> features, reference = torch.tensor([[3.0, 4.5], [1.0, 0.0]]), torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    >>> round(relative_error(features, reference), 6)  # (0.1 + 0) / 2
    0.05
    """
    norms = reference.norm(dim=1)
    usable = norms.isfinite() & (norms > 0)
    errors = (features - reference)[usable].norm(dim=1) / norms[usable]
    return float(errors.mean().nan_to_num(nan=torch.inf, posinf=torch.inf)) if len(errors) else math.nan


def _needs_check(work: Work, engine: str) -> bool:
    return not (engine == "torch" and work.precision == "fp32")


@dataclass(frozen=True, eq=False)
class _Reference:
    """What torch gives for the first images in float32."""

    work: Work
    images: torch.Tensor
    values: Mapping[Layer, torch.Tensor]

    @classmethod
    def of(cls, work: Work, images_of: ImagesOf) -> _Reference:
        with ENGINES["torch"].prepare(replace(work, precision="fp32")) as forward, inference(work.device):
            images = images_of(work.backbone)
            return cls(work, images, forward(images))

    def error(self, forward: Forward) -> float:
        """Of the worst layer that can be compared; NaN when none can."""
        with inference(self.work.device):
            given = forward(self.images)
        errors = [relative_error(given[layer], value) for layer, value in self.values.items()]
        return max((error for error in errors if not math.isnan(error)), default=math.nan)

    def seconds(self, forward: Forward) -> float:
        """Of one batch; the best of three, because other threads disturb."""
        times = []
        with inference(self.work.device):
            for _ in range(3):
                start = time.perf_counter()
                forward(self.images)
                times.append(time.perf_counter() - start)
        return min(times)


def _choose(reference: _Reference, engine: str, stack: contextlib.ExitStack) -> Runner | None:
    """The first candidate that is close enough, entered into `stack`; None for torch, which is prepared later.

    Raises EngineError with what was wrong with every candidate.
    """
    reasons = []
    for name in AUTO_ORDER if engine == AUTO else (engine,):
        with contextlib.ExitStack() as own:
            try:
                forward = _tried(name, reference, engine, own)
            except EngineError as error:
                if engine == AUTO:
                    logger.info("%s: not %s. %s", reference.work.backbone.name, name, error)
                reasons.append(str(error))
                continue
            if name == "torch":
                return None
            stack.push(own.pop_all())
            return Runner(name, forward)
    raise EngineError(" ".join(reasons))


def _tried(name: str, reference: _Reference, engine: str, own: contextlib.ExitStack) -> Forward:
    """The network under the engine `name`, entered into `own`. Raises EngineError with the reason against it."""
    work = reference.work
    problem = ENGINES[name].problem(work.device, work.precision)
    if problem:
        raise EngineError(problem)
    forward = own.enter_context(ENGINES[name].prepare(work))
    error, tolerance = reference.error(forward), TOLERANCES[work.precision]
    if error > tolerance:
        raise EngineError(
            f"{work.backbone.name!r} in {work.precision} with the engine {name} is {error:.1e} from float32 (relative, "
            f"mean of {len(reference.images)} images), more than the {tolerance:.0e} allowed. Use --precision fp32."
        )
    if engine == AUTO and name != "torch":
        _refuse_slower_than_torch(reference, forward)
    if math.isnan(error):
        logger.warning(
            "%s: engine %s, %s, not checked: nothing to compare, torch in float32 gives for the first %d images "
            "only zeros or values that are not finite.",
            work.backbone.name,
            name,
            work.precision,
            len(reference.images),
        )
    else:
        logger.info("%s: engine %s, %s, relative error %.1e.", work.backbone.name, name, work.precision, error)
    return forward


def _refuse_slower_than_torch(reference: _Reference, forward: Forward) -> None:
    with ENGINES["torch"].prepare(reference.work) as plain:
        torch_s, own_s = reference.seconds(plain), reference.seconds(forward)
    if own_s > torch_s:
        raise EngineError(f"A batch takes {own_s:.3f} s, with torch {torch_s:.3f} s.")
