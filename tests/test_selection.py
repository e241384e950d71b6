"""Which images to label: each method against plain loops, and against scikit-activeml."""

import numpy as np
import pytest

from tf2 import errors
from tf2.flags import evaluation
from tf2.inspection import neighbors
from tf2.selection import kernel, methods

N, COUNT = 60, 8


@pytest.fixture(name="features")
def _features():
    """Features (60, 6) of four clusters of different sizes."""
    rng = np.random.RandomState(0)
    centers = np.repeat(rng.standard_normal((4, 6)), (30, 15, 10, 5), axis=0)
    return (centers + 0.3 * rng.standard_normal((N, 6))).astype(np.float32)


@pytest.fixture(name="is_labeled")
def _is_labeled():
    labeled = np.zeros(N, bool)
    labeled[[3, 17, 50]] = True
    return labeled


def unit_of(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def width_of(features, parts):
    """Half the median distance to the neighbor number n / parts, one image at a time."""
    unit = unit_of(features.astype(np.float64))
    rank = round(len(unit) / parts)
    return 0.5 * np.median([sorted(np.linalg.norm(unit - x, axis=1))[rank] for x in unit])


def covered_mean(kernels, labeled, weights):
    """mean_x w(x) max_c k(x, c)."""
    return np.mean(
        [w * max(row[c] for c in labeled) for w, row in zip(weights, kernels, strict=True)]
    )


def herd_by_hand(features, labeled, count, weights=None):
    """Returns the chosen images and the unweighted coverage after each."""
    unit, labeled = unit_of(features.astype(np.float64)), list(labeled)
    weights = np.ones(len(unit)) if weights is None else weights
    width, chosen, coverage = width_of(features, len(labeled) + count), [], []
    kernels = [[np.exp(-np.sum((x - y) ** 2) / (2 * width**2)) for y in unit] for x in unit]
    for _ in range(count):
        left = [i for i in range(len(unit)) if i not in labeled]
        scores = [covered_mean(kernels, [*labeled, i], weights) for i in left]
        chosen.append(left[int(np.argmax(scores))])
        labeled.append(chosen[-1])
        coverage.append(covered_mean(kernels, labeled, np.ones(len(unit))))
    return chosen, coverage


def probabilities_of(rng, classes=3):
    values = rng.uniform(size=(N, classes)) ** 3
    return values / values.sum(axis=1, keepdims=True)


# ---- against loops


@pytest.mark.parametrize("with_labels", [False, True])
def test_maxherding_is_the_greedy_maximum_of_the_coverage(features, is_labeled, with_labels):
    labeled = is_labeled & with_labels
    expected, coverage = herd_by_hand(features, np.flatnonzero(labeled), COUNT)
    found = methods.choose(features, COUNT, is_labeled=labeled)
    assert found.indices.tolist() == expected
    np.testing.assert_allclose(found.coverage, coverage, rtol=1e-4)


def test_uncertainty_herding_weighs_images_by_one_minus_their_margin(features, is_labeled):
    probabilities = probabilities_of(np.random.RandomState(1))
    best, second = np.sort(probabilities, axis=1)[:, ::-1][:, :2].T
    labeled = np.flatnonzero(is_labeled)
    expected, _ = herd_by_hand(features, labeled, COUNT, 1 - (best - second))
    found = methods.choose(
        features, COUNT, method="uncertainty_herding", is_labeled=is_labeled,
        probabilities=probabilities,
    )  # fmt: skip
    assert found.indices.tolist() == expected
    assert expected != herd_by_hand(features, labeled, COUNT)[0]


def test_blocks_and_bounds_do_not_change_the_choice(features, is_labeled, monkeypatch):
    whole = methods.choose(features, 20, is_labeled=is_labeled)
    monkeypatch.setattr(kernel, "_ROWS", 7)
    monkeypatch.setattr(kernel, "_AGAIN", 2)
    parts = methods.choose(features, 20, is_labeled=is_labeled)
    np.testing.assert_array_equal(parts.indices, whole.indices)
    np.testing.assert_allclose(parts.coverage, whole.coverage, rtol=1e-5)


def test_few_candidates_are_computed_again(monkeypatch):
    features = np.random.RandomState(0).standard_normal((2000, 8))
    computed = []
    gaussian = kernel.gaussian

    def count(cosines, width):
        computed.append(cosines.size)
        return gaussian(cosines, width)

    monkeypatch.setattr(kernel, "gaussian", count)
    unit = neighbors.normalize(features)
    kernel.herd(unit, np.arange(2000), np.arange(0), 50, width=kernel.find_width(unit, 50))
    assert sum(computed) < 15 * 2000 * 2000  # the plain algorithm: 50


def test_kcenter_takes_the_farthest_image_each_time(features, is_labeled):
    unit = unit_of(features.astype(np.float64))
    labeled = list(np.flatnonzero(is_labeled))
    expected = []
    for _ in range(COUNT):
        distances = [min(np.linalg.norm(x - unit[c]) for c in labeled) for x in unit]
        expected.append(int(np.argmax(distances)))
        labeled.append(expected[-1])
    found = methods.choose(features, COUNT, method="kcenter", is_labeled=is_labeled)
    assert found.indices.tolist() == expected


def test_kcenter_without_labels_begins_nearest_to_the_mean(features):
    unit = unit_of(features.astype(np.float64))
    first = int(np.argmin(np.linalg.norm(unit - unit.mean(axis=0), axis=1)))
    second = int(np.argmax(np.linalg.norm(unit - unit[first], axis=1)))
    found = methods.choose(features, 2, method="kcenter").indices
    assert found.tolist() == [first, second]


def test_margin_takes_the_smallest_differences_of_the_two_best(features, is_labeled):
    probabilities = probabilities_of(np.random.RandomState(2))
    margins = [sorted(row)[-1] - sorted(row)[-2] for row in probabilities]
    order = [i for i in np.argsort(margins) if not is_labeled[i]]
    found = methods.choose(
        features, COUNT, method="margin", is_labeled=is_labeled, probabilities=probabilities
    )
    assert found.indices.tolist() == order[:COUNT]


def test_typiclust_takes_the_most_typical_image_of_each_cluster():
    """Four separate clusters, of which the second has a label: the others, largest first."""
    rng = np.random.RandomState(0)
    centers = np.repeat(10 * np.eye(4), (30, 15, 10, 5), axis=0)
    features = centers + rng.standard_normal((N, 4))
    labeled = np.zeros(N, bool)
    labeled[32] = True
    unit = unit_of(features.astype(np.float64))
    expected = []
    for start, end in ((0, 30), (45, 55), (55, 60)):
        members = range(start, end)
        k = min(20, len(members) // 2)
        typical = [
            1 / np.mean(sorted(np.linalg.norm(unit[i] - unit[j]) for j in members)[1 : k + 1])
            for i in members
        ]
        expected.append(members[int(np.argmax(typical))])
    found = methods.choose(features, 3, method="typiclust", is_labeled=labeled)
    assert found.indices.tolist() == expected


def test_similar_images_share_a_cluster_number(features):
    found = methods.choose(features, 4, method="typiclust")
    true = np.repeat(np.arange(4), (30, 15, 10, 5))[found.indices]
    assert len(set(found.clusters)) == len(set(true)) == 4


def test_random_is_uniform_over_the_unlabeled_images(features, is_labeled):
    counts = np.zeros(N, int)
    draws = 3000
    for seed in range(draws):
        pool = methods.Pool(features, is_labeled, 1.0, seed=seed)
        counts[methods.METHODS["random"](pool, 5)] += 1
    assert counts[is_labeled].sum() == 0
    expected = draws * 5 / (N - 3)
    chi_square = np.sum((counts[~is_labeled] - expected) ** 2 / expected)
    assert 25 < chi_square < 95  # of 56 degrees of freedom, at 0.999 either way


def test_the_width_follows_the_data_and_the_number_of_labels(features):
    for parts in (4, 10, 30):
        found = kernel.find_width(neighbors.normalize(features), parts)
        assert found == pytest.approx(width_of(features, parts), rel=1e-3)
    near = neighbors.normalize(1 + 0.1 * features)
    assert kernel.find_width(near, 10) < kernel.find_width(neighbors.normalize(features), 10)
    assert kernel.find_width(np.tile(near[:1], (9, 1)), 3) > 0  # images that are all the same


# ---- every method

ALL = list(methods.METHODS)


@pytest.mark.parametrize("method", ALL)
def test_a_choice_is_new_images_and_the_same_for_a_seed(features, is_labeled, method):
    arguments = {"method": method, "is_labeled": is_labeled}
    arguments["probabilities"] = probabilities_of(np.random.RandomState(3))
    found = methods.choose(features, COUNT, seed=1, **arguments)
    assert len(set(found.indices)) == COUNT and not is_labeled[found.indices].any()
    assert found.clusters.shape == found.coverage.shape == (COUNT,)
    assert np.all(np.diff(found.coverage) >= 0) and 0 < found.coverage[-1] <= 1
    again = methods.choose(features, COUNT, seed=1, **arguments)
    np.testing.assert_array_equal(again.indices, found.indices)


@pytest.mark.parametrize("method", ALL)
def test_all_images_can_be_chosen(features, is_labeled, method):
    probabilities = probabilities_of(np.random.RandomState(3))
    found = methods.choose(
        features, N - 3, method=method, is_labeled=is_labeled, probabilities=probabilities
    )
    assert sorted(found.indices) == np.flatnonzero(~is_labeled).tolist()
    assert found.coverage[-1] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("method", ["maxherding", "typiclust", "kcenter", "random"])
def test_images_that_are_all_the_same_and_a_single_one_are_chosen(method):
    assert len(set(methods.choose(np.ones((5, 3)), 3, method=method).indices)) == 3
    assert methods.choose(np.ones((1, 3)), 1, method=method).indices.tolist() == [0]


def test_the_flag_has_the_methods_of_the_registry():
    choices = evaluation.Evaluation.__dataclass_fields__["select_method"].metadata["choices"]
    assert list(choices) == ALL
    assert set(evaluation.CLASSIFIER_METHODS) < set(ALL)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"count": 58}, "there are 57. Received: count=58. Set --count to 1 to 57"),
        ({"count": 0}, "Received: count=0"),
        ({"method": "magic"}, "one of maxherding.*Received: select_method=magic"),
        ({"method": "margin"}, "needs a network with a classifier.*select_method=margin"),
        ({"is_labeled": np.ones(N, bool)}, "there are 0.*All images are labeled"),
    ],
    ids=["too many", "none", "method", "classifier", "all labeled"],
)
def test_an_impossible_choice_is_one_sentence(features, is_labeled, changes, words):
    arguments = {"count": COUNT, "is_labeled": is_labeled, **changes}
    with pytest.raises(errors.UserError, match=words) as caught:
        methods.choose(features, **arguments)
    assert "\n" not in str(caught.value)


