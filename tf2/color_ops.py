"""Color augmentation of SimCLR: jitter in random order, and grayscale.

Images are float32 in [0, 1]. The public functions take (height, width, 3); the
`..._planes` functions take (3, height, width), in which every operation is a plain
element-wise pass: about twice as fast on a CPU as TensorFlow's pixel-wise kernels.

Every random function is pure: it takes a `seed`, an integer tensor of shape (2,).

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
Representations", appendix A.
"""

import tensorflow as tf

JITTER_PROBABILITY = 0.8
GRAYSCALE_PROBABILITY = 0.2
# Weights of red, green and blue in a gray value, those of tf.image.rgb_to_grayscale.
_GRAY_WEIGHTS = (0.2989, 0.5870, 0.1140)
# From strength 1.25 on, brightness, contrast and saturation would go below zero.
_MAX_STRENGTH = 1.25


def jitter_parameters(seed, strength=1.0, impl="simclrv2"):
    """Draws the factors and the order of one color jitter.

    Args:
      seed: integer tensor (2,).
      strength: brightness, contrast and saturation vary by 0.8 * strength, hue by
        0.2 * strength, a fraction of the color circle.
      impl: simclrv2 multiplies brightness by a factor around 1, simclrv1 adds an
        offset around 0.

    Returns:
      factors, float32 (4,): brightness, contrast, saturation, hue; and order, int32
      (4,): which of them comes first, second, third and fourth.

    Raises:
      ValueError: strength or impl is out of range.
    """
    if not 0 <= strength <= _MAX_STRENGTH:
        raise ValueError(
            f"The color jitter's strength must be from 0 to {_MAX_STRENGTH}. Received: "
            f"strength={strength}; use a smaller --color_jitter_strength."
        )
    if impl not in ("simclrv1", "simclrv2"):
        raise ValueError(
            "The color jitter must be one of simclrv1 and simclrv2. Received: "
            f"impl={impl!r}; set --color_jitter_impl to one of them."
        )
    spread = tf.constant([0.8, 0.8, 0.8, 0.2], tf.float32) * strength
    center = tf.constant([0.0 if impl == "simclrv1" else 1.0, 1.0, 1.0, 0.0])
    draws = tf.random.stateless_uniform([8], seed)
    factors = center + (2.0 * draws[:4] - 1.0) * spread
    return factors, tf.argsort(draws[4:])


def color_jitter(image, seed, strength=1.0, impl="simclrv2"):
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


def apply_color_jitter(image, factors, order, impl="simclrv2"):
    """Applies one given color jitter, see `jitter_parameters`; (h, w, 3) -> the same."""
    planes = to_planes(image)
    return from_planes(jitter_planes(planes, factors, order, impl))


def to_grayscale(image, keep_channels=True):
    """Turns (height, width, 3) into gray: 3 equal channels, or 1 if not kept."""
    gray = gray_planes(to_planes(image))
    gray = from_planes(gray)
    return gray if keep_channels else gray[..., :1]


def random_color_jitter(image, seed, strength=1.0, impl="simclrv2"):
    """Jitters with probability 0.8, then makes gray with probability 0.2.

    Args:
      image: float32 (height, width, 3).
      seed: integer tensor (2,).
      strength: see `jitter_parameters`.
      impl: see `jitter_parameters`.

    Returns:
      The image, (height, width, 3), in [0, 1] where it was jittered.
    """
    planes = to_planes(image)
    return from_planes(random_jitter_planes(planes, seed, strength, impl))


def to_planes(image):
    """Puts channels first, float32 (height, width, channels) -> (channels, h, w)."""
    # As integers: oneDNN would split each float transpose over threads, which slows
    # down an input pipeline that already prepares an image per core.
    planes = tf.transpose(tf.bitcast(image, tf.int32), [2, 0, 1])
    return tf.bitcast(planes, tf.float32)


