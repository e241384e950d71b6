"""Rules and warnings for a Config.

The functions read the Config only: no data, device or file.
"""

from __future__ import annotations

import difflib
import numbers
import typing
from collections.abc import Callable, Iterable
from typing import Any

from tf2 import architecture, errors, modes
from tf2.flags import fields, memory

if typing.TYPE_CHECKING:
    from tf2 import config as config_lib


def check(config: config_lib.Config) -> None:
    """Raises errors.UserError for the first rule that `config` violates; "auto" violates none."""
    config = config.without_autos()
    _check_kinds(config)
    _check_ranges(config)
    for rule in _RULES:
        rule(config)


def warnings(config: config_lib.Config) -> list[str]:
    """Returns a sentence for each valid setting that is probably a mistake."""
    config = config.without_autos()
    messages = []
    if config.sk_ratio > 0 and config.resnet_depth in (18, 34):
        parts = "shortcut" if config.stem_name == "cifar" else "stem and shortcut"
        messages.append(
            f"sk_ratio={config.sk_ratio} gives ResNet-{config.resnet_depth} the "
            f"ResNet-D {parts} but no selective kernels, which need depth 50 or more."
        )
    if config.sk_ratio == 1:
        messages.append(
            "sk_ratio=1 differs from the released sk1 networks, which use --sk_ratio=0.0625."
        )
    linear = config.learning_rate_scaling == "linear"
    mode = modes.get(config.train_mode)
    pretrains = config.trains and mode.pretrains
    if pretrains and linear and config.optimizer != "adam" and config.train_batch_size < 512:
        messages.append(
            "Linear learning rate scaling suits large batches. For "
            f"train_batch_size={config.train_batch_size}, below 512, "
            "--learning_rate_scaling=sqrt with --learning_rate=0.075 (ImageNet) or "
            "0.2 (CIFAR-10) pretrains better."
        )
    if pretrains and config.train_batch_size == 1:
        messages.append(
            "With train_batch_size=1 a batch has no negatives: the contrastive loss is 0 and "
            "nothing is learned from it."
        )
    if pretrains and config.use_memory:
        messages += _memory_warnings(config)
    if mode.distills and not config.uses_labels:
        messages += [
            f"{name}={getattr(config, name)} has no effect with distill_alpha=1: "
            "no labels are used."
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
            f"train_mode={config.train_mode}: kNN accuracy is measured only during pretraining."
        )
    messages += [
        f"{name}={getattr(config, name)} has no effect with dataset={config.dataset_name}: it "
        "applies to picture folders only."
        for name in ("val_fraction", "holdout")
        if getattr(config, name) and config.dataset != "folder"
    ]
    return messages


def _memory_warnings(config: config_lib.Config) -> list[str]:
    messages = []
    size, decay = config.memory_size, config.ema_decay
    enqueued = config.train_batch_size * config.memory_views
    if (stale := memory.staleness(size, decay, enqueued)) > memory.MOST_STALE:
        messages.append(
            f"The queue is stale: with ema_decay={decay}, memory_size={size} and {enqueued} new "
            f"embeddings a step, (1 - {decay}) * {size} / {enqueued} = {stale:g} is above "
            f"{memory.MOST_STALE}. Use --memory_size={memory.largest_size(decay, enqueued)} or "
            f"--ema_decay={memory.least_decay(size, enqueued)}."
        )
    if config.memory_weight != 1 and config.memory_loss != "hybrid":
        messages.append(
            f"memory_weight={config.memory_weight} has no effect with "
            f"memory_loss={config.memory_loss}."
        )
    return messages


def check_ft_proj_selector(config: config_lib.Config) -> None:
    """Raises errors.UserError if ft_proj_selector is not a layer of the projection head."""
    config = config.without_autos()
    layers = {"none": 0, "linear": 1, "nonlinear": config.num_proj_layers}
    last = layers[config.proj_head_mode]
    if not -1 <= config.ft_proj_selector <= last:
        remedy = f"Use 0 to {last}, or -1 for the last" if last else "Use 0"
        raise errors.UserError(
            f"ft_proj_selector must be a layer of the projection head, which has "
            f"{last} (proj_head_mode={config.proj_head_mode}, "
            f"num_proj_layers={config.num_proj_layers}). Received: "
            f"ft_proj_selector={config.ft_proj_selector}. {remedy}."
        )


