"""Losses: contrastive (NT-Xent), supervised, distillation; in float32 whatever the model's type.

Shapes: n images per replica, r replicas, d width of the projection, c classes, m places of a
memory of negatives.
"""

from __future__ import annotations

import tensorflow as tf

from tf2 import errors

# As in the reference: what is taken off a logit to leave an image's similarity to itself out.
# float32 holds it; logits are never computed in a narrower type.
LARGE_NUM = 1e9


def add_supervised_loss(labels, logits):
    """Returns the mean cross entropy of labels (n, c), one-hot or soft, and logits (n, c).

    An image without label, a row of zeros, counts among the n and adds nothing.
    """
    logits = tf.cast(logits, tf.float32)
    labels = tf.cast(labels, tf.float32)
    losses = tf.nn.softmax_cross_entropy_with_logits(labels, logits)  # (n,)
    # Of a row of zeros TensorFlow's loss is 0, but its gradient, softmax - labels, isn't.
    losses = tf.where(tf.reduce_any(labels > 0, axis=-1), losses, 0.0)
    return tf.reduce_mean(losses)


def add_distillation_loss(teacher_probabilities, logits, temperature=1.0):
    """Cross entropy of the student's softened answers against the teacher's (SimCLRv2, equation 2).

    Args:
        teacher_probabilities: (n, c), the teacher's softmax at the same temperature.
        logits: (n, c), the student's, not yet divided by the temperature.
        temperature: above 0.

    Returns:
        The mean over the n images.

    Raises:
        errors.UserError: the temperature isn't above 0.
    """
    if temperature <= 0:
        raise errors.UserError(
            f"The temperature must be above 0. Received: distill_temperature={temperature}."
        )
    return add_supervised_loss(teacher_probabilities, tf.cast(logits, tf.float32) / temperature)


def add_contrastive_loss(
    hidden, hidden_norm=True, temperature=1.0, strategy=None, memory=None, memory_filled=None
):
    """NT-Xent, the normalized temperature-scaled cross entropy (SimCLR, equation 1).

    As in the reference: the loss is the mean over n of the sum of both directions, i.e. twice
    equation 1's mean over all 2n anchors.

    Args:
        hidden: projections (2n, d); row i and row n + i are two views of one image.
        hidden_norm: whether rows are scaled to length 1, so that logits are cosines.
        temperature: divides the similarities; above 0.
        strategy: a `tf.distribute.Strategy`; inside its `run`, the negatives are those of all
            replicas. None uses this replica's own.
        memory: (m, d), more negatives of every anchor, compared as they are (of length 1 where
            `hidden_norm`); None is none.
        memory_filled: how many of its first rows count; None is all.

    Returns:
        The loss; the logits (n, r * n) of the first views against all second views; the one-hot
        labels (n, 2 * r * n) of each anchor's positive.

    Raises:
        errors.UserError: the temperature isn't above 0.
    """
    if temperature <= 0:
        raise errors.UserError(
            f"The temperature must be above 0. Received: temperature={temperature}."
        )
    hidden = tf.cast(hidden, tf.float32)
    if hidden_norm:
        hidden = tf.math.l2_normalize(hidden, -1)
    view_a, view_b = tf.split(hidden, 2, axis=0)  # each (n, d)
    n = tf.shape(view_a)[0]
    replicas = strategy.num_replicas_in_sync if strategy is not None else 1
    if replicas > 1:
        gathered = gather(tf.stack([view_a, view_b], axis=1))  # (r * n, 2, d)
        all_a, all_b = tf.unstack(gathered, axis=1)
        offset = replica_id() * n
    else:
        all_a, all_b, offset = view_a, view_b, 0
    positive = tf.range(n) + offset
    labels = tf.one_hot(positive, tf.shape(all_a)[0] * 2)  # (n, 2 * r * n)
    itself = tf.one_hot(positive, tf.shape(all_a)[0]) * LARGE_NUM  # (n, r * n)

    def similarity(anchors, others):
        return tf.matmul(anchors, others, transpose_b=True) / temperature  # (n, r * n)

    logits_aa = similarity(view_a, all_a) - itself
    logits_bb = similarity(view_b, all_b) - itself
    logits_ab = similarity(view_a, all_b)
    logits_ba = similarity(view_b, all_a)
    of_a, of_b, targets = [logits_ab, logits_aa], [logits_ba, logits_bb], labels
    if memory is not None:
        filled = tf.shape(memory)[0] if memory_filled is None else memory_filled
        empty = tf.range(tf.shape(memory)[0]) >= tf.cast(filled, tf.int32)
        left_out = tf.cast(empty, tf.float32) * LARGE_NUM  # (m,)
        of_a.append(similarity(view_a, memory) - left_out)
        of_b.append(similarity(view_b, memory) - left_out)
        targets = tf.pad(labels, [[0, 0], [0, tf.shape(memory)[0]]])
    loss_a = tf.nn.softmax_cross_entropy_with_logits(targets, tf.concat(of_a, 1))
    loss_b = tf.nn.softmax_cross_entropy_with_logits(targets, tf.concat(of_b, 1))
    return tf.reduce_mean(loss_a + loss_b), logits_ab, labels


def replica_id():
    """Returns the place of the replica that runs this, among all replicas, an int32 scalar."""
    context = tf.distribute.get_replica_context()
    return tf.cast(tf.convert_to_tensor(context.replica_id_in_sync_group), tf.int32)


@tf.custom_gradient
def gather(tensor):
    """Concatenates a tensor (n, ...) of every replica to (r * n, ...), in order of replicas.

    Unlike the reference: an all-gather, where a padded sum would move r times the bytes. Its
    gradient adds what all replicas' losses say of this replica's rows.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync

    def grad(upstream):  # (r * n, ...)
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, upstream)
        parts = tf.reshape(total, tf.concat([[replicas, -1], tf.shape(total)[1:]], 0))
        return tf.gather(parts, replica_id())

    rows = None if tensor.shape[0] is None else replicas * tensor.shape[0]
    # Between workers neither the gathered shape nor the size of a batch is known to the graph.
    gathered = tf.ensure_shape(context.all_gather(tensor, axis=0), [rows, *tensor.shape[1:]])
    return gathered, grad
