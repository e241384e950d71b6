"""The model card of an export: a Markdown page that says what the network is and how to use it.

Everything in it is read from the network, its model.json, the run's flags.json and result.json.
What those don't know, such as the intended use and the licence, is left to the user, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tf2 import variables
from tf2.visuals import tables

FILE_NAME = "README.md"

_TRAINED = {
    "pretrain": "pretrained without labels by contrasting augmented views",
    "finetune": "pretrained without labels and fine-tuned on labels",
    "distill": "distilled: trained on the answers of a teacher",
    "supervised": "trained on labels from random weights",
}
# Settings that a reader asks for, by subject; those that a kind of training ignores are left out.
_SETTINGS = {
    "": (
        *("train_batch_size", "optimizer", "learning_rate", "learning_rate_scaling"),
        *("warmup_epochs", "weight_decay", "crop_min_area", "flip", "seed"),
    ),
    "pretrain": (
        *("temperature", "color_jitter_strength", "use_blur", "use_memory", "memory_size"),
        "ema_decay",
    ),
    "finetune": (
        *("checkpoint", "ft_proj_selector", "fine_tune_after_block"),
        *("label_fraction", "labels_per_class"),
    ),
    "distill": (
        *("teacher", "distill_temperature", "distill_alpha", "label_fraction"),
        "labels_per_class",
    ),
    "supervised": ("label_fraction", "labels_per_class"),
}
# Name in result.json -> words, and whether it is a share.
_RESULTS = {
    "eval/label_top_1_accuracy": ("top-1 accuracy", True),
    "eval/label_top_5_accuracy": ("top-5 accuracy", True),
    "eval/supervised_loss": ("cross entropy (nats)", False),
    "eval/knn_accuracy": ("nearest-neighbor accuracy of the features", True),
    "eval/knn_accuracy_untrained": ("the same network untrained", True),
    "eval/majority_class_accuracy": ("majority-class accuracy", True),
    "eval/contrast_acc": ("contrastive accuracy", True),
    "eval/contrast_loss": ("contrastive loss (nats, both directions)", False),
}
_CLASSES_LISTED = 20


def text(
    model,
    about: Mapping,
    *,
    preprocessing: Mapping,
    class_names: Sequence[str] | None = None,
    settings: Mapping | None = None,
    results: Mapping | None = None,
) -> str:
    """Returns the page.

    Args:
        model: the `model.SimCLR`.
        about: its model.json; what it lacks is left out.
        preprocessing: see `model_json.describe`.
        class_names: names by class.
        settings: the run's flags.json.
        results: the run's result.json, of these weights.
    """
    parts = [
        _title(model, about),
        _loading(model, preprocessing),
        _architecture(model),
        _data(about, settings or {}, class_names),
        _training(about, settings or {}),
        _preparation(preprocessing, model),
        _results(results or {}, settings or {}, about),
        "## Limits and licence\n\n"
        "*Not filled in by the program.* Intended use and known limits: (to be written).\n\n"
        "Licence of these weights: (to be chosen by whoever publishes them; the data they were "
        "trained on may set terms).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _name(model) -> str:
    given = model.hyperparameters
    name = f"ResNet-{given['depth']} ({given['width_multiplier']:g}x"
    name += f", SK {given['sk_ratio']:g}" if given["sk_ratio"] else ""
    name += f", SE {given['se_ratio']:g}" if given["se_ratio"] else ""
    return name + ")"


def _title(model, about: Mapping) -> str:
    dataset, mode = about.get("dataset"), about.get("train_mode")
    title = f"# {_name(model)}" + (f", {dataset}" if dataset else "")
    sentence = f"A {_name(model)}"
    sentence += f" {_TRAINED[mode]}" if mode in _TRAINED else ""
    sentence += f" on {dataset}" if dataset else ""
    step, total = about.get("global_step"), about.get("train_steps")
    if step is not None:
        sentence += f", after {step:,} " + (f"of {total:,} training steps" if total else "steps")
    source = "SimCLRv2 ([Chen et al. 2020](https://arxiv.org/abs/2006.10029)), simclr-tf2"
    return f"{title}\n\n{sentence}; {source}."


def _loading(model, preprocessing: Mapping) -> str:
    size = preprocessing["image_size"]
    shape = f"(n, {size}, {size}, {model.hyperparameters['channels']})"
    classifies = bool(model.hyperparameters["num_classes"])
    serves = '["probabilities"]' if classifies else '["final_avg_pool"]'
    call, what = ("predict", ".rows()") if classifies else ("embed", ".values")
    return f"""## How to load it

