"""A pretraining is followed about ten times; a sign that it goes wrong is one line, once."""

import types

import pytest

from tf2 import config, run_evaluation, watch


def make(knn_every_epochs, lines, *, train_mode="pretrain", labels=True, accuracies=(), total=240):
    """Returns a watch of a run of 8 steps an epoch; accuracies are measured in turn."""
    left = list(accuracies)
    evaluator = types.SimpleNamespace(
        measures_knn=labels,
        knn_accuracy=lambda model: left.pop(0),
        knn_labels=lambda: [0] * 400,
    )
    job = types.SimpleNamespace(
        config=config.Config(train_mode=train_mode, knn_every_epochs=knn_every_epochs),
        evaluator=evaluator,
        writer=types.SimpleNamespace(scalars=lambda values, step: None),
    )
    return watch.Watch(job, total, 8, lines.append)


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    monkeypatch.setattr(run_evaluation, "untrained_knn_accuracy", lambda job: 0.224)


@pytest.mark.parametrize(
    "epochs, total, every", [(-1, 240, 24), (-1, 5, 1), (2, 240, 16), (0, 9, 0)]
)
def test_features_are_measured_every_few_epochs_or_about_ten_times(epochs, total, every):
    assert make(epochs, [], total=total).every == every


def test_only_a_pretraining_with_labels_is_measured():
    lines = []
    assert make(-1, lines, train_mode="finetune").every == 0
    assert make(-1, lines, labels=False).every == 0 and not lines
    assert make(3, lines, labels=False).every == 0
    assert lines == ["There are no labeled images, so --knn_every_epochs is ignored."]


def test_each_measurement_is_a_line_and_useless_features_a_warning_once():
    lines = []
    follow = make(-1, lines, accuracies=(0.2, 0.21, 0.218, 0.2))
    for step in (24, 72, 96, 120):
        follow.measure(step, None)
    assert lines[0] == ("kNN accuracy of the features after step 24: 20.00 % (untrained: 22.40 %)")
    warnings = [line for line in lines if line.startswith("Warning: ")]
    assert len(warnings) == 1 and lines.index(warnings[0]) == 3  # after step 96, 40 %
    assert "kNN 21.8 % against 22.4 %" in warnings[0]


def test_a_collapse_is_a_warning_once():
    lines = []
    follow = make(0, lines)
    for step, std in ((24, 0.01), (100, 0.9), (120, 0.01), (130, 0.01)):
        follow.check(step, {"embedding_std": std, "uniformity": -3.0})
    assert len(lines) == 1 and "collapsed" in lines[0]
    assert not make(0, lines, train_mode="supervised").check(200, {"embedding_std": 0.0})
