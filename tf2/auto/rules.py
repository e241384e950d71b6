"""What "auto" stands for: from facts of the images, the machine and the clock to settings.

Every rule maps (`Facts`, configuration of a stage, name of the stage) to a value and its reason in
words. `RULES` has them in the order in which they are decided: a later rule sees the values of
earlier ones, whether chosen or given by the user. No TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from tf2 import architecture, machine, modes
from tf2 import config as config_lib
from tf2.auto import memory_estimate, time_budget
from tf2.flags import fields, memory
from tf2.sources import image_facts

# ---- constants, each with its reason

SMALL_SIDE = architecture.SMALL_IMAGE_SIZE  # up to it images keep their size: the cifar stem
SIDE_STEP = 32  # the network halves its input five times
LARGEST_SIDE = {"cpu": 96, "gpu": 224}  # 224 is the papers' size; on a CPU an epoch takes hours
TINY_SIDE = 16  # up to it a small crop shows nothing, and many images are near-duplicates
BLUR_SIDE = 64  # up to it images are unsharp already; CIFAR-10 is pretrained without blur
JITTER = {"gray": 0.0, "small": 0.5, "large": 1.0}  # SimCLR B.9: 0.5 for CIFAR-10, 1 for ImageNet
CROP = {"tiny": 0.3, "small": 0.2, "large": 0.08}  # 0.08 is the papers'; recipe digits has 0.3
DEEP = 50  # the papers' smallest network
SHALLOW = 18
DEEP_IMAGES = 20_000  # fewer do not fill a ResNet-50
DEEP_SIDE = 96  # smaller images need less depth
CPU_WIDTHS = (0.125, 0.25, 0.5)  # narrow, usual, wide
WIDE_EPOCHS = 200  # a wider network pays where it sees every image this often
NARROW_EPOCHS = 40  # below it a narrower network that sees images more often is better
GPU_WIDTH = 1.0
BATCHES = ((2_000, 64), (20_000, 128), (None, 256))  # a batch of an epoch of 30 to 150 steps
MEMORY_SHARE = 0.8  # of the memory that may be filled: the estimate is right within 20 %
MEMORY_BATCHES = 16  # in a queue: with this decay its staleness is 0.16, see flags/memory.py
MEMORY_DECAY = 0.99  # in a short training the average must follow faster than by 0.999
TEMPERATURE = {"tiny": 0.5, "other": 0.2}  # batches this small have few hard negatives
SELECTOR = 1  # SimCLRv2 fine-tunes from the first layer of the projection head
STUDENT_WIDTH = 0.5  # of its teacher's: a quarter of the parameters
# (train mode, optimizer) -> rate and the scaling that it is for. The pretraining's are those of
# recipe digits and cifar10_small; the other modes start from a smaller or a random network.
RATES: Mapping[tuple[str, str], tuple[float, str]] = {
    ("pretrain", "lars"): (0.1, "sqrt"),
    ("pretrain", "adam"): (0.003, "linear"),
    ("pretrain", "momentum"): (0.05, "linear"),
    ("pretrain", "lamb"): (0.003, "linear"),
    ("finetune", "lars"): (0.005, "sqrt"),
    ("finetune", "adam"): (0.001, "linear"),
    ("finetune", "momentum"): (0.00075, "sqrt"),
    ("finetune", "lamb"): (0.001, "linear"),
    ("distill", "lars"): (0.03, "sqrt"),
    ("distill", "adam"): (0.003, "linear"),
    ("distill", "momentum"): (0.1, "linear"),
    ("distill", "lamb"): (0.003, "linear"),
    ("supervised", "lars"): (0.05, "sqrt"),
    ("supervised", "adam"): (0.003, "linear"),
    ("supervised", "momentum"): (0.015, "sqrt"),
    ("supervised", "lamb"): (0.003, "linear"),
}
MOST_EPOCHS = 800  # SimCLR's longest; later ones change little
# Train mode -> steps that are enough for few labels, and epochs for many. A pretrained network that
# is fine-tuned for longer on few labels forgets more than it learns; one from scratch needs more.
LABELED_STEPS = {"finetune": 100, "supervised": 300}
LABELED_EPOCHS = {"finetune": 30, "supervised": 60}
FEWEST_STEPS = 50  # on labels, whatever the time: fewer teach nothing
FEWEST_IMAGE_STEPS = 150  # on all images


@dataclasses.dataclass(frozen=True)
class Choice:
    """A setting that was chosen.

    Attributes:
        setting: a flag, or stage.flag.
        value: its value.
        reason: why, in words.
    """

    setting: str
    value: Any
    reason: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the rules go by.

    Attributes:
        images: the images.
        machine: the machine.
        stages: those of the run, by name; ("",) for a run of its own.
        budget: its time, once steps were timed; None before, and where no length is "auto".
    """

    images: image_facts.ImageFacts
    machine: machine.MachineFacts
    stages: tuple[str, ...] = ("",)
    budget: time_budget.Budget | None = None

    @property
    def on_cpu(self) -> bool:
        """Whether the machine has no accelerator."""
        return self.machine.device == "cpu"

    def labeled(self, config: config_lib.Config) -> int:
        """Returns the number of labeled images that a stage trains on."""
        if config.labels_per_class:
            return min(config.labels_per_class * self.images.num_classes, self.images.labeled)
        return round(self.images.labeled * (config.label_fraction or 1))

    def examples(self, config: config_lib.Config) -> int:
        """Returns the number of images in an epoch of a stage."""
        return self.labeled(config) if on_labels(config) else self.images.count


