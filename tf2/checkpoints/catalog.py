"""The released networks of SimCLRv2 and SimCLRv1: architecture, address and accuracy.

Addresses are from the reference's README. Accuracies are ImageNet top-1 in percent, from its table
(Table 1 of the SimCLRv2 paper) and from SimCLRv1's linear evaluation. Distilled networks were never
released. In networks fine-tuned on 1% and 10% of the labels, the classifier is on the first layer
of the projection head, which is as wide as the backbone's output: no shape shows the difference,
only `ft_proj_selector` does.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Any

from tf2 import architecture, errors

_VARIANTS = ("pretrained", "finetuned_1pct", "finetuned_10pct", "finetuned_100pct", "supervised")
_SELECTORS = {"finetuned_1pct": 1, "finetuned_10pct": 1, "finetuned_100pct": 0, "supervised": 0}

# The step of each variant's checkpoint, `model.ckpt-STEP`.
_STEPS = {
    "pretrained": 250228, "finetuned_1pct": 751, "finetuned_10pct": 3754,
    "finetuned_100pct": 37535, "supervised": 28151,
}  # fmt: skip
# name: linear evaluation of the pretrained network; 1%, 10%, 100% of labels; supervised.
_ACCURACIES = {
    "r50_1x_sk0": (71.7, 57.9, 68.4, 76.3, 76.6),
    "r50_1x_sk1": (74.6, 64.5, 72.1, 78.7, 78.5),
    "r50_2x_sk0": (75.6, 66.3, 73.9, 79.1, 77.8),
    "r50_2x_sk1": (77.7, 70.6, 77.0, 81.3, 79.3),
    "r101_1x_sk0": (73.6, 62.1, 71.4, 78.2, 78.0),
    "r101_1x_sk1": (76.3, 68.3, 75.1, 80.6, 79.6),
    "r101_2x_sk0": (77.0, 69.1, 75.8, 80.7, 78.9),
    "r101_2x_sk1": (79.0, 73.2, 78.8, 82.4, 80.1),
    "r152_1x_sk0": (74.5, 64.0, 73.0, 79.3, 78.3),
    "r152_1x_sk1": (77.2, 70.0, 76.5, 81.3, 79.9),
    "r152_2x_sk0": (77.4, 70.2, 76.6, 81.1, 79.1),
    "r152_2x_sk1": (79.4, 74.2, 79.4, 82.9, 80.4),
    "r152_3x_sk1": (79.8, 74.9, 80.1, 83.1, 80.5),
}
_V1_ACCURACIES = {1: 69.1, 2: 74.2, 4: 76.6}


@dataclasses.dataclass(frozen=True)
class Release:
    """A released network.

    Attributes:
        name: as in `--checkpoint=NAME`.
        variant: pretrained, finetuned_1pct, finetuned_10pct, finetuned_100pct or supervised.
        depth, width_multiplier, sk_ratio: its architecture.
        accuracy: ImageNet top-1 in percent; for pretrained networks by linear evaluation.
        ft_proj_selector: projection layer that the classifier is on; None for pretrained networks,
            whose online classifier is on the backbone's output.
        proj_head_mode: 'none' if no projection head was released. With `ft_proj_selector` 0 the
            checkpoint may contain a head that the network does not need.
        address: of its TF1 checkpoint: a folder (gs://) or an archive (https://).
        saved_model: address of its SavedModel; None if there is none.
        step: training steps; None if unknown.
    """

    name: str
    variant: str
    depth: int
    width_multiplier: int
    sk_ratio: float
    accuracy: float
    ft_proj_selector: int | None
    proj_head_mode: str
    address: str
    saved_model: str | None = None
    step: int | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """The content of its model.json."""
        return {
            "architecture": {
                **architecture.DEFAULTS,
                "depth": self.depth,
                "width_multiplier": self.width_multiplier,
                "sk_ratio": self.sk_ratio,
                "proj_head_mode": self.proj_head_mode,
                "ft_proj_selector": self.ft_proj_selector,
            },
            "preprocessing": architecture.released_preprocessing(),
            "class_names": None,
            "dataset": "imagenet2012",
            "global_step": self.step,
        }


def _second_version() -> Iterator[Release]:
    for network, accuracies in _ACCURACIES.items():
        depth, width, sk = network.split("_")
        for variant, accuracy in zip(_VARIANTS, accuracies, strict=True):
            path = f"simclrv2/{variant}/{network}"
            yield Release(
                name=f"{network}_{variant}",
                variant=variant,
                depth=int(depth[1:]),
                width_multiplier=int(width[:-1]),
                sk_ratio=architecture.SK_RATIO if sk == "sk1" else 0.0,
                accuracy=accuracy,
                ft_proj_selector=_SELECTORS.get(variant),
                proj_head_mode="nonlinear",
                address=f"gs://simclr-checkpoints/{path}",
                saved_model=f"gs://simclr-checkpoints-tf2/{path}/saved_model",
                step=_STEPS[variant],
            )


def _first_version() -> Iterator[Release]:
    for width, accuracy in _V1_ACCURACIES.items():
        yield Release(
            name=f"simclrv1_r50_{width}x",
            variant="pretrained",
            depth=50,
            width_multiplier=width,
            sk_ratio=0.0,
            accuracy=accuracy,
            ft_proj_selector=None,
            proj_head_mode="none",
            address=f"https://storage.googleapis.com/simclr-gcs/checkpoints/ResNet50_{width}x.zip",
        )


RELEASES = {release.name: release for release in (*_second_version(), *_first_version())}


def unknown(name: str, flag: str = "checkpoint") -> errors.UserError:
    """Returns the error for a value of a flag that is neither a path nor a name of the catalog.

    Args:
        name: the value.
        flag: for the message; one of a stage, as distill.teacher, may name an earlier stage too.
    """
    stage = ", an earlier stage" if "." in flag else ""
    similar = nearest(name)
    hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
    return errors.UserError(
        f"--{flag} must be a path{stage} or the name of a released network. Received: "
        f"{flag}={name}, which is neither.{hint} python -m checkpoints_tools.catalog lists the "
        "names."
    )


def nearest(name: str) -> list[str]:
    """Returns the names of the catalog that are closest to a mistyped one."""
    return difflib.get_close_matches(name.lower(), RELEASES, n=3, cutoff=0.8)
