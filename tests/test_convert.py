"""Every format is read and written bit for bit, and each error is one sentence."""

import itertools
import json
import os
import subprocess
import sys

import ckpt
import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

import tf2 as simclr
from checkpoints_tools import convert, formats, inspect, name_map, tensors
from tf2 import errors, variables
from tf2.checkpoints import layouts, reference_tf2

OUT = ("tf1", "ours", "reference_tf2", "savedmodel", "safetensors", "keras", "pytorch")
PAIRS = [  # writing a SavedModel takes seconds, and one conversion to it is in `converted`
    pytest.param(first, second, marks=pytest.mark.slow if second == "savedmodel" else ())
    for first, second in itertools.product(OUT, OUT)
]
KEYS = [n for n in reference.PACK.names("03_tf2_checkpoints") if "." not in n and n != "summary"]
# The reference's names of slots, and ours.
KINDS = {"Momentum": "momentum", "momentum": "sgd_momentum", "m": "adam_m", "v": "adam_v"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A released TF1 checkpoint of a small network, with its average, slots and step."""
    prefix = tmp_path_factory.mktemp("released") / "model.ckpt-1234"
    ckpt.write_tf1(prefix, ckpt.released(ckpt.shapes()))
    return prefix


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory):
    """The same network in each format."""
    directory = tmp_path_factory.mktemp("converted")
    paths = {}
    for to in OUT:
        paths[to] = ckpt.destination(directory, to, to)
        convert.convert(str(source), str(paths[to]), to)
    return paths


@pytest.mark.parametrize("to", OUT)
def test_a_released_checkpoint_converts_exactly(converted, to):
    network = ckpt.assert_same(converted[to], ckpt.expected())
    assert network.format.name == to
    assert network.metadata["global_step"] == 1234
    assert network.metadata["architecture"] == {**ckpt.SMALL, "proj_out_dim": 16}


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_round_trips_are_bit_exact(converted, tmp_path, first, second):
    path = ckpt.destination(tmp_path, second)
    convert.convert(str(converted[first]), str(path), second)
    network = ckpt.assert_same(path, ckpt.expected())
    has_momenta = {"tf1", "ours", "reference_tf2"} >= {first, second}
    assert len(network.slots) == (73 if has_momenta else 0)
    average = network.average
    if {"tf1", "ours"} >= {first, second}:
        wanted = ckpt.expected({**ckpt.SMALL, "num_classes": 0}, ckpt.SALT_OF_EMA)
        assert list(average) == list(wanted)
        for name, value in wanted.items():
            np.testing.assert_array_equal(average[name], value)
    else:
        assert not average
    for name, value in network.slots.items():
        canonical = layouts.canonical(ckpt.SMALL)[name.removesuffix("/momentum")]
        np.testing.assert_array_equal(value, ckpt.fill(canonical, value.shape, "momentum:"))


def test_the_moving_average_is_converted_on_request(source, tmp_path):
    wanted = ckpt.expected(salt=ckpt.SALT_OF_EMA)
    ckpt.assert_same(source, wanted, weights="ema")
    convert.convert(str(source), str(tmp_path / "out"), "ours", "ema")
    ckpt.assert_same(tmp_path / "out", wanted)
    with pytest.raises(errors.UserError, match="--weights=ema needs"):
        convert.read(str(tmp_path / "out"), "ema")


def test_simclr_without_projection_head_and_without_supervised_head(tmp_path):
    for changes in ({"proj_head_mode": "none"}, {"num_classes": 0}, {"proj_head_mode": "linear"}):
        architecture = {**ckpt.SMALL, **changes}
        prefix = tmp_path / f"{len(changes)}{next(iter(changes.values()))}" / "model.ckpt-5"
        ckpt.write_tf1(prefix, ckpt.released(ckpt.shapes(architecture), ema=False))
        network = ckpt.assert_same(prefix, ckpt.expected(architecture))
        assert {k: network.metadata["architecture"][k] for k in changes} == changes


def test_a_head_on_a_middle_layer_is_recorded(source, tmp_path):
    path = tmp_path / "finetuned"
    convert.convert(str(source), str(path), "ours", ft_proj_selector=1)
    metadata = convert.read(str(path)).metadata
    assert metadata["architecture"]["ft_proj_selector"] == 1
    model = simclr.SimCLR(**metadata["architecture"])
    report = simclr.load_weights(model, path, restore_head=True)
    assert report.complete
    assert not any(name.startswith("projection_head/1") for name in report.matched)
    convert.convert(str(path), str(tmp_path / "back"), "tf1")
    assert convert.read(str(tmp_path / "back")).metadata["architecture"]["ft_proj_selector"] == 1


@pytest.mark.parametrize("name", KEYS)
def test_keys_are_those_of_the_references_tf2_program(name):
    data = ckpt.reference_tf2(name)
    rows = {row[3]: (row[0], tuple(row[1])) for row in data["model"]}
    shapes = {key: shape for key, shape in rows.values()}
    architecture = layouts.infer(shapes, lambda a: _or_none(name_map.reference_tf2, a))
    flags = data["config"]["flags"]
    assert architecture["depth"] == flags["resnet_depth"]
    assert (architecture["sk_ratio"] > 0) == (flags["sk_ratio"] > 0)
    names = name_map.reference_tf2(architecture)
    canonical = layouts.canonical(architecture)
    assert {canonical[ours]: key for ours, (key, _) in names.items()} == {
        c: key for c, (key, _) in rows.items()
    }
    slots = {key: (variable, kind) for key, _, variable, kind in data["slots"]}
    ours = {key: n for n, (key, _) in name_map.reference_slots(architecture).items()}
    for key, (variable, kind) in slots.items():
        name, own_kind = ours[key].rsplit("/", 1)
        assert (canonical[name], own_kind) == (variable, KINDS[kind])


def _or_none(function, architecture):
    try:
        return function(architecture)
    except errors.UserError:
        return {"": ("", None)}


def test_the_references_program_resumes_from_our_files(converted):
    network = convert.read(str(converted["ours"]))
    names = name_map.reference_tf2(network.metadata["architecture"])
    shapes = layouts.weights(network.metadata["architecture"])
    model = ckpt.Reference({key: shapes[ours] for ours, (key, _) in names.items()})
    step = tf.Variable(0, dtype=tf.int64)
    prefix = tf.train.latest_checkpoint(str(converted["reference_tf2"]))
    status = tf.train.Checkpoint(model=model, global_step=step).restore(prefix)
    status.assert_existing_objects_matched().expect_partial()
    assert int(step) == 1234
    for ours, value in ckpt.expected().items():
        np.testing.assert_array_equal(model.variables_by_key[names[ours][0]].numpy(), value)


def test_slots_reach_an_optimizer_that_keeps_them_by_name(converted):
    if keras.__version__.startswith("3"):
        pytest.skip("optimizers that keep slots by name are Keras 2.15's")
    legacy = keras.optimizers.legacy

    class Lars(legacy.Optimizer):
        def __init__(self):
            super().__init__("Lars")

        def _create_slots(self, var_list):
            for variable in var_list:
                self.add_slot(variable, "Momentum")

        def _resource_apply_dense(self, grad, var, apply_state=None):
            return var.assign_sub(0 * grad)

        def get_config(self):
            return {}

    architecture = convert.read(str(converted["ours"])).metadata["architecture"]
    names, shapes = name_map.reference_tf2(architecture), layouts.weights(architecture)
    model = ckpt.Reference({key: shapes[ours] for ours, (key, _) in names.items()})
    optimizer = Lars()
    trained = {n: model.variables_by_key[k] for n, (k, _) in names.items() if "moving" not in n}
    optimizer.apply_gradients([(tf.zeros_like(v), v) for v in trained.values()])
    prefix = tf.train.latest_checkpoint(str(converted["reference_tf2"]))
    checkpoint = tf.train.Checkpoint(
        model=model, optimizer=optimizer, global_step=optimizer.iterations
    )
    checkpoint.restore(prefix).assert_existing_objects_matched().expect_partial()
    assert int(optimizer.iterations) == 1234
    canonical = layouts.canonical(architecture)
    for ours, variable in trained.items():
        wanted = ckpt.fill(canonical[ours], variable.shape, "momentum:")
        np.testing.assert_array_equal(optimizer.get_slot(variable, "Momentum").numpy(), wanted)


def test_our_training_resumes_from_the_references_step_and_momenta(converted, tmp_path):
    from tf2 import lars_optimizer, optimization
    from tf2.checkpoints import checkpoint

    path = tmp_path / "run"
    convert.convert(str(converted["reference_tf2"]), str(path), "ours")
    model = simclr.SimCLR(**ckpt.SMALL)
    named = variables.named_variables(model)
    trained = variables.trainable_variables(named)
    slots = optimization.build_slots(lars_optimizer.LARSOptimizer(0.1), trained)
    step = tf.Variable(0, dtype=tf.int64)
    contents = {"model": named, "optimizer": slots, "global_step": step}
    assert checkpoint.Saver(str(path), contents).restore_latest() == 1234
    for ours, canonical in layouts.canonical(ckpt.SMALL).items():
        shape = named[ours].shape
        np.testing.assert_array_equal(named[ours].numpy(), ckpt.fill(canonical, shape))
        if ours in trained:
            momentum = ckpt.fill(canonical, shape, "momentum:")
            np.testing.assert_array_equal(slots[f"{ours}/momentum"].numpy(), momentum)


def test_keras_reads_what_we_write_and_writes_what_we_read(source, converted, tmp_path):
    model = simclr.SimCLR(**ckpt.SMALL)
    named = variables.named_variables(model)
    model.load_weights(str(converted["keras"]))
    for ours, value in ckpt.expected().items():
        np.testing.assert_array_equal(named[ours].numpy(), value)
    convert.convert(str(source), str(tmp_path / "whole.keras"), "keras")
    classes = {"SimCLR": simclr.SimCLR}
    loaded = keras.models.load_model(str(tmp_path / "whole.keras"), custom_objects=classes)
    for ours, variable in variables.named_variables(loaded).items():
        np.testing.assert_array_equal(variable.numpy(), named[ours].numpy())
    model.save_weights(str(tmp_path / "own.weights.h5"))
    model.save(str(tmp_path / "own.keras"))
    for name in ("own.weights.h5", "own.keras", "whole.keras"):
        ckpt.assert_same(tmp_path / name, ckpt.expected())


def test_an_export_has_the_references_endpoints(converted):
    module = tf.saved_model.load(str(converted["savedmodel"]))
    images = np.random.RandomState(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    endpoints = module(images, trainable=False)
    groups = {f"block_group{i}" for i in range(1, 5)}
    assert set(endpoints) == groups | {
        *("initial_conv", "initial_max_pool", "final_avg_pool", "logits_sup"),
        *("proj_head_input", "proj_head_output"),
    }
    assert "serving_default" in module.signatures
    assert len(module.trainable_variables_list) == 73


@pytest.mark.parametrize("case", ["cifar_r18_1x_sk0_32_b2_infer", "r50_1x_sk1_64_b2_infer"])
def test_endpoints_of_a_converted_checkpoint_are_the_references(case, tmp_path):
    data = reference.PACK.json(f"02_forward/{case}.json")
    values = reference.arrays(f"02_forward/{case}.npz", "logits_sup/value")
    config = data["config"]
    architecture = {
        **ckpt.SMALL,
        "depth": config["resnet_depth"],
        "width_multiplier": config["width_multiplier"],
        "sk_ratio": config["sk_ratio"],
        "stem": "cifar" if config["image_size"] <= 32 else "imagenet",
        "num_classes": config["num_classes"],
        "proj_out_dim": config["proj_out_dim"],
    }
    ckpt.write_tf1(
        tmp_path / "tf1" / "model.ckpt-0", ckpt.released(ckpt.shapes(architecture), False)
    )
    convert.convert(str(tmp_path / "tf1"), str(tmp_path / "ours"), "ours")
    network = convert.read(str(tmp_path / "ours"))
    model = simclr.SimCLR(**network.metadata["architecture"])
    simclr.load_weights(model, tmp_path / "ours", restore_head=True)
    from tf2.parity import golden

    endpoints = model(golden.images(config), training=False)
    compared = 0
    for name, entry in data["endpoints"].items():
        if name in endpoints and f"{name}/value" in values and entry["usable"]:
            found = np.ravel(endpoints[name].numpy())
            if f"{name}/index" in values:
                found = found[values[f"{name}/index"]]
            wanted = np.ravel(values[f"{name}/value"])
            np.testing.assert_allclose(found, wanted, atol=entry["recommended_atol"], rtol=0)
            compared += 1
    assert compared >= 2


def test_a_map_that_swaps_two_layers_is_detected_by_values(converted, tmp_path, monkeypatch):
    """A map that swaps two layers passes every check of shapes, but not of values."""
    correct = reference_tf2.paths
    first, second = (f"backbone/block_group1/{i}/conv1/kernel" for i in (0, 1))

    def swapped(architecture):
        paths = correct(architecture)
        paths[first], paths[second] = paths[second], paths[first]
        return paths

    monkeypatch.setattr(reference_tf2, "paths", swapped)
    network = convert.read(str(converted["reference_tf2"]))
    wanted = ckpt.expected()
    wrong = [n for n in wanted if not np.array_equal(network.tensors[n], wanted[n])]
    assert wrong == [first, second]


def test_extra_and_missing_weights_raise(tmp_path):
    arrays = ckpt.released(ckpt.shapes(), ema=False)
    more = {**arrays, "base_model/conv2d_99/kernel": np.zeros((1, 1, 2, 2), np.float32)}
    ckpt.write_tf1(tmp_path / "more" / "model.ckpt-1", more)
    with pytest.raises(errors.UserError, match="conv2d_99/kernel has no place"):
        convert.read(str(tmp_path / "more"))
    del arrays["head_supervised/linear_layer/dense/bias"]
    ckpt.write_tf1(tmp_path / "less" / "model.ckpt-1", arrays)
    with pytest.raises(errors.UserError, match="head_supervised/linear_layer/dense/kernel has no"):
        convert.read(str(tmp_path / "less"))
    (tmp_path / "less" / "model.json").write_text(ckpt.metadata())
    with pytest.raises(errors.UserError, match="dense/bias is missing"):
        convert.read(str(tmp_path / "less"))
    (tmp_path / "less" / "model.json").write_text(ckpt.metadata({**ckpt.SMALL, "depth": 50}))
    with pytest.raises(errors.UserError, match="has shape"):
        convert.read(str(tmp_path / "less"))


@pytest.mark.parametrize(
    "changes", [{"stem": "#ifar"}, {"sk_rqtio": 0.0}, {"depth": "18"}], ids=str
)
def test_a_model_json_of_no_network_raises(tmp_path, changes):
    ckpt.write_tf1(tmp_path / "x" / "model.ckpt-1", ckpt.released(ckpt.shapes(), ema=False))
    (tmp_path / "x" / "model.json").write_text(ckpt.metadata({**ckpt.SMALL, **changes}))
    with pytest.raises(errors.UserError, match="model.json must have .*architecture"):
        convert.read(str(tmp_path / "x"))


def test_a_full_disk_leaves_nothing(source, tmp_path, monkeypatch):
    class Full(dict):
        def __getitem__(self, name):
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(tensors.Tensors, "__getitem__", Full.__getitem__)
    for to in ("tf1", "ours", "safetensors", "keras"):
        with pytest.raises(errors.UserError, match="none is left"):
            convert.convert(str(source), str(ckpt.destination(tmp_path, to)), to)
    assert not os.listdir(tmp_path)


def test_the_command_line_converts(source, tmp_path):
    out = str(tmp_path / "out")
    command = [sys.executable, "-m", "checkpoints_tools.convert", str(source), out, "--to=ours"]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and "121 weights" in done.stdout, done.stderr
    with pytest.raises(errors.UserError, match="or remove it first"):
        convert.convert(str(source), out, "ours")


def test_inspect_needs_a_checkpoint(tmp_path):
    """test_tools.py tests that the programs print such an error as one sentence."""
    with pytest.raises(errors.UserError, match="must hold a checkpoint or a SavedModel"):
        inspect.inspect(str(tmp_path))


def test_inspect_describes_a_checkpoint(converted):
    description = inspect.inspect(str(converted["tf1"]))
    shapes = layouts.weights(ckpt.SMALL)
    assert description["parameters"]["all"] == sum(np.prod(s, dtype=int) for s in shapes.values())
    assert (description["format"], description["step"], description["momenta"]) == ("tf1", 1234, 73)
    assert description["heads"] == ["projection_head", "supervised_head"]
    assert "projection layers    3 (nonlinear)" in inspect.table(description)
    assert inspect.name_of({"depth": 50, "width_multiplier": 1, "sk_ratio": 0.0625}) == "r50_1x_sk1"


def test_a_hub_module_is_read(source, tmp_path):
    directory = tmp_path / "hub" / "variables"
    directory.mkdir(parents=True)
    ckpt.write_tf1(directory / "variables", ckpt.released(ckpt.shapes(), ema=False))
    for name in ("saved_model.pb", "tfhub_module.pb"):
        (tmp_path / "hub" / name).write_bytes(b"")
    assert ckpt.assert_same(tmp_path / "hub", ckpt.expected()).format.name == "hub"
    with pytest.raises(errors.UserError, match="--to must be one of"):
        convert.convert(str(source), str(tmp_path / "x"), "hub")
    assert formats.FORMATS["hub"].write is None


def test_model_json_is_converted_too(source, tmp_path):
    for to in ("ours", "safetensors", "keras"):
        path = ckpt.destination(tmp_path, to, to)
        metadata = {**json.loads(ckpt.metadata()), "class_names": list("abcdefghij")}
        (source.parent / "model.json").write_text(json.dumps(metadata))
        try:
            convert.convert(str(source), str(path), to)
        finally:
            (source.parent / "model.json").unlink()
        assert convert.read(str(path)).metadata["class_names"] == list("abcdefghij")