def from_planes(planes):
    """Puts channels last, float32 (channels, height, width) -> (h, w, channels)."""
    image = tf.transpose(tf.bitcast(planes, tf.int32), [1, 2, 0])
    return tf.bitcast(image, tf.float32)


def random_jitter_planes(planes, seed, strength=1.0, impl="simclrv2"):
    """Is `random_color_jitter` on planes, (3, height, width) -> the same."""
    seeds = tf.random.split(seed, 2)
    factors, order = jitter_parameters(seeds[0], strength, impl)
    coins = tf.random.stateless_uniform([2], seeds[1])
    planes = tf.cond(
        coins[0] < JITTER_PROBABILITY,
        lambda: jitter_planes(planes, factors, order, impl),
        lambda: planes,
    )
    return tf.cond(coins[1] < GRAYSCALE_PROBABILITY, lambda: gray_planes(planes), lambda: planes)


def jitter_planes(planes, factors, order, impl="simclrv2"):
    """Is `apply_color_jitter` on planes, (3, height, width) -> the same."""
    shape = planes.shape
    for place in range(4):
        planes = _one_jitter(planes, factors, order[place], impl)
        planes = tf.ensure_shape(planes, shape)
    return planes


def gray_planes(planes):
    """Replaces three color planes by their gray value, (3, h, w) -> (3, h, w)."""
    red, green, blue = tf.unstack(planes)
    weights = _GRAY_WEIGHTS
    gray = weights[0] * red + weights[1] * green + weights[2] * blue  # (h, w)
    return tf.stack([gray, gray, gray])


def _one_jitter(planes, factors, operation, impl):
    """Applies operation 0, 1, 2 or 3; the functions see `planes` as it is now."""

    def brightness():
        brighter = planes + factors[0] if impl == "simclrv1" else planes * factors[0]
        return tf.clip_by_value(brighter, 0.0, 1.0)

    def contrast():
        mean = tf.reduce_mean(planes, [1, 2], keepdims=True)  # (3, 1, 1)
        return tf.clip_by_value((planes - mean) * factors[1] + mean, 0.0, 1.0)

    def saturation():
        return tf.clip_by_value(_adjust_saturation(planes, factors[2]), 0.0, 1.0)

    def hue():
        return tf.clip_by_value(_adjust_hue(planes, factors[3]), 0.0, 1.0)

    return tf.switch_case(operation, [brightness, contrast, saturation, hue])


def _adjust_saturation(planes, factor):
    """Multiplies the saturation of HSV by `factor`, up to full saturation.

    With value v = max(r, g, b) and chroma c = v - min(r, g, b), saturation is c / v.
    Scaling it moves every channel x to v - (v - x) * c' / c, c' = min(c * factor, v).
    """
    red, green, blue = tf.unstack(planes)
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    # Bicubic resizing overshoots: a pixel whose value is negative has no color.
    full = tf.math.divide_no_nan(tf.nn.relu(value), chroma)
    ratio = tf.minimum(factor, full)
    return value - (value - planes) * ratio


def _adjust_hue(planes, delta):
    """Turns the hue of HSV by `delta` of a full turn, at the same value and chroma.

    With k = (n + hue / 60 degrees) mod 6, the channels are
    value - chroma * clip(min(k, 4 - k), 0, 1) for n = 5 (red), 3 (green), 1 (blue).
    """
    red, green, blue = tf.unstack(planes)
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    inverse = tf.math.divide_no_nan(1.0, chroma)
    sixths = tf.where(
        red >= value,
        (green - blue) * inverse,
        tf.where(green >= value, 2.0 + (blue - red) * inverse, 4.0 + (red - green) * inverse),
    )
    sixths += 6.0 * delta
    turned = []
    for offset in (5.0, 3.0, 1.0):
        k = sixths + offset
        k -= 6.0 * tf.floor(k / 6.0)
        turned.append(value - chroma * tf.clip_by_value(tf.minimum(k, 4.0 - k), 0.0, 1.0))
    return tf.stack(turned)
