"""The second stage of rich representations (RRL): a short SGD training of the averaged heads on random crops."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from richrep.backbones.backbone import Backbone
from richrep.data.augment import RandomView
from richrep.data.split import Split
from richrep.evaluation.transfer.cells import CellProgress
from richrep.evaluation.transfer.stage2 import JointHead, Stage2
from richrep.training.finetune import Finetuned, FinetuneOptions, finetune
from richrep.training.loop_values import TrainingProgress
from richrep.training.optimizers import OptimizerOptions
from richrep.training.parameter_groups import GroupOptions
from richrep.training.schedules import Schedule

_CIFAR_EPOCHS = {"cifar10": 2, "cifar100": 2}
_CIFAR_VIEWS = dict.fromkeys(("cifar10", "cifar100"), RandomView(scale=(0.8, 1.0)))


def _options() -> FinetuneOptions:
    return FinetuneOptions(
        epochs=1,  # INAT18
        batch_size=256,  # 1 process of 256 (CIFAR), 8 of 32 (INAT18)
        optimizer=OptimizerOptions("sgd", lr=0.001, momentum=0.9, nesterov=True),
        schedule=Schedule("constant"),  # steps of epochs that it never reaches
        groups=GroupOptions(decay_norms=False, decay_biases=True),  # --wd_skip_bn
        head_init="cat-weights",
        view=RandomView(scale=(0.08, 1.0)),
        freeze_trunk=True,
    )


@dataclass(frozen=True)
class RrlTwoStage:
    """Two-stage fine-tuning of RRL: the averaged heads trained by SGD for 1 or 2 epochs of random crops, no norm.

    Nothing is chosen: the weight decay is that of stage 1. The score on val is that of a head trained in the same way
    on train alone, on members trained on train alone.

    Attributes:
        options: of the training; the weight decay is replaced.
        epochs_of, views_of: by the name of the data set, in place of those of `options`.

    Source: TjuJianyu/RRL, two-stage scripts (exp_mode lineareval, headinit cat_weights). Differs: never a norm in front
    of the head (their CIFAR scripts for 4 and more networks put a fresh one there, so that the first logits are no
    longer the ensemble's); weight decay as chosen on val for stage 1, where theirs pairs two grids and picks on test.
    """

    name: str = "rrl-two-stage"
    options: FinetuneOptions = field(default_factory=_options)
    epochs_of: Mapping[str, int] = field(default_factory=_CIFAR_EPOCHS.copy)
    views_of: Mapping[str, RandomView] = field(default_factory=_CIFAR_VIEWS.copy)
    trains_on_images: ClassVar[bool] = True

    def fit(self, stage: Stage2) -> JointHead:
        """The head trained on train and val."""
        options = self.options_for(stage.task.dataset.name, weight_decay=stage.weight_decay)
        start = time.perf_counter()
        train = stage.task.trainval.take(stage.train_rows)
        tried = self._train(stage, stage.selected.backbones, train, options, 1)
        val_logits = stage.val_logits(tried.head)
        select_s = time.perf_counter() - start
        made = self._train(stage, stage.tuned.backbones, stage.task.trainval, options, 2)
        lr, steps = options.optimizer.lr, made.result.steps
        chosen = {"lr": lr, "weight_decay": stage.weight_decay, "steps": steps}
        return JointHead(made.head, val_logits, chosen, {"parts": made.result.parts}, select_s)

    def options_for(self, dataset: str, *, weight_decay: float) -> FinetuneOptions:
        """The options of the training on `dataset`."""
        return replace(
            self.options,
            epochs=self.epochs_of.get(dataset, self.options.epochs),
            view=self.views_of.get(dataset, self.options.view),
            optimizer=replace(self.options.optimizer, weight_decay=weight_decay),
        )

    def _train(
        self, stage: Stage2, members: Sequence[Backbone], split: Split, options: FinetuneOptions, number: int
    ) -> Finetuned:
        """Training `number` of the run: 1 for the score on val, 2 for the head that is kept."""

        def report(progress: TrainingProgress) -> None:
            if stage.on_progress is not None:
                stage.on_progress(CellProgress(stage.folder.name, "joint head", number, 2, progress))

        return finetune(
            members,
            split,
            options,
            seed=stage.seed,
            state_path=stage.folder.state(f"head{number}"),
            device=stage.device,
            num_workers=stage.num_workers,
            precision=stage.precision,
            on_progress=report,
        )
