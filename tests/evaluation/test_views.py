"""Probes with views: what heads are trained on, what the record says, and who decides how many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.augment import RandomView
from richrep.errors import RichrepError
from richrep.evaluation.probe import probe
from richrep.evaluation.protocols.kshot import KShotProtocol
from richrep.evaluation.protocols.logistic import LogisticProtocol
from richrep.evaluation.task import extract_task, make_task
from richrep.evaluation.views import choose_views, reads_views, with_views
from richrep.features.cache import FeatureCache
from richrep.features.feature_set import concat_features
from richrep.features.view_rows import with_views_as_rows
from richrep.features.views import Views, default_view
from richrep.reports.tables import make_results_table

QUICK = LogisticProtocol(cs=(1e-2, 1.0), normalizations=("standard",))
SIZES = {"train_size": 150, "test_size": 100}
GENTLE = RandomView(scale=(0.8, 1.0))


@dataclass(frozen=True)
class Cycling(LogisticProtocol):
    """Stands for a protocol with epochs, which reads views itself."""

    name: str = "cycling"
    views: int = 1
    view: RandomView | None = None

    def select(self, trainval, train_rows, val_rows, **options):
        assert len(trainval.views) == (self.views if self.views > 1 else 0)
        return super().select(trainval, train_rows, val_rows, **options)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def backbones():
    return [make_small_cnn(10, widths=(4, 8)), make_small_cnn(10, widths=(4, 6), seed=1)]


def test_a_head_without_epochs_is_fitted_on_all_views_and_scored_on_the_images_themselves(backbones, cache) -> None:
    *_, joint = probe(backbones, "digits", protocol=QUICK, views=3, cache=cache, **SIZES)
    task = make_task("digits", data_root=None, **SIZES)
    drawn = Views(3, GENTLE)
    found = extract_task(backbones, task, {"cache": cache}, val_fraction=0.2, seed=0, views=drawn)
    trainval, test = concat_features(found.trainval), concat_features(found.test)
    assert len(trainval.views) == 3 and not test.views
    choice = QUICK.select(*with_views_as_rows(trainval, found.train_rows, found.val_rows))
    rows = np.arange(len(trainval))
    head = QUICK.refit(with_views_as_rows(trainval, rows, rows[:0])[0], choice)
    val = (choice.val_logits.argmax(1) == trainval.labels[torch.as_tensor(found.val_rows)]).double().mean()
    accuracy = (head.logits(test.features).argmax(1) == test.labels).double().mean()
    assert joint.score("val", "accuracy") == pytest.approx(float(val))
    assert joint.score("test", "accuracy") == pytest.approx(float(accuracy))
    assert joint.hyperparameters["l2"] == pytest.approx(choice.hyperparameters["l2"])


def test_the_record_says_which_views_and_tables_keep_them_apart(backbones, cache) -> None:
    options = {"protocol": QUICK, "cache": cache, **SIZES}
    (plain,), (one,), (three,), (wide,) = (
        probe(backbones[:1], "digits", **options, **views)
        for views in ({}, {"views": 1}, {"views": 3}, {"views": 3, "view": RandomView(scale=(0.3, 1.0))})
    )
    assert plain.protocol == one.protocol and "views" not in plain.protocol
    assert plain.metrics == one.metrics
    assert three.protocol["views"] == 3 and three.protocol["view_seed"] == 0
    assert three.protocol["view"] == {"scale": [0.8, 1.0], "ratio": [3 / 4, 4 / 3], "flip": 0.5}
    assert wide.protocol["view"]["scale"] == [0.3, 1.0] and wide.metrics != three.metrics
    assert (three.dataset.num_train, three.dataset.num_test) == (plain.dataset.num_train, 100)  # images, not views
    assert len(make_results_table([plain, three, wide]).rows) == 3


def test_all_seeds_share_the_cached_views(backbones, tmp_path) -> None:
    cache = FeatureCache(tmp_path)
    for seed in (0, 1):
        probe(backbones[:1], "digits", protocol=QUICK, views=2, cache=cache, seed=seed, **SIZES)
    assert sorted(entry.layer for entry in cache.entries()) == [
        "features",
        "features",
        "features, view 0",
        "features, view 1",
    ]


def test_the_user_decides_then_the_protocol_then_nobody(backbones) -> None:
    four = Cycling(views=4, view=RandomView(flip=0.0))
    assert choose_views(QUICK, backbones) == Views(1, default_view(backbones))
    assert choose_views(four, backbones) == Views(4, RandomView(flip=0.0))
    assert choose_views(four, backbones, count=2) == Views(2, RandomView(flip=0.0))
    assert choose_views(four, backbones, view=GENTLE) == Views(4, GENTLE)
    with pytest.raises(RichrepError, match="at least 1, got 0"):
        choose_views(QUICK, backbones, count=0)


def test_a_protocol_with_a_number_of_views_is_told_it(backbones) -> None:
    assert with_views(Cycling(), Views(3, GENTLE)) == Cycling(views=3, view=GENTLE)
    assert with_views(Cycling(views=4), Views(1, GENTLE)) == Cycling(views=1)
    assert with_views(QUICK, Views(3, GENTLE)) is QUICK
    assert reads_views(Cycling()) and reads_views(KShotProtocol()) and not reads_views(QUICK)


def test_a_protocol_with_epochs_gets_its_own_number_of_views(backbones, cache) -> None:
    protocol = Cycling(cs=(1.0,), normalizations=("none",), views=2)
    (record,) = probe(backbones[:1], "digits", protocol=protocol, cache=cache, **SIZES)
    assert record.protocol["views"] == 2 and record.protocol["view"]["scale"] == [0.8, 1.0]
    (none,) = probe(backbones[:1], "digits", protocol=protocol, views=1, cache=cache, **SIZES)
    assert none.protocol["views"] == 1


def test_few_shots_take_views_of_the_drawn_images(backbones, cache) -> None:
    protocol = KShotProtocol("kshot:2", repeats=2, cs=(1.0,), normalizations=("standard",))
    options = {"protocol": protocol, "cache": cache, **SIZES}
    (plain,), (viewed,) = (probe(backbones[:1], "digits", views=views, **options) for views in (1, 3))
    assert viewed.protocol["views"] == 3 and viewed.dataset.num_train == plain.dataset.num_train == 20
    assert viewed.metrics != plain.metrics
