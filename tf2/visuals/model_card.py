"""The model card of an export: a Markdown page about the network and its use.

Its content is read from the network, its model.json, the run's flags.json and result.json. Facts
that are not in them, such as the intended use and the licence, are marked for the user to fill in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tf2 import backbones, console, intervals, modes, variables
from tf2 import model as model_lib

FILE_NAME = "README.md"

# The settings of the card for every train mode; `modes.Mode.card` has those of one.
_SETTINGS = (
    *("train_batch_size", "optimizer", "learning_rate", "learning_rate_scaling"),
    *("warmup_epochs", "weight_decay", "crop_min_area", "flip", "seed"),
)
# Key of result.json -> title, and whether the value is a fraction to show in percent.
_RESULTS = {
    "eval/label_top_1_accuracy": ("top-1 accuracy", True),
    "eval/label_mean_per_class_accuracy": ("mean per-class accuracy", True),
    "eval/label_top_5_accuracy": ("top-5 accuracy", True),
    "eval/supervised_loss": ("cross entropy (nats)", False),
    "eval/knn_accuracy": ("kNN accuracy of the features", True),
    "eval/knn_accuracy_untrained": ("kNN accuracy with random weights", True),
    "eval/majority_class_accuracy": ("majority-class accuracy", True),
    "eval/contrast_acc": ("contrastive accuracy", True),
    "eval/contrast_loss": ("contrastive loss (nats, both directions)", False),
}
_FORMER_KEYS = {"eval/majority_class_accuracy": "eval/chance_accuracy"}  # in older runs
_CLASSES_LISTED = 20


def text(
    model: model_lib.SimCLR,
    metadata: Mapping,
    *,
    preprocessing: Mapping,
    class_names: Sequence[str] | None = None,
    settings: Mapping | None = None,
    results: Mapping | None = None,
    address: str = "",
    formats: str = "",
) -> str:
    """Returns the page; facts that are missing from the arguments are left out.

    Args:
        model: the network.
        metadata: the content of its model.json.
        preprocessing: see `model_json.describe`.
        class_names: names by class.
        settings: the run's flags.json.
        results: the run's result.json, of these weights.
        address: of the weights alone, hf://user/name; by default it is the card of a SavedModel.
        formats: the section about further files of the export.
    """
    sections = [
        _title(model, metadata),
        _loading_from(address, model) if address else _loading(model, preprocessing),
        _architecture(model),
        _data(metadata, settings or {}, class_names),
        _training(metadata, settings or {}),
        _preprocessing(preprocessing, model),
        _results(results or {}, settings or {}, metadata),
        formats,
        "## Limits and licence\n\n"
        "*To be filled in by the publisher.* Intended use and known limits: (to be written).\n\n"
        "Licence of these weights: (to be chosen by the publisher; the training data may set "
        "terms).",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _title(model: model_lib.SimCLR, metadata: Mapping) -> str:
    dataset, mode = metadata.get("dataset"), metadata.get("train_mode")
    name = backbones.title(model.hyperparameters)
    title = f"# {name}" + (f", {dataset}" if dataset else "")
    sentence = f"{'An' if name[0] in 'AEIOU' else 'A'} {name}"
    sentence += f" {modes.TRAIN_MODES[mode].title}" if mode in modes.TRAIN_MODES else ""
    sentence += f" on {dataset}" if dataset else ""
    step, total = metadata.get("global_step"), metadata.get("train_steps")
    if step is not None:
        sentence += f", after {step:,} " + (f"of {total:,} training steps" if total else "steps")
    source = "SimCLRv2 ([Chen et al. 2020](https://arxiv.org/abs/2006.10029)), simclr-tf2"
    return f"{title}\n\n{sentence}; {source}."


def _loading(model: model_lib.SimCLR, preprocessing: Mapping) -> str:
    size = preprocessing["image_size"]
    shape = f"(n, {size}, {size}, {model.hyperparameters['channels']})"
    classifies = bool(model.hyperparameters["num_classes"])
    output = '["probabilities"]' if classifies else '["final_avg_pool"]'
    call = 'predict(".", "images").rows()' if classifies else 'embed(".", "images").values'
    name = "predictions" if classifies else "features"
    return f"""## How to load it

With TensorFlow alone, in the directory of this file:

```python
import tensorflow as tf
network = tf.saved_model.load(".")
features = network(images, trainable=False)["final_avg_pool"]  # float32 in [0, 1], {shape}
```

`network.signatures["serving_default"](images=images){output}` takes images of any size, uint8,
and does the preprocessing; `network.signatures["fixed_size"]` takes images that are prepared as
above. With simclr-tf2, on a folder of images:

```python
import tf2 as simclr
{name} = simclr.{call}
```"""


def _loading_from(address: str, model: model_lib.SimCLR) -> str:
    call = "predict" if model.hyperparameters["num_classes"] else "embed"
    return f"""## How to load it

With simclr-tf2 (`pip install 'simclr-tf2[hub]'`), on a folder of images:

