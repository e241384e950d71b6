"""Compares two checkpoints of any formats by what they compute, and reports where they differ.

    python -m checkpoints_tools.verify A B [--images=DIR] [--tolerance=1e-4]

Both networks see the same images. Three comparisons are separate: the preprocessing (as each side's
model.json describes it), the weights, and each endpoint, computed from A's preprocessed images. The
exit status is 1 if a difference, as a share of A's largest value, exceeds the tolerance.
"""

from __future__ import annotations

if not __package__:  # run as a script
    import script_path  # noqa: F401

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from checkpoints_tools import network as network_lib
from tf2 import architecture, data_util, errors, variables
from tf2 import model as model_lib

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_MOST_IMAGES = 8


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        part: preprocessing, weights, classifier or endpoint.
        name: of what is compared.
        difference: the largest absolute difference, as a share of A's largest value; inf if the
            two cannot be compared.
        passed: whether the difference is within the tolerance.
        note: a remark.
    """

    part: str
    name: str
    difference: float
    passed: bool
    note: str = ""

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "DIFFERS"
        text = f"{self.part:<14} {self.name:<20} {self.difference:9.2e}  {verdict}"
        return f"{text}  {self.note}" if self.note else text


def verify(
    a: str,
    b: str,
    *,
    images: Sequence[np.ndarray] | None = None,
    image_size: int | None = None,
    tolerance: float = 1e-4,
) -> list[Row]:
    """Compares two checkpoints.

    Args:
        a, b: paths of checkpoints of any formats; `a` sets the scale.
        images: uint8 (h, w, channels); synthetic ones if None.
        image_size: pixels; overrides the checkpoints' metadata.
        tolerance: largest allowed difference, as a share of A's largest value.

    Raises:
        errors.UserError: one is not readable.
    """
    first, second = network_lib.read(a), network_lib.read(b)
    channels = first.metadata["architecture"]["channels"]
    images = synthetic_images(channels) if images is None else images
    batches = []
    for network in (first, second):
        settings = {
            **architecture.released_preprocessing(),
            **(network.metadata.get("preprocessing") or {}),
        }
        settings["image_size"] = image_size or settings["image_size"]
        batches.append(preprocess(images, settings))
    rows = [compare("preprocessing", "images", batches[0], batches[1], tolerance)]
    rows.append(_classifier(first.metadata["architecture"], second.metadata["architecture"]))
    rows.append(_weights(first, second, tolerance))
    if second.metadata["architecture"]["channels"] != channels:
        return [*rows, Row("endpoint", "all", float("inf"), False, "images of other channels")]
    of_a, of_b = endpoints(first, batches[0]), endpoints(second, batches[0])
    for name in [*of_a, *(n for n in of_b if n not in of_a)]:
        if name in of_a and name in of_b:
            rows.append(compare("endpoint", name, of_a[name], of_b[name], tolerance))
        else:
            note = f"only in {a if name in of_a else b}"
            rows.append(Row("endpoint", name, float("inf"), False, note))
    return rows


def compare(part: str, name: str, a: np.ndarray, b: np.ndarray, tolerance: float) -> Row:
    """Compares two arrays; NaN differs from everything."""
    if a.shape != b.shape:
        return Row(part, name, float("inf"), False, f"shapes {a.shape} and {b.shape}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    scale = float(np.max(np.abs(a), initial=0.0)) or 1.0
    difference = float(np.max(np.abs(a - b), initial=0.0) / scale)
    return Row(part, name, difference, bool(difference <= tolerance))


def synthetic_images(channels: int) -> list[np.ndarray]:
    """Returns two images with coarse and fine patterns, uint8 (h, w, channels), always the same."""
    random = np.random.RandomState(0)
    images = []
    for height, width in ((300, 420), (333, 260)):
        coarse = random.uniform(0, 200, (height // 30 + 1, width // 30 + 1, channels))
        image = coarse.repeat(30, 0).repeat(30, 1)[:height, :width]
        noise = random.uniform(0, 55, (height, width, channels))
        images.append((image + noise).astype(np.uint8))
    return images


def read_images(directory: str, channels: int = 3) -> list[np.ndarray]:
    """Reads the first images of a directory, sorted by name.

    Raises:
        errors.UserError: there are none, or one cannot be decoded.
    """
    directory = os.path.expanduser(directory)
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    names = [name for name in names if name.lower().endswith(_SUFFIXES)][:_MOST_IMAGES]
    if not names:
        raise errors.UserError(
            f"--images must be a directory with images ({', '.join(_SUFFIXES)}). Received: "
            f"images={directory}, which has none. Choose another one, or remove --images."
        )
    images = []
    for name in names:
        path = os.path.join(directory, name)
        try:
            decoded = tf.io.decode_image(tf.io.read_file(path), channels, expand_animations=False)
        except tf.errors.InvalidArgumentError as error:
            raise errors.UserError(
                f"Images must be readable. Received: {path}, which can't be decoded. Remove it."
            ) from error
        images.append(decoded.numpy())
    return images


def preprocess(images: Sequence[np.ndarray], settings: Mapping) -> np.ndarray:
    """Preprocesses images as a model.json describes: float32 (n, size, size, channels)."""
    size = settings["image_size"]
    preprocessed = [
        data_util.preprocess_for_eval(
            tf.constant(image), size, size,
            crop=bool(settings["center_crop"]), resize=settings.get("resize") or "half_pixel",
            sobel=bool(settings.get("sobel")),
        )
        for image in images
    ]  # fmt: skip
    batch = np.stack([image.numpy() for image in preprocessed])
    normalize = settings.get("normalize")
    if normalize:
        batch = (batch - np.float32(normalize["mean"])) / np.float32(normalize["std"])
    return batch


def endpoints(network: network_lib.Network, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns every endpoint, and every layer of the projection head, of a network on images."""
    model = model_lib.SimCLR(**network.metadata["architecture"])
    for name, variable in variables.named_variables(model).items():
        variable.assign(network.tensors[name])
    values = model(tf.constant(images), training=False)
    hidden = model.project(values["final_avg_pool"], training=False)
    values |= {f"proj_hidden_{j}": value for j, value in enumerate(hidden) if j}
    return {name: value.numpy() for name, value in values.items()}


