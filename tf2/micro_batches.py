"""The gradient of a batch, computed in parts one after another, so that memory follows a part.

A loss that is a mean over images is differentiated part by part. The contrastive loss compares all
images with each other: the embeddings of all parts come first, without what a backward pass needs;
then the loss and its gradient by the embeddings; then each part again, with its backward pass from
that gradient (GradCache, Gao et al. 2021, section 3).

Batch norm normalizes each part by its own statistics, as on replicas that have a part each and do
not share theirs. Where it spans replicas, the statistics of part k are those of part k of all
replicas. The moving averages are updated once per part, in order.

Shapes: n images per replica, v views of each, k parts of m = n / k images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf2 import model as model_lib
from tf2 import resnet, variables

Scalars = dict[str, tf.Tensor]
VIEWS = 2

# Endpoints that the losses of pretraining read.
_OUTPUTS = ("proj_head_input", "proj_head_output", "logits_sup")
_ZEROS = {"unconnected_gradients": tf.UnconnectedGradients.ZERO}


def contrastive_gradients(
    model: model_lib.SimCLR,
    images: tf.Tensor,
    loss: Callable[[Mapping[str, tf.Tensor]], Scalars],
    trained: Sequence[tf.Variable],
    parts: int,
) -> tuple[Mapping[str, tf.Tensor], Scalars, list[tf.Tensor]]:
    """Differentiates a loss of the embeddings of all images.

    Args:
        model: in its pretraining form.
        images: (2n, h, w, c); row i and row n + i are two views of one image.
        loss: maps the endpoints of all images to scalars, total_loss among them.
        trained: the variables to differentiate by.
        parts: k, which divides n.

    Returns:
        The endpoints, at least those of pretraining; the scalars; this replica's share of the
        gradients.
    """
    if parts == 1:
        with tf.GradientTape() as tape:
            endpoints = model(images, training=True)
            scalars = loss(endpoints)
        return endpoints, scalars, share(tape, scalars["total_loss"], trained)

    def forward(part: tf.Tensor) -> dict[str, tf.Tensor]:
        endpoints = model(part, training=True)
        return {n: tf.cast(endpoints[n], tf.float32) for n in _OUTPUTS if n in endpoints}

    unrolled = _unrolled(model)
    names = [n for n in _OUTPUTS if n != "logits_sup" or hasattr(model, "supervised_head")]
    dtypes = dict.fromkeys(names, tf.float32)
    with resnet.kept(_moving_averages(model)):  # the second pass updates them
        endpoints = map_parts(forward, images, parts, views=VIEWS, dtypes=dtypes, unrolled=unrolled)
    with tf.GradientTape() as tape:
        tape.watch(endpoints)
        scalars = loss(endpoints)
    sources = [*(endpoints[name] for name in names), *trained]
    gradients = share(tape, scalars["total_loss"], sources, **_ZEROS)
    upstream = [_split(g, parts, VIEWS) for g in gradients[: len(names)]]  # each (k, 2m, ...)
    divided = _split(images, parts, VIEWS)  # (k, 2m, h, w, c)

    def backward(part: tf.Tensor, total: list[tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            of_part = forward(divided[part])
        targets, cached = [of_part[name] for name in names], [g[part] for g in upstream]
        return _add(total, tape.gradient(targets, list(trained), cached, **_ZEROS))

    # What does not pass through the network, the L2 term, is in the gradient already.
    return endpoints, scalars, _fold(backward, gradients[len(names) :], parts, unrolled)


def mean_gradients(
    model: model_lib.SimCLR,
    batch: Mapping[str, tf.Tensor],
    loss: Callable[[Mapping[str, tf.Tensor]], Scalars],
    trained: Sequence[tf.Variable],
    parts: int,
    names: Sequence[str],
) -> tuple[Scalars, list[tf.Tensor]]:
    """Differentiates a loss that is the mean of the losses of the parts.

    Args:
        model: the network that the loss runs.
        batch: tensors (n, ...).
        loss: maps a batch, or a part of it, to scalars, total_loss among them.
        trained: the variables to differentiate by.
        parts: k, which divides n.
        names: of the scalars.

    Returns:
        The scalars, each a mean over the parts; this replica's share of the gradients.
    """
    if parts == 1:
        with tf.GradientTape() as tape:
            scalars = loss(batch)
        return scalars, share(tape, scalars["total_loss"], trained)
    divided = {name: _split(tensor, parts) for name, tensor in batch.items()}  # each (k, m, ...)

    def add(part: tf.Tensor, total: Any) -> Any:
        with tf.GradientTape() as tape:
            scalars = loss({name: tensor[part] for name, tensor in divided.items()})
        return _add(total, (scalars, share(tape, scalars["total_loss"], trained, **_ZEROS)))

    zeros = dict.fromkeys(names, tf.zeros([])), [tf.zeros(v.shape, v.dtype) for v in trained]
    total = _fold(add, zeros, parts, _unrolled(model))
    return tf.nest.map_structure(lambda value: value / parts, total)


def map_parts(
    function: Callable[[tf.Tensor], Any],
    images: tf.Tensor,
    parts: int,
    *,
    dtypes: Any = tf.float32,
    views: int = 1,
    unrolled: bool = False,
) -> Any:
    """Maps images (v * n, ...) to outputs (v * n, ...), one part after another.

    Args:
        function: maps images to one or several outputs, a row for each image.
        images: the first views of all images, then the second ones.
        parts: k, which divides n.
        dtypes: of the outputs, in their structure.
        views: v.
        unrolled: see `_unrolled`.
    """
    if parts == 1:
        return function(images)
    divided = _split(images, parts, views)
    if unrolled:
        outputs: list[Any] = []
        for part in range(parts):
            with tf.control_dependencies(tf.nest.flatten(outputs[-1:])):
                outputs.append(function(tf.identity(divided[part])))
        stacked = tf.nest.map_structure(lambda *values: tf.stack(values), *outputs)
    else:
        stacked = tf.map_fn(function, divided, fn_output_signature=dtypes, parallel_iterations=1)
    return tf.nest.map_structure(lambda value: _join(value, views), stacked)


def _fold(body: Callable[[Any, Any], Any], state: Any, parts: int, unrolled: bool) -> Any:
    """Returns state = body(part, state) after all parts, one after another."""
    if unrolled:
        for part in range(parts):
            with tf.control_dependencies(tf.nest.flatten(state)):
                state = body(part, tf.nest.map_structure(tf.identity, state))
        return state
    _, state = tf.while_loop(
        lambda part, state: part < parts,
        lambda part, state: (part + 1, body(part, state)),
        (tf.constant(0), state),
        parallel_iterations=1,
        maximum_iterations=parts,
    )
    return state


def _unrolled(model: model_lib.SimCLR) -> bool:
    """Whether parts are written out in the graph, in place of a loop.

    TensorFlow allows no exchange between mirrored replicas, such as that of batch norm, in a loop.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return replicas > 1 and model.hyperparameters.get("global_bn", True)


