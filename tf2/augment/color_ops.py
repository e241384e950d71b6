"""Color augmentation of SimCLR: jitter in random order, and grayscale.

Images are float32 in [0, 1]. The public functions take (height, width, 3); the `..._planes`
functions take and return a list of three planes (height, width), red, green and blue, so that
every operation is element-wise.

Every random function is pure: it takes a `seed`, an integer tensor of shape (2,).

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
appendix A.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf2 import errors

JITTER_PROBABILITY = 0.8
GRAYSCALE_PROBABILITY = 0.2
# Weights of red, green and blue in a gray value, those of tf.image.rgb_to_grayscale.
_GRAY_WEIGHTS = (0.2989, 0.5870, 0.1140)
# Above 1.25, the factors of brightness, contrast and saturation could be negative.
_MAX_STRENGTH = 1.25


def jitter_parameters(
    seed: tf.Tensor, strength: float = 1.0, impl: str = "simclrv2"
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws the factors and the order of one color jitter.

    Args:
        seed: integer tensor (2,).
        strength: brightness, contrast and saturation vary by 0.8 * strength, hue by
            0.2 * strength, a fraction of the color circle.
        impl: simclrv2 multiplies brightness by a factor around 1, simclrv1 adds an
            offset around 0.

    Returns:
        factors, float32 (4,): brightness, contrast, saturation, hue; and order, int32
        (4,): the operations' indices in the order in which they are applied.

    Raises:
        errors.UserError: strength or impl is out of range.
    """
    if not 0 <= strength <= _MAX_STRENGTH:
        raise errors.UserError(
            f"The color jitter's strength must be from 0 to {_MAX_STRENGTH}. Received: "
            f"strength={strength}. Use a smaller --color_jitter_strength."
        )
    if impl not in ("simclrv1", "simclrv2"):
        raise errors.UserError(
            "The color jitter must be one of simclrv1 and simclrv2. Received: "
            f"impl={impl!r}. Set --color_jitter_impl to one of them."
        )
    spread = tf.constant([0.8, 0.8, 0.8, 0.2], tf.float32) * strength
    center = tf.constant([0.0 if impl == "simclrv1" else 1.0, 1.0, 1.0, 0.0])
    draws = tf.random.stateless_uniform([8], seed)
    factors = center + (2.0 * draws[:4] - 1.0) * spread
    return factors, tf.argsort(draws[4:])


def color_jitter(
    image: tf.Tensor, seed: tf.Tensor, strength: float = 1.0, impl: str = "simclrv2"
) -> tf.Tensor:
    """Jitters brightness, contrast, saturation and hue in random order.

    Args:
        image: float32 (height, width, 3).
        seed: integer tensor (2,).
        strength: see `jitter_parameters`.
        impl: see `jitter_parameters`.

    Returns:
        The image, (height, width, 3), clipped to [0, 1] after each operation.
    """
    factors, order = jitter_parameters(seed, strength, impl)
    return apply_color_jitter(image, factors, order, impl)


def apply_color_jitter(
    image: tf.Tensor, factors: tf.Tensor, order: tf.Tensor, impl: str = "simclrv2"
) -> tf.Tensor:
    """Applies the jitter of given `jitter_parameters`; (h, w, 3) -> (h, w, 3)."""
    return from_planes(jitter_planes(to_planes(image), factors, order, impl))


def to_grayscale(image: tf.Tensor, keep_channels: bool = True) -> tf.Tensor:
    """Converts (height, width, 3) to gray: 3 equal channels, or 1 without `keep_channels`."""
    gray = gray_planes(to_planes(image))
    return from_planes(gray if keep_channels else gray[:1])


def random_color_jitter(
    image: tf.Tensor, seed: tf.Tensor, strength: float = 1.0, impl: str = "simclrv2"
) -> tf.Tensor:
    """Jitters with probability 0.8, then converts to gray with probability 0.2.

    Args:
        image: float32 (height, width, 3).
        seed: integer tensor (2,).
        strength: see `jitter_parameters`.
        impl: see `jitter_parameters`.

    Returns:
        The image, (height, width, 3), in [0, 1] if it was jittered.
    """
    return from_planes(random_jitter_planes(to_planes(image), seed, strength, impl))


def to_planes(image: tf.Tensor) -> list[tf.Tensor]:
    """Splits channels, float32 (height, width, channels) -> list of (h, w)."""
    return tf.unstack(image, axis=-1)


def from_planes(planes: Sequence[tf.Tensor]) -> tf.Tensor:
    """Stacks channels, list of float32 (height, width) -> (h, w, channels)."""
    # As integers: oneDNN would split a float transpose over threads, which slows down an input
    # pipeline in which each core already prepares an image.
    image = tf.transpose(tf.bitcast(tf.stack(planes), tf.int32), [1, 2, 0])
    return tf.bitcast(image, tf.float32)


