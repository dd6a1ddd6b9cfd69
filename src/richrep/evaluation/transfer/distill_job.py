"""The trainings of one student: under its teachers, and on labels alone; each with the same grid, steps and views."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from richrep.backbones.backbone import Backbone
from richrep.backbones.run_model import attach_head
from richrep.errors import DivergedError, FeatureError
from richrep.evaluation.metrics import accuracy, nll
from richrep.evaluation.protocols.logistic import LogisticProtocol
from richrep.evaluation.task import Task
from richrep.evaluation.transfer.cells import ChosenCell, cell_name, choose_cell, key_of, leave_out
from richrep.evaluation.transfer.protocol import DistillProtocol
from richrep.evaluation.transfer.runs import Where, select_rows, step_reports
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_features
from richrep.features.forward import choose_device
from richrep.features.memory import choose_budget
from richrep.features.progress import ProgressCallback
from richrep.training.distill import Distilled, DistillOptions, distill
from richrep.training.run_folder import RunFolder
from richrep.training.teachers import Match, teacher_outputs

_C, _NORMALIZATION = "probe_c", "probe_normalization"  # of the probe, beside the scores of a student on val


@dataclass(frozen=True)
class Arm:
    """What a student is trained on: its teachers, or labels alone where there are none."""

    matches: tuple[Match, ...]

    @property
    def prefix(self) -> str:
        """Before the names of its trainings."""
        return "" if self.matches else "labels alone, "

    def of(self, options: DistillOptions) -> DistillOptions:
        """The options of a cell for this arm; the head for the labels is kept where there are only labels."""
        return options if self.matches else replace(options, label_weight=1.0, heads="average")


@dataclass(frozen=True, eq=False)
class Trained:
    """A student after the training that counts.

    Attributes:
        options: of the chosen cell. teachers: how their outputs came about, in words.
    """

    arm: Arm
    made: Distilled
    chosen: ChosenCell
    options: DistillOptions
    teachers: str
    elapsed_s: dict[str, float] = field(default_factory=dict)

    def model(self, name: str) -> Backbone:
        """The student, under a name, with the head that is left."""
        student = replace(self.made.student, name=name, sha256="")
        return student if self.made.head is None else attach_head(student, self.made.head)


@dataclass
class DistillJob:
    """Everything that the trainings of one student share."""

    student: Backbone
    task: Task
    protocol: DistillProtocol
    measure: LogisticProtocol
    seed: int
    where: Where
    folder: RunFolder
    cache: FeatureCache | None
    on_extract: ProgressCallback | None
    labels_alone: bool

    @cached_property
    def cells(self) -> list[DistillOptions]:
        """The grid."""
        return self.protocol.cells(self.task.dataset.name)

    @cached_property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows (train, val) of trainval, as those of the probe."""
        return select_rows(self.task, fraction=self.measure.val_fraction, seed=self.seed)

    @property
    def selects(self) -> bool:
        """Whether anything is chosen on val."""
        return len(self.cells) > 1 or not self.protocol.refit

    @property
    def trains_again(self) -> bool:
        """Whether the kept student is of a training of its own, after those that chose."""
        return self.protocol.refit or not self.selects

    def run(self, arm: Arm) -> Trained:
        """The arm's cells on train, scored on val; the best of them on train and val, or as it is without refit."""
        start = time.perf_counter()
        outputs = self._outputs(arm)
        extract_s = time.perf_counter() - start
        names = [f"{arm.prefix}{cell_name(cell.optimizer)}" for cell in self.cells]
        made = None
        while made is None:
            chosen = ChosenCell(0, {}, 0, {})
            if self.selects:
                chosen = choose_cell(
                    self.folder, names, lambda i: self._train(arm, i, names[i], outputs, on_val=True).result
                )
            selected, name = time.perf_counter(), names[chosen.index]
            if not self.trains_again:  # from its state file, which holds its last step
                made = self._train(arm, chosen.index, name, outputs, on_val=True)
                continue
            final = f"{arm.prefix}final, {name}"
            try:
                made = self._train(arm, chosen.index, final, outputs, on_val=False)
            except DivergedError as error:
                if not self.selects:
                    raise
                leave_out(self.folder, name, error)
        fit_s = time.perf_counter() - selected
        seconds = {  # what earlier sessions of a stopped run took counts
            "extract": extract_s,
            "select": max(selected - start - extract_s, chosen.elapsed_s),
            "fit": max(fit_s, made.result.elapsed_s if self.trains_again else 0.0),
        }
        seconds["total"] = sum(seconds.values())
        options = arm.of(self.cells[chosen.index])
        return Trained(arm, made, chosen, options, _teachers_in_words(arm, options), seconds)

    def _outputs(self, arm: Arm) -> list[torch.Tensor] | None:
        """Of the teachers on the cached views of all of train and val; None where they run in every step."""
        options = self.cells[0]
        if not options.cached_views:
            return None
        return teacher_outputs(
            arm.matches,
            self.task.trainval,
            options.view,
            num_views=options.cached_views,
            seed=self.seed,
            cache=self.cache,
            device=self.where.device,
            progress=self.on_extract,
        )

    def _train(
        self, arm: Arm, index: int, name: str, outputs: Sequence[torch.Tensor] | None, *, on_val: bool
    ) -> Distilled:
        """One training; its state lies under `name`."""
        where, per_arm = self.where, len(self.cells) * self.selects + self.trains_again
        number = (index + 1 if on_val else per_arm) + (0 if arm.matches else per_arm)
        total = per_arm * (1 + self.labels_alone)

        with step_reports(where, self.folder, key_of(name), cell=name, number=number, total=total) as report:
            return distill(
                self.student,
                arm.matches,
                self.task.trainval,
                arm.of(self.cells[index]),
                seed=self.seed,
                rows=self.rows[0] if on_val else None,
                outputs=outputs,
                evaluate=self._val_scores if on_val else None,
                state_path=self.folder.state(key_of(name)),
                device=where.device,
                num_workers=where.num_workers,
                precision=where.precision,
                on_progress=report,
            )

    def _val_scores(self, student: Backbone) -> dict[str, float]:
        """Accuracy and nll on val of the probe that is fitted on train, on the student's features as they are now."""
        try:
            features = extract_features(student, self.task.trainval, device=self.where.device)
        except FeatureError as error:
            raise DivergedError(
                "Training diverged: the features of the student are not finite any more. Lower the learning rate."
            ) from error
        memory = choose_budget(None, choose_device(self.where.device))
        choice = self.measure.select(features, *self.rows, memory=memory)
        labels = features.labels[torch.as_tensor(self.rows[1])]
        found, chosen = choice.val_logits, choice.hyperparameters
        return {
            "accuracy": accuracy(preds=found.argmax(1), labels=labels),
            "nll": nll(logits=found, labels=labels),
            _C: 1 / (len(self.rows[0]) * chosen["l2"]),
            _NORMALIZATION: float(self.measure.normalizations.index(chosen["normalization"])),
        }

    def probe_of(self, trained: Trained) -> LogisticProtocol:
        """The probe that measures a student: penalty and normalisation as chosen with the one that never saw val.

        The kept student was trained on val too, whose images say nothing about it any more. Where nothing was chosen
        there is no other student, and val must do.
        """
        scores = trained.chosen.scores
        if _C not in scores:
            return self.measure
        name = self.measure.normalizations[int(scores[_NORMALIZATION])]
        return replace(self.measure, cs=(scores[_C],), normalizations=(name,))


def _teachers_in_words(arm: Arm, options: DistillOptions) -> str:
    if not arm.matches:
        return "none"
    views = options.cached_views
    if not views:
        return "run in every step"
    return f"run once on {views} views of every image" if options.view is not None else "run once on every image"
