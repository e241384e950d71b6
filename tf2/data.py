"""From a source of images to batches: views, labels, sharding, padding, prefetching.

Training batches are a pure function of the seed and the step. Example number g (global batch size
times step, plus index in the batch) determines which image is read and how it is augmented,
whatever the number of replicas and input pipelines, and wherever reading begins. Blur is part of
the training step, on the accelerator.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tf2 import architecture, data_util, distribute, errors, modes
from tf2 import config as config_lib
from tf2.sources import order, source

# Separates the augmentation from other uses of the same seed.
_VIEW_SALT = 2929


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training views are made; see `data_util.preprocess_for_train`.

    The defaults are those of fine-tuning: crop and flip.
    """

    color_jitter_strength: float = 0.0
    color_jitter_impl: str = "simclrv2"
    crop_min_area: float = 0.08
    flip: bool = True
    rotation_degrees: float = 0.0
    noise_std: float = 0.0
    cutout_size: float = 0.0
    sobel: bool = False
    resize: str = "half_pixel"


def build_dataset(
    config: config_lib.Config,
    images: source.Source,
    split: str,
    *,
    training: bool,
    views: int | None = None,
    color_jitter: bool | None = None,
    batch_size: int | None = None,
    start_step: int = 0,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Builds the batches of a run from its `Config`.

    Args:
        config: the settings, as `configure` returns them.
        images: a source, as `load_source` or `build_source` returns it.
        split: which split of it.
        training: random views without end; otherwise the split once, padded.
        views: random views of each image; None takes the number of the train_mode.
        color_jitter: whether to jitter colors; None does so if the train_mode does.
        batch_size: images over all replicas; None takes train_batch_size or eval_batch_size.
        start_step: training step to begin at.
        input_context: a tf.distribute.InputContext; None is one replica.

    Returns:
        A tf.data.Dataset of per-replica batches {"image": float32 (b, height, width, channels) in
        [0, 1], "label": float32 (b, classes)}: in training the views side by side on the channels,
        and "id": int64 (b,), the same for an image in every run; otherwise "mask": float32 (b,), 0
        for padding. Labels are one-hot, zeros where an image has none, and left out where the
        source has no classes.

    Raises:
        errors.UserError: a setting is still "auto".
    """
    config.check_resolved()
    context = input_context or tf.distribute.InputContext()
    shards, shard = context.num_input_pipelines, context.input_pipeline_id
    replicas = context.num_replicas_in_sync
    flag = "train_batch_size" if training else "eval_batch_size"
    global_batch_size = batch_size or getattr(config, flag)
    distribute.check_batch(flag, global_batch_size, replicas)
    if not training:
        return build_eval_dataset(
            images.show_labels(),  # they are hidden from training only
            split,
            batch_size=global_batch_size // replicas,
            image_size=config.image_size,
            replicas_per_shard=replicas // shards,
            shard=shard,
            num_shards=shards,
            resize=config.resize,
            sobel=config.sobel,
            num_parallel_calls=config.num_parallel_calls,
        )
    mode = modes.get(config.train_mode)
    views = mode.views if views is None else views
    color_jitter = mode.color_jitter if color_jitter is None else color_jitter
    augmentation = Augmentation(
        # As in the reference: jitter and grayscale only in pretraining.
        color_jitter_strength=config.color_jitter_strength if color_jitter else 0.0,
        color_jitter_impl=config.color_jitter_impl,
        crop_min_area=config.crop_min_area,
        flip=config.flip,
        rotation_degrees=config.rotation_degrees,
        noise_std=config.noise_std,
        cutout_size=config.cutout_size,
        sobel=config.sobel,
        resize=config.resize,
    )
    return build_train_dataset(
        images,
        split,
        global_batch_size=global_batch_size,
        batch_size=global_batch_size // replicas,
        num_views=views,
        image_size=config.image_size,
        seed=config.seed,
        start_step=start_step,
        shard=shard,
        num_shards=shards,
        augmentation=augmentation,
        num_parallel_calls=config.num_parallel_calls,
    )


def model_channels(config: config_lib.Config, images: source.Source) -> int:
    """Returns the number of channels that the network sees."""
    return data_util.output_channels(images.channels, config.sobel)


def preprocessing_contract(config: config_lib.Config, images: source.Source) -> dict[str, Any]:
    """Returns the preprocessing of the images, for model.json."""
    return architecture.preprocessing(
        config.image_size, channels=images.channels, resize=config.resize, sobel=config.sobel
    )


def build_train_dataset(
    images: source.Source,
    split: str,
    *,
    global_batch_size: int,
    image_size: int,
    batch_size: int | None = None,
    num_views: int = 1,
    seed: int = 0,
    start_step: int = 0,
    shard: int = 0,
    num_shards: int = 1,
    augmentation: Augmentation | None = None,
    num_parallel_calls: int = 0,
) -> tf.data.Dataset:
    """Builds endless batches of random views.

    Args:
        images: a `Source`.
        split: which split of it.
        global_batch_size: images in a step over all shards and replicas.
        image_size: side of a view in pixels.
        batch_size: images in a batch, that of one replica; a shard that feeds several
            replicas yields their batches in turn. None is the shard's whole part.
        num_views: views of each image.
        seed: integer.
        start_step: step to begin at; earlier images are skipped undecoded.
        shard: which of `num_shards` input pipelines this is.
        num_shards: input pipelines that share the global batch.
        augmentation: an `Augmentation`.
        num_parallel_calls: images prepared in parallel; 0 lets TensorFlow decide.

    Returns:
        A tf.data.Dataset of {"image": float32 (b, height, width, channels * num_views) in
        [0, 1], "label": float32 (b, classes), one-hot, zeros where an image has none, "id":
        int64 (b,), a hash of the image's id}.
        Without "label" where the source has no classes. b: batch_size.

    Raises:
        errors.UserError: the split has fewer images than a global batch.
    """
    size = images.num_examples(split)
    if size < global_batch_size:
        raise errors.UserError(
            f"The split {split} has {size} images, fewer than a batch of "
            f"{global_batch_size}. Received: train_batch_size={global_batch_size}. Set "
            f"--train_batch_size to at most {size}."
        )
    part = global_batch_size // num_shards
    batch_size = batch_size or part
    assert part * num_shards == global_batch_size and part % batch_size == 0
    options = dataclasses.asdict(augmentation or Augmentation())
    channels = data_util.output_channels(images.channels, options["sobel"])

    def example(record: source.Record) -> source.Record:
        decoded = images.decode(record)
        key = tf.stack([tf.constant(seed + _VIEW_SALT, tf.int64), record["number"]])
        views = data_util.preprocess_for_train(
            decoded["image"], key, image_size, image_size, num_views=num_views, **options
        )
        views = tf.ensure_shape(views, [image_size, image_size, channels * num_views])
        identity = tf.strings.to_hash_bucket_fast(record["id"], 2**62)
        return _with_label({"image": views, "id": identity}, decoded["label"], images.num_classes)

    window = order.Window(global_batch_size, shard * part, part)
    records = images.records(split, start_step * global_batch_size, seed, window)
    calls = num_parallel_calls or tf.data.AUTOTUNE
    examples = records.map(example, num_parallel_calls=calls, deterministic=True)
    batches = examples.batch(batch_size, drop_remainder=True)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(_options())


def build_eval_dataset(
    images: source.Source,
    split: str,
    *,
    batch_size: int,
    image_size: int,
    center_crop: bool | None = None,
    replicas_per_shard: int = 1,
    shard: int = 0,
    num_shards: int = 1,
    resize: str = "half_pixel",
    sobel: bool = False,
    num_parallel_calls: int = 0,
) -> tf.data.Dataset:
    """Builds batches that contain every image of a split exactly once.

    Each shard yields the same number of batches, a multiple of `replicas_per_shard`, all of the
    same shape; the last ones are padded with black images of mask 0.

    Args:
        images: a `Source`.
        split: which split of it.
        batch_size: images in a batch, that of one replica.
        image_size: side of the images in pixels.
        center_crop: whether to take the central 0.875 first; None does so above 32 pixels.
        replicas_per_shard: replicas that a shard feeds, in turn.
        shard: which of `num_shards` input pipelines this is.
        num_shards: input pipelines that share the split.
        resize: see `data_util.resize_bicubic`.
        sobel: whether edges replace the channels, as in training.
        num_parallel_calls: images prepared in parallel; 0 lets TensorFlow decide.

    Returns:
        A tf.data.Dataset of {"image": float32 (b, height, width, channels) in [0, 1],
        "label": float32 (b, classes), one-hot, "mask": float32 (b,)}; without "label"
        where the source has no classes. b: batch_size.

    Raises:
        errors.UserError: the split is empty.
    """
    size = images.num_examples(split)
    if not size:
        raise errors.UserError(
            f"An evaluation needs images. Received: the empty split {split!r}. Set --eval_split "
            "to another."
        )
    if center_crop is None:
        center_crop = image_size > data_util.MAX_SIZE_WITHOUT_CROP
    channels = data_util.output_channels(images.channels, sobel)
    shape = [image_size, image_size, channels]

    def example(record: source.Record) -> source.Record:
        decoded = images.decode(record)
        image = data_util.preprocess_for_eval(
            decoded["image"], image_size, image_size, center_crop, resize=resize, sobel=sobel
        )
        evaluated = {"image": tf.ensure_shape(image, shape), "mask": tf.constant(1.0)}
        return _with_label(evaluated, decoded["label"], images.num_classes)

    part = batch_size * replicas_per_shard
    window = order.Window(part * num_shards, shard * part, part)
    steps = -(-size // window.period)
    missing = steps * part - window.count_below(size)
    calls = num_parallel_calls or tf.data.AUTOTUNE
    examples = images.records(split, window=window).map(
        example, num_parallel_calls=calls, deterministic=True
    )
    empty = {"image": tf.zeros(shape), "mask": tf.constant(0.0)}
    empty = _with_label(empty, tf.constant(-1, tf.int64), images.num_classes)
    padding = tf.data.Dataset.from_tensors(empty).repeat(missing)
    batches = examples.concatenate(padding).batch(batch_size, drop_remainder=True)
    # TensorFlow does not know the number where records are filtered.
    batches = batches.apply(tf.data.experimental.assert_cardinality(steps * replicas_per_shard))
    return batches.prefetch(tf.data.AUTOTUNE).with_options(_options())


def _with_label(example: source.Record, label: tf.Tensor, num_classes: int) -> source.Record:
    if not num_classes:
        return example
    return {**example, "label": tf.one_hot(label, num_classes)}


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # Each core already prepares an image; splitting operations only adds waiting.
    options.threading.max_intra_op_parallelism = 1
    policy = tf.data.experimental.AutoShardPolicy.OFF  # sharded above
    options.experimental_distribute.auto_shard_policy = policy
    return options
