"""Checkpoints in the reference's layouts, of small networks, for the tests of the converters."""

import json

import numpy as np
import pytest
import reference
import tensorflow as tf

from checkpoints_tools import convert
from tf2 import architecture as architecture_lib
from tf2.checkpoints import layouts
from tf2.parity import golden

SALT_OF_EMA = "other:"
SMALL = {
    **architecture_lib.BACKBONE_DEFAULTS,
    "depth": 18,
    "width_multiplier": 0.125,
    "stem": "cifar",
    "num_classes": 10,
    "proj_head_mode": "nonlinear",
    "proj_out_dim": 16,
}


def fill(name, shape, salt=""):
    """Returns values by the fill rule."""
    return reference.fill(name, tuple(shape), salt)


def shapes(architecture=None):
    """Returns canonical name -> shape."""
    architecture = architecture or SMALL
    names = layouts.canonical(architecture)
    return {names[ours]: shape for ours, shape in layouts.weights(architecture).items()}


def expected(architecture=None, salt=""):
    """Returns our name -> array by the fill rule; the supervised head has no average."""
    architecture = architecture or SMALL
    canonical = layouts.canonical(architecture)
    return {
        ours: fill(canonical[ours], shape, "" if ours.startswith("supervised_head") else salt)
        for ours, shape in layouts.weights(architecture).items()
    }


def write_tf1(prefix, arrays):
    """Writes a TF1 checkpoint by the kernel that TF1's Saver calls."""
    prefix.parent.mkdir(exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=[tf.constant(value) for value in arrays.values()],
    )


def released(shapes, ema=True):
    """Returns the arrays of a released checkpoint: weights, their average, slots, a counter."""
    arrays = {name: fill(name, shape) for name, shape in shapes.items()}
    for name, shape in shapes.items() if ema else ():
        if not name.startswith("head_supervised"):
            arrays[f"ema_model/{name}"] = fill(name, shape, SALT_OF_EMA)
    for name, shape in shapes.items():
        if not name.endswith(("moving_mean", "moving_variance")):
            arrays[f"{name}/Momentum"] = fill(name, shape, "momentum:")
    arrays["global_step"] = np.int64(1234)
    return arrays


def reference_tf2(name):
    """Returns the pack's table of a TF2 checkpoint, or skips."""
    try:
        return reference.PACK.json(f"03_tf2_checkpoints/{name}.json")
    except golden.MissingData as missing:
        pytest.skip(str(missing))


class Reference(tf.Module):
    """Objects with the attributes of the reference's program, from keys of its checkpoints."""

    def __init__(self, keys):
        super().__init__()
        by_key = {}
        self._by_key = lambda: by_key  # TensorFlow would track a dictionary
        for key, shape in keys.items():
            *path, leaf = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").split("/")[1:]
            at = self
            for part in path:
                if not hasattr(at, f"{part}"):
                    setattr(at, part, tf.Module())
                at = getattr(at, part)
            variable = tf.Variable(tf.zeros(shape), name="/".join([*path, leaf]))
            setattr(at, leaf, variable)
            by_key[key] = variable

    @property
    def variables_by_key(self):
        return self._by_key()


def assert_same(path, wanted, **kwargs):
    """Asserts that a checkpoint holds these weights, bit for bit."""
    network = convert.read(str(path), **kwargs)
    assert list(network.tensors) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(network.tensors[name], value, err_msg=name)
    return network


def destination(directory, to, stem="copy"):
    """Returns a path that a format can be written to."""
    suffix = {
        "safetensors": ".safetensors",
        "keras": ".weights.h5",
        "pytorch": ".pth",
        "keras_zip": ".keras",
    }
    return directory / (stem + suffix.get(to, ""))


def metadata(architecture=None):
    """Returns a model.json as text."""
    return json.dumps({"format": 1, "architecture": architecture or SMALL})
