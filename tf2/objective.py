"""Losses: contrastive (NT-Xent and others), supervised, distillation; always in float32.

`--contrastive_loss` chooses from `CONTRASTIVE_LOSSES`: a new loss is a function here and an entry
there.

Shapes: n images per replica, r replicas, d width of the projection, c classes, m slots of a memory
of negatives.
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
    memory: tf.Tensor | None = None,
    memory_filled: tf.Tensor | int | None = None,
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
        memory: (m, d), more negatives for every anchor, compared as they are (of length 1 with
            `hidden_norm`); None for none.
        memory_filled: how many of its first rows count; None for all.

    Returns:
        The loss; the logits (n, r * n) of the first views against all second views; the one-hot
        positions (n, 2 * r * n) of each anchor's other view.

    Raises:
        errors.UserError: the temperature is not above 0.
    """
    del labels
    pairs = _compare_views(hidden, hidden_norm, temperature, strategy)
    logits_a, logits_b = [pairs.ab, pairs.aa], [pairs.ba, pairs.bb]
    targets = pairs.other_view
    if memory is not None:
        filled = tf.shape(memory)[0] if memory_filled is None else memory_filled
        empty = tf.range(tf.shape(memory)[0]) >= tf.cast(filled, tf.int32)
        excluded = tf.cast(empty, tf.float32) * LARGE_NUM  # (m,)
        logits_a.append(_similarity(pairs.view_a, memory, temperature) - excluded)
        logits_b.append(_similarity(pairs.view_b, memory, temperature) - excluded)
        targets = tf.pad(targets, [[0, 0], [0, tf.shape(memory)[0]]])
    return _cross_entropy(targets, logits_a, logits_b), pairs.ab, pairs.other_view


def add_supervised_contrastive_loss(
    hidden: tf.Tensor,
    hidden_norm: bool = True,
    temperature: float = 1.0,
    strategy: tf.distribute.Strategy | None = None,
    *,
    labels: tf.Tensor | None = None,
    memory: tf.Tensor | None = None,
    memory_filled: tf.Tensor | int | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Supervised contrastive loss, L_out of Khosla et al. 2020, equation 2.

    The positives of an anchor are its other view and both views of every image of its class in the
    batch of all replicas. An unlabeled image has its other view as its only positive, and is a
    negative for all other images, whatever its class.

    Equation 2 is a sum over the 2n anchors; this is twice their mean, as for NT-Xent, which is what
    it becomes for a batch without labels.

    Args:
        hidden, hidden_norm, temperature, strategy, labels: as in `add_contrastive_loss`.
        memory, memory_filled: None; a memory holds no labels.

    Returns:
        As `add_contrastive_loss`: the third element is the anchor's other view, not its class.

    Raises:
        errors.UserError: there are no labels, there is a memory, or the temperature is not above 0.
    """
    check_inputs("supcon", has_labels=labels is not None, has_memory=memory is not None)
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
        takes_memory: whether it can contrast with a memory (--use_memory).
    """

    function: Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
    needs_labels: bool = False
    takes_memory: bool = False


CONTRASTIVE_LOSSES = {
    "ntxent": ContrastiveLoss(add_contrastive_loss, takes_memory=True),
    "supcon": ContrastiveLoss(add_supervised_contrastive_loss, needs_labels=True),
}


def find_contrastive_loss(name: str) -> ContrastiveLoss:
    """Returns a loss by its name in `CONTRASTIVE_LOSSES`.

    Raises:
        errors.UserError: the name is unknown.
    """
    return errors.choose("contrastive_loss", name, CONTRASTIVE_LOSSES)


def check_inputs(name: str, *, has_labels: bool, has_memory: bool) -> None:
    """Checks that a loss can be computed from what there is.

    Raises:
        errors.UserError: the loss is unknown, lacks labels, or takes no memory.
    """
    loss = find_contrastive_loss(name)
    if loss.needs_labels and not has_labels:
        raise errors.UserError(
            f"This contrastive loss needs labels, and the data has none. Received: "
            f"contrastive_loss={name}. Use --contrastive_loss=ntxent, or images with labels."
        )
    if has_memory and not loss.takes_memory:
        raise errors.UserError(
            "This contrastive loss cannot use a memory of negatives. Received: "
            f"contrastive_loss={name}, use_memory=True. Use --contrastive_loss=ntxent, or leave "
            "--use_memory out."
        )


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """Two views of n images, and their similarities to all r * n images.

    Attributes:
        view_a, view_b: (n, d), this replica's.
        aa, ab, ba, bb: logits (n, r * n), rows of the first letter's view against all of the
            second letter's; in aa and bb the diagonal is excluded.
        other_view: (n, 2 * r * n), one-hot; where an anchor's other view is in [ab, aa] or
            [ba, bb].
    """

    view_a: tf.Tensor
    view_b: tf.Tensor
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
) -> _Pairs:
    """Compares each view of each image with both views of all images of all replicas."""
    _check_temperature("temperature", temperature)
    hidden = tf.cast(hidden, tf.float32)
    if hidden_norm:
        hidden = tf.math.l2_normalize(hidden, -1)
    view_a, view_b = tf.split(hidden, 2, axis=0)  # each (n, d)
    n = tf.shape(view_a)[0]
    if _replicas(strategy) > 1:
        gathered = gather(tf.stack([view_a, view_b], axis=1))  # (r * n, 2, d)
        all_a, all_b = tf.unstack(gathered, axis=1)
        offset = replica_id() * n
    else:
        all_a, all_b, offset = view_a, view_b, 0
    position = tf.range(n) + offset
    itself = tf.one_hot(position, tf.shape(all_a)[0]) * LARGE_NUM  # (n, r * n)
    return _Pairs(
        view_a=view_a,
        view_b=view_b,
        aa=_similarity(view_a, all_a, temperature) - itself,
        ab=_similarity(view_a, all_b, temperature),
        ba=_similarity(view_b, all_a, temperature),
        bb=_similarity(view_b, all_b, temperature) - itself,
        other_view=tf.one_hot(position, tf.shape(all_a)[0] * 2),
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
    # Between workers the graph knows neither the gathered shape nor the size of a batch.
    gathered = tf.ensure_shape(context.all_gather(tensor, axis=0), [rows, *tensor.shape[1:]])
    return gathered, grad
