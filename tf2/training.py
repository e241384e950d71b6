"""One training step of each kind, and the loop that runs many of them.

A step is a pure function of (model, optimizer, batch) that returns a dict of scalars: the values
of this replica, taken before the update. It runs inside or outside of `strategy.run`.

Shapes: n images per replica, c channels, k classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf2 import compat, data_util, metrics, objective, optimization


def pretrain_step(
    model,
    optimizer,
    batch,
    *,
    trained: Sequence[tf.Variable],
    l2_variables: Sequence[tf.Variable] = (),
    weight_decay: float = 0.0,
    temperature: float = 0.1,
    hidden_norm: bool = True,
    use_blur: bool = False,
    seed: int = 0,
):
    """Contrastive pretraining on two views of each image (SimCLRv2, section 2, equation 1).

    Args:
        model: a `model.SimCLR` in its pretraining form.
        optimizer: built for `trained`.
        batch: image (n, h, w, 2c), the two views on channels, float32 in [0, 1]; label (n, k),
            needed where the model has a supervised head.
        trained: the variables to update.
        l2_variables: those in the loss's L2 term.
        weight_decay: its coefficient.
        temperature, hidden_norm: see `objective.add_contrastive_loss`.
        use_blur: whether half of the images are blurred here, on the device.
        seed: of the blur; with the optimizer's step count it fixes the draw.

    Returns:
        contrast_loss, contrast_acc, contrast_entropy and further measures of the embedding;
        supervised_loss and supervised_acc with a supervised head; weight_decay; total_loss.
    """
    views = tf.split(batch["image"], 2, axis=-1)  # each (n, h, w, c)
    if use_blur:
        context = tf.distribute.get_replica_context()
        views = data_util.batch_random_blur(
            views,
            tf.stack([tf.cast(seed, tf.int64), compat.step_count(optimizer)]),
            num_replicas=context.num_replicas_in_sync,
            replica_id=objective.replica_id(),
        )
    images = tf.concat(views, axis=0)  # (2n, h, w, c)
    with tf.GradientTape() as tape:
        endpoints = model(images, training=True)
        hidden = endpoints["proj_head_output"]
        contrast_loss, logits, labels = objective.add_contrastive_loss(
            hidden, hidden_norm, temperature, strategy=tf.distribute.get_strategy()
        )
        scalars = {
            "contrast_loss": contrast_loss,
            "contrast_acc": metrics.contrast_accuracy(logits, labels),
            "contrast_entropy": metrics.contrast_entropy(logits),
            **metrics.embedding_scalars(hidden),
        }
        loss = contrast_loss
        if "logits_sup" in endpoints:
            both = tf.tile(batch["label"], [2, 1])  # (2n, k)
            supervised = _supervised_scalars(both, endpoints["logits_sup"])
            scalars.update(supervised)
            loss += supervised["supervised_loss"]
        scalars["weight_decay"] = optimization.add_weight_decay(l2_variables, weight_decay)
        scalars["total_loss"] = loss + scalars["weight_decay"]
    apply_gradients(tape, optimizer, scalars["total_loss"], trained)
    return scalars


def finetune_step(
    model,
    optimizer,
    batch,
    *,
    trained: Sequence[tf.Variable],
    l2_variables: Sequence[tf.Variable] = (),
    weight_decay: float = 0.0,
):
    """Supervised training, of a pretrained network or from scratch (SimCLRv2, section 2).

    Args:
        model: a `model.SimCLR` with a supervised head.
        batch: image (n, h, w, c), float32 in [0, 1]; label (n, k).
        optimizer, trained, l2_variables, weight_decay: as in `pretrain_step`.

    Returns:
        supervised_loss, supervised_acc, weight_decay and total_loss.
    """
    with tf.GradientTape() as tape:
        endpoints = model(batch["image"], training=True)
        scalars = _supervised_scalars(batch["label"], endpoints["logits_sup"])
        scalars["weight_decay"] = optimization.add_weight_decay(l2_variables, weight_decay)
        scalars["total_loss"] = scalars["supervised_loss"] + scalars["weight_decay"]
    apply_gradients(tape, optimizer, scalars["total_loss"], trained)
    return scalars


def _supervised_scalars(labels, logits):
    return {
        "supervised_loss": objective.add_supervised_loss(labels, logits),
        "supervised_acc": metrics.top_k_accuracy(labels, logits, 1),
    }


def apply_gradients(tape, optimizer, loss, trained) -> None:
    """Updates the variables by this replica's share of the gradient of the mean loss.

    Each replica contributes its loss over the number of replicas; the optimizer sums the
    replicas' gradients.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    share = tf.constant(1.0 / replicas)
    gradients = tape.gradient(loss, list(trained), output_gradients=share)
    optimizer.apply_gradients(zip(gradients, trained, strict=True))