def check_data_dir(config: config_lib.Config) -> None:
    """Raises errors.UserError for a data_dir that nothing would be read from."""
    # With a trained network, data_dir alone are other images for it.
    dataset = config.dataset_name if config.trains else config.dataset
    if config.data_dir and dataset == "digits":
        raise errors.UserError(
            "The embedded digits are in no directory. Received: "
            f"data_dir={config.data_dir}, dataset=digits. Use --dataset=folder for the images of "
            "data_dir, or remove --data_dir."
        )


def missing_labels(config: config_lib.Config, dataset: str, which: str) -> errors.UserError:
    """Returns the error for a training that needs labels.

    Args:
        config: of the training.
        dataset: its name.
        which: what has no labels, as a relative clause.
    """
    flag, remedy = f"--train_mode={config.train_mode}", "--train_mode=pretrain"
    if modes.get(config.train_mode).distills:
        flag, remedy = f"--distill_alpha={config.distill_alpha}", "--distill_alpha=1"
    return errors.UserError(
        f"{flag} needs labels. Received: dataset={dataset}, {which}. Sort the images into one "
        f"folder per class, give --labels=FILE, or use {remedy}."
    )


def closest(value: object, choices: Iterable[object]) -> str:
    """Returns ' Did you mean X?' for the choice closest to `value`, or an empty string."""
    lowered = {str(choice).lower(): choice for choice in choices}
    matches = difflib.get_close_matches(str(value).lower(), lowered, n=1)
    return f" Did you mean {lowered[matches[0]]}?" if matches else ""


def _reject(
    config: config_lib.Config, name: str, rule: str, remedy: str | None = None
) -> typing.NoReturn:
    field = config.__dataclass_fields__[name]
    reason = f" ({field.metadata['why']})" if field.metadata["why"] else ""
    default = field.default
    ending = f" {remedy}" if remedy else f" The default is --{name}={default}."
    raise errors.UserError(f"{rule}{reason}. Received: {name}={getattr(config, name)}.{ending}")


def _check_ranges(config: config_lib.Config) -> None:
    for name, field in config.__dataclass_fields__.items():
        value, interval = getattr(config, name), field.metadata.get("range")
        kind = field.metadata.get("kind")
        if interval and not fields.in_interval(value, interval):
            words = fields.describe_interval(interval, whole=kind == "int")
            _reject(config, name, f"{name} must be {words}")
        if kind in fields.LARGEST and not abs(value) <= fields.LARGEST[kind]:
            _reject(config, name, f"{name} must be at most {fields.LARGEST[kind]:,.0f}")


def _check_kinds(config: config_lib.Config) -> None:
    """Checks types and choices, for a Config created from Python."""
    type_checks: dict[str, Callable[[Any], bool]] = {
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
        if not type_checks[kind](value):
            expected = words.get(kind, "a string") + (" or auto" if field.metadata["auto"] else "")
            raise errors.UserError(f"{name} must be {expected}. Received: {name}={value!r}.")
        choices = fields.choices(field)
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
            "Training needs a number of steps or epochs. Received: train_steps=0, "
            "train_epochs=0. Set --train_steps or --train_epochs."
        )
    if not (config.checkpoint_steps or config.checkpoint_epochs):
        raise errors.UserError(
            "Checkpoints need an interval. Received: checkpoint_steps=0, "
            "checkpoint_epochs=0. Set --checkpoint_steps or --checkpoint_epochs."
        )


def _check_selector(config: config_lib.Config) -> None:
    # A restored network has the head of its checkpoint, which resolve.with_architecture() checks.
    restores = config.checkpoint or not config.trains
    sets_head = {"num_proj_layers", "proj_head_mode"} & config.explicit
    if sets_head or not restores:
        check_ft_proj_selector(config)


def _check_freezing(config: config_lib.Config) -> None:
    if config.fine_tune_after_block > -1 and not config.uses("fine_tune_after_block"):
        _reject(
            config,
            "fine_tune_after_block",
            f"Only fine-tuning freezes blocks, not train_mode={config.train_mode}",
            "Use --train_mode=finetune, or --fine_tune_after_block=-1.",
        )


def _check_labels(config: config_lib.Config) -> None:
    if config.label_fraction and config.labels_per_class:
        raise errors.UserError(
            "A labeled subset is chosen by fraction or by number. Received: "
            f"label_fraction={config.label_fraction}, "
            f"labels_per_class={config.labels_per_class}. Set only one of them."
        )
    for name in ("label_fraction", "labels_per_class"):
        if getattr(config, name) and not config.uses(name) and config.trains:
            _reject(
                config,
                name,
                f"{name} applies to training on labels; pretraining uses all images",
                f"Remove --{name}, or use --train_mode=finetune or supervised.",
            )


