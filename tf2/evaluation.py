"""Exact evaluation over a split, for any batch size and number of replicas.

Batches are padded and masked, so that every replica has images of one static shape. Results are
sums over the mask, not means of means: they do not depend on the division into batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tf2 import config as config_lib
from tf2 import (
    data,
    errors,
    intervals,
    knn,
    metrics,
    objective,
    optimization,
    progress,
    variables,
)
from tf2.sources import listing
from tf2.sources import source as source_lib

# Images of eval_knn=auto: at most so many to search for neighbors, and so many classified.
KNN_BANK, KNN_QUERIES = 10_000, 5_000

Batch = Mapping[str, tf.Tensor]
Step = Callable[[Batch], dict[str, tf.Tensor]]


def make_classification_step(model: Any, top_5: bool) -> Step:
    """Returns a step that maps a padded batch to sums over its labeled images.

    The batch holds image (n, h, w, c), label (n, k) one-hot, a row of zeros for an unlabeled image,
    and mask (n,) float32, 1 for a real image. The sums are count, top_1, top_5 (if `top_5`), loss
    (the cross entropy), and per class (k,) class_count and class_top_1, its images and correct
    predictions.
    """

    def step(batch: Batch) -> dict[str, tf.Tensor]:
        labels = batch["label"]
        mask = batch["mask"] * tf.cast(tf.reduce_any(labels > 0, axis=-1), tf.float32)
        logits = tf.cast(model(batch["image"], training=False)["logits_sup"], tf.float32)
        cross_entropy = tf.nn.softmax_cross_entropy_with_logits(labels, logits)
        correct = mask * metrics.in_top_k(labels, logits, 1)
        sums = {
            "count": tf.reduce_sum(mask),
            "top_1": tf.reduce_sum(correct),
            "loss": tf.reduce_sum(mask * cross_entropy),
            "class_count": tf.reduce_sum(mask[:, tf.newaxis] * labels, axis=0),  # (k,)
            "class_top_1": tf.reduce_sum(correct[:, tf.newaxis] * labels, axis=0),  # (k,)
        }
        if top_5:
            sums["top_5"] = tf.reduce_sum(mask * metrics.in_top_k(labels, logits, 5))
        return sums

    return step


def make_sum(strategy: tf.distribute.Strategy, step: Step) -> Step:
    """Returns a graph function that runs a step and sums each of its values over the replicas."""

    @tf.function
    def run(batch: Batch) -> dict[str, tf.Tensor]:
        values = strategy.run(step, args=(batch,))
        return {k: strategy.reduce(tf.distribute.ReduceOp.SUM, v, None) for k, v in values.items()}

    return run


def sum_over(run: Step, batches: Iterable, limit: int = 0) -> dict[str, Any]:
    """Runs a function over distributed batches and sums its results, in float64.

    Args:
        run: maps a batch to a dict of scalars or vectors; from `make_sum`.
        batches: from `strategy.distribute_datasets_from_function`, or a plain dataset.
        limit: maximum number of batches; 0 means all.

    Raises:
        errors.UserError: there is no batch.
    """
    totals: dict[str, Any] = {}
    for number, batch in enumerate(batches):
        if limit and number == limit:
            break
        for name, value in run(batch).items():
            totals[name] = totals.get(name, 0.0) + value.numpy().astype(np.float64)
    if not totals:
        raise errors.UserError(
            "An evaluation needs at least one image. Received: an empty split. "
            "Give another --eval_split."
        )
    return totals


def classification_results(totals: Mapping[str, Any]) -> dict[str, float]:
    """Returns accuracies and loss from their sums, under the reference's names.

    Beside them: the mean per-class accuracy, the 95 % intervals of both accuracies, the number of
    images, and the accuracy of always predicting the most frequent class.
    """
    count, by_class = float(totals["count"]), totals["class_count"]
    if not count:
        raise errors.UserError(
            "Accuracy needs labeled images. Received: an evaluation split without labels. Give "
            "another --eval_split."
        )
    results = {
        "eval/label_top_1_accuracy": float(totals["top_1"]) / count,
        "eval/supervised_loss": float(totals["loss"]) / count,
    }
    if "top_5" in totals:
        results["eval/label_top_5_accuracy"] = float(totals["top_5"]) / count
    present = by_class > 0
    low, high = intervals.wilson(float(totals["top_1"]), count)
    class_low, class_high = intervals.mean_of_classes(totals["class_top_1"], by_class)
    return {
        **results,
        "eval/label_top_1_low": low,
        "eval/label_top_1_high": high,
        "eval/label_mean_per_class_accuracy": float(
            np.mean(totals["class_top_1"][present] / by_class[present])
        ),
        "eval/label_mean_per_class_low": class_low,
        "eval/label_mean_per_class_high": class_high,
        "eval/majority_class_accuracy": float(by_class.max()) / count,
        "eval/num_images": count,
    }


def regularization_loss(model: Any, *, optimizer: str, weight_decay: float) -> float:
    """Returns the L2 term of the training loss, which the reference reports with the accuracy."""
    named = variables.named_variables(model)
    masks = optimization.build_masks(
        named,
        optimizer=optimizer,
        weight_decay=weight_decay,
        fine_tune_after_block=model.hyperparameters["fine_tune_after_block"],
    )
    decayed = [named[name] for name in masks.l2_in_loss]
    return float(optimization.add_weight_decay(decayed, weight_decay))


def make_contrastive_step(
    model: Any,
    temperature: float,
    hidden_norm: bool,
    contrastive_loss: Callable = objective.add_contrastive_loss,
) -> Step:
    """Returns a step that maps a batch of two views to sums of the contrastive metrics."""

    def step(batch: Batch) -> dict[str, tf.Tensor]:
        images = tf.concat(tf.split(batch["image"], 2, axis=-1), axis=0)  # (2n, h, w, c)
        hidden = model(images, training=False)["proj_head_output"]
        loss, logits, labels = contrastive_loss(
            hidden,
            hidden_norm,
            temperature,
            strategy=tf.distribute.get_strategy(),
            labels=batch.get("label"),
        )
        return {
            "contrast_loss": loss,
            "contrast_acc": metrics.contrast_accuracy(logits, labels),
            "contrast_entropy": metrics.contrast_entropy(logits),
            "batches": tf.ones([]),
        }

    return step


def make_extract(
    strategy: tf.distribute.Strategy, model: Any, endpoint: str = "final_avg_pool"
) -> Callable[[Batch], tuple[tf.Tensor, ...]]:
    """Returns a graph function that maps a batch to features, classes and mask of all replicas.

    Args:
        strategy: the distribution strategy.
        model: maps images to a dict of endpoints.
        endpoint: name of an endpoint of rank 2.
    """

    @tf.function
    def run(batch: Batch) -> tuple[tf.Tensor, ...]:
        def step(batch: Batch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            features = tf.cast(model(batch["image"], training=False)[endpoint], tf.float32)
            if "label" not in batch:
                return features, -tf.ones_like(batch["mask"], tf.int64), batch["mask"]
            known = tf.reduce_any(batch["label"] > 0, axis=-1)
            classes = tf.where(known, tf.argmax(batch["label"], axis=-1), -1)
            return features, classes, batch["mask"]

        return tuple(strategy.gather(v, axis=0) for v in strategy.run(step, args=(batch,)))

    return run


def extract_features(
    run: Callable,
    batches: Iterable,
    limit: int = 0,
    report: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features and labels of all real images of padded batches.

    Args:
        run: from `make_extract`.
        batches: as in `sum_over`.
        limit: maximum number of images; 0 means all.
        report: called with the number of images so far.

    Returns:
        Features (images, d) float32 and classes (images,) int64, -1 for an unlabeled image.
    """
    rows, classes, count = [], [], 0
    for batch in batches:
        features, labels, mask = (value.numpy() for value in run(batch))
        real = mask > 0
        rows.append(features[real])
        classes.append(labels[real])
        count += len(rows[-1])
        report(count)
        if limit and count >= limit:
            break
    limit = limit or count
    return np.concatenate(rows)[:limit], np.concatenate(classes)[:limit]