def on_labels(config: config_lib.Config) -> bool:
    """Whether a stage trains on labeled images alone."""
    return config.uses_labels and not modes.get(config.train_mode).hides_labels


Rule = Callable[[Facts, config_lib.Config, str], tuple[Any, str]]


# ---- rules


def image_size(facts: Facts, config: config_lib.Config, stage: str) -> tuple[int, str]:
    """The images' own size: small ones as they are, others in steps and capped by the device."""
    side = facts.images.short_side
    found = f"three quarters of the images have {side} pixels or more"
    if side <= SMALL_SIDE:
        return side, f"{found}; small images keep their size"
    largest = LARGEST_SIDE["cpu" if facts.on_cpu else "gpu"]
    if side > largest:
        return largest, f"{found}; the most for a {'CPU' if facts.on_cpu else 'GPU'}"
    return side // SIDE_STEP * SIDE_STEP, f"{found}; rounded down to a multiple of {SIDE_STEP}"


def color_jitter_strength(facts: Facts, config: config_lib.Config, stage: str) -> tuple[float, str]:
    """Gray images have no color to jitter, small ones need less of it."""
    if facts.images.gray:
        return JITTER["gray"], "the images are gray"
    size = "small" if config.image_size <= BLUR_SIDE else "large"
    return JITTER[size], f"for color images of {config.image_size} pixels"


def crop_min_area(facts: Facts, config: config_lib.Config, stage: str) -> tuple[float, str]:
    """A crop of a small image must be large to show anything."""
    size = "large"
    if config.image_size <= BLUR_SIDE:
        size = "tiny" if config.image_size <= TINY_SIDE else "small"
    return CROP[size], f"for {config.image_size} pixels: a smaller crop shows too little"


def use_blur(facts: Facts, config: config_lib.Config, stage: str) -> tuple[bool, str]:
    """Small images are unsharp already."""
    if config.image_size <= BLUR_SIDE:
        return False, f"images of up to {BLUR_SIDE} pixels are unsharp already"
    return True, f"for images of more than {BLUR_SIDE} pixels"


def resnet_depth(facts: Facts, config: config_lib.Config, stage: str) -> tuple[int, str]:
    """The deep network where a GPU has enough images for it."""
    if facts.on_cpu:
        return SHALLOW, "for a CPU"
    if facts.images.count < DEEP_IMAGES:
        return SHALLOW, f"for fewer than {DEEP_IMAGES:,} images"
    if config.image_size < DEEP_SIDE:
        return SHALLOW, f"for images of less than {DEEP_SIDE} pixels"
    return DEEP, f"for a GPU and {facts.images.count:,} images"


