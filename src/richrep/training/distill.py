"""Distillation: one student body with a linear head for each of several teachers, which the head is held against."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.data.augment import RandomView
from richrep.data.split import Split
from richrep.errors import RichrepError
from richrep.features.forward import choose_device
from richrep.features.manifest import Precision
from richrep.training.batches import ImageBatches
from richrep.training.distill_objective import DistillObjective, average_heads
from richrep.training.head_init import check_same_classes
from richrep.training.loop import train
from richrep.training.loop_values import LoopOptions, TrainingProgress, TrainingResult
from richrep.training.masks import MaskedParameter, keep_masks, mask_gradients, masked_parameters
from richrep.training.norms import recompute_norm_statistics
from richrep.training.optimizers import OptimizerOptions, make_optimizer
from richrep.training.option_checks import check_training_options
from richrep.training.parameter_groups import GroupOptions, make_parameter_groups
from richrep.training.schedules import Schedule
from richrep.training.teachers import Match, TeachersInStep

_CALIBRATION = 50  # batches that the statistics of norm layers are measured on, for schedule-free optimizers


@dataclass(frozen=True)
class DistillOptions:
    """How to distill; a value to print, compare and store.

    Attributes:
        epochs: passes over the training images. batch_size: images of one step.
        groups: which parameters decay, and learning rates of heads and layers.
        head_init: of the heads that give logits: a key of HEAD_INITS, of which those that keep a head keep the
            student's own. Heads that give features start as the identity where the widths agree, else as "default".
        view: random crop and flip of every training image; None trains on the deterministic view.
        num_views: V: epochs cycle through V views of every image, on which teachers run once; 0 draws new views for
            every epoch, on which they run in every step.
        loss: "kl", "hard", "cosine" or "mse" (`teachers.MATCHED`); None chooses by teacher.
        temperature: of "kl", > 0.
        label_weight: of the cross-entropy with the labels, of a head of its own; 0: labels are not used.
        halves: half of every batch is drawn from the images that all teachers classify rightly, half from the others;
            for teachers of the data's classes that run once on cached views, of which the first decides. Labels alone
            draw evenly.
        heads: "discard" them afterwards, or "average" those of the data's classes into one.
        accumulate: parts in which a batch goes through the network. clip_norm: largest norm of the gradient.
        checkpoint_every: steps between two states on disk; they are also written at the ends of epochs.
    """

    epochs: int = 60
    batch_size: int = 64
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: Schedule = field(default_factory=lambda: Schedule("cosine"))
    groups: GroupOptions = field(default_factory=GroupOptions)
    head_init: str = "default"
    view: RandomView | None = field(default_factory=RandomView)
    num_views: int = 10
    loss: str | None = None
    temperature: float = 4.0
    label_weight: float = 0.0
    halves: bool = False
    heads: Literal["discard", "average"] = "discard"
    accumulate: int = 1
    clip_norm: float | None = None
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        check_training_options(self)
        if not 0 < self.temperature < float("inf"):
            raise RichrepError(f"temperature must be a number > 0, got {self.temperature}.")
        if not 0 <= self.label_weight < float("inf"):
            raise RichrepError(f"label_weight must be a number >= 0, got {self.label_weight}.")
        if self.num_views < 0:
            raise RichrepError(f"num_views must be at least 0, got {self.num_views}.")
        if self.halves and not self.cached_views:
            raise RichrepError(
                "Batches of halves need to know beforehand which images the teachers classify rightly, and with "
                "--views 0 they run in every step. Give --views 1 or more."
            )
        if self.heads not in ("discard", "average"):
            raise RichrepError(f"heads must be 'discard' or 'average', got {self.heads!r}.")

    @property
    def cached_views(self) -> int:
        """Views that teachers run on once; 0: they run in every step. No more than there are epochs."""
        return 1 if self.view is None else min(self.num_views, self.epochs)


@dataclass(frozen=True, eq=False)
class Distilled:
    """What distillation made.

    Attributes:
        student: a copy of what was given, trained, without a head.
        head: the average of its heads; None where they were discarded.
    """

    student: Backbone
    head: nn.Linear | None
    result: TrainingResult


def distill(
    student: Backbone,
    matches: Sequence[Match],
    split: Split,
    options: DistillOptions,
    *,
    seed: int,
    rows: np.ndarray | None = None,
    outputs: Sequence[torch.Tensor] | None = None,
    num_steps: int | None = None,
    evaluate: Callable[[Backbone], dict[str, float]] | None = None,
    state_path: Path | None = None,
    device: str | None = None,
    num_workers: int | None = None,
    precision: Precision = "fp32",
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> Distilled:
    """A copy of `student`, trained on the images of `split` to say what all teachers say, each through a head.

    Args:
        student: stays as it is.
        matches: the teachers (`choose_matches`); none trains on labels alone, which then need a weight.
        rows: images of `split` to train on; None means all.
        outputs: of the teachers on all images of `split` (`teacher_outputs`); None runs them in every step.
        num_steps: of the optimizer; None means the epochs of `options`.
        evaluate: scores on val of the student as it is after the last step.
        state_path: where the state is kept, and gone on from.

    Raises:
        RichrepError: nothing to learn from, heads that cannot be averaged or taken over, a loss that diverges.

    Source: Zhang and Bottou, Learning useful representations for shifting tasks and distributions, 2023,
    https://arxiv.org/abs/2212.07346 (DISTILL; its code is not public, so this is a reconstruction), and the synthesis
    phase of https://arxiv.org/abs/2203.15516 (RFC, hard labels and averaged heads).
    """
    check_heads(matches, split, options)
    student = replace(student, trunk=copy.deepcopy(student.trunk), pool=copy.deepcopy(student.pool))
    in_step = TeachersInStep(matches, student.preprocessing) if outputs is None and matches else None
    objective = DistillObjective(
        student,
        matches,
        num_classes=split.num_classes,
        head_init=options.head_init,
        temperature=options.temperature,
        label_weight=options.label_weight,
        seed=seed,
        in_step=in_step,
    )
    student = replace(student, head=None, num_classes=None, class_names=())
    groups = make_parameter_groups(
        objective.body,
        nn.ModuleList(objective.all_heads),
        lr=options.optimizer.lr,
        weight_decay=options.optimizer.weight_decay,
        options=options.groups,
    )
    optimizer = make_optimizer(groups, options.optimizer)
    source = ImageBatches(
        split,
        student.preprocessing,
        options.batch_size,
        seed=seed,
        view=options.view,
        num_views=options.cached_views or None,
        extra=outputs or (),
        also=in_step.also if in_step is not None else (),
        only=rows,
        halves=_all_right(outputs[: len(matches)], split) if options.halves and outputs else None,
    )

    def masked() -> list[MaskedParameter]:  # now, because the masks must lie where the weights are
        return masked_parameters(student.trunk, None, student.masks)

    def calibrate() -> None:
        place = next(objective.parameters()).device
        some = (source.batch(step)[0].to(place) for step in range(min(_CALIBRATION, source.steps_per_epoch)))
        recompute_norm_statistics(objective.body, some)

    total = num_steps if num_steps is not None else options.epochs * source.steps_per_epoch
    with in_step.ready(choose_device(device)) if in_step is not None else nullcontext():
        result = train(
            objective,
            source,
            optimizer,
            LoopOptions(
                num_steps=total,
                seed=seed,
                precision=precision,
                device=device,
                num_workers=num_workers,
                accumulate=options.accumulate,
                clip_norm=options.clip_norm,
                evaluate_every=total,
                checkpoint_every=options.checkpoint_every,
            ),
            schedule=options.schedule,
            on_gradient=(lambda: mask_gradients(masked())) if student.masks else None,
            after_step=(lambda: keep_masks(masked(), optimizer)) if student.masks else None,
            calibrate=calibrate,
            evaluate=None if evaluate is None else lambda: evaluate(student),
            state_path=state_path,
            on_progress=on_progress,
        )
    return Distilled(student, average_heads(objective.all_heads) if options.heads == "average" else None, result)


def _all_right(logits: Sequence[torch.Tensor], split: Split) -> np.ndarray:
    """(N,) bool: whether every teacher's largest logit is that of the label."""
    labels = torch.from_numpy(split.labels)
    return torch.stack([given.argmax(1) == labels for given in logits]).all(0).numpy()


def check_heads(matches: Sequence[Match], split: Split, options: DistillOptions) -> None:
    """Raises RichrepError where there is nothing to learn from, or heads of other classes would be averaged."""
    if not matches and not options.label_weight:
        raise RichrepError("There is nothing to learn from: no teachers, and labels have no weight.")
    if options.heads != "average" and not options.halves:
        return
    what, advice = "Heads can be averaged", "Use --heads discard."
    if options.halves:
        what, advice = "Batches can be halves of what all teachers classify rightly or not", "Use --no-halves."
    for match in matches:
        if match.request.layer != "logits" or match.dim != split.num_classes:
            raise RichrepError(
                f"{what} where all give logits of the {split.num_classes} classes of {split.dataset}; "
                f"{match.describe()}. {advice}"
            )
    known = {match.teacher.address: match.teacher.class_names for match in matches if match.teacher.class_names}
    if known:
        check_same_classes({**known, split.dataset: split.class_names}, advice=advice)
