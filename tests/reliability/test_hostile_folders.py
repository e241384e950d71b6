"""Folders with hostile names, files and links, and images that change while a run reads them."""

import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf2 import errors, loop, pipeline, run, run_data
from tf2.sources import folder, image_check, scan

TINY = {
    "train_mode": "pretrain", "dataset": "folder", "image_size": 8, "resnet_depth": 18,
    "width_multiplier": 0.125, "train_batch_size": 4, "use_blur": False, "plots": False,
    "export": False,
}  # fmt: skip
NAMES = ["a\nb.png", "c\td.png", "e\u2028f.png", os.fsdecode(b"g\xffh.png"), "=1+1.png", "ü ß.png"]


def write_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.RandomState(number).randint(0, 256, (9, 9, 3)).astype(np.uint8)
        with open(folder / name, "wb") as file:
            Image.fromarray(pixels).save(file, "PNG")


@pytest.mark.parametrize(
    "damage",
    [
        "cut short",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("removed", "replaced by text")),
    ],
)
def test_an_image_that_changes_while_training_is_named(tmp_path, monkeypatch, damage):
    names = [f"{n}.png" for n in range(12)]
    write_images(tmp_path / "photos", names)
    flags = {**TINY, "data_dir": tmp_path / "photos", "model_dir": tmp_path / "run"}
    config = run.configure(train_steps=40, checkpoint_steps=2, **flags)
    save, saves = loop.make_train_loop, []

    def make(*args, **options):
        steps = save(*args, **options)

        def change_after_two(iterator, count):
            found = steps(iterator, count)
            saves.append(count)
            if len(saves) == 2:
                for name in names[:3]:
                    path = tmp_path / "photos" / name
                    contents = path.read_bytes()
                    path.unlink()
                    if damage != "removed":
                        path.write_bytes(contents[:40] if damage == "cut short" else b"text")
            return found

        return change_after_two

    monkeypatch.setattr(loop, "make_train_loop", make)
    with pytest.raises(errors.UserError, match=r"altered or removed \(0.png, 1.png, 2.png\)"):
        pipeline.train(config)
    monkeypatch.setattr(loop, "make_train_loop", save)
    for name in names[:3]:
        (tmp_path / "photos" / name).unlink(missing_ok=True)
    with pytest.raises(errors.UserError, match="3 removed.*--allow_changed_data"):
        pipeline.train(config)
    state = pipeline.train(config.replace(allow_changed_data=True, train_steps=6))
    assert int(state.global_step.numpy()) == 6  # resumed from what was saved


def test_any_name_is_trained_on_predicted_and_exported(tmp_path, capsys):
    for class_name in ("x", os.fsdecode(b"y\xfe")):
        write_images(tmp_path / "photos" / class_name, NAMES)
    settings = {**TINY, "train_mode": "supervised", "train_batch_size": 4, "export": True}
    argv = [f"--{name}={value}" for name, value in settings.items()]
    base = [f"--data_dir={tmp_path / 'photos'}", f"--model_dir={tmp_path / 'run'}"]
    assert run.run_argv(["run.py", "--mode=train", "--train_steps=2", *argv, *base]) == 0
    predict = ["--mode=predict", f"--checkpoint={tmp_path / 'run'}", base[0]]
    assert run.run_argv(["run.py", *predict, f"--model_dir={tmp_path / 'p'}"]) == 0
    text = next((tmp_path / "p").glob("*.csv")).read_text(encoding="utf-8")
    assert len(text.splitlines()) == 1 + 2 * len(NAMES)
    for name in NAMES[:4]:
        assert scan.image_id(name) in text
    assert "Traceback" not in capsys.readouterr().err


def test_another_failure_is_not_taken_for_a_changed_image(tmp_path, monkeypatch):
    write_images(tmp_path, ["1.png", "2.png"])
    images = folder.load(str(tmp_path))
    monkeypatch.setattr(image_check, "read_error", lambda path, max_pixels: pytest.fail("decoded"))
    for kind in (tf.errors.ResourceExhaustedError, tf.errors.UnavailableError):
        with pytest.raises(kind):
            with run_data.naming_changed_files(images, 100):
                raise kind(None, None, "not of an image")


def test_an_image_within_the_limit_of_pixels_is_not_named(tmp_path):
    write_images(tmp_path, ["1.png", "2.png"])  # 81 pixels each
    images = folder.load(str(tmp_path))
    fault = tf.errors.InvalidArgumentError(None, None, "some other argument")
    with pytest.raises(tf.errors.InvalidArgumentError):
        with run_data.naming_changed_files(images, 81):
            raise fault
    with pytest.raises(errors.UserError, match=r"2 have been altered or removed \(1.png, 2.png"):
        with run_data.naming_changed_files(images, 80):
            raise fault
