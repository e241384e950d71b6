"""Measures training steps and the input pipeline on this machine."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tf2 import config as config_lib
from tf2 import data, training
from tf2.sources import folder


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
