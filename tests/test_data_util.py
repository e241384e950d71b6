"""Image ops against the reference's numbers, and by distribution."""

import itertools

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from scipy import stats

from tf2 import data_util, training
from tf2.augment import color_ops, extra_ops
from tf2.parity import golden

DRAWS = 5000
SLOW = pytest.mark.slow
# Thousands of small calls take less CPU time in one thread.
ONE_THREAD = tf.data.Options()
ONE_THREAD.autotune.enabled = False
ONE_THREAD.threading.private_threadpool_size = 1
ONE_THREAD.threading.max_intra_op_parallelism = 1


def _load(json_name, npz_name):
    try:
        table = reference.PACK.json(f"07_preprocess/{json_name}")
        return table, reference.PACK.arrays(f"07_preprocess/{npz_name}")
    except golden.MissingData as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def fixed():
    return _load("deterministic.json", "deterministic.npz")


@pytest.fixture(scope="module")
def drawn():
    return _load("random_statistics.json", "random_draws.npz")


def _expect(arrays, key, value, atol):
    value = np.asarray(value)
    if key in arrays:
        np.testing.assert_allclose(value, arrays[key], rtol=0, atol=atol)
    else:
        some = value.ravel()[arrays[f"{key}/index"]]
        np.testing.assert_allclose(some, arrays[f"{key}/value"], rtol=0, atol=atol)


def _seeds(count, salt=0):
    return tf.stack(
        [tf.fill([count], tf.constant(salt, tf.int64)), tf.range(count, dtype=tf.int64)], 1
    )


def _draw(function, count=DRAWS, salt=0):
    """Calls function(seed) for many seeds inside tf.data, as the input does."""
    dataset = tf.data.Dataset.from_tensor_slices(_seeds(count, salt)).map(function).batch(count)
    return next(iter(dataset.with_options(ONE_THREAD)))


def _same_distribution(ours, reference):
    assert stats.ks_2samp(np.asarray(ours), np.asarray(reference)).pvalue > 1e-4


def _same_mean(ours, reference):
    ours, reference = np.asarray(ours, float), np.asarray(reference, float)
    error = np.sqrt(ours.var() / len(ours) + reference.var() / len(reference))
    assert abs(ours.mean() - reference.mean()) <= 4.5 * error + 1e-12


def _same_fraction(fraction, count, reference, probability):
    error = np.sqrt(2 * probability * (1 - probability) / count)
    assert abs(fraction - reference) <= 4.5 * error
    assert abs(fraction - probability) <= 4.5 * error


def test_center_crop_shapes_equal_the_reference(fixed):
    rows = np.array(fixed[0]["crop_shape"]["rows"])
    columns = fixed[0]["crop_shape"]["columns"]
    assert columns[:4] == [
        "image_height",
        "image_width",
        "aspect_ratio_w_over_h",
        "crop_proportion",
    ]
    shapes = [
        data_util.compute_crop_shape(int(h), int(w), aspect, proportion)
        for h, w, aspect, proportion in rows[::3, :4]
    ]
    np.testing.assert_array_equal(np.array(shapes), rows[::3, 4:].astype(int))


def test_center_crop_equals_the_reference_eagerly_and_in_tf_data(fixed):
    table, arrays = fixed
    for entry in table["center_crop"]:
        key = entry["key"]
        height, width = map(int, key.rsplit("/", 1)[1].split("x"))
        image = arrays[key.split("/")[1]]
        crop = data_util.center_crop(image, height, width)
        _expect(arrays, key, crop, 2e-6)
        dataset = tf.data.Dataset.from_tensors(image)
        dataset = dataset.map(lambda p, h=height, w=width: data_util.preprocess_for_eval(p, h, w))
        evaluated = next(iter(dataset)).numpy()
        np.testing.assert_allclose(evaluated, np.clip(crop, 0, 1), rtol=0, atol=1e-7)
        assert evaluated.sum(dtype=np.float64) == pytest.approx(
            entry["eval_clipped"]["sum"], rel=1e-6
        )


def test_evaluation_at_32_pixels_takes_the_whole_image(fixed):
    _, arrays = fixed
    image = data_util.preprocess_image(arrays["image5"], 32, 32)
    _expect(arrays, "eval_nocrop/image5/32x32", image, 2e-6)
    # Unlike the reference, images of another size are resized: here 80 to 32.
    assert data_util.preprocess_image(arrays["image2"], 32, 32).shape == (32, 32, 3)


