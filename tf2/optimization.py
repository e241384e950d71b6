"""Learning-rate schedule, weight decay masks, and the optimizer of a configuration."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tf2 import compat, errors, lars_optimizer, variables
from tf2 import config as config_lib

# Weights that LARS neither decays nor adapts: batch norm, biases and the supervised head.
LARS_EXCLUSIONS = (r"(gamma|beta|bias)$", r"^supervised_head/")

get_train_steps = config_lib.get_train_steps


def warmup_steps(num_examples: int, batch_size: int, warmup_epochs: float) -> int:
    """Returns the number of warm-up steps. As in the reference: rounded down."""
    return int(round(warmup_epochs * num_examples // batch_size))


def peak_learning_rate(learning_rate: float, batch_size: int, scaling: str) -> float:
    """Returns the learning rate at the end of the warm-up.

    Args:
        learning_rate: rate per 256 images ('linear'), or the factor of sqrt(batch) ('sqrt').
        batch_size: global batch size, in images.
        scaling: 'linear' or 'sqrt' (SimCLR, appendix B.1).

    Raises:
        errors.UserError: the scaling is unknown.
    """
    if scaling == "linear":
        return learning_rate * batch_size / 256.0
    if scaling == "sqrt":
        return learning_rate * math.sqrt(batch_size)
    raise errors.UserError(
        "learning_rate_scaling must be 'linear' or 'sqrt'. Received: "
        f"learning_rate_scaling={scaling!r}."
    )


class WarmUpAndCosineDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0, then half a cosine down to 0 at the last step.

    If the warm-up is as long as the training or longer, the rate rises to the last step.

    Args:
        peak_learning_rate: rate at step `warmup_steps`.
        train_steps: number of training steps, including the warm-up.
        warmup_steps: number of warm-up steps; may be 0.
    """

    def __init__(self, peak_learning_rate: float, train_steps: int, warmup_steps: int = 0) -> None:
        self.peak_learning_rate = peak_learning_rate
        self.train_steps = train_steps
        self.warmup_steps = warmup_steps

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the rate of the update after `step` earlier updates, a float32 tensor."""
        step = tf.cast(step, tf.float32)
        warmup = float(self.warmup_steps)
        decay_steps = float(self.train_steps - self.warmup_steps)
        progress = tf.ones_like(step)
        if decay_steps > 0:
            progress = tf.clip_by_value((step - warmup) / decay_steps, 0.0, 1.0)
        rate = self.peak_learning_rate * 0.5 * (1.0 + tf.cos(math.pi * progress))
        if not self.warmup_steps:
            return rate
        return tf.where(step < warmup, self.peak_learning_rate * step / warmup, rate)

    def highest_rate(self) -> float:
        """Returns the highest rate of the training."""
        last = self.train_steps - 1
        return float(self(min(last, self.warmup_steps)))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "peak_learning_rate": self.peak_learning_rate,
            "train_steps": self.train_steps,
            "warmup_steps": self.warmup_steps,
        }


@dataclasses.dataclass(frozen=True)
class Masks:
    """Names of the weights that are trained, decayed and adapted.

    Attributes:
        trained: weights that the optimizer updates.
        l2_in_loss: weights in the L2 term of the loss.
        decayed_by_optimizer: weights that LARS decays in its update.
        adapted: weights whose step LARS scales.
    """

    trained: tuple[str, ...]
    l2_in_loss: tuple[str, ...]
    decayed_by_optimizer: tuple[str, ...]
    adapted: tuple[str, ...]


def lars_l2_mask(name: str) -> bool:
    """With LARS, the loss has an L2 term on the supervised head's kernel only."""
    return variables.place(name) == "supervised_head" and variables.role(name) != "bias"


def sgd_l2_mask(name: str) -> bool:
    """With momentum, adam and lamb, the loss has an L2 term on all weights but batch norm."""
    return variables.role(name) in ("kernel", "bias")


