"""Which engine runs a network: the one asked for, or the fastest.

Either must give features close enough to float32.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

import torch

from richrep.backbones.backbone import Backbone
from richrep.errors import EngineError, unknown_name_message
from richrep.features.engines import ENGINES
from richrep.features.engines.engine import Forward, Work, blamed_on
from richrep.features.forward import inference
from richrep.features.manifest import Layer, Precision

logger = logging.getLogger(__name__)

AUTO = "auto"
# What "auto" tries on the first batch. torch is always there; torch-compile takes minutes to get ready.
AUTO_ORDER = ("torch", "openvino", "onnxruntime")
# What "auto" found, for the life of the process: train and test are computed by the same engine, whoever else disturbs.
_FOUND: dict[Hashable, str] = {}

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
        engine: a key of ENGINES, or "auto": for each network the one of AUTO_ORDER that takes the least time for the
            first batch of those that keep the tolerance of the precision; once found, it stays.
        images_of: the normalised first images (B, 3, H, W) for a backbone; asked only when there is something to check.

    Raises:
        EngineError: no engine can run a network (`error.backbone`) closely enough; the message has the numbers.
    """
    references = {key: _Reference.of(work, images_of) for key, work in works.items() if _needs_check(work, engine)}
    with contextlib.ExitStack() as stack:
        ready: dict[Key, Runner] = {}
        for key, reference in references.items():
            found = key, reference.work.precision, str(reference.work.device)
            name = _FOUND.get(found, engine) if engine == AUTO else engine
            with blamed_on(reference.work.backbone):
                chosen = _fastest(reference, stack) if name == AUTO else _tried(name, reference, stack)
            if name == AUTO:
                _FOUND[found] = "torch" if chosen is None else chosen.engine
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


def _fastest(reference: _Reference, stack: contextlib.ExitStack) -> Runner | None:
    """The fastest engine that is close enough, entered into `stack`; None for torch, which is prepared later.

    Raises EngineError with what was wrong with every candidate.
    """
    name_of = reference.work.backbone.name
    reasons: list[str] = []
    best: tuple[float, str, Runner | None] | None = None
    kept = contextlib.ExitStack()  # holds the best so far
    for name in AUTO_ORDER:
        with contextlib.ExitStack() as own:
            try:
                runner, seconds = _timed(name, reference, own)
            except EngineError as error:
                logger.info("%s: not %s. %s", name_of, name, error)
                reasons.append(str(error))
                continue
            if best is not None and seconds >= best[0]:
                logger.info(
                    "%s: not %s. A batch takes %.3f s, with %s %.3f s.", name_of, name, seconds, best[1], best[0]
                )
                continue
            kept.close()
            kept, best = own.pop_all(), (seconds, name, runner)
    if best is None:
        raise EngineError(" ".join(reasons))
    seconds, name, runner = best
    logger.info("%s: engine %s, %s, the fastest: %.3f s a batch.", name_of, name, reference.work.precision, seconds)
    stack.push(kept)
    return runner


def _timed(name: str, reference: _Reference, own: contextlib.ExitStack) -> tuple[Runner | None, float]:
    """As `_tried`, with the seconds that a batch takes; torch, which casts weights in place, is given back at once."""
    if name != "torch":
        runner = _tried(name, reference, own)
        assert runner is not None
        return runner, reference.seconds(runner.forward)
    with contextlib.ExitStack() as meanwhile:
        if _needs_check(reference.work, name):
            _checked(name, reference, meanwhile)
        return None, reference.seconds(meanwhile.enter_context(ENGINES[name].prepare(reference.work)))


def _tried(name: str, reference: _Reference, own: contextlib.ExitStack) -> Runner | None:
    """The network under the engine `name`, entered into `own`; None for torch, which is prepared later.

    Raises EngineError with the reason against it.
    """
    if name != "torch":
        return Runner(name, _checked(name, reference, own))
    if _needs_check(reference.work, name):
        with contextlib.ExitStack() as meanwhile:
            _checked(name, reference, meanwhile)
    return None


def _checked(name: str, reference: _Reference, own: contextlib.ExitStack) -> Forward:
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
