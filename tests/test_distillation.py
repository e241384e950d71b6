"""Distillation: the losses of equations 2 and 3, the labels it uses, and whole runs."""

import json

import numpy as np
import pytest
import small
import tensorflow as tf
from PIL import Image

from tf2 import config as config_lib
from tf2 import data, errors, objective, pipeline
from tf2 import teacher as teacher_lib
from tf2.checkpoints import checkpoint_reader
from tf2.sources import digits as digits_lib
from tf2.sources import labeled_subset, loaders, memory

# Networks of one convolution with the real heads; test_distribute.py trains whole ResNets.
pytestmark = pytest.mark.usefixtures("one_convolution")


# ---- the loss


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_the_distillation_loss_is_equation_2_with_its_gradient(temperature):
    random = np.random.RandomState(0)
    logits = random.standard_normal((5, 4))
    targets = random.dirichlet(np.ones(4), 5)
    with tf.GradientTape() as tape:
        given = tf.constant(logits, tf.float32)
        tape.watch(given)
        loss = objective.add_distillation_loss(targets, given, temperature)
    expected = -np.mean(np.sum(targets * log_softmax(logits / temperature), -1))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    # (student's probabilities - teacher's) / temperature, over the number of images.
    slope = (np.exp(log_softmax(logits / temperature)) - targets) / temperature / 5
    np.testing.assert_allclose(tape.gradient(loss, given), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_an_error(temperature):
    with pytest.raises(ValueError, match=f"Received: distill_temperature={temperature}"):
        objective.add_distillation_loss(tf.ones([2, 2]) / 2, tf.zeros([2, 2]), temperature)


def test_the_loss_is_float32_for_a_bfloat16_student():
    logits = tf.cast(np.random.RandomState(0).standard_normal((4, 3)), tf.bfloat16)
    loss = objective.add_distillation_loss(tf.eye(4, 3), logits, 0.5)
    exact = objective.add_distillation_loss(tf.eye(4, 3), tf.cast(logits, tf.float32), 0.5)
    assert loss.dtype == tf.float32 and float(loss) == float(exact)


def classifier_features(state, images):
    """Returns the inputs and logits of the student's classifier in a training pass."""
    features = state.model.backbone(images, training=True)["final_avg_pool"]
    hidden = state.model.project(features, training=True)[-1].numpy().astype(np.float64)
    kernel = state.named["supervised_head/dense/kernel"].numpy().astype(np.float64)
    bias = state.named["supervised_head/dense/bias"].numpy().astype(np.float64)
    return hidden, hidden @ kernel + bias


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 0.75, 0.0])
def test_a_step_is_equation_3_and_updates_the_student_along_its_gradient(alpha, scale):
    """-(1 - alpha) sum over the labeled log p - alpha sum over all p_teacher log p, over n."""
    temperature, n, rate = 2.0, 6, 0.05
    state = small.make_state(
        train_mode="distill",
        optimizer="momentum",
        learning_rate=rate,
        distill={"temperature": temperature, "alpha": alpha, "scale_by_t2": scale},
    )
    batch = small.make_batches(1, n, views=1)[0]
    batch["label"][2:] = 0.0  # two of the six have a label
    if alpha == 1.0:
        batch["label"][:] = np.nan  # must not be used
    targets = small.linear_teacher(batch["image"]).numpy().astype(np.float64)
    hidden, logits = classifier_features(state, batch["image"])
    kernel = state.named["supervised_head/dense/kernel"]
    before = kernel.numpy().astype(np.float64)
    scalars = {name: float(value) for name, value in state.step(batch).items()}

    weight = temperature**2 if scale else 1.0
    distilled = -weight * np.mean(np.sum(targets * log_softmax(logits / temperature), -1))
    soft = np.exp(log_softmax(logits / temperature))
    slope = alpha * weight / temperature * hidden.T @ (soft - targets) / n
    total = alpha * distilled
    assert ("supervised_loss" in scalars) == (alpha < 1)
    if alpha < 1:
        labels = batch["label"].astype(np.float64)
        supervised = -np.sum(labels * log_softmax(logits)) / n
        assert scalars["supervised_loss"] == pytest.approx(supervised, rel=1e-4)
        errors_of_labeled = (np.exp(log_softmax(logits)) - labels) * labels.sum(-1, keepdims=True)
        slope += (1 - alpha) * hidden.T @ errors_of_labeled / n
        total += (1 - alpha) * supervised
    assert scalars["distill_loss"] == pytest.approx(distilled, rel=1e-4)
    assert scalars["total_loss"] == pytest.approx(total + scalars["weight_decay"], rel=1e-4)
    assert scalars["distill_acc"] == pytest.approx(np.mean(targets.argmax(1) == logits.argmax(1)))
    entropy = -np.mean(np.sum(targets * np.log(targets), -1))
    assert scalars["teacher_entropy"] == pytest.approx(entropy, rel=1e-4)
    # The first step of Nesterov's momentum 0.9 goes 1.9 times the rate.
    slope += 1e-4 * before  # the weight decay of small.make_state
    moved = kernel.numpy() - before
    assert np.abs(moved).max() > 1e-5
    np.testing.assert_allclose(moved, -1.9 * rate * slope, rtol=1e-2, atol=2e-6)


