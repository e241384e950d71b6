"""The files of TensorBoard's projector: TensorBoard's own readers return the written values."""

import csv
import io

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import ProjectorConfig, projector_plugin

from tf2.visuals import projector


def write(directory, count, side=8, channels=3, width=5, **more):
    """Writes random features; returns them, their images and TensorBoard's configuration."""
    rng = np.random.RandomState(count)
    values = rng.standard_normal([count, width]).astype("float32") * 10.0 ** rng.randint(-6, 6)
    images = rng.uniform(size=[count, side, side, channels]).astype("float32")
    more = {"ids": [f"id {i}" for i in range(count)], **more}
    path = projector.write(str(directory), values, images, name="features", **more)
    with open(path) as file:
        config = text_format.Parse(file.read(), ProjectorConfig())
    (embedding,) = config.embeddings
    return values, images, embedding


def cells(embedding, directory):
    """Returns the images of a sprite as TensorBoard cuts it, row by row from the upper left."""
    width, height = embedding.sprite.single_image_dim
    with Image.open(directory / embedding.sprite.image_path) as image:
        pixels = np.asarray(image)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    columns = pixels.shape[1] // width
    assert columns * width == pixels.shape[1] and pixels.shape[0] % height == 0
    for number in range(pixels.shape[0] // height * columns):
        y, x = number // columns * height, number % columns * width
        yield pixels[y : y + height, x : x + width]


@pytest.mark.parametrize("count", [1, 2, 9, 10, 60])
def test_tensorboard_reads_back_each_row_and_each_image(count, tmp_path):
    values, images, embedding = write(tmp_path, count)
    assert list(embedding.tensor_shape) == list(values.shape)
    assert embedding.tensor_name == "features"
    read = projector_plugin._read_tensor_tsv_file(str(tmp_path / embedding.tensor_path))
    np.testing.assert_allclose(read, values, rtol=1e-5)
    shown = list(cells(embedding, tmp_path))
    for cell, image in zip(shown, images, strict=False):
        np.testing.assert_allclose(cell, 255 * image, atol=0.5 + 1e-3)
    assert len(shown) >= count and not any(cell.any() for cell in shown[count:])
    # TensorBoard opens no file outside of the directory.
    for path in (embedding.tensor_path, embedding.metadata_path, embedding.sprite.image_path):
        resolved = projector_plugin._rel_to_abs_asset_path(
            path, str(tmp_path / "projector_config.pbtxt")
        )
        assert resolved == str(tmp_path / path)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_without_three_channels_show_the_first_one_in_gray(channels, tmp_path):
    _, images, embedding = write(tmp_path, 4, channels=channels)
    for cell, image in zip(cells(embedding, tmp_path), images, strict=True):
        np.testing.assert_allclose(cell, 255 * image[..., [0, 0, 0]], atol=0.5 + 1e-3)


def test_the_largest_sprite_fits_a_graphics_card(tmp_path):
    _, images, embedding = write(tmp_path, projector.MAX_IMAGES, projector.MAX_THUMBNAIL)
    assert projector.MAX_IMAGES == 1000
    with Image.open(tmp_path / embedding.sprite.image_path) as image:
        assert max(image.size) <= 8192
    last = list(cells(embedding, tmp_path))[999]
    np.testing.assert_allclose(last, 255 * images[999], atol=0.5 + 1e-3)
    with pytest.raises(AssertionError):
        write(tmp_path, 1001)


NAMES = ["plain", "a\ttab", "two\nlines", "carriage\rreturn", "back\\slash", "\\t", "", "übung"]


def unescape(text):
    """Reads one escaped cell, character by character."""
    result, rest = "", iter(text)
    for character in rest:
        escapes = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
        result += escapes[next(rest)] if character == "\\" else character
    return result


def test_names_with_tabs_and_line_ends_stay_in_one_cell(tmp_path):
    ids = [f"folder\t{i}\n.png" for i in range(len(NAMES))]
    _, _, embedding = write(tmp_path, len(NAMES), ids=ids, classes=NAMES)
    text = (tmp_path / embedding.metadata_path).read_bytes().decode()
    assert "\r" not in text
    rows = list(csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows[0] == ["class", "id"]
    assert [tuple(map(unescape, row)) for row in rows[1:]] == list(zip(NAMES, ids, strict=True))


def test_without_classes_there_are_only_ids_and_no_header():
    assert projector.metadata(["a", "b\tc"]) == "a\nb\\tc\n"


def test_a_second_write_replaces_the_first(tmp_path):
    write(tmp_path, 9)
    values, _, embedding = write(tmp_path, 4, width=7)
    read = projector_plugin._read_tensor_tsv_file(str(tmp_path / embedding.tensor_path))
    np.testing.assert_allclose(read, values, rtol=1e-5)
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["features.tsv", "metadata.tsv", "projector_config.pbtxt", "sprite.png"]


def test_zeros_are_read_as_numbers(tmp_path):
    zeros = np.zeros([3, 4], np.float32)
    projector.write(str(tmp_path), zeros, np.zeros([3, 2, 2, 1]), name="f", ids=["a", "b", "c"])
    read = projector_plugin._read_tensor_tsv_file(str(tmp_path / "projector" / "features.tsv"))
    np.testing.assert_array_equal(read, zeros)
    assert tf.io.gfile.exists(str(tmp_path / "projector_config.pbtxt"))
