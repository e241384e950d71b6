"""Augmentations that SimCLR's ablations compare: rotation, noise, cutout, Sobel edges.

All are off in the published recipe. Images are float32 in [0, 1], (height, width, channels); every
random op is pure: it takes a `seed`, an integer tensor of shape (2,).

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
section 3.
"""

from __future__ import annotations

import math

import tensorflow as tf

from tf2.augment import color_ops


def rotate(image: tf.Tensor, angle: tf.Tensor | float, fill_mode: str = "REFLECT") -> tf.Tensor:
    """Rotates about the center by `angle` radians counterclockwise, bilinearly.

    Args:
        image: float32 (height, width, channels).
        angle: float tensor.
        fill_mode: how pixels beyond the border are filled: REFLECT, CONSTANT (zeros) or NEAREST.

    Returns:
        (height, width, channels).
    """
    shape = tf.shape(image)
    middle_x = tf.cast(shape[1] - 1, tf.float32) / 2.0
    middle_y = tf.cast(shape[0] - 1, tf.float32) / 2.0
    cos, sin = tf.cos(angle), tf.sin(angle)
    # The op maps output coordinates to input coordinates.
    shift_x = middle_x - (cos * middle_x - sin * middle_y)
    shift_y = middle_y - (sin * middle_x + cos * middle_y)
    transform = tf.stack([cos, -sin, shift_x, sin, cos, shift_y, 0.0, 0.0])
    rotated = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=transform[tf.newaxis],
        output_shape=shape[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=fill_mode,
    )[0]
    return tf.ensure_shape(rotated, image.shape)


def random_rotation(image: tf.Tensor, seed: tf.Tensor, degrees: float) -> tf.Tensor:
    """Rotates by an angle uniform in [-degrees, degrees]; (h, w, c) -> (h, w, c)."""
    radians = math.radians(degrees)
    angle = tf.random.stateless_uniform([], seed, -radians, radians)
    return rotate(image, angle)


def random_noise(image: tf.Tensor, seed: tf.Tensor, std: float) -> tf.Tensor:
    """Adds Gaussian noise of standard deviation `std`, not clipped; any shape."""
    return image + tf.random.stateless_normal(tf.shape(image), seed, stddev=std)


def cutout_box(height: int, width: int, seed: tf.Tensor, size: float) -> tf.Tensor:
    """Draws the square of `random_cutout`: int32 (4,), top, left, bottom, right."""
    side = max(1, round(size * min(height, width)))
    draws = tf.random.stateless_uniform([2], seed)
    positions = tf.constant([height - side + 1, width - side + 1], tf.float32)
    corner = tf.cast(tf.floor(draws * positions), tf.int32)
    return tf.concat([corner, corner + side], 0)


def random_cutout(image: tf.Tensor, seed: tf.Tensor, size: float, fill: float = 0.5) -> tf.Tensor:
    """Covers a random square with gray (DeVries and Taylor 2017).

    Args:
        image: float32 (height, width, channels) of static shape.
        seed: integer tensor (2,).
        size: side of the square as a fraction of the image's shorter side; the square lies inside
            the image.
        fill: value of the covered pixels.

    Returns:
        (height, width, channels).
    """
    height, width, _ = image.shape
    top, left, bottom, right = tf.unstack(cutout_box(height, width, seed, size))
    rows, columns = tf.range(height)[:, tf.newaxis], tf.range(width)[tf.newaxis]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return tf.where(inside[..., tf.newaxis], fill, image)


def output_channels(channels: int, sobel: bool = False) -> int:
    """Returns the number of channels of a view: two with Sobel, otherwise the image's."""
    return 2 if sobel else channels


def sobel_edges(image: tf.Tensor) -> tf.Tensor:
    """Replaces an image by the Sobel gradients of its gray value.

    Args:
        image: float32 (height, width, channels) in [0, 1]; three channels are weighted
            as colors, others averaged.

    Returns:
        float32 (height, width, 2): vertical and horizontal gradient, mapped from [-4, 4]
        to [0, 1], so that 0.5 means flat.
    """
    if image.shape[-1] == 3:
        image = color_ops.to_grayscale(image, keep_channels=False)
    else:
        image = tf.reduce_mean(image, -1, keepdims=True)
    edges = tf.image.sobel_edges(image[tf.newaxis])[0]  # (h, w, 1, 2)
    return 0.5 + edges[:, :, 0] / 8.0