def clip_planes(planes: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Clips planes to [0, 1]."""
    return [tf.clip_by_value(plane, 0.0, 1.0) for plane in planes]


def random_jitter_planes(
    planes: list[tf.Tensor], seed: tf.Tensor, strength: float = 1.0, impl: str = "simclrv2"
) -> list[tf.Tensor]:
    """Applies `random_color_jitter` to planes."""
    seeds = tf.random.split(seed, 2)
    factors, order = jitter_parameters(seeds[0], strength, impl)
    coins = tf.random.stateless_uniform([2], seeds[1])
    planes = tf.cond(
        coins[0] < JITTER_PROBABILITY,
        lambda: jitter_planes(planes, factors, order, impl),
        lambda: planes,
    )
    return tf.cond(coins[1] < GRAYSCALE_PROBABILITY, lambda: gray_planes(planes), lambda: planes)


def jitter_planes(
    planes: list[tf.Tensor], factors: tf.Tensor, order: tf.Tensor, impl: str = "simclrv2"
) -> list[tf.Tensor]:
    """Applies `apply_color_jitter` to planes."""
    for index in range(4):
        planes = _one_jitter(planes, factors, order[index], impl, first=index == 0)
    return planes


def gray_planes(planes: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Replaces each of three color planes by the gray value."""
    red, green, blue = planes
    gray = _GRAY_WEIGHTS[0] * red + _GRAY_WEIGHTS[1] * green + _GRAY_WEIGHTS[2] * blue
    return [gray, gray, gray]


def _one_jitter(
    planes: list[tf.Tensor], factors: tf.Tensor, operation: tf.Tensor, impl: str, first: bool
) -> list[tf.Tensor]:
    """Applies operation 0, 1, 2 or 3 and clips; `first`: planes may be out of range."""
    # Hue and saturation keep values within [0, 1] if they are within it.
    clip_first = clip_planes if first else list

    def brightness() -> list[tf.Tensor]:
        if impl == "simclrv1":
            return clip_planes([plane + factors[0] for plane in planes])
        return clip_planes([plane * factors[0] for plane in planes])

    def contrast() -> list[tf.Tensor]:
        rest = 1.0 - factors[1]
        return clip_planes([p * factors[1] + tf.reduce_mean(p) * rest for p in planes])

    def saturation() -> list[tf.Tensor]:
        return clip_first(_adjust_saturation(planes, factors[2]))

    def hue() -> list[tf.Tensor]:
        return clip_first(_adjust_hue(planes, factors[3]))

    return tf.switch_case(operation, [brightness, contrast, saturation, hue])


def _value_and_chroma(planes: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns max(r, g, b), and how far min(r, g, b) lies below it."""
    red, green, blue = planes
    value = tf.maximum(tf.maximum(red, green), blue)
    return value, value - tf.minimum(tf.minimum(red, green), blue)


def _adjust_saturation(planes: Sequence[tf.Tensor], factor: tf.Tensor | float) -> list[tf.Tensor]:
    """Multiplies the saturation of HSV by `factor`, up to full saturation.

    Saturation is chroma c over value v. Scaling it moves every channel x to
    v - (v - x) * c' / c with c' = min(c * factor, v).
    """
    value, chroma = _value_and_chroma(planes)
    # Bicubic resizing overshoots: a pixel whose value is negative has no color.
    full = tf.math.divide_no_nan(tf.nn.relu(value), chroma)
    ratio = tf.minimum(factor, full)
    return [value - (value - plane) * ratio for plane in planes]


def _adjust_hue(planes: Sequence[tf.Tensor], delta: tf.Tensor | float) -> list[tf.Tensor]:
    """Rotates the hue of HSV by `delta` of a full turn, at the same value and chroma.

    Let h be the hue in sixths of a turn. A channel whose own hue is n (red 0, green 2,
    blue 4) lies d = 3 - ||h - n| - 3| sixths away, and is value - chroma * clip(d - 1, 0, 1).
    """
    red, green, blue = planes
    value, chroma = _value_and_chroma(planes)
    inverse = tf.math.divide_no_nan(1.0, chroma)
    sixths = tf.where(
        red >= value,
        (green - blue) * inverse,
        tf.where(green >= value, 2.0 + (blue - red) * inverse, 4.0 + (red - green) * inverse),
    )
    sixths += 6.0 * delta
    turned = []
    for own in (0.0, 2.0, 4.0):
        away = 2.0 - tf.abs(tf.abs(sixths - own) - 3.0)
        turned.append(value - chroma * tf.clip_by_value(away, 0.0, 1.0))
    return turned