def test_a_one_hot_teacher_has_an_entropy_of_0():
    state = small.make_state(
        train_mode="distill", teacher=lambda images: tf.one_hot([1] * 4, small.CLASSES)
    )
    scalars = state.step(small.make_batches(1, 4, views=1)[0])
    assert float(scalars["teacher_entropy"]) == 0.0
    assert np.isfinite(float(scalars["total_loss"]))


# ---- the teacher is not updated


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Model directory of a network trained on digits: a teacher."""
    directory = tmp_path_factory.mktemp("teacher")
    pipeline.run(small.run_config(directory, train_mode="supervised", train_steps=6))
    return directory


def test_the_teacher_predicts_in_inference_mode_and_is_never_updated(trained):
    network = teacher_lib.load_network(str(trained), channels=1)
    teacher = teacher_lib.Teacher([network], temperature=1.0)
    before = [weight.numpy() for weight in network.owner.weights]
    statistics = [w for w in before if w.ndim == 1]
    assert any(np.any(w != 0) and np.any(w != 1) for w in statistics)
    state = small.make_state(
        train_mode="distill", teacher=teacher, channels=1, num_classes=10, learning_rate=0.1,
        optimizer="momentum",
    )  # fmt: skip
    batches = small.make_batches(3, 8, views=1, channels=1)
    prediction = teacher(batches[0]["image"]).numpy()
    expected = network.owner(batches[0]["image"], training=False)["logits_sup"]
    np.testing.assert_allclose(prediction, tf.nn.softmax(expected), rtol=1e-6)
    # A single image has the same prediction: no batch statistics are used.
    np.testing.assert_allclose(teacher(batches[0]["image"][:1]), prediction[:1], rtol=1e-4)
    student = {name: value.numpy() for name, value in state.trained.items()}
    for batch in batches:
        state.step(batch)
    assert all(np.any(state.trained[name].numpy() != value) for name, value in student.items())
    for value, weight in zip(before, network.owner.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    np.testing.assert_array_equal(teacher(batches[0]["image"]), prediction)


# ---- labels


def distilled(directory, teacher, **changes):
    """Distills the teacher; returns the arrays of the run's checkpoint."""
    flags = {"train_mode": "distill", "teacher": str(teacher), "train_steps": 3, **changes}
    pipeline.run(small.run_config(directory, **flags))
    return small.saved(directory)


def assert_same_weights(expected, found):
    assert expected.keys() == found.keys() and expected
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


DIGITS = digits_lib.DigitsSource  # tests replace the attribute


class ShuffledLabels(DIGITS):
    """The digits with shuffled labels."""

    def _stored_labels(self, split):
        return np.random.RandomState(9).permutation(super()._stored_labels(split))


class SecretLabels(DIGITS):
    """The digits with random labels in their records and no list of labels."""

    def _stored_labels(self, split):
        raise AssertionError("labels were read")

    def _fetcher(self, split):
        known = DIGITS()._fetcher(split)
        nonsense = lambda: tf.random.uniform([], -(2**62), 2**62, tf.int64)  # noqa: E731
        return lambda position: {**known(position), "label": nonsense()}


def test_at_alpha_1_labels_are_not_used(trained, tmp_path, monkeypatch):
    few = {"labels_per_class": 2}
    expected = distilled(tmp_path / "true", trained)
    assert_same_weights(expected, distilled(tmp_path / "few", trained, **few))
    assert not (tmp_path / "few" / "labeled_ids.txt").exists()
    for kind in (ShuffledLabels, SecretLabels):
        monkeypatch.setattr(digits_lib, "DigitsSource", kind)
        assert_same_weights(expected, distilled(tmp_path / kind.__name__, trained, **few))


def test_below_alpha_1_only_the_labeled_subset_is_used(trained, tmp_path, monkeypatch):
    half = {"distill_alpha": 0.5}
    everything = distilled(tmp_path / "all", trained, **half)
    few = distilled(tmp_path / "few", trained, labels_per_class=2, **half)
    kernel = "model/supervised_head/dense/kernel"
    assert np.any(everything[kernel] != few[kernel])
    ids = (tmp_path / "few" / "labeled_ids.txt").read_text().split()
    digits = DIGITS()
    positions = labeled_subset.select_labels(digits.labels("train"), per_class=2, seed=0)
    assert ids == [digits.ids("train")[i] for i in positions] and len(ids) == 20

    class OthersShuffled(DIGITS):
        """The digits with wrong labels outside the labeled subset."""

        def _fetcher(self, split):
            fetch, true = super()._fetcher(split), tf.constant(self._stored_labels(split))
            labeled = tf.constant(np.isin(np.arange(len(true)), positions))
            return lambda position: {
                **fetch(position),
                "label": tf.where(labeled[position], true[position], (true[position] + 3) % 10),
            }

    monkeypatch.setattr(digits_lib, "DigitsSource", OthersShuffled)
    assert_same_weights(few, distilled(tmp_path / "o", trained, labels_per_class=2, **half))


