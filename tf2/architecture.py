"""What the networks are, for every module and tool: architecture arguments and preprocessing.

Plain data and arithmetic, without TensorFlow, Keras or PyTorch. An *architecture* is a mapping of
the arguments of `model.SimCLR` (`model.SimCLR.hyperparameters`, `architecture` in model.json); a
*preprocessing* says what an image goes through before the network (`preprocessing` in model.json).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Depth -> (whether its blocks are bottlenecks, number of blocks in each of the four groups).
DEPTHS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
    200: (True, (3, 24, 36, 3)),
}
DEFAULT_BACKBONE = "resnet"
# Those arguments of model.SimCLR that describe a ResNet; another backbone may have none of them.
RESNET_ARGUMENTS = ("depth", "width_multiplier", "sk_ratio", "se_ratio", "stem")
STEMS = ("imagenet", "cifar")
PROJ_HEAD_MODES = ("none", "linear", "nonlinear")
# sk_ratio of the selective kernels in SimCLRv2 (the networks named sk1).
SK_RATIO = 0.0625

# The arguments of model.SimCLR and their defaults, in their order. Only another backbone than a
# ResNet is written down, as "backbone".
DEFAULTS: dict[str, Any] = {
    "depth": 50,
    "width_multiplier": 1,
    "sk_ratio": 0.0,
    "se_ratio": 0.0,
    "num_classes": 1000,
    "proj_head_mode": "nonlinear",
    "num_proj_layers": 3,
    "proj_out_dim": 128,
    "ft_proj_selector": None,
    "fine_tune_after_block": -1,
    "stem": "imagenet",
    "channels": 3,
    "batch_norm_decay": 0.9,
    "global_bn": True,
}
# The same without heads.
BACKBONE_DEFAULTS = {**DEFAULTS, "num_classes": 0, "proj_head_mode": "none"}
# Arguments that decide which weights there are and what they mean. The others (classes, form,
# freezing, batch norm) may differ between a checkpoint and the network that starts from it.
WEIGHT_ARGUMENTS = (
    "backbone",
    *RESNET_ARGUMENTS,
    "channels",
    "proj_head_mode",
    "num_proj_layers",
    "proj_out_dim",
)

CROP_PROPORTION = 0.875  # of an evaluation image, the standard for ImageNet
# Images are not cropped for evaluation up to this size, and "auto" is the cifar stem.
SMALL_IMAGE_SIZE = 32
IMAGENET_SIZE = 224
RESIZES = ("half_pixel", "legacy")  # pixel grids; legacy is TensorFlow 1's


def with_backbone(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an architecture with its backbone, which is not written down for a ResNet."""
    return {"backbone": DEFAULT_BACKBONE, **architecture}


def num_hidden(proj_head_mode: str, num_proj_layers: int) -> int:
    """Returns the layers of a whole projection head, which is its highest `ft_proj_selector`."""
    return {"none": 0, "linear": 1, "nonlinear": num_proj_layers}[proj_head_mode]


def projection_layers(architecture: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the layers of the whole projection head, and how many of them the network has.

    The fine-tuning form has none after layer `ft_proj_selector`.
    """
    layers = num_hidden(architecture["proj_head_mode"], architecture["num_proj_layers"])
    selector = architecture["ft_proj_selector"]
    return layers, layers if selector is None or selector == -1 else selector


def default_stem(image_size: int) -> str:
    """Returns the stem that `--stem=auto` stands for."""
    return "cifar" if image_size <= SMALL_IMAGE_SIZE else "imagenet"


def preprocessing(
    image_size: int, *, channels: int = 3, resize: str = "half_pixel", sobel: bool = False
) -> dict[str, Any]:
    """Returns a preprocessing, as model.json holds it.

    Args:
        image_size: side of the square images that the network sees, in pixels.
        channels: of the images before the Sobel filter.
        resize: pixel grid, one of RESIZES.
        sobel: whether edges replace the channels.

    Returns:
        Among others range, of the values, and center_crop, the share of an image's side that
        evaluation keeps; None for the whole image.
    """
    return {
        "image_size": image_size,
        "range": [0.0, 1.0],
        "center_crop": CROP_PROPORTION if image_size > SMALL_IMAGE_SIZE else None,
        "resize": resize,
        "interpolation": "bicubic",
        "channels": channels,
        "sobel": sobel,
    }


def released_preprocessing(stem: str = "imagenet", channels: int = 3) -> dict[str, Any]:
    """Returns the preprocessing of the released networks, trained with TensorFlow 1's grid."""
    size = SMALL_IMAGE_SIZE if stem == "cifar" else IMAGENET_SIZE
    return preprocessing(size, channels=channels, resize="legacy")
