"""Checkpoints as the reference publishes them, made by TensorFlow's own writers, load directly."""

import ckpt
import numpy as np
import pytest
import reference
import tensorflow as tf

import tf2 as simclr
from tf2 import config as config_lib
from tf2 import errors, resolve, variables
from tf2.checkpoints import checkpoint_reader
from tf2.parity import golden

SALTED = "other:"


def layout(name="cifar_r18_1x_sk0"):
    """Returns canonical name -> shape of a layout of the reference."""
    data = reference.PACK.json(f"01_tf1_layouts/{name}.json")
    return {row[0]: tuple(row[1]) for row in data["variables"]}


def released(shapes, ema=True):
    """Returns the arrays of a released checkpoint: weights, their average, slots, a counter."""
    arrays = {name: reference.fill(name, shape) for name, shape in shapes.items()}
    for name, shape in shapes.items() if ema else ():
        if not name.startswith("head_supervised"):
            arrays[f"ema_model/{name}"] = reference.fill(name, shape, SALTED)
    for name, shape in shapes.items():
        if not name.endswith(("moving_mean", "moving_variance")):
            arrays[f"{name}/Momentum"] = np.full(shape, 0.5, np.float32)
    arrays["global_step"] = np.int64(1234)
    return arrays


def write_saved_model(directory):
    """Writes variables named as in the SavedModel that the reference's TF2 program exports."""
    name = "03_tf2_checkpoints/cifar_r18_sk0_pretrain_lars.saved_model.json"
    try:
        data = reference.PACK.json(name)
    except golden.MissingData as missing:
        pytest.skip(str(missing))
    module, made = tf.Module(), {}
    for path, rows in data["loaded"].items():
        group = []
        for full_name, shape, canonical in rows:
            if canonical not in made:
                name = full_name.removesuffix(":0")
                made[canonical] = tf.Variable(reference.fill(canonical, tuple(shape)), name=name)
            group.append(made[canonical])
        setattr(module, path.replace(".", "_"), group)
    tf.saved_model.save(module, str(directory))
    return made


@pytest.fixture(scope="module")
def tf1(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("released") / "model.ckpt-1234"
    ckpt.write_tf1(prefix, released(layout()))
    return prefix


def small_model(**changes):
    arguments = {"depth": 18, "num_classes": 10, "stem": "cifar", **changes}
    return simclr.SimCLR(**arguments)


@pytest.mark.parametrize("weights", ["online", "ema"])
def test_a_tf1_checkpoint_loads_by_name(tf1, weights):
    model = small_model()
    report = simclr.load_weights(model, tf1, restore_head=True, weights=weights)
    assert report.complete and not report.notes
    named = variables.named_variables(model)
    for ours, canonical in variables.reference_names(list(named)).items():
        head = canonical.startswith("head_supervised")
        salt = SALTED if weights == "ema" and not head else ""
        expected = golden.fill(canonical, tuple(named[ours].shape), salt)
        np.testing.assert_array_equal(named[ours].numpy(), expected, err_msg=canonical)


def test_its_directory_and_its_architecture_are_found(tf1):
    metadata = checkpoint_reader.read_metadata(tf1.parent)
    assert metadata["architecture"]["depth"] == 18
    assert metadata["architecture"]["stem"] == "cifar"
    assert metadata["preprocessing"]["image_size"] == 32
    with pytest.raises(errors.UserError, match="depth=18, you asked for depth=34"):
        simclr.load_weights(small_model(depth=34), tf1.parent)


def test_a_released_saved_model_loads_by_the_names_of_its_variables(tmp_path):
    write_saved_model(tmp_path / "export")
    found, metadata = checkpoint_reader.read_weights(tmp_path / "export")
    assert metadata["architecture"]["depth"] == 18
    names = variables.reference_names(list(found))
    assert set(names.values()) == set(layout())
    for ours, canonical in names.items():
        np.testing.assert_array_equal(found[ours], reference.fill(canonical, found[ours].shape))


def test_a_weight_too_many_or_too_few_is_refused(tmp_path):
    shapes = layout()
    ckpt.write_tf1(tmp_path / "more" / "model.ckpt-1", {
        **released(shapes, ema=False), "base_model/conv2d_40/kernel": np.zeros((3, 3, 1, 1), "f4"),
    })  # fmt: skip
    with pytest.raises(errors.UserError, match="base_model/conv2d_40/kernel has none"):
        checkpoint_reader.read_weights(tmp_path / "more")
    fewer = released(shapes, ema=False)
    del fewer["base_model/batch_normalization_9/beta"]
    ckpt.write_tf1(tmp_path / "fewer" / "model.ckpt-1", fewer)
    with pytest.raises(errors.UserError, match="whose names or shapes fit none"):
        checkpoint_reader.read_weights(tmp_path / "fewer")
    with pytest.raises(errors.UserError, match="weights=ema"):
        checkpoint_reader.read_weights(tmp_path / "fewer", "ema")


def test_a_run_takes_its_architecture_from_a_tf1_checkpoint(tf1, tmp_path):
    given = config_lib.Config(train_mode="finetune", checkpoint=str(tf1.parent))
    taken = resolve.resolve(given.replace(model_dir=str(tmp_path)))
    assert (taken.resnet_depth, taken.stem, taken.sk_ratio) == (18, "cifar", 0.0)
    assert (taken.num_proj_layers, taken.image_size) == (3, 32)
