"""The rules that a Config must keep, one sentence each, and what deserves a warning.

Every function takes a Config and reads nothing else: no data, device or file.
"""

import difflib
import math
import numbers

from tf2 import architecture, errors, modes

_INF = math.inf

# name -> (lowest, highest) of integers; both ends are allowed.
_INTEGER_RANGES = {
    "train_batch_size": (1, _INF),
    "eval_batch_size": (1, _INF),
    "train_epochs": (0, _INF),
    "train_steps": (0, _INF),
    "eval_steps": (0, _INF),
    "checkpoint_epochs": (0, _INF),
    "checkpoint_steps": (0, _INF),
    "keep_checkpoint_max": (1, _INF),
    "keep_hub_module_max": (0, _INF),
    "image_size": (1, _INF),
    "proj_out_dim": (1, _INF),
    "num_proj_layers": (1, _INF),
    "fine_tune_after_block": (-1, 4),
    "ft_proj_selector": (-1, _INF),
    "labels_per_class": (0, _INF),
    "label_seed": (0, 2**31 - 1),
    "seed": (0, 2**31 - 1),
    "eval_timeout": (0, _INF),
    "log_every_steps": (0, _INF),
    "knn_every_epochs": (0, _INF),
    "knn_neighbors": (1, _INF),
    "knn_bank_size": (1, _INF),
    "shuffle_buffer": (1, _INF),
    "num_parallel_calls": (0, _INF),
    "memory_size": (0, _INF),
}
# name -> interval of real numbers, as it is written in the message.
_REAL_RANGES = {
    "learning_rate": "[0, inf)",
    "warmup_epochs": "[0, inf)",
    "weight_decay": "[0, inf)",
    "momentum": "[0, 1)",
    "batch_norm_decay": "[0, 1)",
    "temperature": "(0, inf)",
    "width_multiplier": "[0.0625, inf)",
    "sk_ratio": "[0, 1]",
    "se_ratio": "[0, 1]",
    "rotation_degrees": "[0, 180]",
    "noise_std": "[0, inf)",
    "cutout_size": "[0, 1]",
    "crop_min_area": "(0, 1]",
    "val_fraction": "[0, 1)",
    "max_bad_fraction": "[0, 1]",
    "label_fraction": "[0, 1]",
    "color_jitter_strength": "[0, 1.25]",
    "ema_decay": "[0, 1]",
    "distill_temperature": "(0, inf)",
    "distill_alpha": "[0, 1]",
}
_WHY = {
    "color_jitter_strength": "the factor 1 - 0.8 * strength of contrast and "
    "saturation must not be negative",
    "cutout_size": "it is a fraction of the image's side",
    "label_fraction": "it is a fraction of the labels, not a percentage",
    "image_size": "it is in pixels",
    "distill_alpha": "it weighs the teacher's answers against the labels",
    "fine_tune_after_block": "-1 trains everything, 4 only the classifier",
}


def check(config):
    """Raises errors.UserError for the first rule that `config` breaks."""
    _check_kinds(config)
    for name, (low, high) in _INTEGER_RANGES.items():
        if not low <= getattr(config, name) <= high:
            between = f"at least {low}" if high == _INF else f"from {low} to {high}"
            _refuse(config, name, f"{name} must be {between}")
    for name, interval in _REAL_RANGES.items():
        if not _in_interval(getattr(config, name), interval):
            _refuse(config, name, f"{name} must be {_in_words(interval)}")
    for rule in _RULES:
        rule(config)


def warnings(config):
    """Returns a sentence for each legal setting that may surprise."""
    found = []
    if config.sk_ratio > 0 and config.resnet_depth in (18, 34):
        parts = "shortcut" if config.stem_name == "cifar" else "stem and shortcut"
        found.append(
            f"sk_ratio={config.sk_ratio} gives ResNet-{config.resnet_depth} the "
            f"ResNet-D {parts} but no selective kernels: only depths 50 and above "
            "have blocks for them."
        )
    if config.sk_ratio == 1:
        found.append(
            "sk_ratio=1 is not the sk1 of the released networks: that is --sk_ratio=0.0625."
        )
    linear = config.learning_rate_scaling == "linear"
    mode = modes.get(config.train_mode)
    pretrains = config.trains and mode.pretrains
    if pretrains and linear and config.optimizer != "adam" and config.train_batch_size < 512:
        found.append(
            f"Linear learning rate scaling suits large batches: for "
            f"train_batch_size={config.train_batch_size}, below 512, "
            "--learning_rate_scaling=sqrt with --learning_rate=0.075 (ImageNet) or "
            "0.2 (CIFAR-10) is known to pretrain better."
        )
    if pretrains and config.train_batch_size == 1:
        found.append(
            "A batch of one image has no other to contrast with: with train_batch_size=1 the "
            "contrastive loss is 0 and nothing is learned from it."
        )
    if mode.distills and not config.uses_labels:
        found += [
            f"{name}={getattr(config, name)} has no effect with distill_alpha=1: no label is read."
            for name in ("label_fraction", "labels_per_class")
            if getattr(config, name) and name in config.explicit
        ]
    if "num_proj_layers" in config.explicit and config.proj_head_mode != "nonlinear":
        found.append(
            f"num_proj_layers={config.num_proj_layers} has no effect with "
            f"proj_head_mode={config.proj_head_mode}."
        )
    if config.knn_every_epochs and config.trains and not (pretrains or config.all_stages):
        found.append(
            f"knn_every_epochs={config.knn_every_epochs} has no effect with "
            f"train_mode={config.train_mode}: features are measured while pretraining."
        )
    if config.val_fraction > 0 and config.dataset != "folder":
        found.append(
            f"val_fraction={config.val_fraction} has no effect with "
            f"dataset={config.dataset_name}: only picture folders are divided by it."
        )
    return found


