"""Files for TensorBoard's projector: features and their images.

    projector_config.pbtxt     the file that TensorBoard looks for in a run's directory
    projector/features.tsv     a line per image
    projector/metadata.tsv     class and id of each image
    projector/sprite.png       the images, row by row in one image

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
MAX_SPRITE = 8192  # pixels a side; many graphics cards take no larger texture
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


def write(
    directory: str,
    features: np.ndarray,
    thumbnails: np.ndarray,
    *,
    name: str,
    ids: Sequence[str],
    classes: Sequence[str] | None = None,
) -> str:
    """Writes the projector's files for n images; replaces earlier ones.

    Args:
        directory: a run's model_dir.
        features: (n, d), n at most `MAX_IMAGES`.
        thumbnails: the images (n, side, side, c), float in [0, 1], a side of at most
            `MAX_THUMBNAIL` pixels; if c is not 3, the first channel is shown.
        name: of the features: letters, digits, - and _.
        ids: n strings.
        classes: n names, empty for an unlabeled image; None if there are no classes.

    Returns:
        The path of projector_config.pbtxt.
    """
    features, thumbnails = np.asarray(features), np.asarray(thumbnails)
    count, width = features.shape
    side = thumbnails.shape[1]
    assert 0 < count <= MAX_IMAGES and side <= MAX_THUMBNAIL, (features.shape, thumbnails.shape)
    subdirectory = os.path.join(directory, "projector")
    files.make_directory(subdirectory)
    text = io.StringIO()
    # As text: TensorBoard guesses from the values whether a binary file holds numbers.
    np.savetxt(text, features, fmt="%.6g", delimiter="\t")
    files.write_text(os.path.join(subdirectory, "features.tsv"), text.getvalue())
    files.write_text(os.path.join(subdirectory, "metadata.tsv"), metadata(ids, classes))
    encoded = tf.io.encode_png(sprite(thumbnails)).numpy()
    files.write_bytes(os.path.join(subdirectory, "sprite.png"), encoded)
    path = os.path.join(directory, "projector_config.pbtxt")
    files.write_text(path, _CONFIG.format(name=name, count=count, width=width, side=side))
    return path


def metadata(ids: Sequence[str], classes: Sequence[str] | None = None) -> str:
    """Returns TensorBoard's metadata: class and id with a header, or ids alone without one."""
    if classes is None:
        rows: list[tuple[str, ...]] = [(i,) for i in ids]
    else:
        rows = [("class", "id"), *zip(classes, ids, strict=True)]
    return "".join("\t".join(map(_escaped, row)) + "\n" for row in rows)


def _escaped(text: str) -> str:
    """Escapes the characters that would end a cell or a line."""
    for character, escape in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, escape)
    return text


def sprite(thumbnails: np.ndarray) -> np.ndarray:
    """Arranges images (n, side, side, c), row by row, in a square (size, size, 3) of uint8."""
    thumbnails = np.asarray(thumbnails, np.float32)
    if thumbnails.shape[-1] != 3:
        thumbnails = np.repeat(thumbnails[..., :1], 3, axis=-1)
    count, side = thumbnails.shape[:2]
    columns = math.isqrt(count - 1) + 1
    assert columns * side <= MAX_SPRITE, (count, side)
    cells = np.zeros((columns * columns, side, side, 3), np.uint8)
    cells[:count] = np.round(255 * np.clip(thumbnails, 0, 1))
    grid = cells.reshape(columns, columns, side, side, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(columns * side, columns * side, 3)
