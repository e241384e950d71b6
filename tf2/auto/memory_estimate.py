"""The memory that a run needs, estimated before it is taken, and refused if there is less.

What training holds until the backward pass follows from the network's shapes (`network_shapes`);
the constants below are measured. docs/memory.md compares estimates with measured peaks. Only
ResNets are estimated: the shapes of other backbones are not known here. No TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from tf2 import architecture, errors, machine, modes
from tf2 import config as config_lib
from tf2.auto import network_shapes

GIB = 2**30

# Measured on a CPU with TensorFlow 2.21; see docs/memory.md.
_FRAMEWORK = 0.75 * GIB  # TensorFlow and the rest of a process that trains a tiny network
_PER_LAYER = 3 * 2**20  # graphs of a layer, forward and backward
_EVALUATING = 0.25 * GIB  # graphs of an evaluation, the untrained network, figures
_PREFETCHED = 6  # batches that the input pipeline and the step hold
_BLURRED = 4  # further copies of a batch while it is blurred
_GRADIENTS = 3  # gradients as large as the largest output, at one time
_LOGITS = 5  # matrices as large as the contrastive logits
_INFERRED = 3  # outputs of layers, and batches, that an evaluation holds at one time
_SLOTS = {"lars": 1, "momentum": 1, "adam": 2, "lamb": 2}  # numbers per trained weight


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """The peak memory of a run in bytes.

    Attributes:
        framework: TensorFlow, its graphs, and the program.
        weights: of all networks, with gradients and the optimizer's slots.
        activations: of the batch, or of one of its parts, held for the backward pass, and their
            gradients.
        batches: images in the input pipeline and in the step.
        loss: similarities, and the memory of negatives.
        evaluation: what an evaluation holds, in place of activations, batches and loss.
    """

    framework: int
    weights: int
    activations: int
    batches: int
    loss: int
    evaluation: int

    @property
    def total(self) -> int:
        """The peak: training or evaluation, whichever takes more."""
        return self.fixed + max(self.activations + self.batches + self.loss, self.evaluation)

    @property
    def fixed(self) -> int:
        """What does not depend on the batch."""
        return self.framework + self.weights

    def on_gpu(self) -> int:
        """Returns the part that a GPU holds."""
        return self.total - self.framework


def estimate(
    config: config_lib.Config,
    num_classes: int,
    channels: int = 3,
    *,
    replicas: int = 1,
    teacher: config_lib.Config | None = None,
) -> MemoryEstimate | None:
    """Estimates the peak memory of one replica of a run.

    Args:
        config: the run, without "auto".
        num_classes: of the data; 0 without labels.
        channels: of the images as the network sees them.
        replicas: over which a batch is divided.
        teacher: the run of the teacher; None counts one like the network itself.

    Returns:
        The estimate; None for a backbone that is no ResNet.
    """
    if config.backbone != architecture.DEFAULT_BACKBONE:
        return None
    mode = modes.get(config.train_mode)
    parts = network_shapes.parts(config.architecture(num_classes, channels), config.image_size)
    layers = [layer for part in parts for layer in part]
    number = 2 if config.mixed_precision == "bf16" else 4  # bytes
    images = mode.views * -(-config.train_batch_size // replicas)
    at_once = -(-images // config.micro_batches)
    pixels = config.image_size**2 * channels
    trained = sum(layer.trained for layer in layers)
    statistics = sum(layer.statistics for layer in layers)
    accumulated = config.micro_batches > 1  # gradients of earlier parts
    weights = trained * (2 + accumulated + _SLOTS[config.optimizer]) + statistics
    largest = max(layer.output for layer in layers)
    kept = at_once * (network_shapes.kept(parts, recompute=config.recompute) + _GRADIENTS * largest)
    loss, networks = 0, 1
    if mode.pretrains:
        loss = _loss(config, images // 2, replicas)
    if mode.pretrains and config.use_memory:
        networks, weights = 2, weights + trained + statistics
    if mode.distills:
        taught = layers_of(teacher or config, num_classes, channels)
        networks, weights = 2, weights + sum(la.trained + la.statistics for la in taught)
    blurred = _BLURRED if mode.pretrains and config.use_blur else 0
    return MemoryEstimate(
        framework=int(
            _FRAMEWORK + _PER_LAYER * networks * len(layers) + _EVALUATING * _evaluates(config)
        ),
        weights=4 * weights,
        activations=number * kept,
        batches=4 * images * pixels * (_PREFETCHED + blurred),
        loss=loss,
        evaluation=_evaluation(config, pixels, largest, number) if _evaluates(config) else 0,
    )


def layers_of(
    config: config_lib.Config, num_classes: int, channels: int
) -> list[network_shapes.Layer]:
    """Returns the layers of the network that a configuration trains, a ResNet."""
    return network_shapes.layers(config.architecture(num_classes, channels), config.image_size)


def _loss(config: config_lib.Config, images: int, replicas: int) -> int:
    """Returns the bytes of the contrastive loss of (n, 2n) and (n, 2n + m) similarities."""
    others = 2 * images * replicas + (config.memory_size if config.use_memory else 0)
    queue = config.memory_size * config.proj_out_dim if config.use_memory else 0
    return 4 * (_LOGITS * images * others + 2 * queue)


def _evaluates(config: config_lib.Config) -> bool:
    return config.evaluates or bool(config.knn_every_epochs)


def _evaluation(config: config_lib.Config, pixels: int, largest: int, number: int) -> int:
    images = config.eval_batch_size
    return images * _INFERRED * (number * largest + 4 * pixels)


def fits(
    config: config_lib.Config,
    facts: machine.MachineFacts,
    num_classes: int,
    channels: int = 3,
    teacher: config_lib.Config | None = None,
) -> bool:
    """Whether a run fits into the memory of a machine, as far as both are known."""
    needed = _needed(config, facts, num_classes, channels, teacher)
    return not needed or not facts.training_memory or needed <= facts.training_memory


def check(
    config: config_lib.Config,
    facts: machine.MachineFacts,
    num_classes: int,
    channels: int = 3,
    teacher: config_lib.Config | None = None,
) -> None:
    """Checks before a run that it fits into the memory of the machine.

    Args:
        config, num_classes, channels, teacher: see `estimate`.
        facts: the machine.

    Raises:
        errors.UserError: it does not; the message names values of flags that fit.
    """
    if fits(config, facts, num_classes, channels, teacher):
        return
    needed = _needed(config, facts, num_classes, channels, teacher)
    remedies = []
    for flag, values in _smaller(config, facts.replicas).items():
        settings: Iterable[dict[str, Any]] = ({flag: value} for value in values)
        changed = (dataclasses.replace(config, **setting) for setting in settings)
        fitting = (c for c in changed if fits(c, facts, num_classes, channels, teacher))
        if (first := next(fitting, None)) is not None:
            remedies.append(f"--{flag}={getattr(first, flag)}")
    names = ["train_batch_size", "image_size", "resnet_depth", "width_multiplier"]
    names += ["micro_batches"] * (config.micro_batches > 1) + ["recompute"] * config.recompute
    received = ", ".join(f"{name}={getattr(config, name)}" for name in names)
    where = "each GPU has" if facts.device == "gpu" else "this machine has free"
    remedy = f"Use {' or '.join(remedies)}" if remedies else "Make several of them smaller"
    raise errors.UserError(
        f"A run must fit into memory: this one takes about {needed / GIB:.1f} GiB, and {where} "
        f"{facts.training_memory / GIB:.1f} GiB. Received: {received}. {remedy}."
    )


def _needed(
    config: config_lib.Config,
    facts: machine.MachineFacts,
    num_classes: int,
    channels: int,
    teacher: config_lib.Config | None,
) -> int:
    """Returns the bytes that must fit; 0 if unknown."""
    found = estimate(config, num_classes, channels, replicas=facts.replicas, teacher=teacher)
    if found is None:
        return 0
    return found.on_gpu() if facts.device == "gpu" else found.total


def _smaller(config: config_lib.Config, replicas: int) -> Mapping[str, Iterable[int | float]]:
    """Returns flags that save memory, with smaller values than now, the largest first."""
    batch, side, unit = config.train_batch_size, config.image_size, replicas * config.micro_batches
    round_batches = range(batch - 1 - (batch - 1) % 8, 7, -8)
    values: dict[str, Iterable[int | float]] = {
        "train_batch_size": [n for n in (*round_batches, 4, 2) if n < batch and n % unit == 0],
        "micro_batches": more_parts(config, replicas),
        "recompute": [] if config.recompute else [True],
        "image_size": range((side - 1) // 32 * 32, 0, -32),
        "eval_batch_size": [n for n in (128, 64, 32, 16, 8) if n < config.eval_batch_size],
    }
    if not config.checkpoint:  # else the network is the checkpoint's
        values["width_multiplier"] = [w for w in (2, 1, 0.5, 0.25) if w < config.width_multiplier]
        values["resnet_depth"] = [d for d in (50, 18) if d < config.resnet_depth]
    return values


def more_parts(config: config_lib.Config, replicas: int) -> list[int]:
    """Returns larger --micro_batches, smallest first: parts of 4 images or more, for batch norm."""
    images = config.train_batch_size // replicas
    larger = range(config.micro_batches + 1, images // 4 + 1)
    return [parts for parts in larger if images % parts == 0]
