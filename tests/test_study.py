"""A study's figure: the means and deviations of its rows, as a file and in TensorBoard."""

import csv
import os
import re
import types

import numpy as np
import pytest
import tensorflow as tf
from small import run_config

from tf2 import metrics, pipeline, select_study, study

ROWS = [
    {
        **{"method": "fine-tuned", "labels": labels, "seed": seed, "top_1": top_1},
        **{"parameters": 10, "seconds": 1.0},
    }
    for labels, seed, top_1 in ((1, 0, 0.5), (1, 1, 0.7), (4, 0, 0.8), (4, 1, 0.9))
]


def shown(directory):
    """Returns (step, tag, image) of every image in a directory's events, not below it."""
    return [
        (event.step, value.tag, tf.io.decode_png(tf.make_ndarray(value.tensor)[2]).numpy())
        for path in directory.glob("events.out.tfevents.*")
        for event in metrics._events(str(path))
        for value in event.summary.value
    ]


def test_tensorboard_has_only_the_newest_figure(tmp_path):
    for count in (1, 2, 4):
        study.write(ROWS[:count], str(tmp_path), title="T")
        ((step, tag, image),) = shown(tmp_path)
        assert (step, tag) == (count, "study")
        png = (tmp_path / "study.png").read_bytes()
        np.testing.assert_array_equal(image, tf.io.decode_png(png, channels=3))
        assert image.shape[1] > 600 and image.std() > 5


def test_writing_a_figure_preserves_other_events(tmp_path):
    writer = metrics.Writer(str(tmp_path))
    writer.scalars({"a": 1.0}, 3)
    study.write(ROWS, str(tmp_path), title="T")
    study.write(ROWS, str(tmp_path), title="T")
    writer.scalars({"a": 2.0}, 4)
    writer.close()
    assert metrics.read_scalars(str(tmp_path)) == {"a": [(3, 1.0), (4, 2.0)]}


def test_points_are_mean_and_sample_deviation_over_seeds():
    ((method, points),) = study.summarize(ROWS).items()
    assert method == "fine-tuned"
    for (labels, mean, spread), (count, values) in zip(
        points, ((1, [0.5, 0.7]), (4, [0.8, 0.9])), strict=True
    ):
        assert labels == count
        assert (mean, spread) == pytest.approx((np.mean(values), np.std(values, ddof=1)))


def test_choices_of_images_are_compared_per_measure_over_seeds(tmp_path):
    row = {"method": "random", "labels": 10, "seed": 0, "frozen": 0.5, "fine_tuned": None}
    rows = [row, {**row, "seed": 1, "frozen": 0.7}, {**row, "method": "maxherding", "frozen": 0.8}]
    select_study.write(rows, str(tmp_path), title="T")
    text = (tmp_path / "select.md").read_text()
    assert text.startswith("# T: mean and standard deviation of 2 seeds\n")
    assert re.search(r"\| random +\| 60.0 ± 14.1 \|", text)
    assert "fine-tuned" not in text  # not measured
    assert text.index("maxherding") < text.index("random")  # in the order of the methods
    assert select_study.read(str(tmp_path))["random", 10, 1] == rows[1]
    assert "±" not in select_study.summary([rows[0], rows[2]])  # one seed


def test_one_seed_is_reported_without_a_deviation(tmp_path):
    assert "±" in study.summary(ROWS)
    alone = [row for row in ROWS if row["seed"] == ROWS[0]["seed"]]
    study.write(alone, str(tmp_path), title="T")
    text = (tmp_path / "study.md").read_text()
    assert text.startswith("# T: one seed\n") and "±" not in text
    assert f" {100 * alone[0]['top_1']:.1f} " in text


@pytest.fixture
def trained(monkeypatch):
    """Lists the stages that would be trained, and returns a different accuracy for each."""
    done = []

    def run_job(job):
        done.append(os.path.relpath(job.model_dir, job.model_dir.parents[2]))
        results = {"eval/label_top_1_accuracy": len(done) / 100}
        return types.SimpleNamespace(named={"a/kernel": np.zeros([2, 3])}), results

    monkeypatch.setattr(pipeline, "run_job", run_job)
    return done


def test_a_study_writes_its_figure_and_resumes(tmp_path, trained):
    model_dir = tmp_path / "study"
    config = run_config(model_dir, train_mode="simclrv2", ft_proj_selector=1)

    def call(*amounts):
        return study.study(
            config, labels_per_class=amounts, seeds=[0, 1], methods=["finetune", "supervised"]
        )

    rows = call(2)
    assert len(rows) == 4 and len(trained) == 6  # with a pretraining for each seed
    ((step, tag, _),) = shown(model_dir)
    assert (step, tag) == (4, "study")
    trained.clear()
    more = call(2, 4)
    assert len(trained) == 4 and len(more) == 8
    assert {r["labels"] for r in more} == {2, 4}
    assert [r for r in more if r["labels"] == 2] == rows
    ((step, tag, image),) = shown(model_dir)
    assert (step, tag) == (8, "study")
    png = (model_dir / "study.png").read_bytes()
    np.testing.assert_array_equal(image, tf.io.decode_png(png, channels=3))
    with open(model_dir / "study.csv") as file:
        assert [float(r["top_1"]) for r in csv.DictReader(file)] == [r["top_1"] for r in more]
