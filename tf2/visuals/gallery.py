"""The pictures of a run: what they show is gathered here, `plots` draws it.

They go to model_dir/plots and to TensorBoard, whose projector gets the features too. Few images are
enough for them: a sample of the evaluation split, the same one every time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tf2 import data, distribute, evaluation, files, metrics
from tf2 import job as job_lib
from tf2.visuals import plots, projector

SAMPLE = projector.MAX_IMAGES  # images of the map, the projector and the confusion matrix
_PAIRS, _PAIRS_SHOWN = 32, 8
_QUERIES, _NEIGHBORS = 6, 6
_ANSWERS = 18
_LEAST_OF_A_MAP = 10


def draw(job: job_lib.Job, model, step: int) -> list[str]:
    """Draws all pictures that a network and its data allow; returns what it wrote, in words.

    Several workers draw none: each would have to take part in computing them.

    Args:
        job: the run, evaluated.
        model: its `model.SimCLR`.
        step: that it has reached.
    """
    if job.writer is None or distribute.several_workers(job.strategy):
        return []
    sample = _sample(job.source, job.config.eval_split, SAMPLE)
    features = evaluation.Evaluator(job.config, sample, job.strategy).features(
        model, job.config.eval_split
    )
    told_apart = len(features[0]) >= _LEAST_OF_A_MAP and np.isfinite(features[0]).all()
    drawn = {"curves": _curves(job), **_pairs(job, model, step)}
    drawn |= _map(job, sample, *features, step) if told_apart else {}
    drawn |= _answers(job, model, sample, step)
    directory = os.path.join(str(job.model_dir), "plots")
    files.make_directory(directory)
    drawn = {name: picture for name, picture in drawn.items() if picture is not None}
    for name, picture in drawn.items():
        files.write_bytes(os.path.join(directory, f"{name}.png"), picture)
        job.writer.picture(f"plots/{name}", picture, step)
    wrote = [f"plots/ ({len(drawn)} pictures)"] if drawn else []
    return wrote + ([_project(job, sample, *features)] if told_apart else [])


def _sample(source, split: str, count: int):
    """Returns the source with at most `count` images in a split, from all over it."""
    size = source.num_examples(split)
    if size <= count:
        return source
    return source.subset(split, sample_of(size, count))


def sample_of(size: int, count: int = SAMPLE, seed: int = 0) -> np.ndarray:
    """Returns at most `count` of the places 0 to size - 1, sorted, the same ones for a seed."""
    return np.sort(np.random.RandomState(seed).permutation(size)[:count])


def _curves(job: job_lib.Job) -> bytes | None:
    history = metrics.read_scalars(str(job.model_dir))
    return plots.curves(history, title=f"Training and evaluation, {job.source.name}")


def _pairs(job: job_lib.Job, model, step: int) -> dict[str, bytes]:
    """Draws augmented pairs and, of a pretrained network, how similar it finds them."""
    if model.hyperparameters["ft_proj_selector"] is not None:
        return {}
    split = job.config.eval_split
    # Of one device: the batch need not be shared out.
    count = min(_PAIRS, job.source.num_examples(split))
    config = job.config.replace(train_mode="pretrain", train_batch_size=count)
    images = next(iter(data.build_dataset(config, job.source, split, training=True)))["image"]
    views = tf.concat(tf.split(images, 2, axis=-1), axis=0)  # (2n, h, w, c)
    hidden = model(views, training=False)["proj_head_output"]
    first, second = tf.split(tf.math.l2_normalize(tf.cast(hidden, tf.float32), axis=1), 2)
    cosines = tf.matmul(first, second, transpose_b=True).numpy()  # (n, n)
    where = f"{job.source.name}/{split}"
    return {
        "augmented_pairs": plots.pairs(
            images[:_PAIRS_SHOWN],
            title=f"Augmented pairs of {where} (blur, if on, is added in the training step)",
        ),
        "similarity": plots.similarity(
            cosines, title=f"{count} augmented pairs of {where}, step {step:,}"
        ),
    }


def _map(job: job_lib.Job, sample, values, labels, step: int) -> dict[str, bytes]:
    """Draws a t-SNE map of the features, and nearest neighbours of some images."""
    split = job.config.eval_split
    where = f"{len(values):,} images of {sample.name}/{split}, step {step:,}"
    looks = {"image_size": job.config.image_size, "resize": job.config.resize}
    return {
        "feature_map": draw_map(values, labels, sample.class_names, where=where),
        "neighbors": draw_neighbors(sample, split, values, labels, where=where, **looks),
    }


def draw_map(values, labels, class_names, *, where: str) -> bytes:
    """Draws a t-SNE map of features (n, d), colored by labels (n,), as a PNG; `where` titles it."""
    unit = _unit(values)
    perplexity = min(30.0, (len(unit) - 1) / 3)
    title = f"Features of {where}\nt-SNE of final_avg_pool by cosine, perplexity {perplexity:.0f}"
    return plots.feature_map(_embed(unit, perplexity), labels, class_names, title=title)


def draw_neighbors(
    source, split: str, values, labels, *, where: str, image_size: int, resize: str
) -> bytes:
    """Draws sample images of a split and those that are nearest to them, as a PNG.

    Args:
        source: the images, a `source.Source`.
        split: the features' split.
        values: (n, d), features in stored order.
        labels: (n,); -1 where there is none.
        where: what the images are, for the title.
        image_size: pixels to draw an image with.
        resize: see `data.build_eval_dataset`.
    """
    unit = _unit(values)
    queries = np.random.RandomState(1).permutation(len(unit))[:_QUERIES]
    cosines = unit[queries] @ unit.T  # (queries, n)
    cosines[np.arange(len(queries)), queries] = -np.inf
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : min(_NEIGHBORS, len(unit) - 1)]
    places = np.unique(np.concatenate([queries, nearest.ravel()]))
    few = source.subset(split, places)
    pictures = _images(few, split, len(places), image_size=image_size, resize=resize)
    images = dict(zip(places, pictures, strict=True))
    ids = dict(zip(places, few.ids(split), strict=True))

    def cell(place, query, cosine):
        label = labels[place]
        name = os.path.basename(ids[place])
        if label >= 0:
            name = source.class_names[label] if source.class_names else str(label)
        known = cosine is not None and label >= 0 and labels[query] >= 0
        same = bool(label == labels[query]) if known else None
        return {"image": images[place], "name": name, "cosine": cosine, "same": same}

    rows = [
        [cell(query, query, None), *(cell(p, query, float(row[p])) for p in best)]
        for query, row, best in zip(queries, cosines, nearest, strict=True)
    ]
    return plots.neighbors(rows, title=f"Nearest neighbors among {where}")


def draw_predictions(
    source,
    split: str,
    rows: Sequence[Mapping],
    truths: Sequence[str | None],
    *,
    where: str,
    image_size: int,
    resize: str,
) -> bytes:
    """Draws some images of a split with a classifier's answers, as a PNG.

    Args:
        source: the images, a `source.Source`.
        split: the answers' split.
        rows: per image, in stored order: class, probability.
        truths: per image, its class; None where it isn't known.
        where: what the images are, for the title.
        image_size: pixels to draw an image with.
        resize: see `data.build_eval_dataset`.
    """
    places = sample_of(len(rows), _ANSWERS, seed=1)
    few = source.subset(split, places)
    pictures = _images(few, split, len(places), image_size=image_size, resize=resize)
    cells = [
        {
            "image": image,
            "answer": rows[place]["class"],
            "probability": rows[place]["probability"],
            "truth": truths[place],
        }
        for place, image in zip(places, pictures, strict=True)
    ]
    return plots.predictions(cells, title=f"Answers for {len(cells)} of {where}")


def _unit(values) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _project(job: job_lib.Job, sample, values, labels) -> str:
    """Writes the features for TensorBoard's projector; returns the name of what it opens."""
    side = min(job.config.image_size, projector.MAX_THUMBNAIL)
    ids = sample.ids(job.config.eval_split)
    classes = None
    if sample.num_classes:
        names = sample.class_names or [str(label) for label in range(sample.num_classes)]
        classes = [names[label] if label >= 0 else "" for label in labels]
    thumbnails = _images(
        *(sample, job.config.eval_split, len(values)), image_size=side, resize=job.config.resize
    )
    path = projector.write(
        str(job.model_dir), values, thumbnails, name="final_avg_pool", ids=ids, classes=classes
    )
    return os.path.basename(path)


