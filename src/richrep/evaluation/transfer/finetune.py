"""Fine-tuning as a measurement: choose on val, train on train and val, keep the model, score test once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import JsonValue

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.backbones.run_model import add_records, check_can_be_kept, save_run_model
from richrep.data.split import Dataset
from richrep.errors import DivergedError, RichrepError
from richrep.evaluation.environment import describe_environment
from richrep.evaluation.facts import backbone_facts, plain_dataset_facts
from richrep.evaluation.metrics import score
from richrep.evaluation.record import Record
from richrep.evaluation.record_store import save_record
from richrep.evaluation.task import Task, load_members, make_task
from richrep.evaluation.transfer import FINETUNE_PROTOCOLS, by_name
from richrep.evaluation.transfer.as_is import check_heads
from richrep.evaluation.transfer.cells import ChosenCell, cell_name, choose_cell, key_of, leave_out
from richrep.evaluation.transfer.finetune_default import DEFAULT
from richrep.evaluation.transfer.protocol import FinetuneProtocol
from richrep.evaluation.transfer.runs import (
    Where,
    finetune_run_options,
    finished_record,
    method_of,
    run_name,
    select_rows,
    step_reports,
)
from richrep.evaluation.transfer.scoring import own_logits, quick_scores
from richrep.features.forward import choose_device
from richrep.features.usable import OnFailure
from richrep.training.batches import count_steps
from richrep.training.devices import make_accelerator
from richrep.training.finetune import Finetuned
from richrep.training.finetune import finetune as train_backbones
from richrep.training.processes import on_main, rank_and_count
from richrep.training.run_folder import RunFolder, open_run
from richrep.training.trackers import check_tracker


def finetune(
    backbones: Sequence[str | Backbone],
    dataset: str | Dataset,
    *,
    protocol: FinetuneProtocol | str = DEFAULT,
    joint: bool = False,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    data_root: Path | str | None = None,
    keep_selected: bool = False,
    where: Where | None = None,
    on_record: Callable[[Record], None] | None = None,
    on_failure: OnFailure | None = None,
) -> list[Record]:
    """Test scores of every backbone fine-tuned alone, or with `joint` of all together under one head (init-cat).

    Every result is a run below `where.out`, whose model is the backbone `run:NAME`. A run that was stopped goes on
    from its last state, a finished one gives its record again.

    Args:
        backbones: addresses, or loaded backbones. dataset: an address, or a loaded data set.
        protocol: a member of FINETUNE_PROTOCOLS or its name, or one changed by `dataclasses.replace`.
        seed: decides val (when the data set stores none), the head's first weights, order and views of the images.
        train_size, test_size: the first so many images of each part; None means all.
        keep_selected: also keep the chosen cell's network trained on train alone, as `run:NAME/selected`, for whatever
            chooses on val later. With several cells it is there and is always kept; with one it is a training more.
        on_record: called with each record as soon as it is measured and saved.
        on_failure: called with representation and reason when training diverges, and the others go on. Without it, or
            when nothing is measured, it is an error.

    Raises:
        RichrepError: an address, a checkpoint, the data set or an option cannot be used; the message says which.
        DivergedError: no learning rate gave a finite loss.
    """
    where, protocol = where or Where(), by_name(protocol, FINETUNE_PROTOCOLS)
    check_tracker(where.tracker)
    make_accelerator(where.device, where.precision)  # refuses what cannot train, joins the processes of torchrun
    members = load_members(backbones, seed=seed)
    check_can_be_kept(members)
    task = make_task(dataset, data_root=data_root, train_size=train_size, test_size=test_size)
    protocol.cells(task.dataset.name)  # refuses numbers out of range before anything is trained
    if joint and len(members) < 2:
        raise RichrepError("Joint training (init-cat) trains several backbones together: give at least two.")
    check_heads(members, task.trainval, protocol)
    groups = [members] if joint else [[member] for member in members]
    records: list[Record] = []
    for number, group in enumerate(groups):
        name = run_name(
            method_of(group), group, task, protocol.name, seed, where.name, number if len(groups) > 1 else None
        )
        try:
            record = finetune_run(group, task, protocol, seed=seed, where=where, name=name, keep_selected=keep_selected)
        except DivergedError as error:
            if on_failure is not None:
                on_failure(representation_of(group), str(error))
            if on_failure is None or (group is groups[-1] and not records):
                raise
            continue
        records.append(record)
        if on_record is not None:
            on_record(record)
    return records


def representation_of(members: Sequence[Backbone]) -> str:
    """Name of the result for tables: "finetune(resnet20)", "init-cat(resnet20+resnet32)"."""
    return f"{method_of(members)}({'+'.join(member.name for member in members)})"


def finetune_run(
    members: Sequence[Backbone],
    task: Task,
    protocol: FinetuneProtocol,
    *,
    seed: int,
    where: Where,
    name: str,
    keep_selected: bool = False,
) -> Record:
    """The record of one run: `members` fine-tuned together; arguments as of `finetune`, `name` is the run's."""
    options = finetune_run_options(members, task, protocol, seed=seed, precision=where.precision)
    with open_run(where.out, name, options, restart=where.restart) as folder:
        job = _Job(members, task, protocol, seed, where, folder, keep_selected=keep_selected)
        if (found := on_main(lambda: finished_record(folder, where.out))) is not None:
            if keep_selected:
                job.keep_selected(job.choose())
                folder.drop_states()
            return found
        start = time.perf_counter()
        made = None
        while made is None:
            chosen = job.keep_selected(job.choose())
            selected = time.perf_counter()
            try:
                made = job.train_chosen(chosen)
            except DivergedError as error:
                job.leave_out(chosen, error)
        fit_s = time.perf_counter() - selected
        select_s = max(selected - start, chosen.elapsed_s)  # what earlier sessions of a stopped run took counts
        fit_s = max(fit_s, made.result.elapsed_s if job.trains_again else 0.0)
        record = on_main(lambda: job.keep(made, chosen, {"select": select_s, "fit": fit_s}))
        folder.drop_states()
        return record


