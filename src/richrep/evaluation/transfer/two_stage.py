"""Two-stage fine-tuning: every member fine-tuned alone; then, frozen and side by side, one head on all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import torch
from pydantic import JsonValue

from richrep.backbones.backbone import Backbone
from richrep.backbones.run_model import add_records, save_run_model
from richrep.data.split import Dataset
from richrep.evaluation.environment import describe_environment
from richrep.evaluation.facts import backbone_facts, engine_facts
from richrep.evaluation.metrics import paired_bootstrap_interval, score
from richrep.evaluation.record import Record
from richrep.evaluation.record_store import save_record
from richrep.evaluation.task import ExtractOptions, load_members, make_task
from richrep.evaluation.transfer import FINETUNE_PROTOCOLS, STAGE2_PROTOCOLS, by_name
from richrep.evaluation.transfer.as_is import check_heads
from richrep.evaluation.transfer.ensemble import Ensemble
from richrep.evaluation.transfer.finetune_default import DEFAULT
from richrep.evaluation.transfer.protocol import FinetuneProtocol
from richrep.evaluation.transfer.runs import Where, finished_record
from richrep.evaluation.transfer.stage1 import finetune_members
from richrep.evaluation.transfer.stage2 import JointHead, Stage2, Stage2Protocol, logits_of
from richrep.evaluation.transfer.tuned import Tuned, load_tuned
from richrep.evaluation.transfer.two_stage_plan import Plan, kind_of
from richrep.features.forward import choose_device
from richrep.features.memory import MemoryBudget, choose_budget
from richrep.training.run_folder import RunFolder, open_run
from richrep.training.trackers import check_tracker


def two_stage(
    backbones: Sequence[str | Backbone],
    dataset: str | Dataset,
    *,
    protocol: FinetuneProtocol | str = DEFAULT,
    stage2: Sequence[Stage2Protocol | str] = tuple(STAGE2_PROTOCOLS),
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    data_root: Path | str | None = None,
    memory_limit: int | str | None = None,
    where: Where | None = None,
    before_stage1: Callable[[Mapping[int, str]], None] | None = None,
    on_record: Callable[[Record], None] | None = None,
    **extraction: Unpack[ExtractOptions],
) -> list[Record]:
    """Test scores of the members fine-tuned alone, of the mean of their logits, and of a joint head by each protocol.

    Stage 1 are ordinary runs of `finetune`, so members that were fine-tuned before, or are by other processes now, are
    taken over. Every result of stage 2 is a run as well: the members and one head on their features side by side, as
    the backbone `run:NAME`. What stage 2 chooses, it chooses on val with members trained on train alone.

    Args:
        backbones: two or more, addresses or loaded.
        protocol: of stage 1. stage2: members of STAGE2_PROTOCOLS, or their names; the ensemble, where they start, is
            always measured.
        memory_limit: what fitting may hold beside the features, as of `probe`.
        where: `name` names the members' runs NAME-0, NAME-1, … and those of stage 2 NAME-PROTOCOL; `restart` begins all
            of them anew.
        before_stage1: called with the places of the members whose runs are not finished, and the names of those runs;
            it may train them in other processes, what it leaves is done here.
        extraction: keywords of `extract_features`, for the features of stage 2.

    Returns:
        One record a member, then the ensemble's, then one a protocol. Those of stage 2 hold the gain over the member of
        highest val accuracy, and over the ensemble, with intervals paired on the test images.

    Raises:
        RichrepError: fewer than two different backbones, members that cannot look at the same images where a protocol
            of stage 2 needs that, heads of different classes, or what `finetune` raises.
    """
    where, protocol = where or Where(), by_name(protocol, FINETUNE_PROTOCOLS)
    several = [stage2] if isinstance(stage2, str) else stage2
    seconds = [by_name(one, STAGE2_PROTOCOLS, "protocol of stage 2") for one in several]
    check_tracker(where.tracker)
    memory = choose_budget(memory_limit, choose_device(where.device))
    members = load_members(backbones, seed=seed)
    task = make_task(dataset, data_root=data_root, train_size=train_size, test_size=test_size)
    plan = Plan(tuple(members), task, protocol, seed, where)
    plan.check(seconds)
    check_heads(members, task.trainval, protocol)
    if where.restart:
        plan.begin_anew([Ensemble(), *seconds])
    here = replace(where, restart=False)
    if before_stage1 is not None and (left := plan.unfinished()):
        before_stage1(left)
    tuned = finetune_members(members, plan.member_runs, task, protocol, seed=seed, where=here, on_record=on_record)
    joint = _Joint(plan, tuned, memory, extraction)
    records = [*tuned]
    for chosen in (Ensemble(), *seconds):
        records.append(joint.measure(chosen))
        if on_record is not None:
            on_record(records[-1])
    return records


class _Joint:
    """Stage 2 of one plan, whatever the protocol.

    Attributes:
        records: of the members' runs.
    """

    def __init__(self, plan: Plan, records: Sequence[Record], memory: MemoryBudget, extraction: ExtractOptions) -> None:
        self.plan, self.records, self.memory = plan, records, memory
        self.extraction: ExtractOptions = {"device": plan.where.device, **extraction}

    @cached_property
    def members(self) -> Tuned:
        """Loaded and extracted only where a run is not finished."""
        return load_tuned(self.plan, self.extraction, self.memory)

    def measure(self, stage2: Stage2Protocol) -> Record:
        """The record of one protocol; of a finished run again."""
        plan, where = self.plan, self.plan.where
        with open_run(where.out, plan.joint_run(stage2), plan.joint_options(stage2)) as folder:
            found = finished_record(folder, where.out)
            if found is not None and self._is_of_these_members(found):
                return found
            stage = self._stage(folder)
            start = time.perf_counter()
            made = stage2.fit(stage)
            fit_s = time.perf_counter() - start - made.select_s
            networks = f"{len(plan.members)} networks fine-tuned alone ({plan.protocol.name})"
            save_run_model(
                folder.model,
                self.members.tuned.backbones,
                made.head,
                method=kind_of(stage2),
                dataset=plan.task.dataset.name,
                class_names=plan.task.test.class_names,
                note=f"{stage2.name} of {networks}, seed {plan.seed}",
            )
            record = self._record(stage2, folder, made, fit_s)
            save_record(record, where.out)
            add_records(folder.model, [record.id])
            folder.drop_states()
            return record

    def _is_of_these_members(self, joint: Record) -> bool:
        """False when a member was trained anew since; it may have other weights then."""
        members: Any = joint.solver["members"]
        return [member["record"] for member in members] == [record.id for record in self.records]

    def _stage(self, folder: RunFolder) -> Stage2:
        plan, members = self.plan, self.members
        decays = [float(str(record.hyperparameters["weight_decay"])) for record in self.records]
        return Stage2(
            task=plan.task,
            selected=members.selected,
            tuned=members.tuned,
            train_rows=members.features.train_rows,
            val_rows=members.features.val_rows,
            weight_decay=statistics.median_low(decays),
            seed=plan.seed,
            folder=folder,
            memory=self.memory,
            device=plan.where.device,
            num_workers=plan.where.num_workers,
            precision=plan.where.precision,
            on_progress=plan.where.on_progress,
        )

    def _record(self, stage2: Stage2Protocol, folder: RunFolder, made: JointHead, fit_s: float) -> Record:
        plan, members, kind = self.plan, self.members, kind_of(stage2)
        num_classes = plan.task.test.num_classes
        logits = logits_of(made.head, members.test.features)
        return Record(
            kind=kind,
            representation=f"{kind}({'+'.join(member.name for member in plan.members)})",
            backbones=tuple(backbone_facts(member, member.name) for member in plan.members),
            feature_dim=members.test.feature_dim,
            protocol={**asdict(stage2), "name": stage2.name, "stage1": asdict(plan.protocol)},
            hyperparameters=made.hyperparameters,
            solver={
                "run": folder.name,
                "members": self._member_facts(),
                "val": "chosen and scored with members and heads trained on train alone",
                **made.solver,
            },
            metrics={
                "val": score(made.val_logits, members.val_labels, num_classes),
                "test": score(logits, members.test.labels, num_classes)
                | self._gains(kind, logits.argmax(1) == members.test.labels),
            },
            elapsed_s=self._elapsed(made.select_s, fit_s),
            dataset=members.features.facts,
            seed=plan.seed,
            precision=plan.where.precision,
            environment=describe_environment(str(choose_device(plan.where.device)))
            | engine_facts([*members.features.trainval, *members.features.test]),
        )

    def _member_facts(self) -> list[JsonValue]:
        """What became of each member in stage 1."""
        members = self.members
        found = zip(self.plan.member_runs, self.records, members.val_accuracy, members.member_correct, strict=True)
        return [
            {
                "run": run,
                "record": record.id,
                "hyperparameters": record.hyperparameters,
                "val_accuracy": val_accuracy,
                "test_accuracy": float(correct.double().mean()),
            }
            for run, record, val_accuracy, correct in found
        ]

    def _gains(self, kind: str, correct: torch.Tensor) -> dict[str, Any]:
        """Differences in test accuracy to the best member by val, and to the mean of the members' logits."""
        members = self.members
        best = max(range(len(members.val_accuracy)), key=members.val_accuracy.__getitem__)
        over_best = _gain("gain_over_best_member", correct, members.member_correct[best])
        over_mean = _gain("gain_over_ensemble", correct, members.mean_correct) if kind != "ensemble" else {}
        return over_best | {"best_member": f"finetune({self.plan.members[best].name})"} | over_mean

    def _elapsed(self, select_s: float, fit_s: float) -> dict[str, float]:
        """Seconds by step; "members" is stage 1, the extraction is the one that served all of stage 2."""
        stage1_s = sum(record.elapsed_s.get("total", 0.0) for record in self.records)
        steps = {"members": stage1_s, "extract": self.members.elapsed_s, "select": select_s, "fit": fit_s}
        return {name: round(value, 3) for name, value in (steps | {"total": sum(steps.values())}).items()}


def _gain(name: str, correct: torch.Tensor, other: torch.Tensor) -> dict[str, Any]:
    """The difference in accuracy, and its interval, paired on the same images."""
    low, high = paired_bootstrap_interval(correct, other)
    return {name: float(correct.double().mean() - other.double().mean()), f"{name}_ci95": [low, high]}
