"""How long stages may train: a share of the time each, and what fits into it. No TensorFlow.

A few timed steps of one stage tell the machine's speed. The steps of other stages are taken to last
as long as their work says; docs/memory.md compares that with measured steps.
"""

from __future__ import annotations

import dataclasses

from tf2 import architecture, modes
from tf2 import config as config_lib
from tf2.auto import memory_estimate
from tf2.sources import image_facts

MINUTES = {"cpu": 30, "gpu": 240}  # of all stages together: a coffee, an evening
# Stage -> its share of the time. Pretraining decides the most, distillation needs a third of it.
SHARES = {"pretrain": 60, "finetune": 8, "distill": 17, "student": 10, "supervised": 5}
END_SECONDS = 20  # figures, export and results of a stage
MEASUREMENTS = 10  # of the features while pretraining with --knn_every_epochs=-1, about
# Work of training on one view, in multiply-adds of the forward pass; fitted to measured CPU times.
PER_KEPT = 230  # for each number that is kept for the backward pass: reading and writing it
PER_VIEW = 7.5e6  # to read and crop an image
PER_PIXEL = 5000  # to jitter and blur a view, in pretraining
INFERENCE = 0.17  # of a pass in inference, such as a teacher's, of that on training


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
        per_image = INFERENCE * _network_work(config, self.images) + PER_VIEW
        seconds_per_work = self.timing.step / work(self.timing.config, self.images)
        return number * times * per_image * seconds_per_work


def work(config: config_lib.Config, images: image_facts.ImageFacts) -> float:
    """Returns the work of a training step. A teacher counts as a network of the same size."""
    mode = modes.get(config.train_mode)
    network = _network_work(config, images)
    view = network + PER_VIEW + (PER_PIXEL * config.image_size**2 if mode.pretrains else 0)
    taught = INFERENCE * network if mode.distills else 0
    return config.train_batch_size * (mode.views * view + taught)


def _network_work(config: config_lib.Config, images: image_facts.ImageFacts) -> float:
    """Returns the work of training a network on one view, without reading it."""
    if config.backbone != architecture.DEFAULT_BACKBONE:
        return 1e9  # whatever it is, it is the same in all stages
    layers = memory_estimate.layers_of(config, images.num_classes, images.channels)
    return sum(layer.multiply_adds + PER_KEPT * layer.kept for layer in layers)
