"""The proxy: sums and submatrices of Gram matrices give what ridge regression on concatenated columns gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch.nn import functional as F

from richrep.evaluation.search.proxy import PENALTIES, make_proxy
from richrep.evaluation.search.scales import scaled, search_scales, unit_factors
from richrep.features.feature_set import Block, FeatureSet

K = 3
TRAIN, VAL = np.arange(0, 60), np.arange(60, 90)


def make_members(dims=(4, 6, 5), sizes=(1.0, 10.0, 0.1), n: int = 90) -> list[FeatureSet]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % K
    members = []
    for i, (d, size) in enumerate(zip(dims, sizes, strict=True)):
        features = torch.randn(n, d, generator=generator) + 0.7 * torch.randn(K, d, generator=generator)[labels] + 1
        members.append(FeatureSet(features * size, labels, K, (Block(str(i), 0, d),), str(i)))
    return members


def by_concatenation(members, subset, scales) -> float:
    """Best val accuracy of scikit-learn's Ridge on the columns side by side, each member over its rms."""
    columns = []
    for i, scale in zip(subset, scales, strict=True):
        features = members[i].features.double()
        columns.append(scale * features / features[TRAIN].square().mean().sqrt())
    x, labels = torch.cat(columns, 1).numpy(), members[0].labels
    targets = F.one_hot(labels, K).double().numpy()
    centred = x[TRAIN] - x[TRAIN].mean(0)
    trace = (centred**2).sum() / len(TRAIN)
    best = 0.0
    for penalty in PENALTIES:
        model = Ridge(alpha=len(TRAIN) * penalty * trace).fit(x[TRAIN], targets[TRAIN])
        best = max(best, float((model.predict(x[VAL]).argmax(1) == labels[VAL].numpy()).mean()))
    return best


@pytest.mark.parametrize("side", ["samples", "columns"])
@pytest.mark.parametrize(("subset", "scales"), [((1,), (1.0,)), ((0, 2), (1.0, 1.0)), ((0, 1, 2), (0.5, 2.0, 1.0))])
def test_the_score_is_that_of_ridge_on_concatenated_columns(side, subset, scales) -> None:
    members = make_members()
    proxy = make_proxy(members, TRAIN, VAL, side=side)
    assert proxy.side == side and proxy.num_rows == 60 and proxy.num_val == 30
    assert proxy.score(subset, scales) == pytest.approx(by_concatenation(members, subset, scales), abs=1e-6)


def test_both_sides_give_the_same_logits_and_redundancy() -> None:
    members = make_members(dims=(40, 50, 30))  # more columns than rows
    sides = [make_proxy(members, TRAIN, VAL, side=side) for side in ("samples", "columns")]
    logits = []
    for proxy in sides:
        spectrum, val = proxy.grams.problem((0, 2), (1.0, 1.0))
        logits.append(val @ spectrum.weights(torch.tensor([0.1]))[0])
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(sides[0].grams.cka(), sides[1].grams.cka(), rtol=1e-4, atol=1e-5)


def test_fewer_components_than_columns_keep_what_varies_most() -> None:
    members = make_members(dims=(30, 40, 20))
    proxy = make_proxy(members, TRAIN, VAL, side="columns", max_dims=25)
    assert proxy.dims == (25, 25, 20)
    exact = make_proxy(members, TRAIN, VAL, side="columns").grams.cka()
    torch.testing.assert_close(proxy.grams.cka(), exact, rtol=0, atol=0.1)


def test_few_images_go_by_samples_and_many_by_columns(monkeypatch) -> None:
    assert make_proxy(make_members(), TRAIN, VAL).side == "samples"
    monkeypatch.setattr("richrep.evaluation.search.proxy.MAX_SAMPLES", 59)
    assert make_proxy(make_members(), TRAIN, VAL).side == "columns"


def test_images_beyond_the_limit_are_left_out_by_class_and_the_same_every_time() -> None:
    one, other = (make_proxy(make_members(), TRAIN, VAL, max_rows=30) for _ in range(2))
    assert one.num_rows == 30 and one.num_val == 30
    torch.testing.assert_close(one.target_mean, torch.full((3,), 1 / 3))
    assert one.score((0, 1)) == other.score((0, 1))


def test_a_class_without_a_training_row_counts_as_wrong() -> None:
    members = make_members()
    without = TRAIN[members[0].labels[TRAIN].numpy() != 1]
    proxy = make_proxy(members, without, VAL)
    assert set(proxy.val_codes.tolist()) == {-1, 0, 1}
    assert proxy.score((0, 1, 2)) <= 2 / 3


