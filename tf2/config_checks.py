"""The rules that a Config must satisfy beyond each flag's own range, and warnings.

Every function takes a Config and reads nothing else: no data, device or file.
"""

from __future__ import annotations

import difflib
import numbers
import typing
from collections.abc import Callable, Iterable
from typing import Any

from tf2 import architecture, errors, flag_fields, modes

if typing.TYPE_CHECKING:
    from tf2 import config as config_lib


def check(config: config_lib.Config) -> None:
    """Raises errors.UserError for the first rule that `config` breaks."""
    _check_kinds(config)
    _check_ranges(config)
    for rule in _RULES:
        rule(config)


def warnings(config: config_lib.Config) -> list[str]:
    """Returns a sentence for each legal setting that may surprise."""
    messages = []
    if config.sk_ratio > 0 and config.resnet_depth in (18, 34):
        parts = "shortcut" if config.stem_name == "cifar" else "stem and shortcut"
        messages.append(
            f"sk_ratio={config.sk_ratio} gives ResNet-{config.resnet_depth} the "
            f"ResNet-D {parts} but no selective kernels: only depths 50 and above "
            "have blocks for them."
        )
    if config.sk_ratio == 1:
        messages.append(
            "sk_ratio=1 is not the sk1 of the released networks: that is --sk_ratio=0.0625."
        )
    linear = config.learning_rate_scaling == "linear"
    mode = modes.get(config.train_mode)
    pretrains = config.trains and mode.pretrains
    if pretrains and linear and config.optimizer != "adam" and config.train_batch_size < 512:
        messages.append(
            f"Linear learning rate scaling suits large batches: for "
            f"train_batch_size={config.train_batch_size}, below 512, "
            "--learning_rate_scaling=sqrt with --learning_rate=0.075 (ImageNet) or "
            "0.2 (CIFAR-10) is known to pretrain better."
        )
    if pretrains and config.train_batch_size == 1:
        messages.append(
            "A batch of one image has no other to contrast with: with train_batch_size=1 the "
            "contrastive loss is 0 and nothing is learned from it."
        )
    if mode.distills and not config.uses_labels:
        messages += [
            f"{name}={getattr(config, name)} has no effect with distill_alpha=1: no label is read."
            for name in ("label_fraction", "labels_per_class")
            if getattr(config, name) and name in config.explicit
        ]
    if "num_proj_layers" in config.explicit and config.proj_head_mode != "nonlinear":
        messages.append(
            f"num_proj_layers={config.num_proj_layers} has no effect with "
            f"proj_head_mode={config.proj_head_mode}."
        )
    if config.knn_every_epochs and config.trains and not (pretrains or config.all_stages):
        messages.append(
            f"knn_every_epochs={config.knn_every_epochs} has no effect with "
            f"train_mode={config.train_mode}: features are measured while pretraining."
        )
    if config.val_fraction > 0 and config.dataset != "folder":
        messages.append(
            f"val_fraction={config.val_fraction} has no effect with "
            f"dataset={config.dataset_name}: only picture folders are divided by it."
        )
    return messages


def check_ft_proj_selector(config: config_lib.Config) -> None:
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


def closest(value: object, choices: Iterable[object]) -> str:
    """Returns ' Did you mean X?' for the choice most like `value`, or ''."""
    lowered = {str(choice).lower(): choice for choice in choices}
    matches = difflib.get_close_matches(str(value).lower(), lowered, n=1)
    return f" Did you mean {lowered[matches[0]]}?" if matches else ""


def _refuse(
    config: config_lib.Config, name: str, rule: str, remedy: str | None = None
) -> typing.NoReturn:
    field = config.__dataclass_fields__[name]
    why = f" ({field.metadata['why']})" if field.metadata["why"] else ""
    default = field.default
    ending = f" {remedy}" if remedy else f" The default is --{name}={default}."
    raise errors.UserError(f"{rule}{why}. Received: {name}={getattr(config, name)}.{ending}")


def _in_interval(value: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value > low or (interval[0] == "[" and value == low)
    below = value < high or (interval[-1] == "]" and value == high)
    return above and below


def _in_words(interval: str, *, whole: bool) -> str:
    low, high = interval[1:-1].split(", ")
    if whole and high != "inf":
        return f"from {low} to {high}"
    begin = f"at least {low}" if interval[0] == "[" else f"above {low}"
    end = f" and at most {high}" if interval[-1] == "]" else f" and below {high}"
    return begin if high == "inf" else begin + end


def _check_ranges(config: config_lib.Config) -> None:
    for name, field in config.__dataclass_fields__.items():
        interval = field.metadata.get("range")
        if interval and not _in_interval(getattr(config, name), interval):
            words = _in_words(interval, whole=field.metadata["kind"] == "int")
            _refuse(config, name, f"{name} must be {words}")


def _check_kinds(config: config_lib.Config) -> None:
    """Checks types and choices, for a Config that was made in Python."""
    tests: dict[str, Callable[[Any], bool]] = {
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
        choices = flag_fields.choices(field)
        if choices and value not in choices:
            raise errors.UserError(
                f"{name} must be one of {', '.join(choices)}. Received: "
                f"{name}={value}.{closest(value, choices)}"
            )


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_depth(config: config_lib.Config) -> None:
    if config.resnet_depth not in architecture.DEPTHS:
        nearest = min(architecture.DEPTHS, key=lambda depth: abs(depth - config.resnet_depth))
        raise errors.UserError(
            f"resnet_depth must be one of {', '.join(map(str, architecture.DEPTHS))}. Received: "
            f"resnet_depth={config.resnet_depth}. Did you mean {nearest}?"
        )


def _check_length(config: config_lib.Config) -> None:
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


def _check_selector(config: config_lib.Config) -> None:
    # The checkpoint's own head decides, unless the user describes one; then
    # resolve.with_architecture() checks again.
    stored = config.checkpoint or not config.trains
    described = {"num_proj_layers", "proj_head_mode"} & config.explicit
    if described or not stored:
        check_ft_proj_selector(config)


def _check_freezing(config: config_lib.Config) -> None:
    if config.fine_tune_after_block > -1 and not config.uses("fine_tune_after_block"):
        _refuse(
            config,
            "fine_tune_after_block",
            f"Only fine-tuning freezes blocks, not train_mode={config.train_mode}",
            "Use --train_mode=finetune, or --fine_tune_after_block=-1.",
        )


def _check_labels(config: config_lib.Config) -> None:
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


def _check_checkpoint(config: config_lib.Config) -> None:
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


def _check_network(config: config_lib.Config) -> None:
    if config.applies and not (config.checkpoint or "model_dir" in config.explicit):
        raise errors.UserError(
            f"mode={config.mode} uses a trained network. Received: checkpoint=None, "
            "model_dir=None. Give --checkpoint, or the --model_dir of a run."
        )


def _check_teacher(config: config_lib.Config) -> None:
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


def _check_memory(config: config_lib.Config) -> None:
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


def _check_whole(config: config_lib.Config) -> None:
    if config.all_stages and config.mode == "eval":
        raise errors.UserError(
            "The stages are evaluated one by one. Received: mode=eval, train_mode=simclrv2. Give "
            "the directory of one, such as --mode=eval --model_dir=MODEL_DIR/distill, or use "
            "--mode=train_then_eval, which trains no finished stage again."
        )


def _check_places(config: config_lib.Config) -> None:
    if config.dataset == "folder" and not config.data_dir:
        raise errors.UserError(
            "dataset=folder reads the images of a folder or a CSV manifest. Received: "
            "data_dir=None. Set --data_dir."
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
