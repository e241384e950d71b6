"""Which labeled images are held out for evaluation."""

import collections

import pytest

from tf2.sources import holdout


@pytest.mark.parametrize(
    "labeled, held_out",
    [(1, 0), (2, 0), (3, 1), (4, 2), (5, 2), (9, 2), (10, 2), (20, 4), (100, 20)],
)
def test_a_fifth_of_a_class_but_two_where_that_leaves_two(labeled, held_out):
    assert holdout.count(labeled, 0.2) == held_out


def test_a_large_fraction_leaves_two_to_train_on():
    assert holdout.count(10, 0.99) == 8
    assert holdout.count(3, 0.9) == 1


def _folder(sizes):
    paths = [f"{name}/{number}.jpg" for name, size in sizes.items() for number in range(size)]
    return paths, [path.split("/")[0] for path in paths]


def test_the_same_fraction_of_each_class_and_no_unlabeled_image_is_held_out():
    paths, classes = _folder({"a": 10, "b": 50, "c": 200})
    paths, classes = [*paths, "x.jpg", "y.jpg"], [*classes, None, None]
    chosen = holdout.choose(paths, classes, 0.2)
    assert collections.Counter(classes[i] for i in chosen) == {"a": 2, "b": 10, "c": 40}


def test_the_choice_depends_on_the_seed_and_the_paths_alone():
    paths, classes = _folder({"a": 40, "b": 40})
    chosen = {paths[i] for i in holdout.choose(paths, classes, 0.2)}
    backwards = holdout.choose(paths[::-1], classes[::-1], 0.2)
    assert {paths[::-1][i] for i in backwards} == chosen
    assert {paths[i] for i in holdout.choose(paths, classes, 0.2, seed=1)} != chosen
    windows = holdout.choose([path.replace("/", "\\") for path in paths], classes, 0.2)
    assert {paths[i] for i in windows} == chosen


def test_images_that_are_added_change_little():
    paths, classes = _folder({"a": 100, "b": 100})
    before = {paths[i] for i in holdout.choose(paths, classes, 0.2)}
    more = [*paths, "a/new.jpg"]
    after = {more[i] for i in holdout.choose(more, [*classes, "a"], 0.2)}
    assert len(before & after) >= 39
