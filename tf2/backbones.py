"""The networks below the projection head: `BACKBONES` lists what `--backbone` chooses from.

A backbone is a layer that maps images (n, h, w, channels), float in [0, 1], to a dict of endpoints,
among them final_avg_pool (n, feature_dim). It

- keeps its layers in the attributes `stem` and `block_group1` to `block_group4` (fewer if it has
  fewer), which name its weights and say what `--fine_tune_after_block` freezes;
- has an attribute `feature_dim`;
- is built with the keyword arguments `channels`, `frozen_blocks`, `batch_norm_decay`, `global_bn`
  and `dtype`, as `resnet.ResNet`, and with those of its entry.

A new one is a class or a row of `_application` here, and an entry.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf2 import architecture, errors, resnet, variables

BLOCKS = ("stem", "block_group1", "block_group2", "block_group3", "block_group4")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """An entry of `BACKBONES`.

    Attributes:
        build: returns the layer.
        title: what it is called in a model card, from `model.SimCLR.hyperparameters`.
        arguments: those of `architecture.RESNET_ARGUMENTS` that it takes.
        min_image_size: side in pixels of the smallest images that it takes.
    """

    build: Callable[..., keras.layers.Layer]
    title: Callable[[Mapping[str, Any]], str]
    arguments: tuple[str, ...] = ()
    min_image_size: int = 1


def find_backbone(name: str) -> Backbone:
    """Returns a backbone by its name in `BACKBONES`.

    Raises:
        errors.UserError: the name is unknown.
    """
    return errors.choose("backbone", name, BACKBONES)


def unused_arguments(name: str) -> list[str]:
    """Returns those of `architecture.RESNET_ARGUMENTS` that have no effect with a backbone."""
    own = find_backbone(name).arguments
    return [argument for argument in architecture.RESNET_ARGUMENTS if argument not in own]


def check_image_size(name: str, image_size: int) -> None:
    """Raises errors.UserError where images are too small for a backbone."""
    smallest = find_backbone(name).min_image_size
    if image_size < smallest:
        raise errors.UserError(
            f"Images for backbone={name} have at least {smallest} pixels a side. Received: "
            f"image_size={image_size}. Use --image_size={smallest}."
        )


def title(hyperparameters: Mapping[str, Any]) -> str:
    """Returns what the backbone of a network is called, such as 'ResNet-50 (1x)'."""
    return find_backbone(hyperparameters.get("backbone", architecture.DEFAULT_BACKBONE)).title(
        hyperparameters
    )


def _resnet_title(hyperparameters: Mapping[str, Any]) -> str:
    name = f"ResNet-{hyperparameters['depth']} ({hyperparameters['width_multiplier']:g}x"
    for ratio, word in (("sk_ratio", "SK"), ("se_ratio", "SE")):
        name += f", {word} {hyperparameters[ratio]:g}" if hyperparameters[ratio] else ""
    return name + ")"


class Part(keras.layers.Layer):
    """Consecutive layers of a functional Keras model, run one by one under their names.

    Args:
        layers: (name, layer of the model, layer to run in its place); None in its place passes its
            input on.
        source: the tensor of the model that the first of them reads.
        dtype: Keras dtype or policy.

    Raises:
        ValueError: a layer reads a tensor that is neither `source` nor from one of the others.
    """

    def __init__(
        self,
        layers: Iterable[tuple[str, keras.layers.Layer, keras.layers.Layer | None]],
        source: Any,
        dtype: Any = None,
    ):
        super().__init__(dtype=dtype)
        values = {id(source): 0}  # tensor of the model -> index of its value in `call`
        plan: list[tuple[str, tuple[int, ...]]] = []
        for name, layer, replacement in layers:
            tensors = tf.nest.flatten(layer.input)
            if any(id(tensor) not in values for tensor in tensors):
                raise ValueError(
                    "The blocks of a backbone are joined by one tensor each. Received: the layer "
                    f"{name!r}, which reads a tensor of an earlier block. End that block elsewhere."
                )
            inputs = tuple(values[id(tensor)] for tensor in tensors)
            if replacement is None:
                values[id(layer.output)] = inputs[0]
            else:
                plan.append((name, inputs))
                values[id(layer.output)] = len(plan)
                setattr(self, name, replacement)
        self._plan = tuple(plan)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps the output of the part before to the output of this one."""
        values = [inputs]
        for name, places in self._plan:
            layer = getattr(self, name)
            value = values[places[0]] if len(places) == 1 else [values[i] for i in places]
            norm = isinstance(layer, resnet.BatchNormalization)
            values.append(layer(value, training=training) if norm else layer(value))
        return values[-1]


