"""Features of images by a frozen network: any endpoint or projection layer, kept on disk.

final_avg_pool                   the backbone's output (n, d)
initial_conv ... block_group4    averaged over height and width
proj_0, proj_1, ...              the projection head's layers: 0 is the backbone's output
proj_head_output, logits_sup     where the network has them
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf2 import data, errors, evaluation, files, progress, variables


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of a split, in its stored order.

    Attributes:
        values: (n, d) float32.
        labels: (n,) int64; -1 where there is none.
        ids: the images' names.
    """

    values: np.ndarray
    labels: np.ndarray
    ids: Sequence[str]


def endpoint_function(model, endpoint: str) -> Callable:
    """Returns a function (images, training) -> {endpoint: features (n, d)}.

    Raises:
        errors.UserError: the network has no such endpoint.
    """

    def run(images, training=False):
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


class Extractor:
    """Computes features of a network once, and keeps them below a directory.

    The key is all that they depend on: weights, architecture, preprocessing, images, endpoint.
    """

    def __init__(self, model, config, images, strategy, *, directory: str | None = None):
        """Computes nothing yet.

        Args:
            model: a `model.SimCLR`.
            config: a `config.Config`; its image and evaluation settings count.
            images: a `source.Source`.
            strategy: the devices.
            directory: where to keep features; None keeps none.
        """
        self._model, self._config, self._images = model, config, images
        self._strategy, self._directory = strategy, directory
        self._weights: str | None = None

    def __call__(self, split: str, endpoint: str = "final_avg_pool") -> Features:
        """Returns the features of a split, from the disk where they are there."""
        ids = self._images.ids(split)
        path = None
        if self._directory:
            path = os.path.join(self._directory, f"{split}_{self._key(split, endpoint, ids)}.npz")
            if tf.io.gfile.exists(path):
                with tf.io.gfile.GFile(path, "rb") as file:
                    held = np.load(io.BytesIO(file.read()))
                return Features(held["values"], held["labels"], ids)
        values, labels = self._compute(split, endpoint, len(ids))
        if path:
            files.make_directory(self._directory)
            contents = io.BytesIO()
            np.savez(contents, values=values, labels=labels)
            files.write_bytes(path, contents.getvalue())
        return Features(values, labels, ids)

    def _key(self, split: str, endpoint: str, ids: Sequence[str]) -> str:
        if self._weights is None:
            digest = hashlib.sha256()
            for name, value in variables.named_variables(self._model).items():
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(value.numpy()).tobytes())
            self._weights = digest.hexdigest()
        # The labels are kept with the features; of pictures in files also their changes count.
        parts = ["\n".join(ids), self._images.labels(split).tolist(), self._images.stamp(split)]
        images = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        made_of = [
            *(self._weights, self._model.hyperparameters, images, endpoint, split),
            *(self._images.name, self._config.data_dir),
            data.preprocessing_contract(self._config, self._images),
        ]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:24]

    def _compute(self, split: str, endpoint: str, count: int):
        function = endpoint_function(self._model, endpoint)
        size, channels = self._config.image_size, self._model.hyperparameters["channels"]
        function(tf.zeros([1, size, size, channels]))  # a wrong endpoint says so, outside a graph
        run = evaluation.make_extract(self._strategy, function, endpoint)
        batches = evaluation.Evaluator(self._config, self._images, self._strategy).batches(split)
        steps = -(-count // self._config.eval_batch_size)
        shown = progress.over(batches, steps, f"features of {split}")
        return evaluation.extract_features(run, shown)