def build_masks(
    names: Iterable[str], *, optimizer: str, weight_decay: float, fine_tune_after_block: int = -1
) -> Masks:
    """Returns which weights are trained, decayed and adapted, by their roles and layers.

    As in the reference: LARS decays weights in its update, except batch norm, biases and the
    supervised head, and the loss has an L2 term on the head's kernel. With the other optimizers,
    the loss has an L2 term on all weights but batch norm.
    """
    trained = tuple(n for n in names if variables.is_trainable(n, fine_tune_after_block))
    lars = optimizer == "lars"
    in_loss = lars_l2_mask if lars else sgd_l2_mask
    lars_weights = tuple(n for n in trained if not lars_optimizer.matches(n, LARS_EXCLUSIONS))
    return Masks(
        trained=trained,
        l2_in_loss=tuple(n for n in trained if in_loss(n)),
        decayed_by_optimizer=lars_weights if lars and weight_decay else (),
        adapted=lars_weights if lars else (),
    )


def add_weight_decay(l2_variables: Iterable[tf.Variable], weight_decay: float) -> tf.Tensor:
    """Returns weight_decay * sum of |w|^2 / 2 over the given variables, a float32 scalar."""
    l2_variables = list(l2_variables)
    if not l2_variables or not weight_decay:
        return tf.zeros([])
    return weight_decay * tf.add_n([tf.nn.l2_loss(v) for v in l2_variables])


def make_optimizer(
    kind: str,
    learning_rate: compat.LearningRate,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> keras.optimizers.Optimizer:
    """Returns an optimizer: 'lars', 'momentum' (Nesterov), 'adam' or 'lamb'.

    Raises:
        errors.UserError: the kind is unknown.
    """
    if kind == "lars":
        return lars_optimizer.LARSOptimizer(
            learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            exclude_from_weight_decay=LARS_EXCLUSIONS,
        )
    return compat.make_optimizer(kind, learning_rate, momentum)


def build_slots(
    optimizer: keras.optimizers.Optimizer, trained: Mapping[str, tf.Variable]
) -> dict[str, tf.Variable]:
    """Creates the optimizer's variables and returns them by name, for checkpoints.

    LARS's slots are named `<weight>/momentum`, those of momentum and Adam `<weight>/<kind>` (see
    `compat.slots`), those of other optimizers by position. The step counter is left out: the
    checkpoint has it as global_step.
    """
    if isinstance(optimizer, lars_optimizer.LARSOptimizer):
        optimizer.build(trained.values(), list(trained))
        slots = [compat.unwrap(m) for m in optimizer.momentums]
        return {f"{name}/momentum": slot for name, slot in zip(trained, slots, strict=True)}
    compat.build_optimizer(optimizer, trained.values())
    named = {
        f"{name}/{kind}": slot
        for kind, slots in compat.slots(optimizer).items()
        for name, slot in zip(trained, slots, strict=True)
    }
    done = {id(v) for v in [*named.values(), compat.iterations(optimizer)]}
    rest = [v for v in compat.optimizer_variables(optimizer) if id(v) not in done]
    return {**named, **{f"slot_{i}": v for i, v in enumerate(rest)}}


def build_optimizer(
    config: config_lib.Config, num_examples: int
) -> tuple[keras.optimizers.Optimizer, WarmUpAndCosineDecay]:
    """Returns the optimizer of a configuration and its schedule.

    Args:
        config: the configuration.
        num_examples: size of the training set.
    """
    batch = config.train_batch_size
    schedule = WarmUpAndCosineDecay(
        peak_learning_rate(config.learning_rate, batch, config.learning_rate_scaling),
        get_train_steps(num_examples, batch, config.train_epochs, config.train_steps),
        warmup_steps(num_examples, batch, config.warmup_epochs),
    )
    optimizer = make_optimizer(
        config.optimizer,
        schedule,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    return optimizer, schedule
