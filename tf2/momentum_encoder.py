"""The memory of SimCLRv2: a momentum encoder and the queue of its earlier embeddings.

SimCLRv2 (section 2, "we incorporate the memory mechanism from MoCo") contrasts each image with
embeddings of earlier batches too. They come from a momentum encoder, a network whose weights are
the exponential moving average of the trained ones, so that old and new embeddings stay comparable.

Order within a step, as in MoCo (He et al. 2020, algorithm 1): the loss contrasts the batch with the
queue of earlier batches; the weights are updated; the momentum encoder embeds the second view of
each image, and these embeddings replace the oldest ones in the queue; then the average is updated.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tf2 import variables


@dataclasses.dataclass
class Memory:
    """A momentum encoder and its queue; their variables are in the checkpoint.

    Attributes:
        encoder: a `model.SimCLR` without supervised head, in its pretraining form. Its batch norm
            keeps moving statistics of its own.
        decay: of the moving average.
        queue: (size, d) float32, embeddings as the loss compares them.
        written: int64 scalar, embeddings enqueued so far; the next one goes to slot
            `written % size`.
        averages: (average, trained weight) of every trained weight.
    """

    encoder: Any
    decay: float
    queue: tf.Variable
    written: tf.Variable
    averages: list[tuple[tf.Variable, tf.Variable]]

    def embed(self, images: tf.Tensor, hidden_norm: bool = True) -> tf.Tensor:
        """Maps images (n, h, w, c) to embeddings (n, d), with batch statistics in batch norm.

        No gradient flows through them.
        """
        hidden = tf.cast(self.encoder(images, training=True)["proj_head_output"], tf.float32)
        return tf.stop_gradient(tf.math.l2_normalize(hidden, -1) if hidden_norm else hidden)

    def filled(self) -> tf.Tensor:
        """Returns the number of queue slots that hold an embedding, an int64 scalar."""
        return tf.minimum(tf.convert_to_tensor(self.written), self.queue.shape[0])

    def enqueue(self, embeddings: tf.Tensor) -> None:
        """Overwrites the oldest slots with embeddings (m, d); if m > size, with the last `size`."""
        size, number = self.queue.shape[0], tf.shape(embeddings)[0]
        if not size:
            return
        first = tf.convert_to_tensor(self.written) + tf.cast(tf.maximum(number - size, 0), tf.int64)
        last = embeddings[-size:]
        slots = (first + tf.range(tf.shape(last)[0], dtype=tf.int64)) % size
        self.queue.assign(tf.tensor_scatter_nd_update(self.queue, slots[:, tf.newaxis], last))
        self.written.assign_add(tf.cast(number, tf.int64))

    def update_ema(self) -> None:
        """Updates the average to decay * average + (1 - decay) * trained weight."""

        def update(strategy: tf.distribute.Strategy) -> None:
            for average, weight in self.averages:
                strategy.extended.update(average, self._mix, args=(weight,), group=False)

        tf.distribute.get_replica_context().merge_call(update)

    def _mix(self, average: tf.Variable, weight: tf.Variable) -> None:
        weight = tf.convert_to_tensor(weight)
        average.assign(self.decay * average + (1.0 - self.decay) * weight)

    def checkpoint_variables(self) -> dict[str, dict[str, tf.Variable]]:
        """Returns the sections of a checkpoint that hold the memory."""
        return {
            "ema": variables.named_variables(self.encoder),
            "memory": {"queue": self.queue, "written": self.written},
        }


def make_memory(model: Any, *, size: int, decay: float) -> Memory:
    """Builds the memory of a network; call it in the strategy's scope.

    Args:
        model: a `model.SimCLR` in its pretraining form; the average starts at its weights.
        size: slots in the queue; may be 0. Each replica holds the whole queue, which takes
            4 * size * d bytes (32 MiB for 65,536 slots of width 128).
        decay: of the moving average, in [0, 1].
    """
    hyperparameters = {**model.hyperparameters, "num_classes": 0}
    encoder = type(model)(**hyperparameters, dtype=model.dtype_policy)
    trained = variables.named_variables(model)
    head = encoder.projection_head
    width = head[-1].dense.units if head else encoder.backbone.feature_dim
    memory = Memory(
        encoder=encoder,
        decay=decay,
        queue=_replicated(tf.zeros([size, width]), "queue"),
        written=_replicated(tf.zeros([], tf.int64), "written"),
        averages=[
            (average, trained[name])
            for name, average in variables.named_variables(encoder).items()
            if variables.is_trainable(name)
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
