"""Sentences on a distillation."""

from richrep.reports.distill import distill_notes


def test_a_student_is_compared_with_what_was_measured(make_record) -> None:
    student = make_record("a b", 0.7, kind="distill")
    test = student.metrics["test"] | {
        "best_teacher": "a",
        "gain_over_best_teacher": -0.1,
        "gain_over_labels_alone": 0.25,
    }
    student = student.model_copy(update={"metrics": {"test": test}})
    assert distill_notes([make_record("a"), student]) == (
        "cat(a+b), seed 0, in points of test accuracy: -10.00 to a, its best teacher on val, +25.00 to the same "
        "student trained on labels alone.",
    )
