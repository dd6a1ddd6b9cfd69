"""The records of a student: its probe and its head, and how far it is from what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from richrep.evaluation.facts import backbone_facts
from richrep.evaluation.record import Record
from richrep.evaluation.transfer.distill_job import DistillJob, Trained


@dataclass(frozen=True)
class References:
    """What a student is compared with.

    Attributes:
        records: the probes of its teachers, their concatenation last where there are several.
        labels_alone: the probe of the same student trained on labels; None when it was not wanted.
    """

    records: tuple[Record, ...]
    labels_alone: Record | None = None

    def gains(self, accuracy: float) -> dict[str, Any]:
        """Differences of test accuracies; the best teacher is the best on val, because test must not choose."""
        teachers = [record for record in self.records if len(record.backbones) == 1]
        joint = [record for record in self.records if len(record.backbones) > 1]
        best = max(teachers, key=lambda record: record.score("val", "accuracy") or 0.0)
        against = {
            "best_teacher": best,
            "concatenation": joint[-1] if joint else None,
            "labels_alone": self.labels_alone,
        }
        scores = {f"gain_over_{what}": _test(record) for what, record in against.items() if record is not None}
        return {"best_teacher": best.representation} | {what: accuracy - score for what, score in scores.items()}


def student_records(
    job: DistillJob, trained: Trained, probed: Sequence[Record], compared: References | None
) -> list[Record]:
    """The records of `richrep.probe` on the trained student, as those of a distillation; the probe's comes last.

    Val is the score that chose, of a student that never saw val; it is left out where nothing was chosen, because then
    the student was trained on the images of val too.

    Args:
        compared: None leaves the differences out.
    """
    teachers = [match.teacher for match in trained.arm.matches]
    taught = f"distill({'+'.join(teacher.name for teacher in teachers)} -> {job.student.name})"
    name = taught if teachers else f"labels({job.student.name})"
    chosen = {key: value for key, value in trained.chosen.scores.items() if key in ("accuracy", "nll")}
    facts = tuple(backbone_facts(backbone, backbone.name) for backbone in (*teachers, job.student))
    training = {
        "lr": trained.options.optimizer.lr,
        "weight_decay": trained.options.optimizer.weight_decay,
        "steps": trained.made.result.steps,
    }
    records = []
    for record in probed:
        is_head = record.kind == "own-head"
        test = dict(record.metrics["test"])
        if compared is not None and not is_head:
            test |= compared.gains(_test(record))
        changes: dict[str, Any] = {
            "kind": "distill",
            "representation": f"own-head({name})" if is_head else name,
            "backbones": facts,
            "protocol": {**asdict(job.protocol), "name": job.protocol.name, "measured_by": asdict(job.measure)},
            "hyperparameters": training | record.hyperparameters,
            "solver": record.solver
            | {
                "run": job.folder.name,
                "tried": trained.chosen.tried,
                "parts": trained.made.result.parts,
                "teachers": trained.teachers,
                "matched": [match.describe() for match in trained.arm.matches],
                "losses": [round(loss, 6) for loss in trained.made.result.losses],
            },
            "metrics": {**({"val": chosen} if chosen and not is_head else {}), "test": test},
            "elapsed_s": {key: round(value, 3) for key, value in trained.elapsed_s.items()},
            "precision": job.where.precision,
        }
        records.append(Record(**(dict(record) | changes)))
    return records


def _test(record: Record) -> float:
    return record.score("test", "accuracy") or 0.0
