"""All differences between Keras 2.15 and Keras 3; the only module that checks a version.

Keras 3 wraps each weight in a `keras.Variable`; Keras 2 weights are `tf.Variable`s. The rest
of the package works on `tf.Variable`s and calls this module for the few APIs that differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf
from tensorflow.python.framework import ops

from tf2 import errors

KERAS_3 = int(keras.__version__.split(".")[0]) >= 3
LearningRate: TypeAlias = "float | keras.optimizers.schedules.LearningRateSchedule"


def unwrap(variable: Any) -> tf.Variable:
    """Returns the `tf.Variable` of a weight of either Keras version."""
    return variable.value if KERAS_3 and not isinstance(variable, tf.Variable) else variable


def weight_name(layer: keras.layers.Layer, weight: object) -> str:
    """Returns a weight's own name, such as `kernel`, the same with either Keras."""
    name = weight.name.split("/")[-1].split(":")[0]  # type: ignore[attr-defined]
    if name == "depthwise_kernel" and isinstance(layer, keras.layers.DepthwiseConv2D):
        return "kernel"  # as Keras 3 calls it
    return name


def add_moving_statistic(
    layer: keras.layers.Layer, name: str, shape: Sequence[int], initializer: str
) -> Any:
    """Adds a non-trainable float32 weight that each replica updates by itself.

    Under a replicated strategy every replica has its own copy (ON_READ), so an update within a step
    needs no communication; reading it outside a step gives the mean.
    """
    if KERAS_3:
        variable = keras.Variable(
            initializer,
            shape=shape,
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="mean",
            synchronization="on_read",
            name=name,
        )
        setattr(layer, name, variable)  # Keras tracks it as the layer's weight here
        return variable
    return layer.add_weight(
        name=name,
        shape=shape,
        dtype=tf.float32,
        initializer=initializer,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.MEAN,
        experimental_autocast=False,
    )


def add_float32_weight(
    layer: keras.layers.Layer, name: str, shape: Sequence[int], initializer: str
) -> Any:
    """Adds a trainable weight that is float32 for any compute dtype of the layer."""
    no_autocast = {("autocast" if KERAS_3 else "experimental_autocast"): False}
    return layer.add_weight(
        name=name, shape=shape, dtype="float32", initializer=initializer, **no_autocast
    )


def optimizer_base_arguments(name: str, learning_rate: LearningRate) -> dict[str, Any]:
    """Returns the arguments of `keras.optimizers.Optimizer.__init__` for our subclass.

    Keras 3 takes the learning rate in the constructor. Keras 2.15 needs it afterwards (see
    `set_learning_rate`), and by default compiles each update with XLA.
    """
    if KERAS_3:
        return {"name": name, "learning_rate": learning_rate}
    return {"name": name, "jit_compile": False}


def set_learning_rate(optimizer: keras.optimizers.Optimizer, learning_rate: LearningRate) -> None:
    """Sets the learning rate of a Keras 2.15 optimizer; in Keras 3 the constructor did."""
    if not KERAS_3:
        optimizer._learning_rate = optimizer._build_learning_rate(learning_rate)


def add_slot(optimizer: keras.optimizers.Optimizer, variable: tf.Variable, name: str) -> Any:
    """Adds a zero-filled optimizer variable with the shape and placement of `variable`."""
    return optimizer.add_variable_from_reference(variable, name)


def variable_index(optimizer: keras.optimizers.Optimizer, variable: tf.Variable) -> int:
    """Returns the index of `variable` in the list that the optimizer was built with."""
    if KERAS_3:
        return optimizer._get_variable_index(variable)
    return optimizer._index_dict[optimizer._var_key(variable)]


def learning_rate_config(optimizer: keras.optimizers.Optimizer) -> Any:
    """Returns the serialized learning rate for an optimizer's `get_config`."""
    if KERAS_3:
        return keras.optimizers.Optimizer.get_config(optimizer)["learning_rate"]
    return optimizer._serialize_hyperparameter(optimizer._learning_rate)


def make_optimizer(
    kind: str, learning_rate: LearningRate, momentum: float
) -> keras.optimizers.Optimizer:
    """Returns a standard optimizer: 'momentum' (Nesterov SGD), 'adam' or 'lamb'.

    LAMB is `tfa.optimizers.LAMB` with Keras 2.15 and `keras.optimizers.Lamb` with Keras 3.

    Raises:
        errors.UserError: the kind is unknown, or LAMB needs tensorflow-addons.
    """
    no_xla = {} if KERAS_3 else {"jit_compile": False}
    if kind == "momentum":
        return keras.optimizers.SGD(learning_rate, momentum=momentum, nesterov=True, **no_xla)
    if kind == "adam":
        return keras.optimizers.Adam(learning_rate, **no_xla)
    if kind == "lamb" and KERAS_3:
        return keras.optimizers.Lamb(learning_rate)
    if kind == "lamb":
        try:
            import tensorflow_addons as tfa
        except ImportError as error:
            raise errors.UserError(
                "--optimizer=lamb needs tensorflow-addons with Keras 2.15. Received: "
                "optimizer=lamb without that package. Install it: pip install -e '.[addons]'."
            ) from error
        return tfa.optimizers.LAMB(learning_rate)
    raise errors.UserError(
        f"optimizer must be one of momentum, adam, lamb. Received: optimizer={kind!r}."
    )


def optimizer_variables(optimizer: keras.optimizers.Optimizer) -> list[tf.Variable]:
    """Returns all variables of an optimizer (step counter, slots), in a stable order."""
    variables = optimizer.variables
    return [unwrap(v) for v in (variables() if callable(variables) else variables)]


def slots(optimizer: keras.optimizers.Optimizer) -> dict[str, list[tf.Variable]]:
    """Returns the slots of a built optimizer by kind, in the order of its variables.

    SGD's slot is not called `momentum` like LARS's, because it has the opposite sign.
    """
    if isinstance(optimizer, keras.optimizers.SGD):
        kinds = {"sgd_momentum": getattr(optimizer, "momentums", [])}
    elif type(optimizer) is keras.optimizers.Adam:
        kinds = {"adam_m": optimizer._momentums, "adam_v": optimizer._velocities}
    else:
        kinds = {}
    return {kind: [unwrap(v) for v in values] for kind, values in kinds.items() if values}


def build_optimizer(
    optimizer: keras.optimizers.Optimizer, variables: Iterable[tf.Variable]
) -> None:
    """Creates the optimizer's slots for `variables` now instead of at the first step."""
    if hasattr(optimizer, "build"):
        optimizer.build(list(variables))
    else:  # a legacy optimizer (tensorflow-addons), which creates its slots one by one
        optimizer._create_all_weights(list(variables))


def iterations(optimizer: keras.optimizers.Optimizer) -> tf.Variable:
    """Returns the optimizer's counter of applied updates, an int64 scalar."""
    return unwrap(optimizer.iterations)


@contextlib.contextmanager
def forgotten_gradients() -> Iterator[None]:
    """Forgets at its end the custom gradients of the graphs that were built inside the block.

    TensorFlow registers each under a name of its own and so keeps its graph for ever: 15 MB for
    each training of a small network, whose optimizer adds gradients up over replicas. What was
    built before keeps its gradients.
    """
    registry = getattr(getattr(ops, "gradient_registry", None), "_registry", {})
    before = set(registry)
    try:
        yield
    finally:
        for name in set(registry) - before:
            if name.startswith("CustomGradient-"):
                del registry[name]


def step_count(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """Returns the number of updates applied so far, an int64 scalar tensor."""
    return tf.cast(tf.convert_to_tensor(iterations(optimizer)), tf.int64)
