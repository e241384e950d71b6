"""Results of a classifier: hits counted by class, over padded batches and replicas."""

import numpy as np
import pytest
import small
import tensorflow as tf

from tf2 import evaluation, intervals

# Class 0: 3 of 4 are correct; class 1: 1 of 2; class 2 has no image.
LABELS = [0, 0, 0, 0, 1, 1]
PREDICTED = [0, 0, 0, 2, 1, 0]


def batches(size):
    """Yields padded batches of images that are one-hot predictions."""
    classes = np.eye(3, dtype="float32")
    for start in range(0, 6, size):
        labels, predicted = LABELS[start : start + size], PREDICTED[start : start + size]
        missing = size - len(labels)
        padding = np.zeros((missing, 3), "float32")
        images = np.concatenate([classes[predicted], padding])[:, None, None, :]
        yield {
            "image": images,
            "label": np.concatenate([classes[labels], padding]),
            "mask": np.array([1.0] * len(labels) + [0.0] * missing, "float32"),
        }


def evaluate(size, strategy):
    def model(images, training):
        return {"logits_sup": images[:, 0, 0, :]}

    run = evaluation.make_sum(strategy, evaluation.make_classification_step(model, top_5=False))
    given = [small.distribute(strategy, batch) for batch in batches(size)]
    return evaluation.classification_results(evaluation.sum_over(run, given))


@pytest.mark.parametrize("size, replicas", [(6, 1), (4, 1), (4, 2)])
def test_accuracies_are_those_counted_by_hand(size, replicas):
    strategy = small.mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    results = evaluate(size, strategy)
    assert results["eval/label_top_1_accuracy"] == 4 / 6
    assert results["eval/label_mean_per_class_accuracy"] == (3 / 4 + 1 / 2) / 2
    assert results["eval/majority_class_accuracy"] == 4 / 6
    assert results["eval/num_images"] == 6.0
    found = intervals.of_result(results, "eval/label_top_1_accuracy")
    assert found == intervals.wilson(4, 6)
    found = intervals.of_result(results, "eval/label_mean_per_class_accuracy")
    assert found == intervals.mean_of_classes([3, 1], [4, 2])
