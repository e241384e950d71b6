"""What a training takes, before a device is rented: parameters, work, memory, messages, time.

Shapes and memory are those of the check before every run (`auto.memory_estimate`): no network is
built, no image read and no TensorFlow imported.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tf2 import architecture, console, errors, machine, modes
from tf2 import config as config_lib
from tf2.auto import memory_estimate

# Dataset -> training images, classes and channels, as its publication or TFDS states them.
DATASETS = {
    "imagenet2012": (1_281_167, 1000, 3),
    "cifar10": (50_000, 10, 3),
    "cifar100": (50_000, 100, 3),
    "digits": (1_437, 10, 1),
}
_BACKWARD = 2  # times the products of the forward pass: for the inputs and for the weights
_FLOAT = 4  # bytes


@dataclasses.dataclass(frozen=True)
class Data:
    """The training images of a plan.

    Attributes:
        images: their number.
        classes: 0 without labels.
        channels: 1 or 3.
    """

    images: int
    classes: int
    channels: int


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """What a stage takes.

    Attributes:
        name: of the stage.
        batch: images of a step, on all replicas.
        parameters: trained weights.
        flops_per_image: of a training step, for all views of one image, with the forward passes of
            a teacher, a moving average or micro-batches. A product and a sum are 2.
        memory: of a replica, in bytes; without TensorFlow on the host.
        largest_batch: that fits into the devices, 0 if none does; None where their size is unknown.
        micro_batches: the fewest parts of the batch with which it fits, 0 if none does.
        sent_per_step: bytes that a replica sends the others in a step: gradients, embeddings
            and batch norm's sums, by ring all-reduce and all-gather.
        steps: of the stage.
    """

    name: str
    batch: int
    parameters: int
    flops_per_image: float
    memory: memory_estimate.MemoryEstimate
    largest_batch: int | None
    micro_batches: int | None
    sent_per_step: int
    steps: int

    def hours(self, flops_per_second: float) -> float:
        """Returns the hours of the stage.

        Args:
            flops_per_second: of all replicas together.
        """
        return self.steps * self.batch * self.flops_per_image / flops_per_second / 3600


def data_of(config: config_lib.Config, images: int = 0, classes: int = 0) -> Data:
    """Returns the data of a plan.

    Args:
        config: the run.
        images: training images; 0 looks the dataset up in `DATASETS`.
        classes: likewise.

    Raises:
        errors.UserError: the dataset is unknown, or only a part of it is used.
    """
    known = DATASETS.get(config.dataset, (0, 0, 3))
    part = re.fullmatch(r"train(?:\[:(\d+)\])?", config.train_split)
    if part is not None and not images:
        images = int(part[1] or known[0])
    if not images:
        raise errors.UserError(
            "A plan needs the number of training images. Received: "
            f"dataset={config.dataset}, train_split={config.train_split}. Set --num_images and "
            "--num_classes."
        )
    return Data(images, classes or known[1], known[2])


def stages_of(config: config_lib.Config) -> Iterator[tuple[str, config_lib.Config]]:
    """Yields name and settings of the stages of a run; a single one has its train mode's name."""
    if not config.all_stages:
        yield config.train_mode, config
        return
    for name in config_lib.STAGES:
        if name != "student" or config.stages.get("student"):
            yield name, config.for_stage(name)


def plan(
    config: config_lib.Config, data: Data, *, replicas: int = 1, device_memory: int = 0
) -> list[StagePlan]:
    """Returns what the stages of a run take.

    Args:
        config: the run, without "auto".
        data: its training images.
        replicas: devices over which a batch is divided.
        device_memory: bytes of one device; 0 if unknown.

    Raises:
        errors.UserError: a setting is "auto", the network is no ResNet, or a batch is not
            divisible by the replicas.
    """
    config.check_resolved()
    if config.backbone != architecture.DEFAULT_BACKBONE:
        raise errors.UserError(
            "A plan is arithmetic on the shapes of a ResNet. Received: "
            f"backbone={config.backbone}. Leave --backbone out, or time steps on the device."
        )
    stages = dict(stages_of(config))
    found = []
    for name, stage in stages.items():
        if stage.train_batch_size % replicas:
            raise errors.UserError(
                "A batch is divided by the replicas. Received: "
                f"train_batch_size={stage.train_batch_size} of {name}, replicas={replicas}. Set "
                "another --replicas."
            )
        teacher = stages.get("finetune" if name == "distill" else "distill")
        found.append(_plan_stage(name, stage, teacher, data, replicas, device_memory))
    return found


