"""Image ops: crop, flip, blur, and the whole preprocessing of training and evaluation.

Tensors in, tensors out. Images are (height, width, channels), float32 in [0, 1];
crops also take the uint8 pictures that a decoder yields, since cropping before
converting saves most of the conversion. Every random op is pure: it takes a `seed`, an
integer tensor of shape (2,), and gives the same result for the same seed.

The recipe is that of Chen et al. 2020, "A Simple Framework for Contrastive Learning of
Visual Representations", section 3 and appendix A. Color ops are in `color_ops`, those
that the published recipe leaves off in `extra_ops`; the names are gathered here.
"""

import tensorflow as tf

from tf2 import architecture, errors
from tf2.augment import color_ops, extra_ops

CROP_PROPORTION = architecture.CROP_PROPORTION
# Evaluation crops only pictures for networks larger than this (CIFAR's are whole).
MAX_SIZE_WITHOUT_CROP = architecture.SMALL_IMAGE_SIZE
BLUR_PROBABILITY = 0.5
_BLUR_SIGMA = (0.1, 2.0)

color_jitter = color_ops.color_jitter
random_color_jitter = color_ops.random_color_jitter
to_grayscale = color_ops.to_grayscale
random_rotation = extra_ops.random_rotation
random_noise = extra_ops.random_noise
random_cutout = extra_ops.random_cutout
sobel_edges = extra_ops.sobel_edges
output_channels = extra_ops.output_channels


def to_float(image):
    """Converts integers of their full range to float32 in [0, 1]; floats stay."""
    return tf.image.convert_image_dtype(image, tf.float32)


def resize_bicubic(image, height, width, resize="half_pixel"):
    """Resizes with Keys' bicubic kernel, without antialiasing; it may overshoot.

    Args:
      image: (h, w, channels), float32 or uint8 (which keeps its range).
      height: rows to make.
      width: columns to make.
      resize: half_pixel, or legacy: TensorFlow 1's grid without half-pixel centers,
        with which the released networks were trained.

    Returns:
      float32 (height, width, channels), not clipped.
    """
    if resize not in architecture.RESIZES:
        raise errors.UserError(
            "The resize must be one of half_pixel and legacy. Received: "
            f"resize={resize!r}; set --resize to one of them."
        )
    image = tf.raw_ops.ResizeBicubic(
        images=image[tf.newaxis],
        size=[height, width],
        align_corners=False,
        half_pixel_centers=resize == "half_pixel",
    )[0]
    return tf.ensure_shape(image, [height, width, None])


def compute_crop_shape(image_height, image_width, aspect_ratio, crop_proportion):
    """Finds the largest centered crop of an aspect ratio, times a proportion.

    Args:
      image_height: integer tensor.
      image_width: integer tensor.
      aspect_ratio: wanted width over height, a float.
      crop_proportion: side of the crop over that of the largest one.

    Returns:
      Its height and width, int32, rounded half to even.
    """
    height = tf.cast(image_height, tf.float32)
    width = tf.cast(image_width, tf.float32)
    wider = aspect_ratio > width / height
    crop_height = tf.where(wider, crop_proportion / aspect_ratio * width, crop_proportion * height)
    crop_width = tf.where(wider, crop_proportion * width, crop_proportion * aspect_ratio * height)
    return (
        tf.cast(tf.math.rint(crop_height), tf.int32),
        tf.cast(tf.math.rint(crop_width), tf.int32),
    )


def center_crop(image, height, width, crop_proportion=CROP_PROPORTION, resize="half_pixel"):
    """Crops the center and resizes, (h, w, channels) -> float32 (height, width, channels)."""
    shape = tf.shape(image)
    crop_height, crop_width = compute_crop_shape(
        shape[0], shape[1], width / height, crop_proportion
    )
    top = (shape[0] - crop_height + 1) // 2
    left = (shape[1] - crop_width + 1) // 2
    box = tf.stack([top, left, crop_height, crop_width])
    return crop_and_resize(image, box, height, width, resize)


def crop_and_resize(image, box, height, width, resize="half_pixel"):
    """Cuts out a box and resizes it.

    Args:
      image: (h, w, channels), uint8 or float32 in [0, 1].
      box: int32 (4,): top, left, height, width.
      height: rows to make.
      width: columns to make.
      resize: see `resize_bicubic`.

    Returns:
      float32 (height, width, channels), not clipped.
    """
    channels = image.shape[-1]
    image = tf.slice(image, [box[0], box[1], 0], [box[2], box[3], -1])
    image = resize_bicubic(to_float(image), height, width, resize)
    return tf.ensure_shape(image, [height, width, channels])


