"""Metrics, and the writers of a run's scalars, figures and results.

The metrics are pure functions of tensors that also run inside a `tf.function`. `Writer` writes
TensorBoard events and JSON files.

Shapes: n images per replica, r replicas, d width of the projection, c classes.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.util import event_pb2

from tf2 import files


def contrast_accuracy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns the share of anchors whose nearest second view is their own.

    Args:
        logits: (n, r * n) similarities of this replica's first views with all second views.
        labels: (n, 2 * r * n) one-hot over second views, then first views; the positive lies in
            the first half.

    Returns:
        A scalar in [0, 1]; 1 / (r * n) by chance.
    """
    # As in the reference: only the r * n second views are candidates, not all 2 * r * n - 1
    # embeddings of the loss. `full_contrast_accuracy` is stricter.
    hits = tf.equal(tf.argmax(labels, axis=1), tf.argmax(logits, axis=1))
    return tf.reduce_mean(tf.cast(hits, tf.float32))


def contrast_entropy(logits: tf.Tensor) -> tf.Tensor:
    """Returns the mean entropy, in nats, of the softmax of logits (n, r * n): 0 to ln(r * n)."""
    p = tf.nn.softmax(tf.cast(logits, tf.float32), axis=1)
    return -tf.reduce_mean(tf.reduce_sum(p * tf.math.log(p + 1e-8), axis=1))


