"""Teachers: loading, the order of their classes, and that distillation never changes them."""

import json
import re
import shutil

import numpy as np
import pytest
import small
import tensorflow as tf

import tf2 as simclr
from tf2 import config, errors, pipeline
from tf2 import teacher as teacher_lib

# Networks of one convolution with the real heads; test_distribute.py trains whole ResNets.
pytestmark = pytest.mark.usefixtures("one_convolution")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network trained on digits of 16 pixels, in gray."""
    directory = tmp_path_factory.mktemp("teacher")
    pipeline.run(small.run_config(directory, train_mode="supervised", export=True))
    return directory


@pytest.fixture(scope="module")
def headless(tmp_path_factory):
    directory = tmp_path_factory.mktemp("headless")
    flags = {"lineareval_while_pretraining": False, "train_steps": 1, "export": True}
    pipeline.run(small.run_config(directory, **flags))
    return directory


@pytest.fixture(scope="module")
def images():
    return tf.constant(small.make_batches(1, 4, views=1, channels=1)[0]["image"])


def network(logits, *, class_names=None, image_size=None, path="somewhere"):
    """Returns a `Network` that gives the same logits for every image."""
    logits = tf.constant(logits, tf.float32)
    return teacher_lib.Network(path, lambda _: logits, logits.shape[-1], class_names, image_size)


def softmax(logits):
    e = np.exp(np.asarray(logits, np.float64))
    return e / e.sum(-1, keepdims=True)


LOGITS = np.random.RandomState(0).standard_normal((4, 3))
OTHERS = np.random.RandomState(1).standard_normal((4, 3))


# ---- predictions


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
def test_a_prediction_is_the_softmax_of_the_logits_over_the_temperature(temperature, images):
    found = teacher_lib.Teacher([network(LOGITS)], temperature=temperature)(images)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, softmax(LOGITS / temperature), rtol=1e-5)


def test_several_teachers_predict_the_mean_of_their_probabilities(images):
    teacher = teacher_lib.Teacher([network(LOGITS), network(OTHERS)], temperature=2.0)
    expected = (softmax(LOGITS / 2) + softmax(OTHERS / 2)) / 2
    np.testing.assert_allclose(teacher(images), expected, rtol=1e-5)


def test_predictions_are_in_the_order_of_the_students_classes(images):
    theirs, ours = ("ape", "bee", "cat"), ("cat", "ape", "bee")
    networks = [network(LOGITS, class_names=theirs), network(OTHERS, class_names=ours)]
    found = teacher_lib.Teacher(networks, temperature=1.0, class_names=ours)(images)
    # Column j of ours is column index(ours[j]) of theirs.
    expected = (softmax(LOGITS)[:, [2, 0, 1]] + softmax(OTHERS)) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    first = teacher_lib.Teacher(networks, temperature=1.0)
    assert first.class_names == theirs and first.num_classes == 3
    np.testing.assert_allclose(
        first(images), (softmax(LOGITS) + softmax(OTHERS)[:, [1, 2, 0]]) / 2, rtol=1e-5
    )


@pytest.mark.parametrize("names", [None, ("ape", "bee", "cat")])
def test_classes_without_names_keep_their_order(names, images):
    found = teacher_lib.Teacher([network(LOGITS)], temperature=1.0, class_names=names)
    np.testing.assert_allclose(found(images), softmax(LOGITS), rtol=1e-5)


def test_classes_that_differ_in_number_or_name_are_errors():
    with pytest.raises(errors.UserError, match="--teacher=a with 3 classes.*with 5"):
        teacher_lib.Teacher([network(LOGITS, path="a")], temperature=1.0, num_classes=5)
    pair = [network(LOGITS, path="a"), network(np.zeros((4, 2)), path="b")]
    with pytest.raises(errors.UserError, match="--teacher=b with 2 classes.*with 3"):
        teacher_lib.Teacher(pair, temperature=1.0)
    named = network(LOGITS, class_names=("ape", "bee", "cat"), path="a")
    with pytest.raises(errors.UserError, match="--teacher=a, which has no class 'dog'"):
        teacher_lib.Teacher([named], temperature=1.0, class_names=("ape", "bee", "dog"))


def test_images_are_resized_to_the_teachers_image_size():
    seen = []
    asked = teacher_lib.Network("a", lambda x: seen.append(x) or x[:, 0, 0, :], 3, None, 24)
    ramp = np.linspace(0, 1, 12, dtype=np.float32)
    image = np.broadcast_to(ramp[:, None, None], (2, 12, 12, 3))
    teacher_lib.Teacher([asked], temperature=1.0)(tf.constant(image))
    assert seen[0].shape == (2, 24, 24, 3)
    found = seen[0].numpy()
    assert found.min() >= 0.0 and found.max() <= 1.0
    # Half-pixel centers: the ramp goes on as a line, flat only at its ends.
    places = ((np.arange(24) + 0.5) / 2 - 0.5) / 11
    np.testing.assert_allclose(found[0, 4:-4, 5, 0], places[4:-4], atol=1e-5)
    unchanged = np.random.RandomState(0).uniform(size=(2, 24, 24, 3)).astype(np.float32)
    teacher_lib.Teacher([asked], temperature=1.0)(tf.constant(unchanged))
    np.testing.assert_array_equal(seen[1], unchanged)


# ---- loading


def logits_of(directory, images):
    """Computes a run's logits with nothing but its weights."""
    metadata = json.loads((directory / "model.json").read_text())
    model = simclr.SimCLR(**metadata["architecture"])
    simclr.load_weights(model, str(directory), restore_head=True)
    return model(images, training=False)["logits_sup"].numpy()


