"""Losses: contrastive (NT-Xent and others), supervised, distillation; always in float32.

`--contrastive_loss` chooses from `CONTRASTIVE_LOSSES`: a new loss is a function here and an entry
there.

Shapes: n images per replica, r replicas, d width of the projection, c classes, m slots of the
memory's queue.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from tf2 import errors

# As in the reference: subtracted from a logit to exclude an image's similarity to itself.
# float32 holds it; logits are never computed in a narrower type.
LARGE_NUM = 1e9


def add_supervised_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the mean cross entropy of labels and logits.

    Args:
        labels: (n, c), one-hot or soft. A row of zeros, an unlabeled image, counts among the n and
            adds nothing.
        logits: (n, c).

    Returns:
        The mean over the n images.
    """
    logits = tf.cast(logits, tf.float32)
    labels = tf.cast(labels, tf.float32)
    losses = tf.nn.softmax_cross_entropy_with_logits(labels, logits)  # (n,)
    # For a row of zeros TensorFlow's loss is 0, but its gradient, softmax - labels, is not.
    losses = tf.where(tf.reduce_any(labels > 0, axis=-1), losses, 0.0)
    return tf.reduce_mean(losses)


def add_distillation_loss(
    teacher_probabilities: tf.Tensor, logits: tf.Tensor, temperature: float = 1.0
) -> tf.Tensor:
    """Cross entropy of the student's softened predictions and the teacher's (SimCLRv2, equation 2).

    Args:
        teacher_probabilities: (n, c), the teacher's softmax at the same temperature.
        logits: (n, c), the student's, not yet divided by the temperature.
        temperature: above 0.

    Returns:
        The mean over the n images.

    Raises:
        errors.UserError: the temperature is not above 0.
    """
    _check_temperature("distill_temperature", temperature)
    return add_supervised_loss(teacher_probabilities, tf.cast(logits, tf.float32) / temperature)


