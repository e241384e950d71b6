"""Features of images by a frozen network: any endpoint or projection layer, cached on disk.

final_avg_pool                   the backbone's output (n, d)
initial_conv ... block_group4    averaged over height and width
proj_0, proj_1, ...              the projection head's layers: 0 is the backbone's output
proj_head_output, logits_sup     if the network has them
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from tf2 import config as config_lib
from tf2 import data, errors, evaluation, files, progress, variables
from tf2 import model as model_lib
from tf2.apply import results
from tf2.sources import loaders


@dataclasses.dataclass(frozen=True, repr=False)
class Features:
    """Features of a split, in its stored order.

    Attributes:
        values: (n, d) float32.
        labels: (n,) int64; -1 for an unlabeled image.
        ids: the images' names: paths relative to their folder, or their numbers in an array.
    """

    values: np.ndarray
    labels: np.ndarray
    ids: Sequence[str]

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.values)

    def __repr__(self) -> str:
        labeled = int(np.sum(self.labels >= 0))
        width = self.values.shape[1]
        return f"Features({len(self):,} images, {width:,} features each, {labeled:,} labeled)"

    def _repr_html_(self) -> str:
        return results.html_table(self._rows(count=results.ROWS_SHOWN, width=4), len(self))

    def _rows(self, count: int | None = None, width: int | None = None) -> list[dict]:
        columns = [f"feature_{number}" for number in range(self.values.shape[1])][:width]
        parts = zip(self.ids, self.labels[:count], self.values[:count, :width], strict=False)
        return [
            {"id": name, "label": int(label), **dict(zip(columns, values, strict=True))}
            for name, label, values in parts
        ]

    def to_csv(self, path: str | os.PathLike) -> str:
        """Writes a CSV file with the columns id, label, feature_0, feature_1, ...

        Args:
            path: of the file; its directory is created.

        Returns:
            The path.
        """
        return results.write_csv(path, self._rows())


def endpoint_function(model: model_lib.SimCLR, endpoint: str) -> Callable:
    """Returns a function (images, training) -> {endpoint: features (n, d)}.

    Raises:
        errors.UserError: the network has no such endpoint.
    """

    def run(images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        endpoints = model(images, training=training)
        layers = model.project(endpoints["final_avg_pool"], training=training)
        endpoints |= {f"proj_{number}": layer for number, layer in enumerate(layers)}
        if endpoint not in endpoints:
            raise errors.UserError(
                f"An endpoint is one of {', '.join(endpoints)}. Received: endpoint={endpoint}. "
                "Correct --endpoint."
            )
        value = endpoints[endpoint]
        return {endpoint: tf.reduce_mean(value, [1, 2]) if value.shape.rank == 4 else value}

    return run


def _read_cache(path: str, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the features (n, d) and labels (n,) of a cache file; None if it is damaged."""
    with tf.io.gfile.GFile(path, "rb") as file:
        contents = io.BytesIO(file.read())
    try:
        cached = np.load(contents)
        values, labels = cached["values"], cached["labels"]
        if values.shape[:1] == labels.shape == (count,) and values.dtype.kind == "f":
            return values, labels
        reason = f"{len(values):,} rows for {count:,} images"
    except (
        zipfile.BadZipFile, zlib.error, ValueError, KeyError, OSError, EOFError, TypeError,
        AttributeError, NotImplementedError,
    ) as error:  # fmt: skip
        reason = str(error) or type(error).__name__
    logging.warning("The cached features %s are damaged (%s): they are recomputed.", path, reason)
    return None


class Extractor:
    """Computes features of a network, with a cache on disk.

    The cache key is all that features depend on: weights, architecture, preprocessing, images,
    endpoint.
    """

    def __init__(
        self,
        model: model_lib.SimCLR,
        config: config_lib.Config,
        images: loaders.Source,
        strategy: tf.distribute.Strategy,
        *,
        directory: str | None = None,
    ):
        """Stores the arguments; features are computed by a call.

        Args:
            model: the network.
            config: its image and evaluation settings are used.
            images: the source of the images.
            strategy: the devices.
            directory: of the cache; None turns it off.
        """
        self._model, self._config, self._images = model, config, images
        self._strategy, self._directory = strategy, directory
        self._weights: str | None = None

    def __call__(self, split: str, endpoint: str = "final_avg_pool") -> Features:
        """Returns the features of a split, from the cache if they are there."""
        ids = self._images.ids(split)
        path = None
        if self._directory:
            path = os.path.join(self._directory, f"{split}_{self._key(split, endpoint, ids)}.npz")
            if tf.io.gfile.exists(path) and (cached := _read_cache(path, len(ids))):
                return Features(*cached, ids)
        values, labels = self._compute(split, endpoint, len(ids))
        if path:
            files.make_directory(os.path.dirname(path))
            buffer = io.BytesIO()
            np.savez(buffer, values=values, labels=labels)
            files.write_bytes(path, buffer.getvalue())
        return Features(values, labels, ids)

    def _key(self, split: str, endpoint: str, ids: Sequence[str]) -> str:
        """Returns the cache key of a split's features."""
        if self._weights is None:
            digest = hashlib.sha256()
            for name, value in variables.named_variables(self._model).items():
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(value.numpy()).tobytes())
            self._weights = digest.hexdigest()
        # The labels are cached with the features. The fingerprint changes with the image files.
        parts = [
            "\n".join(ids),
            self._images.labels(split).tolist(),
            self._images.fingerprint(split),
        ]
        images = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        key = [
            *(self._weights, self._model.hyperparameters, images, endpoint, split),
            *(self._images.name, self._config.data_dir),
            data.preprocessing_contract(self._config, self._images),
        ]
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]

    def _compute(self, split: str, endpoint: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features (n, d) and labels (n,) of a split."""
        function = endpoint_function(self._model, endpoint)
        size, channels = self._config.image_size, self._model.hyperparameters["channels"]
        function(tf.zeros([1, size, size, channels]))  # raises for an unknown endpoint, eagerly
        run = evaluation.make_extract(self._strategy, function, endpoint)
        batches = evaluation.Evaluator(self._config, self._images, self._strategy).batches(split)
        steps = -(-count // self._config.eval_batch_size)
        shown = progress.track(batches, steps, f"features of {split}")
        return evaluation.extract_features(run, shown)
