"""Fine-tuning as a measurement: chosen on val, trained again, kept, scored once; stopped, changed and diverged runs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import richrep
from richrep.backbones.backbone import Backbone
from richrep.backbones.override import override_preprocessing
from richrep.errors import AddressError, CheckpointError, DatasetError, DivergedError, RichrepError
from richrep.evaluation.record import Record
from richrep.evaluation.task import make_task
from richrep.evaluation.transfer import FINETUNE_PROTOCOLS
from richrep.evaluation.transfer.finetune import finetune
from richrep.evaluation.transfer.protocol import FinetuneProtocol
from richrep.evaluation.transfer.runs import Where, select_rows
from richrep.training.finetune import finetune as train
from richrep.training.optimizers import OptimizerOptions
from richrep.training.run_folder import RunFolder
from richrep.training.schedules import Schedule

DEFAULT = FINETUNE_PROTOCOLS["default"]
ONE = replace(
    DEFAULT, lrs=(0.05,), options=replace(DEFAULT.options, epochs=1, batch_size=20, view=None, head_init="default")
)
TWO = replace(ONE, lrs=(0.05, 1e-6))
KILLED = replace(TWO, options=replace(TWO.options, epochs=2, checkpoint_every=2))


def member(seed: int = 0) -> Backbone:
    return override_preprocessing(richrep.load_backbone("random/resnet20", seed=seed), ["size=8"])


def tune(out: Path, protocol: FinetuneProtocol = ONE, *members: Backbone, **more) -> list[Record]:
    where = Where(
        out=out, device="cpu", **{key: more.pop(key) for key in ("name", "restart", "on_progress") if key in more}
    )
    more = {"train_size": 60, "test_size": 20, "data_root": None} | more
    return finetune(members or [member()], "digits", protocol=protocol, where=where, **more)


def weights(record: Record, out: Path) -> list[torch.Tensor]:
    model = richrep.load_backbone(f"run:{out / str(record.solver['run'])}")
    assert model.head is not None
    return [*model.trunk.state_dict().values(), *model.head.state_dict().values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_one_cell_chooses_nothing_and_trains_on_all_of_train(tmp_path: Path) -> None:
    (record,) = tune(tmp_path)
    data = record.dataset
    assert (data.num_train, data.num_val, data.num_test, data.val) == (60, 0, 20, "none: one cell")
    assert record.metrics["val"] == {} and record.solver["tried"] == {}
    assert record.hyperparameters == {"lr": 0.05, "weight_decay": 1e-4, "steps": 3}  # 60 images in batches of 20
    assert (record.kind, record.representation, record.protocol["name"]) == (
        "finetune",
        "finetune(random-resnet20)",
        "default",
    )


def test_a_grid_is_chosen_on_val_and_trained_again_on_train_and_val(tmp_path: Path) -> None:
    (record,) = tune(tmp_path, replace(TWO, options=replace(TWO.options, epochs=4)))
    data = record.dataset
    assert data.num_train + data.num_val == 60 and data.num_val > 0 and data.val == "20% of train, per class, seed 0"
    tried = record.solver["tried"]
    assert set(tried) == {"lr 0.05, weight decay 0.0001", "lr 1e-06, weight decay 0.0001"}
    assert record.score("val", "accuracy") == max(tried.values())
    assert record.hyperparameters["steps"] == 12  # of all 60 images, not of the ones left beside val
    alone = tune(
        tmp_path / "alone", replace(ONE, lrs=(record.hyperparameters["lr"],), options=replace(ONE.options, epochs=4))
    )
    assert same(weights(record, tmp_path), weights(alone[0], tmp_path / "alone"))


def test_without_refit_the_network_of_the_cell_is_kept(tmp_path: Path) -> None:
    (record,) = tune(tmp_path, replace(TWO, refit=False))
    task = make_task("digits", data_root=None, train_size=60, test_size=20)
    model = richrep.load_backbone(f"run:{tmp_path / str(record.solver['run'])}")
    _, val_rows = select_rows(task, fraction=0.2, seed=0)
    val = task.trainval.take(val_rows)
    logits = torch.as_tensor(richrep.extract_features(model, val, layer="logits").features[:])
    accuracy = float((logits.argmax(1) == torch.as_tensor(val.labels)).double().mean())
    assert accuracy == pytest.approx(record.score("val", "accuracy"))


def test_early_stopping_trains_again_for_as_many_epochs_as_were_best(tmp_path: Path) -> None:
    stopped = replace(ONE, lrs=(1e-9,), options=replace(ONE.options, epochs=6, early_stop=1))  # val never rises
    (record,) = tune(tmp_path, stopped)
    assert record.hyperparameters["steps"] == 3  # the first epoch was the best


def test_several_backbones_are_runs_of_their_own_and_jointly_one(tmp_path: Path) -> None:
    members = [member(0), member(1)]
    alone = tune(tmp_path, ONE, *members)
    assert [record.feature_dim for record in alone] == [64, 64] and len({r.solver["run"] for r in alone}) == 2
    (joint,) = tune(tmp_path, ONE, *members, joint=True)
    assert (joint.kind, joint.feature_dim, len(joint.backbones)) == ("init-cat", 128, 2)
    loaded = richrep.load_backbone(f"run:{tmp_path / str(joint.solver['run'])}")
    assert loaded.feature_dim == 128 and loaded.num_classes == 10 and loaded.class_names[:2] == ("0", "1")


def test_a_finished_run_gives_its_record_again_and_trains_nothing(tmp_path: Path) -> None:
    (first,) = tune(tmp_path)
    steps: list[object] = []
    (again,) = tune(tmp_path, on_progress=steps.append)
    assert again == first and steps == []
    (anew,) = tune(tmp_path, restart=True, on_progress=steps.append)
    assert anew.id != first.id and len(steps) == 3 and anew.metrics == first.metrics


def test_changed_options_are_refused_with_their_list(tmp_path: Path) -> None:
    tune(tmp_path, name="mine")
    changed = replace(ONE, lrs=(0.1,), options=replace(ONE.options, label_smoothing=0.1))
    with pytest.raises(RichrepError) as error:
        tune(tmp_path, changed, name="mine", train_size=50)
    for text in (
        "lrs: [0.05] then, [0.1] now",
        "label_smoothing: 0.0 then, 0.1 now",
        "train_images: 60 then, 50 now",
        "--restart",
    ):
        assert text in str(error.value)


def test_pruned_weights_are_zero_in_the_saved_model(tmp_path: Path) -> None:
    given = member()
    name = "layer1.0.conv1.weight"
    parameter = dict(given.trunk.named_parameters())[name]
    mask = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)) > 0.8
    with torch.no_grad():
        parameter.mul_(mask)
    given = replace(given, masks={f"trunk.{name}": mask}, mask_source="file")
    (record,) = tune(tmp_path, ONE, given)
    model = richrep.load_backbone(f"run:{tmp_path / str(record.solver['run'])}")
    trained = dict(model.trunk.named_parameters())[name]
    assert (trained[~mask] == 0).all() and (trained[mask] != parameter[mask]).all()
    assert torch.equal(model.masks[f"trunk.{name}"], mask)


def test_a_cell_that_diverges_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    wild = replace(TWO, lrs=(1e30, 0.05), options=replace(TWO.options, epochs=2))
    (record,) = tune(tmp_path, wild)
    assert (
        record.solver["tried"]["lr 1e+30, weight decay 0.0001"] == "diverged" and record.hyperparameters["lr"] == 0.05
    )


def test_a_chosen_cell_that_diverges_on_train_and_val_gives_way_to_the_next_best(tmp_path: Path, monkeypatch) -> None:
    (plain,) = tune(tmp_path / "plain", TWO)
    best = plain.hyperparameters["lr"]

    def diverge(members, split, options, **more):
        if more["evaluate"] is None and options.optimizer.lr == best:  # the training on train and val
            raise DivergedError("The loss is nan at step 1.")
        return train(members, split, options, **more)

    monkeypatch.setattr("richrep.evaluation.transfer.finetune.train_backbones", diverge)
    (record,) = tune(tmp_path / "given way", TWO)
    assert {best, record.hyperparameters["lr"]} == set(TWO.lrs)
    assert record.solver["tried"][f"lr {best:g}, weight decay 0.0001"] == "diverged"
    selected = richrep.load_backbone(f"run:{tmp_path / 'given way' / str(record.solver['run'])}/selected")
    other = richrep.load_backbone(f"run:{tmp_path / 'plain' / str(plain.solver['run'])}/selected")
    assert selected.fingerprint != other.fingerprint  # it is the network of the cell that counts
    with pytest.raises(DivergedError, match="The loss is nan at step 1"):
        tune(tmp_path / "alone", replace(TWO, lrs=(best,)))


def test_a_backbone_that_diverges_leaves_the_others_going(tmp_path: Path) -> None:
    broken = member()
    with torch.no_grad():
        next(iter(broken.trunk.parameters())).fill_(1e30)
    broken.trunk.eval()
    eval_norms = replace(ONE, options=replace(ONE.options, norm_layers="eval"))
    failures: dict[str, str] = {}
    records = tune(tmp_path, eval_norms, broken, member(1), on_failure=failures.__setitem__)
    assert len(records) == 1 and list(failures) == ["finetune(random-resnet20#1)"]
    with pytest.raises(DivergedError, match="training diverged"):
        tune(tmp_path / "alone", eval_norms, broken, on_failure=failures.__setitem__)


def test_a_network_whose_last_step_went_too_far_is_no_run_to_load(tmp_path: Path) -> None:
    once = replace(ONE.options, epochs=1, batch_size=60, schedule=Schedule())  # one step, whose loss is still finite
    with pytest.raises(DivergedError, match="not finite any more"):
        tune(tmp_path, replace(ONE, lrs=(1e25,), options=once))
    assert not list(tmp_path.glob("*/model")) and not list(tmp_path.glob("*.json"))


def test_a_network_that_cannot_be_kept_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    steps: list[object] = []
    with pytest.raises(CheckpointError, match="is not one network that richrep can lay out again"):
        tune(tmp_path, ONE, replace(member(), origin=None), on_progress=steps.append)
    assert steps == []


def test_nothing_for_val_is_an_error(tmp_path: Path) -> None:
    task = make_task("digits", data_root=None, train_size=60, test_size=10)
    rows = np.unique(task.trainval.labels, return_index=True)[1]
    single = replace(task, trainval=task.trainval.take(rows))
    with pytest.raises(DatasetError, match="no class has two training images"):
        select_rows(single, fraction=0.2, seed=0)


def test_a_run_is_loaded_only_when_it_is_finished(tmp_path: Path) -> None:
    def stop(progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path, name="mine", on_progress=stop)
    with pytest.raises(AddressError, match=r"is not finished\. Give the command that began it again"):
        richrep.load_backbone(f"run:{tmp_path / 'mine'}")


def test_a_schedule_free_run_keeps_what_it_scored(tmp_path: Path) -> None:
    free = replace(ONE, options=replace(ONE.options, optimizer=OptimizerOptions("schedulefree-sgd"), epochs=2))
    (record,) = tune(tmp_path, free)
    model = richrep.load_backbone(f"run:{tmp_path / str(record.solver['run'])}")
    test = make_task("digits", data_root=None, train_size=60, test_size=20).test
    logits = torch.as_tensor(richrep.extract_features(model, test, layer="logits").features[:])
    assert record.score("test", "accuracy") == pytest.approx(
        float((logits.argmax(1) == torch.as_tensor(test.labels)).double().mean())
    )


_KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from richrep.evaluation.transfer import finetune  # all imports before the children are made

sys.path.insert(0, sys.argv[1])
import test_finetune as tests


def start():
    child = os.fork()
    if child == 0:
        tests.tune(Path(sys.argv[2]), tests.KILLED, name="mine")
        os._exit(0)
    return child

killed = 0
for _ in range(3):
    child, delay = start(), random.uniform(0.05, 0.8)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    killed += os.waitpid(child, 0)[1] == signal.SIGKILL
    print("killed after", delay, file=sys.stderr)
assert os.waitpid(start(), 0)[1] == 0
print(killed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")
def test_a_run_killed_at_random_moments_ends_with_the_weights_of_one_never_killed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, Path(__file__).parent, tmp_path / "killed"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1, f"every process was done before it was killed: {done.stderr}"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        (whole,) = tune(tmp_path / "whole", KILLED, name="mine")
    finally:
        torch.set_num_threads(threads)
    (killed,) = richrep.load_records(tmp_path / "killed")
    assert same(weights(whole, tmp_path / "whole"), weights(killed, tmp_path / "killed")), done.stderr
    assert (killed.metrics, killed.hyperparameters, killed.solver) == (
        whole.metrics,
        whole.hyperparameters,
        whole.solver,
    )


def test_the_folder_of_a_run_can_be_asked_for_its_model(tmp_path: Path) -> None:
    (record,) = tune(tmp_path)
    run = RunFolder(tmp_path / str(record.solver["run"]))
    assert run.model.is_dir() and not list((run.path / "states").glob("*.pt"))  # states are dropped
