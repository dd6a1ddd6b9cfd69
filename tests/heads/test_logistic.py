import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from richrep.errors import FeatureError
from richrep.features.normalize import NORMALIZATIONS
from richrep.heads.logistic import LogisticHead
from richrep.heads.logistic_path import fit_logistic_path

SKIPPED_CHECKS = {
    "check_array_api_input": "array API dispatch is not switched on",
    "check_classifier_data_not_an_array": "pandas is no dependency",
}


def make_data(n: int = 90, d: int = 6, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.arange(n) % k
    return generator.normal(size=(n, d)) + 0.7 * generator.normal(size=(k, d))[labels], labels


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = load_digits(return_X_y=True)
    return pixels[:400] / 16, labels[:400]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_scikit_learns_estimator_checks_pass(normalization: str) -> None:
    results = check_estimator(LogisticHead(normalization=normalization), on_skip=None, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    assert skipped <= set(SKIPPED_CHECKS)
    assert sum(r["status"] == "passed" for r in results) > 40


def test_predictions_and_shapes_are_scikit_learns(digits: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = digits
    ours = LogisticHead(l2=0.01, tol=1e-9).fit(features, labels)
    theirs = LogisticRegression(C=1 / (400 * 0.01), tol=1e-8, max_iter=1000).fit(features, labels)
    np.testing.assert_allclose(ours.predict_proba(features), theirs.predict_proba(features), atol=1e-4)
    np.testing.assert_array_equal(ours.predict(features), theirs.predict(features))
    assert ours.score(features, labels) == theirs.score(features, labels)
    assert ours.decision_function(features).shape == theirs.decision_function(features).shape == (400, 10)
    assert ours.coef_.shape == theirs.coef_.shape and ours.intercept_.shape == theirs.intercept_.shape
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-3)


def test_two_classes_have_scikit_learns_shapes_and_values() -> None:
    features, labels = make_data(k=2)
    ours = LogisticHead(l2=0.02, tol=1e-10).fit(features, labels)
    theirs = LogisticRegression(C=1 / (90 * 0.02), tol=1e-10).fit(features, labels)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)  # (1, D)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-4)  # (1,)
    np.testing.assert_allclose(ours.decision_function(features), theirs.decision_function(features), atol=1e-3)
    np.testing.assert_allclose(ours.predict_proba(features), theirs.predict_proba(features), atol=1e-4)


def test_probabilities_are_the_softmax_of_the_logits() -> None:
    features, labels = make_data()
    head = LogisticHead().fit(features, labels)
    logits = features @ np.asarray(head.weight_).T + np.asarray(head.bias_)
    np.testing.assert_allclose(head.logits(features), logits)
    exponentials = np.exp(logits)
    np.testing.assert_allclose(head.predict_proba(features), exponentials / exponentials.sum(1, keepdims=True))


def test_string_labels_come_back_as_strings() -> None:
    features, labels = make_data()
    names = np.array(["cat", "dog", "ant"])
    head = LogisticHead().fit(features, names[labels])
    assert head.classes_.tolist() == ["ant", "cat", "dog"]
    expected = names[LogisticHead().fit(features, labels).predict(features)]
    np.testing.assert_array_equal(head.predict(features), expected)
    tensors = LogisticHead().fit(torch.from_numpy(features), names[labels])
    np.testing.assert_array_equal(tensors.predict(torch.from_numpy(features)), expected)


def test_tensors_and_arrays_give_the_same() -> None:
    features, labels = make_data()
    from_arrays = LogisticHead().fit(features, labels)
    from_tensors = LogisticHead().fit(torch.from_numpy(features), torch.from_numpy(labels))
    assert torch.equal(from_arrays.weight_, from_tensors.weight_)
    np.testing.assert_array_equal(from_arrays.predict(torch.from_numpy(features)), from_tensors.predict(features))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_type_of_the_features_is_the_type_of_the_weights(dtype: str) -> None:
    features, labels = make_data()
    head = LogisticHead().fit(features.astype(dtype), labels)
    assert head.coef_.dtype == head.predict_proba(features.astype(dtype)).dtype == np.dtype(dtype)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_float16_tensors_are_read_as_the_float32_they_stand_for(normalization: str) -> None:
    features, labels = make_data()
    half = torch.from_numpy(3e4 * features / np.abs(features).max()).to(torch.float16)  # norms beyond 65504 among them
    head = LogisticHead(l2=1e-4, normalization=normalization).fit(half, labels)
    full = LogisticHead(l2=1e-4, normalization=normalization).fit(half.float(), labels)
    np.testing.assert_array_equal(head.predict_proba(half), full.predict_proba(half.float()))


def test_read_only_arrays_are_fitted_without_a_warning() -> None:
    features, labels = make_data()
    features.flags.writeable = False  # as joblib gives them to its workers
    assert LogisticHead().fit(features, labels).score(features, labels) > 0.5


def test_features_that_carry_gradients_are_fitted() -> None:
    features, labels = make_data()
    leaf = torch.from_numpy(features).requires_grad_()
    head = LogisticHead().fit(leaf * 1, labels)
    assert not head.weight_.requires_grad
    np.testing.assert_array_equal(
        head.predict_proba(leaf), LogisticHead().fit(features, labels).predict_proba(features)
    )


def test_num_classes_makes_room_for_classes_without_rows() -> None:
    features, labels = make_data()
    head = LogisticHead().fit(features, np.array([1, 3, 4])[labels], num_classes=6)
    assert head.classes_.tolist() == [0, 1, 2, 3, 4, 5]
    probs = head.predict_proba(features)
    assert probs.shape == (90, 6)
    np.testing.assert_array_equal(probs[:, [0, 2, 5]], 0)
    np.testing.assert_allclose(probs[:, [1, 3, 4]], LogisticHead().fit(features, labels).predict_proba(features))


def test_without_num_classes_classes_are_counted_from_the_labels() -> None:
    features, labels = make_data()
    assert LogisticHead().fit(features, np.array([1, 3, 4])[labels]).classes_.tolist() == [1, 3, 4]


def test_parameters_are_kept_as_given_and_clone() -> None:
    options = {"l2": 0.5, "normalization": "block-rms", "blocks": [(0, 2), (2, 6)], "tol": 1e-4, "max_iter": 77}
    head = LogisticHead(**options)
    assert head.get_params() == options
    assert clone(head).get_params() == options
    assert not hasattr(clone(head.fit(*make_data())), "weight_")
    assert head.set_params(l2=0.25).l2 == 0.25


def test_a_pickled_head_predicts_the_same() -> None:
    features, labels = make_data()
    head = LogisticHead(normalization="block-l2").fit(features, labels)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(head)).predict_proba(features), head.predict_proba(features)
    )


