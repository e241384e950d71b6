"""Speed on this machine: `python -m tf2.benchmark`.

Prints, per workload: images per second, seconds to the first step (tracing included), the share of
time that steps fed by the input pipeline wait for data, and the peak memory of the process so far.
A training step counts the images of its batch once, though each gives two views. Numbers are for
comparisons within one run on one machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time

import numpy as np
import tensorflow as tf

from tf2 import config as config_lib
from tf2 import data, training
from tf2.sources import folder

WORKLOADS = {
    "resnet18-32px": {
        "resnet_depth": 18, "image_size": 32, "train_batch_size": 64, "use_blur": False,
        "color_jitter_strength": 0.5,
    },
    "resnet50-224px": {"resnet_depth": 50, "image_size": 224, "train_batch_size": 8},
}  # fmt: skip


def peak_memory_gib() -> float:
    """Returns the most memory this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_step(settings: dict, steps: int, *, jit_compile: bool = False) -> dict[str, float]:
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
        size = config.image_size * 2  # about as ImageNet's pictures are to 224
        batch = config.train_batch_size
        write_pictures(directory, batch, (size, size))
        config = config.replace(data_dir=directory)
        batches = iter(data.build_dataset(config, folder.load(directory), "train", training=True))
        held = next(batches)
        first = _seconds(step, held)
        in_memory = [_seconds(step, held) for _ in range(steps)]
        waited, stepped = 0.0, 0.0
        for _ in range(steps):
            begin = time.perf_counter()
            fed = next(batches)
            waited += time.perf_counter() - begin
            stepped += _seconds(step, fed)
    return {
        "images_per_second": batch / float(np.median(in_memory)),
        "first_step_seconds": first,
        "waiting": waited / (waited + stepped),
    }


def _seconds(step, batch) -> float:
    begin = time.perf_counter()
    float(step(batch)["total_loss"])  # done only when its value is there
    return time.perf_counter() - begin


def measure_input(
    *,
    image_size=224,
    num_views=2,
    picture_size=(375, 500),
    num_pictures=64,
    batch_size=32,
    color_jitter_strength=1.0,
    seconds=5.0,
):
    """Reads, decodes and augments JPEG pictures for some seconds.

    Args:
      image_size: side of a view in pixels.
      num_views: views of each picture.
      picture_size: height and width of the pictures; ImageNet's are about this large.
      num_pictures: files to make.
      batch_size: pictures in a batch, at most `num_pictures`.
      color_jitter_strength: 0 leaves out jitter and grayscale.
      seconds: how long to measure, after two batches that are not counted.

    Returns:
      Pictures per second.
    """
    with tempfile.TemporaryDirectory() as directory:
        write_pictures(directory, num_pictures, picture_size)
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
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            next(batches)
            count += batch_size
        return count / (time.perf_counter() - begin)


def write_pictures(directory, count, size=(375, 500), quality=90):
    """Writes JPEG pictures with large shapes, texture and noise, like photographs."""
    random = np.random.RandomState(0)
    for number in range(count):
        picture = np.zeros((*size, 3))
        for cells, weight in ((4, 150.0), (16, 60.0), (64, 30.0)):
            coarse = random.uniform(0.0, weight, (cells, cells, 3))
            picture += tf.image.resize(coarse, size, "bicubic").numpy()
        picture += random.normal(0.0, 4.0, picture.shape)
        encoded = tf.io.encode_jpeg(np.clip(picture, 0, 255).astype(np.uint8), quality=quality)
        tf.io.write_file(os.path.join(directory, f"{number:05d}.jpg"), encoded)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each workload")
    parser.add_argument("--jit_compile", action="store_true", help="compile steps with XLA")
    parser.add_argument(
        "--only", choices=[*WORKLOADS, "input"], help="one workload in place of all"
    )
    arguments = parser.parse_args()
    header = f"{'workload':18}{'images/s':>10}{'first step':>12}{'waiting':>9}{'peak memory':>13}"
    print(header, flush=True)
    for name, settings in WORKLOADS.items():
        if arguments.only in (None, name):
            found = measure_step(settings, arguments.steps, jit_compile=arguments.jit_compile)
            rate, first = found["images_per_second"], found["first_step_seconds"]
            waiting = f"{found['waiting']:9.1%}"
            memory = f"{peak_memory_gib():9.2f} GiB"
            print(f"{name:18}{rate:10.1f}{first:10.1f} s{waiting}{memory}", flush=True)
    if arguments.only in (None, "input"):
        rate = measure_input()
        print(f"{'input 224px':18}{rate:10.1f}{'':21}{peak_memory_gib():9.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
