"""How long stages may train: a share of the time each, and what fits into it. No TensorFlow.

A few timed steps of one stage tell the machine's speed. The steps of other stages are taken to last
as long as their work says: multiply-adds of the network, forward and backward.
"""

from __future__ import annotations

import dataclasses

from tf2 import architecture, memory_estimate, modes
from tf2 import config as config_lib
from tf2.sources import image_facts

MINUTES = {"cpu": 30, "gpu": 240}  # of all stages together: a coffee, an evening
# Stage -> its share of the time. Pretraining decides the most, distillation needs a third of it.
SHARES = {"pretrain": 60, "finetune": 8, "distill": 17, "student": 10, "supervised": 5}
END_SECONDS = 20  # figures, export and results of a stage
MEASUREMENTS = 10  # of the features while pretraining, about
BACKWARD = 2  # work of a backward pass, of a forward pass's
READING = 0.1  # further work to read and augment a view, of a forward and a backward pass's


@dataclasses.dataclass(frozen=True)
class Timing:
    """How long some training steps took.

    Attributes:
        config: what was trained.
        start: seconds until the first step was done: building, tracing, reading.
        step: seconds of a later one.
    """

    config: config_lib.Config
    start: float
    step: float


@dataclasses.dataclass(frozen=True)
class Budget:
    """The time of a run, divided among its stages.

    Attributes:
        minutes: of all stages together.
        stages: the stages of the run; ("",) for a run of its own.
        images: the images.
        timing: measured.
        spent: minutes of them that measuring took.
    """

    minutes: float
    stages: tuple[str, ...]
    images: image_facts.ImageFacts
    timing: Timing
    spent: float = 0.0

    def minutes_of(self, stage: str) -> float:
        """Returns the share of a stage in what is left."""
        total = sum(SHARES.get(name, 1) for name in self.stages)
        return max(self.minutes - self.spent, 0.0) * SHARES.get(stage, 1) / total

    def step_seconds(self, config: config_lib.Config) -> float:
        """Returns how long a step of a configuration lasts."""
        images = self.images
        return self.timing.step * work(config, images) / work(self.timing.config, images)

    def steps(self, config: config_lib.Config, stage: str) -> int:
        """Returns the steps that fit, beside start, evaluations and what comes at the end."""
        rest = 60 * self.minutes_of(stage) - self.timing.start - END_SECONDS
        rest -= self._evaluation_seconds(config)
        return max(int(rest / self.step_seconds(config)), 1)

    def _evaluation_seconds(self, config: config_lib.Config) -> float:
        """Returns the seconds of all evaluations of a stage."""
        number, times = self.images.evaluated, int(config.evaluates)
        if modes.get(config.train_mode).pretrains:  # kNN accuracy; untrained once, too
            number += min(config.knn_bank_size, self.images.labeled)
            times = 2 * times + (MEASUREMENTS if config.knn_every_epochs else 0)
        per_image = self.step_seconds(config) / (_views(config) * config.train_batch_size)
        return number * times * per_image / (1 + BACKWARD)


def work(config: config_lib.Config, images: image_facts.ImageFacts) -> float:
    """Returns the multiply-adds of a training step."""
    forward = 1.0  # of another backbone, which is the same in all stages
    if config.backbone == architecture.DEFAULT_BACKBONE:
        layers = memory_estimate.layers_of(config, images.num_classes, images.channels)
        forward = float(sum(layer.multiply_adds for layer in layers))
    taught = modes.get(config.train_mode).distills
    passes = (1 + BACKWARD) * (1 + READING) + taught  # a teacher's is forward only
    return _views(config) * config.train_batch_size * forward * passes


def _views(config: config_lib.Config) -> int:
    return modes.get(config.train_mode).views