def check_ft_proj_selector(config):
    """Raises errors.UserError where ft_proj_selector is no layer of the head."""
    layers = {"none": 0, "linear": 1, "nonlinear": config.num_proj_layers}
    last = layers[config.proj_head_mode]
    if not -1 <= config.ft_proj_selector <= last:
        remedy = f"use 0 to {last}, or -1 for the last" if last else "use 0"
        raise errors.UserError(
            f"ft_proj_selector must be a layer of the projection head, which has "
            f"{last} (proj_head_mode={config.proj_head_mode}, "
            f"num_proj_layers={config.num_proj_layers}). Received: "
            f"ft_proj_selector={config.ft_proj_selector}; {remedy}."
        )


def closest(value, choices):
    """Returns ' Did you mean X?' for the choice most like `value`, or ''."""
    lowered = {str(choice).lower(): choice for choice in choices}
    found = difflib.get_close_matches(str(value).lower(), lowered, n=1)
    return f" Did you mean {lowered[found[0]]}?" if found else ""


def _refuse(config, name, rule, remedy=None):
    why = f" ({_WHY[name]})" if name in _WHY else ""
    default = config.__dataclass_fields__[name].default
    ending = f" {remedy}" if remedy else f" The default is --{name}={default}."
    raise errors.UserError(f"{rule}{why}. Received: {name}={getattr(config, name)}.{ending}")


def _in_interval(value, interval):
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value > low or (interval[0] == "[" and value == low)
    below = value < high or (interval[-1] == "]" and value == high)
    return above and below


def _in_words(interval):
    low, high = interval[1:-1].split(", ")
    begin = f"at least {low}" if interval[0] == "[" else f"above {low}"
    end = f" and at most {high}" if interval[-1] == "]" else f" and below {high}"
    return begin if high == "inf" else begin + end


def _check_kinds(config):
    """Checks types and choices, for a Config that was made in Python."""
    tests = {
        "bool": lambda value: isinstance(value, bool),
        "int": lambda value: _is_number(value, numbers.Integral),
        "float": lambda value: _is_number(value, numbers.Real),
        "string": lambda value: value is None or isinstance(value, str),
        "enum": lambda value: isinstance(value, str),
    }
    words = {"bool": "True or False", "int": "a whole number", "float": "a number"}
    for name, field in config.__dataclass_fields__.items():
        kind = field.metadata.get("kind")
        if kind is None:
            continue
        value = getattr(config, name)
        if not tests[kind](value):
            what = words.get(kind, "a string")
            raise errors.UserError(f"{name} must be {what}. Received: {name}={value!r}")
        choices = field.metadata["choices"]
        choices = choices() if callable(choices) else choices
        if choices and value not in choices:
            raise errors.UserError(
                f"{name} must be one of {', '.join(choices)}. Received: "
                f"{name}={value}.{closest(value, choices)}"
            )