def _moving_averages(model: model_lib.SimCLR) -> list[tf.Variable]:
    """Returns the moving averages of batch norm."""
    named = variables.named_variables(model)
    return [v for n, v in named.items() if variables.role(n).startswith("moving_")]


def _split(tensor: tf.Tensor, parts: int, views: int = 1) -> tf.Tensor:
    """Maps (v * n, ...) to (k, v * m, ...); part 0 has the first m images, in all views."""
    rest = tensor.shape[1:]
    tensor = tf.reshape(tensor, [views, parts, -1, *rest])
    return tf.reshape(_swap(tensor), [parts, -1, *rest])


def _join(tensor: tf.Tensor, views: int) -> tf.Tensor:
    """Maps (k, v * m, ...) to (v * n, ...), the inverse of `_split`."""
    parts, rest = tensor.shape[0], tensor.shape[2:]
    tensor = tf.reshape(tensor, [parts, views, -1, *rest])
    return tf.reshape(_swap(tensor), [-1, *rest])


def _swap(tensor: tf.Tensor) -> tf.Tensor:
    """Exchanges the first two axes."""
    return tf.transpose(tensor, [1, 0, *range(2, tensor.shape.rank)])


def share(
    tape: tf.GradientTape, loss: tf.Tensor, sources: Sequence[Any], **options: Any
) -> list[tf.Tensor]:
    """Returns this replica's share of the gradient of the mean loss.

    Each replica contributes its loss over the number of replicas; the optimizer sums the
    replicas' gradients.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    upstream = tf.constant(1.0 / replicas)
    return tape.gradient(loss, list(sources), output_gradients=upstream, **options)


def _add(total: Any, more: Any) -> Any:
    return tf.nest.map_structure(tf.add, total, more)