class _Job:
    """The trainings of one run."""

    def __init__(
        self,
        members: Sequence[Backbone],
        task: Task,
        protocol: FinetuneProtocol,
        seed: int,
        where: Where,
        folder: RunFolder,
        *,
        keep_selected: bool,
    ) -> None:
        protocol = protocol.for_inputs_of(members)
        self.members, self.task, self.protocol = members, task, protocol
        self.seed, self.where, self.folder = seed, where, folder
        self.cells = protocol.cells(task.dataset.name)
        train_rows, val_rows = select_rows(task, fraction=protocol.val_fraction, seed=seed)
        self.train, self.val = task.trainval.take(train_rows), task.trainval.take(val_rows)
        self.selects = len(self.cells) > 1 or protocol.options.early_stop is not None or not protocol.refit
        self.keeps_selected = protocol.refit and (self.selects or keep_selected)
        kept = len(train_rows), len(val_rows)
        scores_val = self.selects or self.keeps_selected
        self.sizes = (*(kept if scores_val else (sum(kept), 0)), len(task.test))
        stored = task.num_stored_train is not None
        drawn = f"{protocol.val_fraction:.0%} of train, per class, seed {seed}"
        self.val_note = ("as stored by the data set" if stored else drawn) if scores_val else "none: one cell"

    @property
    def trains_again(self) -> bool:
        """Whether the kept network is of a training of its own, after those that chose."""
        return self.protocol.refit or not self.selects

    def choose(self) -> ChosenCell:
        """The cell of highest val accuracy; with one cell, that, untried."""
        if not self.selects:
            return ChosenCell(0, {}, 0, {})
        names = [cell_name(cell.optimizer) for cell in self.cells]
        return choose_cell(self.folder, names, lambda index: self._train_cell(index).result)

    def keep_selected(self, chosen: ChosenCell) -> ChosenCell:
        """Saves the chosen cell's network, trained on train alone, where that is wanted and not there yet.

        Without refit the model of the run is that network. Returns the choice with the scores of that network on val,
        which an only cell has not got from choosing.
        """
        if not self.keeps_selected:
            return chosen
        if self.selects:
            if not on_main(self.folder.selected.exists):
                made = self._train_cell(chosen.index)
                on_main(lambda: self._save_selected(made))
            return chosen
        return choose_cell(
            self.folder, [cell_name(self.cells[0].optimizer)], lambda index: self._train_and_keep(index).result
        )

    def _train_and_keep(self, index: int) -> Finetuned:
        """The only cell on train alone; its network is saved before the cell counts as done."""
        made = self._train_cell(index)
        on_main(lambda: self._save_selected(made))
        return made

    def _save_selected(self, made: Finetuned) -> None:
        save_run_model(
            self.folder.selected,
            made.members,
            made.head,
            method=method_of(self.members),
            dataset=self.task.dataset.name,
            class_names=self.task.test.class_names,
            note=f"{self.protocol.name}, trained on train alone, {made.result.steps} steps, seed {self.seed}",
        )

    def train_chosen(self, chosen: ChosenCell) -> Finetuned:
        """The chosen cell trained on train and val, or as it is without refit.

        After an early stop it trains for as many epochs as were best, at the rates that those had.
        """
        if not self.trains_again:
            return self._train_cell(chosen.index)  # from its state file, which holds its last step
        steps = None
        if self.protocol.options.early_stop is not None:
            size = self.cells[chosen.index].batch_size
            epochs = chosen.steps / count_steps(len(self.train), size)
            steps = round(epochs * count_steps(len(self.task.trainval), size))
        return self._train(chosen.index, "final", on_val=False, num_steps=steps)

    def leave_out(self, chosen: ChosenCell, error: DivergedError) -> None:
        """Takes the chosen cell out of the choice; raises the error where there was none."""
        if not (self.selects and self.trains_again):
            raise error
        leave_out(self.folder, cell_name(self.cells[chosen.index].optimizer), error)

    def keep(self, made: Finetuned, chosen: ChosenCell, elapsed_s: dict[str, float]) -> Record:
        """Saves the model as the run's, scores it on test, and saves the record."""
        start, task = time.perf_counter(), self.task
        save_run_model(
            self.folder.model,
            made.members,
            made.head,
            method=method_of(self.members),
            dataset=task.dataset.name,
            class_names=task.test.class_names,
            note=f"{self.protocol.name}, {made.result.steps} steps, seed {self.seed}",
        )
        model = load_backbone(f"run:{self.folder.path}")  # what is scored is what was kept
        try:
            logits, labels = own_logits(model, task.test, device=self.where.device)
        except DivergedError:
            self.folder.drop_model()
            raise
        total = sum(elapsed_s.values()) + time.perf_counter() - start
        record = Record(
            kind=method_of(self.members),
            representation=representation_of(self.members),
            backbones=tuple(backbone_facts(member, member.name) for member in self.members),
            feature_dim=sum(member.feature_dim for member in self.members),
            protocol={**asdict(self.protocol), "name": self.protocol.name},
            hyperparameters=self._chosen_facts(chosen, made),
            solver={
                "tried": chosen.tried,
                "parts": made.result.parts,
                "processes": rank_and_count()[1],
                "run": self.folder.name,
            },
            metrics={
                "val": {key: value for key, value in chosen.scores.items() if key != "step"},
                "test": score(logits, labels, task.test.num_classes),
            },
            elapsed_s={step: round(seconds, 3) for step, seconds in (*elapsed_s.items(), ("total", total))},
            dataset=plain_dataset_facts(task.dataset, task.trainval, task.test, self.sizes, self.val_note),
            seed=self.seed,
            precision=self.where.precision,
            environment=describe_environment(str(choose_device(self.where.device))),
        )
        save_record(record, self.where.out)
        add_records(self.folder.model, [record.id])
        return record

    def _chosen_facts(self, chosen: ChosenCell, made: Finetuned) -> dict[str, JsonValue]:
        optimizer = self.cells[chosen.index].optimizer
        return {
            "lr": optimizer.lr,
            "weight_decay": optimizer.weight_decay,
            "steps": made.result.best_step or made.result.steps,
        }

    def _train_cell(self, index: int) -> Finetuned:
        return self._train(index, key_of(cell_name(self.cells[index].optimizer)), on_val=True)

    def _train(self, index: int, state: str, *, on_val: bool, num_steps: int | None = None) -> Finetuned:
        cell, where = self.cells[index], self.where
        if not on_val:
            cell = replace(cell, early_stop=None)
        on_train = len(self.cells) if self.selects else int(self.keeps_selected)
        total = on_train + self.trains_again
        number = index + 1 if on_val else total

        words = cell_name(cell.optimizer)
        with step_reports(where, self.folder, state, cell=words, number=number, total=total) as report:
            return train_backbones(
                self.members,
                self.train if on_val else self.task.trainval,
                cell,
                seed=self.seed,
                num_steps=num_steps,
                evaluate=(lambda backbone: quick_scores(backbone, self.val, device=where.device)) if on_val else None,
                state_path=self.folder.state(state),
                device=where.device,
                num_workers=where.num_workers,
                precision=where.precision,
                on_progress=report,
            )