def _is_number(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_depth(config):
    if config.resnet_depth not in architecture.DEPTHS:
        nearest = min(architecture.DEPTHS, key=lambda depth: abs(depth - config.resnet_depth))
        raise errors.UserError(
            f"resnet_depth must be one of {', '.join(map(str, architecture.DEPTHS))}. Received: "
            f"resnet_depth={config.resnet_depth}. Did you mean {nearest}?"
        )


def _check_length(config):
    if config.trains and not (config.train_steps or config.train_epochs):
        raise errors.UserError(
            "Training needs a length. Received: train_steps=0, train_epochs=0. Give "
            "--train_steps or --train_epochs."
        )
    if not (config.checkpoint_steps or config.checkpoint_epochs):
        raise errors.UserError(
            "Checkpoints need an interval. Received: checkpoint_steps=0, "
            "checkpoint_epochs=0. Give --checkpoint_steps or --checkpoint_epochs."
        )


def _check_selector(config):
    # The checkpoint's own head decides, unless the user describes one; then
    # with_model_json() checks again.
    stored = config.checkpoint or not config.trains
    described = {"num_proj_layers", "proj_head_mode"} & config.explicit
    if described or not stored:
        check_ft_proj_selector(config)


def _check_freezing(config):
    if config.fine_tune_after_block > -1 and not config.uses("fine_tune_after_block"):
        _refuse(
            config,
            "fine_tune_after_block",
            f"Only fine-tuning freezes blocks, not train_mode={config.train_mode}",
            "Use --train_mode=finetune, or --fine_tune_after_block=-1.",
        )


def _check_labels(config):
    if config.label_fraction and config.labels_per_class:
        raise errors.UserError(
            "Few labels are chosen by fraction or by number. Received: "
            f"label_fraction={config.label_fraction}, "
            f"labels_per_class={config.labels_per_class}. Give one of them."
        )
    for name in ("label_fraction", "labels_per_class"):
        if getattr(config, name) and not config.uses(name) and config.trains:
            _refuse(
                config,
                name,
                f"{name} is for training on labels, and pretraining uses all images",
                f"Leave --{name} out, or use --train_mode=finetune or supervised.",
            )


def _check_checkpoint(config):
    mode = modes.get(config.train_mode)
    if mode.checkpoint == "unused" and config.checkpoint:
        _refuse(
            config,
            "checkpoint",
            "Supervised training starts from scratch",
            "Use --train_mode=finetune to start from a checkpoint.",
        )
    if mode.checkpoint == "required" and config.trains and not config.checkpoint:
        raise errors.UserError(
            "Fine-tuning starts from a pretrained network. Received: "
            f"train_mode={config.train_mode}, checkpoint=None. Give --checkpoint, or use "
            "--train_mode=supervised to train from scratch."
        )
    if config.restore_head and not config.uses("restore_head"):
        _refuse(
            config,
            "restore_head",
            "Only fine-tuning and distillation can start from a checkpoint's classifier",
            "Use --train_mode=finetune, or leave --restore_head out.",
        )
    if config.restore_head and config.zero_init_logits_layer:
        raise errors.UserError(
            "The classifier starts from zeros or from the checkpoint. Received: "
            "restore_head=True, zero_init_logits_layer=True. Give one of them."
        )


def _check_network(config):
    if config.applies and not (config.checkpoint or "model_dir" in config.explicit):
        raise errors.UserError(
            f"mode={config.mode} uses a trained network. Received: checkpoint=None, "
            "model_dir=None. Give --checkpoint, or the --model_dir of a run."
        )


def _check_teacher(config):
    distills = modes.get(config.train_mode).distills
    if distills and config.trains and not config.teachers:
        raise errors.UserError(
            f"Distillation needs a teacher. Received: train_mode={config.train_mode}, teacher=''. "
            "Give --teacher, the model_dir of a fine-tuned network."
        )
    if config.teacher and not distills:
        _refuse(
            config,
            "teacher",
            f"Only distillation has a teacher, not train_mode={config.train_mode}",
            "Use --distill.teacher, that stage's own flag."
            if config.all_stages
            else "Use --train_mode=distill, or leave --teacher out.",
        )


def _check_memory(config):
    if config.use_memory and not config.uses("use_memory"):
        _refuse(
            config,
            "use_memory",
            f"Only pretraining has a memory, not train_mode={config.train_mode}",
            "Leave --use_memory out, or use --train_mode=pretrain.",
        )
    pretrains = config.trains and modes.get(config.train_mode).pretrains
    if config.weights == "ema" and pretrains and not (config.use_memory or config.checkpoint):
        _refuse(
            config,
            "weights",
            "Only pretraining with a memory keeps a moving average of the weights",
            "Add --use_memory, or use --weights=online.",
        )


def _check_whole(config):
    if config.all_stages and config.mode == "eval":
        raise errors.UserError(
            "The stages are evaluated one by one. Received: mode=eval, train_mode=simclrv2. Give "
            "the directory of one, such as --mode=eval --model_dir=MODEL_DIR/distill, or use "
            "--mode=train_then_eval, which trains no finished stage again."
        )


def _check_places(config):
    if config.dataset == "folder" and not config.data_dir:
        raise errors.UserError(
            "dataset=folder reads the pictures below a directory. Received: "
            "data_dir=None. Give --data_dir."
        )
    if config.use_tpu and config.strategy not in ("auto", "tpu"):
        _refuse(
            config,
            "strategy",
            "use_tpu=True means the tpu strategy",
            "Leave --use_tpu or --strategy out.",
        )


_RULES = (
    _check_depth,
    _check_length,
    _check_selector,
    _check_freezing,
    _check_labels,
    _check_checkpoint,
    _check_network,
    _check_teacher,
    _check_memory,
    _check_whole,
    _check_places,
)
