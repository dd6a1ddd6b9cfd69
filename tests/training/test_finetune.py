"""Fine-tuning by itself: what every option does, masks, norms, several members under one head."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import richrep
from richrep.backbones.backbone import Backbone
from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.augment import RandomView
from richrep.data.preprocessing import Preprocessing
from richrep.errors import RichrepError
from richrep.training.batches import load_pixels
from richrep.training.finetune import Finetuned, FinetuneOptions, finetune, first_head, joined
from richrep.training.mix import MixOptions
from richrep.training.optimizers import OptimizerOptions
from richrep.training.parameter_groups import GroupOptions
from richrep.training.schedules import Schedule

SPLIT = richrep.load_split("digits", "train").first(24)
BASE = FinetuneOptions(
    epochs=2, batch_size=8, optimizer=OptimizerOptions(lr=0.05), schedule=Schedule("constant"), head_init="default"
)


def member(seed: int = 0, num_classes: int = 10) -> Backbone:
    return make_small_cnn(num_classes, widths=(4, 6), seed=seed)


def tune(options: FinetuneOptions = BASE, *members: Backbone, **more) -> Finetuned:
    return finetune(members or [member()], SPLIT, options, seed=more.pop("seed", 0), device="cpu", **more)


def weights(made: Finetuned) -> torch.Tensor:
    trunks = [tensor for member in made.members for tensor in member.trunk.state_dict().values()]
    return torch.cat([tensor.flatten() for tensor in [*trunks, made.head.weight]])


EXPECTED = weights(tune())


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 3},
        {"batch_size": 6},
        {"optimizer": OptimizerOptions(lr=0.04)},
        {"optimizer": OptimizerOptions(lr=0.05, weight_decay=0.1)},
        {"optimizer": OptimizerOptions(lr=0.05, nesterov=True)},
        {"optimizer": OptimizerOptions("adamw", lr=0.05)},
        {"optimizer": OptimizerOptions("schedulefree-sgd", lr=0.05)},
        {"optimizer": OptimizerOptions("schedulefree-adamw", lr=0.05)},
        {"schedule": Schedule("cosine")},
        {"schedule": Schedule("linear")},
        {"schedule": Schedule("step", milestones=(1,))},
        {"schedule": Schedule("constant", warmup_epochs=1)},
        {"groups": GroupOptions(head_lr=0.5)},
        {"groups": GroupOptions(layer_decay=0.5)},
        {"head_init": "normal"},
        {"head_init": "cat-weights"},
        {"view": None},
        {"view": RandomView(scale=(0.9, 1.0))},
        {"label_smoothing": 0.2},
        {"mix": MixOptions(mixup=0.5)},
        {"mix": MixOptions(cutmix=0.5)},
        {"norm_layers": "eval"},
        {"ema_decay": 0.5},
        {"accumulate": 2},
        {"clip_norm": 0.1},
    ],
    ids=str,
)
def test_every_option_changes_the_weights(changes: dict[str, object]) -> None:
    made = weights(tune(replace(BASE, **changes)))
    assert made.isfinite().all() and not torch.allclose(made, EXPECTED, rtol=0, atol=1e-4)


def test_the_seed_decides_and_the_members_stay_as_they_are() -> None:
    given = member()
    before = {name: tensor.clone() for name, tensor in given.trunk.state_dict().items()}
    assert torch.equal(weights(tune(BASE, given)), EXPECTED)
    assert not torch.allclose(weights(tune(BASE, given, seed=1)), EXPECTED)
    assert all(torch.equal(before[name], tensor) for name, tensor in given.trunk.state_dict().items())
    assert given.head is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"early_stop": 0}, "early_stop must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"head_init": "norml"}, "Unknown head init 'norml'. Did you mean 'normal'"),
        ({"norm_layers": "evl"}, "Unknown mode of norm layers 'evl'. Did you mean 'eval'"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"clip_norm": 0.0}, "clip_norm must be a number > 0, got 0.0"),
        ({"ema_decay": 1.0}, r"must be in \[0, 1\), got 1.0"),
        ({"schedule": Schedule("cosine", warmup_epochs=3)}, "The warm-up lasts 3 epochs, training 2. Shorten"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RichrepError, match=message):
        replace(BASE, **changes)


def test_several_members_train_jointly_under_one_head() -> None:
    members = [member(0), member(1)]
    other = replace(members[1], preprocessing=Preprocessing(members[1].preprocessing.geometry, (0.4,) * 3, (0.3,) * 3))
    made = tune(BASE, members[0], other)
    assert made.head.in_features == 12 and len(made.members) == 2
    for before, after in zip((members[0], other), made.members, strict=True):
        assert after.preprocessing == before.preprocessing
        assert not torch.allclose(after.trunk.stages.stage0[0].weight, before.trunk.stages.stage0[0].weight)


@pytest.mark.parametrize("count", [1, 3])
def test_heads_side_by_side_start_at_the_mean_of_the_members_logits(count: int) -> None:
    members = [member(seed) for seed in range(count)]
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = joined(members, first_head(members, SPLIT, "cat-weights", seed=0))
    with torch.inference_mode():
        expected = torch.stack([m.features_and_logits(images)[1] for m in members]).mean(0)
        torch.testing.assert_close(model.features_and_logits(images)[1], expected, rtol=1e-5, atol=1e-6)


def test_a_head_kept_from_the_checkpoint_is_the_one_that_trains() -> None:
    slow = replace(BASE, head_init="from-checkpoint", optimizer=OptimizerOptions(lr=1e-9), view=None)
    given = member()
    torch.testing.assert_close(tune(slow, given).head.weight, given.head.weight, rtol=0, atol=1e-6)


def test_a_kept_head_of_other_classes_is_refused() -> None:
    with pytest.raises(RichrepError, match="has 7 classes, the data 10"):
        tune(replace(BASE, head_init="from-checkpoint"), member(num_classes=7))
    swapped = replace(member(), class_names=(*SPLIT.class_names[1:], SPLIT.class_names[0]))
    with pytest.raises(RichrepError, match="have the same classes in another order: 0: '1' and '0'"):
        tune(replace(BASE, head_init="cat-weights"), swapped)


@pytest.mark.parametrize("name", ["sgd", "adamw", "schedulefree-sgd", "schedulefree-adamw"])
@pytest.mark.parametrize("ema", [None, 0.5])
def test_pruned_weights_stay_exactly_zero_and_the_others_move(name: str, ema: float | None) -> None:
    given = member()
    conv = given.trunk.stages.stage1[0]
    mask = torch.rand(conv.weight.shape, generator=torch.Generator().manual_seed(0)) > 0.7
    with torch.no_grad():
        conv.weight.mul_(mask)
    given = replace(given, masks={"trunk.stages.stage1.0.weight": mask}, mask_source="file")
    options = replace(BASE, optimizer=OptimizerOptions(name, lr=0.05, weight_decay=0.01), ema_decay=ema, clip_norm=1.0)
    for made in (tune(options, given), tune(options, given, member(1))):  # alone, and as a member
        trained = made.members[0].trunk.stages.stage1[0].weight
        assert (trained[~mask] == 0).all()
        assert (trained[mask] != conv.weight[mask]).all()


def test_norms_in_eval_mode_keep_the_statistics_of_pretraining() -> None:
    given = member()
    made = tune(replace(BASE, norm_layers="eval"), given)
    before, after = given.trunk.stages.stage0[1], made.members[0].trunk.stages.stage0[1]
    assert torch.equal(before.running_mean, after.running_mean) and torch.equal(before.running_var, after.running_var)
    assert not torch.equal(before.weight, after.weight)  # weights of norms train


def test_schedule_free_training_leaves_the_averaged_weights_with_their_own_statistics() -> None:
    options = replace(BASE, optimizer=OptimizerOptions("schedulefree-sgd", lr=0.05), view=None)
    seen: list[torch.Tensor] = []

    def evaluate(backbone: Backbone) -> dict[str, float]:
        seen.append(backbone.trunk.stages.stage0[0].weight.detach().clone())
        return {"accuracy": 0.0}

    made = tune(options, evaluate=evaluate)
    trunk = made.members[0].trunk
    assert torch.equal(seen[-1], trunk.stages.stage0[0].weight)  # what is evaluated is what is kept
    preprocessing = made.members[0].preprocessing
    images = preprocessing.normalize(load_pixels(SPLIT, preprocessing.geometry))
    with torch.inference_mode():  # the statistics of the first norm are those of its inputs under the kept weights
        expected = trunk.stages.stage0[0](images).mean((0, 2, 3))
    torch.testing.assert_close(trunk.stages.stage0[1].running_mean, expected, rtol=1e-4, atol=1e-5)


def test_fewer_steps_are_the_first_ones_of_the_schedule() -> None:
    options = replace(BASE, schedule=Schedule("cosine", warmup_epochs=1.5))
    heads: list[torch.Tensor] = []

    def keep(backbone: Backbone) -> dict[str, float]:
        heads.append(backbone.head.state_dict()["1.weight"].clone())
        return {"accuracy": 0.0}

    tune(options, evaluate=keep)
    made = tune(options, num_steps=3)  # an epoch, shorter than the warm-up
    assert made.result.steps == 3 and torch.equal(made.head.weight, heads[0])
    assert not torch.equal(heads[0], heads[1])


def test_the_trained_model_learned_its_images() -> None:
    options = replace(BASE, epochs=60, batch_size=24, view=None, optimizer=OptimizerOptions("adamw", lr=0.02))
    made = tune(options, make_small_cnn(10, widths=(8, 16)))
    found = richrep.extract_features(made.joined(), SPLIT, layer="logits")
    assert (torch.as_tensor(found.features[:]).argmax(1) == found.labels).all()
    assert made.result.steps == 60
