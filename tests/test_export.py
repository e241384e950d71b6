"""An export has the endpoints and weights of the network, and TensorFlow alone loads it."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import small
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tf2 import data_util, errors, resnet, variables
from tf2 import model as model_lib
from tf2.apply import export
from tf2.checkpoints import checkpoint, model_json

FORMS = {
    "pretraining": {"num_classes": 6},
    "fine-tuning": {"num_classes": 6, "ft_proj_selector": 1, "fine_tune_after_block": 2},
    "no head": {"num_classes": 0, "channels": 2},  # of Sobel edges
}
SIZES = {"pretraining": 16, "fine-tuning": 40, "no head": 16}
NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")

pytestmark = pytest.mark.usefixtures("one_block_per_group")


def make_model(seed=0, **changes):
    keras.utils.set_random_seed(seed)
    model = model_lib.SimCLR(18, 0.125, stem="cifar", num_proj_layers=2, proj_out_dim=16, **changes)
    rng = np.random.RandomState(seed)
    for name, variable in variables.named_variables(model).items():  # as if trained
        if variables.role(name) in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variables.role(name) in ("beta", "bias", "moving_mean"):
            variable.assign(rng.uniform(-0.2, 0.2, variable.shape))
    return model


def preprocessing(form):
    size = SIZES[form]
    return {
        "image_size": size,
        "range": [0, 1],
        "center_crop": 0.875 if size > 32 else None,
        "resize": "half_pixel",
        "channels": 3,
        "sobel": form == "no head",
    }


@pytest.fixture(scope="module", params=list(FORMS))
def exported(request, tmp_path_factory, one_block_per_group):
    """The name of a form, its network, the directory of its export and the loaded export."""
    form = request.param
    model = make_model(**FORMS[form])
    directory = tmp_path_factory.mktemp("run") / "saved_model" / "7"
    export.export_saved_model(
        model,
        directory,
        preprocessing=preprocessing(form),
        class_names=NAMES if form == "pretraining" else None,
        model_json={"format": 1, "architecture": model.hyperparameters, "global_step": 7},
    )
    return form, model, directory, tf.saved_model.load(directory)


def images(form, n=8, size=24, seed=0):
    channels = FORMS[form].get("channels", 3)
    return np.random.RandomState(seed).uniform(size=(n, size, size, channels)).astype("float32")


def restore(named, values):
    for name, value in values.items():
        named[name].assign(value)


@pytest.mark.parametrize("trainable, size", [(False, 16), (False, 24), (True, 24)])
def test_endpoints_are_those_of_the_network(exported, trainable, size):
    form, model, _, loaded = exported
    x = images(form, size=size)
    named = variables.named_variables(model)
    before = {name: v.numpy() for name, v in named.items()}
    eager = {k: v.numpy() for k, v in model(x, training=trainable).items()}
    updated = {name: v.numpy() for name, v in named.items()}
    restore(named, before)
    graph = tf.function(lambda x: model(x, training=trainable))
    expected = {k: v.numpy() for k, v in graph(x).items()}
    outputs = loaded(x, trainable=trainable)
    assert set(outputs) == set(expected)
    assert ("logits_sup" in outputs) == (form != "no head")
    assert ("proj_head_output" in outputs) == (form != "fine-tuning")
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, atol=1e-6, rtol=1e-6, err_msg=name)
        # Graphs fuse convolution and batch norm, with other rounding errors than eager mode.
        noise = 1e-5 * np.abs(value).max()
        np.testing.assert_allclose(outputs[name], eager[name], rtol=0, atol=noise, err_msg=name)
    if trainable:  # batch statistics give another result, and the moving ones are updated
        inference = loaded(x, trainable=False)
        assert np.abs(inference["final_avg_pool"] - expected["final_avg_pool"]).max() > 1e-3
        for name, value in updated.items():
            np.testing.assert_allclose(loaded.named_variables[name], value, atol=1e-6, err_msg=name)
        changed = {name for name, value in updated.items() if np.any(value != before[name])}
        assert changed and all("moving_" in name for name in changed)
    restore(named, before)
    restore(loaded.named_variables, before)


def test_weights_are_read_back_by_our_names(exported):
    form, model, directory, _ = exported
    expected = {name: v.numpy() for name, v in variables.named_variables(model).items()}
    weights, metadata = checkpoint.read_weights(directory)
    assert list(weights) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value, err_msg=name)
    assert metadata["global_step"] == 7
    other = make_model(seed=1, **FORMS[form])
    report = checkpoint.load_weights(other, directory, restore_head=form != "no head")
    assert len(report.matched) == len(expected)
    for name, variable in variables.named_variables(other).items():
        np.testing.assert_array_equal(variable.numpy(), expected[name], err_msg=name)


def test_a_loaded_network_can_be_trained_further(exported):
    form, model, _, loaded = exported
    named = variables.named_variables(model)
    frozen = model.hyperparameters["fine_tune_after_block"]
    trained = variables.trainable_variables(named, frozen)
    assert len(loaded.trainable_variables_list) == len(trained)
    before = {name: v.numpy() for name, v in loaded.named_variables.items()}
    with tf.GradientTape() as tape:
        output = loaded(images(form), trainable=True)["block_group4"]
        loss = tf.reduce_sum(tf.square(output))
    gradients = tape.gradient(loss, list(loaded.trainable_variables_list))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model(images(form), training=True)["block_group4"]))
    expected = tape.gradient(loss, list(trained.values()))
    assert sum(g is not None for g in expected) > 10
    for name, a, b in zip(trained, gradients, expected, strict=True):
        if b is None:  # a head, which the loss does not depend on
            assert a is None or not np.any(a), name
        else:
            scale = np.abs(b).max()
            np.testing.assert_allclose(a, b, atol=1e-4 * scale + 1e-6, err_msg=name)
    restore(loaded.named_variables, before)
    restore(named, before)


@pytest.mark.parametrize("height, width", [(30, 50), (64, 48)])
def test_serving_has_the_preprocessing_of_evaluation(exported, height, width):
    form, model, _, loaded = exported
    size, sobel = SIZES[form], form == "no head"
    rng = np.random.RandomState(height)
    raw = rng.randint(0, 256, (2, height, width, 3)).astype("uint8")
    outputs = loaded.signatures["serving_default"](images=tf.constant(raw))
    views = [data_util.preprocess_image(image, size, size, sobel=sobel) for image in raw]
    endpoints = model(tf.stack(views), training=False)
    if form == "no head":
        assert set(outputs) == {"final_avg_pool", "proj_head_output"}
        for name, value in outputs.items():
            np.testing.assert_allclose(value, endpoints[name], atol=1e-6, rtol=1e-6)
        return
    assert set(outputs) == {"probabilities", "logits", "predicted_class"}
    logits = endpoints["logits_sup"].numpy()
    np.testing.assert_allclose(outputs["logits"], logits, atol=1e-6, rtol=1e-5)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    expected = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)
    names = NAMES if form == "pretraining" else [str(i) for i in range(6)]
    assert [name.decode() for name in loaded.class_names().numpy()] == list(names)
    predicted = [name.decode() for name in outputs["predicted_class"].numpy()]
    assert predicted == [names[index] for index in logits.argmax(1)]


def test_every_output_of_every_signature_has_a_row_per_image(exported):
    """What TensorFlow Serving needs to answer {"instances": [...]} with {"predictions": [...]}."""
    form, _, _, loaded = exported
    assert set(loaded.signatures) == {"serving_default", "fixed_size"}
    for signature in loaded.signatures.values():
        (spec,) = signature.structured_input_signature[1].values()
        assert spec.shape[0] is None
        shape = [size or SIZES[form] for size in spec.shape[1:]]
        for n in (1, 3):
            outputs = signature(images=tf.zeros([n, *shape], spec.dtype))
            assert outputs and {value.shape[0] for value in outputs.values()} == {n}


def test_the_fixed_size_gives_the_numbers_of_any_size(exported):
    form, model, _, loaded = exported
    x = images(form, size=SIZES[form])
    outputs = loaded.signatures["fixed_size"](images=tf.constant(x))
    endpoints = model(x, training=False)
    first = "final_avg_pool" if form == "no head" else "logits"
    expected = endpoints["final_avg_pool" if form == "no head" else "logits_sup"].numpy()
    np.testing.assert_allclose(outputs[first], expected, atol=1e-6, rtol=1e-5)
    assert all(value.dtype == tf.float32 for value in outputs.values())
    graph = loaded.signatures["fixed_size"].graph.as_graph_def()
    ops = {node.op for function in graph.library.function for node in function.node_def}
    assert "Conv2D" in ops and not {op for op in ops if "Resize" in op or op == "While"}


@pytest.mark.parametrize("exported", ["fine-tuning"], indirect=True)
def test_it_has_what_a_hub_layer_trains_with(exported):
    """The interface of reusable SavedModels, called as `hub.KerasLayer` does."""
    form, model, _, loaded = exported
    before = {name: v.numpy() for name, v in loaded.named_variables.items()}
    assert len(loaded.variables) == len(before) and not loaded.regularization_losses
    trained = [v.ref() for v in loaded.trainable_variables]
    assert trained == [v.ref() for v in loaded.trainable_variables_list]
    assert set(trained) < {v.ref() for v in loaded.variables}
    x = images(form)
    for value in (False, True):
        expected = loaded(x, trainable=value)["final_avg_pool"]
        restore(loaded.named_variables, before)
        with tf.GradientTape() as tape:
            found = loaded(x, training=value)["final_avg_pool"]
        np.testing.assert_array_equal(found, expected)
        moved = {n for n, v in loaded.named_variables.items() if np.any(v.numpy() != before[n])}
        assert bool(moved) == value and all("moving_" in name for name in moved)
        restore(loaded.named_variables, before)
    gradients = tape.gradient(found, list(loaded.trainable_variables))
    assert any(g is not None and np.any(g) for g in gradients)


@pytest.mark.parametrize("exported", ["fine-tuning"], indirect=True)
def test_the_crop_is_part_of_serving(exported):
    loaded = exported[3]  # of a network for 40 pixels; up to 32 pixels there is no crop
    image = np.random.RandomState(0).randint(0, 256, (1, 64, 64, 3)).astype("uint8")
    edge = image.copy()
    edge[:, :4] = 255 - edge[:, :4]  # the crop has columns 4 to 59
    serve = loaded.signatures["serving_default"]
    np.testing.assert_array_equal(serve(images=image)["logits"], serve(images=edge)["logits"])
    edge[:, 4:8] = 255 - edge[:, 4:8]
    assert np.any(serve(images=image)["logits"] != serve(images=edge)["logits"])


def test_the_graphs_have_no_random_operation(exported):
    _, _, directory, _ = exported
    saved = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    functions = [node.op for function in graph.library.function for node in function.node_def]
    ops = {node.op for node in graph.node} | set(functions)
    assert "Conv2D" in ops
    assert not {op for op in ops if "Random" in op}


WITHOUT_KERAS = """
import sys
sys.modules["keras"] = None  # an import of Keras fails
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], loaded(x, trainable=False)["final_avg_pool"].numpy())
"""


@pytest.mark.parametrize("exported", ["pretraining"], indirect=True)
def test_tensorflow_alone_loads_it(exported, tmp_path):
    form, model, directory, _ = exported
    x = images(form)
    np.save(tmp_path / "x.npy", x)
    arguments = [directory, tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run([sys.executable, "-c", WITHOUT_KERAS, *arguments], check=True, timeout=120)
    expected = model(x, training=False)["final_avg_pool"]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-6, rtol=1e-6)


class FakeSave:
    """Replaces `tf.saved_model.save`, which takes seconds, in tests of the files alone."""

    def __init__(self, monkeypatch, error=None):
        self.error = error
        monkeypatch.setattr(tf.saved_model, "save", self)

    def __call__(self, module, directory, **_):
        tf.io.gfile.makedirs(directory)
        with open(f"{directory}/saved_model.pb", "w") as f:
            f.write("half")
        if self.error:
            raise self.error


@pytest.fixture
def write(monkeypatch):
    """Writes an export with a fake graph of a network with one convolution."""
    monkeypatch.setattr(resnet, "ResNet", small.Backbone)
    model = make_model(num_classes=0)
    for name in ("serve", "serve_fixed_size"):
        monkeypatch.setattr(export.ExportedModel, name, tf.function(lambda self, images: images))
    monkeypatch.setattr(
        export.ExportedModel,
        "__call__",
        tf.function(lambda self, images, trainable=False, training=None: images),
    )

    def call(directory, error=None, **arguments):
        FakeSave(monkeypatch, error)
        return export.export_saved_model(
            model,
            directory,
            preprocessing=preprocessing("pretraining"),
            model_json={"format": 1, "architecture": model.hyperparameters, "global_step": 1},
            **arguments,
        )

    return call


def test_old_exports_are_removed(tmp_path, write):
    (tmp_path / "notes").mkdir()
    for step in (5, 20, 100):
        write(tmp_path / str(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["100", "20", "notes"]
    write(tmp_path / "7", keep=1)  # the newest is kept, whatever its number
    assert sorted(p.name for p in tmp_path.iterdir()) == ["7", "notes"]
    write(tmp_path / "8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["7", "8", "notes"]


def test_a_full_disk_leaves_the_old_export_and_no_partial_one(tmp_path, write):
    write(tmp_path / "1")
    (tmp_path / "1" / "old").touch()
    full = tf.errors.ResourceExhaustedError(None, None, "a/variables; No space left on device")
    with pytest.raises(errors.UserError, match="the export needs space, and none is left"):
        write(tmp_path / "1", error=full)
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
    assert (tmp_path / "1" / "old").exists()
    write(tmp_path / "1")  # replaces it if there is space
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
    assert not (tmp_path / "1" / "old").exists()
    assert model_json.read_model_json(tmp_path / "1")["global_step"] == 1


def test_other_workers_write_no_file(tmp_path, write):
    write(tmp_path / "1", write=False)
    assert not list(tmp_path.iterdir())
