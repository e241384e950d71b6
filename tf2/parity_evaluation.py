"""Comparisons with the reference: evaluations of networks filled by the rule, and preprocessing.

Each function takes a `parity_data.Pack` and returns a list of `parity_data.Comparison`.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf2 import evaluation, parity_data, parity_runs


def _padded_batches(config, strategy):
    """Yields distributed, padded batches of the evaluation's images, in order."""
    flags, count, classes = config["flags"], config["num_eval_examples"], config["num_classes"]
    images, _, labels = parity_data.training_batch(
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

        def share(context, shares=shares):
            return {k: tf.constant(v[context.replica_id_in_sync_group]) for k, v in shares.items()}

        if replicas == 1:
            yield {k: tf.constant(v) for k, v in part.items()}
        else:
            yield strategy.experimental_distribute_values_from_function(share)


def evaluations(pack) -> list:
    """Accuracies over all examples and the regularization loss, on one and two replicas.

    The reference's regularization loss of fine-tuning with momentum counts projection layers
    that nothing reads; they are taken out of its number, since ours has no such layers.
    """
    results = []
    for run in pack.json("08_trajectory/evaluation.json")["runs"]:
        config, wanted = run["config"], run["result_json"]
        built = parity_runs.build_run(config)
        flags = config["flags"]
        step = evaluation.make_classification_step(built.model, top_5=True)
        totals = evaluation.sum_over(built.strategy, step, _padded_batches(config, built.strategy))
        ours = evaluation.classification_results(totals)
        ours["eval/regularization_loss"] = evaluation.regularization_loss(
            built.model, optimizer=flags["optimizer"], weight_decay=flags["weight_decay"]
        )
        unread = parity_runs.unread_decay(config, 0)
        for key, reference in wanted.items():
            if key == "global_step":  # the number of training steps, given
                continue
            if key == "eval/regularization_loss":
                reference -= unread
            results.append(
                parity_data.compare("evaluation", run["name"], key, reference, ours[key], rtol=2e-6)
            )
        results.append(
            parity_data.compare(
                "evaluation", run["name"], "images", config["num_eval_examples"],
                totals["count"],
            )
        )  # fmt: skip
    return results
