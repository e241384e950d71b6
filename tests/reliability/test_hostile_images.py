"""Damaged and odd image files, seeded: each is read, or left out with a reason; nothing else."""

import io
import os
import struct

import numpy as np
import pytest
from PIL import Image

from tf2 import run
from tf2.sources import folder, image_decoding

FORMATS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "WEBP": "webp", "TIFF": "tif"}
MODES = {"JPEG": ["RGB", "L", "CMYK"], "WEBP": ["RGB", "RGBA"], "BMP": ["RGB", "L", "P", "1"]}
TINY = {
    "train_mode": "pretrain", "image_size": 8, "resnet_depth": 18, "width_multiplier": 0.125,
    "train_batch_size": 4, "train_steps": 2, "use_blur": False, "plots": False, "export": False,
}  # fmt: skip


def encode(random, form):
    """An image of a random size, mode and orientation."""
    pixels = random.randint(0, 256, (*random.randint(1, 40, 2), 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    image = image.convert(random.choice(MODES.get(form, ["RGB", "L", "P", "1"])))
    options = {}
    if form in ("JPEG", "PNG", "WEBP", "TIFF"):
        exif = Image.Exif()
        exif[0x0112] = int(random.randint(0, 12))  # some are no orientation
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def cut(random, data):
    return data[: random.randint(0, len(data))]


def flip(random, data):
    changed = bytearray(data)
    for at in random.randint(0, len(data), random.randint(1, 8)):
        changed[at] = random.randint(256)
    return bytes(changed)


def flip_the_head(random, data):
    return flip(random, data[:40]) + data[40:]


def enlarge(random, data):
    """Writes a number of pixels wherever a PNG, GIF or BMP may have its own."""
    at = int(random.choice([6, 16, 18, 20, 22]))
    number = int(random.choice([0, 65535, 2**31 - 1, 2**32 - 1]))
    return data[:at] + struct.pack(random.choice(["<I", ">I"]), number) + data[at + 4 :]


def append(random, data):
    return data + random.bytes(1000)


def replace(random, data):
    return data[:4] + random.bytes(500)


DAMAGE = [cut, flip, flip_the_head, enlarge, append, replace]


def write_hostile(root, count):
    """Writes damaged images, a sixth under the suffix of another format."""
    root.mkdir(parents=True, exist_ok=True)
    suffixes = list(FORMATS.values())
    for number in range(count):
        random = np.random.RandomState(number)
        form = list(FORMATS)[number % len(FORMATS)]
        damage = DAMAGE[random.randint(len(DAMAGE))]
        suffix = random.choice(suffixes) if random.randint(6) == 0 else FORMATS[form]
        data = damage(random, encode(random, form))
        (root / f"{number:03d}_{damage.__name__}.{suffix}").write_bytes(data)


def write_good(root, count):
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        form = list(FORMATS)[number % len(FORMATS)]
        data = encode(np.random.RandomState(1000 + number), form)
        (root / f"good{number}.{FORMATS[form]}").write_bytes(data)


@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_a_hostile_image_is_read_or_left_out_with_a_reason(tmp_path, count):
    write_hostile(tmp_path, count)
    write_good(tmp_path, 6)
    source = folder.load(str(tmp_path), max_bad_fraction=1.0, max_pixels=10**6)
    ids = source.ids("train")
    assert {f"good{n}.{suffix}" for n, suffix in enumerate(FORMATS.values())} <= set(ids)
    assert len(ids) + len(source.unreadable) == count + 6 and source.unreadable
    assert all(reason and "\n" not in reason for reason in source.unreadable.values())
    decoded = source.records("train").map(lambda r: image_decoding.decode(r["image"]))
    shapes = [image.shape for image in decoded]  # what was read once is read in a pipeline
    assert len(shapes) == len(ids) and all(h * w <= 10**6 and c == 3 for h, w, c in shapes)


@pytest.mark.slow
def test_200_hostile_images_for_train_predict_select_and_audit(tmp_path, capsys):
    """Each command ends well; what it leaves out is counted."""
    for name in "ab":
        write_hostile(tmp_path / "photos" / name, 100)
        write_good(tmp_path / "photos" / name, 12)
    data = [f"--data_dir={tmp_path / 'photos'}", "--max_bad_fraction=1"]
    settings = [f"--{name}={value}" for name, value in {**TINY, "dataset": "folder"}.items()]
    pretrain = ["--mode=train", *settings, f"--model_dir={tmp_path / 'pretrain'}"]
    assert run.run_argv(["run.py", *pretrain, *data]) == 0
    classify = ["--mode=train", *settings, f"--model_dir={tmp_path / 'run'}"]
    assert run.run_argv(["run.py", *classify, "--train_mode=supervised", *data]) == 0
    for mode, network in (("predict", "run"), ("select", "pretrain"), ("audit", "pretrain")):
        where = [f"--checkpoint={tmp_path / network}", f"--model_dir={tmp_path / mode}"]
        options = ["--count=4"] if mode == "select" else []
        assert run.run_argv(["run.py", f"--mode={mode}", *where, *options, *data]) == 0, mode
        assert os.listdir(tmp_path / mode)
    assert "Traceback" not in capsys.readouterr().err
