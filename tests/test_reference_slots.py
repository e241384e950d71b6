"""Optimizer slots of the reference's TF2 program, read and written in both of Keras's layouts."""

import ckpt
import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

import tf2 as simclr
from checkpoints_tools import convert, name_map
from tf2 import compat, optimization, variables
from tf2.checkpoints import checkpoint, layouts

FOLDER = "03_tf2_checkpoints"
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
TABLES = [n for n in reference.PACK.names(FOLDER) if n != "summary" and "saved_model" not in n]


@pytest.mark.parametrize("name", TABLES)
def test_the_order_is_that_of_the_references_trainable_variables(name):
    table = ckpt.reference_tf2(name)
    canonical = {row[0].removesuffix(SUFFIX): row[3] for row in table["model"]}
    trained = set(table["trainable_variables_order"])
    ordered = [canonical[path] for path in name_map.reference_order(canonical)]
    assert [name for name in ordered if name in trained] == table["trainable_variables_order"]


class Program:
    """What the reference's program saves: a model and one of Keras's optimizers.

    Its weights are filled by the rule; the optimizer's variables have the order of the program.
    """

    def __init__(self, optimizer):
        names = name_map.reference_tf2(ckpt.SMALL)
        shapes = layouts.weights(ckpt.SMALL)
        self.model = ckpt.Reference({key: shapes[n] for n, (key, _) in names.items()})
        self.named = {}
        canonical = layouts.canonical(ckpt.SMALL)
        for name, (key, _) in names.items():
            variable = self.model.variables_by_key[key]
            variable.assign(ckpt.fill(canonical[name], variable.shape))
            self.named[name] = variable
        by_path = {k.removesuffix(SUFFIX): v for k, v in self.model.variables_by_key.items()}
        moving = ("moving_mean", "moving_variance")
        order = [p for p in name_map.reference_order(by_path) if not p.endswith(moving)]
        self.trained = [by_path[path] for path in order]
        self.optimizer = optimizer
        self.checkpoint = tf.train.Checkpoint(
            model=self.model, optimizer=optimizer, global_step=optimizer.iterations
        )

    def gradients(self, step):
        """Returns (gradient, weight) pairs of a step, by the weights' names."""
        name_of = {id(v): n for n, v in self.named.items()}
        return [(gradient(name_of[id(v)], v.shape, step), v) for v in self.trained]


def gradient(name, shape, step):
    return tf.constant(reference.fill(f"{name}/beta", tuple(shape), f"gradient {step}:"))


def build(kind):
    """Returns an optimizer of Keras 2.15 as in the reference's program."""
    legacy = kind.startswith("legacy")
    home = keras.optimizers.legacy if legacy else keras.optimizers
    rate = keras.optimizers.schedules.CosineDecay(0.1, 100)
    if kind.endswith("momentum"):
        return home.SGD(rate, momentum=0.9, nesterov=True)
    return home.Adam(rate)


class Ours:
    """Our network and optimizer, restored from a checkpoint."""

    def __init__(self, directory, kind):
        self.model = simclr.SimCLR(**ckpt.SMALL)
        self.named = variables.named_variables(self.model)
        self.trained = variables.trainable_variables(self.named)
        rate = keras.optimizers.schedules.CosineDecay(0.1, 100)
        self.optimizer = optimization.make_optimizer(kind.removeprefix("legacy "), rate)
        slots = optimization.build_slots(self.optimizer, self.trained)
        step = tf.Variable(0, dtype=tf.int64)
        contents = {"model": self.named, "optimizer": slots, "global_step": step}
        self.saver = checkpoint.Saver(str(directory), contents)
        self.step = self.saver.restore_latest()
        self.global_step = step
        self.optimizer.iterations.assign(step)

    def update(self, step):
        pairs = [(gradient(n, v.shape, step), v) for n, v in self.trained.items()]
        self.optimizer.apply_gradients(pairs)
        self.global_step.assign_add(1)


def assert_alike(program, ours):
    for name, variable in program.named.items():
        np.testing.assert_allclose(
            ours.named[name].numpy(), variable.numpy(), rtol=1e-5, atol=1e-6, err_msg=name
        )


