"""One training step of each kind, and the state that the steps move.

A step is a pure function of (model, optimizer, batch) that returns a dict of scalars: the values
of this replica, taken before the update. It runs inside or outside of `strategy.run`.

Shapes: n images per replica, c channels, k classes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from tf2 import (
    compat,
    data_util,
    metrics,
    modes,
    momentum_encoder,
    objective,
    optimization,
    variables,
)
from tf2 import config as config_lib
from tf2 import micro_batches as micro_batches_lib
from tf2 import model as model_lib


def pretrain_step(
    model: model_lib.SimCLR,
    optimizer: keras.optimizers.Optimizer,
    batch: Mapping[str, tf.Tensor],
    *,
    trained: Sequence[tf.Variable],
    l2_variables: Sequence[tf.Variable] = (),
    weight_decay: float = 0.0,
    contrastive_loss: str = "ntxent",
    temperature: float = 0.1,
    hidden_norm: bool = True,
    use_blur: bool = False,
    seed: int = 0,
    memory: momentum_encoder.Memory | None = None,
    classifier_rates: Sequence[float | None] = (),
    micro_batches: int = 1,
) -> dict[str, tf.Tensor]:
    """Contrastive pretraining on two views of each image (SimCLRv2, section 2, equation 1).

    Args:
        model: a `model.SimCLR` in its pretraining form.
        optimizer: built for `trained`.
        batch: image (n, h, w, 2c), the two views on channels, float32 in [0, 1]; label (n, k),
            needed where the model has a supervised head or the loss needs labels; id (n,), needed
            with a memory.
        trained: the variables to update.
        l2_variables: those in the loss's L2 term.
        weight_decay: its coefficient.
        contrastive_loss: a name in `objective.CONTRASTIVE_LOSSES`.
        temperature: divides the similarities in the contrastive loss; above 0.
        hidden_norm: whether projections are scaled to length 1, so that these are cosines.
        use_blur: whether half of the images are blurred here, on the device.
        seed: of the blur; with the optimizer's step count it fixes the draw.
        memory: contrasts with its average and earlier batches, by a loss of its own; None
            contrasts within the batch alone.
        classifier_rates: for each of `trained`, the factor that makes its learning rate one of
            the online classifier; None leaves the rate. The factor is divided by the features' mean
            squared norm, which bounds the curvature of the classifier's loss.
        micro_batches: parts of the batch that go through the network one after another; the
            loss is that of all together.

    Returns:
        contrast_loss, contrast_acc, contrast_entropy and further measures of the embedding;
        memory_filled, as a fraction, with a memory;
        supervised_loss and supervised_acc, over the labeled images, with a supervised head;
        weight_decay; total_loss.
    """
    views = tf.split(batch["image"], 2, axis=-1)  # each (n, h, w, c)
    step = compat.step_count(optimizer)
    if use_blur:
        context = tf.distribute.get_replica_context()
        views = data_util.batch_random_blur(
            views,
            tf.stack([tf.cast(seed, tf.int64), step]),
            num_replicas=context.num_replicas_in_sync,
            replica_id=objective.replica_id(),
        )
    images = tf.concat(views, axis=0)  # (2n, h, w, c)
    strategy = tf.distribute.get_strategy()
    if memory is None:
        loss_function = functools.partial(
            objective.find_contrastive_loss(contrastive_loss).function, labels=batch.get("label")
        )
    else:
        keys = _make_keys(memory, images, batch["id"], hidden_norm, micro_batches)
        loss_function = functools.partial(
            objective.MEMORY_LOSSES[memory.loss], keys=keys, weight=memory.weight
        )

    def find_loss(endpoints: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        hidden = endpoints["proj_head_output"]
        contrast_loss, logits, labels = loss_function(
            hidden, hidden_norm, temperature, strategy=strategy
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
        return scalars

    endpoints, scalars, gradients = micro_batches_lib.contrastive_gradients(
        model, images, find_loss, trained, micro_batches
    )
    if any(classifier_rates):
        features = tf.cast(endpoints["proj_head_input"], tf.float32)  # (2n, d)
        norm = tf.reduce_mean(tf.reduce_sum(tf.square(features), axis=1))
        context = tf.distribute.get_replica_context()
        norm = context.all_reduce(tf.distribute.ReduceOp.MEAN, norm)
        scales = [1.0 if rate is None else rate / (norm + 1e-6) for rate in classifier_rates]
        gradients = [scale * g for scale, g in zip(scales, gradients, strict=True)]
    optimizer.apply_gradients(zip(gradients, trained, strict=True))
    if memory is not None:
        memory.enqueue(keys.batch, _gather(batch["id"]))
        memory.update_ema(step)
        slots = max(memory.queue.shape[0], 1)
        scalars["memory_filled"] = tf.cast(memory.filled(), tf.float32) / slots
    return scalars


def _make_keys(
    memory: momentum_encoder.Memory,
    images: tf.Tensor,
    ids: tf.Tensor,
    hidden_norm: bool,
    micro_batches: int,
) -> objective.Keys:
    """Returns what images (2n, h, w, c), both views of ids (n,), are contrasted with."""
    embed = functools.partial(memory.embed, hidden_norm=hidden_norm)
    keys = micro_batches_lib.map_parts(embed, images, micro_batches, views=2)  # (2n, d)
    of_views = tf.split(keys, 2)  # each (n, d)
    return objective.Keys(
        batch=_gather(tf.stack(of_views, axis=1)),
        queue=tf.convert_to_tensor(memory.queue),
        excluded=memory.excluded(ids),
    )


def _gather(tensor: tf.Tensor) -> tf.Tensor:
    """Concatenates a tensor (n, ...) of every replica to (r * n, ...)."""
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1
    return objective.gather(tensor) if several else tensor


def finetune_step(
    model: model_lib.SimCLR,
    optimizer: keras.optimizers.Optimizer,
    batch: Mapping[str, tf.Tensor],
    *,
    trained: Sequence[tf.Variable],
    l2_variables: Sequence[tf.Variable] = (),
    weight_decay: float = 0.0,
    micro_batches: int = 1,
) -> dict[str, tf.Tensor]:
    """Supervised training, of a pretrained network or from scratch (SimCLRv2, section 2).

    Args:
        model: a `model.SimCLR` with a supervised head.
        batch: image (n, h, w, c), float32 in [0, 1]; label (n, k).
        optimizer: built for `trained`.
        trained: the variables to update.
        l2_variables: those in the loss's L2 term.
        weight_decay: its coefficient.
        micro_batches: parts of the batch that are trained on one after another, for one update.

    Returns:
        supervised_loss, supervised_acc, weight_decay and total_loss.
    """
    rows = _rows_per_labeled(batch["label"])

    def find_loss(part: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        endpoints = model(part["image"], training=True)
        scalars = _supervised_scalars(part["label"], endpoints["logits_sup"], rows)
        scalars["weight_decay"] = optimization.add_weight_decay(l2_variables, weight_decay)
        scalars["total_loss"] = scalars["supervised_loss"] + scalars["weight_decay"]
        return scalars

    names = ("supervised_loss", "supervised_acc", "weight_decay", "total_loss")
    scalars, gradients = micro_batches_lib.mean_gradients(
        model, batch, find_loss, trained, micro_batches, names
    )
    optimizer.apply_gradients(zip(gradients, trained, strict=True))
    return scalars


def distill_step(
    model: model_lib.SimCLR,
    optimizer: keras.optimizers.Optimizer,
    batch: Mapping[str, tf.Tensor],
    *,
    teacher: Callable,
    temperature: float = 1.0,
    alpha: float = 1.0,
    scale_by_t2: bool = False,
    trained: Sequence[tf.Variable],
    l2_variables: Sequence[tf.Variable] = (),
    weight_decay: float = 0.0,
    micro_batches: int = 1,
) -> dict[str, tf.Tensor]:
    """Distillation of a teacher on images without labels (SimCLRv2, section 2, equations 2, 3).

    Equation 3's sums run over all images and over the labeled ones: a batch's labeled part is
    divided by n too, whatever the number of labels in it.

    Args:
        model: the student, a `model.SimCLR` with a supervised head.
        batch: image (n, h, w, c), float32 in [0, 1]; where alpha is below 1, label (n, k), a row of
            zeros where an image has none.
        teacher: maps the images to probabilities (n, k) at the temperature.
        temperature: divides the logits of both.
        alpha: weight of the distillation loss; 1 - alpha is that of the labeled loss.
        scale_by_t2: multiply the distillation loss by temperature squared.
        optimizer: built for `trained`.
        trained: the variables to update.
        l2_variables: those in the loss's L2 term.
        weight_decay: its coefficient.
        micro_batches: parts of the batch that are trained on one after another, for one update.

    Returns:
        distill_loss; distill_acc, how often student and teacher predict the same class;
        teacher_entropy, in nats; supervised_loss where alpha is below 1; weight_decay; total_loss.
    """
    taught = micro_batches_lib.map_parts(teacher, batch["image"], micro_batches)
    batch = {**batch, "probabilities": tf.stop_gradient(taught)}  # (n, k)

    def find_loss(part: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        probabilities = part["probabilities"]
        logits = model(part["image"], training=True)["logits_sup"]
        distill_loss = objective.add_distillation_loss(probabilities, logits, temperature)
        if scale_by_t2:
            distill_loss *= temperature**2
        predicted = tf.one_hot(tf.argmax(probabilities, -1), logits.shape[-1])
        scalars = {
            "distill_loss": distill_loss,
            "distill_acc": metrics.top_k_accuracy(predicted, logits, 1),
            "teacher_entropy": -tf.reduce_mean(
                tf.reduce_sum(tf.math.xlogy(probabilities, probabilities), -1)
            ),
        }
        loss = alpha * distill_loss
        if alpha < 1:
            scalars["supervised_loss"] = objective.add_supervised_loss(part["label"], logits)
            loss += (1 - alpha) * scalars["supervised_loss"]
        scalars["weight_decay"] = optimization.add_weight_decay(l2_variables, weight_decay)
        scalars["total_loss"] = loss + scalars["weight_decay"]
        return scalars

    names = ["distill_loss", "distill_acc", "teacher_entropy", "weight_decay", "total_loss"]
    names += ["supervised_loss"] * (alpha < 1)
    scalars, gradients = micro_batches_lib.mean_gradients(
        model, batch, find_loss, trained, micro_batches, names
    )
    optimizer.apply_gradients(zip(gradients, trained, strict=True))
    return scalars


def _supervised_scalars(
    labels: tf.Tensor, logits: tf.Tensor, rows: tf.Tensor | None = None
) -> dict[str, tf.Tensor]:
    """Returns loss and accuracy over the labeled rows of labels (n, k); 0 where there is none.

    Their mean over the replicas, and over the parts of a batch, is that over all labeled rows,
    wherever these are.

    Args:
        labels, logits: of the batch, or of a part of it.
        rows: of the batch; see `_rows_per_labeled`.
    """
    rows = _rows_per_labeled(labels) if rows is None else rows
    hits = _labeled(labels) * metrics.in_top_k(labels, logits, 1)
    return {
        "supervised_loss": objective.add_supervised_loss(labels, logits) * rows,
        "supervised_acc": tf.reduce_mean(hits) * rows,
    }


def _rows_per_labeled(labels: tf.Tensor) -> tf.Tensor:
    """Returns the number of rows of labels (n, k) for one that is labeled, over all replicas."""
    context, count = tf.distribute.get_replica_context(), tf.reduce_sum(_labeled(labels))
    if context.num_replicas_in_sync > 1:
        count = context.all_reduce(tf.distribute.ReduceOp.MEAN, count)
    return tf.cast(tf.shape(labels)[0], tf.float32) / tf.maximum(count, 1.0)


def _labeled(labels: tf.Tensor) -> tf.Tensor:
    """Returns 1 for each row of labels (n, k) that has a label, otherwise 0."""
    return tf.cast(tf.reduce_any(labels > 0, axis=-1), tf.float32)


@dataclasses.dataclass
class TrainState:
    """A network in training: everything that a step moves, under its names.

    Attributes:
        model: the `model.SimCLR`.
        optimizer: with its slots created.
        schedule: the learning rate by step.
        named: all weights of the model by name.
        trained: those that training moves.
        slots: the optimizer's variables by name.
        masks: what is trained, decayed and adapted.
        step: bound to all but the batch; returns a dict of scalars.
        global_step: updates done, as saved in checkpoints.
        memory: of pretraining with one.
    """

    model: model_lib.SimCLR
    optimizer: keras.optimizers.Optimizer
    schedule: optimization.WarmUpAndCosineDecay
    named: dict[str, tf.Variable]
    trained: dict[str, tf.Variable]
    slots: dict[str, tf.Variable]
    masks: optimization.Masks
    step: Callable
    global_step: tf.Variable
    memory: momentum_encoder.Memory | None = None

    def checkpoint_variables(self) -> dict:
        """Returns what a checkpoint holds."""
        return {
            "model": self.named,
            "optimizer": self.slots,
            "global_step": self.global_step,
            **(self.memory.checkpoint_variables() if self.memory else {}),
        }

    def set_step(self, step: int) -> None:
        """Makes `step` the number of updates done, for the schedule and for checkpoints."""
        counter = compat.iterations(self.optimizer)
        counter.assign(tf.cast(step, counter.dtype))
        self.global_step.assign(step)


def build_train_state(
    config: config_lib.Config,
    *,
    num_examples: int,
    num_classes: int,
    channels: int,
    teacher: Callable | None = None,
) -> TrainState:
    """Builds the network, optimizer and step of a configuration; call it in a strategy's scope.

    Args:
        config: the settings of the run.
        num_examples: images trained on, which set the length of the schedule.
        num_classes: of the labels, 0 without.
        channels: of the images as the network sees them.
        teacher: of distillation; see `distill_step`.

    Raises:
        errors.UserError: a setting is still "auto".
    """
    config.check_resolved()
    keras.utils.set_random_seed(config.seed)
    model = model_lib.build_model(config, num_classes=num_classes, channels=channels)
    optimizer, schedule = optimization.build_optimizer(config, num_examples)
    named = variables.named_variables(model)
    masks = optimization.build_masks(
        named,
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
        fine_tune_after_block=model.hyperparameters["fine_tune_after_block"],
    )
    trained = {name: named[name] for name in masks.trained}
    slots = optimization.build_slots(optimizer, trained)
    shared: dict[str, Any] = {
        "trained": list(trained.values()),
        "l2_variables": [named[name] for name in masks.l2_in_loss],
        "weight_decay": config.weight_decay,
    }
    memory = None
    if config.use_memory:
        memory = momentum_encoder.make_memory(
            model,
            size=config.memory_size,
            decay=config.ema_decay,
            loss=config.memory_loss,
            weight=config.memory_weight,
            views=config.memory_views,
        )
    mode = modes.get(config.train_mode)
    if mode.pretrains and config.lineareval_learning_rate:
        # Momentum is linear in the gradient: scaling it is a learning rate of the classifier's own.
        rate = config.lineareval_learning_rate / schedule.peak_learning_rate
        shared["classifier_rates"] = [
            rate if variables.place(name) == "supervised_head" else None for name in trained
        ]
    built = {"memory": memory, "teacher": teacher}
    step = functools.partial(
        mode.step_function,
        model,
        optimizer,
        **{argument: getattr(config, flag) for argument, flag in mode.arguments.items()},
        **{argument: built[argument] for argument in mode.built},
        **shared,
    )
    return TrainState(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        named=named,
        trained=trained,
        slots=slots,
        masks=masks,
        step=step,
        global_step=tf.Variable(0, dtype=tf.int64, trainable=False, name="global_step"),
        memory=memory,
    )


def describe_masks(state: TrainState) -> str:
    """Returns one line: how much is trained, decayed, adapted and frozen."""
    counts = {
        "trained": state.masks.trained,
        "decayed in the update": state.masks.decayed_by_optimizer,
        "L2 in the loss": state.masks.l2_in_loss,
        "layer-adapted": state.masks.adapted,
    }
    kinds = ", ".join(f"{len(names)} {what}" for what, names in counts.items())
    parameters = variables.count_parameters(state.named)
    trained = variables.count_parameters(state.trained)
    frozen = f", {trained:,} of them trained" if trained < parameters else ""
    return f"Weights: {len(state.named)} in all; {kinds}; {parameters:,} parameters{frozen}."


def warn_of_long_warmup(schedule: optimization.WarmUpAndCosineDecay) -> None:
    """Warns where the learning rate never reaches its peak."""
    if schedule.warmup_steps < schedule.train_steps:
        return
    reached = f"the highest learning rate reached is {schedule.highest_rate():.4g}, not"
    if schedule.train_steps == 1:
        reached = "the only step has the rate 0, with which a warm-up begins, not"
    logging.warning(
        "The warm-up (%d steps) is as long as the training (%d steps) or longer: %s %.4g.",
        schedule.warmup_steps,
        schedule.train_steps,
        reached,
        schedule.peak_learning_rate,
    )
