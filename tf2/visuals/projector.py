"""Features and their images, for the projector of TensorBoard: arrays in, files out.

    projector_config.pbtxt     what TensorBoard looks for in a run's directory
    projector/features.tsv     a line per image
    projector/metadata.tsv     class and id of each
    projector/sprite.png       the images, row by row in one picture

The formats are TensorBoard's: https://github.com/tensorflow/tensorboard/blob/master/docs/
tensorboard_projector_plugin.ipynb.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf2 import files

MAX_IMAGES = 1000
MAX_THUMBNAIL = 64  # pixels a side
MAX_SPRITE = 8192  # pixels a side: larger ones are no texture for many graphics cards
_CONFIG = """embeddings {{
  tensor_name: "{name}"
  tensor_shape: {count}
  tensor_shape: {width}
  tensor_path: "projector/features.tsv"
  metadata_path: "projector/metadata.tsv"
  sprite {{
    image_path: "projector/sprite.png"
    single_image_dim: {side}
    single_image_dim: {side}
  }}
}}
"""


def write(directory: str, values, thumbnails, *, name: str, ids, classes=None) -> str:
    """Writes what TensorBoard's projector shows of n images, in the place of earlier ones.

    Args:
        directory: a run's model_dir.
        values: features (n, d), n at most `MAX_IMAGES`.
        thumbnails: the images (n, side, side, c), float in [0, 1], a side of at most
            `MAX_THUMBNAIL` pixels; of c other than 3 the first channel is shown.
        name: of the features: letters, digits, - and _.
        ids: n strings.
        classes: n names, empty where one is unknown; None where there are no classes.

    Returns:
        The path of projector_config.pbtxt.
    """
    values, thumbnails = np.asarray(values), np.asarray(thumbnails)
    count, width = values.shape
    side = thumbnails.shape[1]
    assert 0 < count <= MAX_IMAGES and side <= MAX_THUMBNAIL, (values.shape, thumbnails.shape)
    inside = os.path.join(directory, "projector")
    files.make_directory(inside)
    text = io.StringIO()
    # As text: what TensorBoard takes for numbers and what for bytes would depend on the values.
    np.savetxt(text, values, fmt="%.6g", delimiter="\t")
    files.write_text(os.path.join(inside, "features.tsv"), text.getvalue())
    files.write_text(os.path.join(inside, "metadata.tsv"), metadata(ids, classes))
    encoded = tf.io.encode_png(sprite(thumbnails)).numpy()
    files.write_bytes(os.path.join(inside, "sprite.png"), encoded)
    path = os.path.join(directory, "projector_config.pbtxt")
    files.write_text(path, _CONFIG.format(name=name, count=count, width=width, side=side))
    return path


def metadata(ids: Sequence[str], classes: Sequence[str] | None = None) -> str:
    """Returns TensorBoard's metadata: class and id, with a header; of ids alone it wants none."""
    if classes is None:
        rows = [(i,) for i in ids]
    else:
        rows = [("class", "id"), *zip(classes, ids, strict=True)]
    return "".join("\t".join(map(_escaped, row)) + "\n" for row in rows)


def _escaped(text: str) -> str:
    """Returns a text with nothing in it that ends a cell or a line."""
    for character, written in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, written)
    return text


def sprite(thumbnails) -> np.ndarray:
    """Lays images (n, side, side, c) out, row by row, in a square (size, size, 3) of uint8."""
    thumbnails = np.asarray(thumbnails, np.float32)
    if thumbnails.shape[-1] != 3:
        thumbnails = np.repeat(thumbnails[..., :1], 3, axis=-1)
    count, side = thumbnails.shape[:2]
    cells = math.isqrt(count - 1) + 1  # in a row
    assert cells * side <= MAX_SPRITE, (count, side)
    filled = np.zeros((cells * cells, side, side, 3), np.uint8)
    filled[:count] = np.round(255 * np.clip(thumbnails, 0, 1))
    grid = filled.reshape(cells, cells, side, side, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(cells * side, cells * side, 3)