def _plan_stage(
    name: str,
    config: config_lib.Config,
    teacher: config_lib.Config | None,
    data: Data,
    replicas: int,
    device_memory: int,
) -> StagePlan:
    mode = modes.get(config.train_mode)
    images = data.images
    if config.trains_on_labels:
        images = round(images * config.label_fraction) if config.label_fraction else images
        images = data.classes * config.labels_per_class or images
    batch = min(config.train_batch_size, images)
    config = dataclasses.replace(config, train_batch_size=batch)
    teacher = (teacher or config) if mode.distills else None
    layers = memory_estimate.layers_of(config, data.classes, data.channels)
    needed = memory_estimate.estimate(
        *(config, data.classes, data.channels), replicas=replicas, teacher=teacher
    )
    assert needed is not None  # a ResNet
    parameters = sum(layer.trained for layer in layers)
    statistics = sum(layer.statistics for layer in layers)
    forward = mode.views * 2 * sum(layer.multiply_adds for layer in layers)
    flops = (1 + _BACKWARD + config.recompute) * forward
    embeddings = 0
    if mode.pretrains:
        flops += forward if config.use_memory else 0
        flops += forward if config.micro_batches > 1 else 0
        embeddings = mode.views * config.train_batch_size * config.proj_out_dim
    if teacher is not None:
        taught = memory_estimate.layers_of(teacher, data.classes, data.channels)
        flops += mode.views * 2 * sum(layer.multiply_adds for layer in taught)
    largest, parts = _what_fits(config, teacher, data, replicas, device_memory)
    summed = parameters + (2 * statistics if config.global_bn else 0)  # forward and backward
    others = (replicas - 1) / replicas
    return StagePlan(
        name=name,
        batch=batch,
        parameters=parameters,
        flops_per_image=float(flops),
        memory=needed,
        largest_batch=largest,
        micro_batches=parts,
        sent_per_step=int(_FLOAT * others * (2 * summed + embeddings)),
        steps=config_lib.get_train_steps(images, batch, config.train_epochs, config.train_steps),
    )


def _what_fits(
    config: config_lib.Config,
    teacher: config_lib.Config | None,
    data: Data,
    replicas: int,
    device_memory: int,
) -> tuple[int, int] | tuple[None, None]:
    """Returns largest_batch and micro_batches of a stage; see `StagePlan`."""
    if not device_memory:
        return None, None
    facts = machine.MachineFacts("gpu", gpu_memory=device_memory, replicas=replicas)

    def fits(**changes: Any) -> bool:
        changed = dataclasses.replace(config, **changes)
        return memory_estimate.fits(changed, facts, data.classes, data.channels, teacher)

    unit = replicas * config.micro_batches
    low, high = 0, 1
    while fits(train_batch_size=high * unit) and high < 2**20:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(train_batch_size=middle * unit) else (low, middle)
    parts = (config.micro_batches, *memory_estimate.more_parts(config, replicas))
    return low * unit, next((k for k in parts if fits(micro_batches=k)), 0)


def describe(stages: Sequence[StagePlan], *, replicas: int, flops_per_second: float = 0) -> str:
    """Returns a plan as two Markdown tables: work and time; memory of a replica.

    Args:
        stages: the plan.
        replicas: devices over which a batch is divided.
        flops_per_second: of all replicas together; 0 leaves out the time.
    """
    head: tuple[str, ...] = ("stage", "parameters", "batch", "steps", "GFLOP per image")
    head += ("sent per step",) if replicas > 1 else ()
    head += ("hours", "device-days") if flops_per_second else ()
    work = []
    for stage in stages:
        row: tuple[str, ...] = (stage.name, f"{stage.parameters:,}", f"{stage.batch:,}")
        row += (f"{stage.steps:,}", f"{stage.flops_per_image / 1e9:.4g}")
        row += (f"{stage.sent_per_step / 1e6:,.1f} MB",) if replicas > 1 else ()
        if flops_per_second:
            hours = stage.hours(flops_per_second)
            row += (f"{hours:,.1f}", f"{hours * replicas / 24:,.1f}")
        work.append(row)
    parts = ("weights", "activations", "batches", "loss")
    known = stages[0].largest_batch is not None
    columns = ["memory of a replica (GB)", "at its peak", *parts]
    columns += ["largest batch that fits", "--micro_batches"] if known else []
    memory = []
    for stage in stages:
        numbers = (stage.memory.on_gpu(), *(getattr(stage.memory, part) for part in parts))
        cells = [stage.name, *(f"{number / 1e9:.2f}" for number in numbers)]
        fitting = (
            f"{number:,}" if number else "none"
            for number in (stage.largest_batch, stage.micro_batches)
        )
        memory.append([*cells, *fitting] if known else cells)
    return f"{console.markdown_table(head, work)}\n\n{console.markdown_table(columns, memory)}"