def test_legacy_resize_is_tensorflow_ones(fixed):
    table, arrays = fixed
    image = arrays["image0"]
    entry = next(e for e in table["center_crop"] if e["key"] == "center_crop/image0/224x224")
    ours = data_util.center_crop(image, 224, 224, resize="legacy").numpy()
    expected = tf.compat.v1.image.resize_bicubic(
        (image / np.float32(255))[np.newaxis, 3:45, 11:53], [224, 224]
    )[0]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6)
    # The half-pixel crop is the reference's, by the test above.
    difference = np.abs(ours - data_util.center_crop(image, 224, 224)).max()
    assert difference == pytest.approx(entry["max_abs_diff_tf1_legacy_bicubic"], abs=1e-5)
    with pytest.raises(ValueError, match="resize='bilinear'"):
        data_util.resize_bicubic(image, 8, 8, "bilinear")


def test_gaussian_blur_equals_the_reference(fixed):
    table, arrays = fixed
    image = data_util.to_float(arrays["image2"])
    for entry in table["gaussian_blur"]:
        blurred = data_util.gaussian_blur(
            image, entry["kernel_size"], entry["sigma"], entry["padding"]
        )
        assert list(blurred.shape) == entry["shape"]
        _expect(arrays, entry["key"], blurred, 2e-6)


def test_grayscale_equals_the_reference(fixed):
    _, arrays = fixed
    image = data_util.to_float(arrays["image5"])
    _expect(arrays, "gray/image5", data_util.to_grayscale(image), 2e-6)
    _expect(arrays, "gray1/image5", data_util.to_grayscale(image, keep_channels=False), 2e-6)


def test_color_jitter_equals_the_reference_eagerly_and_in_tf_data(fixed):
    table, arrays = fixed
    image = data_util.to_float(arrays["image5"])
    jitter = tf.function(color_ops.apply_color_jitter)
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_delta")
    rows = table["color_jitter_fixed"]["rows"]
    for number, row in enumerate(rows):
        factors = tf.constant([row[name] for name in names], tf.float32)
        order = tf.constant(row["order"])
        run = color_ops.apply_color_jitter if number < 2 else jitter
        _expect(arrays, row["key"], run(image, factors, order), 5e-6)


def test_hue_and_saturation_equal_tensorflows_also_beyond_the_range():
    # Bicubic resizing overshoots [0, 1]; grays and pure colors divide zero by zero.
    image = np.random.RandomState(0).uniform(-0.1, 1.1, (40, 40, 3)).astype(np.float32)
    image[0], image[1, :, 1:], image[2, :, 0] = 0.5, 0.0, image[2, :, 1]
    planes = color_ops.to_planes(tf.constant(image))
    for factor in (0.0, 0.3, 1.0, 1.8):
        ours = color_ops.from_planes(color_ops._adjust_saturation(planes, factor))
        expected = tf.image.adjust_saturation(image, factor)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6)
    for delta in (-0.2, -0.01, 0.0, 0.15):
        ours = color_ops.from_planes(color_ops._adjust_hue(planes, delta))
        np.testing.assert_allclose(ours, tf.image.adjust_hue(image, delta), rtol=0, atol=2e-6)


def test_simclrv1_adds_brightness_and_simclrv2_multiplies():
    image = tf.fill([4, 4, 3], 0.5)
    order = tf.range(4)
    for impl, factor, expected in (("simclrv2", 0.5, 0.25), ("simclrv1", 0.25, 0.75)):
        factors = tf.constant([factor, 1.0, 1.0, 0.0])
        result = color_ops.apply_color_jitter(image, factors, order, impl)
        np.testing.assert_allclose(result, expected, atol=1e-6)
    draws, _ = _draw(lambda seed: color_ops.jitter_parameters(seed, 1.0, "simclrv1"))
    assert stats.kstest(draws[:, 0], "uniform", (-0.8, 1.6)).pvalue > 1e-4


def test_color_jitter_refuses_what_it_cannot_do(fixed):
    assert "ValueError" in fixed[0]["color_jitter_strength_1.3"]
    with pytest.raises(ValueError, match="strength=1.3"):
        color_ops.jitter_parameters([0, 0], 1.3)
    with pytest.raises(ValueError, match="impl='simclrv3'"):
        color_ops.jitter_parameters([0, 0], 1.0, "simclrv3")


