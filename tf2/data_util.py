"""Image ops: crop, flip, blur, and the whole preprocessing of training and evaluation.

Images are (height, width, channels), float32 in [0, 1]; crops also take decoded uint8 images,
since cropping before converting saves most of the conversion. Every random op is pure: it takes a
`seed`, an integer tensor of shape (2,), and gives the same result for the same seed.

The recipe is that of Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
Representations", section 3 and appendix A. Color ops are in `augment.color_ops`, those that the
published recipe does not use in `augment.extra_ops`; all of them are also available here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf2 import architecture, errors
from tf2.augment import color_ops, extra_ops

CROP_PROPORTION = architecture.CROP_PROPORTION
# Evaluation crops only for networks with larger images than this (CIFAR's are not cropped).
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


def to_float(image: tf.Tensor) -> tf.Tensor:
    """Converts integers of their full range to float32 in [0, 1]; floats are unchanged."""
    return tf.image.convert_image_dtype(image, tf.float32)


def resize_bicubic(
    image: tf.Tensor, height: int, width: int, resize: str = "half_pixel"
) -> tf.Tensor:
    """Resizes with Keys' bicubic kernel, without antialiasing; it may overshoot.

    Args:
        image: (h, w, channels), float32 or uint8 (which keeps its range).
        height: rows of the result.
        width: columns of the result.
        resize: half_pixel, or legacy: TensorFlow 1's grid without half-pixel centers,
            with which the released networks were trained.

    Returns:
        float32 (height, width, channels), not clipped.
    """
    if resize not in architecture.RESIZES:
        raise errors.UserError(
            "The resize must be one of half_pixel and legacy. Received: "
            f"resize={resize!r}. Set --resize to one of them."
        )
    image = tf.raw_ops.ResizeBicubic(
        images=image[tf.newaxis],
        size=[height, width],
        align_corners=False,
        half_pixel_centers=resize == "half_pixel",
    )[0]
    return tf.ensure_shape(image, [height, width, None])


def compute_crop_shape(
    image_height: tf.Tensor | int,
    image_width: tf.Tensor | int,
    aspect_ratio: float,
    crop_proportion: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the largest centered crop of an aspect ratio, times a proportion.

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


def center_crop(
    image: tf.Tensor,
    height: int,
    width: int,
    crop_proportion: float = CROP_PROPORTION,
    resize: str = "half_pixel",
) -> tf.Tensor:
    """Crops the center and resizes, (h, w, channels) -> float32 (height, width, channels)."""
    shape = tf.shape(image)
    crop_height, crop_width = compute_crop_shape(
        shape[0], shape[1], width / height, crop_proportion
    )
    top = (shape[0] - crop_height + 1) // 2
    left = (shape[1] - crop_width + 1) // 2
    box = tf.stack([top, left, crop_height, crop_width])
    return crop_and_resize(image, box, height, width, resize)


def crop_and_resize(
    image: tf.Tensor, box: tf.Tensor, height: int, width: int, resize: str = "half_pixel"
) -> tf.Tensor:
    """Cuts out a box and resizes it.

    Args:
        image: (h, w, channels), uint8 or float32 in [0, 1].
        box: int32 (4,): top, left, height, width.
        height: rows of the result.
        width: columns of the result.
        resize: see `resize_bicubic`.

    Returns:
        float32 (height, width, channels), not clipped.
    """
    channels = image.shape[-1]
    image = tf.slice(image, [box[0], box[1], 0], [box[2], box[3], -1])
    image = resize_bicubic(to_float(image), height, width, resize)
    return tf.ensure_shape(image, [height, width, channels])


def random_crop_box(
    image_shape: tf.Tensor | Sequence[int],
    seed: tf.Tensor,
    aspect_ratio: float = 1.0,
    area_range: tuple[float, float] = (0.08, 1.0),
    max_attempts: int = 100,
) -> tf.Tensor:
    """Draws a crop of random area and aspect ratio (Szegedy et al. 2015).

    Args:
        image_shape: int32 (3,): height, width and channels of the image.
        seed: integer tensor (2,).
        aspect_ratio: width over height of what the crop is resized to; the crop's own
            lies between 3/4 and 4/3 of it.
        area_range: smallest and largest fraction of the image's area.
        max_attempts: draws, after which the whole image is taken.

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


def random_crop_with_resize(
    image: tf.Tensor,
    seed: tf.Tensor,
    height: int,
    width: int,
    resize: str = "half_pixel",
    min_area: float = 0.08,
) -> tf.Tensor:
    """Takes a random crop and resizes it, (h, w, c) -> float32 (height, width, c)."""
    box = random_crop_box(tf.shape(image), seed, width / height, (min_area, 1.0))
    return crop_and_resize(image, box, height, width, resize)


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors left to right with probability 0.5; (h, w, c) -> (h, w, c)."""
    coin = tf.random.stateless_uniform([], seed)
    return tf.cond(coin < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def gaussian_blur(
    image: tf.Tensor, kernel_size: int, sigma: tf.Tensor | float, padding: str = "SAME"
) -> tf.Tensor:
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
    offsets = tf.range(-radius, radius + 1, dtype=tf.float32)
    taps = tf.exp(-tf.square(offsets) / (2.0 * tf.square(tf.cast(sigma, tf.float32))))
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


def blur_sigma(seed: tf.Tensor) -> tf.Tensor:
    """Draws a blur's standard deviation in pixels, uniform in [0.1, 2]."""
    return tf.random.stateless_uniform([], seed, *_BLUR_SIGMA)