@pytest.mark.parametrize("what", ["", "ckpt-4", "saved_model/4"])
def test_a_model_dir_a_checkpoint_and_an_export_are_the_same_teacher(what, trained, images):
    loaded = teacher_lib.load_network(str(trained / what).rstrip("/"), channels=1)
    expected = logits_of(trained, images)
    np.testing.assert_allclose(loaded.logits(images), expected, rtol=1e-5, atol=1e-6)
    assert (loaded.num_classes, loaded.image_size) == (10, 16)
    assert loaded.class_names is None  # numbers from 0 on are no names


def test_class_names_are_read_from_model_json(trained, tmp_path):
    for names in (list("abcdefghij"), [str(i) for i in range(1, 11)]):
        copy = tmp_path / names[0]
        shutil.copytree(trained, copy)
        metadata = json.loads((copy / "model.json").read_text())
        metadata["class_names"] = names
        (copy / "model.json").write_text(json.dumps(metadata))
        assert teacher_lib.load_network(str(copy), channels=1).class_names == tuple(names)


class OtherProgram(tf.Module):
    """A network of another program: (images, trainable) -> dict."""

    def __init__(self, classes=10, channels=1, endpoint="logits_sup"):
        super().__init__()
        random = np.random.RandomState(5)
        self.kernel = tf.Variable(random.standard_normal((channels, classes)), dtype=tf.float32)
        self.mean = tf.Variable(tf.zeros([channels]), trainable=False)
        self._endpoint = endpoint

    @tf.function
    def __call__(self, images, trainable=False):
        pooled = tf.reduce_mean(images, [1, 2])
        if trainable:
            self.mean.assign(tf.reduce_mean(pooled, 0))
            pooled = 0.0 * pooled
        return {self._endpoint: tf.matmul(pooled - self.mean, self.kernel)}


def save_other(directory, **arguments):
    module = OtherProgram(**arguments)
    spec = tf.TensorSpec([None, None, None, module.kernel.shape[0]], tf.float32)
    for trainable in (False, True):
        module.__call__.get_concrete_function(spec, trainable=trainable)
    tf.saved_model.save(module, str(directory))
    return module


@pytest.mark.parametrize("replicas", [1, 2])
def test_another_programs_saved_model(replicas, tmp_path, images):
    module = save_other(tmp_path)
    strategy = small.mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        loaded = teacher_lib.load_network(str(tmp_path), channels=1, trust_graph=True)
        teacher = teacher_lib.Teacher([loaded], temperature=1.0)
    assert (loaded.num_classes, loaded.class_names, loaded.image_size) == (10, None, None)
    parts = np.split(images.numpy(), replicas)
    found = np.concatenate(small.run_on(strategy, parts, teacher))
    expected = softmax(module(images)["logits_sup"])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(module.mean, [0.0])  # by inference


def distill(directory, teacher, **changes):
    return small.command(directory, train_mode="distill", teacher=teacher, train_steps=2, **changes)