def _images(source, split: str, count: int, *, image_size: int, resize: str) -> np.ndarray:
    """Returns the first images (count, size, size, c) of a split, as a network sees them."""
    batches = data.build_eval_dataset(
        source, split, batch_size=count, image_size=image_size, resize=resize
    )
    return next(iter(batches))["image"].numpy()


def _embed(unit, perplexity: float) -> np.ndarray:
    """Returns places (n, 2) in the plane for features (n, d), by t-SNE."""
    import threadpoolctl  # scikit-learn needs it too
    from sklearn import manifold

    # A thousand points are no work for many threads, which would wait for TensorFlow's.
    with threadpoolctl.threadpool_limits(1):
        tsne = manifold.TSNE(perplexity=perplexity, init="pca", random_state=0)
        return tsne.fit_transform(unit)


def _answers(job: job_lib.Job, model, sample, step: int) -> dict[str, bytes]:
    """Draws what a classifier confuses, where there is one and there are labels."""
    classes, split = model.hyperparameters["num_classes"], job.config.eval_split
    if not classes or classes != sample.num_classes:
        return {}
    evaluator = evaluation.Evaluator(job.config, sample, job.strategy)
    logits, labels = evaluator.features(model, split, endpoint="logits_sup")
    known = labels >= 0
    if not known.any():
        return {}
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels[known], logits[known].argmax(axis=1)), 1)
    names = list(sample.class_names or map(str, range(classes)))
    top_1 = 100 * np.trace(counts) / counts.sum()
    where = f"{counts.sum():,} images of {sample.name}/{split}, step {step:,}"
    return {
        "confusion": plots.confusion(
            counts, names, title=f"Answers on {where}\ntop-1 accuracy {top_1:.1f} %"
        ),
        "class_accuracy": plots.class_accuracy(
            counts, names, title=f"Accuracy of each class, {where}"
        ),
    }