def random_blur(
    image: tf.Tensor, seed: tf.Tensor, height: int, width: int | None = None, p: float = 1.0
) -> tf.Tensor:
    """Blurs with probability `p` and a random sigma; the kernel is height // 10 wide.

    Args:
        image: float32 (height, width, channels) or a batch of such.
        seed: integer tensor (2,).
        height: the image's rows, which set the kernel's size.
        width: unused; the images are square.
        p: probability; a batch is blurred as a whole or not at all.

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


def batch_random_blur(
    images_list: Sequence[tf.Tensor],
    seed: tf.Tensor,
    num_replicas: int = 1,
    replica_id: tf.Tensor | int = 0,
    p: float = BLUR_PROBABILITY,
) -> list[tf.Tensor]:
    """Blurs some of each view's images, in the training step.

    Which images are blurred is drawn for the global batch and then cut to this replica's rows, so
    that the result does not depend on the number of replicas.

    Args:
        images_list: one float32 tensor (batch, height, width, channels) per view, the
            batch of this replica.
        seed: integer tensor (2,), the same on all replicas, different in every step.
        num_replicas: replicas that share the global batch, a Python integer.
        replica_id: index of this replica, integer or integer tensor.
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
        blur = (coins < p)[:, tf.newaxis, tf.newaxis, tf.newaxis]  # (batch, 1, 1, 1)
        results.append(tf.clip_by_value(tf.where(blur, blurred, images), 0.0, 1.0))
    return results


def preprocess_for_train(
    image: tf.Tensor,
    seed: tf.Tensor,
    height: int,
    width: int,
    *,
    num_views: int = 1,
    color_jitter_strength: float = 0.0,
    color_jitter_impl: str = "simclrv2",
    crop: bool = True,
    crop_min_area: float = 0.08,
    flip: bool = True,
    rotation_degrees: float = 0.0,
    noise_std: float = 0.0,
    cutout_size: float = 0.0,
    sobel: bool = False,
    resize: str = "half_pixel",
) -> tf.Tensor:
    """Draws independent random views of one image.

    Args:
        image: uint8 or float32 (h, w, channels), any size.
        seed: integer tensor (2,); the views are a pure function of it and the image.
        height: rows of a view.
        width: columns of a view.
        num_views: number of views.
        color_jitter_strength: see `color_ops.jitter_parameters`; 0 leaves out jitter and
            grayscale, as does any number of channels other than three.
        color_jitter_impl: see `color_ops.jitter_parameters`.
        crop: random crop; otherwise the whole image is resized.
        crop_min_area: smallest fraction of the image's area that a crop takes.
        flip: whether to mirror half of the views left to right.
        rotation_degrees: rotate by up to this many degrees either way.
        noise_std: standard deviation of Gaussian noise.
        cutout_size: side of the covered square as a fraction of the view's.
        sobel: whether two edge channels replace the channels.
        resize: see `resize_bicubic`.

    Returns:
        float32 (height, width, num_views * channels) in [0, 1], the views side by side
        on the channels (two channels each with `sobel`).
    """

    def one_view(view_seed: tf.Tensor) -> list[tf.Tensor]:
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


def preprocess_for_eval(
    image: tf.Tensor,
    height: int,
    width: int,
    crop: bool = True,
    *,
    resize: str = "half_pixel",
    sobel: bool = False,
) -> tf.Tensor:
    """Preprocesses an image for evaluation and exported networks.

    Args:
        image: uint8 or float32 (h, w, channels), any size.
        height: rows of the result.
        width: columns of the result.
        crop: whether to take the central 0.875 first.
        resize: see `resize_bicubic`.
        sobel: whether two edge channels replace the channels, as in training.

    Returns:
        float32 (height, width, channels) in [0, 1].
    """
    if crop:
        image = center_crop(image, height, width, CROP_PROPORTION, resize)
    else:
        # Unlike the reference: images of another size are resized, not rejected.
        image = resize_bicubic(to_float(image), height, width, resize)
    image = tf.clip_by_value(image, 0.0, 1.0)
    return extra_ops.sobel_edges(image) if sobel else image


def preprocess_image(
    image: tf.Tensor,
    height: int,
    width: int,
    is_training: bool = False,
    color_jitter_strength: float = 0.0,
    test_crop: bool = True,
    *,
    seed: tf.Tensor | None = None,
    **options: Any,
) -> tf.Tensor:
    """Preprocesses one image for training or for evaluation.

    Args:
        image: uint8 or float32 (h, w, channels), any size.
        height: rows of the result.
        width: columns of the result.
        is_training: whether to draw a random view instead of the evaluation's.
        color_jitter_strength: in training; 0 means crop and flip only.
        test_crop: whether to crop in evaluation, which only happens above 32 pixels.
        seed: integer tensor (2,), for training; None draws one.
        **options: resize ('half_pixel' or 'legacy') and sobel; in training also num_views,
            color_jitter_impl, crop, crop_min_area, flip, rotation_degrees, noise_std, cutout_size.

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