def test_it_works_in_a_pipeline() -> None:
    features, labels = make_data()
    pipeline = make_pipeline(StandardScaler(), LogisticHead(l2=0.01)).fit(features, labels)
    inside = LogisticHead(l2=0.01, normalization="standard").fit(features, labels)  # centring changes only the bias
    np.testing.assert_allclose(pipeline.predict_proba(features), inside.predict_proba(features), atol=2e-3)


def test_grid_search_finds_the_penalty(digits: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = digits
    search = GridSearchCV(LogisticHead(), {"l2": [1e3, 1e-3], "normalization": ["none", "block-rms"]}, cv=3)
    search.fit(features, labels)
    assert search.best_params_["l2"] == 1e-3
    assert cross_val_score(LogisticHead(l2=1e-3), features, labels, cv=3).mean() > 0.85


@pytest.mark.parametrize("normalization", ["none", "standard", "block-rms"])
def test_the_layer_gives_the_heads_logits_on_raw_features(normalization: str) -> None:
    features = make_data()[0] * np.array([1, 10, 100, 1e3, 0.1, 0.01]) + 5
    head = LogisticHead(normalization=normalization, blocks=[(0, 4), (4, 6)]).fit(features, make_data()[1])
    layer = head.to_linear()
    assert (layer.in_features, layer.out_features) == (6, 3)
    torch.testing.assert_close(layer(torch.from_numpy(features)), head.logits(features))
    np.testing.assert_allclose(features @ head.coef_.T + head.intercept_, head.logits(features))


def test_training_the_layer_leaves_the_head_as_it_was() -> None:
    head = LogisticHead().fit(*make_data())
    before = head.weight_.clone()
    layer = head.to_linear()
    assert layer.weight.requires_grad
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(head.weight_, before)


@pytest.mark.parametrize("shape", [(400, 12), (30, 12)], ids=["N>D", "N<D"])
def test_pca_is_scikit_learns_pca_and_then_its_logistic_regression(
    digits: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]
) -> None:
    n, count = shape
    features, labels = digits[0], digits[1] % 5
    theirs = make_pipeline(
        PCA(count, svd_solver="full"), LogisticRegression(C=1 / (n * 1e-3), tol=1e-10, max_iter=5000)
    ).fit(features[:n], labels[:n])
    head = LogisticHead(l2=1e-3, normalization=f"pca:{count}", tol=1e-11).fit(features[:n], labels[:n])
    np.testing.assert_allclose(head.predict_proba(features), theirs.predict_proba(features), atol=2e-4)
    assert head.coef_.shape == (5, 64)  # folded: it acts on the raw features
    scaled = LogisticHead(l2=1e-3, normalization=f"standard+pca:{count}", tol=1e-11).fit(features[:n], labels[:n])
    spread = features[:n].std(0)
    standard = features / np.where(spread == 0, 1, spread)
    theirs.fit(standard[:n], labels[:n])
    np.testing.assert_allclose(scaled.predict_proba(features), theirs.predict_proba(standard), atol=2e-4)


