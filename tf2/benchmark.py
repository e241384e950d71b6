"""Measures speed on this machine: `python -m tf2.benchmark`.

Prints a line per workload:

    images/s      training steps on a batch in memory; for `input`, the input pipeline alone.
                  An image counts once, though it gives two views
    first step    seconds of the first step, with tracing
    waiting       fraction of the time that steps fed by the input pipeline wait for data
    peak memory   of the process so far

Compare numbers of one run on one machine only.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf2 import config as config_lib
from tf2 import data, training
from tf2.sources import folder

WORKLOADS: dict[str, dict[str, Any]] = {
    "resnet18-32px": {
        "resnet_depth": 18, "image_size": 32, "train_batch_size": 64, "use_blur": False,
        "color_jitter_strength": 0.5,
    },
    "resnet50-224px": {"resnet_depth": 50, "image_size": 224, "train_batch_size": 8},
}  # fmt: skip


def peak_memory_gib() -> float:
    """Returns the peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_step(
    settings: Mapping[str, Any], steps: int, *, jit_compile: bool = False
) -> dict[str, float]:
    """Times pretraining steps, on a batch in memory and fed by the input pipeline.

    Args:
        settings: of `config.Config`.
        steps: timed steps of each kind, after the first one.
        jit_compile: whether XLA compiles the step.

    Returns:
        images_per_second of steps in memory (median), first_step_seconds, and waiting, the
        fraction of the time of fed steps in which the step waited for its batch.
    """
    config = config_lib.Config(train_steps=steps + 1, **settings)
    state = training.build_train_state(config, num_examples=50_000, num_classes=0, channels=3)
    step = tf.function(state.step, jit_compile=jit_compile)
    with tempfile.TemporaryDirectory() as directory:
        side = config.image_size * 2  # ImageNet's images are about twice as large as 224
        batch_size = config.train_batch_size
        write_images(directory, batch_size, (side, side))
        config = config.replace(data_dir=directory)
        batches = iter(data.build_dataset(config, folder.load(directory), "train", training=True))
        batch = next(batches)
        first = _seconds(step, batch)
        in_memory = [_seconds(step, batch) for _ in range(steps)]
        waited, stepped = 0.0, 0.0
        for _ in range(steps):
            start = time.perf_counter()
            fed = next(batches)
            waited += time.perf_counter() - start
            stepped += _seconds(step, fed)
    return {
        "images_per_second": batch_size / float(np.median(in_memory)),
        "first_step_seconds": first,
        "waiting": waited / (waited + stepped),
    }


def _seconds(step: Callable[[Any], Mapping[str, tf.Tensor]], batch: Any) -> float:
    start = time.perf_counter()
    float(step(batch)["total_loss"])  # waits until the step has finished
    return time.perf_counter() - start


def measure_input(
    *,
    image_size: int = 224,
    num_views: int = 2,
    file_size: tuple[int, int] = (375, 500),
    num_files: int = 64,
    batch_size: int = 32,
    color_jitter_strength: float = 1.0,
    seconds: float = 5.0,
) -> float:
    """Reads, decodes and augments JPEG images for some seconds.

    Args:
        image_size: side of a view in pixels.
        num_views: views of each image.
        file_size: height and width of the JPEG images; ImageNet's are about this large.
        num_files: number of JPEG images.
        batch_size: images in a batch, at most `num_files`.
        color_jitter_strength: 0 leaves out jitter and grayscale.
        seconds: duration of the measurement, after two batches that do not count.

    Returns:
        Images per second.
    """
    with tempfile.TemporaryDirectory() as directory:
        write_images(directory, num_files, file_size)
        dataset = data.build_train_dataset(
            folder.load(directory),
            "train",
            global_batch_size=batch_size,
            image_size=image_size,
            num_views=num_views,
            augmentation=data.Augmentation(color_jitter_strength=color_jitter_strength),
        )
        batches = iter(dataset)
        for _ in range(2):
            next(batches)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            next(batches)
            count += batch_size
        return count / (time.perf_counter() - start)


def write_images(
    directory: str, count: int, size: tuple[int, int] = (375, 500), quality: int = 90
) -> None:
    """Writes synthetic JPEG images with large shapes, texture and noise, like photographs."""
    random = np.random.RandomState(0)
    for number in range(count):
        image = np.zeros((*size, 3))
        for cells, weight in ((4, 150.0), (16, 60.0), (64, 30.0)):
            coarse = random.uniform(0.0, weight, (cells, cells, 3))
            image += tf.image.resize(coarse, size, "bicubic").numpy()
        image += random.normal(0.0, 4.0, image.shape)
        encoded = tf.io.encode_jpeg(np.clip(image, 0, 255).astype(np.uint8), quality=quality)
        tf.io.write_file(os.path.join(directory, f"{number:05d}.jpg"), encoded)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tf2.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--steps", type=int, default=8, help="timed steps per workload (default: 8)"
    )
    parser.add_argument("--jit_compile", action="store_true", help="compile the steps with XLA")
    parser.add_argument(
        "--only", choices=[*WORKLOADS, "input"], help="run one workload (default: all)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    arguments = build_parser().parse_args(argv)
    header = f"{'workload':18}{'images/s':>10}{'first step':>12}{'waiting':>9}{'peak memory':>13}"
    print(header, flush=True)
    for name, settings in WORKLOADS.items():
        if arguments.only in (None, name):
            times = measure_step(settings, arguments.steps, jit_compile=arguments.jit_compile)
            rate, first = times["images_per_second"], times["first_step_seconds"]
            waiting = f"{times['waiting']:9.1%}"
            memory = f"{peak_memory_gib():9.2f} GiB"
            print(f"{name:18}{rate:10.1f}{first:10.1f} s{waiting}{memory}", flush=True)
    if arguments.only in (None, "input"):
        rate = measure_input()
        print(f"{'input 224px':18}{rate:10.1f}{'':21}{peak_memory_gib():9.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