@pytest.mark.parametrize("number", range(5))
def test_random_crops_are_distributed_as_the_references(drawn, number):
    table, arrays = drawn
    entry = table["random_crop"][number]
    height, width = entry["image_height"], entry["image_width"]
    aspect = entry["target_width"] / entry["target_height"]
    boxes = _draw(
        lambda seed: data_util.random_crop_box([height, width, 3], seed, aspect), salt=number
    ).numpy()
    reference = arrays[entry["key"]]  # columns: height, width, top, left
    ours = boxes[:, [2, 3, 0, 1]].astype(float)
    for mine, theirs in zip(ours.T, reference.astype(float).T, strict=True):
        _same_mean(mine, theirs)
        _same_distribution(mine, theirs)
    area = ours[:, 0] * ours[:, 1] / (height * width)
    _same_distribution(area, reference[:, 0].astype(float) * reference[:, 1] / (height * width))
    assert area.min() >= 0.1
    assert (ours[:, 0] + ours[:, 2]).max() <= height
    assert (ours[:, 1] + ours[:, 3]).max() <= width


@pytest.mark.parametrize("number", range(2))
def test_jitter_parameters_are_distributed_as_the_references(drawn, number):
    table, arrays = drawn
    entry = table["jitter_parameters"][number]
    factors, orders = _draw(
        lambda seed: color_ops.jitter_parameters(seed, entry["strength"]), salt=number
    )
    for mine, theirs in zip(factors.numpy().T, arrays[entry["key"]].T, strict=True):
        _same_mean(mine, theirs)
        _same_distribution(mine, theirs)
    counts = np.unique(orders.numpy(), axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=SLOW)])
def test_random_color_jitter_is_distributed_as_the_references(fixed, drawn, number):
    table, arrays = drawn
    entry = table["random_color_jitter"][number]
    image = data_util.to_float(fixed[1]["image5"])
    images = _draw(
        lambda seed: data_util.random_color_jitter(image, seed, entry["strength"]), salt=number
    ).numpy()
    gray = np.ptp(images, axis=3).max((1, 2)) < 1e-6
    _same_fraction(gray.mean(), DRAWS, entry["grayscale"]["fraction"], 0.2)
    plain = np.abs(images - image).max((1, 2, 3)) < 1e-6
    flat = np.abs(images - data_util.to_grayscale(image)).max((1, 2, 3)) < 1e-6
    jittered = 1.0 - (plain | flat).mean()
    _same_fraction(jittered, DRAWS, entry["color_jittered"]["fraction"], 0.8)
    _same_pixels(images, arrays, entry["key"], skip_columns=2)


@pytest.mark.parametrize("number", [0, 4, *(pytest.param(n, marks=SLOW) for n in (1, 2, 3, 5))])
def test_training_images_are_distributed_as_the_references(fixed, drawn, number):
    """Means and deviations of 5,000 views by channel, and the mean image.

    The default has one image at full strength and without jitter; the slow ones have another image
    and another strength.
    """
    table, arrays = drawn
    entry = table["training_pipeline_32x32"][number]
    image = tf.constant(fixed[1][f"image{entry['image']}"])
    images = _draw(
        lambda seed: data_util.preprocess_for_train(
            image, seed, 32, 32, color_jitter_strength=entry["strength"]
        ),
        salt=number,
    ).numpy()
    assert images.min() >= 0.0 and images.max() <= 1.0
    # The extremes of 15 million pixels vary by about 0.01 between seeds.
    assert images.min() == pytest.approx(entry["output_min"], abs=0.03)
    assert images.max() == pytest.approx(entry["output_max"], abs=0.03)
    _same_pixels(images, arrays, entry["key"], skip_columns=0)


def _same_pixels(images, arrays, key, skip_columns):
    reference = arrays[key][:, skip_columns:].T
    ours = np.concatenate([images.mean((1, 2)), images.std((1, 2))], 1).T
    for mine, theirs in zip(ours, reference, strict=True):
        _same_mean(mine, theirs)
        _same_distribution(mine, theirs)
    deviation = np.sqrt((images.var(0) + arrays[f"{key}/std_image"] ** 2) / DRAWS)
    distance = np.abs(images.mean(0) - arrays[f"{key}/mean_image"]) / (deviation + 1e-9)
    assert distance.max() < 6.0  # over 3,072 pixels; 4.5 for each alone


