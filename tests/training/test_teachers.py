"""Teachers: how each is matched, and what they say of the views that batches hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.augment import RandomView
from richrep.data.datasets import load_split
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import RichrepError
from richrep.features.cache import FeatureCache
from richrep.training.batches import ImageBatches
from richrep.training.teachers import Match, TeachersInStep, choose_matches, teacher_outputs

SPLIT = load_split("digits", "train").first(12)
WITH = make_small_cnn(10, widths=(4, 8), seed=1)
WITHOUT = replace(make_small_cnn(10, widths=(4, 6), seed=2), head=None, num_classes=None)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (None, [("kl", 10), ("cosine", 6)]),
        ("kl", [("kl", 10), ("cosine", 6)]),
        ("hard", [("hard", 10), ("cosine", 6)]),
        ("cosine", [("cosine", 8), ("cosine", 6)]),
        ("mse", [("mse", 8), ("mse", 6)]),
    ],
)
def test_a_teacher_is_matched_by_its_logits_or_else_its_features(loss, expected) -> None:
    assert [(match.loss, match.dim) for match in choose_matches([WITH, WITHOUT], loss)] == expected


def test_teachers_without_any_head_are_matched_by_features_unless_logits_are_asked_for() -> None:
    assert [match.loss for match in choose_matches([WITHOUT], None)] == ["cosine"]
    for loss in ("kl", "hard"):
        with pytest.raises(RichrepError, match=f"loss '{loss}'.*none of the 1 teachers has a head.*--loss cosine"):
            choose_matches([WITHOUT], loss)
    with pytest.raises(RichrepError, match=r"Unknown loss 'cosin'\. Did you mean 'cosine'"):
        choose_matches([WITH], "cosin")


def test_a_match_says_what_is_matched() -> None:
    with_head, without = choose_matches([WITH, WITHOUT], None)
    assert with_head.describe() == "small-cnn-4-8: kl on the 10 logits of its own head"
    assert without.describe() == "small-cnn-4-6: cosine on its 6 features, it has no head"
    assert Match(WITH, "mse").describe() == "small-cnn-4-8: mse on its 8 features"


@pytest.mark.parametrize("view", [RandomView(scale=(0.3, 0.6)), None])
def test_outputs_are_those_on_the_images_of_the_epoch(view, tmp_path) -> None:
    squashed = Preprocessing(Geometry((8, 10), None), (0.2, 0.2, 0.2), (0.3, 0.3, 0.3))
    matches = choose_matches([WITH, replace(WITHOUT, preprocessing=squashed)], None)
    count = 2 if view is not None else 1
    cache = FeatureCache(tmp_path)
    outputs = teacher_outputs(matches, SPLIT, view, num_views=2, seed=7, cache=cache)
    assert [tuple(output.shape) for output in outputs] == [(12, 10), (12, 6)] * count
    in_step = TeachersInStep(matches, WITH.preprocessing)
    assert in_step.also == (squashed,)
    batches = ImageBatches(
        SPLIT, WITH.preprocessing, 12, seed=7, view=view, num_views=count, extra=outputs, also=in_step.also
    )
    for epoch in range(3):  # the third sees the first view again
        images, _, logits, features, others = batches.batch(epoch)
        with in_step.ready(torch.device("cpu")):
            found = in_step.outputs((images, others))
        torch.testing.assert_close(found, [logits, features], rtol=1e-4, atol=1e-5)
    again = teacher_outputs(matches, SPLIT, view, num_views=2, seed=7, cache=cache)
    assert all(torch.equal(a, b) for a, b in zip(outputs, again, strict=True))
    assert teacher_outputs([], SPLIT, view, num_views=2, seed=7, cache=None) == []