def test_unsuitable_teachers_are_errors(trained, headless, tmp_path, capsys):
    save_other(tmp_path / "features", endpoint="final_avg_pool")
    save_other(tmp_path / "five", classes=5)
    save_other(tmp_path / "color", channels=3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "saved_model.pb").write_bytes(b"no graph")
    shutil.copytree(trained, tmp_path / "bare")
    (tmp_path / "bare" / "model.json").unlink()
    missing = "path or the name of a released network.*teacher=.*nowhere"
    cases = {
        "": "Distillation needs a teacher.*teacher=''. Set --teacher",
        tmp_path / "nowhere": missing,
        tmp_path / "empty": "empty, which has neither",
        tmp_path / "damaged": "SavedModel that maps images.*--teacher=.*damaged",
        tmp_path / "bare": "read from the model.json beside it.*--teacher=.*bare",
        headless: "must have a supervised head.*has no logits_sup.*--train_mode=finetune",
        headless / "saved_model" / "1": "must have a supervised head.*has no logits_sup",
        tmp_path / "features": "must have a supervised head.*has no logits_sup",
        tmp_path / "five": "with 5 classes, data or first teacher with 10",
        tmp_path / "color": "SavedModel that maps images.*--teacher=.*color",
        f"{trained},{tmp_path / 'five'}": "five with 5 classes, data or first teacher with 10",
        f"{trained}, {tmp_path / 'nowhere'}": missing,
    }
    for teacher, words in cases.items():
        command = distill(tmp_path / "run", teacher, trust_teacher_graph=True)
        said = small.refusal(capsys, command)
        assert "Received: " in said and re.search(words, said), (words, said)
        assert not list((tmp_path / "run").glob("ckpt-*"))


class Writer(tf.Module):
    """A network whose call leaves a file behind."""

    def __init__(self, path):
        super().__init__()
        self.kernel = tf.Variable(tf.ones([1, 10]))
        self._path = path

    @tf.function
    def __call__(self, images, trainable=False):
        tf.io.write_file(self._path, "it ran")
        return {"logits_sup": tf.matmul(tf.reduce_mean(images, [1, 2]), self.kernel)}


def test_the_graph_of_a_foreign_teacher_runs_only_if_it_is_trusted(tmp_path):
    marker, directory = tmp_path / "marker", str(tmp_path / "teacher")
    module = Writer(str(marker))
    spec = tf.TensorSpec([None, None, None, 1], tf.float32)
    signature = module.__call__.get_concrete_function(spec, trainable=False)
    tf.saved_model.save(module, directory, signatures={"serving_default": signature})
    with pytest.raises(errors.UserError, match="only the variables.*--trust_teacher_graph"):
        teacher_lib.load_network(directory, channels=1)
    assert not marker.exists()
    assert teacher_lib.load_network(directory, channels=1, trust_graph=True).num_classes == 10
    assert marker.exists()  # so the test can see a graph that runs


def test_a_teacher_with_other_channels_is_an_error(trained, capsys, tmp_path):
    said = small.refusal(capsys, distill(tmp_path, trained, sobel=True))
    assert f"--teacher={trained} for 1 channel(s), images with 2" in said


def test_a_teacher_outside_distillation_is_an_error(trained, capsys, tmp_path):
    argv = small.command(tmp_path, train_mode="supervised", teacher=trained)
    assert "Only distillation has a teacher" in small.refusal(capsys, argv)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("distill_alpha", 1.5, "distill_alpha must be at least 0 and at most 1"),
        ("distill_alpha", -0.1, "distill_alpha must be at least 0 and at most 1"),
        ("distill_temperature", 0.0, "distill_temperature must be above 0"),
        ("distill_temperature", -1.0, "distill_temperature must be above 0"),
    ],
)
def test_alpha_and_temperature_out_of_range_are_errors(
    flag, value, words, trained, capsys, tmp_path
):
    said = small.refusal(capsys, distill(tmp_path, trained, **{flag: value}))
    assert words in said and f"Received: {flag}={value}" in said


def test_a_run_cannot_be_resumed_with_another_teacher(trained, tmp_path, capsys):
    run, copy = tmp_path / "run", tmp_path / "copy"
    shutil.copytree(trained, copy)
    pipeline.run(small.run_config(run, train_mode="distill", teacher=str(trained), train_steps=1))
    for change in ({"teacher": copy}, {"distill_alpha": 0.5}, {"distill_temperature": 2.0}):
        said = small.refusal(capsys, [*distill(run, trained), *flags(change)])
        (name, value), *_ = change.items()
        assert f"this command has {name}={value}" in said


def flags(changes):
    return [f"--{name}={value}" for name, value in changes.items()]


def test_unused_labels_give_a_warning():
    settings = config.Config(train_mode="distill", teacher="t", labels_per_class=4)
    assert "labels_per_class=4 has no effect with distill_alpha=1: no labels are used." in (
        settings.warnings()
    )
    assert not [w for w in settings.replace(distill_alpha=0.5).warnings() if "no effect" in w]