def stem(facts: Facts, config: config_lib.Config) -> tuple[str, str] | None:
    """A CPU's first layers halve small images: many more epochs; None leaves it to their size."""
    if facts.on_cpu and TINY_SIDE < config.image_size <= SMALL_SIDE:
        return "imagenet", "for a CPU: an epoch with the stem cifar takes several times as long"
    return None


def width_multiplier(facts: Facts, config: config_lib.Config, stage: str) -> tuple[float, str]:
    """A CPU's is the widest that trains long enough."""
    if not facts.on_cpu:
        return GPU_WIDTH, "for a GPU"
    narrow, usual, wide = CPU_WIDTHS
    if facts.budget is None:
        return usual, "for a CPU"

    def epochs(width: float) -> int:
        return fitting_epochs(facts, dataclasses.replace(config, width_multiplier=width), stage)

    time = f"fit into {_in_words(facts.budget.minutes_of(stage))}"
    if epochs(wide) >= WIDE_EPOCHS:
        return wide, f"for a CPU: {WIDE_EPOCHS} epochs and more {time}"
    if epochs(usual) < NARROW_EPOCHS:
        return narrow, f"for a CPU: with {usual}, only {epochs(usual)} epochs {time}"
    return usual, f"for a CPU: {epochs(usual)} epochs {time}"


def student_width(teacher: float) -> tuple[float, str]:
    """Returns the student's width for its teacher's."""
    return max(teacher * STUDENT_WIDTH, 0.0625), f"half of its teacher's {teacher:g}"


