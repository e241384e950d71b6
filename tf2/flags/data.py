"""Flags: the images, their labels and their augmentation."""

import dataclasses

from tf2 import architecture
from tf2.flags import fields


@dataclasses.dataclass(frozen=True)
class Data:
    """The images, their labels and their augmentation."""

    dataset: str = fields.data(
        "",
        "digits (embedded), folder (images below data_dir), or the name of any "
        "TensorFlow Datasets image classification set. Empty means folder with --data_dir, "
        "else digits.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
    )
    data_dir: str | None = fields.data(
        None,
        "Picture folder, or directory of the TensorFlow Datasets files. Without other settings, "
        "all stages run on the folder's images (--recipe=images).",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    train_split: str = fields.data(
        "train",
        "Split to train on; splits may be added, as in train+unlabeled.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        auto=True,
    )
    eval_split: str = fields.data(
        "validation",
        "Split to evaluate on.",
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
        auto=True,
    )
    cache_dataset: bool = fields.data(
        False,
        "Keep the undecoded training records in memory after the first epoch.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    labels: str = fields.data(
        "",
        "Labels of a folder's images: a CSV, TSV or Label Studio JSON file; a folder of class "
        "folders with the same file names; guess (folder names, where they look like classes) or "
        "none (ignore them). By default an image's first folder is its class.",
        scope=fields.SHARED,
        identity=fields.FREE,  # the labels themselves are compared: see sources.data_identity
    )
    holdout: float = fields.data(
        0.0,
        "Fraction of a folder's labeled images of each class to hold out as the split holdout, if "
        "there is no labeled evaluation split; at least two where that leaves two.",
        scope=fields.SHARED,
        identity=fields.FREE,
        range="[0, 1)",
    )
    val_fraction: float = fields.data(
        0.0,
        "Fraction of a folder's images to hold out for evaluation if the folder has no "
        "evaluation split.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
        range="[0, 1)",
    )
    allow_changed_data: bool = fields.data(
        False,
        "Resume a run although the images of its folder have changed.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    max_bad_fraction: float = fields.data(
        0.01,
        "Largest fraction of a folder's images that may be unreadable.",
        scope=fields.SHARED,
        identity=fields.FREE,
        range="[0, 1]",
    )
    max_pixels: int = fields.data(
        80_000_000,
        "Pixels of the largest image of a folder that is decoded; a larger one counts as "
        "unreadable.",
        scope=fields.SHARED,
        identity=fields.FREE,
        range="[1, 178000000]",
        why="Pillow decodes none beyond",
    )
    follow_links: bool = fields.data(
        False,
        "Use images that links in a folder lead to outside of it.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    label_fraction: float = fields.data(
        0.0,
        "Fraction of the labels of each class to fine-tune or train on; 0 uses all.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
        range="[0, 1]",
        why="it is a fraction of the labels, not a percentage",
    )
    labels_per_class: int = fields.data(
        0,
        "Labeled images per class to fine-tune or train on; 0 uses all.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    label_seed: int = fields.data(
        0,
        "Seed of the labeled subset and of holdout.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
        range="[0, 2147483647]",
    )
    shuffle_buffer: int = fields.data(
        50000,
        "Records in the shuffle buffer of a dataset that can only be read sequentially.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[1, inf)",
    )
    num_parallel_calls: int = fields.data(
        0,
        "Images preprocessed in parallel; 0 lets TensorFlow choose.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, 1024]",
    )
    image_size: int = fields.augmentation(
        224,
        "Side of the network's square input images, in pixels.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[1, 8192]",
        why="it is in pixels",
        auto=True,
    )
    color_jitter_strength: float = fields.augmentation(
        1.0,
        "Strength of the color jitter in pretraining: brightness, contrast and "
        "saturation vary by 0.8 times this, hue by 0.2 times this; 0 disables jitter "
        "and grayscale.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1.25]",
        why="the factor 1 - 0.8 * strength of contrast and saturation must not be negative",
        auto=True,
    )
    color_jitter_impl: str = fields.augmentation(
        "simclrv2",
        "Whether brightness is multiplied (simclrv2) or added to (simclrv1).",
        ("simclrv1", "simclrv2"),
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    use_blur: bool = fields.augmentation(
        True,
        "Blur half of the images in pretraining (Gaussian, sigma 0.1 to 2).",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        auto=True,
    )
    crop_min_area: float = fields.augmentation(
        0.08,
        "Smallest random crop of a training image, as a fraction of its area; more than the "
        "published 0.08 if the objects fill small images.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="(0, 1]",
        auto=True,
    )
    flip: bool = fields.augmentation(
        True,
        "Mirror half of the training images left to right; not for digits.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    rotation_degrees: float = fields.augmentation(
        0.0,
        "Rotate training images by up to this many degrees either way.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 180]",
    )
    noise_std: float = fields.augmentation(
        0.0,
        "Standard deviation of Gaussian noise added to images in [0, 1].",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    cutout_size: float = fields.augmentation(
        0.0,
        "Side of the square that is masked, as a fraction of the image's side.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1]",
        why="it is a fraction of the image's side",
    )
    sobel: bool = fields.augmentation(
        False,
        "Replace images by their edges (Sobel), in training and in evaluation.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    resize: str = fields.augmentation(
        "half_pixel",
        "Pixel grid of every resize: half_pixel, as in the reference's TF2 program, or "
        "legacy, as in its TF1 program, which trained the released networks.",
        architecture.RESIZES,
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
