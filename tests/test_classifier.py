"""`fit`: from a folder and a few labels to a classifier, in Python."""

import csv

import numpy as np
import pytest
import small
import tensorflow as tf
from PIL import Image

import tf2 as simclr

pytestmark = pytest.mark.usefixtures("one_convolution")

SETTINGS = {
    **{name: value for name, value in small.FLAGS.items() if name not in ("dataset", "eval_split")},
    "train_batch_size": 8,
    "train_steps": 2,
    "student.width_multiplier": 0.0625,
    "holdout": 0.5,
}


@pytest.fixture(name="fitted", scope="module")
def _fitted(tmp_path_factory):
    """A folder of 24 gray images, dark and bright ones, 8 of them labeled, and what fit returns."""
    directory = tmp_path_factory.mktemp("fit")
    photos = directory / "photos"
    photos.mkdir()
    with (directory / "labels.csv").open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label"))
        for number in range(24):
            bright = number % 2
            pixels = np.random.RandomState(number).randint(0, 120, (12, 12)) + 120 * bright
            Image.fromarray(pixels.astype(np.uint8)).save(photos / f"{number:02d}.png")
            if number < 8:
                writer.writerow((f"{number:02d}.png", "bright" if bright else "dark"))
    labels = directory / "labels.csv"
    fitted = simclr.fit(photos, labels, model_dir=directory / "run", **SETTINGS)
    return directory, fitted


def test_the_result_is_the_student_and_every_stage_has_a_row(fitted):
    directory, classifier = fitted
    assert classifier.path == str(directory / "run" / "student")
    methods = [row["method"] for row in classifier.results]
    assert methods[0] == "pretrained" and len(methods) == 5
    assert repr(classifier).count("\n") == 0


def test_it_predicts_the_classes_of_the_labels_file(fitted):
    directory, classifier = fitted
    rows = classifier.predict(directory / "photos").rows()
    assert len(rows) == 24
    assert {row["class"] for row in rows} <= {"bright", "dark"}
    image = np.full((12, 12, 3), 250, np.uint8)
    assert classifier.predict(image).probabilities.shape == (1, 2)
    assert len(classifier.embed(directory / "photos").values) == 24


def test_it_exports_what_tensorflow_alone_can_run(fitted, tmp_path):
    _, classifier = fitted
    module = tf.saved_model.load(classifier.export(tmp_path / "exported"))
    images = tf.zeros((1, 12, 12, 3), tf.uint8)
    outputs = module.signatures["serving_default"](images=images)
    np.testing.assert_allclose(np.sum(outputs["probabilities"]), 1, rtol=1e-5)


def test_its_report_is_the_page_of_the_run(fitted):
    directory, classifier = fitted
    assert classifier.report.path == str(directory / "run" / "report.html")
    assert classifier.report._repr_html_().startswith("<iframe srcdoc=")


def test_a_mistake_leaves_nothing_behind(tmp_path):
    with pytest.raises(simclr.UserError, match="does not exist"):
        simclr.fit(tmp_path / "photos", model_dir=tmp_path / "run")
    assert not list(tmp_path.iterdir())
