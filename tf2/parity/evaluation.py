"""Comparisons with the reference: evaluations of networks with given weights; preprocessing.

Each function takes a `golden.Pack` and returns a list of `golden.Comparison`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tf2 import data_util, evaluation
from tf2.augment import color_ops
from tf2.parity import golden
from tf2.parity import runs as parity_runs


def _padded_batches(config: Mapping, strategy: tf.distribute.Strategy) -> Iterator[Any]:
    """Yields distributed, padded batches of the evaluation's images, in order."""
    flags, count, classes = config["flags"], config["num_eval_examples"], config["num_classes"]
    images, _, labels = golden.training_batch(
        config["eval_seed"], 0, count, flags["image_size"], classes
    )
    batch, replicas = flags["eval_batch_size"], strategy.num_replicas_in_sync
    for start in range(0, count, batch):
        real = min(batch, count - start)
        part = {
            "image": images[start : start + batch],
            "label": np.eye(classes, dtype=np.float32)[labels[start : start + batch]],
            "mask": np.ones(real, np.float32),
        }
        part = {
            k: np.pad(v, [(0, batch - real)] + [(0, 0)] * (v.ndim - 1)) for k, v in part.items()
        }
        shares = {k: np.split(v, replicas) for k, v in part.items()}

        def share(context: Any, shares: Mapping = shares) -> dict[str, tf.Tensor]:
            return {k: tf.constant(v[context.replica_id_in_sync_group]) for k, v in shares.items()}

        if replicas == 1:
            yield {k: tf.constant(v) for k, v in part.items()}
        else:
            yield strategy.experimental_distribute_values_from_function(share)


def evaluations(pack: golden.Pack) -> list[golden.Comparison]:
    """Accuracies over all examples and the regularization loss, on one and two replicas.

    The reference's regularization loss of fine-tuning with momentum includes unused projection
    layers. They are subtracted from its number, since ours has no such layers.
    """
    results = []
    for run in pack.json("08_trajectory/evaluation.json")["runs"]:
        config, expected = run["config"], run["result_json"]
        built = parity_runs.build_run(config)
        flags = config["flags"]
        step = evaluation.make_classification_step(built.model, top_5=True)
        totals = evaluation.sum_over(
            evaluation.make_sum(built.strategy, step), _padded_batches(config, built.strategy)
        )
        ours = evaluation.classification_results(totals)
        ours["eval/regularization_loss"] = evaluation.regularization_loss(
            built.model, optimizer=flags["optimizer"], weight_decay=flags["weight_decay"]
        )
        unused = parity_runs.unused_decay(config, 0)
        for key, reference in expected.items():
            if key == "global_step":  # an input: the number of training steps
                continue
            if key == "eval/regularization_loss":
                reference -= unused
            results.append(
                golden.compare("evaluation", run["name"], key, reference, ours[key], rtol=2e-6)
            )
        results.append(
            golden.compare(
                "evaluation", run["name"], "images", config["num_eval_examples"],
                totals["count"],
            )
        )  # fmt: skip
    return results


_IMAGE_OP = {"atol": 2e-6}
_JITTER = {"atol": 5e-6}


def preprocessing(pack: golden.Pack) -> list[golden.Comparison]:
    """The deterministic image operations: crops, blur, grayscale, brightness, color jitter."""
    table = pack.json("07_preprocess/deterministic.json")
    arrays = pack.arrays("07_preprocess/deterministic.npz")
    results = []
    rows = table["crop_shape"]["rows"]
    ours = [[*row[:4], *(int(x) for x in data_util.compute_crop_shape(*row[:4]))] for row in rows]
    results.append(golden.compare_tables("preprocess", "crop_shape", "sizes", rows, ours))
    for e in table["center_crop"]:
        pixels = arrays[e["key"].split("/")[1]]
        height, width = (int(x) for x in e["key"].rsplit("/", 1)[1].split("x"))
        crop = data_util.center_crop(tf.constant(pixels), height, width).numpy()
        results += _image(e["key"], crop, arrays, e)
        evaluated = data_util.preprocess_for_eval(tf.constant(pixels), height, width).numpy()
        results.append(_sums(f"{e['key']} clipped", e["eval_clipped"], evaluated))
    image = data_util.to_float(arrays["image5"])
    plain = data_util.preprocess_image(tf.constant(arrays["image5"]), 32, 32)
    results += _image("eval_nocrop/image5/32x32", plain, arrays)
    for e in table["gaussian_blur"]:
        blurred = data_util.gaussian_blur(
            data_util.to_float(arrays["image2"]), e["kernel_size"], e["sigma"], e["padding"]
        )
        results += _image(e["key"], blurred, arrays, e)
    results += _image("gray/image5", data_util.to_grayscale(image), arrays)
    gray = data_util.to_grayscale(image, keep_channels=False)
    results += _image("gray1/image5", gray, arrays)
    return results + _jitters(table, arrays, image)


def _jitters(table: Mapping, arrays: golden.Arrays, image: tf.Tensor) -> list[golden.Comparison]:
    """Brightness alone (the reference's number is of its unclipped op), then full jitters."""
    results = []
    for e in table["brightness_simclrv2"]:
        plain = np.asarray(image, np.float64) * e["factor"]
        results.append(_sums(f"brightness {e['factor']}", e, plain))
        factors = tf.constant([e["factor"], 1.0, 1.0, 0.0])  # the other three change nothing
        bright = color_ops.apply_color_jitter(image, factors, tf.range(4))
        results.append(
            golden.compare(
                "preprocess", f"brightness {e['factor']}", "pixels, clipped",
                np.clip(plain, 0.0, 1.0), bright, **_JITTER,
            )
        )  # fmt: skip
    for e in table["color_jitter_fixed"]["rows"]:
        names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_delta")
        factors = tf.constant([e[name] for name in names], tf.float32)
        jittered = color_ops.apply_color_jitter(image, factors, tf.constant(e["order"]))
        results += _image(e["key"], jittered, arrays, tolerance=_JITTER)
    return results


def _image(
    key: str,
    ours: Any,
    arrays: golden.Arrays,
    sums: Mapping | None = None,
    tolerance: Mapping | None = None,
) -> list[golden.Comparison]:
    """Compares an image, or the stored samples of it, and its sums."""
    ours = np.asarray(ours)
    tolerance = tolerance or _IMAGE_OP
    results = []
    # Large images are stored as samples, or as their sums alone.
    if key in arrays:
        results.append(golden.compare("preprocess", key, "pixels", arrays[key], ours, **tolerance))
    elif f"{key}/value" in arrays:
        reference, samples = arrays[f"{key}/value"], ours.ravel()[arrays[f"{key}/index"]]
        results.append(golden.compare("preprocess", key, "pixels", reference, samples, **tolerance))
    if sums is not None:
        results.append(_sums(key, sums, ours))
    return results


def _sums(case: str, expected: Mapping, ours: Any) -> golden.Comparison:
    values = np.asarray(ours, np.float64)
    sums = [values.sum(), np.abs(values).sum(), np.square(values).sum()]
    reference = [expected["sum"], expected["abs_sum"], expected["sq_sum"]]
    return golden.compare("preprocess", case, "sums", reference, sums, rtol=1e-6)