def test_test_rows_are_not_looked_at() -> None:
    members = make_members(n=120)
    before = make_proxy(members, TRAIN, VAL).score((0, 1, 2))
    for member in members:
        member.features[90:] = torch.nan
    assert make_proxy(members, TRAIN, VAL).score((0, 1, 2)) == before


def test_scales_never_score_less_than_the_subset_they_start_from() -> None:
    proxy = make_proxy(make_members(), TRAIN, VAL)
    scales, score = search_scales(proxy, (0,), 3)
    assert score >= proxy.score((0,))
    used = tuple(i for i in range(3) if scales[i])
    assert proxy.score(used, [scales[i] for i in used]) == score


def test_a_member_of_noise_alone_gets_no_scale_and_a_better_one_joins() -> None:
    members = make_members(sizes=(1.0, 1.0, 1.0))
    labels = members[0].labels
    answer = FeatureSet(F.one_hot(labels, K).float(), labels, K, (Block("answer", 0, K),), "answer")
    proxy = make_proxy([members[0], answer], TRAIN, VAL)
    scales, score = search_scales(proxy, (0,), 2)
    assert score == 1 and scales[1] > 0


def test_scaled_members_have_the_scale_as_their_root_mean_square() -> None:
    members = make_members()
    units = unit_factors(members, TRAIN)
    joint = scaled(members, [2 * units[0], 0.0, 0.5 * units[2]])
    assert [(block.name, block.start, block.stop) for block in joint.blocks] == [("0", 0, 4), ("2", 4, 9)]
    sizes = [joint.features[TRAIN, block.start : block.stop].square().mean().sqrt().item() for block in joint.blocks]
    assert sizes == pytest.approx([2, 0.5], rel=1e-5)


def leaving_one_out(members, subset) -> float:
    """Best accuracy over the penalties of scikit-learn's Ridge, fitted anew without each training image."""
    columns = []
    for i in subset:
        features = members[i].features.double()
        columns.append(features / features[TRAIN].square().mean().sqrt())
    x, labels = torch.cat(columns, 1)[TRAIN].numpy(), members[0].labels[TRAIN].numpy()
    targets, rows = np.eye(K)[labels], np.arange(len(TRAIN))
    trace = ((x - x.mean(0)) ** 2).sum() / len(TRAIN)
    best = 0.0
    for penalty in PENALTIES:
        right = 0
        for row in rows:
            kept = rows != row
            # the sum over the other rows under the same penalty: the penalty per image stays that of all N
            model = Ridge(alpha=len(TRAIN) * penalty * trace).fit(x[kept], targets[kept])
            right += int(model.predict(x[[row]]).argmax(1)[0] == labels[row])
        best = max(best, right / len(rows))
    return best


@pytest.mark.parametrize("side", ["samples", "columns"])
@pytest.mark.parametrize("subset", [(1,), (0, 1, 2)])
def test_leave_one_out_is_that_of_ridge_fitted_anew_without_each_image(side, subset) -> None:
    members = make_members()
    proxy = make_proxy(members, TRAIN, VAL, side=side, score_by="loo")
    assert proxy.score(subset) == pytest.approx(leaving_one_out(members, subset), abs=1e-6)
    assert proxy.score(subset) != make_proxy(members, TRAIN, VAL, side=side).score(subset)
    assert "leave-one-out" in proxy.describe()


def test_leave_one_out_looks_at_no_val_image() -> None:
    members = make_members()
    other = [replace(m, features=torch.cat([m.features[:60], m.features[60:].flip(0)])) for m in members]
    one, two = (make_proxy(some, TRAIN, VAL, score_by="loo").score((0, 1)) for some in (members, other))
    assert one == two


@pytest.mark.parametrize("score_by", ["val", "loo"])
@pytest.mark.parametrize("side", ["samples", "columns"])
def test_constant_members_score_as_the_largest_class(side, score_by) -> None:
    members = [replace(m, features=torch.ones_like(m.features)) for m in make_members()]
    labels = torch.tensor([0] * 40 + [1] * 20 + [0] * 20 + [2] * 10)  # 2/3 of train and of val are of class 0
    members = [replace(member, labels=labels) for member in members]
    score = make_proxy(members, TRAIN, VAL, side=side, score_by=score_by).score((0, 1))
    assert score == pytest.approx(2 / 3)
