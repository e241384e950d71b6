"""The temperature of a run: where it is kept, what it changes, and when it is not known."""

import csv
import json
import shutil

import numpy as np
import pytest
import small
import tensorflow as tf

import tf2 as simclr
from tf2 import calibration, run
from tf2.apply import run_report
from tf2.sources import source as source_lib
from tf2.visuals import report


@pytest.fixture(scope="module")
def trained(one_convolution, tmp_path_factory):
    """Model directory of a classifier, evaluated on 360 digits and exported."""
    directory = tmp_path_factory.mktemp("trained")
    flags = {"train_mode": "supervised", "export": True, "train_steps": 30, "learning_rate": 1.0}
    assert run.run_argv([*small.command(directory, **flags), "--mode=train_then_eval"]) == 0
    return directory


@pytest.fixture(scope="module")
def digits():
    return simclr.load_source("digits")


@pytest.fixture(scope="module")
def logits(trained, digits):
    return simclr.embed(trained, digits, split="test", endpoint="logits_sup").values.astype(float)


def stored(directory):
    return json.loads((directory / "model.json").read_text())


def softmax(logits):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def test_the_temperature_is_fitted_on_held_out_images(trained, digits, logits):
    found, labels = stored(trained)["calibration"], digits.labels("test")
    assert found["num_images"] == 360 and found["global_step"] == 30
    grid = np.exp(
        np.linspace(np.log(found["temperature"]) - 1, np.log(found["temperature"]) + 1, 999)
    )
    own = [np.log(softmax(logits / t)[np.arange(360), labels]).mean() for t in grid]
    assert found["temperature"] == pytest.approx(grid[np.argmax(own)], rel=5e-3)
    assert stored(trained / "best")["calibration"] == found


def test_predictions_have_the_temperature_and_the_same_classes(trained, digits, logits):
    temperature = stored(trained)["calibration"]["temperature"]
    predictions = simclr.predict(trained, digits, split="test")
    np.testing.assert_allclose(predictions.probabilities, softmax(logits / temperature), rtol=1e-4)
    np.testing.assert_array_equal(predictions.probabilities.argmax(1), logits.argmax(1))


def test_the_export_has_the_temperature(trained, digits):
    temperature = stored(trained)["calibration"]["temperature"]
    directory = next((trained / "saved_model").iterdir())
    served = tf.saved_model.load(str(directory)).signatures["serving_default"]
    images = digits.load_all("test")["image"][:5]
    outputs = {name: value.numpy() for name, value in served(images=images).items()}
    np.testing.assert_allclose(
        outputs["probabilities"], softmax(outputs["logits"] / temperature), rtol=1e-4
    )
    again = simclr.predict(directory, images.numpy()).probabilities
    np.testing.assert_allclose(again, outputs["probabilities"], rtol=1e-3)


def test_the_table_marks_what_a_person_should_look_at(trained, tmp_path, capsys):
    output = tmp_path / "predictions.csv"
    flags = [f"--model_dir={trained}", "--eval_split=test", f"--output={output}"]
    wanted = ["--min_precision=0.05", "--coverage=0.9"]
    assert run.run_argv(["run.py", "--mode=predict", *flags, *wanted]) == 0
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    measured = calibration.from_json(stored(trained)["calibration"])
    limit = calibration.threshold(measured, 0.05)
    assert limit is not None
    for row in rows:
        assert row["review"] == ("no" if float(row["probability"]) >= limit - 1e-6 else "yes")
        assert row["set"].split("|")[0] == row["class"]
    kept = np.mean([row["review"] == "no" for row in rows])
    assert f"{100 * kept:.1f} % of the images need no review" in capsys.readouterr().out
    # The held-out images themselves: their sets hold the true class as often as asked for.
    true = simclr.load_source("digits").labels("test")
    held = [str(t) in row["set"].split("|") for t, row in zip(true, rows, strict=True)]
    assert 0.9 <= np.mean(held) < 0.95


def test_a_precision_that_is_out_of_reach_leaves_all_to_a_person(trained, digits):
    predictions = simclr.predict(trained, digits, split="test", min_precision=0.9999)
    assert {row["review"] for row in predictions.rows()} == {"yes"}
    assert "review all images" in predictions.review_in_words(0.9999)


def test_a_temperature_of_other_weights_is_not_used(trained, digits, logits, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    changed = stored(trained)
    changed["calibration"]["global_step"] = 29
    (tmp_path / "copy" / "model.json").write_text(json.dumps(changed))
    predictions = simclr.predict(tmp_path / "copy", digits, split="test")
    np.testing.assert_allclose(predictions.probabilities, softmax(logits), rtol=1e-4)


def test_without_a_measurement_a_precision_is_refused(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "copy")
    changed = {**stored(trained), "calibration": None}
    (tmp_path / "copy" / "model.json").write_text(json.dumps(changed))
    flags = [f"--model_dir={tmp_path}/copy", "--eval_split=test", "--min_precision=0.9"]
    text = small.refusal(capsys, ["run.py", "--mode=predict", *flags])
    assert "min_precision takes at least 50 held-out labels" in text


def test_nothing_is_fitted_on_training_images(one_convolution, tmp_path):
    command = small.command(tmp_path, train_mode="supervised", eval_split="train")
    assert run.run_argv([*command, "--mode=train_then_eval"]) == 0
    assert "calibration" not in stored(tmp_path)


def test_splits_with_other_names_have_no_image_in_common(digits):
    assert not source_lib.overlap(digits, "train", "test")
    assert source_lib.overlap(digits, "train", "train")


def test_the_report_says_how_far_to_trust_it(trained):
    measured = calibration.from_json(stored(trained)["calibration"])
    page = run_report.with_trust(report.Report(title="digits"), measured)
    text = report.render(page)
    assert "Expected calibration error" in text and "Reliability" not in text.split("<h2>")[0]
    assert "How far to trust it" in text and text.count("data:image/png") == 1
    few = calibration.Calibration(1, 20, unknown="Only 20 labeled images.")
    text = report.render(run_report.with_trust(report.Report(title="few"), few))
    assert "Only 20 labeled images." in text and "image/png" not in text
