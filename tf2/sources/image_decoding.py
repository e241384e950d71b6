"""From the contents of an image file to its pixels, upright.

TensorFlow decodes JPEG, PNG and GIF; Pillow what it does not read: WebP, TIFF, BMP with and without
a palette, and HEIC where pillow-heif is installed. Cameras store an image as the sensor was held,
with the way to turn it (EXIF orientation), which TensorFlow ignores.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from tf2.flags import data as data_flags

if importlib.util.find_spec("pillow_heif"):
    import pillow_heif  # type: ignore[import-not-found]

    pillow_heif.register_heif_opener()

# The limit is ours: --max_pixels.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

MAX_PIXELS = data_flags.Data.max_pixels  # of an image that is decoded; three bytes each
_ORIENTATION = 0x0112  # the EXIF tag
_BY_TENSORFLOW = (b"\xff\xd8\xff", b"\x89PN", b"GIF")  # how JPEG, PNG and GIF files begin
_HEAD = 2**14  # bytes in which EXIF begins: in a JPEG, right after the first marker
# The EXIF entry of an orientation from 2 to 8, little-endian or big-endian. Without it the image
# need not enter Python.
_TURNED = (
    r"\x12\x01[\x03\x04]\x00\x01\x00\x00\x00[\x02-\x08]"
    r"|\x01\x12\x00[\x03\x04]\x00\x00\x00\x01\x00(\x00\x00)?[\x02-\x08]"
)


def decode(contents: tf.Tensor) -> tf.Tensor:
    """Returns the pixels of an image file, uint8 (h, w, 3), eagerly or in a tf.data pipeline.

    Raises:
        tf.errors.OpError: it cannot be decoded.
    """
    head = tf.strings.substr(contents, 0, _HEAD)
    plain = _is_known(head) & ~_holds(head, _TURNED)
    image = tf.cond(plain, lambda: _decode(contents), lambda: _decode_special(contents))
    return tf.ensure_shape(image, [None, None, 3])


def _decode(contents: tf.Tensor) -> tf.Tensor:
    # Every format can be decoded to three channels, but not to one.
    return tf.io.decode_image(contents, 3, expand_animations=False)


def _decode_special(contents: tf.Tensor) -> tf.Tensor:
    """Decodes what TensorFlow does not read, and what is to be turned."""

    def turned() -> tf.Tensor:
        orientation = _call(read_orientation, contents, tf.int32)
        return upright(_decode(contents), tf.ensure_shape(orientation, []))

    return tf.cond(
        _is_known(contents), turned, lambda: _call(_decode_by_pillow, contents, tf.uint8)
    )


def _is_known(contents: tf.Tensor) -> tf.Tensor:
    """Whether TensorFlow decodes a file, by its first bytes."""
    return tf.reduce_any(tf.equal(tf.strings.substr(contents, 0, 3), _BY_TENSORFLOW))


def _holds(contents: tf.Tensor, pattern: str) -> tf.Tensor:
    """Whether bytes, which may be no UTF-8, have a match of a pattern."""
    return tf.strings.regex_full_match(contents, rf"\C*({pattern})\C*")


def _call(function: Callable[[bytes], Any], contents: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns a Python function of the contents, which eager execution passes as an array."""

    @tf.autograph.experimental.do_not_convert
    def call(value: Any) -> Any:
        return function(value if isinstance(value, bytes) else value.item())

    return tf.numpy_function(call, [contents], dtype)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image (h, w, c) as its EXIF orientation says.

    Args:
        image: the pixels as they are stored.
        orientation: 1 to 8 (EXIF 2.3, section 4.6.4, tag 0x0112): where row 0 and column 0 are.
    """

    def where(orientations: tuple[int, ...], change: Callable[[tf.Tensor], tf.Tensor]) -> None:
        nonlocal image
        wanted = tf.reduce_any(tf.equal(orientation, orientations))
        image = tf.cond(wanted, lambda: change(image), lambda: image)

    where((5, 6, 7, 8), lambda pixels: tf.transpose(pixels, [1, 0, 2]))
    where((2, 3, 6, 7), lambda pixels: tf.reverse(pixels, [1]))
    where((3, 4, 7, 8), lambda pixels: tf.reverse(pixels, [0]))
    return image


def read_orientation(contents: bytes) -> np.int32:
    """Returns the EXIF orientation of an image file, 1 where there is none or it is damaged."""
    try:
        with Image.open(io.BytesIO(contents)) as image:
            value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF raises errors of many kinds in Pillow, and turns nothing
        value = 1
    return np.int32(value if value in range(1, 9) else 1)


def read_size(contents: bytes) -> tuple[int, int]:
    """Returns width and height by the header of an image file.

    Raises:
        OSError, ValueError: the header cannot be read, or names more than twice Pillow's limit.
    """
    try:
        with Image.open(io.BytesIO(contents)) as image:
            return image.size
    except (OSError, ValueError):
        raise
    except Exception as error:  # of damaged files, Pillow raises errors of many kinds
        raise ValueError(str(error) or type(error).__name__) from error


def _decode_by_pillow(contents: bytes) -> np.ndarray:
    """Returns the pixels, upright; of 16 bits the upper 8."""
    with Image.open(io.BytesIO(contents)) as stored:
        stored.load()  # turns a TIFF
        image = ImageOps.exif_transpose(stored)
    if image.mode.startswith("I"):
        gray = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return np.repeat(gray[:, :, None], 3, 2).astype(np.uint8)
    return np.asarray(image.convert("RGB"))