def add_contrastive_loss(
    hidden: tf.Tensor,
    hidden_norm: bool = True,
    temperature: float = 1.0,
    strategy: tf.distribute.Strategy | None = None,
    *,
    labels: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """NT-Xent, the normalized temperature-scaled cross entropy (SimCLR, equation 1).

    As in the reference: the loss is the mean over n of the sum of both directions, i.e. twice
    equation 1's mean over all 2n anchors.

    Args:
        hidden: projections (2n, d); row i and row n + i are two views of one image.
        hidden_norm: whether rows are scaled to length 1, so that logits are cosines.
        temperature: divides the similarities; above 0.
        strategy: a `tf.distribute.Strategy`; inside its `run`, the negatives are those of all
            replicas. None uses this replica's own.
        labels: (n, c), one-hot, a row of zeros for an unlabeled image; None without labels. Not
            used by NT-Xent.

    Returns:
        The loss; the logits (n, r * n) of the first views against all second views; the one-hot
        positions (n, 2 * r * n) of each anchor's other view.

    Raises:
        errors.UserError: the temperature is not above 0.
    """
    del labels
    pairs = _compare_views(hidden, hidden_norm, temperature, strategy)
    loss = _cross_entropy(pairs.other_view, [pairs.ab, pairs.aa], [pairs.ba, pairs.bb])
    return loss, pairs.ab, pairs.other_view


def add_supervised_contrastive_loss(
    hidden: tf.Tensor,
    hidden_norm: bool = True,
    temperature: float = 1.0,
    strategy: tf.distribute.Strategy | None = None,
    *,
    labels: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Supervised contrastive loss, L_out of Khosla et al. 2020, equation 2.

    The positives of an anchor are its other view and both views of every image of its class in the
    batch of all replicas. An unlabeled image has its other view as its only positive, and is a
    negative for all other images, whatever its class.

    Equation 2 is a sum over the 2n anchors; this is twice their mean, as for NT-Xent, which is what
    it becomes for a batch without labels.

    Args:
        hidden, hidden_norm, temperature, strategy, labels: as in `add_contrastive_loss`.

    Returns:
        As `add_contrastive_loss`: the third element is the anchor's other view, not its class.

    Raises:
        errors.UserError: there are no labels, or the temperature is not above 0.
    """
    check_inputs("supcon", has_labels=labels is not None)
    pairs = _compare_views(hidden, hidden_norm, temperature, strategy)
    labels = tf.cast(labels, tf.float32)
    all_labels = labels if _replicas(strategy) == 1 else gather(labels)  # (r * n, c)
    same_class = tf.matmul(labels, all_labels, transpose_b=True)  # (n, r * n), 0 or 1
    other_view, _ = tf.split(pairs.other_view, 2, axis=1)
    # An anchor's other view is a positive with or without a label, the anchor itself is none.
    positives = tf.concat([tf.maximum(same_class, other_view), same_class * (1 - other_view)], 1)
    targets = positives / tf.reduce_sum(positives, axis=1, keepdims=True)  # (n, 2 * r * n)
    loss = _cross_entropy(targets, [pairs.ab, pairs.aa], [pairs.ba, pairs.bb])
    return loss, pairs.ab, pairs.other_view


@dataclasses.dataclass(frozen=True)
class ContrastiveLoss:
    """An entry of `CONTRASTIVE_LOSSES`.

    Attributes:
        function: with the arguments and results of `add_contrastive_loss`.
        needs_labels: whether it raises without labels.
    """

    function: Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
    needs_labels: bool = False


CONTRASTIVE_LOSSES = {
    "ntxent": ContrastiveLoss(add_contrastive_loss),
    "supcon": ContrastiveLoss(add_supervised_contrastive_loss, needs_labels=True),
}


def find_contrastive_loss(name: str) -> ContrastiveLoss:
    """Returns a loss by its name in `CONTRASTIVE_LOSSES`.

    Raises:
        errors.UserError: the name is unknown.
    """
    return errors.choose("contrastive_loss", name, CONTRASTIVE_LOSSES)


def check_inputs(name: str, *, has_labels: bool) -> None:
    """Checks that a loss can be computed from what there is.

    Raises:
        errors.UserError: the loss is unknown, or lacks labels.
    """
    loss = find_contrastive_loss(name)
    if loss.needs_labels and not has_labels:
        raise errors.UserError(
            f"This contrastive loss needs labels, and the data has none. Received: "
            f"contrastive_loss={name}. Use --contrastive_loss=ntxent, or images with labels."
        )


@dataclasses.dataclass(frozen=True)
class Keys:
    """What a memory contrasts a batch with: embeddings by its average, which have no gradient.

    Attributes:
        batch: (r * n, 2, d), both views of the images of all replicas, as the loss compares them.
        queue: (m, d), of earlier batches.
        excluded: (n, m), 1 where an image is not contrasted with a slot, otherwise 0.
    """

    batch: tf.Tensor
    queue: tf.Tensor
    excluded: tf.Tensor


def add_hybrid_loss(
    hidden: tf.Tensor,
    hidden_norm: bool = True,
    temperature: float = 1.0,
    strategy: tf.distribute.Strategy | None = None,
    *,
    keys: Keys,
    weight: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """NT-Xent, and a second cross entropy of each embedding with the queue.

    Its positive is the key of the other view: all that it compares is by the average, so that the
    network gains nothing by moving away from it.

    Args:
        hidden, hidden_norm, temperature, strategy: as in `add_contrastive_loss`.
        keys: what the memory holds.
        weight: of the second cross entropy.

    Returns:
        As `add_contrastive_loss`.

    Raises:
        errors.UserError: the temperature is not above 0.
    """
    pairs = _compare_views(hidden, hidden_norm, temperature, strategy)
    loss = _cross_entropy(pairs.other_view, [pairs.ab, pairs.aa], [pairs.ba, pairs.bb])
    key_a, key_b = tf.unstack(tf.gather(keys.batch, pairs.position), axis=1)  # each (n, d)
    positive_a = tf.reduce_sum(pairs.view_a * key_b, 1, keepdims=True) / temperature  # (n, 1)
    positive_b = tf.reduce_sum(pairs.view_b * key_a, 1, keepdims=True) / temperature
    queue_a, queue_b = _compare_queue(pairs, keys, temperature)
    targets = tf.pad(tf.ones_like(positive_a), [[0, 0], [0, tf.shape(queue_a)[1]]])  # (n, 1 + m)
    with_queue = _cross_entropy(targets, [positive_a, queue_a], [positive_b, queue_b])
    return loss + weight * with_queue, pairs.ab, pairs.other_view


def add_momentum_loss(
    hidden: tf.Tensor,
    hidden_norm: bool = True,
    temperature: float = 1.0,
    strategy: tf.distribute.Strategy | None = None,
    *,
    keys: Keys,
    weight: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """NT-Xent with keys in place of all embeddings but the anchor's own, and with the queue.

    Args:
        hidden, hidden_norm, temperature, strategy: as in `add_contrastive_loss`.
        keys: what the memory holds.
        weight: not used.

    Returns:
        As `add_contrastive_loss`; the logits are those of the first views and the keys of all
        second views.

    Raises:
        errors.UserError: the temperature is not above 0.
    """
    del weight
    pairs = _compare_views(hidden, hidden_norm, temperature, strategy, keys.batch)
    queue_a, queue_b = _compare_queue(pairs, keys, temperature)
    targets = tf.pad(pairs.other_view, [[0, 0], [0, tf.shape(queue_a)[1]]])  # (n, 2 * r * n + m)
    loss = _cross_entropy(targets, [pairs.ab, pairs.aa, queue_a], [pairs.ba, pairs.bb, queue_b])
    return loss, pairs.ab, pairs.other_view


# The values of --memory_loss.
MEMORY_LOSSES = {"hybrid": add_hybrid_loss, "momentum": add_momentum_loss}


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """Two views of n images, and their similarities to all r * n images.

    Attributes:
        view_a, view_b: (n, d), this replica's.
        position: (n,), where its images are among the r * n.
        aa, ab, ba, bb: logits (n, r * n), rows of the first letter's view against all of the
            second letter's; in aa and bb the diagonal is excluded.
        other_view: (n, 2 * r * n), one-hot; where an anchor's other view is in [ab, aa] or
            [ba, bb].
    """

    view_a: tf.Tensor
    view_b: tf.Tensor
    position: tf.Tensor
    aa: tf.Tensor
    ab: tf.Tensor
    ba: tf.Tensor
    bb: tf.Tensor
    other_view: tf.Tensor


def _compare_views(
    hidden: tf.Tensor,
    hidden_norm: bool,
    temperature: float,
    strategy: tf.distribute.Strategy | None,
    keys: tf.Tensor | None = None,
) -> _Pairs:
    """Compares each view of each image with both views of all images of all replicas.

    With keys (r * n, 2, d), the views of all images are these.
    """
    _check_temperature("temperature", temperature)
    hidden = tf.cast(hidden, tf.float32)
    if hidden_norm:
        hidden = tf.math.l2_normalize(hidden, -1)
    view_a, view_b = tf.split(hidden, 2, axis=0)  # each (n, d)
    n = tf.shape(view_a)[0]
    several = _replicas(strategy) > 1
    if keys is None and several:
        keys = gather(tf.stack([view_a, view_b], axis=1))  # (r * n, 2, d)
    all_a, all_b = (view_a, view_b) if keys is None else tf.unstack(keys, axis=1)
    position = tf.range(n) + (replica_id() * n if several else 0)
    itself = tf.one_hot(position, tf.shape(all_a)[0]) * LARGE_NUM  # (n, r * n)
    return _Pairs(
        view_a=view_a,
        view_b=view_b,
        position=position,
        aa=_similarity(view_a, all_a, temperature) - itself,
        ab=_similarity(view_a, all_b, temperature),
        ba=_similarity(view_b, all_a, temperature),
        bb=_similarity(view_b, all_b, temperature) - itself,
        other_view=tf.one_hot(position, tf.shape(all_a)[0] * 2),
    )


def _compare_queue(pairs: _Pairs, keys: Keys, temperature: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns logits (n, m) of the first and of the second views against the queue."""
    excluded = keys.excluded * LARGE_NUM
    return (
        _similarity(pairs.view_a, keys.queue, temperature) - excluded,
        _similarity(pairs.view_b, keys.queue, temperature) - excluded,
    )


def _cross_entropy(
    targets: tf.Tensor, logits_a: Sequence[tf.Tensor], logits_b: Sequence[tf.Tensor]
) -> tf.Tensor:
    """Returns the mean over n of both directions' cross entropies, summed."""
    loss_a = tf.nn.softmax_cross_entropy_with_logits(targets, tf.concat(logits_a, 1))
    loss_b = tf.nn.softmax_cross_entropy_with_logits(targets, tf.concat(logits_b, 1))
    return tf.reduce_mean(loss_a + loss_b)


def _similarity(anchors: tf.Tensor, others: tf.Tensor, temperature: float) -> tf.Tensor:
    return tf.matmul(anchors, others, transpose_b=True) / temperature


def _check_temperature(name: str, temperature: float) -> None:
    if temperature <= 0:
        raise errors.UserError(
            f"The temperature must be above 0. Received: {name}={temperature}. Use a positive "
            "number."
        )


def _replicas(strategy: tf.distribute.Strategy | None) -> int:
    return strategy.num_replicas_in_sync if strategy is not None else 1


def replica_id() -> tf.Tensor:
    """Returns the index of the replica that runs this, an int32 scalar."""
    context = tf.distribute.get_replica_context()
    return tf.cast(tf.convert_to_tensor(context.replica_id_in_sync_group), tf.int32)


@tf.custom_gradient
def gather(tensor: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Concatenates a tensor (n, ...) of every replica to (r * n, ...), in order of replicas.

    Unlike the reference: an all-gather, where a padded sum would move r times the bytes. Its
    gradient sums the gradients of all replicas' losses for this replica's rows.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync

    def grad(upstream: tf.Tensor) -> tf.Tensor:  # (r * n, ...)
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, upstream)
        parts = tf.reshape(total, tf.concat([[replicas, -1], tf.shape(total)[1:]], 0))
        return tf.gather(parts, replica_id())

    rows = None if tensor.shape[0] is None else replicas * tensor.shape[0]
    # Between workers, what is gathered needs a device, which an input of the step lacks; and the
    # graph knows neither the gathered shape nor the size of a batch.
    gathered = context.all_gather(tf.identity(tensor), axis=0)
    gathered = tf.ensure_shape(gathered, [rows, *tensor.shape[1:]])
    return gathered, grad
