"""The train modes: what each one needs, trains and is called.

`TRAIN_MODES[name]` is everything that the program knows of `--train_mode=name`. A new mode is one
entry here and its step function. `simclrv2`, all stages in turn, is no mode of its own: `get`
describes it as a mode that accepts what any stage accepts.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Callable, Mapping
from typing import Any

if typing.TYPE_CHECKING:
    from tf2 import config as config_lib

SIMCLRV2 = "simclrv2"  # the value of --train_mode that runs all stages


def _always(config: config_lib.Config) -> bool:
    return True


def _never(config: config_lib.Config) -> bool:
    return False


def _below_full_distillation(config: config_lib.Config) -> bool:
    return config.distill_alpha < 1


@dataclasses.dataclass(frozen=True)
class Mode:
    """One way to train a network.

    Attributes:
        step: the step function, or where it is: "training.pretrain_step", below `tf2`. It is called
            with (model, optimizer, batch) and keyword arguments: trained, l2_variables and
            weight_decay, which every step takes, `arguments` and `built`.
        title: what was done to the network, for its model card.
        help: what the mode does, for --help.
        arguments: keyword argument of the step -> the flag that fills it.
        built: keyword arguments of the step that are objects of the run: memory, teacher.
        views: random views of each image in a batch, on channels.
        color_jitter: whether the views are color-jittered and turned to grayscale.
        pretrains: whether the network is in its pretraining form: projections to contrast, and a
            linear classifier beside them whose gradient does not reach the backbone.
        needs_labels: of the `config.Config`: whether the training reads labels.
        hides_labels: whether images outside the labeled subset are trained on, without labels;
            otherwise they are left out.
        checkpoint: whether --checkpoint is "required", "optional" or "unused".
        groups: the optional groups of flags (see `config.GROUPS`) that the mode uses.
        unused: further flags that the mode does not use.
        card: flags that its model card shows, beside those of every mode.
    """

    step: str | Callable[..., Mapping[str, Any]]
    title: str
    help: str
    arguments: Mapping[str, str] = dataclasses.field(default_factory=dict)
    built: tuple[str, ...] = ()
    views: int = 1
    color_jitter: bool = False
    pretrains: bool = False
    needs_labels: Callable[[config_lib.Config], bool] = _always
    hides_labels: bool = False
    checkpoint: str = "optional"
    groups: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    card: tuple[str, ...] = ()

    @property
    def step_function(self) -> Callable[..., Mapping[str, Any]]:
        """The step function, imported when first needed."""
        if callable(self.step):
            return self.step
        module, _, name = self.step.rpartition(".")
        return getattr(importlib.import_module(f"tf2.{module}"), name)

    @property
    def distills(self) -> bool:
        """Whether the step needs a teacher."""
        return "teacher" in self.built

    def uses(self, flag: str, group: str) -> bool:
        """Whether a flag of a group means anything to this mode."""
        return flag not in self.unused and (group in self.groups or group not in optional_groups())


TRAIN_MODES: dict[str, Mode] = {
    "pretrain": Mode(
        step="training.pretrain_step",
        title="pretrained without labels by contrasting augmented views",
        help="pretrain without labels",
        arguments={
            "contrastive_loss": "contrastive_loss",
            "temperature": "temperature",
            "hidden_norm": "hidden_norm",
            "use_blur": "use_blur",
            "seed": "seed",
            "micro_batches": "micro_batches",
        },
        built=("memory",),
        views=2,
        color_jitter=True,
        pretrains=True,
        needs_labels=_never,
        groups=("loss", "memory"),
        unused=("label_fraction", "labels_per_class", "label_seed"),
        card=(
            *("contrastive_loss", "temperature", "color_jitter_strength", "use_blur"),
            *("use_memory", "memory_loss", "memory_size", "ema_decay"),
        ),
    ),
    "finetune": Mode(
        step="training.finetune_step",
        title="pretrained without labels and fine-tuned on labels",
        help="fine-tune a pretrained network on labels",
        arguments={"micro_batches": "micro_batches"},
        checkpoint="required",
        groups=("finetuning",),
        card=(
            *("checkpoint", "ft_proj_selector", "fine_tune_after_block"),
            *("label_fraction", "labels_per_class"),
        ),
    ),
    "distill": Mode(
        step="training.distill_step",
        title="distilled: trained on the predictions of a teacher",
        help="distill a teacher into a network on images without labels",
        arguments={
            "temperature": "distill_temperature",
            "alpha": "distill_alpha",
            "scale_by_t2": "distill_scale_by_t2",
            "micro_batches": "micro_batches",
        },
        built=("teacher",),
        needs_labels=_below_full_distillation,
        hides_labels=True,
        groups=("finetuning", "distillation"),
        unused=("fine_tune_after_block",),
        card=(
            *("teacher", "distill_temperature", "distill_alpha", "label_fraction"),
            "labels_per_class",
        ),
    ),
    "supervised": Mode(
        step="training.finetune_step",
        title="trained on labels from random weights",
        help="train the same network supervised from scratch, the baseline",
        arguments={"micro_batches": "micro_batches"},
        checkpoint="unused",
        groups=("finetuning",),
        unused=("fine_tune_after_block", "restore_head"),
        card=("label_fraction", "labels_per_class"),
    ),
}

# What `--train_mode=simclrv2` accepts for all stages together; their own flags may say more.
_ALL_STAGES = Mode(
    step="",
    title="pretrained, fine-tuned and distilled",
    help="all of them in turn (simclrv2)",
    groups=("loss", "memory", "finetuning", "distillation"),
    unused=("restore_head", "teacher"),
)


def get(name: str) -> Mode:
    """Returns the mode of a --train_mode."""
    return _ALL_STAGES if name == SIMCLRV2 else TRAIN_MODES[name]


def names() -> tuple[str, ...]:
    """Returns the values of --train_mode."""
    return (*TRAIN_MODES, SIMCLRV2)


def optional_groups() -> frozenset[str]:
    """Returns the groups of flags that only some modes use."""
    return frozenset(group for mode in TRAIN_MODES.values() for group in mode.groups)