def test_a_head_of_a_path_on_components_is_the_head_fitted_alone(digits: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = (torch.from_numpy(values[:200]) for values in digits)
    for name in ("pca:5", "l2+pca:5"):
        path = fit_logistic_path(features, labels, num_classes=10, l2s=[1.0, 0.01], normalization=name, tol=1e-9)
        head = LogisticHead.from_path(path, 1)
        assert head.normalization == name and head.n_features_in_ == 64
        alone = LogisticHead(l2=0.01, normalization=name, tol=1e-9).fit(features, labels)
        np.testing.assert_allclose(head.predict_proba(features), alone.predict_proba(features), atol=1e-4)
        assert torch.equal(head.logits(features), path.logits(features, 1))
        rows = torch.arange(0, 200, 2)
        part = fit_logistic_path(features, labels, num_classes=10, l2s=[0.01], normalization=name, rows=rows)
        near = part.weights[0], part.biases[0]
        warm = LogisticHead(l2=0.01, normalization=name, tol=1e-9).fit(features, labels, near=near)
        np.testing.assert_allclose(warm.predict_proba(features), alone.predict_proba(features), atol=1e-4)


def test_more_components_than_the_rank_are_refused(digits: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(FeatureError, match=r"pca:40 needs 40 directions of variance, the 30 training rows .* have 29"):
        LogisticHead(normalization="pca:40").fit(digits[0][:30], digits[1][:30])


@pytest.mark.parametrize("normalization", ["block-l2", "l2"])
def test_normalisation_by_image_gives_no_layer(normalization: str) -> None:
    head = LogisticHead(normalization=normalization).fit(*make_data())
    with pytest.raises(ValueError, match=f"'{normalization}' is not linear in the raw features"):
        head.to_linear()


def test_a_head_of_a_path_is_the_head_fitted_alone() -> None:
    features, labels = (torch.from_numpy(values) for values in make_data())
    path = fit_logistic_path(
        features, labels, num_classes=3, l2s=[1.0, 0.01], normalization="block-rms", blocks=None, tol=1e-9
    )
    head = LogisticHead.from_path(path, 1)
    alone = LogisticHead(l2=0.01, normalization="block-rms", tol=1e-9).fit(features, labels)
    assert head.l2 == 0.01 and head.normalization == "block-rms"
    np.testing.assert_allclose(head.predict_proba(features), alone.predict_proba(features), atol=1e-4)
    assert torch.equal(head.logits(features), path.logits(features, 1))
    again = clone(head).fit(features, labels)  # its parameters say how it came about
    np.testing.assert_allclose(again.predict_proba(features), alone.predict_proba(features), atol=2e-3)
    with pytest.raises(FeatureError, match=r"shape \(N, 6\) as in fit, got \(2, 5\)"):
        head.logits(torch.zeros(2, 5))


def test_too_few_iterations_are_a_warning_with_the_numbers() -> None:
    with pytest.warns(ConvergenceWarning, match=r"l2 = 1e-06 did not converge in 3 iterations\. Raise max_iter"):
        head = LogisticHead(l2=1e-6, max_iter=3).fit(*make_data())
    assert not head.converged_ and head.n_iter_ == 3
    assert head.predict(make_data()[0]).shape == (90,)


def test_what_was_reached_is_an_attribute() -> None:
    head = LogisticHead(l2=1e-3).fit(*make_data())
    assert head.converged_ and 1 <= head.n_iter_ < 100
    assert 0 < head.objective_ < np.log(3)


@pytest.mark.parametrize("l2", [0.0, -0.1, float("nan"), float("inf")])
def test_the_penalty_must_be_positive_and_finite(l2: float) -> None:
    with pytest.raises(ValueError, match=rf"l2 must be > 0 and finite for every penalty, got \[{l2}\]"):
        LogisticHead(l2=l2).fit(*make_data())


def test_an_unknown_normalization_gets_a_guess() -> None:
    with pytest.raises(ValueError, match=r"Unknown normalization 'block_rms'\. Did you mean 'block-rms'"):
        LogisticHead(normalization="block_rms").fit(*make_data())


@pytest.mark.parametrize("blocks", [[(0, 3)], [(0, 3), (3, 12)], [(3, 6), (0, 3)], [(0, 4), (3, 6)], [(0, 0), (0, 6)]])
def test_blocks_must_cover_every_column_once(blocks: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="blocks must follow one another from column 0 to 6, got "):
        LogisticHead(normalization="block-l2", blocks=blocks).fit(*make_data())


def test_use_before_fit_says_so() -> None:
    head = LogisticHead()
    for use in (head.logits, head.predict, head.predict_proba, head.decision_function):
        with pytest.raises(NotFittedError, match=r"This LogisticHead is not fitted yet\. Call fit"):
            use(make_data()[0])
    with pytest.raises(NotFittedError):
        head.to_linear()
    for name in ("coef_", "intercept_"):
        with pytest.raises(NotFittedError):
            getattr(head, name)


def test_nan_is_refused_by_row_in_fit_and_in_use_from_arrays_and_tensors() -> None:
    features, labels = make_data()
    head = LogisticHead().fit(features, labels)
    features[41, 2] = np.nan
    for given in (features, torch.from_numpy(features)):
        with pytest.raises(FeatureError, match="features of row 41 hold NaN or infinity"):
            LogisticHead().fit(given, labels)
        with pytest.raises(FeatureError, match="features of row 41 hold NaN or infinity"):
            head.predict(given)


def test_another_width_than_in_fit_is_refused() -> None:
    head = LogisticHead().fit(*make_data())
    with pytest.raises(FeatureError, match=r"features must have shape \(N, 6\) as in fit, got \(4, 5\)"):
        head.logits(torch.zeros(4, 5))
    with pytest.raises(ValueError, match="X has 5 features, but LogisticHead is expecting 6"):
        head.logits(np.zeros((4, 5)))


@pytest.mark.parametrize("shape", [(), (4,), (4, 3, 2)])
def test_tensors_must_be_matrices(shape: tuple[int, ...]) -> None:
    with pytest.raises(FeatureError, match=r"features must have shape \(N, D\)"):
        LogisticHead().fit(torch.zeros(shape), torch.tensor([0, 1, 0, 1]))


def test_one_class_is_nothing_to_learn() -> None:
    features, labels = make_data()
    with pytest.raises(ValueError, match="at least two classes, got one class: 'cat'"):
        LogisticHead().fit(features, np.full(90, "cat"))
    with pytest.raises(ValueError, match="at least two classes, got one class: 0"):
        LogisticHead().fit(torch.from_numpy(features), torch.from_numpy(labels * 0))
    with pytest.raises(ValueError, match="at least two classes, got 1 among 90 training rows"):
        LogisticHead().fit(features, labels * 0, num_classes=3)
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        LogisticHead().fit(features, labels * 0, num_classes=1)


def test_labels_must_be_whole_numbers_in_the_range_of_num_classes() -> None:
    features, labels = make_data()
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\), got 2"):
        LogisticHead().fit(features, labels, num_classes=2)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), got -1"):
        LogisticHead().fit(features, labels - 1, num_classes=3)
    with pytest.raises(ValueError, match=r"labels must be integers in \[0, 3\) with num_classes, got type float64"):
        LogisticHead().fit(features, labels + 0.5, num_classes=3)
    with pytest.raises(ValueError, match=r"labels must be integers in \[0, 3\) with num_classes, got type <U1"):
        LogisticHead().fit(features, np.array(["a", "b", "c"])[labels], num_classes=3)