class InSequence(DIGITS):
    """The digits without random access."""

    random_access = False

    def _epoch(self, split, seed, epoch):
        size = self._stored_size(split)
        return tf.data.Dataset.range(size).map(lambda position: (position, position))

    def _parse(self, raw, position):
        return self._fetcher("train")(raw)


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize(
    "make",
    [DIGITS, InSequence, lambda: memory.MemorySource(InSequence())],
    ids=["random", "sequence", "memory"],
)
def test_only_the_labeled_subset_has_labels(make, seed):
    whole = make()
    true, ids = whole.labels("train"), whole.ids("train")
    labeled = np.array([3, 17, 400, 1436])
    hidden = whole.hide_labels("train", labeled)
    assert hidden.num_examples("train") == 1437
    assert hidden.labeled_ids("train") == [ids[i] for i in labeled]
    batch = next(iter(hidden.records("train", seed=seed).batch(1437)))
    positions = batch["position"].numpy()
    assert sorted(positions) == list(range(1437))
    assert (seed is None) == bool(np.all(positions == np.arange(1437)))
    expected = np.where(np.isin(positions, labeled), true[positions], -1)
    np.testing.assert_array_equal(batch["label"], expected)
    # The images and their order are the same, and the original source has all labels.
    open_batch = next(iter(whole.records("train", seed=seed).batch(1437)))
    np.testing.assert_array_equal(open_batch["image"], batch["image"])
    np.testing.assert_array_equal(open_batch["label"], true[positions])
    shown = next(iter(hidden.show_labels().records("train", seed=seed).batch(1437)))
    np.testing.assert_array_equal(shown["label"], true[positions])


@pytest.mark.parametrize("make", [DIGITS, InSequence], ids=["random", "sequence"])
def test_hide_labels_of_a_subset_uses_positions_in_the_subset(make):
    whole = make()
    true, ids = whole.labels("train"), whole.ids("train")
    part = whole.subset("train", [5, 10, 20, 40])
    first = part.hide_labels("train", [1, 3])
    then = whole.hide_labels("train", [10, 40, 90]).subset("train", [5, 10, 20, 40])
    for hidden in (first, then):
        batch = next(iter(hidden.records("train").batch(9)))
        np.testing.assert_array_equal(batch["label"], [-1, true[10], -1, true[40]])
        assert hidden.labeled_ids("train") == [ids[10], ids[40]]
    assert part.labeled_ids("train") == [ids[i] for i in (5, 10, 20, 40)]
    nothing = next(iter(part.hide_labels("train").records("train").batch(4)))
    np.testing.assert_array_equal(nothing["label"], [-1] * 4)


def test_an_unlabeled_image_has_zeros_in_training_and_its_label_in_evaluation():
    config = small.run_config("unused", train_mode="distill", teacher="t", train_split="train")
    images = loaders.build_source(config)
    trained_on = next(iter(data.build_dataset(config, images, "train", training=True)))
    assert not np.any(trained_on["label"])
    evaluated_on = next(iter(data.build_dataset(config, images, "train", training=False)))
    true = images.labels("train")[: config.eval_batch_size]
    np.testing.assert_array_equal(np.argmax(evaluated_on["label"], 1), true)


# ---- runs


def test_a_resumed_distillation_equals_an_uninterrupted_one(trained, tmp_path, monkeypatch):
    flags = {"distill_alpha": 0.5, "labels_per_class": 3, "train_steps": 4}
    small.assert_resumes_as_if_never_stopped(
        lambda directory: distilled(directory, trained, **flags),
        tmp_path / "whole",
        tmp_path / "stopped",
        monkeypatch,
    )