@pytest.mark.skipif(keras.__version__.startswith("3"), reason="the reference's is Keras 2")
@pytest.mark.parametrize("kind", ["momentum", "adam", "legacy momentum", "legacy adam"])
def test_training_resumes_there_and_back(kind, tmp_path):
    """Two updates there, one here, one there again: as four there."""
    there = Program(build(kind))
    for step in range(2):
        there.optimizer.apply_gradients(there.gradients(step))
    prefix = there.checkpoint.write(str(tmp_path / "there"))
    convert.convert(prefix, str(tmp_path / "ours"), "ours")
    ours = Ours(tmp_path / "ours", kind)
    assert ours.step == 2
    assert_alike(there, ours)
    ours.update(2)
    there.optimizer.apply_gradients(there.gradients(2))
    assert_alike(there, ours)

    ours.saver.save(3)
    to = "reference_tf2" if kind.startswith("legacy") else "reference_tf2_keras211"
    convert.convert(str(tmp_path / "ours"), str(tmp_path / "back"), to)
    there.optimizer.apply_gradients(there.gradients(3))
    for built_before in (False, True):
        back = Program(build(kind))
        if built_before:
            compat.build_optimizer(back.optimizer, back.trained)
        latest = tf.train.latest_checkpoint(str(tmp_path / "back"))
        back.checkpoint.restore(latest).expect_partial()
        back.optimizer.apply_gradients(back.gradients(3))
        assert int(back.optimizer.iterations) == 4
        assert_alike(there, back)


class Listed(tf.Module):
    """An optimizer of Keras 2.15 as it is saved: its variables are in one list."""

    def __init__(self, trained, kinds):
        super().__init__()
        self.iterations = tf.Variable(7, dtype=tf.int64)
        self._variables = [self.iterations]
        for variable in trained:
            for kind in kinds:
                name = f"{kind}/{variable.name.removesuffix(':0')}"
                value = reference.fill(f"{name}/beta", tuple(variable.shape))
                self._variables.append(tf.Variable(value, name=name))


@pytest.mark.parametrize(
    "kinds", [{"SGD/m": "sgd_momentum"}, {"Adam/m": "adam_m", "Adam/v": "adam_v"}], ids=str
)
def test_listed_slots_are_matched_to_weights_by_name_in_any_order(kinds, tmp_path):
    program = Program(Listed([], kinds))
    shuffled = list(np.random.RandomState(0).permutation(len(program.trained)))
    program.optimizer = Listed([program.trained[i] for i in shuffled], kinds)
    program.checkpoint = tf.train.Checkpoint(
        model=program.model,
        optimizer=program.optimizer,
        global_step=program.optimizer.iterations,
    )
    prefix = program.checkpoint.write(str(tmp_path / "x"))
    network = convert.read(prefix)
    assert network.format.name == "reference_tf2" and network.metadata["global_step"] == 7
    trained = {id(v) for v in program.trained}
    expected = {
        f"{name}/{ours}": f"{kind}/{variable.name.removesuffix(':0')}"
        for name, variable in program.named.items()
        for kind, ours in kinds.items()
        if id(variable) in trained
    }
    assert set(network.slots) == set(expected)
    for name, theirs in expected.items():
        value = network.slots[name]
        np.testing.assert_array_equal(value, reference.fill(f"{theirs}/beta", value.shape))
    for to in ("ours", "reference_tf2", "reference_tf2_keras211"):
        path = tmp_path / to
        convert.convert(prefix, str(path), to)
        again = convert.read(str(path)).slots
        assert set(again) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(again[name], network.slots[name])


def test_a_format_that_cannot_hold_slots_logs_it(tmp_path, caplog):
    program = Program(Listed([], {}))
    program.optimizer = Listed(program.trained, {"SGD/m": 0})
    program.checkpoint = tf.train.Checkpoint(model=program.model, optimizer=program.optimizer)
    prefix = program.checkpoint.write(str(tmp_path / "x"))
    with caplog.at_level("WARNING"):
        convert.convert(prefix, str(tmp_path / "tf1"), "tf1")
    assert "tf1 has no place for 73 optimizer slots" in caplog.text
    assert not convert.read(str(tmp_path / "tf1")).slots
    caplog.clear()  # nobody expects slots in a format for weights only
    convert.convert(prefix, str(tmp_path / "x.safetensors"), "safetensors")
    assert "slots" not in caplog.text
