"""A model card repeats the facts of the files beside it, and its code runs as it is."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from small import command, run_config

import tf2 as simclr
from tf2 import config, modes, run
from tf2.sources import digits as digits_lib
from tf2.visuals import model_card

pytestmark = pytest.mark.usefixtures("one_convolution")


@pytest.fixture(scope="module")
def exported(one_convolution, tmp_path_factory):
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


def test_a_card_has_the_settings_and_results_of_its_run(exported):
    directory, path = exported
    card = (path / "README.md").read_text()
    metadata = json.loads((directory / "model.json").read_text())
    result = json.loads((directory / "result.json").read_text())
    assert card.startswith("# ResNet-18 (0.0625x), digits\n")
    assert "trained on labels from random weights on digits, after 2 of 2 training steps" in card
    assert "10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in card
    results = table(card, "Results")
    for title, name in (("top-1 accuracy", "top_1"), ("top-5 accuracy", "top_5")):
        expected = 100 * result[f"eval/label_{name}_accuracy"]
        assert results[title].split(" (")[0] == f"{expected:.2f} %"
    low, high = (100 * result[f"eval/label_top_1_{end}"] for end in ("low", "high"))
    assert results["top-1 accuracy"].endswith(f"({low:.1f} to {high:.1f})")
    assert "mean per-class accuracy" in results and "360 images; 95 % intervals" in card
    assert "On digits/test:" in card
    settings = table(card, "Training")
    flags = json.loads((directory / "flags.json").read_text())
    for name in ("train_batch_size", "learning_rate", "optimizer", "labels_per_class"):
        assert settings[f"`--{name}`"] == str(flags[name])
    assert "`--temperature`" not in settings  # of the contrastive loss
    assert f"keras {metadata['versions']['keras']}" in card
    assert "Licence of these weights: (to be chosen" in card
    assert "resize to 8 x 8 pixels (bicubic, pixel grid half_pixel)" in card
    assert "central" not in card and "1. decode to 1 channel(s), values in [0, 1]" in card


def test_a_card_counts_the_parameters(exported):
    module = tf.saved_model.load(str(exported[1]))
    counts = {
        part: int(count.replace(",", ""))
        for part, count in table((exported[1] / "README.md").read_text(), "Network").items()
    }
    trainable = sum(int(np.prod(v.shape)) for v in module.trainable_variables_list)
    assert counts["all"] == trainable
    assert counts["classifier"] == 4 * 10 + 10
    assert sum(count for part, count in counts.items() if part != "all") == counts["all"]


def test_the_code_of_a_card_runs_as_it_is(exported, tmp_path, monkeypatch):
    card = (exported[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2 and all(len(block.splitlines()) <= 3 for block in blocks)
    digits = digits_lib.DigitsSource().subset("test", range(3))
    images = digits.load_all("test")["image"].numpy()
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images):
        tf.io.write_file(str(tmp_path / "images" / f"{number}.png"), tf.io.encode_png(image))
    monkeypatch.chdir(exported[1])
    names = {"images": tf.constant(images.astype("float32") / 255)}
    exec(blocks[0], names)
    expected = simclr.embed(".", digits, split="test").values
    np.testing.assert_allclose(names["features"], expected, atol=1e-5)
    exec(blocks[1].replace('"images"', repr(str(tmp_path / "images"))), names)
    expected = simclr.predict(".", digits, split="test").rows()
    assert [row["class"] for row in names["predictions"]] == [row["class"] for row in expected]


def test_an_export_later_has_the_same_card(exported, tmp_path):
    directory, path = exported
    flags = ["--mode=export", f"--checkpoint={directory}", f"--model_dir={tmp_path}"]
    assert run.run_argv(["run.py", *flags]) == 0
    again = (tmp_path / "saved_model" / "2" / "README.md").read_text()
    assert again == (path / "README.md").read_text()


PREPROCESSING = {"image_size": 224, "center_crop": 0.875, "channels": 3, "resize": "legacy"}


@pytest.fixture
def resnet50():
    return simclr.SimCLR(50, 1, sk_ratio=0.0625, num_classes=0, stem="imagenet")


def test_unknown_facts_are_left_out_and_missing_results_are_stated(resnet50):
    bare = model_card.text(resnet50, {"global_step": 1}, preprocessing=PREPROCESSING)
    assert bare.startswith("# ResNet-50 (1x, SK 0.0625)\n") and "## Training" not in bare
    assert "Not evaluated before this export." in bare and "Classifier" not in bare
    assert '["final_avg_pool"]` takes images' in bare and "simclr.embed" in bare
    assert "87.5 % of the shorter side" in bare and "pixel grid legacy" in bare
    metadata = {"dataset": "imagenet2012", "train_mode": "pretrain"}
    settings = run_config("x", use_memory=False).as_flags()
    names = [f"class {number}" for number in range(1000)]
    card = model_card.text(
        resnet50, metadata, preprocessing=PREPROCESSING, class_names=names, settings=settings
    )
    assert "1,000 classes: class 0" in card and "and 980 more" in card
    assert "`--temperature`" in table(card, "Training")
    assert "`--memory_size`" not in table(card, "Training")


def test_a_card_names_a_teacher_without_its_directory(resnet50):
    metadata = {"dataset": "digits", "train_mode": "distill"}
    for teacher, shown in (("/a/runs/tuned/,b/other", "tuned, other"), ("", "")):
        settings = {"teacher": teacher, "optimizer": "lars"}
        card = model_card.text(resnet50, metadata, preprocessing=PREPROCESSING, settings=settings)
        assert table(card, "Training") == {"`--teacher`": shown, "`--optimizer`": "lars"}


@pytest.mark.parametrize(
    "results", [{"eval/majority_class_accuracy": 0.25}, {"eval/chance_accuracy": 0.25}]
)
def test_the_majority_class_accuracy_is_read_by_its_name_or_its_former_name(results, resnet50):
    card = model_card.text(resnet50, {}, preprocessing=PREPROCESSING, results=results)
    assert table(card, "Results") == {"majority-class accuracy": "25.00 %"}


def test_every_setting_of_a_card_is_a_flag():
    known = {field.name for field in config.flag_fields()}
    for names in (model_card._SETTINGS, *(mode.card for mode in modes.TRAIN_MODES.values())):
        assert set(names) <= known
