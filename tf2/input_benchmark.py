"""Measures how fast the host prepares pretraining views, on JPEG files made here."""

import os
import tempfile
import time

import numpy as np
import tensorflow as tf

from tf2 import data, folder


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
