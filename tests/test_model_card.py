"""A model card says what the files beside it say, and its code runs as it stands."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from small import command, run_config

import tf2 as simclr
from tf2 import config, run
from tf2.sources import loaders
from tf2.visuals import model_card


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The model_dir of a small run, and its export."""
    directory = tmp_path_factory.mktemp("run")
    flags = {"mode": "train_then_eval", "train_mode": "supervised", "export": True, "image_size": 8}
    flags |= {"width_multiplier": 0.0625, "train_steps": 2, "labels_per_class": 20}
    assert run.run_argv(command(directory, **flags)) == 0
    return directory, directory / "saved_model" / "2"


def table(card, heading):
    """Returns a section's table, first column -> second."""
    section = card.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*?) +\| (.*?) +\|$", section, re.MULTILINE)
    return dict(rows[1:])


def test_a_card_tells_what_the_run_wrote(exported):
    directory, path = exported
    card = (path / "README.md").read_text()
    about = json.loads((directory / "model.json").read_text())
    result = json.loads((directory / "result.json").read_text())
    assert card.startswith("# ResNet-18 (0.0625x), digits\n")
    assert "trained on labels from random weights on digits, after 2 of 2 training steps" in card
    assert "10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in card
    found = table(card, "Results")
    for title, name in (("top-1 accuracy", "top_1"), ("top-5 accuracy", "top_5")):
        expected = 100 * result[f"eval/label_{name}_accuracy"]
        assert found[title] == f"{expected:.2f} %"
    assert "On digits/test:" in card
    settings = table(card, "Training")
    flags = json.loads((directory / "flags.json").read_text())
    for name in ("train_batch_size", "learning_rate", "optimizer", "labels_per_class"):
        assert settings[f"`--{name}`"] == str(flags[name])
    assert "`--temperature`" not in settings  # of the contrastive loss
    assert f"keras {about['versions']['keras']}" in card
    assert "Licence of these weights: (to be chosen" in card
    assert "resize to 8 x 8 pixels (bicubic, pixel grid half_pixel)" in card
    assert "central" not in card and "1. decode to 1 channel(s), values in [0, 1]" in card


def test_a_card_counts_the_parameters(exported):
    module = tf.saved_model.load(str(exported[1]))
    found = {
        part: int(count.replace(",", ""))
        for part, count in table((exported[1] / "README.md").read_text(), "Network").items()
    }
    trained = sum(int(np.prod(v.shape)) for v in module.trainable_variables_list)
    assert found["all"] == trained
    assert found["classifier"] == 32 * 10 + 10
    assert sum(count for part, count in found.items() if part != "all") == found["all"]


def test_the_code_of_a_card_runs_as_it_stands(exported, tmp_path, monkeypatch):
    card = (exported[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2 and all(len(block.splitlines()) <= 3 for block in blocks)
    digits = loaders.DigitsSource().subset("test", range(3))
    pictures = digits.load_all("test")["image"].numpy()
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(pictures):
        contents = tf.io.encode_png(picture)
        tf.io.write_file(str(tmp_path / "pictures" / f"{number}.png"), contents)
    monkeypatch.chdir(exported[1])
    held = {"images": tf.constant(pictures.astype("float32") / 255)}
    exec(blocks[0], held)
    expected = simclr.embed(".", digits, split="test").values
    np.testing.assert_allclose(held["features"], expected, atol=1e-5)
    exec(blocks[1].replace('"pictures"', repr(str(tmp_path / "pictures"))), held)
    expected = simclr.predict(".", digits, split="test").rows()
    assert [row["class"] for row in held["found"]] == [row["class"] for row in expected]


def test_an_export_later_has_the_same_card(exported, tmp_path):
    directory, path = exported
    flags = ["--mode=export", f"--checkpoint={directory}", f"--model_dir={tmp_path}"]
    assert run.run_argv(["run.py", *flags]) == 0
    again = (tmp_path / "saved_model" / "2" / "README.md").read_text()
    assert again == (path / "README.md").read_text()


def test_what_is_not_known_is_left_out_and_what_was_not_measured_is_said():
    model = simclr.SimCLR(50, 1, sk_ratio=0.0625, num_classes=0, stem="imagenet")
    names = [f"class {number}" for number in range(1000)]
    preprocessing = {"image_size": 224, "center_crop": 0.875, "channels": 3, "resize": "legacy"}
    bare = model_card.text(model, {"global_step": 1}, preprocessing=preprocessing)
    assert bare.startswith("# ResNet-50 (1x, SK 0.0625)\n") and "## Training" not in bare
    assert "None were measured" in bare and "Classifier" not in bare
    assert '["final_avg_pool"]` takes pictures' in bare and "simclr.embed" in bare
    assert "87.5 % of its side" in bare and "pixel grid legacy" in bare
    about = {"dataset": "imagenet2012", "train_mode": "pretrain"}
    settings = run_config("x", use_memory=False).as_flags()
    card = model_card.text(
        model, about, preprocessing=preprocessing, class_names=names, settings=settings
    )
    assert "1,000 classes: class 0" in card and "and 980 more" in card
    assert "`--temperature`" in table(card, "Training")
    assert "`--memory_size`" not in table(card, "Training")


def test_every_setting_that_a_card_tells_is_a_flag():
    known = {field.name for field in config.flag_fields()}
    for names in model_card._SETTINGS.values():
        assert set(names) <= known
