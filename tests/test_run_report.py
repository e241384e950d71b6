"""All stages on a folder leave predictions of unlabeled images, a second estimate and a page."""

import contextlib
import csv
import io
import json
import re
import types

import numpy as np
import pytest
import small
from PIL import Image

from tf2 import intervals, run, stage_results
from tf2.apply import cross_validation

pytestmark = pytest.mark.usefixtures("one_convolution")

CLASSES = ("dark & <small>", "light")
LABELED, UNLABELED = 24, 30


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_convolution):
    """A run on a flat folder of which some images have labels, some of them held out."""
    directory = tmp_path_factory.mktemp("report")
    folder = directory / "my photos"
    folder.mkdir()
    random, rows = np.random.RandomState(0), []
    for number in range(LABELED + UNLABELED):
        light = number % 2
        pixels = random.randint(0, 100, (16, 16, 3)) + 150 * light
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
        if number < LABELED:
            rows.append((f"{number:02d}.png", CLASSES[light]))
    labels = directory / "labels.csv"
    with open(labels, "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    flags = {"dataset": "folder", "data_dir": str(folder), "labels": str(labels)}
    flags |= {"holdout": 0.25, "eval_split": "holdout", "train_steps": 3, "plots": True}
    flags |= {"train_batch_size": 16, "mode": "train_then_eval", "train_mode": "simclrv2"}
    flags |= {"student.width_multiplier": 0.0625, "finetune.ft_proj_selector": 1}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert run.run_argv(small.command(directory / "run", **flags)) == 0
    return types.SimpleNamespace(
        directory=directory / "run", said=said.getvalue(), labeled={path for path, _ in rows}
    )


def test_every_image_without_a_label_is_predicted_by_the_student(finished):
    with open(finished.directory / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "class", "probability", "class_2", "probability_2"]
    paths = [row["path"] for row in rows]
    assert len(paths) == UNLABELED and not set(paths) & finished.labeled
    for row in rows:
        first, second = float(row["probability"]), float(row["probability_2"])
        assert first >= second and first + second == pytest.approx(1, abs=1e-5)
        assert {row["class"], row["class_2"]} == set(CLASSES)


def test_few_held_out_images_have_a_cross_validated_estimate_beside_them(finished):
    estimate = json.loads((finished.directory / "cross_validation.json").read_text())
    assert estimate["num_images"] == 18 and len(estimate["fold_accuracies"]) == 5
    correct = round(18 * estimate["accuracy"])
    expected = intervals.wilson(correct, 18)
    assert (estimate["low"], estimate["high"]) == pytest.approx(expected)
    found = intervals.text(estimate["accuracy"], expected)
    sentence = f"of all 18 labeled training images gives {found}, majority class 50.0 %"
    for text in (finished.said, (finished.directory / "results.md").read_text()):
        assert "Only 6 labeled images are held out" in text and sentence in text
        assert "Measured on 6 images" in text and "18 (9 per class)" in text


def test_the_page_tells_what_the_run_did(finished):
    page = (finished.directory / "report.html").read_text()
    assert "<h1>my photos</h1>" in page
    assert "dark &amp; &lt;small&gt;" in page and CLASSES[0] not in page
    for words in (
        *("54 images", "24 labeled of 54", "Only 6 labeled images are held out"),
        *("30 images without a label, predicted by the distilled student", "predictions.csv"),
        *("Map of the features", "Confusion matrix", "How it learned", "--mode=predict"),
    ):
        assert words in page, words
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings[0] == "Results" and headings[-1] == "Next"
    assert page.count('<div class="example">') == 24
    assert page.count("<figure>") == 5 + 1 + 2  # curves, map, confusion and class accuracies
    assert "predictions.csv, report.html" in finished.said


@pytest.mark.parametrize(
    "eval_split, num_images, few",
    [("", None, True), ("test", 49.0, True), ("test", 50.0, False), ("test", None, False)],
)
def test_the_estimate_is_for_fewer_than_50_held_out_images(
    eval_split, num_images, few, finished, monkeypatch, tmp_path
):
    estimate = cross_validation.CrossValidation(0.8, 0.7, 0.9, 0.8, (0.8,), 40, 0.5)
    monkeypatch.setattr(cross_validation, "cross_validate", lambda *_, **__: estimate)
    done = {"results": {"eval/num_images": num_images} if num_images else {}, "identity": "i"}
    config = small.run_config(finished.directory / "finetune")
    stage = stage_results.Finished("finetune", config, done)
    stored = stage.run_config.replace(eval_split=eval_split)
    monkeypatch.setattr(stage_results.Finished, "run_config", property(lambda self: stored))
    found = stage_results.cross_validated([stage], str(tmp_path))
    assert found == (estimate if few else None)
    if few:  # a second call reads it
        monkeypatch.setattr(cross_validation, "cross_validate", None)
        assert stage_results.cross_validated([stage], str(tmp_path)) == estimate
        sentence = stage_results.estimate_in_words(estimate, [stage])
        assert ("No labeled image is held out" in sentence) == (not eval_split)
