"""Confidence intervals against published numbers, their defining equation and their coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from tf2 import intervals

Z = stats.norm.ppf(0.975)


@pytest.mark.parametrize(
    "correct, n, low, high",
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", Table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_the_published_ones(correct, n, low, high):
    assert intervals.wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("correct, n", [(87, 100), (1, 1), (0, 3), (218, 250), (7.0, 9.0)])
def test_a_bound_is_where_the_accuracy_is_z_standard_errors_away(correct, n):
    p = correct / n
    # |p - bound| = Z sqrt(bound (1 - bound) / n), squared.
    roots = np.roots([1 + Z**2 / n, -(2 * p + Z**2 / n), p**2])
    assert intervals.wilson(correct, n) == pytest.approx(sorted(roots), abs=1e-7)


def test_an_interval_is_in_0_to_1_holds_the_accuracy_and_shrinks_with_the_images():
    for n in (1, 7, 50, 1000):
        for correct in range(n + 1):
            low, high = intervals.wilson(correct, n)
            assert 0 <= low <= correct / n <= high <= 1
    widths = [np.diff(intervals.wilson(0.8 * n, n))[0] for n in (10, 100, 1000)]
    assert widths == sorted(widths, reverse=True)
    assert intervals.wilson(0, 0) == (0.0, 1.0)


def test_the_mean_of_one_class_has_the_wilson_interval():
    assert intervals.mean_of_classes([9], [12]) == pytest.approx(intervals.wilson(9, 12))
    assert intervals.mean_of_classes([9, 0], [12, 0]) == pytest.approx(intervals.wilson(9, 12))
    assert intervals.mean_of_classes([], []) == (0.0, 1.0)


def test_the_interval_of_a_mean_of_classes_counted_by_hand():
    # Wilson of 5 of 10 is 0.5 -+ 0.2634, of 0 of 20 it is 0 to 0.1611.
    low, high = intervals.mean_of_classes([5, 0], [10, 20])
    assert low == pytest.approx(0.25 - 0.2634 / 2, abs=1e-4)
    assert high == pytest.approx(0.25 + math.hypot(0.2634, 0.1611) / 2, abs=1e-4)


def test_the_interval_of_a_mean_of_classes_covers_it_in_about_95_of_100_draws():
    truth, counts = np.array([0.9, 0.6, 0.75]), np.array([12, 40, 8])
    draws = np.random.RandomState(0).binomial(counts, truth, size=(3000, 3))
    bounds = np.array([intervals.mean_of_classes(draw, counts) for draw in draws])
    covered = np.mean((bounds[:, 0] <= truth.mean()) & (truth.mean() <= bounds[:, 1]))
    assert 0.93 <= covered <= 0.98


def test_an_accuracy_is_written_with_its_interval():
    assert intervals.text(0.8719, (0.834, 0.90289)) == "87.2 % (83.4 to 90.3)"
    assert intervals.text(0.8719, None, decimals=2) == "87.19 %"


def test_a_result_has_an_interval_where_both_bounds_are_there():
    results = {"eval/knn_accuracy": 0.5, "eval/knn_low": 0.4, "eval/knn_high": 0.6}
    assert intervals.of_result(results, "eval/knn_accuracy") == (0.4, 0.6)
    assert intervals.of_result(results, "eval/contrast_acc") is None
