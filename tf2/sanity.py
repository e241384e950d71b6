"""Signs that a training goes wrong, as sentences: what was measured, what it means, what helps.

Pure functions of measurements; each returns a sentence, or None where all is well.
"""

from __future__ import annotations

from collections.abc import Mapping

from tf2 import intervals

Accuracy = tuple[float, tuple[float, float] | None]  # a fraction and its 95 % interval

FIRST_CHECK = 1 / 3  # of the steps; before it features may still be the untrained network's

_GAIN = 0.01  # above the untrained network, as a fraction
_COLLAPSED_STD = 0.1  # of 1 for embeddings in all directions
_COLLAPSED_UNIFORMITY = -0.1  # of about -4 for embeddings that are spread evenly


def untrained_features(
    knn: float, untrained: float, share_done: float, num_images: float
) -> str | None:
    """Checks after a third of a pretraining that its features are better than untrained ones.

    Args:
        knn: kNN accuracy of the features.
        untrained: that of the same network before the first step.
        share_done: of the steps, 0 to 1.
        num_images: that were classified; below 50 they say too little.
    """
    if share_done < FIRST_CHECK or num_images < intervals.ENOUGH_IMAGES or knn > untrained + _GAIN:
        return None
    return (
        f"After {100 * share_done:.0f} % of the pretraining the features are no better than those "
        f"of an untrained network: kNN {100 * knn:.1f} % against {100 * untrained:.1f} %. It makes "
        "too few or too small steps: use a smaller --train_batch_size, fewer --warmup_epochs, more "
        "--train_epochs, or another --learning_rate."
    )


def collapsed_embedding(scalars: Mapping[str, float], share_done: float) -> str | None:
    """Checks after a third of a pretraining that different images have different embeddings.

    Args:
        scalars: of a step; embedding_std and uniformity are read, see `metrics.embedding_scalars`.
        share_done: of the steps, 0 to 1.
    """
    std, uniformity = scalars.get("embedding_std"), scalars.get("uniformity")
    if share_done < FIRST_CHECK or std is None or uniformity is None:
        return None
    if std >= _COLLAPSED_STD and uniformity <= _COLLAPSED_UNIFORMITY:
        return None
    return (
        f"The embeddings have collapsed: all images are almost at one point (spread {std:.2f} of "
        f"1, uniformity {uniformity:.2f} of about -4). Nothing is learned from here on: lower "
        "--learning_rate, lengthen --warmup_epochs, or raise --temperature."
    )


def below_teacher(
    student: Accuracy, teacher: Accuracy, *, same_network: bool = False
) -> str | None:
    """Checks that a student is not below its teacher by more than the student's interval.

    Args:
        student: its accuracy.
        teacher: that of its teacher.
        same_network: whether the student is as large as its teacher (self-distillation).
    """
    if not _surely_below(student, teacher):
        return None
    name = "distilled network" if same_network else "student"
    source = "the fine-tuned network" if same_network else "its teacher"
    remedy = (
        "--distill.checkpoint=pretrain" if same_network else "a larger --student.width_multiplier"
    )
    stage = "distill" if same_network else "student"
    return (
        f"The {name}, {intervals.text(*student)}, is below {source}, {100 * teacher[0]:.1f} %, by "
        f"more than its interval: it has not learned all that it was taught. Use more "
        f"--{stage}.train_epochs, {remedy}, or another --{stage}.learning_rate."
    )


def baseline_above(finetuned: Accuracy, baseline: Accuracy) -> str | None:
    """Checks that the supervised baseline is not above the fine-tuned network."""
    if baseline[0] <= finetuned[0]:
        return None
    certain = "" if _surely_below(finetuned, baseline) else ", though by less than its interval"
    return (
        f"The supervised baseline, {intervals.text(*baseline)}, is above the fine-tuned network, "
        f"{100 * finetuned[0]:.1f} %{certain}: pretraining has not helped here. Pretrain for more "
        "--pretrain.train_epochs or --minutes, or fine-tune with a higher "
        "--finetune.learning_rate or more --finetune.train_steps."
    )


def _surely_below(lower: Accuracy, higher: Accuracy) -> bool:
    value, interval = lower
    return higher[0] > (interval[1] if interval else value)


def compare_stages(accuracies: Mapping[str, Accuracy]) -> list[str]:
    """Returns the sentences for a run of all stages.

    Args:
        accuracies: stage -> accuracy on the same images; stages that were not measured are left
            out.
    """
    known = accuracies.get
    found = []
    if (lower := known("distill")) and (higher := known("finetune")):
        found.append(below_teacher(lower, higher, same_network=True))
    if (lower := known("student")) and (higher := known("distill") or known("finetune")):
        found.append(below_teacher(lower, higher))
    if (lower := known("finetune")) and (higher := known("supervised")):
        found.append(baseline_above(lower, higher))
    return [sentence for sentence in found if sentence]
