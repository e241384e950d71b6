"""Image files to pixels, against Pillow: orientation, formats, limits."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from tf2.sources import folder, image_check, image_decoding, scan

PIXELS = np.kron(
    np.random.RandomState(0).randint(0, 256, (6, 9, 3)).astype(np.uint8), np.ones((8, 8, 1), "u1")
)
EXACT = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}


def encode(form, orientation=None, image=None, **options):
    image = Image.fromarray(PIXELS) if image is None else image
    if orientation:
        exif = image.getexif()
        exif[0x0112] = orientation
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def expected(contents):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))).convert("RGB"))


@pytest.mark.parametrize("form", ["JPEG", *EXACT])
def test_every_orientation_is_turned_upright_eagerly_and_in_a_pipeline(form):
    contents = [encode(form, orientation, **EXACT.get(form, {})) for orientation in range(1, 9)]
    dataset = tf.data.Dataset.from_tensor_slices(contents).map(image_decoding.decode)
    shapes = set()
    for stored, found in zip(contents, dataset, strict=True):
        np.testing.assert_array_equal(image_decoding.decode(tf.constant(stored)), found)
        # Two decoders of JPEG differ by rounding.
        np.testing.assert_allclose(
            found.numpy().astype(int), expected(stored), atol=0 if form in EXACT else 3
        )
        shapes.add(tuple(found.shape))
    assert shapes == {(48, 72, 3), (72, 48, 3)}


@pytest.mark.parametrize("orientation", [None, 1])
def test_what_is_upright_is_not_turned_and_pillow_is_not_asked(monkeypatch, orientation):
    monkeypatch.setattr(image_decoding, "read_orientation", lambda contents: 1 / 0)
    found = image_decoding.decode(tf.constant(encode("PNG", orientation)))
    np.testing.assert_array_equal(found, PIXELS)


@pytest.mark.parametrize("damage", [b"XX??", b"MM\x00*\xff\xff\xff\xff", b"\xff" * 20])
def test_damaged_exif_turns_nothing(damage):
    stored = encode("JPEG", 6)
    start = stored.index(b"Exif") + 6
    broken = stored[:start] + damage + stored[start + len(damage) :]
    assert image_decoding.decode(tf.constant(broken)).shape == (48, 72, 3)


def test_sixteen_bits_are_read_as_their_upper_eight():
    gray = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    found = image_decoding.decode(tf.constant(encode("TIFF", image=Image.fromarray(gray))))
    np.testing.assert_array_equal(found, np.repeat((gray >> 8)[:, :, None], 3, 2))


def test_a_folder_reads_every_suffix_that_it_lists(tmp_path):
    forms = {"a.jpe": "JPEG", "b.jfif": "JPEG", "c.webp": "WEBP", "d.tif": "TIFF", "e.bmp": "BMP"}
    for name, form in forms.items():
        (tmp_path / name).write_bytes(encode(form, **EXACT.get(form, {})))
    (tmp_path / "f.heic").write_bytes(b"x")
    source = folder.load(str(tmp_path))
    assert source.ids("train") == sorted(forms)
    for record in source.records("train"):
        assert source.decode(record)["image"].shape == (48, 72, 3)
    if ".heic" not in scan.SUFFIXES:  # without pillow-heif
        assert "1 in formats that are not read" in source.listing.describe()[-1]


def png_header(width, height):
    """The beginning of a PNG of one bit per pixel, and a little of its pixels."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    path.write_bytes(png_header(12_000, 12_000))
    monkeypatch.setattr(image_decoding, "decode", lambda contents: pytest.fail("decoded"))
    assert "12000 x 12000 pixels, more than --max_pixels" in image_check.read_error(str(path))
    path.write_bytes(png_header(100_000, 100_000))  # Pillow refuses the header
    assert image_check.read_error(str(path))
    path.write_bytes(png_header(10, 10))
    assert "10 x 10" in image_check.read_error(str(path), max_pixels=99)


def test_what_is_no_regular_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "waits.jpg")
    os.symlink("/dev/zero", tmp_path / "endless.jpg")
    (tmp_path / "good.png").write_bytes(encode("PNG"))
    source = folder.load(str(tmp_path))
    assert source.ids("train") == ["good.png"]
    text = source.listing.describe()[-1]
    assert "1 that are no regular files (waits.jpg)" in text and "endless.jpg" in text
    assert folder.load(str(tmp_path), follow_links=True).ids("train") == ["good.png"]
    for name in ("waits.jpg", "endless.jpg"):
        assert image_check.read_error(str(tmp_path / name)) == "no regular file"