def test_half_of_the_images_are_mirrored(drawn):
    image = tf.constant([[[0], [255]]], tf.uint8)
    images = _draw(lambda seed: data_util.preprocess_for_train(image, seed, 1, 2, crop=False))
    mirrored = float(np.mean(images[:, 0, 0, 0] > images[:, 0, 1, 0]))
    _same_fraction(mirrored, DRAWS, drawn[0]["flip"]["fraction"], 0.5)
    kept = _draw(
        lambda seed: data_util.preprocess_for_train(image, seed, 1, 2, crop=False, flip=False), 50
    )
    assert np.all(kept[:, 0, 0, 0] < kept[:, 0, 1, 0])
    flips = _draw(lambda seed: data_util.random_flip(image, seed))
    _same_fraction(float(np.mean(flips[:, 0, 0, 0] > 0)), DRAWS, 0.5, 0.5)


def test_views_are_a_pure_function_of_the_seed_and_differ(fixed):
    image = fixed[1]["image3"]

    def views(seed):
        return data_util.preprocess_for_train(
            image, seed, 24, 24, num_views=2, color_jitter_strength=1.0, rotation_degrees=5.0
        )

    mapped, other = tf.data.Dataset.from_tensor_slices([[3, 4], [3, 5]]).map(views)
    np.testing.assert_allclose(views([3, 4]), mapped, rtol=0, atol=1e-6)
    assert np.abs(mapped[..., :3] - mapped[..., 3:]).max() > 0.05
    assert np.abs(mapped - other).max() > 0.05


def test_both_views_draw_their_own_sigma(monkeypatch):
    """The blur is replaced by the sigma itself, as the value of every pixel."""
    monkeypatch.setattr(
        data_util, "gaussian_blur", lambda images, _, sigma: 0.0 * images + sigma / 2.0
    )
    images = tf.zeros([3, 20, 20, 3])
    sigmas = []
    for step in range(20):
        views = data_util.batch_random_blur([images, images], tf.constant([7, step]), p=1.1)
        sigmas.append([np.unique(view.numpy()).item() for view in views])
    first, second = np.array(sigmas).T
    assert len({*first, *second}) == 40 and 0.05 <= min(*first, *second)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.6


def test_every_step_blurs_anew_and_the_same_step_alike(monkeypatch):
    seen = []

    def stop(model, images, *_):  # before the network, which is not needed
        seen.append(images.numpy())
        raise StopIteration

    monkeypatch.setattr(training.micro_batches_lib, "contrastive_gradients", stop)
    optimizer = keras.optimizers.SGD()
    images = tf.constant(np.random.RandomState(0).uniform(size=(8, 20, 20, 6)).astype(np.float32))
    for step in (0, 1, 2, 3, 0):
        optimizer.iterations.assign(step)
        with pytest.raises(StopIteration):
            training.pretrain_step(
                None, optimizer, {"image": images}, trained=(), use_blur=True, seed=3
            )
    *steps, again = seen
    np.testing.assert_array_equal(steps[0], again)
    for one, other in itertools.combinations(steps, 2):
        assert np.abs(one - other).max() > 1e-3


def test_one_sigma_per_view_and_half_of_the_images_blurred(drawn):
    image = np.random.RandomState(0).uniform(size=(32, 32, 1)).astype(np.float32)
    images = tf.constant(np.repeat(image[np.newaxis], 32, 0))
    blur = tf.function(lambda seed: data_util.batch_random_blur([images, images], seed))
    fractions, sharpness = [], []
    for step in range(150):
        for view in blur(tf.constant([7, step])):
            std = view.numpy().std((1, 2, 3))
            fractions.append(std < image.std() - 1e-4)
            if fractions[-1].any():
                assert np.ptp(std[fractions[-1]]) < 1e-5  # one sigma
                sharpness.append(std.min())
    # A sigma below about 0.2 leaves the image unchanged and is not counted.
    visible = np.concatenate([part for part in fractions if part.any()])
    _same_fraction(visible.mean(), len(visible), 0.5, 0.5)
    assert len(np.unique(np.round(sharpness, 5))) > 150
    sigmas = _draw(data_util.blur_sigma)
    for entry in drawn[0]["batch_random_blur"]:
        reference = drawn[1][f"{entry['key']}/sigma_above_0.3"]
        _same_distribution(sigmas[sigmas > 0.3], reference)


def test_blur_does_not_depend_on_the_number_of_replicas():
    images = tf.random.stateless_uniform([8, 20, 20, 3], [1, 2])
    whole = data_util.batch_random_blur([images, images], [5, 6])
    for replicas in (2, 4):
        size = 8 // replicas
        for replica in range(replicas):
            part = images[replica * size : (replica + 1) * size]
            mine = data_util.batch_random_blur([part, part], [5, 6], replicas, replica)
            for view in range(2):
                expected = whole[view][replica * size : (replica + 1) * size]
                np.testing.assert_allclose(mine[view], expected, rtol=0, atol=1e-6)