@dataclasses.dataclass
class Evaluator:
    """Evaluates models with one configuration.

    The graphs of the last model are cached: a model that loads many checkpoints is traced once.

    Attributes:
        config: the configuration.
        source: the images; a `sources.source.Source`.
        strategy: the distribution strategy.
    """

    config: config_lib.Config
    source: source_lib.Source
    strategy: tf.distribute.Strategy
    _traced_model: Any = None
    _traced: dict[str, Callable] = dataclasses.field(default_factory=dict)

    def _function(self, name: str, model: Any, make: Callable[[], Callable]) -> Callable:
        if model is not self._traced_model:
            self._traced_model, self._traced = model, {}
        if name not in self._traced:
            self._traced[name] = make()
        return self._traced[name]

    def batches(
        self, split: str, *, labeled: bool = False, source: source_lib.Source | None = None
    ) -> Iterable:
        """Returns the distributed, padded batches of a split, or of its labeled images."""
        source = source or (self.source.labeled(split) if labeled else self.source)
        return self.strategy.distribute_datasets_from_function(
            lambda context: data.build_dataset(
                self.config, source, split, training=False, input_context=context
            )
        )

    def evaluate(self, model: Any) -> dict[str, float]:
        """Returns all results of a model, under the reference's names if it has them.

        With a supervised head: accuracy and cross entropy over the labeled images of the split.
        Without one, or without labels: the contrastive loss of a pretrained network on augmented
        pairs of the split. In both cases the regularization loss.
        """
        config = self.config
        classes = model.hyperparameters["num_classes"]
        if classes and self.source.num_labeled(config.eval_split):
            step = make_classification_step(model, top_5=classes > 5)
            run = self._function("classify", model, lambda: make_sum(self.strategy, step))
            batches = self.batches(config.eval_split, labeled=True)
            totals = sum_over(run, batches, config.eval_steps)
            results = classification_results(totals)
        elif model.hyperparameters["ft_proj_selector"] is None:
            results = self._contrastive(model)
        else:  # on unlabeled images: neither labels nor a contrastive head
            results = {}
        results["eval/regularization_loss"] = regularization_loss(
            model, optimizer=config.optimizer, weight_decay=config.weight_decay
        )
        return results

    def _contrastive(self, model: Any) -> dict[str, float]:
        """Returns the contrastive metrics over the augmented pairs of the split."""
        config, replicas = self.config, self.strategy.num_replicas_in_sync
        images = self.source.num_examples(config.eval_split)
        batch = min(config.eval_batch_size, images // replicas * replicas)
        steps = config.eval_steps or max(images // batch, 1)
        batches = self.strategy.distribute_datasets_from_function(
            lambda context: data.build_dataset(
                config,
                self.source,
                config.eval_split,
                training=True,
                views=2,
                color_jitter=True,
                batch_size=batch,
                input_context=context,
            )
        )
        loss = objective.find_contrastive_loss(config.contrastive_loss).function
        step = make_contrastive_step(model, config.temperature, config.hidden_norm, loss)
        run = self._function("contrast", model, lambda: make_sum(self.strategy, step))
        totals = sum_over(run, batches, steps)
        count = totals.pop("batches")
        return {f"eval/{name}": value / count for name, value in totals.items()}

    def features(
        self,
        model: Any,
        split: str,
        *,
        endpoint: str = "final_avg_pool",
        limit: int = 0,
        labeled: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features and classes of a split; see `extract_features` and `batches`."""
        run = self._function(
            f"extract {endpoint}", model, lambda: make_extract(self.strategy, model, endpoint)
        )
        return extract_features(run, self.batches(split, labeled=labeled), limit=limit)

    @property
    def measures_knn(self) -> bool:
        """Whether there are labeled images to measure kNN accuracy with."""
        splits = (self.config.train_split, self.config.eval_split)
        return all(split and self.source.num_labeled(split) for split in splits)

    @property
    def knn_leaves_one_out(self) -> bool:
        """Whether too few images are held out, so that kNN classifies each labeled image."""
        held_out = self.source.num_labeled(self.config.eval_split)
        return self.config.eval_split == listing.HOLDOUT and held_out < intervals.ENOUGH_IMAGES

    def knn_labels(self) -> np.ndarray:
        """Returns the true classes of the images that `knn_accuracy` classifies, (images,)."""
        bank, queries = self._knn_images()
        labels = queries.labels(self.config.eval_split)
        if self.knn_leaves_one_out:
            labels = np.concatenate([bank.labels(self.config.train_split), labels])
        return labels

    def knn_scope(self) -> str:
        """Returns which images `knn_accuracy` classifies, if not all held-out ones, as text."""
        count, held_out = len(self.knn_labels()), self.source.num_labeled(self.config.eval_split)
        if self.knn_leaves_one_out:
            return f", each of all {count:,} labeled by the others"
        return f", {count:,} of {held_out:,} images (--eval_knn=on: all)" * (count < held_out)

    def knn_accuracy(self, model: Any) -> float:
        """Returns the kNN accuracy of the frozen features of the labeled images.

        The neighbors are from at most `knn_bank_size` training images, without augmentation. If
        `knn_leaves_one_out`, each of them and of the held-out images is classified by all others.
        """
        config = self.config
        images = self._knn_images()
        bank, bank_labels = self._knn_features(model, images[0], config.train_split)
        queries, query_labels = self._knn_features(model, images[1], config.eval_split)
        classes = self.source.num_classes
        k = min(config.knn_neighbors, len(bank))
        if self.knn_leaves_one_out:
            # More neighbors than a class has would outvote an image's own class, which lacks it.
            count = len(bank) + len(queries)
            return knn.leave_one_out_accuracy(
                np.concatenate([bank, queries]),
                np.concatenate([bank_labels, query_labels]),
                k=min(k, max(count // classes, 1)),
                num_classes=classes,
            )
        return knn.knn_accuracy(bank, bank_labels, queries, query_labels, k=k, num_classes=classes)

    def _knn_images(self) -> tuple[source_lib.Source, source_lib.Source]:
        """Returns the labeled images to search for neighbors, and those to classify."""
        train, test = self.config.train_split, self.config.eval_split
        most, queries = self.config.knn_bank_size, self.source.labeled(test)
        if self.config.eval_knn != "on":
            most, queries = min(most, KNN_BANK), queries.at_most(test, KNN_QUERIES)
        return self.source.labeled(train).at_most(train, most), queries

    def _knn_features(
        self, model: Any, images: source_lib.Source, split: str
    ) -> tuple[np.ndarray, np.ndarray]:
        name = "extract final_avg_pool"  # as in `features`
        run = self._function(name, model, lambda: make_extract(self.strategy, model))
        count = images.num_examples(split)
        lines = progress.LineProgress(count, f"kNN accuracy, images of {split}")
        return extract_features(run, self.batches(split, source=images), count, lines.update)