# ---- against scikit-activeml, where it is installed


@pytest.fixture(name="pool", scope="module")
def _pool():
    return pytest.importorskip("skactiveml.pool", reason="pip install scikit-activeml")


def query(strategy, features, is_labeled, **arguments):
    """Returns the images that one of its strategies chooses, in order."""
    labels = np.where(is_labeled, np.arange(N) % 3, np.nan)
    found = strategy.query(X=unit_of(features.astype(np.float64)), y=labels, **arguments)
    return np.asarray(found).tolist()


def test_maxherding_and_kcenter_agree_with_scikit_activeml(pool, features, is_labeled):
    gamma = 1 / (2 * kernel.find_width(neighbors.normalize(features), 3 + COUNT) ** 2)
    theirs = {
        "maxherding": pool.MaxHerding(
            metric="rbf", metric_dict={"gamma": gamma}, missing_label=np.nan
        ),
        "kcenter": pool.CoreSet(missing_label=np.nan),
    }
    for method, strategy in theirs.items():
        ours = methods.choose(features, COUNT, method=method, is_labeled=is_labeled).indices
        assert query(strategy, features, is_labeled, batch_size=COUNT) == ours.tolist(), method


def test_typiclust_agrees_with_scikit_activeml(pool, features, is_labeled):
    """For one image per cluster of at least five; the order of equal sizes may differ."""
    ours = methods.choose(features, 1, method="typiclust", is_labeled=is_labeled).indices
    clusters = {"n_init": 1, "random_state": 0}
    strategy = pool.TypiClust(missing_label=np.nan, k=20, cluster_algo_dict=clusters)
    assert len(query(strategy, features, is_labeled, batch_size=1)) == len(ours) == 1


def test_margin_agrees_with_scikit_activeml(pool, features, is_labeled):
    from skactiveml import classifier
    from sklearn import linear_model

    model = classifier.SklearnClassifier(linear_model.LogisticRegression(), classes=range(3))
    labels = np.where(is_labeled, np.arange(N) % 3, np.nan)
    unit = unit_of(features.astype(np.float64))
    probabilities = model.fit(unit, labels).predict_proba(unit)
    strategy = pool.UncertaintySampling(method="margin_sampling", missing_label=np.nan)
    theirs = query(strategy, features, is_labeled, clf=model, batch_size=COUNT)
    ours = methods.choose(
        features, COUNT, method="margin", is_labeled=is_labeled, probabilities=probabilities
    )
    assert ours.indices.tolist() == theirs
