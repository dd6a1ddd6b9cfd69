"""Distillation as a measurement: a student against its teachers, all of them together, and labels alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache as once
from pathlib import Path
from typing import Any

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.backbones.random_weights import known_names
from richrep.backbones.run_model import add_records, save_run_model
from richrep.data.split import Dataset
from richrep.errors import DivergedError, FeatureError, RichrepError
from richrep.evaluation.probe import probe
from richrep.evaluation.protocols.logistic import LogisticProtocol
from richrep.evaluation.record import Record
from richrep.evaluation.record_store import load_records, save_record
from richrep.evaluation.task import load_members, make_task
from richrep.evaluation.transfer import DISTILL_PROTOCOLS, by_name
from richrep.evaluation.transfer.distill_default import DEFAULT
from richrep.evaluation.transfer.distill_job import Arm, DistillJob
from richrep.evaluation.transfer.distill_records import References, student_records
from richrep.evaluation.transfer.protocol import DistillProtocol
from richrep.evaluation.transfer.runs import Where, run_name, run_options
from richrep.features.cache import FeatureCache
from richrep.features.progress import ProgressCallback
from richrep.features.usable import OnFailure
from richrep.training.distill import check_heads
from richrep.training.run_folder import RunFolder, open_run
from richrep.training.teachers import Match, choose_matches
from richrep.training.trackers import check_tracker

logger = logging.getLogger(__name__)

_REPORT = "report"


def distill(
    teachers: Sequence[str | Backbone],
    students: Sequence[str | Backbone],
    dataset: str | Dataset,
    *,
    protocol: DistillProtocol | str = DEFAULT,
    measure: LogisticProtocol | None = None,
    labels_alone: bool = True,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    data_root: Path | str | None = None,
    cache: FeatureCache | None = None,
    where: Where | None = None,
    on_record: Callable[[Record], None] | None = None,
    on_extract: ProgressCallback | None = None,
    on_failure: OnFailure | None = None,
) -> list[Record]:
    """Test scores of all teachers, alone and concatenated, and of every student taught by all of them.

    All are measured alike: a logistic probe of frozen features. So is, with `labels_alone`, the same student trained on
    the labels in the same number of steps, with the same schedule, views and grid. Where a head is left it is scored
    too. A student is a run below `where.out`, whose model is the backbone `run:NAME`; a run that was stopped goes on
    from its last state, a finished one gives its records again.

    Args:
        teachers: addresses, or loaded backbones; the data need not be of their classes.
        students: one after the other, each on its own: an architecture (`resnet20`, random weights from the seed), or
            the address of any backbone, which is then where it starts.
        protocol: a member of DISTILL_PROTOCOLS or its name; learning rate and weight decay are chosen by the val
            accuracy of the student's probe.
        measure: the probe. Where val chooses the student's learning rate, the student's penalty and normalisation are
            those of the student that chose, which was not trained on val.
        seed: decides val (when the data set stores none), first weights, order and views of the images.
        train_size, test_size: the first so many images of each part; None means all.
        cache: of features, and of what teachers say of views; None keeps them in memory.
        on_record: called with each record as soon as it is measured and saved.
        on_extract: hears the progress of passes through frozen networks.
        on_failure: called with representation and reason when a student diverges, and the others go on. Without it, or
            when no student is measured, it is an error.

    Raises:
        RichrepError: an address, a checkpoint, the data set or an option cannot be used; the message says which.
        DivergedError: no learning rate gave a finite loss.
    """
    where, measure = where or Where(), measure or LogisticProtocol()
    protocol = by_name(protocol, DISTILL_PROTOCOLS)
    check_tracker(where.tracker)
    loaded = load_members(teachers, seed=seed)
    matches = choose_matches(loaded, protocol.options.loss)
    several = [students] if isinstance(students, str | Backbone) else students
    given = [one if isinstance(one, Backbone) else student_address(one) for one in several]
    learners = load_members(given, seed=seed)
    for learner in learners:
        _check_student(learner, loaded)
    task = make_task(dataset, data_root=data_root, train_size=train_size, test_size=test_size)
    check_heads(matches, task.trainval, protocol.options)
    records: dict[str, Record] = {}

    def keep(record: Record) -> Record:
        if record.id not in records:
            records[record.id] = record
            if on_record is not None:
                on_record(record)
        return record

    def probed(backbones: Sequence[Backbone], by: LogisticProtocol, *, own_head: bool = False) -> list[Record]:
        extraction: dict[str, Any] = {"cache": cache, "device": where.device, "progress": on_extract}
        return probe(backbones, task.dataset, protocol=by, seed=seed, own_head=own_head, **extraction)

    @once
    def references() -> tuple[Record, ...]:  # only when a student is not finished yet, and then once for all
        return tuple(keep(_save(record, where)) for record in probed(loaded, measure))

    measured = 0
    for number, student in enumerate(learners):
        identity = student.sha256 or student.fingerprint
        name = run_name(
            f"distill-{student.architecture}-{identity[:6]}",
            loaded,
            task,
            protocol.name,
            seed,
            where.name,
            number if len(learners) > 1 else None,
        )
        options = run_options("distill", loaded, task, seed, where.precision) | {
            "student": f"{student.address} ({identity[:16]})",
            "student_preprocessing": student.preprocessing.describe(),
            "protocol": protocol.deciding(),
            "measure": asdict(measure),
            "labels_alone": labels_alone,
        }
        with open_run(where.out, name, options, restart=where.restart) as folder:
            if (found := _finished(folder, where)) is None:
                used = protocol.for_inputs_of([student])  # the record states the view that it saw
                job = DistillJob(student, task, used, measure, seed, where, folder, cache, on_extract, labels_alone)
                try:
                    found = _measure(job, matches, references, probed, keep)
                except DivergedError as error:
                    if on_failure is not None:
                        on_failure(f"distill({student.name})", str(error))
                    if on_failure is None or (student is learners[-1] and not measured):
                        raise
                    continue
        measured += 1
        for record in found:
            keep(record)
    return list(records.values())


def student_address(text: str) -> str:
    """`resnet20`, which names no file, as `random/resnet20`; any other address as it is."""
    bare = "/" not in text and ":" not in text and not os.path.exists(text)
    return f"random/{text}" if bare and text in known_names() else text


def _measure(
    job: DistillJob,
    matches: Sequence[Match],
    references: Callable[[], tuple[Record, ...]],
    probed: Callable[..., list[Record]],
    keep: Callable[[Record], Record],
) -> list[Record]:
    """Records of one student: its references, labels alone, then the student, which is compared with those."""
    folder, task, where = job.folder, job.task, job.where
    taught = job.run(Arm(tuple(matches)))
    save_run_model(
        folder.model,
        [taught.made.student],
        taught.made.head,
        method="distill",
        dataset=task.dataset.name,
        class_names=task.test.class_names if taught.made.head is not None else (),
        note=f"{job.protocol.name}, {len(matches)} teachers, {taught.made.result.steps} steps, seed {job.seed}",
    )
    made = list(references())
    compared = References(tuple(made))
    if found := _labels_alone(job, probed):
        made += [keep(_save(record, where)) for record in found]
        compared = References(compared.records, found[-1])
    model = load_backbone(f"run:{folder.path}")  # what is scored is what was kept
    try:
        found = student_records(job, taught, _probed_student(model, job.probe_of(taught), probed), compared)
    except DivergedError:
        folder.drop_model()
        raise
    made += [keep(_save(record, where)) for record in found]
    add_records(folder.model, [record.id for record in found])
    folder.write_done(_REPORT, {"records": [record.id for record in made]})
    folder.drop_states()
    return made


def _labels_alone(job: DistillJob, probed: Callable[..., list[Record]]) -> list[Record]:
    """Of the student on labels alone; none where that is not wanted, or diverges; the taught student is kept."""
    if not job.labels_alone:
        return []
    try:
        alone = job.run(Arm(()))
        found = _probed_student(alone.model(job.student.name), job.probe_of(alone), probed)
        return student_records(job, alone, found, None)
    except DivergedError as error:
        logger.warning("%s on labels alone has no row: %s", job.student.name, error)
        return []


def _probed_student(student: Backbone, measure: LogisticProtocol, probed: Callable[..., list[Record]]) -> list[Record]:
    """Its probe, after its own head where it has one; the last step may have gone too far, its loss still finite."""
    try:
        return probed([student], measure, own_head=True)
    except FeatureError as error:
        raise DivergedError(
            f"Training diverged: the features of {student.name} are not finite any more. Lower the learning rate."
        ) from error


def _save(record: Record, where: Where) -> Record:
    save_record(record, where.out)
    return record


def _finished(folder: RunFolder, where: Where) -> list[Record] | None:
    """The records of a finished run; None when one is gone, and the run is scored again."""
    facts = folder.read_done(_REPORT)
    if facts is None or not folder.model.exists():
        return None
    stored = {record.id: record for record in load_records(where.out)}
    wanted = facts["records"]
    return [stored[name] for name in wanted] if all(name in stored for name in wanted) else None


def _check_student(student: Backbone, teachers: Sequence[Backbone]) -> None:
    if student.origin is None:
        raise RichrepError(
            f"{student.address} is not one network that richrep can lay out again, so it cannot be a student. Give one "
            "of the networks it is made of (of a joint run: its model/member0.safetensors, …), or the name of an "
            "architecture."
        )
    size, largest = student.trunk_parameters, max(teacher.trunk_parameters for teacher in teachers)
    together = sum(teacher.trunk_parameters for teacher in teachers)
    if size > largest:
        logger.warning(
            "The student %s has %d parameters, more than the largest of %d teachers with %d (together %d): one of "
            "them, or several concatenated, may be the smaller network.",
            student.name,
            size,
            len(teachers),
            largest,
            together,
        )
