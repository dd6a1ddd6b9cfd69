"""Networks that come fine-tuned: nothing is trained, and the second stage joins them as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from richrep.backbones.addresses import load_backbone
from richrep.backbones.override import override_preprocessing
from richrep.errors import RichrepError
from richrep.evaluation.record import Record
from richrep.evaluation.transfer.as_is import AS_IS
from richrep.evaluation.transfer.finetune import finetune
from richrep.evaluation.transfer.finetune_default import DEFAULT
from richrep.evaluation.transfer.runs import Where
from richrep.evaluation.transfer.two_stage import two_stage
from richrep.evaluation.transfer.two_stage_logistic import TwoStageLogistic
from richrep.training.optimizers import OptimizerOptions

SIZES = {"train_size": 100, "test_size": 60}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """Two networks fine-tuned elsewhere, by the folder of their runs and their records."""
    out = tmp_path_factory.mktemp("elsewhere")
    nets = [load_backbone("random/resnet20", seed=seed) for seed in range(2)]
    nets = [replace(override_preprocessing(n, ["size=8", "resize=8"]), name=f"net{i}") for i, n in enumerate(nets)]
    protocol = replace(DEFAULT, lrs=(0.05,), options=replace(DEFAULT.options, epochs=2, batch_size=40))
    return out, finetune(nets, "digits", protocol=protocol, where=Where(out=out), **SIZES)


@pytest.fixture(scope="module")
def addresses(tuned) -> list[str]:
    out, records = tuned
    return [f"run:{out / str(record.solver['run'])}" for record in records]


def test_a_network_as_it_is_scores_what_it_scored_and_is_kept_unchanged(tuned, addresses, tmp_path: Path) -> None:
    (record,) = finetune(addresses[:1], "digits", protocol="as-is", where=Where(out=tmp_path), **SIZES)
    assert record.metrics["test"] == tuned[1][0].metrics["test"]
    assert record.hyperparameters["steps"] == 0 and 0 <= record.score("val", "accuracy") <= 1
    before, after = load_backbone(addresses[0]), load_backbone(f"run:{tmp_path / str(record.solver['run'])}")
    for name, values in before.trunk.state_dict().items():
        assert torch.equal(values, after.trunk.state_dict()[name])
    heads = [list(one.head.state_dict().values()) for one in (before, after)]
    assert len(heads[0]) == 2 and all(torch.equal(*pair) for pair in zip(*heads, strict=True))


def test_the_second_stage_begins_at_the_mean_of_the_heads_that_came(addresses, tmp_path: Path) -> None:
    logistic = TwoStageLogistic(cs=(1.0,), normalizations=("none",))
    records = two_stage(
        addresses, "digits", protocol=AS_IS, stage2=[logistic], where=Where(out=tmp_path), cache=None, **SIZES
    )
    assert [record.kind for record in records] == ["finetune", "finetune", "ensemble", "two-stage"]
    joint = load_backbone(f"run:{tmp_path / str(records[2].solver['run'])}").to("cpu")
    alone = [load_backbone(address).to("cpu") for address in addresses]
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mean = torch.stack([one.features_and_logits(images)[1] for one in alone]).mean(0)
        torch.testing.assert_close(joint.features_and_logits(images)[1], mean)
    again = two_stage(
        addresses, "digits", protocol=AS_IS, stage2=[logistic], where=Where(out=tmp_path), cache=None, **SIZES
    )
    assert [record.id for record in again] == [record.id for record in records]


def test_statistics_of_norms_stay_with_an_optimizer_that_would_measure_them_anew(tuned, addresses, tmp_path) -> None:
    free = replace(AS_IS, options=replace(AS_IS.options, optimizer=OptimizerOptions("schedulefree-sgd")))
    (record,) = finetune(addresses[:1], "digits", protocol=free, where=Where(out=tmp_path), **SIZES)
    assert record.metrics["test"] == tuned[1][0].metrics["test"]


def test_a_member_without_a_head_is_said_before_anything_is_scored_or_written(addresses, tmp_path: Path) -> None:
    told: list[Record] = []
    with pytest.raises(RichrepError, match=r"has no head of its own\. Protocol as-is trains nothing: leave"):
        two_stage(
            [addresses[0], "random/resnet20"],
            "digits",
            protocol="as-is",
            stage2="two-stage-logistic",
            where=Where(out=tmp_path),
            cache=None,
            on_record=told.append,
            **SIZES,
        )
    assert told == [] and list(tmp_path.iterdir()) == []


def test_nothing_is_trained_only_where_a_head_is_there(tmp_path: Path) -> None:
    with pytest.raises(RichrepError, match="has no head of its own"):
        finetune(["random/resnet20"], "digits", protocol="as-is", where=Where(out=tmp_path), **SIZES)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RichrepError, match="epochs must be at least 1, got 0"):
        replace(AS_IS.options, head_init="normal")
    with pytest.raises(RichrepError, match="epochs must be at least 0, got -1"):
        replace(AS_IS.options, epochs=-1)
