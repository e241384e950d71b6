"""Batches: pure in seed and step, the same for any sharding, exact in evaluation."""

import numpy as np
import pytest
import tensorflow as tf

from tf2 import config, data, data_util, errors
from tf2.benchmark import speed
from tf2.sources import loaders, memory, source


@pytest.fixture(scope="module")
def digits():
    return loaders.load_source("digits")


class _Sequential(source.Source):
    """A source that can only be read in sequence; images hold their own number."""

    random_access = False

    def __init__(self, size=23, num_classes=3, channels=3):
        super().__init__("sequential", {"train": size}, num_classes=num_classes, channels=channels)

    def decode(self, record):
        image = tf.cast(tf.fill([5, 4, self.channels], record["image"]), tf.uint8)
        return {"image": image, "label": record["label"], "id": record["id"]}

    def _stored_ids(self, split):
        return [str(number) for number in range(self.splits[split])]

    def _epoch(self, split, seed, epoch):
        positions = tf.data.Dataset.range(self.splits[split])
        return positions.map(lambda position: (position, position))

    def _parse(self, raw, position):
        label = raw % self.num_classes if self.num_classes else tf.constant(-1, tf.int64)
        return {"id": tf.strings.as_string(raw), "image": raw, "label": label}


@pytest.fixture(scope="module", params=["by position", "in sequence", "in memory"])
def images(request):
    if request.param == "by position":
        return loaders.load_source("digits").subset("train", range(0, 1437, 60))
    sequential = _Sequential()
    return sequential if request.param == "in sequence" else memory.MemorySource(sequential)


def _train(images, steps, **options):
    options = {"global_batch_size": 8, "image_size": 12, "num_views": 2, "seed": 5} | options
    dataset = data.build_train_dataset(images, "train", **options)
    return list(dataset.take(steps).as_numpy_iterator())


_PREPROCESS = tf.function(data_util.preprocess_for_train)


@pytest.fixture
def traced_once(monkeypatch):
    """Input pipelines share one graph of the preprocessing, which takes longest to build."""
    monkeypatch.setattr(data_util, "preprocess_for_train", _PREPROCESS)


def _same(batches, others):
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


JITTER = data.Augmentation(
    color_jitter_strength=1.0, rotation_degrees=5.0, noise_std=0.05, cutout_size=0.2
)


def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(images, traced_once):
    # 8 images a step of 23 or 24: epochs end within and between these steps.
    options = {"augmentation": JITTER, "num_views": 1}
    straight = _train(images, 9, **options)
    for start in (2, 5):
        _same(_train(images, 4, start_step=start, **options), straight[start : start + 4])


def test_another_seed_gives_another_order_and_other_views(images, traced_once):
    one, other = (_train(images, 1, seed=seed)[0]["image"] for seed in (5, 6))
    assert np.abs(one - other).max() > 0.01


