"""LARS, layer-wise adaptive rate scaling (You et al. 2017), as SimCLR uses it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf2 import compat


class LARSOptimizer(keras.optimizers.Optimizer):
    """Momentum SGD whose step for each weight is scaled by the weight's own norm.

    With w a weight, g its gradient plus `weight_decay` * w, and v the momentum:
    trust = eeta * |w| / |g| (1 where either norm is 0, or w is excluded), then

    - classic momentum: v <- momentum * v + trust * rate * g; w <- w - v;
    - popular momentum: v <- momentum * v + g; w <- w - rate * trust(v) * v.

    Args:
        learning_rate: number or `keras.optimizers.schedules.LearningRateSchedule`, which is
            evaluated at the number of updates done before.
        momentum: decay of v.
        use_nesterov: whether to step along momentum * v + g instead of v.
        weight_decay: factor of the weight added to its gradient.
        exclude_from_weight_decay: regular expressions; a weight whose name matches one is not
            decayed.
        exclude_from_layer_adaptation: the same for trust; None or an empty list means the list of
            weight decay.
        classic_momentum: whether to use the first of the two rules above.
        eeta: the trust coefficient.

    Names are those given to `build(variables, names)`, or else the variables' own names.
    """

    def __init__(
        self,
        learning_rate: compat.LearningRate,
        momentum: float = 0.9,
        use_nesterov: bool = False,
        weight_decay: float = 0.0,
        exclude_from_weight_decay: Sequence[str] | None = None,
        exclude_from_layer_adaptation: Sequence[str] | None = None,
        classic_momentum: bool = True,
        eeta: float = 0.001,
        name: str = "LARSOptimizer",
    ) -> None:
        super().__init__(**compat.optimizer_base_arguments(name, learning_rate))
        compat.set_learning_rate(self, learning_rate)
        self.momentum = momentum
        self.use_nesterov = use_nesterov
        self.decay = weight_decay  # Keras's own `weight_decay` would act on the weights
        self.classic_momentum = classic_momentum
        self.eeta = eeta
        self.exclude_from_decay = tuple(exclude_from_weight_decay or ())
        self.exclude_from_adaptation = (
            tuple(exclude_from_layer_adaptation or ()) or self.exclude_from_decay
        )
        self._slots_ready = False

    def build(self, variables: Iterable[tf.Variable], names: Sequence[str] | None = None) -> None:
        """Creates one momentum slot per variable and applies the exclusions.

        Args:
            variables: the trainable variables, in a fixed order.
            names: their names (`variables.named_variables`), which the exclusions are matched with.
        """
        if self._slots_ready:
            return
        variables = list(variables)
        super().build(variables)
        names = [_own_name(v) for v in variables] if names is None else list(names)
        self.variable_names = tuple(names)
        self.uses_decay = tuple(
            bool(self.decay) and not matches(n, self.exclude_from_decay) for n in names
        )
        self.uses_adaptation = tuple(not matches(n, self.exclude_from_adaptation) for n in names)
        self.momentums = [compat.add_slot(self, v, "momentum") for v in variables]
        self._slots_ready = True

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any = None
    ) -> None:
        """Applies one update; only Keras 3 passes `learning_rate`."""
        rate = self.learning_rate if learning_rate is None else learning_rate
        rate = tf.cast(rate, variable.dtype)
        index = compat.variable_index(self, variable)
        slot = compat.unwrap(self.momentums[index])
        weight = tf.convert_to_tensor(variable)
        if self.uses_decay[index]:
            gradient = gradient + self.decay * weight
        if self.classic_momentum:
            trust = self._trust(index, weight, gradient)
            scaled = trust * rate * gradient
            velocity = self.momentum * slot + scaled
            step = self.momentum * velocity + scaled if self.use_nesterov else velocity
        else:
            velocity = self.momentum * slot + gradient
            update = self.momentum * velocity + gradient if self.use_nesterov else velocity
            step = self._trust(index, weight, update) * rate * update
        slot.assign(velocity)
        variable.assign(weight - step)

    def _trust(self, index: int, weight: tf.Tensor, update: tf.Tensor) -> tf.Tensor:
        if not self.uses_adaptation[index]:
            return tf.ones([], weight.dtype)
        weight_norm = tf.norm(weight)
        update_norm = tf.norm(update)
        both = tf.logical_and(weight_norm > 0, update_norm > 0)
        safe = tf.where(both, update_norm, tf.ones_like(update_norm))
        return tf.where(both, self.eeta * weight_norm / safe, tf.ones_like(weight_norm))

    def get_config(self) -> dict[str, Any]:
        """Returns every constructor argument."""
        return {
            "learning_rate": compat.learning_rate_config(self),
            "momentum": self.momentum,
            "use_nesterov": self.use_nesterov,
            "weight_decay": self.decay,
            "exclude_from_weight_decay": list(self.exclude_from_decay),
            "exclude_from_layer_adaptation": list(self.exclude_from_adaptation),
            "classic_momentum": self.classic_momentum,
            "eeta": self.eeta,
            "name": self.name,
        }


def _own_name(variable: Any) -> str:
    return getattr(variable, "path", variable.name)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Returns whether one of the regular expressions matches a part of the name."""
    return any(re.search(pattern, name) for pattern in patterns)