def full_contrast_accuracy(hidden: tf.Tensor, hidden_norm: bool = True) -> tf.Tensor:
    """Returns the share of anchors whose nearest other embedding is the other view of their image.

    Both views are anchors, and all 2n - 1 other embeddings of this replica are candidates, as in
    the loss.

    Args:
        hidden: projections (2n, d); row i and row n + i are two views of one image.
        hidden_norm: whether similarity is the cosine; otherwise the dot product.

    Returns:
        A scalar in [0, 1]; 1 / (2n - 1) by chance.
    """
    hidden = _unit(hidden) if hidden_norm else tf.cast(hidden, tf.float32)
    similarity = tf.matmul(hidden, hidden, transpose_b=True)  # (2n, 2n)
    size = tf.shape(hidden)[0]
    itself = tf.fill([size], similarity.dtype.min)
    nearest = tf.argmax(tf.linalg.set_diag(similarity, itself), axis=1, output_type=tf.int32)
    partner = tf.math.floormod(tf.range(size) + size // 2, size)
    return tf.reduce_mean(tf.cast(tf.equal(nearest, partner), tf.float32))


def alignment(hidden: tf.Tensor) -> tf.Tensor:
    """Returns the mean squared distance of the two views of an image, on the unit sphere.

    Wang and Isola 2020, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", section 4.1, with alpha = 2. It is 0 if the views coincide and 2
    if they are unrelated.

    Args:
        hidden: projections (2n, d); row i and row n + i are two views of one image.
    """
    first, second = tf.split(_unit(hidden), 2, axis=0)  # each (n, d)
    return tf.reduce_mean(tf.reduce_sum(tf.square(first - second), axis=1))


def uniformity(embeddings: tf.Tensor) -> tf.Tensor:
    """Returns the uniformity of the embeddings of different images on the unit sphere.

    The logarithm of the mean Gaussian potential over all pairs, t = 2 (Wang and Isola 2020, section
    4.1): 0 if all embeddings coincide (collapse), close to -4 if they are spread evenly.

    Args:
        embeddings: (n, d) of one view each; 0 for a single one, which has no pair.
    """
    unit = _unit(embeddings)
    n = tf.shape(unit)[0]
    distance = 2.0 - 2.0 * tf.matmul(unit, unit, transpose_b=True)  # (n, n), squared
    potential = tf.exp(-2.0 * tf.maximum(distance, 0.0))
    total = tf.reduce_sum(tf.linalg.set_diag(potential, tf.zeros([n])))
    pairs = tf.cast(n * (n - 1), tf.float32)
    return tf.where(pairs > 0, tf.math.log(total / tf.maximum(pairs, 1.0)), 0.0)


def embedding_std(embeddings: tf.Tensor) -> tf.Tensor:
    """Returns the spread of embeddings (n, d) on the unit sphere: 1 if isotropic, 0 if collapsed.

    It is the mean over the coordinates of their standard deviation over the batch, times sqrt(d) to
    be independent of the width.
    """
    unit = _unit(embeddings)
    width = tf.cast(tf.shape(unit)[1], tf.float32)
    return tf.reduce_mean(tf.math.reduce_std(unit, axis=0)) * tf.sqrt(width)


def embedding_scalars(hidden: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns scalars that show whether the embeddings collapse.

    They are computed on this replica's embeddings, without gradient.

    Args:
        hidden: projections (2n, d); row i and row n + i are two views of one image.
    """
    hidden = tf.stop_gradient(hidden)
    first, _ = tf.split(hidden, 2, axis=0)  # (n, d)
    return {
        "contrast_acc_full": full_contrast_accuracy(hidden),
        "alignment": alignment(hidden),
        "uniformity": uniformity(first),
        "embedding_std": embedding_std(first),
    }


def chance_level(num_examples: int) -> float:
    """Returns the cross entropy, in nats, of equal similarities to all candidates.

    It is ln(2N - 1) for a global batch of N images. The contrastive loss is a sum over two
    directions, so its chance level is twice this value.
    """
    assert num_examples >= 1, num_examples
    return math.log(2 * num_examples - 1)


def in_top_k(labels: tf.Tensor, logits: tf.Tensor, k: int) -> tf.Tensor:
    """Returns whether the true class of each example is among its k highest logits.

    Args:
        labels: (n, c), one-hot.
        logits: (n, c).
        k: number of predicted classes, at most c.

    Returns:
        (n,) float32, 0 or 1. An example with a NaN logit counts as wrong.
    """
    # Unlike the reference: ties go to the lower class for every k. `tf.math.in_top_k` counts all
    # tied classes as hits, so a head of zeros would have a top-5 accuracy of 100%.
    logits = tf.cast(logits, tf.float32)
    predicted = tf.math.top_k(logits, k=k).indices  # (n, k)
    target = tf.argmax(labels, axis=1, output_type=tf.int32)  # (n,)
    hits = tf.reduce_any(tf.equal(predicted, target[:, tf.newaxis]), axis=1)
    valid = tf.logical_not(tf.reduce_any(tf.math.is_nan(logits), axis=1))
    return tf.cast(tf.logical_and(hits, valid), tf.float32)


def top_k_accuracy(labels: tf.Tensor, logits: tf.Tensor, k: int) -> tf.Tensor:
    """Returns the mean of `in_top_k`, a scalar in [0, 1]."""
    return tf.reduce_mean(in_top_k(labels, logits, k))


def _unit(x: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(tf.cast(x, tf.float32), axis=1)


class Writer:
    """Writes a run's TensorBoard events, result files and flags.

    File names and keys are the reference's. With several workers, only the chief has a writer.
    """

    def __init__(self, model_dir: str) -> None:
        """Opens nothing yet; the first event creates the event file."""
        self._model_dir = os.fspath(model_dir)
        self._events: Any = None

    def _event_writer(self) -> Any:
        if self._events is None:
            files.make_directory(self._model_dir)
            with files.writing(self._model_dir, "TensorBoard's events"):
                self._events = tf.summary.create_file_writer(self._model_dir)
        return self._events

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes scalars, name -> number or scalar tensor, at `step`."""
        with self._event_writer().as_default():
            for name, value in values.items():
                tf.summary.scalar(name, float(value), step=int(step))
        self._events.flush()

    def image_pairs(self, name: str, images: tf.Tensor, step: int, max_outputs: int = 8) -> None:
        """Writes augmented pairs, with the two views of an image side by side.

        Args:
            name: tag in TensorBoard.
            images: (n, h, w, 2c), both views on channels, float32 in [0, 1]. If c is neither 1 nor
                3, only the first channel is shown.
            step: training step of the event.
            max_outputs: maximum number of pairs.
        """
        pairs = tf.concat(tf.split(images[:max_outputs], 2, axis=-1), axis=2)  # (n, h, 2w, c)
        if pairs.shape[-1] not in (1, 3):
            pairs = pairs[..., :1]
        with self._event_writer().as_default():
            tf.summary.image(name, tf.cast(pairs, tf.float32), int(step), max_outputs)
        self._events.flush()

    def figure(self, name: str, png: bytes, step: int) -> None:
        """Writes a figure, given as the bytes of a PNG file."""
        image = tf.io.decode_png(png, channels=3)
        with self._event_writer().as_default():
            tf.summary.image(name, image[tf.newaxis], int(step))
        self._events.flush()

    def write_result(self, values: Mapping[str, float], step: int) -> None:
        """Writes result.json and result_<step>.json."""
        # As in the reference: every value is a float, global_step too.
        result = {name: float(value) for name, value in values.items()}
        result["global_step"] = float(step)
        for name in (f"result_{int(step)}.json", "result.json"):
            files.write_json(os.path.join(self._model_dir, name), result)

    def write_flags(self, values: Mapping) -> None:
        """Writes flags.json, every flag by name, without values that JSON cannot represent."""
        files.make_directory(self._model_dir)
        plain = {name: values[name] for name in sorted(values) if _is_plain(values[name])}
        files.write_json(os.path.join(self._model_dir, "flags.json"), plain)

    def close(self) -> None:
        """Closes the event file; a later event opens a new one."""
        if self._events is not None:
            self._events.close()
            self._events = None


def write_only_figure(directory: str, name: str, png: bytes, step: int) -> None:
    """Writes a figure to an event file of its own and removes its earlier versions.

    Args:
        directory: directory of the event files.
        name: tag of the figure and suffix of its event file.
        png: the bytes of a PNG file.
        step: training step of the event.
    """
    suffix = f".{name}"
    earlier = tf.io.gfile.glob(os.path.join(directory, f"events.out.tfevents.*{suffix}"))
    with files.writing(directory, "TensorBoard's events"):
        events = tf.summary.create_file_writer(directory, filename_suffix=suffix)
        with events.as_default():
            tf.summary.image(name, tf.io.decode_png(png, channels=3)[tf.newaxis], int(step))
        events.close()
    for path in earlier:
        files.remove(path)


def read_scalars(model_dir: str) -> dict[str, list[tuple[int, float]]]:
    """Reads a run's scalars from its TensorBoard events.

    Returns:
        Name -> list of (step, value) in order of steps. If a step has several values, as in a
        resumed run, the last one counts.
    """
    scalars: dict[str, dict[int, float]] = {}
    for path in sorted(tf.io.gfile.glob(os.path.join(model_dir, "events.out.tfevents.*"))):
        for event in _events(path):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    scalar = float(tf.make_ndarray(value.tensor))
                    scalars.setdefault(value.tag, {})[event.step] = scalar
    return {name: sorted(points.items()) for name, points in scalars.items()}


def _events(path: str) -> Iterator[event_pb2.Event]:
    """Yields the events of a file; a truncated last event of a killed process is left out."""
    with contextlib.suppress(tf.errors.DataLossError):
        for record in tf.data.TFRecordDataset(path):
            yield event_pb2.Event.FromString(record.numpy())


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))
