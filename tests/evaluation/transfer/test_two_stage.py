"""Two-stage fine-tuning on the digits, two ResNets of random weights: the whole path, held against its parts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.backbones.override import override_preprocessing
from richrep.data.datasets import load_split
from richrep.data.split import Split, carve_val
from richrep.errors import CheckpointError, DivergedError, RichrepError
from richrep.evaluation.record import Record
from richrep.evaluation.task import make_task
from richrep.evaluation.transfer import STAGE2_PROTOCOLS, stage1
from richrep.evaluation.transfer import two_stage as two_stage_module
from richrep.evaluation.transfer.cells import CellProgress
from richrep.evaluation.transfer.ensemble import Ensemble
from richrep.evaluation.transfer.finetune import finetune
from richrep.evaluation.transfer.finetune_default import DEFAULT
from richrep.evaluation.transfer.protocol import FinetuneProtocol
from richrep.evaluation.transfer.rrl_two_stage import RrlTwoStage
from richrep.evaluation.transfer.runs import Where
from richrep.evaluation.transfer.scoring import own_logits
from richrep.evaluation.transfer.stage2 import Stage2, Stage2Protocol, TunedMembers
from richrep.evaluation.transfer.two_stage import two_stage
from richrep.evaluation.transfer.two_stage_logistic import TwoStageLogistic
from richrep.evaluation.transfer.two_stage_plan import Plan
from richrep.features.extract import extract_features
from richrep.features.memory import FRUGAL
from richrep.training.run_folder import RunFolder, open_run

SIZES = {"train_size": 100, "test_size": 60}
STAGE1 = replace(DEFAULT, lrs=(0.05,), options=replace(DEFAULT.options, epochs=2, batch_size=40, checkpoint_every=1))
RRL = RrlTwoStage(options=replace(RrlTwoStage().options, batch_size=40, checkpoint_every=1))
LOGISTIC = TwoStageLogistic(cs=(0.1, 1.0), normalizations=("none", "block-rms"))


def members_of(count: int = 2, **settings: object) -> list[Backbone]:
    """ResNet-20 of random weights, for images of 8 px."""
    wanted = [f"{key}={value}" for key, value in ({"size": 8, "resize": 8} | settings).items()]
    found = [load_backbone("random/resnet20", seed=seed) for seed in range(count)]
    return [override_preprocessing(one, wanted) for one in found]


def run(
    out: Path,
    *,
    members: list[Backbone] | None = None,
    protocol: FinetuneProtocol = STAGE1,
    stage2: tuple[Stage2Protocol, ...] = (RRL, LOGISTIC),
    on_progress: Callable[[CellProgress], None] | None = None,
    **options,
) -> list[Record]:
    where = Where(out=out, on_progress=on_progress, **{k: options.pop(k) for k in ("name", "restart") if k in options})
    return two_stage(
        members or members_of(),
        "digits",
        protocol=protocol,
        stage2=stage2,
        where=where,
        cache=None,
        **SIZES,
        **options,
    )


@dataclass(frozen=True)
class Done:
    """A finished two-stage fine-tuning, whose first member had been fine-tuned before, with the steps it took."""

    out: Path
    alone: Record
    records: list[Record]
    steps: list[tuple[str, int]]

    def load(self, record: Record, part: str = "") -> Backbone:
        return load_backbone(f"run:{self.out / str(record.solver['run'])}{part}")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    out, steps = tmp_path_factory.mktemp("runs"), []
    alone = finetune(members_of(1), "digits", protocol=STAGE1, where=Where(out=out), **SIZES)[0]
    records = run(out, on_progress=lambda p: steps.append((p.run, p.number)))
    return Done(out, alone, records, steps)


@pytest.fixture(scope="module")
def held_out() -> Split:
    return load_split("digits", "test").first(SIZES["test_size"])


@pytest.fixture(scope="module")
def trainval() -> Split:
    return load_split("digits", "train").first(SIZES["train_size"])


def features_of(members: list[Backbone], split: Split) -> np.ndarray:
    return np.concatenate([np.asarray(extract_features(m, split).features[:], np.float64) for m in members], axis=1)


def test_members_the_ensemble_and_every_protocol_of_stage_2_are_records(done: Done) -> None:
    both = "random-resnet20#1+random-resnet20#2"
    assert [(r.kind, r.representation, r.protocol_name) for r in done.records] == [
        ("finetune", "finetune(random-resnet20#1)", "default"),
        ("finetune", "finetune(random-resnet20#2)", "default"),
        ("ensemble", f"ensemble({both})", "ensemble"),
        ("two-stage", f"two-stage({both})", "rrl-two-stage"),
        ("two-stage", f"two-stage({both})", "two-stage-logistic"),
    ]
    assert [len(r.backbones) for r in done.records] == [1, 1, 2, 2, 2]
    for record in done.records[2:]:
        facts = record.solver["members"]
        assert [fact["run"] for fact in facts] == [r.solver["run"] for r in done.records[:2]]
        assert [fact["record"] for fact in facts] == [r.id for r in done.records[:2]]
        assert [fact["test_accuracy"] for fact in facts] == pytest.approx(
            [r.score("test", "accuracy") for r in done.records[:2]]
        )
        best = max(facts, key=lambda fact: fact["val_accuracy"])
        test = record.metrics["test"]
        assert test["gain_over_best_member"] == pytest.approx(test["accuracy"] - best["test_accuracy"])
        assert test["best_member"] == f"finetune(random-resnet20#{1 + facts.index(best)})"
        mean = done.records[2].score("test", "accuracy")
        if record.kind == "two-stage":
            assert test["gain_over_ensemble"] == pytest.approx(test["accuracy"] - mean)
            low, high = test["gain_over_ensemble_ci95"]
            assert low <= test["gain_over_ensemble"] <= high


def test_the_joint_head_starts_as_exactly_the_mean_of_the_members_logits(done: Done, held_out: Split) -> None:
    first, second, ensemble = done.records[:3]
    logits = [own_logits(done.load(record), held_out, device="cpu")[0] for record in (first, second)]
    joint, labels = own_logits(done.load(ensemble), held_out, device="cpu")
    torch.testing.assert_close(joint, torch.stack(logits).mean(0), rtol=1e-5, atol=1e-5)
    assert ensemble.score("test", "accuracy") == pytest.approx(float((joint.argmax(1) == labels).double().mean()))


@pytest.mark.parametrize("which", [3, 4])
def test_the_joint_model_loads_and_gives_the_scores_of_its_record(which: int, done: Done, held_out: Split) -> None:
    record = done.records[which]
    model = done.load(record)
    assert (model.feature_dim, model.num_classes) == (128, 10)
    logits, labels = own_logits(model, held_out, device="cpu")
    assert record.score("test", "nll") == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-4
    )
    assert not torch.equal(model.head[1].weight, done.load(done.records[2]).head[1].weight)


def test_members_fine_tuned_before_are_taken_over_with_one_training_more(done: Done) -> None:
    first, second = done.records[:2]
    assert first.id == done.alone.id
    # 80 images of train, 100 of train and val, in batches of 40, two epochs: 2·2 steps, 2·3 steps
    assert done.steps.count((first.solver["run"], 1)) == 4
    assert done.steps.count((first.solver["run"], 2)) == 0
    assert done.steps.count((second.solver["run"], 1)) == 4
    assert done.steps.count((second.solver["run"], 2)) == 6
    # the joint head: one epoch of each
    assert done.steps.count((done.records[3].solver["run"], 1)) == 2
    assert done.steps.count((done.records[3].solver["run"], 2)) == 3


def test_the_same_command_again_trains_nothing_and_gives_the_same_records(done: Done) -> None:
    steps: list[object] = []
    assert run(done.out, on_progress=steps.append) == done.records
    assert steps == []


def test_the_logistic_head_is_scikit_learns_chosen_with_networks_that_have_not_seen_val(
    done: Done, trainval: Split, held_out: Split
) -> None:
    record = done.records[4]
    train, val = carve_val(trainval.labels, fraction=0.2, seed=0)
    l2, normalization = record.hyperparameters["l2"], record.hyperparameters["normalization"]
    assert normalization in LOGISTIC.normalizations

    def fit(members: list[Backbone], rows: np.ndarray) -> tuple[LogisticRegression, np.ndarray]:
        x = features_of(members, trainval)
        rms = [np.sqrt((x[rows][:, part] ** 2).mean()) for part in (slice(64), slice(64, None))]
        scale = np.repeat(rms, 64) if normalization == "block-rms" else np.ones(128)
        estimator = LogisticRegression(C=1 / (len(rows) * l2), tol=1e-8, max_iter=5000)
        return estimator.fit(x[rows] / scale, trainval.labels[rows]), scale

    selected = [done.load(r, "/selected") for r in done.records[:2]]
    estimator, scale = fit(selected, train)
    predicted = estimator.predict_log_proba(features_of(selected, trainval)[val] / scale)
    nll = -predicted[np.arange(len(val)), trainval.labels[val]].mean()
    assert record.score("val", "nll") == pytest.approx(nll, rel=0.01)
    tuned = [done.load(r) for r in done.records[:2]]
    estimator, scale = fit(tuned, np.arange(len(trainval)))
    predicted = estimator.predict_log_proba(features_of(tuned, held_out) / scale)
    nll = -predicted[np.arange(len(held_out)), held_out.labels].mean()
    assert record.score("test", "nll") == pytest.approx(nll, rel=0.01)
    assert (record.dataset.num_train, record.dataset.num_val, record.dataset.num_test) == (80, 20, 60)


def test_what_val_scores_are_the_selected_members_not_the_tuned(done: Done, trainval: Split) -> None:
    _, val = carve_val(trainval.labels, fraction=0.2, seed=0)
    logits = [own_logits(done.load(r, "/selected"), trainval.take(val), device="cpu") for r in done.records[:2]]
    mean = torch.stack([one for one, _ in logits]).mean(0)
    nll = float(torch.nn.functional.cross_entropy(mean, logits[0][1]))
    assert done.records[2].score("val", "nll") == pytest.approx(nll, rel=1e-4)


def test_a_learning_rate_of_zero_leaves_the_ensemble(done: Done, tmp_path: Path) -> None:
    still = replace(RRL, options=replace(RRL.options, optimizer=replace(RRL.options.optimizer, lr=0.0)))
    records = run(done.out, stage2=(replace(still, name="still"),))
    assert records[-1].protocol_name == "still"
    for part in ("val", "test"):
        assert records[-1].score(part, "nll") == pytest.approx(records[2].score(part, "nll"), rel=1e-5)


def test_the_numbers_of_the_paper() -> None:
    cifar = STAGE2_PROTOCOLS["rrl-two-stage"].options_for("cifar10", weight_decay=1e-4)
    other = RrlTwoStage().options_for("inaturalist18", weight_decay=1e-5)
    assert (cifar.epochs, other.epochs) == (2, 1)
    assert (cifar.view.scale, other.view.scale) == ((0.8, 1.0), (0.08, 1.0))
    for options, decay in ((cifar, 1e-4), (other, 1e-5)):
        optimizer = options.optimizer
        assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.001, 0.9, True)
        assert (options.batch_size, optimizer.weight_decay, options.schedule.kind) == (256, decay, "constant")
        assert (options.head_init, options.freeze_trunk) == ("cat-weights", True)


def test_without_refit_the_kept_networks_are_the_selected(tmp_path: Path) -> None:
    records = run(tmp_path, protocol=replace(STAGE1, refit=False), stage2=(LOGISTIC,))
    assert not list(tmp_path.glob("*/selected"))
    facts = records[-1].solver["members"]
    assert [fact["val_accuracy"] for fact in facts] == [r.score("val", "accuracy") for r in records[:2]]


def test_a_member_in_other_hands_is_waited_for_after_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stage1, "_POLL_S", 0.05)
    members = members_of()
    task = make_task("digits", data_root=None, **SIZES)
    plan = Plan(tuple(members), task, STAGE1, 0, Where(out=tmp_path))
    other = open_run(tmp_path, plan.member_runs[0], {"of": "another process"})
    other.__enter__()
    order: list[str] = []

    def release() -> None:
        (tmp_path / plan.member_runs[0] / "options.yaml").unlink()
        other.__exit__(None, None, None)

    def on_record(record: Record) -> None:
        order.append(record.solver["run"])
        if len(order) == 1:
            threading.Timer(0.8, release).start()

    records = stage1.finetune_members(
        members, plan.member_runs, task, STAGE1, seed=0, where=Where(out=tmp_path), on_record=on_record
    )
    assert order == [plan.member_runs[1], plan.member_runs[0]]
    assert [record.solver["run"] for record in records] == plan.member_runs
    assert f"Waiting for other processes, which train {plan.member_runs[0]}." in caplog.text


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_two_stage as tests
for stage in ("finetune-", "two-stage-"):
    def kill(progress):
        if progress.run.startswith(stage) and (progress.number, progress.training.step) == (2, 2):
            os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()  # before anything was computed here, so that no thread is lost
    if child == 0:
        tests.run(Path(sys.argv[2]), on_progress=kill)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert list(Path(sys.argv[2]).glob(f"{stage}*/states/*.pt"))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes in the way of Unix")
def test_a_kill_in_either_stage_changes_no_number(done: Done, tmp_path: Path) -> None:
    words = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)]
    killed = subprocess.run(words, capture_output=True, text=True, check=False)
    assert killed.returncode == 0, killed.stderr
    steps: list[str] = []
    records = run(tmp_path, on_progress=lambda p: steps.append(p.run))
    assert records[0].metrics["test"] == done.records[0].metrics["test"]  # there fine-tuned before, without a val
    assert [record.metrics for record in records[1:]] == [record.metrics for record in done.records[1:]]
    assert records[0].score("val", "accuracy") is not None and done.records[0].metrics["val"] == {}
    assert set(steps) == {records[3].solver["run"]}
    assert not list(tmp_path.glob("*/states/*.pt"))


def test_an_end_between_model_and_record_is_made_good(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(record: Record, folder: Path) -> None:
        raise OSError("the end")

    monkeypatch.setattr(two_stage_module, "save_record", fail)
    with pytest.raises(OSError, match="the end"):
        run(tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.glob("*.json"))) == 2
    records = run(tmp_path)
    assert records[0].metrics["test"] == done.records[0].metrics["test"]  # there fine-tuned before, without a val
    assert [record.metrics for record in records[1:]] == [record.metrics for record in done.records[1:]]


def test_other_options_are_refused_and_restart_begins_all_anew(done: Done, tmp_path: Path) -> None:
    other = replace(LOGISTIC, cs=(1.0,))
    with pytest.raises(RichrepError, match=r"other options \(stage2\.cs: \[0\.1, 1\.0\] then, \[1\.0\] now\)"):
        run(done.out, stage2=(other,))
    longer = replace(STAGE1, options=replace(STAGE1.options, epochs=1))
    run(tmp_path, stage2=(LOGISTIC,), name="mine")
    with pytest.raises(RichrepError, match=r"'mine-0'.*protocol\.options\.epochs: 2 then, 1 now"):
        run(tmp_path, stage2=(other,), protocol=longer, name="mine")
    records = run(tmp_path, stage2=(other,), protocol=longer, name="mine", restart=True)
    assert [r.solver["run"] for r in records] == ["mine-0", "mine-1", "mine-ensemble", "mine-two-stage-logistic"]
    assert records[0].protocol["options"]["epochs"] == 1


def test_a_member_trained_anew_makes_the_joint_models_anew(done: Done, tmp_path: Path) -> None:
    shutil.copytree(done.out, tmp_path, dirs_exist_ok=True)
    finetune(members_of(1), "digits", protocol=STAGE1, where=Where(out=tmp_path, restart=True), **SIZES)
    again = run(tmp_path)
    assert [found.id == before.id for found, before in zip(again, done.records, strict=True)] == [False, True] + [
        False
    ] * 3
    assert [member["record"] for member in again[2].solver["members"]] == [again[0].id, again[1].id]
    assert [found.id for found in run(tmp_path)] == [found.id for found in again]


def test_a_member_that_diverges_is_named_when_the_others_are_done(tmp_path: Path) -> None:
    runs: list[str] = []
    wild = replace(STAGE1, lrs=(1e25,))
    with pytest.raises(DivergedError, match=r"Stage 2 needs every member\. random-resnet20#1: .* random-resnet20#2: "):
        run(tmp_path, protocol=wild, on_progress=lambda p: runs.append(p.run))
    assert len(set(runs)) == 2


def test_one_member_or_one_twice_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(RichrepError, match="joins several backbones: give at least two"):
        run(tmp_path, members=members_of(1))
    with pytest.raises(RichrepError, match="random/resnet20 and random/resnet20 are the same network"):
        run(tmp_path, members=[*members_of(1), *members_of(1)])
    assert list(tmp_path.iterdir()) == []


def test_members_that_crop_differently_are_joined_by_features_only(tmp_path: Path) -> None:
    members = [members_of(2)[0], members_of(2, resize=9)[1]]
    with pytest.raises(RichrepError, match=r"rrl-two-stage trains on common random crops.*--preprocess"):
        run(tmp_path, members=members)
    assert list(tmp_path.iterdir()) == []
    records = run(tmp_path, members=members, stage2=(LOGISTIC,))
    assert records[-1].feature_dim == 128
    with pytest.raises(CheckpointError, match="joins networks that resize and crop differently"):
        load_backbone(f"run:{tmp_path / records[-1].solver['run']}")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (tuple("0213456789"), "the same classes in another order: 1: '1' and '2', 2: '2' and '1'"),
        (tuple("012"), "10 classes, .* 3"),
    ],
)
def test_heads_of_other_classes_are_not_averaged(
    names: tuple[str, ...], message: str, done: Done, tmp_path: Path
) -> None:
    one, other = (done.load(record) for record in done.records[:2])
    if len(names) < 10:
        pool, linear = other.head
        other = replace(other, head=torch.nn.Sequential(pool, torch.nn.Linear(linear.in_features, 3)), num_classes=3)
    task = make_task("digits", data_root=None, **SIZES)
    train, val = carve_val(task.trainval.labels, seed=0)
    features = extract_features(one, task.trainval)
    members = TunedMembers([one, replace(other, class_names=names)], features)
    stage = Stage2(task, members, members, train, val, 0.0, 0, RunFolder(tmp_path), FRUGAL)
    with pytest.raises(RichrepError, match=message):
        Ensemble().fit(stage)