def train_batch_size(facts: Facts, config: config_lib.Config, stage: str) -> tuple[int, str]:
    """By the number of images, not more than there are, and what the memory holds."""
    number, unit = facts.examples(config), facts.machine.replicas * config.micro_batches
    labeled = "labeled " if number != facts.images.count else ""
    batch = next(size for below, size in BATCHES if below is None or number < below)
    reason = f"for {number:,} {labeled}images"
    if batch > number:
        batch, reason = number, f"all {number:,} {labeled}images"
    limited = dataclasses.replace(
        facts.machine,
        memory=int(facts.machine.memory * MEMORY_SHARE),
        gpu_memory=int(facts.machine.gpu_memory * MEMORY_SHARE),
    )
    widest = CPU_WIDTHS[-1] if facts.on_cpu else GPU_WIDTH
    width = widest if config.width_multiplier == fields.AUTO else config.width_multiplier
    trial = dataclasses.replace(config, train_batch_size=batch, width_multiplier=width)
    trial = trial.without_autos()
    while trial.train_batch_size > 8 and not memory_estimate.fits(
        trial, limited, facts.images.num_classes, facts.images.channels
    ):
        trial = dataclasses.replace(trial, train_batch_size=trial.train_batch_size // 2)
        reason = f"what fits into {facts.machine.training_memory / memory_estimate.GIB:.0f} GiB"
    return max(trial.train_batch_size // unit * unit, unit), reason


def temperature(facts: Facts, config: config_lib.Config, stage: str) -> tuple[float, str]:
    """Higher where small images look alike."""
    size = "tiny" if config.image_size <= TINY_SIDE else "other"
    return TEMPERATURE[size], f"for small batches of images of {config.image_size} pixels"


def memory_size(facts: Facts, config: config_lib.Config, stage: str) -> tuple[int, str]:
    """Some batches, or what a decay allows; never more than there are images."""
    if not config.use_memory:
        return config_lib.defaults()["memory_size"], "there is no memory"
    enqueued, number = config.train_batch_size * config.memory_views, facts.images.count
    size, reason = MEMORY_BATCHES * enqueued, f"of {MEMORY_BATCHES} batches"
    if config.ema_decay != fields.AUTO:
        size = memory.largest_size(config.ema_decay, enqueued)
        reason = f"the longest queue with a decay of {config.ema_decay}"
    return (number, f"all {number:,} images") if size > number else (size, reason)


def ema_decay(facts: Facts, config: config_lib.Config, stage: str) -> tuple[float, str]:
    """A fast average, but so slow that the queue is not stale."""
    if not config.use_memory:
        return config_lib.defaults()["ema_decay"], "there is no memory"
    enqueued = config.train_batch_size * config.memory_views
    least = memory.least_decay(config.memory_size, enqueued)
    if least > MEMORY_DECAY:
        return least, f"for a queue of {config.memory_size} and {enqueued} new ones a step"
    return MEMORY_DECAY, "for a short training"


def ft_proj_selector(facts: Facts, config: config_lib.Config, stage: str) -> tuple[int, str]:
    """SimCLRv2's middle layer for a pretrained head; a network from scratch has none to keep."""
    if config.proj_head_mode == "none":
        return 0, "there is no projection head"
    if stage == "finetune" or config.checkpoint:
        return SELECTOR, "fine-tuning from the first layer of the projection head, as SimCLRv2"
    return 0, "from scratch, on the features"


def learning_rate(facts: Facts, config: config_lib.Config, stage: str) -> tuple[float, str]:
    """By train mode and optimizer, in the scaling that the configuration has."""
    rate, scaling = RATES[(config.train_mode, config.optimizer)]
    batch, wanted = config.train_batch_size, config.learning_rate_scaling
    of_batch = {"linear": batch / 256, "sqrt": batch**0.5}  # as in optimization.peak_learning_rate
    peak = rate * of_batch[scaling]
    reason = f"for {config.optimizer}: {peak:.2g} at its peak, with a batch of {batch}"
    return float(f"{peak / of_batch[wanted]:.3g}"), reason


def train_epochs(facts: Facts, config: config_lib.Config, stage: str) -> tuple[int, str]:
    """As many as fit into the stage's share of the time."""
    default = config_lib.defaults()["train_epochs"]
    if config.train_steps or facts.budget is None:
        return default, "train_steps decides the length"
    fitting = fitting_epochs(facts, config, stage)
    minutes = f"{facts.budget.minutes_of(stage):.1f} of {facts.budget.minutes:g} minutes"
    reason = f"{facts.budget.step_seconds(config):.2g} s a step: {fitting} epochs"
    if fitting > MOST_EPOCHS:
        return MOST_EPOCHS, f"{reason} fit into {minutes}; {MOST_EPOCHS} are enough"
    return fitting, f"{reason} in {minutes}"


def fitting_epochs(facts: Facts, config: config_lib.Config, stage: str) -> int:
    """Returns the epochs that fit into a stage's share of the time, at least 1."""
    assert facts.budget is not None
    steps = max(facts.budget.steps(config, stage), FEWEST_IMAGE_STEPS)
    return max(steps * config.train_batch_size // max(facts.examples(config), 1), 1)


def train_steps(facts: Facts, config: config_lib.Config, stage: str) -> tuple[int, str]:
    """The length of a stage that trains on labels alone, whose epochs are short."""
    assert facts.budget is not None
    # Start and end take most of a short stage's time; leaving them out exceeds it by seconds.
    seconds, labeled = facts.budget.step_seconds(config), facts.labeled(config)
    fitting = int(60 * facts.budget.minutes_of(stage) / seconds)
    epochs = LABELED_EPOCHS[config.train_mode] * labeled // config.train_batch_size
    enough = max(LABELED_STEPS[config.train_mode], epochs)
    if fitting >= enough:
        return enough, f"enough for {labeled:,} labeled images"
    steps = max(fitting, FEWEST_STEPS)
    return steps, f"{seconds:.2g} s a step: {steps} steps in {_in_words(steps * seconds / 60)}"


def _in_words(minutes: float) -> str:
    return f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{60 * minutes:.0f} seconds"


RULES: Mapping[str, Rule] = {
    "image_size": image_size,
    "color_jitter_strength": color_jitter_strength,
    "crop_min_area": crop_min_area,
    "use_blur": use_blur,
    "resnet_depth": resnet_depth,
    "temperature": temperature,
    "ft_proj_selector": ft_proj_selector,
    "train_batch_size": train_batch_size,
    "memory_size": memory_size,
    "ema_decay": ema_decay,
    "learning_rate": learning_rate,
    "width_multiplier": width_multiplier,
    "train_epochs": train_epochs,
}