def _check_checkpoint(config: config_lib.Config) -> None:
    mode = modes.get(config.train_mode)
    if mode.checkpoint == "unused" and config.checkpoint:
        _reject(
            config,
            "checkpoint",
            "Supervised training starts from scratch",
            "Use --train_mode=finetune to start from a checkpoint.",
        )
    if mode.checkpoint == "required" and config.trains and not config.checkpoint:
        raise errors.UserError(
            "Fine-tuning starts from a pretrained network. Received: "
            f"train_mode={config.train_mode}, checkpoint=None. Set --checkpoint, or use "
            "--train_mode=supervised to train from scratch."
        )
    if config.restore_head and not config.uses("restore_head"):
        _reject(
            config,
            "restore_head",
            "Only fine-tuning and distillation can start from a checkpoint's classifier",
            "Use --train_mode=finetune, or remove --restore_head.",
        )
    if config.restore_head and config.zero_init_logits_layer:
        raise errors.UserError(
            "The classifier starts either from zeros or from the checkpoint. Received: "
            "restore_head=True, zero_init_logits_layer=True. Set only one of them."
        )


def _check_network(config: config_lib.Config) -> None:
    if config.applies and not (config.checkpoint or "model_dir" in config.explicit):
        raise errors.UserError(
            f"mode={config.mode} needs a trained network. Received: checkpoint=None, "
            "model_dir=None. Set --checkpoint, or --model_dir to the directory of a run."
        )


def _check_teacher(config: config_lib.Config) -> None:
    distills = modes.get(config.train_mode).distills
    if distills and config.trains and not config.teachers:
        raise errors.UserError(
            f"Distillation needs a teacher. Received: train_mode={config.train_mode}, teacher=''. "
            "Set --teacher to the model_dir of a fine-tuned network."
        )
    if config.teacher and not distills:
        _reject(
            config,
            "teacher",
            f"Only distillation has a teacher, not train_mode={config.train_mode}",
            "Use --distill.teacher, the flag of that stage."
            if config.all_stages
            else "Use --train_mode=distill, or remove --teacher.",
        )


def _check_memory(config: config_lib.Config) -> None:
    if config.use_memory and not config.uses("use_memory"):
        _reject(
            config,
            "use_memory",
            f"Only pretraining has a memory, not train_mode={config.train_mode}",
            "Remove --use_memory, or use --train_mode=pretrain.",
        )
    if config.use_memory and config.contrastive_loss != "ntxent":
        _reject(
            config,
            "contrastive_loss",
            "A memory is used with the loss NT-Xent only",
            "Use --contrastive_loss=ntxent, or remove --use_memory.",
        )
    pretrains = config.trains and modes.get(config.train_mode).pretrains
    if config.weights == "ema" and pretrains and not (config.use_memory or config.checkpoint):
        _reject(
            config,
            "weights",
            "Only pretraining with a memory has a moving average of the weights",
            "Add --use_memory, or use --weights=online.",
        )


def _check_recompute(config: config_lib.Config) -> None:
    if config.recompute and config.backbone != architecture.DEFAULT_BACKBONE:
        _reject(
            config,
            "recompute",
            f"Only a ResNet's blocks are computed again, not those of {config.backbone}",
            "Use --micro_batches, which saves memory with any network.",
        )


def _check_stages(config: config_lib.Config) -> None:
    if config.all_stages and config.mode == "eval":
        raise errors.UserError(
            "mode=eval evaluates a single stage. Received: mode=eval, train_mode=simclrv2. Set "
            "--model_dir to a stage's directory, such as MODEL_DIR/distill, or use "
            "--mode=train_then_eval, which does not retrain finished stages."
        )


def _check_data_and_devices(config: config_lib.Config) -> None:
    if config.dataset == "folder" and not config.data_dir:
        raise errors.UserError(
            "dataset=folder reads the images of a folder or a CSV manifest. Received: "
            "data_dir=None. Set --data_dir."
        )
    check_data_dir(config)
    if config.labels and config.trains and config.dataset != "folder":
        _reject(
            config,
            "labels",
            f"Labels are given for the images of a folder, not for dataset={config.dataset_name}",
            "Set --data_dir to the folder, or remove --labels.",
        )
    if config.use_tpu and config.strategy not in ("auto", "tpu"):
        _reject(
            config,
            "strategy",
            "use_tpu=True requires the tpu strategy",
            "Remove --use_tpu or --strategy.",
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
    _check_recompute,
    _check_stages,
    _check_data_and_devices,
)