def random_crop_box(image_shape, seed, aspect_ratio=1.0, area_range=(0.08, 1.0), max_attempts=100):
    """Draws a crop of random area and aspect ratio (Szegedy et al. 2015).

    Args:
      image_shape: int32 (3,): height, width and channels of the picture.
      seed: integer tensor (2,).
      aspect_ratio: width over height of what the crop is resized to; the crop's own
        lies between 3/4 and 4/3 of it.
      area_range: smallest and largest fraction of the picture's area.
      max_attempts: draws, after which the whole picture is taken.

    Returns:
      int32 (4,): top, left, height, width.
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        image_shape,
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        # As in the reference: hence no crop is below a tenth of the area, although
        # the range starts at 0.08.
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4 * aspect_ratio, 4 / 3 * aspect_ratio),
        area_range=area_range,
        max_attempts=max_attempts,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)


def random_crop_with_resize(image, seed, height, width, resize="half_pixel", min_area=0.08):
    """Takes a random crop and resizes it, (h, w, c) -> float32 (height, width, c)."""
    box = random_crop_box(tf.shape(image), seed, width / height, (min_area, 1.0))
    return crop_and_resize(image, box, height, width, resize)


def random_flip(image, seed):
    """Mirrors left to right with probability 0.5; (h, w, c) -> (h, w, c)."""
    coin = tf.random.stateless_uniform([], seed)
    return tf.cond(coin < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def gaussian_blur(image, kernel_size, sigma, padding="SAME"):
    """Blurs with a separable Gaussian of 2 * (kernel_size // 2) + 1 taps.

    Args:
      image: float32 (height, width, channels) or (batch, height, width, channels).
      kernel_size: integer.
      sigma: standard deviation in pixels, a float or a scalar tensor.
      padding: SAME (zeros beyond the border) or VALID.

    Returns:
      The blurred image, of the same rank.
    """
    radius = kernel_size // 2
    places = tf.range(-radius, radius + 1, dtype=tf.float32)
    taps = tf.exp(-tf.square(places) / (2.0 * tf.square(tf.cast(sigma, tf.float32))))
    taps /= tf.reduce_sum(taps)
    taps = tf.cast(taps, image.dtype)
    single = image.shape.rank == 3
    images = image[tf.newaxis] if single else image
    channels = images.shape[-1]
    length = 2 * radius + 1
    for kernel_shape in ([length, 1, 1, 1], [1, length, 1, 1]):
        kernel = tf.tile(tf.reshape(taps, kernel_shape), [1, 1, channels, 1])
        images = tf.nn.depthwise_conv2d(images, kernel, [1, 1, 1, 1], padding)
    return images[0] if single else images


def blur_sigma(seed):
    """Draws a blur's standard deviation in pixels, uniform in [0.1, 2]."""
    return tf.random.stateless_uniform([], seed, *_BLUR_SIGMA)


def random_blur(image, seed, height, width=None, p=1.0):
    """Blurs with probability `p` and a random sigma; the kernel is height // 10 wide.

    Args:
      image: float32 (height, width, channels) or a batch of such.
      seed: integer tensor (2,).
      height: the image's rows, which set the kernel's size.
      width: unused; the images are square.
      p: probability, one decision for all that `image` holds.

    Returns:
      The image or its blurred version.
    """
    del width
    seeds = tf.random.split(seed, 2)
    blurred = gaussian_blur(image, height // 10, blur_sigma(seeds[0]))
    if p >= 1.0:
        return blurred
    coin = tf.random.stateless_uniform([], seeds[1])
    return tf.where(coin < p, blurred, image)


def batch_random_blur(images_list, seed, num_replicas=1, replica_id=0, p=BLUR_PROBABILITY):
    """Blurs a part of each view's images; belongs in the training step.

    Which images are blurred is drawn for the global batch and then cut to this
    replica's rows: the number of replicas changes nothing.

    Args:
      images_list: one float32 tensor (batch, height, width, channels) per view, the
        batch of this replica.
      seed: integer tensor (2,), the same on all replicas, another one every step.
      num_replicas: replicas that share the global batch, a Python integer.
      replica_id: which of them this is, integer or integer tensor.
      p: probability that an image is blurred.

    Returns:
      A list of the same shapes, in [0, 1].
    """
    results = []
    seeds = tf.random.split(seed, 2 * len(images_list))
    for view, images in enumerate(images_list):
        batch = images.shape[0] if images.shape[0] is not None else tf.shape(images)[0]
        coins = tf.random.stateless_uniform([num_replicas * batch], seeds[2 * view])
        coins = tf.slice(coins, [tf.cast(replica_id, tf.int32) * batch], [batch])
        # As in the reference: one sigma for all images of a view.
        sigma = blur_sigma(seeds[2 * view + 1])
        blurred = gaussian_blur(images, images.shape[1] // 10, sigma)
        keep = (coins < p)[:, tf.newaxis, tf.newaxis, tf.newaxis]  # (batch, 1, 1, 1)
        results.append(tf.clip_by_value(tf.where(keep, blurred, images), 0.0, 1.0))
    return results


def preprocess_for_train(
    image,
    seed,
    height,
    width,
    *,
    num_views=1,
    color_jitter_strength=0.0,
    color_jitter_impl="simclrv2",
    crop=True,
    crop_min_area=0.08,
    flip=True,
    rotation_degrees=0.0,
    noise_std=0.0,
    cutout_size=0.0,
    sobel=False,
    resize="half_pixel",
):
    """Makes independent random views of one picture.

    Args:
      image: uint8 or float32 (h, w, channels), any size.
      seed: integer tensor (2,); the views are a pure function of it and the picture.
      height: rows of a view.
      width: columns of a view.
      num_views: how many views to make.
      color_jitter_strength: see `color_ops.jitter_parameters`; 0 leaves out jitter and
        grayscale, as do pictures that have not three channels.
      color_jitter_impl: see `color_ops.jitter_parameters`.
      crop: random crop; otherwise the whole picture is resized.
      crop_min_area: smallest fraction of the picture's area that a crop takes.
      flip: mirror half of the views left to right.
      rotation_degrees: rotate by up to this many degrees either way.
      noise_std: standard deviation of Gaussian noise.
      cutout_size: side of the covered square as a fraction of the view's.
      sobel: replace the channels by two edge channels.
      resize: see `resize_bicubic`.

    Returns:
      float32 (height, width, num_views * channels) in [0, 1], the views side by side
      on the channels (two channels each with `sobel`).
    """

    def one_view(view_seed):
        seeds = tf.random.split(view_seed, 6)
        if crop:
            view = random_crop_with_resize(image, seeds[0], height, width, resize, crop_min_area)
        else:
            view = resize_bicubic(to_float(image), height, width, resize)
        if rotation_degrees:
            view = extra_ops.random_rotation(view, seeds[1], rotation_degrees)
        if flip:
            view = random_flip(view, seeds[2])
        planes = color_ops.to_planes(view)
        if color_jitter_strength > 0 and len(planes) == 3:
            planes = color_ops.random_jitter_planes(
                planes, seeds[3], color_jitter_strength, color_jitter_impl
            )
        if noise_std:
            planes = tf.unstack(extra_ops.random_noise(tf.stack(planes), seeds[4], noise_std))
        planes = color_ops.clip_planes(planes)
        if cutout_size or sobel:
            view = color_ops.from_planes(planes)
            if cutout_size:
                view = extra_ops.random_cutout(view, seeds[5], cutout_size)
            if sobel:
                view = extra_ops.sobel_edges(view)
            planes = color_ops.to_planes(view)
        return planes

    view_seeds = tf.random.split(seed, num_views)
    planes = [plane for view in range(num_views) for plane in one_view(view_seeds[view])]
    views = color_ops.from_planes(planes)
    return tf.ensure_shape(views, [height, width, len(planes)])


def preprocess_for_eval(image, height, width, crop=True, *, resize="half_pixel", sobel=False):
    """Makes the one view of a picture that evaluation and an export see.

    Args:
      image: uint8 or float32 (h, w, channels), any size.
      height: rows to make.
      width: columns to make.
      crop: take the central 0.875 first.
      resize: see `resize_bicubic`.
      sobel: replace the channels by two edge channels, as in training.

    Returns:
      float32 (height, width, channels) in [0, 1].
    """
    if crop:
        image = center_crop(image, height, width, CROP_PROPORTION, resize)
    else:
        # Unlike the reference: pictures of another size are resized, not refused.
        image = resize_bicubic(to_float(image), height, width, resize)
    image = tf.clip_by_value(image, 0.0, 1.0)
    return extra_ops.sobel_edges(image) if sobel else image


def preprocess_image(
    image,
    height,
    width,
    is_training=False,
    color_jitter_strength=0.0,
    test_crop=True,
    *,
    seed=None,
    **options,
):
    """Preprocesses one picture for training or for evaluation.

    Args:
      image: uint8 or float32 (h, w, channels), any size.
      height: rows to make.
      width: columns to make.
      is_training: one random view instead of the evaluation's.
      color_jitter_strength: in training; 0 means crop and flip only.
      test_crop: crop in evaluation, which happens only above 32 pixels.
      seed: integer tensor (2,), in training; None draws one.
      **options: of `preprocess_for_train` or `preprocess_for_eval`.

    Returns:
      float32 (height, width, channels) in [0, 1].
    """
    if not is_training:
        crop = test_crop and max(height, width) > MAX_SIZE_WITHOUT_CROP
        return preprocess_for_eval(image, height, width, crop, **options)
    if seed is None:
        seed = tf.random.uniform([2], 0, 2**31 - 1, tf.int32)
    return preprocess_for_train(
        image,
        seed,
        height,
        width,
        color_jitter_strength=color_jitter_strength,
        **options,
    )