def test_random_blur_keeps_the_image_with_the_rest_of_the_probability():
    image = tf.random.stateless_uniform([20, 20, 2], [1, 2])
    results = _draw(lambda seed: data_util.random_blur(image, seed, 20, 20, p=0.3), 1000)
    changed = np.abs(results - image).max((1, 2, 3)) > 0
    _same_fraction(changed.mean(), 1000, 0.3, 0.3)


def test_rotation_turns_counterclockwise_about_the_center():
    image = np.random.RandomState(0).uniform(size=(9, 9, 2)).astype(np.float32)
    turned = extra_ops.rotate(tf.constant(image), np.pi / 2)
    np.testing.assert_allclose(turned, np.rot90(image), atol=1e-5)
    ramp = tf.constant(
        np.linspace(0, 1, 33, dtype=np.float32)[None, :, None] * np.ones((33, 1, 1), np.float32)
    )
    turns = _draw(lambda seed: data_util.random_rotation(ramp, seed, 20.0), 500).numpy()
    slope = turns[:, 17, 16, 0] - turns[:, 15, 16, 0]  # sin(angle) * 2 / 32
    angles = np.degrees(np.arcsin(slope * 16))
    assert stats.kstest(angles, "uniform", (-20, 40)).pvalue > 1e-4


def test_noise_has_the_asked_standard_deviation_and_views_stay_in_range():
    noise = data_util.random_noise(tf.fill([64, 64, 3], 0.5), [1, 2], 0.1) - 0.5
    assert np.std(noise) == pytest.approx(0.1, rel=0.05)
    assert np.mean(noise) == pytest.approx(0.0, abs=0.005)
    view = data_util.preprocess_for_train(
        np.full((8, 8, 3), 250, np.uint8), [1, 2], 8, 8, noise_std=0.5
    )
    assert view.numpy().max() == 1.0 and view.numpy().min() >= 0.0


def test_cutout_covers_one_square_anywhere_inside():
    images = _draw(
        lambda seed: data_util.random_cutout(tf.zeros([12, 8, 2]), seed, 0.5), 500
    ).numpy()
    assert np.all(images[..., 0] == images[..., 1])
    assert np.all((images[..., 0] == 0.5).sum((1, 2)) == 16)
    rows = (images[..., 0] > 0).any(2).argmax(1)
    columns = (images[..., 0] > 0).any(1).argmax(1)
    assert stats.chisquare(np.bincount(rows, minlength=9)).pvalue > 1e-4
    assert stats.chisquare(np.bincount(columns, minlength=5)).pvalue > 1e-4


def test_sobel_edges_are_the_gradients_of_gray_in_training_and_evaluation():
    ramp = np.zeros((8, 8, 3), np.uint8)
    ramp[...] = (10 * np.arange(8))[None, :, None]
    edges = data_util.preprocess_for_eval(ramp, 8, 8, crop=False, sobel=True).numpy()
    # 3x3 Sobel of a ramp of 10/255 per column: 8 * 10/255 across, mapped by / 8 + 0.5.
    np.testing.assert_allclose(edges[1:-1, 1:-1, 1], 0.5 + 10 / 255 * 0.9999, atol=1e-5)
    np.testing.assert_allclose(edges[1:-1, 1:-1, 0], 0.5, atol=1e-6)
    view = data_util.preprocess_for_train(ramp, [1, 2], 8, 8, num_views=2, sobel=True)
    assert view.shape == (8, 8, 2 * data_util.output_channels(3, sobel=True))
    assert view.numpy().min() >= 0.0 and view.numpy().max() <= 1.0


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels(channels):
    image = np.random.RandomState(0).randint(0, 256, (20, 30, channels)).astype(np.uint8)
    options = {"rotation_degrees": 9.0, "noise_std": 0.1, "cutout_size": 0.2}
    for resize in ("half_pixel", "legacy"):
        view = data_util.preprocess_image(
            image, 16, 16, True, 1.0, seed=[1, 2], resize=resize, num_views=2, **options
        )
        assert view.shape == (16, 16, 2 * channels)
        assert data_util.preprocess_image(image, 48, 48, resize=resize).shape == (
            48,
            48,
            channels,
        )
    if channels != 3:  # color ops are off
        gray = data_util.preprocess_image(image, 16, 16, True, 1.0, seed=[1, 2])
        plain = data_util.preprocess_image(image, 16, 16, True, 0.0, seed=[1, 2])
        np.testing.assert_array_equal(gray, plain)
