"""Fine-tuning: backbones and a linear head on their features trained together with cross-entropy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.backbones.concat import concat
from richrep.backbones.run_model import attach_head
from richrep.data.augment import RandomView
from richrep.data.split import Split
from richrep.errors import RichrepError, unknown_name_message
from richrep.features.manifest import Precision
from richrep.training.batches import Batch, ImageBatches
from richrep.training.early_stop import EarlyStop
from richrep.training.ema import EmaOptions
from richrep.training.head_init import KEPT_HEADS, check_same_classes, make_head
from richrep.training.loop import as_it_is, train
from richrep.training.loop_values import LoopOptions, TrainingProgress, TrainingResult
from richrep.training.losses import cross_entropy_loss
from richrep.training.masks import MaskedParameter, keep_masks, mask_gradients, masked_parameters
from richrep.training.mix import MixOptions, mix_batch
from richrep.training.norms import recompute_norm_statistics, set_training
from richrep.training.optimizers import OptimizerOptions, make_optimizer
from richrep.training.option_checks import check_count, check_training_options
from richrep.training.parameter_groups import GroupOptions, make_parameter_groups
from richrep.training.processes import rank_and_count
from richrep.training.schedules import Schedule

NormLayers: TypeAlias = Literal["train", "eval"]

_CALIBRATION = 50  # batches that the statistics of norm layers are measured on, for schedule-free optimizers


@dataclass(frozen=True)
class FinetuneOptions:
    """How to fine-tune; a value to print, compare and store.

    Attributes:
        epochs: passes over the training images; 0, with a head that is kept, trains nothing.
        batch_size: images of one step, over all processes.
        groups: which parameters decay, and learning rates of head and layers.
        view: random crop and flip of every training image; None trains on the deterministic view.
        label_smoothing: in [0, 1). mix: mixup and CutMix.
        norm_layers: "train" normalises by the batch and updates the statistics, "eval" keeps those of pretraining.
        freeze_trunk: only the head trains; the trunk is in evaluation mode, and no state on disk holds it.
        ema_decay: of the averaged weights that are evaluated and kept; None keeps the last.
        accumulate: parts in which a batch goes through the network. clip_norm: largest norm of the gradient.
        early_stop: evaluations on val without a rise before training stops; None never.
        checkpoint_every: steps between two states on disk; they are also written at the ends of epochs.

    Raises:
        RichrepError: a number out of range, or an unknown name.
    """

    epochs: int = 20
    batch_size: int = 64
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: Schedule = field(default_factory=lambda: Schedule("cosine"))
    groups: GroupOptions = field(default_factory=GroupOptions)
    head_init: str = "normal"
    view: RandomView | None = field(default_factory=RandomView)
    label_smoothing: float = 0.0
    mix: MixOptions = field(default_factory=MixOptions)
    norm_layers: NormLayers = "train"
    freeze_trunk: bool = False
    ema_decay: float | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    early_stop: int | None = None
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        check_training_options(self, least_epochs=0 if self.head_init in KEPT_HEADS else 1)
        check_count("early_stop", self.early_stop)
        if self.norm_layers not in get_args(NormLayers):
            raise RichrepError(unknown_name_message("mode of norm layers", self.norm_layers, get_args(NormLayers)))
        if not 0 <= self.label_smoothing < 1:
            raise RichrepError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}.")
        if self.ema_decay is not None:
            EmaOptions(self.ema_decay)  # refuses what is no decay


class FinetuneObjective(nn.Module):
    """Cross-entropy of a backbone with its head.

    Attributes:
        trunk, head: of the backbone; the head pools.
        freeze_trunk: the trunk gets no gradient and stays out of the state dict, so that no state holds it twice.
    """

    def __init__(self, backbone: Backbone, *, label_smoothing: float, freeze_trunk: bool = False) -> None:
        super().__init__()
        assert backbone.head is not None
        self.trunk, self.head = backbone.trunk, backbone.head
        self.label_smoothing, self.freeze_trunk = label_smoothing, freeze_trunk
        if freeze_trunk:
            self.trunk.requires_grad_(False)
            self.register_state_dict_post_hook(_drop_trunk)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_post_hook(_miss_no_trunk)  # type: ignore[no-untyped-call]

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W), labels (B,) or probabilities (B, K) -> mean loss."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_trunk):
            hidden = self.trunk(images)
        return cross_entropy_loss(self.head(hidden), targets, label_smoothing=self.label_smoothing)


def _drop_trunk(module: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, local_metadata: Any) -> None:
    for name in [name for name in state_dict if name.startswith(f"{prefix}trunk.")]:
        del state_dict[name]


def _miss_no_trunk(module: nn.Module, incompatible_keys: Any) -> None:
    kept = [name for name in incompatible_keys.missing_keys if ".trunk." not in f".{name}"]  # also inside an average
    incompatible_keys.missing_keys[:] = kept


@dataclass(frozen=True, eq=False)
class Finetuned:
    """What fine-tuning made.

    Attributes:
        members: copies of the backbones, trained; head: on their features side by side.
    """

    members: tuple[Backbone, ...]
    head: nn.Linear
    result: TrainingResult

    def joined(self, *, class_names: Sequence[str] = ()) -> Backbone:
        """The members as one backbone with the head."""
        return joined(self.members, self.head, class_names=class_names)


def joined(members: Sequence[Backbone], head: nn.Linear, *, class_names: Sequence[str] = ()) -> Backbone:
    """One backbone of `members` (which it shares) with `head` on their features side by side."""
    body = members[0] if len(members) == 1 else concat(*members)
    return attach_head(body, head, class_names=class_names)


def finetune(
    members: Sequence[Backbone],
    split: Split,
    options: FinetuneOptions,
    *,
    seed: int,
    num_steps: int | None = None,
    evaluate: Callable[[Backbone], dict[str, float]] | None = None,
    state_path: Path | None = None,
    device: str | None = None,
    num_workers: int | None = None,
    precision: Precision = "fp32",
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> Finetuned:
    """Copies of `members` and a new head, trained on `split`; several members train jointly under one head (init-cat).

    With `options.freeze_trunk` the head trains alone, on the members as they are.

    Args:
        members: M backbones, which stay as they are.
        split: labelled images; K classes.
        seed: of the head's weights, the order of the images, views, mixing and dropout.
        num_steps: of the optimizer, along the schedule of the epochs of `options`; None means all of them.
        evaluate: scores on val of the backbone as it then is, for progress and early stopping.
        state_path: where the state is kept, and gone on from.

    Raises:
        RichrepError: a head that cannot be taken over, members that need different images, a loss that diverges.

    Source: RRL (https://github.com/TjuJianyu/RRL): fine-tuning of one network and of a concatenation.
    """
    members = [_copy(member) for member in members]
    head = first_head(members, split, options.head_init, seed=seed)
    backbone = joined(members, head)
    frozen = options.freeze_trunk
    objective = FinetuneObjective(backbone, label_smoothing=options.label_smoothing, freeze_trunk=frozen)
    groups = make_parameter_groups(
        objective.trunk,
        objective.head,
        lr=options.optimizer.lr,
        weight_decay=options.optimizer.weight_decay,
        options=options.groups,
    )
    optimizer = make_optimizer(groups, options.optimizer)
    whole = ImageBatches(split, backbone.preprocessing, options.batch_size, seed=seed, view=options.view)
    rank, num_processes = rank_and_count()
    source = replace(whole, rank=rank, num_processes=num_processes)

    def mix(batch: Batch, step: int) -> Batch:
        images, labels = batch
        return mix_batch(images, labels, options.mix, num_classes=split.num_classes, seed=seed, step=step)

    def train_mode(module: nn.Module) -> None:
        set_training(module, norms_in_eval=options.norm_layers == "eval")
        if frozen:
            objective.trunk.eval()

    def masked() -> list[MaskedParameter]:  # now, because the masks must lie where the weights are
        return masked_parameters(objective.trunk, None, backbone.masks)

    def calibrate() -> None:
        device = next(objective.parameters()).device
        some = (whole.batch(step)[0].to(device) for step in range(min(_CALIBRATION, source.steps_per_epoch)))
        recompute_norm_statistics(nn.Sequential(objective.trunk, objective.head), some)

    whole_schedule = options.epochs * source.steps_per_epoch
    result = train(
        objective,
        source,
        optimizer,
        LoopOptions(
            num_steps=num_steps if num_steps is not None else whole_schedule,
            schedule_steps=whole_schedule,
            seed=seed,
            precision=precision,
            device=device,
            num_workers=num_workers,
            accumulate=options.accumulate,
            clip_norm=options.clip_norm,
            early_stop=EarlyStop(options.early_stop) if options.early_stop is not None else None,
            checkpoint_every=options.checkpoint_every,
        ),
        schedule=options.schedule,
        train_mode=train_mode,
        on_gradient=(lambda: mask_gradients(masked())) if backbone.masks and not frozen else None,
        after_step=(lambda: keep_masks(masked(), optimizer)) if backbone.masks and not frozen else None,
        transform=mix if options.mix.mixes else as_it_is,
        ema=EmaOptions(options.ema_decay) if options.ema_decay is not None else None,
        calibrate=calibrate if options.norm_layers == "train" and not frozen else None,
        evaluate=None if evaluate is None else lambda: evaluate(backbone),
        state_path=state_path,
        on_progress=on_progress,
    )
    return Finetuned(tuple(members), head, result)


def first_head(members: Sequence[Backbone], split: Split, mode: str, *, seed: int) -> nn.Linear:
    """The head that training on `split` starts from; `mode` is one of HEAD_INITS.

    Raises:
        RichrepError: heads that are kept are missing, or of other classes than the data set's.
    """
    known = {member.address: member.class_names for member in members if member.class_names}
    if known and mode in KEPT_HEADS:
        check_same_classes({**known, split.dataset: split.class_names})
    width = sum(member.feature_dim for member in members)
    generator = torch.Generator().manual_seed(seed)
    return make_head(width, split.num_classes, mode, members=members, generator=generator)


def _copy(backbone: Backbone) -> Backbone:
    """The backbone with modules of its own; without its head, which the new one replaces."""
    trunk, pool, head = copy.deepcopy((backbone.trunk, backbone.pool, backbone.head))
    return replace(backbone, trunk=trunk, pool=pool, head=head)