def test_self_distillation_and_a_smaller_student_with_two_teachers(trained, tmp_path, capsys):
    """Longer than the other runs, so that the student learns to classify."""
    flags = {"mode": "train_then_eval", "train_steps": 120, "learning_rate": 0.4, "export": True}
    flags.update(log_every_steps=60, optimizer="adam", width_multiplier=0.5)
    teacher = tmp_path / "teacher"
    pipeline.run(small.run_config(teacher, train_mode="supervised", **flags))
    of_teacher = json.loads((teacher / "result.json").read_text())["eval/label_top_1_accuracy"]
    assert of_teacher > 0.4
    students = {
        "same": {"teacher": str(teacher), "checkpoint": str(teacher), "restore_head": True},
        "smaller": {"teacher": f"{teacher},{teacher}/saved_model/120", "width_multiplier": 0.25},
        "other_size": {"teacher": str(teacher), "image_size": 8},
    }
    students["same"].update(
        dict.fromkeys(("resnet_depth", "width_multiplier", "num_proj_layers", "proj_out_dim"))
    )
    for name, changes in students.items():
        pipeline.run(
            small.run_config(tmp_path / name, train_mode="distill", **{**flags, **changes})
        )
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert result["eval/label_top_1_accuracy"] > 0.3, name  # chance is 0.1
        about = json.loads((tmp_path / name / "model.json").read_text())
        assert about["train_mode"] == "distill" and about["class_names"] == list("0123456789")
        assert (tmp_path / name / "saved_model" / "120" / "saved_model.pb").exists()
    assert "distill" in capsys.readouterr().err
    student = checkpoint_reader.read_weights(str(tmp_path / "smaller"))[0]
    assert student["backbone/stem/conv/kernel"].shape[-1] == 16  # the teacher has 32
    again = tmp_path / "again"  # a student is a teacher too
    distilled(again, tmp_path / "smaller", distill_temperature=0.1, distill_scale_by_t2=True)


def write_images(directory, count, level):
    directory.mkdir(parents=True)
    random = np.random.RandomState(level)
    for i in range(count):
        pixels = random.randint(level, level + 90, (12, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(directory / f"{level}_{i}.png")


def test_an_unlabeled_folder_is_distilled_with_the_teachers_classes(tmp_path, capsys):
    for level, name in enumerate(("ape", "bee", "cat")):
        write_images(tmp_path / "labeled" / "train" / name, 8, 50 * level)
        write_images(tmp_path / "labeled" / "test" / name, 2, 50 * level)
    for split in ("train", "test"):
        write_images(tmp_path / "unlabeled" / split, 16, 20)
    folder = {"dataset": "folder", "train_batch_size": 8, "mode": "train_then_eval"}
    teacher = tmp_path / "teacher"
    pipeline.run(
        small.run_config(
            teacher, train_mode="supervised", data_dir=str(tmp_path / "labeled"), **folder
        )
    )
    folder.update(data_dir=str(tmp_path / "unlabeled"), export=True)
    capsys.readouterr()
    distilled(tmp_path / "student", teacher, **folder)
    said = capsys.readouterr().out
    assert "so no accuracy is reported" in said and "pretraining" not in said
    about = json.loads((tmp_path / "student" / "model.json").read_text())
    assert about["class_names"] == ["ape", "bee", "cat"]
    assert about["architecture"]["num_classes"] == 3
    served = tf.saved_model.load(str(tmp_path / "student" / "saved_model" / "3"))
    answer = served.signatures["serving_default"](images=tf.zeros([1, 9, 9, 3], tf.uint8))
    assert answer["predicted_class"].numpy()[0].decode() in ("ape", "bee", "cat")
    assert [name.decode() for name in served.class_names().numpy()] == ["ape", "bee", "cat"]
    result = json.loads((tmp_path / "student" / "result.json").read_text())
    assert "eval/label_top_1_accuracy" not in result
    pipeline.run(config_lib.Config(mode="eval", model_dir=str(tmp_path / "student")))
    assert "so no accuracy is reported" in capsys.readouterr().out
    with pytest.raises(errors.UserError, match="--distill_alpha=0.5 needs labels.*alpha=1"):
        distilled(tmp_path / "other", teacher, **{**folder, "distill_alpha": 0.5})


def test_a_table_with_shuffled_labels_gives_the_same_student(tmp_path):
    write_images(tmp_path / "images", 16, 30)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    classes = ["ape", "bee"] * 8
    flags = {"dataset": "folder", "train_batch_size": 8}
    for kind, labels in {
        "true": classes,
        "shuffled": list(np.random.RandomState(0).permutation(classes)),
    }.items():
        rows = [f"images/{n},{label}" for n, label in zip(names, labels, strict=True)]
        (tmp_path / f"{kind}.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    true, shuffled = (str(tmp_path / f"{kind}.csv") for kind in ("true", "shuffled"))
    assert (tmp_path / "true.csv").read_text() != (tmp_path / "shuffled.csv").read_text()
    teacher = tmp_path / "teacher"
    pipeline.run(
        small.run_config(teacher, train_mode="supervised", data_dir=true, train_steps=2, **flags)
    )
    expected = distilled(tmp_path / "a", teacher, data_dir=true, **flags)
    assert_same_weights(expected, distilled(tmp_path / "b", teacher, data_dir=shuffled, **flags))