```bash
python tf2/run.py --mode={call} --checkpoint={address} --data_dir=images
python tf2/run.py --mode=train_then_eval --checkpoint={address} \\
  --data_dir=images --labels=labels.csv
```

```python
import tf2 as simclr
rows = simclr.{call}("{address}", "images")
```"""


def _architecture(model: model_lib.SimCLR) -> str:
    hparams = model.hyperparameters
    counts: dict[str, int] = {}
    for name, variable in variables.named_variables(model).items():
        if variables.role(name) not in variables.STATISTICS:
            part = name.split("/")[0]
            counts[part] = counts.get(part, 0) + int(np.prod(variable.shape))
    titles = {
        "backbone": "backbone",
        "projection_head": "projection head",
        "supervised_head": "classifier",
    }
    rows = [(titles.get(part, part), f"{count:,}") for part, count in counts.items()]
    rows.append(("all", f"{sum(counts.values()):,}"))
    table = console.markdown_table(("part", "parameters"), rows)
    head = hparams["proj_head_mode"]
    head = f"{head}, {hparams['num_proj_layers']} layers" if head == "nonlinear" else head
    selector = hparams["ft_proj_selector"]
    stem = f", stem {hparams['stem']}" if "stem" in hparams else ""
    lines = [
        f"{backbones.title(hparams)}{stem}, {hparams['channels']} input channel(s); "
        f"projection head: {head}."
    ]
    if hparams["num_classes"]:
        inputs = f"layer {selector} of the projection head" if selector else "the backbone's output"
        lines.append(f"Classifier: {hparams['num_classes']:,} classes, on {inputs}.")
    return "## Network\n\n" + " ".join(lines) + f"\n\n{table}"


def _data(metadata: Mapping, settings: Mapping, class_names: Sequence[str] | None) -> str:
    if not metadata.get("dataset"):
        return ""
    line = f"Dataset: {metadata['dataset']}"
    line += f", split {settings['train_split']}" if settings.get("train_split") else ""
    if class_names:
        listed = ", ".join(class_names[:_CLASSES_LISTED])
        more = len(class_names) - _CLASSES_LISTED
        line += f". {len(class_names):,} classes: {listed}"
        line += f" and {more:,} more (model.json has them all)" if more > 0 else ""
    return f"## Data\n\n{line}."


def _training(metadata: Mapping, settings: Mapping) -> str:
    mode = modes.TRAIN_MODES.get(metadata.get("train_mode", ""))
    names = [n for n in (*_SETTINGS, *(mode.card if mode else ())) if n in settings]
    if not settings.get("use_memory"):
        names = [n for n in names if n not in ("memory_loss", "memory_size", "ema_decay")]
    if not names:
        return ""
    rows = [(f"`--{name}`", _without_directory(str(settings[name]))) for name in names]
    table = console.markdown_table(("setting", "value"), rows)
    versions = ", ".join(f"{k} {v}" for k, v in (metadata.get("versions") or {}).items())
    return "## Training\n\n" + table + (f"\n\nVersions: {versions}." if versions else "")


def _without_directory(value: str) -> str:
    """Returns a value with the last name of each path in it, such as a teacher's."""
    return ", ".join(part.strip().rstrip("/").rpartition("/")[2] for part in value.split(","))


def _preprocessing(preprocessing: Mapping, model: model_lib.SimCLR) -> str:
    size, crop = preprocessing["image_size"], preprocessing.get("center_crop")
    steps = [f"decode to {preprocessing['channels']} channel(s), values in [0, 1]"]
    if crop:
        steps.append(f"crop the central square with {100 * crop:g} % of the shorter side")
    kernel = preprocessing.get("interpolation", "bicubic")
    grid = preprocessing.get("resize", "half_pixel")
    steps.append(f"resize to {size} x {size} pixels ({kernel}, pixel grid {grid}), clip to [0, 1]")
    if preprocessing.get("sobel"):
        steps.append(f"replace by Sobel edges, {model.hyperparameters['channels']} channels")
    lines = [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    none = "No mean is subtracted, and there is no division by a standard deviation."
    return "## Preprocessing\n\n" + "\n".join(lines) + f"\n\n{none}"


def _results(results: Mapping, settings: Mapping, metadata: Mapping) -> str:
    values = {key: results.get(key, results.get(_FORMER_KEYS.get(key, key))) for key in _RESULTS}
    rows = [
        (
            title,
            intervals.text(values[key], intervals.of_result(results, key), decimals=2)
            if is_fraction
            else f"{values[key]:.4f}",
        )
        for key, (title, is_fraction) in _RESULTS.items()
        if values[key] is not None
    ]
    if not rows:
        return "## Results\n\nNot evaluated before this export."
    images = "/".join(filter(None, (metadata.get("dataset"), settings.get("eval_split"))))
    table = console.markdown_table(("measure", "value"), rows)
    count = results.get("eval/num_images")
    below = f"\n\n{count:,.0f} images; 95 % intervals in parentheses." if count else ""
    return "## Results\n\n" + (f"On {images}:\n\n" if images else "") + table + below
