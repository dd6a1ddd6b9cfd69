"""What a distillation came to, in sentences: the student against its teachers, all of them together, labels alone."""

from __future__ import annotations

from collections.abc import Iterable

from richrep.evaluation.record import Record

_AGAINST = {
    "gain_over_concatenation": "the teachers concatenated",
    "gain_over_labels_alone": "the same student trained on labels alone",
}


def distill_notes(records: Iterable[Record]) -> tuple[str, ...]:
    """One sentence for every student, with differences in points of test accuracy."""
    notes = []
    for record in records:
        test = record.metrics.get("test", {})
        if record.kind != "distill" or "best_teacher" not in test:
            continue
        against = {"gain_over_best_teacher": f"{test['best_teacher']}, its best teacher on val", **_AGAINST}
        gains = [(record.score("test", key), what) for key, what in against.items()]
        compared = [f"{100 * gain:+.2f} to {what}" for gain, what in gains if gain is not None]
        notes.append(f"{record.representation}, seed {record.seed}, in points of test accuracy: {', '.join(compared)}.")
    return tuple(notes)
