"""Distillation end to end: rows and their comparison, the run that is kept, going on after a kill, what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import richrep
from richrep.backbones.backbone import Backbone
from richrep.backbones.concat import concat
from richrep.backbones.override import override_preprocessing
from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.augment import RandomView
from richrep.errors import AddressError, DivergedError, RichrepError
from richrep.evaluation.protocols.logistic import LogisticProtocol
from richrep.evaluation.record import Record
from richrep.evaluation.transfer import DISTILL_PROTOCOLS
from richrep.evaluation.transfer.distill import distill, student_address
from richrep.evaluation.transfer.runs import Where
from richrep.features.cache import FeatureCache
from richrep.training.distill import distill as train
from richrep.training.schedules import Schedule

TEACHERS = [make_small_cnn(10, widths=(4, 8), seed=1), make_small_cnn(10, widths=(4, 6), seed=2)]
DEFAULT = DISTILL_PROTOCOLS["default"]
SHORT = replace(
    DEFAULT,
    lrs=(0.05,),
    options=replace(DEFAULT.options, epochs=2, batch_size=40, schedule=Schedule("cosine"), num_views=1),
)
GRID = replace(SHORT, lrs=(0.02, 1e30))


@pytest.fixture(scope="module")
def student() -> Backbone:
    return override_preprocessing(richrep.load_backbone("random/resnet20"), ["size=8"])


@pytest.fixture
def run(student, tmp_path: Path):
    def call(protocol=SHORT, *, students=None, where=None, **options) -> list[Record]:
        return distill(
            options.pop("teachers", TEACHERS),
            students or [student],
            "digits",
            protocol=protocol,
            measure=LogisticProtocol(normalizations=("none",)),
            train_size=60,
            test_size=30,
            where=where or Where(out=tmp_path, name="mine"),
            **options,
        )

    return call


def test_the_student_stands_beside_teachers_concatenation_and_labels_alone(run, tmp_path) -> None:
    heard: list[Record] = []
    protocol = replace(SHORT, options=replace(SHORT.options, heads="average"))
    records = run(protocol, on_record=heard.append, cache=FeatureCache(tmp_path / "cache"))
    a, b = "small-cnn-4-8", "small-cnn-4-6"
    taught = f"distill({a}+{b} -> random-resnet20)"
    assert [(record.kind, record.representation) for record in records] == [
        ("probe", a),
        ("probe", b),
        ("probe", f"cat({a}+{b})"),
        ("distill", "own-head(labels(random-resnet20))"),
        ("distill", "labels(random-resnet20)"),
        ("distill", f"own-head({taught})"),
        ("distill", taught),
    ]
    assert heard == records
    by_name = {record.representation: record for record in records}
    accuracy = {name: record.score("test", "accuracy") for name, record in by_name.items()}
    last = by_name[taught]
    best = max((a, b), key=lambda name: by_name[name].score("val", "accuracy"))
    assert last.metrics["test"]["best_teacher"] == best
    for what, other in (
        ("best_teacher", best),
        ("concatenation", f"cat({a}+{b})"),
        ("labels_alone", "labels(random-resnet20)"),
    ):
        assert last.score("test", f"gain_over_{what}") == pytest.approx(accuracy[taught] - accuracy[other])
    assert last.hyperparameters["lr"] == 0.05 and last.hyperparameters["steps"] == 4 and "l2" in last.hyperparameters
    assert last.solver["teachers"] == "run once on 1 views of every image" and len(last.solver["losses"]) == 2
    assert [backbone.name for backbone in last.backbones] == [a, b, "random-resnet20"]
    assert last.protocol["name"] == "default" and last.protocol["measured_by"]["name"] == "logistic"
    assert "val" not in last.metrics  # nothing was chosen

    loaded = richrep.load_backbone(f"run:{tmp_path / 'mine'}")
    assert (loaded.num_classes, loaded.feature_dim, loaded.parameters) == (10, 64, last.backbones[-1].parameters + 650)
    (probed,) = richrep.probe(
        [loaded], "digits", protocol=LogisticProtocol(normalizations=("none",)), train_size=60, test_size=30, cache=None
    )
    assert probed.score("test", "accuracy") == accuracy[taught]
    stored = {record.id for record in richrep.load_records(tmp_path)}
    assert stored == {record.id for record in records}

    again: list[Record] = []
    assert [record.id for record in run(protocol, on_record=again.append)] == [record.id for record in records]
    assert [record.id for record in again] == [record.id for record in records]


def test_a_rate_that_diverges_is_left_out_and_the_best_on_val_is_trained_again(run, tmp_path, caplog) -> None:
    *_, last = run(GRID, labels_alone=False)
    assert last.solver["tried"]["lr 1e+30, weight decay 0.0001"] == "diverged"
    assert "diverged" in caplog.text and last.hyperparameters["lr"] == 0.02
    assert last.metrics["val"]["accuracy"] == last.solver["tried"]["lr 0.02, weight decay 0.0001"]
    assert last.hyperparameters["steps"] == 4  # 60 images, not the 48 of train, in batches of 40
    # The probe's penalty is that of the student that never saw val: l2 = 1/(N_train C).
    (done,) = (tmp_path / "mine" / "states").glob("lr_0.02*.yaml")
    scores = yaml.safe_load(done.read_text())["scores"]
    assert last.hyperparameters["l2"] == pytest.approx(1 / (last.dataset.num_train * scores["probe_c"]))
    assert len(last.protocol["measured_by"]["cs"]) > 1 and set(last.metrics["val"]) == {"accuracy", "nll"}
    assert richrep.load_backbone(f"run:{tmp_path / 'mine'}").head is None
    assert not list((tmp_path / "mine" / "states").glob("*.pt"))


def test_a_student_whose_last_step_went_too_far_is_no_run_to_load(run, tmp_path, caplog) -> None:
    once = replace(SHORT.options, epochs=1, batch_size=60, schedule=Schedule())  # one step, whose loss is still finite
    with pytest.raises(DivergedError, match=r"the features of mine are not finite any more. Lower the learning rate"):
        run(replace(SHORT, lrs=(1e25,), options=once))
    assert "on labels alone has no row: Training diverged" in caplog.text
    with pytest.raises(AddressError, match="is not finished"):
        richrep.load_backbone(f"run:{tmp_path / 'mine'}")


def test_labels_alone_that_diverge_do_not_cost_the_student(run, monkeypatch, caplog) -> None:
    def diverge(student, matches, *arguments, **options):
        if not matches:
            raise DivergedError("The loss is nan at step 1.")
        return train(student, matches, *arguments, **options)

    monkeypatch.setattr("richrep.evaluation.transfer.distill_job.distill", diverge)
    *_, last = run()
    assert "random-resnet20 on labels alone has no row: The loss is nan at step 1." in caplog.text
    assert last.representation.startswith("distill(") and "gain_over_labels_alone" not in last.metrics["test"]


class Kill(Exception):
    """In place of a signal."""


@pytest.mark.parametrize("training", [2, 3])
def test_a_killed_run_goes_on_to_the_very_same_student(training: int, run, tmp_path) -> None:
    def stop(progress) -> None:
        if (progress.number, progress.training.step) == (training, 3):
            raise Kill

    protocol = replace(SHORT, lrs=(0.02, 0.05))
    first, second = (Where(out=tmp_path / name, name="mine") for name in ("killed", "whole"))
    with pytest.raises(Kill):
        run(protocol, where=replace(first, on_progress=stop), labels_alone=False)
    numbers = set()
    run(protocol, where=replace(first, on_progress=lambda p: numbers.add(p.number)), labels_alone=False)
    assert min(numbers) == training  # what was finished is not trained again
    run(protocol, where=second, labels_alone=False)
    found, expected = (richrep.load_backbone(f"run:{where.out / 'mine'}") for where in (first, second))
    for name, tensor in expected.trunk.state_dict().items():
        assert torch.equal(found.trunk.state_dict()[name], tensor), name


def test_changed_options_are_refused_and_restart_begins_anew(run, tmp_path) -> None:
    run(labels_alone=False)
    warmer = replace(SHORT, options=replace(SHORT.options, temperature=1.0))
    with pytest.raises(RichrepError, match=r"protocol.options.temperature: 4.0 then, 1.0 now.*--restart"):
        run(warmer, labels_alone=False)
    *_, last = run(warmer, labels_alone=False, where=Where(out=tmp_path, name="mine", restart=True))
    assert last.protocol["options"]["temperature"] == 1.0


def test_several_students_are_runs_of_their_own_and_share_what_they_are_compared_with(run, student, tmp_path) -> None:
    other = override_preprocessing(richrep.load_backbone("random/resnet20", seed=7), ["size=8"])
    fresh = replace(SHORT, options=replace(SHORT.options, num_views=0, epochs=1))
    records = run(fresh, students=[student, other], labels_alone=False)
    assert [record.kind for record in records] == ["probe"] * 3 + ["distill"] * 2
    assert [record.solver["run"] for record in records[3:]] == ["mine-0", "mine-1"]
    assert {record.solver["teachers"] for record in records[3:]} == {"run in every step"}
    kept = [richrep.load_backbone(f"run:{tmp_path / name}") for name in ("mine-0", "mine-1")]
    assert kept[0].fingerprint != kept[1].fingerprint


def test_a_student_that_diverges_leaves_the_others(run, student, tmp_path) -> None:
    trunk = copy.deepcopy(student.trunk)
    with torch.no_grad():
        next(trunk.parameters()).fill_(1e30)
    wild = replace(student, trunk=trunk, name="wild")
    failures: dict[str, str] = {}
    records = run(students=[wild, student], labels_alone=False, on_failure=failures.__setitem__)
    assert [record.solver["run"] for record in records if record.kind == "distill"] == ["mine-1"]
    assert list(failures) == ["distill(wild)"] and "diverged" in failures["distill(wild)"]
    with pytest.raises(DivergedError):
        run(students=[wild, student], labels_alone=False)


def test_a_student_larger_than_its_teachers_is_said(run, caplog) -> None:
    run(labels_alone=False)
    assert "random-resnet20 has 269072 parameters, more than the largest of 2 teachers with 420 (together 764)" in (
        caplog.text
    )


def test_what_cannot_be_a_student_or_be_averaged_is_refused_before_any_work(run, student, tmp_path) -> None:
    with pytest.raises(RichrepError, match="is not one network that richrep can lay out again, so it cannot be a stud"):
        run(students=[concat(student, student)])
    seven = [TEACHERS[0], make_small_cnn(7, widths=(4, 6), seed=2)]
    with pytest.raises(RichrepError, match=r"Heads can be averaged where all give logits of the 10 classes of digits"):
        run(replace(SHORT, options=replace(SHORT.options, heads="average")), teachers=seven)
    assert not (tmp_path / "mine").exists()


def test_an_architecture_by_its_bare_name_has_random_weights(tmp_path, monkeypatch) -> None:
    assert student_address("resnet20") == "random/resnet20"
    assert [student_address(other) for other in ("timm/resnet18", "run:x", "a.pth")] == [
        "timm/resnet18",
        "run:x",
        "a.pth",
    ]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet20").touch()
    assert student_address("resnet20") == "resnet20"  # a file is what was meant


def test_the_record_states_the_view_that_small_networks_saw(run) -> None:
    small = replace(SHORT, small_view=RandomView(scale=(0.9, 1.0)), options=replace(SHORT.options, view=RandomView()))
    record = run(small, labels_alone=False)[-1]
    assert record.protocol["options"]["view"]["scale"] == [0.9, 1.0]
