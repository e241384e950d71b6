"""Image operations give the reference's numbers; random ones have its distributions."""

import collections

import numpy as np
import pytest
import reference
import tensorflow as tf
from scipy import stats

from tf2 import data_util
from tf2.augment import color_ops
from tf2.parity import evaluation as parity_evaluation
from tf2.parity import golden


def test_every_deterministic_image_operation():
    results = reference.check(parity_evaluation.preprocessing, at_least=100)
    cases = {r.case.split("/")[0].split(" ")[0] for r in results}
    assert cases == {
        "crop_shape", "center_crop", "eval_nocrop", "blur", "gray", "gray1", "brightness", "jitter",
    }  # fmt: skip
    sizes = next(r for r in results if r.case == "crop_shape")
    assert sizes.reference == 450


def test_a_clone_without_the_whole_pack_compares_them_too():
    pack = golden.Pack([reference.GOLDEN])
    results = parity_evaluation.preprocessing(pack)
    assert len(results) >= 100 and all(r.passed for r in results)


# --- Tables of random operations that `test_data_util.py` doesn't already hold -----------------

DRAWS = 5000


@pytest.fixture(scope="module")
def table():
    return reference.PACK.json("07_preprocess/random_statistics.json")


def draw(function, count=DRAWS, salt=0):
    seeds = tf.stack(
        [tf.fill([count], tf.constant(salt, tf.int64)), tf.range(count, dtype="int64")], 1
    )
    return next(iter(tf.data.Dataset.from_tensor_slices(seeds).map(function).batch(count)))


def same_fraction(ours, expected, count=DRAWS):
    """The pack's criterion: within 4.5 * sqrt(2) standard errors."""
    assert count >= expected["n"]
    assert abs(ours - expected["fraction"]) <= 4.5 * 2**0.5 * expected["standard_error"]


def test_the_order_of_the_jitter_s_operations_has_the_reference_s_counts(table):
    expected = table["jitter_order"]["counts"]
    orders = draw(lambda seed: color_ops.jitter_parameters(seed)[1]).numpy()
    ours = collections.Counter("".join(map(str, order)) for order in orders)
    assert set(ours) == set(expected)
    counts = [[ours[order], expected[order]] for order in expected]
    assert stats.chi2_contingency(counts).pvalue > 1e-4


def test_half_of_the_crops_are_mirrored(table):
    image = tf.tile(tf.range(64, dtype=tf.int32)[tf.newaxis, :, tf.newaxis], [64, 1, 3])
    image = tf.cast(image * 4, tf.uint8)  # brighter to the right
    views = draw(lambda seed: data_util.preprocess_for_train(image, seed, 8, 8)).numpy()
    mirrored = (views[:, :, 0] > views[:, :, -1]).all((1, 2)).mean()
    same_fraction(mirrored, table["flip_after_crop"])


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_as_many_images_as_the_references_keep_their_colors(table, number):
    entry = table["random_color_jitter"][number]
    image = data_util.to_float(reference.PACK.arrays("07_preprocess/deterministic.npz")["image5"])
    image = image[:8, :8]  # whether colors change does not depend on the size
    images = draw(lambda seed: color_ops.random_color_jitter(image, seed, entry["strength"]))
    unchanged = (np.abs(images - image).max((1, 2, 3)) < 1e-6).mean()
    same_fraction(unchanged, entry["unchanged"])


def test_blur_s_sigma_is_above_0_3_as_often_as_the_reference_s(table):
    sigmas = draw(data_util.blur_sigma).numpy()
    assert sigmas.min() >= 0.1 and sigmas.max() <= 2.0
    for entry in table["batch_random_blur"]:
        same_fraction((sigmas > 0.3).mean(), entry["fraction_of_batches_with_sigma_above_0.3"])
