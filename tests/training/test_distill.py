"""Distillation: the loss by hand, many heads, teachers once or in every step, stopping and going on, averaged heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from richrep.backbones.backbone import Backbone
from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.augment import RandomView
from richrep.data.datasets import load_split
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import RichrepError
from richrep.training.batches import ImageBatches
from richrep.training.distill import Distilled, DistillOptions, distill
from richrep.training.distill_objective import DistillObjective, average_heads
from richrep.training.finetune import FinetuneOptions, finetune
from richrep.training.optimizers import OptimizerOptions
from richrep.training.teachers import TeachersInStep, choose_matches, teacher_outputs

SPLIT = load_split("digits", "train").first(40)
VIEW = RandomView(scale=(0.5, 1.0))
OPTIONS = DistillOptions(
    epochs=3, batch_size=16, optimizer=OptimizerOptions("sgd", lr=0.05), view=VIEW, num_views=2, temperature=2.0
)
IMAGES = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4])


def network(seed: int, *, num_classes: int = 10, width: int = 8) -> Backbone:
    return make_small_cnn(num_classes, widths=(4, width), seed=seed)


def objective(student: Backbone, teachers: list[Backbone], loss: str | None, **options) -> DistillObjective:
    """In evaluation mode, so that the loss of a batch is that of its rows; teachers run inside."""
    matches = choose_matches(teachers, loss)
    options = {"num_classes": 10, "head_init": "default", "temperature": 2.0, "label_weight": 0.0, "seed": 0} | options
    made = DistillObjective(student, matches, in_step=TeachersInStep(matches, student.preprocessing), **options)
    return made.eval()


def weights(made: Distilled) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for tensor in made.student.trunk.state_dict().values()])


@torch.no_grad()
def test_the_loss_of_a_batch_is_that_of_its_definition() -> None:
    student, teacher = network(0), network(1)
    features, hidden = student(IMAGES), teacher.trunk(IMAGES)
    for loss in ("kl", "hard", "cosine", "mse"):
        made = objective(student, [teacher], loss)
        mine = made.heads[0](features).double().numpy()
        if loss in ("kl", "hard"):
            theirs = teacher.head(hidden).double().numpy()
            t = 2.0 if loss == "kl" else 1.0
            q = np.exp(mine / t) / np.exp(mine / t).sum(1, keepdims=True)
            p = np.exp(theirs / t) / np.exp(theirs / t).sum(1, keepdims=True)
            rows = t**2 * (p * np.log(p / q)).sum(1) if loss == "kl" else -np.log(q[range(5), theirs.argmax(1)])
        else:
            theirs = teacher(IMAGES).double().numpy()
            cosines = (mine * theirs).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(theirs, axis=1)
            rows = 1 - cosines if loss == "cosine" else ((mine - theirs) ** 2).mean(1)
        assert made(IMAGES, LABELS).item() == pytest.approx(rows.mean(), rel=1e-5)


@torch.no_grad()
def test_the_loss_of_several_heads_is_the_sum_over_teachers_and_labels() -> None:
    student = network(0)
    teachers = [network(1), network(2, num_classes=7), replace(network(3, width=6), head=None, num_classes=None)]
    joint = objective(student, teachers, None, label_weight=0.5)
    assert joint.losses == ["kl", "kl", "cosine"]
    total = 0.5 * F.cross_entropy(joint.label_head(student(IMAGES)), LABELS).item()
    for teacher, head in zip(teachers, joint.heads, strict=True):
        single = objective(student, [teacher], None)
        single.heads[0].load_state_dict(head.state_dict())
        total += single(IMAGES, LABELS).item()
    assert joint(IMAGES, LABELS).item() == pytest.approx(total, rel=1e-5)


def test_a_copy_of_the_only_teacher_starts_with_its_features() -> None:
    teacher = network(0)
    assert objective(network(0), [teacher], "mse")(IMAGES, LABELS).item() == 0.0
    assert objective(network(0), [teacher], "cosine")(IMAGES, LABELS).item() == pytest.approx(0.0, abs=1e-6)
    same_head = objective(network(0), [teacher], "kl", head_init="from-checkpoint")
    assert same_head(IMAGES, LABELS).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("view", [VIEW, None])
def test_teachers_that_ran_once_teach_as_those_that_run_in_every_step(view: RandomView | None) -> None:
    larger = Preprocessing(Geometry((12, 12), 12, "bicubic"), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    teachers = [network(1), replace(network(2), preprocessing=larger), replace(network(3), head=None, num_classes=None)]
    matches, options = choose_matches(teachers, None), replace(OPTIONS, view=view)
    outputs = teacher_outputs(matches, SPLIT, view, num_views=2, seed=5, cache=None)
    assert len(outputs) == 3 * options.cached_views
    rows = np.arange(3, 40)  # not from the first on: a wrong row would be seen
    cached = distill(network(0), matches, SPLIT, options, seed=5, rows=rows, outputs=outputs)
    in_step = distill(network(0), matches, SPLIT, options, seed=5, rows=rows)
    assert cached.result.steps == 3 * 3
    torch.testing.assert_close(weights(cached), weights(in_step), rtol=1e-4, atol=1e-5)
    start = torch.cat([tensor.flatten().float() for tensor in network(0).trunk.state_dict().values()])
    assert (weights(cached) - start).abs().max() > 0.01  # or equal weights would say nothing
    if view is not None:  # the outputs of one view with the images of the other are noticed
        swapped = distill(network(0), matches, SPLIT, options, seed=5, rows=rows, outputs=outputs[3:] + outputs[:3])
        assert (weights(swapped) - weights(in_step)).abs().max() > 1e-3


def test_labels_alone_are_fine_tuning() -> None:
    options = replace(OPTIONS, label_weight=1.0, heads="average", num_views=0)
    alone = distill(network(0), [], SPLIT, options, seed=3)
    same = FinetuneOptions(
        epochs=3, batch_size=16, optimizer=options.optimizer, schedule=options.schedule, head_init="default", view=VIEW
    )
    tuned = finetune([network(0)], SPLIT, same, seed=3)
    torch.testing.assert_close(alone.student.trunk.state_dict(), tuned.members[0].trunk.state_dict())
    torch.testing.assert_close(alone.head.state_dict(), tuned.head.state_dict())


def test_teachers_and_the_given_student_stay_as_they_are() -> None:
    student, teacher = network(0), network(1)
    teacher.trunk.train()
    before = student.fingerprint, teacher.fingerprint
    made = distill(student, choose_matches([teacher], "kl"), SPLIT, OPTIONS, seed=0, num_steps=2)
    assert (student.fingerprint, teacher.fingerprint) == before
    assert teacher.trunk.training and not made.student.trunk.training
    assert made.head is None and made.student.head is None and made.student.num_classes is None


class Kill(Exception):
    """In place of a signal."""


@pytest.mark.parametrize("num_views", [0, 2])
def test_a_killed_distillation_goes_on_to_the_very_same_weights(num_views: int, tmp_path: Path) -> None:
    options = replace(OPTIONS, num_views=num_views, checkpoint_every=2, label_weight=0.1)
    matches = choose_matches([network(1), network(2)], "kl")
    outputs = teacher_outputs(matches, SPLIT, VIEW, num_views=2, seed=0, cache=None) if num_views else None

    def stop(progress) -> None:
        if progress.step == 5:  # between two states
            raise Kill

    whole = distill(network(0), matches, SPLIT, options, seed=0, outputs=outputs)
    state = tmp_path / "state.pt"
    with pytest.raises(Kill):
        distill(network(0), matches, SPLIT, options, seed=0, outputs=outputs, state_path=state, on_progress=stop)
    assert state.exists()
    again = distill(network(0), matches, SPLIT, options, seed=0, outputs=outputs, state_path=state)
    assert torch.equal(weights(again), weights(whole))
    assert again.result.losses == whole.result.losses


def test_averaged_heads_give_the_mean_of_the_logits() -> None:
    heads = [torch.nn.Linear(8, 3) for _ in range(3)]
    features = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([head(features) for head in heads]).mean(0)
    torch.testing.assert_close(average_heads(heads)(features), mean)
    options = replace(OPTIONS, heads="average", loss="hard")
    made = distill(network(0), choose_matches([network(1), network(2)], "hard"), SPLIT, options, seed=0, num_steps=1)
    assert made.head is not None and made.head.out_features == 10


def test_halves_are_of_images_that_all_teachers_classify_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray | None] = []

    def remember(*arguments: Any, **options: Any) -> ImageBatches:
        made = ImageBatches(*arguments, **options)
        seen.append(made.halves)
        return made

    monkeypatch.setattr("richrep.training.distill.ImageBatches", remember)
    matches = choose_matches([network(1), network(2)], "hard")
    labels = torch.from_numpy(SPLIT.labels)
    right = torch.nn.functional.one_hot(labels, 10).float()
    wrong = right.roll(1, dims=1)
    first, second = right.clone(), right.clone()
    first[0], second[3] = wrong[0], wrong[3]
    halved = replace(OPTIONS, view=None, halves=True, epochs=1)
    distill(network(0), matches, SPLIT, halved, seed=0, outputs=[first, second])
    assert np.flatnonzero(~seen[0]).tolist() == [0, 3]  # one of the two teachers is wrong there
    distill(network(0), matches, SPLIT, replace(halved, halves=False), seed=0, outputs=[first, second])
    distill(network(0), (), SPLIT, replace(halved, label_weight=1.0), seed=0)
    assert seen[1:] == [None, None]


def test_halves_need_teachers_of_the_datas_classes_that_ran_before() -> None:
    with pytest.raises(RichrepError, match=r"--views 0 they run in every step. Give --views 1 or more"):
        replace(OPTIONS, num_views=0, halves=True)
    matches = choose_matches([network(1), network(2, num_classes=7)], "hard")
    with pytest.raises(RichrepError, match=r"Batches can be halves of .* where all give logits of the 10 classes"):
        distill(network(0), matches, SPLIT, replace(OPTIONS, halves=True), seed=0, outputs=[])


def test_a_pruned_student_stays_pruned() -> None:
    student = network(0)
    (name, weight), *_ = student.trunk.named_parameters()
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    with torch.no_grad():
        weight.mul_(mask)
    student = replace(student, masks={f"trunk.{name}": mask}, mask_source="file")
    made = distill(student, choose_matches([network(1)], "kl"), SPLIT, OPTIONS, seed=0, num_steps=4)
    trained = dict(made.student.trunk.named_parameters())[name]
    assert (trained[~mask] == 0).all() and (trained[mask] != weight[mask]).any()


def test_heads_that_cannot_be_averaged_are_refused() -> None:
    average = replace(OPTIONS, heads="average")
    with pytest.raises(RichrepError, match=r"the 10 classes of digits; small-cnn-4-8: kl on the 7 logits.*discard"):
        distill(network(0), choose_matches([network(1), network(2, num_classes=7)], "kl"), SPLIT, average, seed=0)
    headless = replace(network(2), head=None, num_classes=None)
    with pytest.raises(RichrepError, match="cosine on its 8 features, it has no head"):
        distill(network(0), choose_matches([network(1), headless], "kl"), SPLIT, average, seed=0)
    names = SPLIT.class_names
    turned = replace(network(1), class_names=(*names[1:], names[0]))
    with pytest.raises(RichrepError, match=r"the same classes in another order: 0: .*Use --heads discard"):
        distill(network(0), choose_matches([turned], "kl"), SPLIT, average, seed=0)


def test_nothing_to_learn_from_and_bad_options_are_refused() -> None:
    with pytest.raises(RichrepError, match="nothing to learn from: no teachers, and labels have no weight"):
        distill(network(0), [], SPLIT, OPTIONS, seed=0)
    bad = {"temperature": 0.0, "label_weight": -1.0, "num_views": -1, "heads": "keep"}
    bad |= {"epochs": 0, "batch_size": 0, "accumulate": 0, "clip_norm": -1.0, "head_init": "kept"}
    for option, value in bad.items():
        with pytest.raises(RichrepError, match=f"{option.replace('_init', ' init')}.*{value}"):
            replace(OPTIONS, **{option: value})


def test_there_are_no_more_cached_views_than_epochs_and_one_without_augmentation() -> None:
    assert [replace(OPTIONS, num_views=n).cached_views for n in (0, 2, 9)] == [0, 2, 3]
    assert replace(OPTIONS, num_views=0, view=None).cached_views == 1