def _classifier(a: Mapping, b: Mapping) -> Row:
    """Compares the projection layers that the supervised heads are on.

    If the layers have the same width, only the accuracy would show the difference.
    """
    layers = [x["ft_proj_selector"] or 0 if x["num_classes"] else None for x in (a, b)]
    note = " and ".join("none" if layer is None else f"layer {layer}" for layer in layers)
    same = layers[0] == layers[1]
    return Row("classifier", "projection layer", 0.0 if same else float("inf"), same, note)


def _weights(a: network_lib.Network, b: network_lib.Network, tolerance: float) -> Row:
    """Compares weights by name: endpoints do not depend on a branch whose gamma is zero."""
    names = [name for name in a.tensors if name in b.tensors]
    one_sided = len(a.tensors) + len(b.tensors) - 2 * len(names)
    worst, where, equal = 0.0, "", 0
    for name in names:
        row = compare("weights", name, a.tensors[name], b.tensors[name], tolerance)
        equal += row.difference == 0.0
        if not row.difference <= worst:
            worst, where = row.difference, f", most in {name}"
    note = f"{equal} of {len(names)} equal{where}"
    note += f", {one_sided} in one only" if one_sided else ""
    return Row("weights", "by name", worst, bool(worst <= tolerance), note)


if __name__ == "__main__":
    from absl import flags

    from checkpoints_tools import cli

    IMAGES = flags.DEFINE_string("images", None, "Directory of images; synthetic ones by default.")
    SIZE = flags.DEFINE_integer("image_size", None, "Pixels; by default what the model.json says.")
    TOLERANCE = flags.DEFINE_float("tolerance", 1e-4, "As a share of A's largest value.")

    def main(arguments: list[str]) -> int:
        """Runs the command line."""
        cli.check_arguments(arguments, 2, "verify takes two checkpoints.", "Write: verify A B.")
        rows = verify(
            *arguments[1:],
            images=read_images(IMAGES.value) if IMAGES.value else None,
            image_size=SIZE.value,
            tolerance=TOLERANCE.value,
        )
        print("\n".join(map(str, rows)))
        return 0 if all(row.passed for row in rows) else 1

    cli.run(main)
