"""The released networks of SimCLRv2 and SimCLRv1: architecture, address and accuracy.

Accuracies are ImageNet top-1 in percent. Sources, none of which could be compared with the buckets
from here:

- SimCLRv2: addresses from the reference's READMEs, accuracies from their table (Table 1 of the
  paper).
- SimCLRv1, pretrained: the READMEs. Fine-tuned: addresses of the SavedModels and accuracies from
  the reference's tf2/colabs/imagenet_results.ipynb; of the TF1 checkpoints from
  google-research/robustness_metrics.
- Distilled: the READMEs link the folders distill_1pct and distill_10pct alone. The maintainer names
  one network in them, in the reference's issue 130; `inferred` marks those addresses that follow
  its pattern. Accuracies are from the paper.

In networks fine-tuned on 1% and 10% of the labels, the classifier is on the first layer of the
projection head, which is as wide as the backbone's output: no shape shows the difference, only
`ft_proj_selector` does. Which layer it is on in distilled networks was never told.
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
# Network -> top-1, distilled from the network fine-tuned on 1%, 10% of the labels.
_DISTILLED = {"r50_1x_sk0": (73.9, 77.5), "r50_2x_sk1": (75.9, 80.2), "r152_3x_sk1": (76.6, 80.9)}
_DISTILL_TEACHER = "r152_3x_sk1"
# Width -> top-1: linear evaluation of the pretrained network; fine-tuned on 10%, 100% of labels.
_V1_ACCURACIES = {1: (69.1, 65.8, 75.6), 2: (74.2, 71.6, 79.2), 4: (76.6, 74.5, 80.8)}


@dataclasses.dataclass(frozen=True)
class Release:
    """A released network.

    Attributes:
        name: as in `--checkpoint=NAME`.
        variant: pretrained, finetuned_1pct, finetuned_10pct, finetuned_100pct, supervised,
            distill_1pct or distill_10pct.
        depth, width_multiplier, sk_ratio: its architecture.
        accuracy: ImageNet top-1 in percent; for pretrained networks by linear evaluation.
        ft_proj_selector: projection layer that the classifier is on; None for pretrained networks,
            whose online classifier is on the backbone's output, and where it is not known.
        proj_head_mode: 'none' if no projection head was released. With `ft_proj_selector` 0 the
            checkpoint may contain a head that the network does not need.
        address: of its TF1 checkpoint: a folder (gs://) or an archive (https://).
        saved_model: address of its SavedModel; None if there is none.
        step: training steps; None if unknown.
        inferred: whether the address follows a pattern and stands in no source.
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
    inferred: bool = False

    @property
    def metadata(self) -> dict[str, Any] | None:
        """The content of its model.json; None where shapes tell more than is known."""
        if self.variant.startswith("distill"):
            return None
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


def _named(network: str) -> dict[str, Any]:
    """Returns the architecture that a name such as r50_1x_sk0 tells."""
    depth, width, sk = network.split("_")
    return {
        "depth": int(depth[1:]),
        "width_multiplier": int(width[:-1]),
        "sk_ratio": architecture.SK_RATIO if sk == "sk1" else 0.0,
    }


def _second_version() -> Iterator[Release]:
    for network, accuracies in _ACCURACIES.items():
        for variant, accuracy in zip(_VARIANTS, accuracies, strict=True):
            path = f"simclrv2/{variant}/{network}"
            yield Release(
                name=f"{network}_{variant}",
                variant=variant,
                **_named(network),
                accuracy=accuracy,
                ft_proj_selector=_SELECTORS.get(variant),
                proj_head_mode="nonlinear",
                address=f"gs://simclr-checkpoints/{path}",
                saved_model=f"gs://simclr-checkpoints-tf2/{path}/saved_model",
                step=_STEPS[variant],
            )


def _distilled() -> Iterator[Release]:
    for network, accuracies in _DISTILLED.items():
        for variant, accuracy in zip(("distill_1pct", "distill_10pct"), accuracies, strict=True):
            path = f"simclrv2/{variant}/{_DISTILL_TEACHER}/{network}"
            yield Release(
                name=f"{network}_{variant}",
                variant=variant,
                **_named(network),
                accuracy=accuracy,
                ft_proj_selector=None,
                proj_head_mode="nonlinear",
                address=f"gs://simclr-checkpoints/{path}",
                saved_model=f"gs://simclr-checkpoints-tf2/{path}/saved_model",
                inferred=(network, variant) != (_DISTILL_TEACHER, "distill_1pct"),
            )


def _first_version() -> Iterator[Release]:
    server = "https://storage.googleapis.com/simclr-gcs/checkpoints"
    variants = ("pretrained", "finetuned_10pct", "finetuned_100pct")
    for width, accuracies in _V1_ACCURACIES.items():
        for variant, accuracy in zip(variants, accuracies, strict=True):
            pretrained = variant == "pretrained"
            folder = "pretrain" if pretrained else variant.replace("finetuned", "finetune")
            path = f"simclrv1/{folder}/{width}x"
            archive = f"{server}/ResNet50_{width}x.zip"
            yield Release(
                name=f"simclrv1_r50_{width}x" + ("" if pretrained else f"_{variant}"),
                variant=variant,
                depth=50,
                width_multiplier=width,
                sk_ratio=0.0,
                accuracy=accuracy,
                ft_proj_selector=None if pretrained else 0,
                proj_head_mode="none",
                address=archive if pretrained else f"gs://simclr-checkpoints/{path}",
                saved_model=f"gs://simclr-checkpoints-tf2/{path}/saved_model",
            )


RELEASES = {
    release.name: release for release in (*_second_version(), *_distilled(), *_first_version())
}


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