def test_replicas_and_shards_share_the_same_global_batch(images, traced_once):
    whole = _train(images, 4, start_step=1)
    for replicas in (2, 4):
        parts = _train(images, 4 * replicas, start_step=1, batch_size=8 // replicas)
        _same([_join(parts[i : i + replicas]) for i in range(0, len(parts), replicas)], whole)
    for shards, size in ((2, 4), (2, 2), (4, 2)):  # one replica per shard, and two
        per_shard = 8 // shards // size
        columns = [
            _train(images, 4 * per_shard, start_step=1, batch_size=size, shard=i, num_shards=shards)
            for i in range(shards)
        ]
        joined = [
            _join([batch for column in columns for batch in column[s * per_shard :][:per_shard]])
            for s in range(4)
        ]
        _same(joined, whole)


def _join(batches):
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def test_skipped_records_and_those_of_other_shards_are_not_decoded(
    images, monkeypatch, traced_once
):
    decoded = []
    decode = images.decode

    def counting(record):
        number = tf.py_function(lambda n: decoded.append(int(n)) or n, [record["number"]], tf.int64)
        with tf.control_dependencies([number]):
            return decode(record)

    monkeypatch.setattr(images, "decode", counting)
    _train(images, 2, start_step=50, shard=1, num_shards=2, num_parallel_calls=1)
    assert {400 + 4, 400 + 7, 408 + 4} <= set(decoded)
    assert min(decoded) == 404
    assert all(number % 8 >= 4 for number in decoded)


def test_every_image_comes_once_an_epoch_under_its_own_id():
    batches, of_image = _train(_Sequential(24), 6, image_size=4, num_views=1), {}
    for epoch in (batches[:3], batches[3:]):
        numbers = np.round(np.concatenate([b["image"][:, 0, 0, 0] for b in epoch]) * 255)
        assert sorted(numbers) == list(range(24))
        ids = np.concatenate([b["id"] for b in epoch])
        assert len(set(ids)) == 24 and ids.min() >= 0
        for number, identity in zip(numbers, ids, strict=True):
            assert of_image.setdefault(number, identity) == identity


def test_training_element_has_static_shapes_views_on_channels_and_one_hot_labels(digits):
    dataset = data.build_train_dataset(
        digits, "train", global_batch_size=16, batch_size=8, image_size=20, num_views=2
    )
    assert dataset.element_spec["image"] == tf.TensorSpec([8, 20, 20, 2], tf.float32)
    assert dataset.element_spec["label"] == tf.TensorSpec([8, 10], tf.float32)
    assert dataset.cardinality() in (tf.data.INFINITE_CARDINALITY, tf.data.UNKNOWN_CARDINALITY) or (
        dataset.cardinality() > 10**12
    )
    batch = next(dataset.as_numpy_iterator())
    assert np.all(batch["label"].sum(1) == 1)
    assert 0.0 <= batch["image"].min() < batch["image"].max() <= 1.0
    assert np.abs(batch["image"][..., 0] - batch["image"][..., 1]).max() > 0.1
    one = _train(digits, 1, num_views=1)[0]["image"]
    assert one.shape == (8, 12, 12, 1)


def test_labels_belong_to_their_images(digits):
    plain = data.Augmentation(flip=False)
    pixels, labels = [], []
    for batch in _train(
        digits, 40, global_batch_size=32, image_size=8, num_views=1, augmentation=plain
    ):
        pixels.append(batch["image"].reshape(32, -1))
        labels.append(batch["label"].argmax(1))
    # Random crops of digits remain far better than chance (10%) for the class means.
    records = digits.records("test").map(digits.decode)
    rows = list(records.as_numpy_iterator())
    known = np.array([row["image"].ravel() / 255 for row in rows])
    means = np.stack([known[[row["label"] == k for row in rows]].mean(0) for k in range(10)])
    distance = ((np.concatenate(pixels)[:, None] - means) ** 2).sum(2)
    assert (distance.argmin(1) == np.concatenate(labels)).mean() > 0.3


def test_sources_without_labels_give_none():
    unlabeled = _Sequential(16, num_classes=0)
    assert _train(unlabeled, 1)[0].keys() == {"image", "id"}
    assert _evaluate(unlabeled, batch_size=8)[0].keys() == {"image", "mask"}


def test_sobel_gives_two_channels_a_view_in_training_and_evaluation(digits):
    options = data.Augmentation(sobel=True)
    assert _train(digits, 1, augmentation=options)[0]["image"].shape == (8, 12, 12, 4)
    assert _evaluate(digits, "test", batch_size=60, sobel=True)[0]["image"].shape == (60, 12, 12, 2)


def test_records_held_in_memory_resume_and_change_no_evaluation():
    sequential = _Sequential()
    held = memory.MemorySource(sequential)
    _same(_train(held, 6)[3:], _train(held, 3, start_step=3))
    _same(_evaluate(held), _evaluate(sequential))


def test_global_batch_larger_than_the_split_is_one_sentence(digits):
    with pytest.raises(errors.UserError, match="has 20 images, fewer than a batch of 64.*=64"):
        _train(digits.subset("train", range(20)), 1, global_batch_size=64)


# Evaluation.


def _evaluate(images, split="train", **options):
    options = {"batch_size": 4, "image_size": 12} | options
    return list(data.build_eval_dataset(images, split, **options).as_numpy_iterator())


@pytest.mark.parametrize(
    "replicas, shards, size", [(1, 1, 4), (2, 1, 4), (2, 2, 4), (1, 4, 7), (1, 2, 40)]
)
def test_evaluation_sees_every_image_once_for_any_split_of_the_work(images, replicas, shards, size):
    count = images.num_examples("train")
    options = {"batch_size": size, "replicas_per_shard": replicas, "num_shards": shards}
    parts = [_evaluate(images, shard=shard, **options) for shard in range(shards)]
    steps = -(-count // (size * replicas * shards))
    assert {len(part) for part in parts} == {steps * replicas}
    ordered = [
        batch
        for step in range(steps)
        for part in parts
        for batch in part[step * replicas : (step + 1) * replicas]
    ]
    whole = _join(ordered)
    assert all(len(batch["mask"]) == size for batch in ordered)
    np.testing.assert_array_equal(whole["mask"], np.arange(len(whole["mask"])) < count)
    for row, record in enumerate(images.records("train")):
        decoded = images.decode(record)
        expected = data_util.preprocess_for_eval(decoded["image"], 12, 12, crop=False)
        np.testing.assert_allclose(whole["image"][row], expected, atol=1e-6)
        assert whole["label"][row].argmax() == decoded["label"]
    assert np.all(whole["label"][count:] == 0) and np.all(whole["image"][count:] == 0)


def test_evaluation_crops_only_above_32_pixels(digits):
    few = digits.subset("test", range(4))
    decoded = digits.decode(next(iter(digits.records("test"))))["image"]
    for size, crop in ((32, False), (33, True)):
        image = _evaluate(few, "test", image_size=size)[0]["image"][0]
        expected = data_util.preprocess_for_eval(decoded, size, size, crop=crop)
        np.testing.assert_allclose(image, expected, atol=1e-6)


def test_evaluation_has_static_shapes_and_a_known_length():
    dataset = data.build_eval_dataset(_Sequential(), "train", batch_size=4, image_size=12)
    assert dataset.element_spec["image"] == tf.TensorSpec([4, 12, 12, 3], tf.float32)
    assert dataset.element_spec["mask"] == tf.TensorSpec([4], tf.float32)
    assert dataset.cardinality() == 6


def test_empty_split_is_one_sentence(digits):
    with pytest.raises(errors.UserError, match="evaluation needs images.*'test'"):
        _evaluate(digits.subset("test", []), "test")


# By the configuration.


def test_build_dataset_follows_the_config(digits):
    settings = config.Config(train_batch_size=16, eval_batch_size=40, image_size=16, seed=3)
    context = tf.distribute.InputContext(2, 1, 4)
    batch = next(iter(data.build_dataset(settings, digits, "train", training=True, start_step=2)))
    part = data.build_dataset(
        settings, digits, "train", training=True, start_step=2, input_context=context
    )
    mine = list(part.take(2).as_numpy_iterator())
    assert batch["image"].shape == (16, 16, 16, 2) and mine[0]["image"].shape == (4, 16, 16, 2)
    np.testing.assert_array_equal(_join(mine)["image"], batch["image"][8:])
    tuned = settings.replace(train_mode="finetune")
    batch = next(iter(data.build_dataset(tuned, digits, "train", training=True)))
    assert batch["image"].shape == (16, 16, 16, 1)
    evaluated = data.build_dataset(
        settings, digits, "validation", training=False, input_context=context
    )
    assert evaluated.element_spec["image"].shape == (10, 16, 16, 1)
    assert evaluated.cardinality() == 2 * 9  # 360 images, 40 a step, two replicas here


def test_color_jitter_only_in_pretraining():
    gray = _Sequential(24)
    settings = config.Config(train_batch_size=24, image_size=8, train_mode="finetune", flip=False)
    tuned = next(iter(data.build_dataset(settings, gray, "train", training=True)))["image"]
    # Each image is of one value, n / 255, and remains so under crops alone.
    np.testing.assert_allclose(np.sort(tuned[:, 0, 0, 0]), np.arange(24) / 255, atol=1e-6)
    pretrained = data.build_dataset(
        settings.replace(train_mode="pretrain"), gray, "train", training=True
    )
    views = next(iter(pretrained))["image"].numpy()
    assert np.abs(np.sort(views[:, 0, 0, 0]) - np.arange(24) / 255).max() > 0.01


def test_batch_that_does_not_divide_over_replicas_is_one_sentence(digits):
    settings = config.Config(train_batch_size=10, image_size=8)
    context = tf.distribute.InputContext(1, 0, 4)
    with pytest.raises(errors.UserError, match="replicas, 4.*train_batch_size=10.*Use 8"):
        data.build_dataset(settings, digits, "train", training=True, input_context=context)


def test_the_input_is_measured():
    rate = speed.measure_input(
        image_size=16, file_size=(24, 32), num_files=4, batch_size=4, seconds=0.05
    )
    assert rate > 10
