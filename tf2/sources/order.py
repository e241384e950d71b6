"""The order in which examples are read: endless shuffled epochs, shared by input pipelines.

In training, examples are numbered without end: example number g is image g % n of epoch g // n,
and each epoch has its own order, a function of the seed and the epoch alone. A resumed run
continues at the number that its step implies, without decoding what came before.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

ENDLESS = 2**62
# Separates the order from other uses of the same seed.
SALT = 1717


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of every global batch that one input pipeline reads.

    Attributes:
        period: examples in a global batch.
        first: index in it where this pipeline's part begins.
        size: examples in this pipeline's part.
    """

    period: int
    first: int
    size: int

    def contains(self, number: tf.Tensor) -> tf.Tensor:
        """Returns whether the example of a number (int64 tensor) is in this part."""
        index = number % self.period
        return (index >= self.first) & (index < self.first + self.size)

    def number(self, index: tf.Tensor) -> tf.Tensor:
        """Returns the number of this pipeline's example `index`, an int64 tensor."""
        return index // self.size * self.period + self.first + index % self.size

    def count_below(self, end: int) -> int:
        """Returns how many of this pipeline's examples have numbers below `end`."""
        whole, rest = divmod(end, self.period)
        return whole * self.size + min(max(rest - self.first, 0), self.size)


def shuffled_index(number: tf.Tensor, size: int, seed: int) -> tf.Tensor:
    """Returns which image is example `number` of endless shuffled epochs.

    Args:
        number: int64 tensor.
        size: images in an epoch.
        seed: integer.

    Returns:
        int64 tensor below `size`; each image comes once in every `size` numbers.
    """
    number = tf.cast(number, tf.int64)
    size = tf.constant(size, tf.int64)
    key = tf.stack([tf.constant(seed + SALT, tf.int64), number // size])
    return tf.random.experimental.index_shuffle(number % size, key, size - 1)


def shuffle_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns the seed, an int64 scalar, of the shuffle buffer of an epoch."""
    return tf.random.stateless_uniform([], [seed + SALT, epoch], 0, 2**62, dtype=tf.int64)