class Application(keras.layers.Layer):
    """A network of keras.applications with random weights, as a backbone.

    Its batch norm is replaced by `resnet.BatchNormalization`, which can span replicas, and keeps
    its epsilon. Dropout is left out, so that a step depends on nothing but the seed and the batch.
    So is the application's own preprocessing: the images are in [0, 1].

    Args:
        application: a function of keras.applications.
        entry: name of its first layer after the preprocessing.
        blocks: names of the layers that end the stem and the block groups.
        channels: of the images.
        frozen_blocks: blocks 0 (stem) to this one are frozen: no gradient passes, and their batch
            norm runs in inference mode. -1 freezes none.
        batch_norm_decay, global_bn: see `resnet.BatchNormalization`.
        dtype: Keras dtype or policy.
    """

    def __init__(
        self,
        application: Callable[..., keras.Model],
        *,
        entry: str,
        blocks: Sequence[str],
        channels: int = 3,
        frozen_blocks: int = -1,
        batch_norm_decay: float = 0.9,
        global_bn: bool = True,
        dtype: Any = None,
    ):
        super().__init__(dtype=dtype)
        with _policy(dtype):
            model = application(include_top=False, weights=None, input_shape=(None, None, channels))

        def replace(layer: keras.layers.Layer) -> keras.layers.Layer | None:
            if isinstance(layer, keras.layers.Dropout):
                return None
            if not isinstance(layer, keras.layers.BatchNormalization):
                return layer
            return resnet.BatchNormalization(
                layer.moving_mean.shape[0],
                momentum=batch_norm_decay,
                epsilon=layer.epsilon,
                center=layer.center,
                synchronized=global_bn,
                dtype=dtype,
            )

        self._frozen_blocks = frozen_blocks
        self._blocks = BLOCKS[: len(blocks)]
        layers = iter(variables.graph_layers(model))
        layers = itertools.dropwhile(lambda pair: pair[0] != entry, layers)
        source = model.get_layer(entry).input
        for block, end in zip(self._blocks, blocks, strict=True):
            inside = [(name, layer, replace(layer)) for name, layer in _up_to(end, layers)]
            setattr(self, block, Part(inside, source, dtype))
            source = model.get_layer(end).output
        self.feature_dim = int(source.shape[-1])
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Maps images (n, h, w, channels) in [0, 1] to a dict of endpoints.

        The output of each block, (n, h', w', c), under its name: stem, block_group1, ...;
        final_avg_pool: (n, feature_dim).
        """
        endpoints, x = {}, images
        for number, block in enumerate(self._blocks):
            x = getattr(self, block)(x, training=training and self._frozen_blocks < number)
            endpoints[block] = x
            if number == self._frozen_blocks:
                x = tf.stop_gradient(x)
        endpoints["final_avg_pool"] = tf.reduce_mean(x, [1, 2])
        return endpoints


def _up_to(
    end: str, layers: Iterator[tuple[str, keras.layers.Layer]]
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (name, layer) up to the layer named `end`, which is the last one."""
    for name, layer in layers:
        yield name, layer
        if name == end:
            return
    raise ValueError(f"The model has no layer of that name in that place. Received: {end!r}.")


@contextlib.contextmanager
def _policy(dtype: Any) -> Iterator[None]:
    """Makes a dtype or policy that of the layers built inside; None leaves Keras's own."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(before if dtype is None else dtype)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def _application(name: str, *, title: str, entry: str, blocks: Sequence[str]) -> Backbone:
    """Returns the entry of a network of keras.applications; see `Application`."""

    def build(**arguments: Any) -> Application:
        application = getattr(keras.applications, name)
        return Application(application, entry=entry, blocks=blocks, **arguments)

    return Backbone(build, title=lambda hyperparameters: title, min_image_size=32)


BACKBONES = {
    "resnet": Backbone(
        lambda **arguments: resnet.ResNet(**arguments),
        title=_resnet_title,
        arguments=architecture.RESNET_ARGUMENTS,
    ),
    "efficientnet_b0": _application(
        "EfficientNetB0",
        title="EfficientNet-B0",
        entry="stem_conv_pad",
        blocks=("stem_activation", "block2b_add", "block3b_add", "block5c_add", "top_activation"),
    ),
}