With TensorFlow alone, in the directory of this file:

```python
import tensorflow as tf
network = tf.saved_model.load(".")
features = network(images, trainable=False)["final_avg_pool"]  # float32 in [0, 1], {shape}
```

`network.signatures["serving_default"](images=pictures){serves}` takes pictures, uint8 of any
size, and prepares them itself. With simclr-tf2, on a folder of pictures:

```python
import tf2 as simclr
found = simclr.{call}(".", "pictures"){what}
```"""


def _architecture(model) -> str:
    given = model.hyperparameters
    named = variables.named_variables(model)
    counts: dict[str, int] = {}
    for name, variable in named.items():
        if not variables.role(name).startswith("moving"):
            part = name.split("/")[0]
            counts[part] = counts.get(part, 0) + int(np.prod(variable.shape))
    words = {
        "backbone": "backbone",
        "projection_head": "projection head",
        "supervised_head": "classifier",
    }
    rows = [(words.get(part, part), f"{count:,}") for part, count in counts.items()]
    rows.append(("all", f"{sum(counts.values()):,}"))
    table = tables.markdown_table(("part", "parameters"), rows)
    head = given["proj_head_mode"]
    head = f"{head}, {given['num_proj_layers']} layers" if head == "nonlinear" else head
    selector = given["ft_proj_selector"]
    lines = [
        f"{_name(model)}, stem {given['stem']}, {given['channels']} input channel(s); projection "
        f"head: {head}."
    ]
    if given["num_classes"]:
        place = "the backbone's output"
        place = place if not selector else f"layer {selector} of the projection head"
        lines.append(f"Classifier: {given['num_classes']:,} classes, on {place}.")
    return "## Network\n\n" + " ".join(lines) + f"\n\n{table}"


def _data(about: Mapping, settings: Mapping, class_names: Sequence[str] | None) -> str:
    if not about.get("dataset"):
        return ""
    line = f"Dataset: {about['dataset']}"
    line += f", split {settings['train_split']}" if settings.get("train_split") else ""
    if class_names:
        listed = ", ".join(class_names[:_CLASSES_LISTED])
        more = len(class_names) - _CLASSES_LISTED
        line += f". {len(class_names):,} classes: {listed}"
        line += f" and {more:,} more (model.json has them all)" if more > 0 else ""
    return f"## Data\n\n{line}."


def _training(about: Mapping, settings: Mapping) -> str:
    mode = about.get("train_mode")
    names = [n for n in (*_SETTINGS[""], *_SETTINGS.get(mode, ())) if n in settings]
    if mode == "pretrain" and not settings.get("use_memory"):
        names = [n for n in names if n not in ("memory_size", "ema_decay")]
    rows = [(f"`--{name}`", settings[name]) for name in names]
    if not rows:
        return ""
    versions = ", ".join(f"{k} {v}" for k, v in (about.get("versions") or {}).items())
    table = tables.markdown_table(("setting", "value"), [(a, str(b)) for a, b in rows])
    return "## Training\n\n" + table + (f"\n\nWith {versions}." if versions else "")


def _preparation(preprocessing: Mapping, model) -> str:
    size, crop = preprocessing["image_size"], preprocessing.get("center_crop")
    steps = [f"decode to {preprocessing['channels']} channel(s), values in [0, 1]"]
    if crop:
        steps.append(f"take the largest central square, {100 * crop:g} % of its side")
    kernel = preprocessing.get("interpolation", "bicubic")
    grid = preprocessing.get("resize", "half_pixel")
    steps.append(f"resize to {size} x {size} pixels ({kernel}, pixel grid {grid}), clip to [0, 1]")
    if preprocessing.get("sobel"):
        steps.append(f"replace by Sobel edges, {model.hyperparameters['channels']} channels")
    lines = [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    nothing = "No mean is subtracted and nothing is divided."
    return "## What an image goes through\n\n" + "\n".join(lines) + f"\n\n{nothing}"


def _results(results: Mapping, settings: Mapping, about: Mapping) -> str:
    rows = [
        (title, f"{100 * results[name]:.2f} %" if share else f"{results[name]:.4f}")
        for name, (title, share) in _RESULTS.items()
        if name in results
    ]
    if not rows:
        return "## Results\n\nNone were measured when this was exported."
    where = "/".join(filter(None, (about.get("dataset"), settings.get("eval_split"))))
    table = tables.markdown_table(("measure", "value"), rows)
    return "## Results\n\n" + (f"On {where}:\n\n" if where else "") + table
