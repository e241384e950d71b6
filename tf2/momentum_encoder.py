"""The memory of SimCLRv2: a moving average of the network, and the queue of what it saw.

SimCLRv2 (section 2, "we incorporate the memory mechanism from MoCo") contrasts each image with
embeddings of earlier batches too. They come from a momentum encoder, a network whose weights are
the exponential moving average of the trained ones, so that old and new embeddings stay comparable.

Order within a step, as in MoCo (He et al. 2020, algorithm 1): the batch is contrasted with the
queue of the earlier batches; the momentum encoder's embeddings of this batch, one per image, of
its second view, take the places of the oldest ones; the weights are updated, then their average.
"""

from __future__ import annotations

import dataclasses

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
        written: int64 scalar, embeddings written so far; the next one goes to place
            `written % size`.
        averages: (average, trained weight) of every trained weight.
    """

    encoder: object
    decay: float
    queue: tf.Variable
    written: tf.Variable
    averages: list[tuple[tf.Variable, tf.Variable]]

    def embed(self, images, hidden_norm: bool = True):
        """Maps images (n, h, w, c) to embeddings (n, d), by the batch's own statistics.

        No gradient flows through them.
        """
        hidden = tf.cast(self.encoder(images, training=True)["proj_head_output"], tf.float32)
        return tf.stop_gradient(tf.math.l2_normalize(hidden, -1) if hidden_norm else hidden)

    def filled(self):
        """Returns how many places of the queue hold an embedding, an int64 scalar."""
        return tf.minimum(tf.convert_to_tensor(self.written), self.queue.shape[0])

    def push(self, embeddings) -> None:
        """Writes embeddings (m, d) over the oldest ones; of more than the queue holds, the last."""
        size, number = self.queue.shape[0], tf.shape(embeddings)[0]
        if not size:
            return
        first = tf.convert_to_tensor(self.written) + tf.cast(tf.maximum(number - size, 0), tf.int64)
        kept = embeddings[-size:]
        places = (first + tf.range(tf.shape(kept)[0], dtype=tf.int64)) % size
        self.queue.assign(tf.tensor_scatter_nd_update(self.queue, places[:, tf.newaxis], kept))
        self.written.assign_add(tf.cast(number, tf.int64))

    def follow(self) -> None:
        """Moves the average: decay * average + (1 - decay) * trained weight."""

        def update(strategy):
            for average, weight in self.averages:
                strategy.extended.update(average, self._mix, args=(weight,), group=False)

        tf.distribute.get_replica_context().merge_call(update)

    def _mix(self, average, weight):
        weight = tf.convert_to_tensor(weight)
        average.assign(self.decay * average + (1.0 - self.decay) * weight)

    def checkpoint_variables(self) -> dict:
        """Returns the sections of a checkpoint that hold the memory."""
        return {
            "ema": variables.named_variables(self.encoder),
            "memory": {"queue": self.queue, "written": self.written},
        }


def make_memory(model, *, size: int, decay: float) -> Memory:
    """Builds the memory of a network; call it in the strategy's scope.

    Args:
        model: a `model.SimCLR` in its pretraining form; the average begins at its weights.
        size: places in the queue; any number, 0 for none. Every replica holds all of it, which
            takes 4 * size * d bytes (32 MiB for 65,536 of 128).
        decay: of the moving average, in [0, 1].
    """
    described = {**model.hyperparameters, "num_classes": 0}
    encoder = type(model)(**described, dtype=model.dtype_policy)
    trained = variables.named_variables(model)
    own = variables.named_variables(encoder)
    head = encoder.projection_head
    width = head[-1].dense.units if head else encoder.backbone.feature_dim
    memory = Memory(
        encoder=encoder,
        decay=decay,
        queue=_replicated(tf.zeros([size, width]), "queue"),
        written=_replicated(tf.zeros([], tf.int64), "written"),
        averages=[
            (average, trained[name])
            for name, average in own.items()
            if variables.is_trainable(name)
        ],
    )
    begin(memory, model)
    return memory


def _replicated(value, name: str) -> tf.Variable:
    """Makes a variable that each replica writes by itself, all of them the same."""
    return tf.Variable(
        value,
        trainable=False,
        name=name,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def begin(memory: Memory, model) -> None:
    """Makes the average equal to the network's weights, batch norm's statistics included."""
    trained = variables.named_variables(model)
    for name, average in variables.named_variables(memory.encoder).items():
        average.assign(trained[name])
