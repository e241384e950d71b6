"""From a source of images to batches: views, labels, sharding, padding, prefetching.

Training batches are a pure function of the seed and the step. Example number g (global
batch size times step, plus place in the batch) fixes both which picture is read and how
it is augmented, whatever the number of replicas and input pipelines, and wherever
reading begins. Blur is not done here but in the training step, on the accelerator.
"""

import dataclasses

import tensorflow as tf

from tf2 import architecture, data_util, distribute, errors, modes
from tf2.sources import source

# Keeps the augmentation apart from other uses of the same seed.
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
    config,
    images,
    split,
    *,
    training,
    views=None,
    color_jitter=None,
    batch_size=None,
    start_step=0,
    input_context=None,
):
    """Makes the batches that a run's `Config` asks for.

    Args:
      config: a `Config`.
      images: a `Source`.
      split: which split of it.
      training: random views for ever; otherwise the split once, padded.
      views: random views of each image; None takes the number of the train_mode.
      color_jitter: whether to jitter colors; None does so where the train_mode does.
      batch_size: images over all replicas; None takes train_batch_size or eval_batch_size.
      start_step: training step to begin at.
      input_context: a tf.distribute.InputContext; None is one replica.

    Returns:
      A tf.data.Dataset of per-replica batches, see `build_train_dataset` and
      `build_eval_dataset`.
    """
    context = input_context or tf.distribute.InputContext()
    shards, shard = context.num_input_pipelines, context.input_pipeline_id
    replicas = context.num_replicas_in_sync
    flag = "train_batch_size" if training else "eval_batch_size"
    global_batch_size = batch_size or getattr(config, flag)
    distribute.check_batch(flag, global_batch_size, replicas)
    if not training:
        return build_eval_dataset(
            images.show_labels(),  # hidden from the training alone
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


def model_channels(config, images):
    """Returns the channels of the images that the network sees."""
    return data_util.output_channels(images.channels, config.sobel)


def preprocessing_contract(config, images):
    """Returns what a picture goes through before the network, for model.json."""
    return architecture.preprocessing(
        config.image_size, channels=images.channels, resize=config.resize, sobel=config.sobel
    )


def build_train_dataset(
    images,
    split,
    *,
    global_batch_size,
    image_size,
    batch_size=None,
    num_views=1,
    seed=0,
    start_step=0,
    shard=0,
    num_shards=1,
    augmentation=None,
    num_parallel_calls=0,
):
    """Makes endless batches of random views.

    Args:
      images: a `Source`.
      split: which split of it.
      global_batch_size: pictures in a step over all shards and replicas.
      image_size: side of a view in pixels.
      batch_size: pictures in a batch, that of one replica; a shard that feeds several
        replicas yields their batches in turn. None is the shard's whole part.
      num_views: views of each picture.
      seed: integer.
      start_step: step to begin at; what comes before is skipped undecoded.
      shard: which of `num_shards` input pipelines this is.
      num_shards: input pipelines that share the global batch.
      augmentation: an `Augmentation`.
      num_parallel_calls: pictures prepared in parallel; 0 lets TensorFlow decide.

    Returns:
      A tf.data.Dataset of {"image": float32 (b, height, width, channels * num_views) in
      [0, 1], "label": float32 (b, classes)}, one-hot, zeros where a picture has none.
      Without "label" where the source has no classes. b: batch_size.

    Raises:
      errors.UserError: the split has fewer pictures than a global batch.
    """
    size = images.num_examples(split)
    if size < global_batch_size:
        raise errors.UserError(
            f"The split {split} has {size} pictures, fewer than a batch of "
            f"{global_batch_size}. Received: train_batch_size={global_batch_size}; set "
            f"--train_batch_size to at most {size}."
        )
    part = global_batch_size // num_shards
    batch_size = batch_size or part
    assert part * num_shards == global_batch_size and part % batch_size == 0
    options = dataclasses.asdict(augmentation or Augmentation())
    channels = data_util.output_channels(images.channels, options["sobel"])

    def example(record):
        decoded = images.decode(record)
        key = tf.stack([tf.constant(seed + _VIEW_SALT, tf.int64), record["number"]])
        views = data_util.preprocess_for_train(
            decoded["image"], key, image_size, image_size, num_views=num_views, **options
        )
        views = tf.ensure_shape(views, [image_size, image_size, channels * num_views])
        return _with_label({"image": views}, decoded["label"], images.num_classes)

    window = source.Window(global_batch_size, shard * part, part)
    records = images.records(split, start_step * global_batch_size, seed, window)
    calls = num_parallel_calls or tf.data.AUTOTUNE
    examples = records.map(example, num_parallel_calls=calls, deterministic=True)
    batches = examples.batch(batch_size, drop_remainder=True)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(_options())


def build_eval_dataset(
    images,
    split,
    *,
    batch_size,
    image_size,
    center_crop=None,
    replicas_per_shard=1,
    shard=0,
    num_shards=1,
    resize="half_pixel",
    sobel=False,
    num_parallel_calls=0,
):
    """Makes batches that hold every picture of a split exactly once.

    Each shard yields the same number of batches, a multiple of `replicas_per_shard`, all
    of the same shape: what is left over is filled with black pictures of mask 0.

    Args:
      images: a `Source`.
      split: which split of it.
      batch_size: pictures in a batch, that of one replica.
      image_size: side of the images in pixels.
      center_crop: take the central 0.875 first; None does so above 32 pixels.
      replicas_per_shard: replicas that a shard feeds, in turn.
      shard: which of `num_shards` input pipelines this is.
      num_shards: input pipelines that share the split.
      resize: see `data_util.resize_bicubic`.
      sobel: replace the channels by edges, as in training.
      num_parallel_calls: pictures prepared in parallel; 0 lets TensorFlow decide.

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
            f"There is nothing to evaluate on. Received: the empty split {split!r}; set "
            "--eval_split to another."
        )
    if center_crop is None:
        center_crop = image_size > data_util.MAX_SIZE_WITHOUT_CROP
    channels = data_util.output_channels(images.channels, sobel)
    shape = [image_size, image_size, channels]

    def example(record):
        decoded = images.decode(record)
        image = data_util.preprocess_for_eval(
            decoded["image"], image_size, image_size, center_crop, resize=resize, sobel=sobel
        )
        made = {"image": tf.ensure_shape(image, shape), "mask": tf.constant(1.0)}
        return _with_label(made, decoded["label"], images.num_classes)

    part = batch_size * replicas_per_shard
    window = source.Window(part * num_shards, shard * part, part)
    steps = -(-size // window.period)
    missing = steps * part - source.places_below(size, window)
    calls = num_parallel_calls or tf.data.AUTOTUNE
    examples = images.records(split, window=window).map(
        example, num_parallel_calls=calls, deterministic=True
    )
    empty = {"image": tf.zeros(shape), "mask": tf.constant(0.0)}
    empty = _with_label(empty, tf.constant(-1, tf.int64), images.num_classes)
    padding = tf.data.Dataset.from_tensors(empty).repeat(missing)
    batches = examples.concatenate(padding).batch(batch_size, drop_remainder=True)
    # The number is known here, but not to TensorFlow where records are filtered.
    batches = batches.apply(tf.data.experimental.assert_cardinality(steps * replicas_per_shard))
    return batches.prefetch(tf.data.AUTOTUNE).with_options(_options())


def _with_label(example, label, num_classes):
    if not num_classes:
        return example
    return {**example, "label": tf.one_hot(label, num_classes)}


def _options():
    options = tf.data.Options()
    options.deterministic = True
    # There is an image per core already; splitting each operation only adds waiting.
    options.threading.max_intra_op_parallelism = 1
    policy = tf.data.experimental.AutoShardPolicy.OFF  # shards are made here
    options.experimental_distribute.auto_shard_policy = policy
    return options
