"""The memory of SimCLRv2: a moving average of the network, and a queue of its embeddings, the keys.

SimCLRv2 (section 2, "we incorporate the memory mechanism from MoCo") contrasts each image with
keys of earlier batches too; `objective.MEMORY_LOSSES` has the losses. The average is used in
inference mode, with averaged batch norm statistics (EMAN, Cai et al. 2021).

Order within a step, as in MoCo (He et al. 2020, algorithm 1): the loss contrasts the batch with the
queue of earlier batches; the weights are updated; the keys of the batch replace the oldest ones in
the queue; then the average is updated.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tf2 import variables


@dataclasses.dataclass
class Memory:
    """A moving average and its queue; their variables are in the checkpoint.

    Attributes:
        encoder: the average, a `model.SimCLR` without supervised head, in its pretraining form.
        decay: of the average.
        loss: a name in `objective.MEMORY_LOSSES`.
        weight: of the queue in the loss hybrid.
        views: of each image that are enqueued: 1, the second, or 2.
        queue: (size, d) float32, keys as the loss compares them.
        ids: (size,) int64, of their images; -1 where unknown.
        written: int64 scalar, keys enqueued so far; the next one goes to slot `written % size`.
        averages: (average, variable) of every weight and statistic.
    """

    encoder: Any
    decay: float
    loss: str
    weight: float
    views: int
    queue: tf.Variable
    ids: tf.Variable
    written: tf.Variable
    averages: list[tuple[tf.Variable, tf.Variable]]

    def embed(self, images: tf.Tensor, hidden_norm: bool = True) -> tf.Tensor:
        """Maps images (n, h, w, c) to keys (n, d), in inference mode; they have no gradient."""
        hidden = tf.cast(self.encoder(images, training=False)["proj_head_output"], tf.float32)
        return tf.stop_gradient(tf.math.l2_normalize(hidden, -1) if hidden_norm else hidden)

    def filled(self) -> tf.Tensor:
        """Returns the number of queue slots that hold a key, an int64 scalar."""
        return tf.minimum(tf.convert_to_tensor(self.written), self.queue.shape[0])

    def excluded(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns (n, size) float32: 1 for empty slots and those of the image itself.

        Args:
            ids: (n,) int64, of images.
        """
        empty = tf.range(self.queue.shape[0], dtype=tf.int64) >= self.filled()
        itself = tf.equal(ids[:, tf.newaxis], tf.convert_to_tensor(self.ids))
        return tf.cast(empty | itself, tf.float32)

    def enqueue(self, keys: tf.Tensor, ids: tf.Tensor) -> None:
        """Overwrites the oldest slots.

        Args:
            keys: (n, 2, d), of both views of the images of all replicas.
            ids: (n,) int64, of these images.
        """
        size = self.queue.shape[0]
        if not size:
            return
        rows = tf.reshape(keys[:, -self.views :], [-1, self.queue.shape[1]])  # (views * n, d)
        ids, number = tf.repeat(ids, self.views), tf.shape(rows)[0]
        first = tf.convert_to_tensor(self.written) + tf.cast(tf.maximum(number - size, 0), tf.int64)
        rows, ids = rows[-size:], ids[-size:]  # of more than the queue holds, the last
        slots = (first + tf.range(tf.shape(rows)[0], dtype=tf.int64)) % size
        slots = slots[:, tf.newaxis]
        self.queue.assign(tf.tensor_scatter_nd_update(self.queue, slots, rows))
        self.ids.assign(tf.tensor_scatter_nd_update(self.ids, slots, ids))
        self.written.assign_add(tf.cast(number, tf.int64))

    def update_ema(self, step: tf.Tensor) -> None:
        """Updates the average to decay * average + (1 - decay) * weight.

        The first decays are smaller, so that the average soon forgets the random weights.

        Args:
            step: number of this update, from 0.
        """
        t = tf.cast(step, tf.float32)
        decay = tf.minimum(self.decay, (1.0 + t) / (10.0 + t))

        def update(strategy: tf.distribute.Strategy, decay: tf.Tensor) -> None:
            for average, weight in self.averages:
                strategy.extended.update(average, _mix, args=(weight, decay), group=False)

        tf.distribute.get_replica_context().merge_call(update, args=(decay,))

    def checkpoint_variables(self) -> dict[str, dict[str, tf.Variable]]:
        """Returns the sections of a checkpoint that hold the memory."""
        return {
            "ema": variables.named_variables(self.encoder),
            "memory": {"queue": self.queue, "ids": self.ids, "written": self.written},
        }


def _mix(average: tf.Variable, weight: tf.Variable, decay: tf.Tensor) -> None:
    average.assign(decay * average + (1.0 - decay) * tf.convert_to_tensor(weight))


def make_memory(
    model: Any, *, size: int, decay: float, loss: str, weight: float = 1.0, views: int = 1
) -> Memory:
    """Builds the memory of a network; call it in the strategy's scope.

    Args:
        model: a `model.SimCLR` in its pretraining form; the average starts at its weights.
        size: slots in the queue; may be 0. Each replica holds the whole queue, which takes
            4 * size * d bytes (32 MiB for 65,536 slots of width 128).
        decay: of the moving average, in [0, 1].
        loss, weight, views: see `Memory`.
    """
    hyperparameters = {**model.hyperparameters, "num_classes": 0}
    encoder = type(model)(**hyperparameters, dtype=model.dtype_policy)
    trained = variables.named_variables(model)
    head = encoder.projection_head
    width = head[-1].dense.units if head else encoder.backbone.feature_dim
    memory = Memory(
        encoder=encoder,
        decay=decay,
        loss=loss,
        weight=weight,
        views=views,
        queue=_replicated(tf.zeros([size, width]), "queue"),
        ids=_replicated(tf.fill([size], tf.constant(-1, tf.int64)), "ids"),
        written=_replicated(tf.zeros([], tf.int64), "written"),
        averages=[
            (average, trained[name])
            for name, average in variables.named_variables(encoder).items()
            if average.dtype.is_floating
        ],
    )
    begin(memory, model)
    return memory


def _replicated(value: tf.Tensor, name: str) -> tf.Variable:
    """Returns a variable that every replica updates with the same values."""
    return tf.Variable(
        value,
        trainable=False,
        name=name,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def begin(memory: Memory, model: Any) -> None:
    """Copies the network's weights, batch norm statistics included, into the momentum encoder."""
    trained = variables.named_variables(model)
    for name, average in variables.named_variables(memory.encoder).items():
        average.assign(trained[name])
