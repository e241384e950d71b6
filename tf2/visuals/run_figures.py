"""The figures of a run, written to model_dir/plots and to TensorBoard.

TensorBoard's projector gets the features too. The features, the map and the confusion matrix use a
fixed sample of the evaluation split.
"""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf

from tf2 import data, distribute, evaluation, files, metrics, modes
from tf2 import job as job_lib
from tf2 import model as model_lib
from tf2.sources import loaders
from tf2.visuals import gallery, image_grids, plots, projector

_PAIRS, _PAIRS_SHOWN = 32, 8
_MIN_IMAGES_OF_A_MAP = 10
_FEW_IMAGES = 100  # show no structure


def draw(job: job_lib.Job, model: model_lib.SimCLR, step: int) -> list[str]:
    """Draws every figure that the network and its data allow.

    Several workers draw none: each would have to take part in computing them.

    Args:
        job: the run, after its evaluation.
        model: its network.
        step: the training step of the weights.

    Returns:
        What was written, in words.
    """
    if job.writer is None or distribute.is_multi_worker(job.strategy):
        return []
    sample = _sample(job.source, shown_split(job))
    features, labels = evaluation.Evaluator(job.config, sample, job.strategy).features(
        model, shown_split(job)
    )
    has_map = len(features) >= _MIN_IMAGES_OF_A_MAP and bool(np.isfinite(features).all())
    figures = {"curves": _curves(job), **_augmented_pairs(job, model, step)}
    if has_map:
        figures |= _features(job, sample, features, labels, step)
    figures |= _confusion(job, model, sample, step)
    directory = os.path.join(str(job.model_dir), "plots")
    files.make_directory(directory)
    pngs = {name: png for name, png in figures.items() if png is not None}
    for name, png in pngs.items():
        files.write_bytes(os.path.join(directory, f"{name}.png"), png)
        job.writer.figure(f"plots/{name}", png, step)
    written = [f"plots/ ({len(pngs)} figures)"] if pngs else []
    return written + ([_project(job, sample, features, labels)] if has_map else [])


def shown_split(job: job_lib.Job) -> str:
    """Returns the split that figures show: for evaluation, or for training where there is none.

    A pretraining shows what it was trained on, too, where few images are held out.
    """
    config = job.config
    if config.eval_split and not (
        modes.get(config.train_mode).pretrains
        and job.source.num_examples(config.eval_split) < _FEW_IMAGES
    ):
        return config.eval_split
    return config.train_split


def _sample(source: loaders.Source, split: str) -> loaders.Source:
    """Returns the source with at most `gallery.MAX_IMAGES` images in a split, drawn at random."""
    size = source.num_examples(split)
    if size <= gallery.MAX_IMAGES:
        return source
    return source.subset(split, gallery.sample_indices(size, gallery.MAX_IMAGES))


def _curves(job: job_lib.Job) -> bytes | None:
    history = metrics.read_scalars(str(job.model_dir))
    return plots.curves(history, title=f"Training and evaluation on {job.source.name}")


def _augmented_pairs(job: job_lib.Job, model: model_lib.SimCLR, step: int) -> dict[str, bytes]:
    """Draws augmented pairs and the similarity of their projections, of a pretrained network."""
    if model.hyperparameters["ft_proj_selector"] is not None:
        return {}
    split = shown_split(job)
    count = min(_PAIRS, job.source.num_examples(split))
    batches = data.build_dataset(
        job.config,
        job.source,
        split,
        training=True,
        views=2,
        color_jitter=True,
        batch_size=count,  # of one device; need not be divisible by the number of replicas
    )
    images = next(iter(batches))["image"]
    views = tf.concat(tf.split(images, 2, axis=-1), axis=0)  # (2n, h, w, c)
    hidden = model(views, training=False)["proj_head_output"]
    first, second = tf.split(tf.math.l2_normalize(tf.cast(hidden, tf.float32), axis=1), 2)
    cosines = tf.matmul(first, second, transpose_b=True).numpy()  # (n, n)
    name = f"{job.source.name}/{split}"
    blur = "; the training step also blurs them" if job.config.use_blur else ""
    return {
        "augmented_pairs": image_grids.pairs(
            images[:_PAIRS_SHOWN], title=f"Two augmented views of images of {name}{blur}"
        ),
        "similarity": plots.similarity(
            cosines, title=f"Two augmented views of {count} images of {name}, step {step:,}"
        ),
    }


def _features(
    job: job_lib.Job, sample: loaders.Source, features: np.ndarray, labels: np.ndarray, step: int
) -> dict[str, bytes]:
    """Draws a t-SNE map of the features, and the nearest neighbors of some images."""
    split = shown_split(job)
    description = f"{len(features):,} images of {sample.name}/{split}, step {step:,}"
    return {
        "feature_map": gallery.draw_map(
            features, labels, sample.class_names, description=description
        ),
        "neighbors": gallery.draw_neighbors(
            *(sample, split, features, labels),
            description=description,
            image_size=job.config.image_size,
            resize=job.config.resize,
        ),
    }


def _confusion(
    job: job_lib.Job, model: model_lib.SimCLR, sample: loaders.Source, step: int
) -> dict[str, bytes]:
    """Draws the confusion matrix and the accuracy per class, if there are classifier and labels."""
    classes, split = model.hyperparameters["num_classes"], job.config.eval_split
    if not split or not classes or classes != sample.num_classes:
        return {}
    evaluator = evaluation.Evaluator(job.config, sample, job.strategy)
    logits, labels = evaluator.features(model, split, endpoint="logits_sup")
    labeled = labels >= 0
    if not labeled.any():
        return {}
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels[labeled], logits[labeled].argmax(axis=1)), 1)
    names = list(sample.class_names or map(str, range(classes)))
    top_1 = 100 * np.trace(counts) / counts.sum()
    description = f"{counts.sum():,} images of {sample.name}/{split}, step {step:,}"
    return {
        "confusion": plots.confusion(
            counts, names, title=f"Confusion matrix, top-1 accuracy {top_1:.1f} %\n{description}"
        ),
        "class_accuracy": plots.class_accuracy(
            counts, names, title=f"Accuracy per class, {description}"
        ),
    }


def _project(
    job: job_lib.Job, sample: loaders.Source, features: np.ndarray, labels: np.ndarray
) -> str:
    """Writes the features for TensorBoard's projector; returns the name of the file it opens."""
    side = min(job.config.image_size, projector.MAX_THUMBNAIL)
    split = shown_split(job)
    classes = None
    if sample.num_classes:
        names = sample.class_names or [str(label) for label in range(sample.num_classes)]
        classes = [names[label] if label >= 0 else "" for label in labels]
    thumbnails = gallery.load_images(
        sample, split, len(features), image_size=side, resize=job.config.resize
    )
    path = projector.write(
        *(str(job.model_dir), features, thumbnails),
        name="final_avg_pool",
        ids=sample.ids(split),
        classes=classes,
    )
    return os.path.basename(path)
