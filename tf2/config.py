"""The settings of a run: its flags, and what follows from them alone.

Nothing here imports TensorFlow, so that `--help` is quick.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tf2 import architecture, errors, machine, modes
from tf2.flags import checks, fields, flags

GROUPS = fields.GROUPS
choices = fields.choices

# The stages of train_mode=simclrv2, in their order -> the train_mode of each.
STAGES = {
    "pretrain": "pretrain",
    "finetune": "finetune",
    "distill": "distill",
    "student": "distill",
    "supervised": "supervised",
}
_FLAG_OF_ARGUMENT = {"depth": "resnet_depth"}  # where the name of a model argument differs
# The stages that train one network, the same as the baseline's: no architecture of their own.
_ONE_NETWORK = ("pretrain", "finetune")


@dataclasses.dataclass(frozen=True)
class Config(flags.Flags):
    """All settings of one run: a field for each flag that `python tf2/run.py --help` lists.

    `configure` builds one with a recipe. Values come, weakest first, from the defaults, a recipe,
    the model.json of `checkpoint` (architecture only) and the command line.

    Attributes:
        explicit: names that the user set, which nothing weaker may override. By default every
            field whose value differs from its default. A flag of one stage is named like
            finetune.learning_rate.
        stages: stage of train_mode=simclrv2 -> the settings that only it has.
        other_flags: values of absl's own flags, for flags.json.
    """

    # Never None after __init__.
    explicit: frozenset[str] = dataclasses.field(
        default=None,  # type: ignore[arg-type]
        compare=False,
        repr=False,
    )
    stages: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )
    other_flags: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        """Writes whole widths as integers and fills in `explicit`."""
        width = self.width_multiplier
        if isinstance(width, float) and math.isfinite(width) and width == int(width):
            object.__setattr__(self, "width_multiplier", int(width))
        if self.explicit is None:
            changed = frozenset(self.changed_fields(defaults()))
            object.__setattr__(self, "explicit", changed)

    @property
    def all_stages(self) -> bool:
        """Whether this run is all stages of SimCLRv2, one after another."""
        return self.train_mode == modes.SIMCLRV2

    @property
    def trains(self) -> bool:
        """Whether this run trains."""
        return self.mode in ("train", "train_then_eval")

    @property
    def locks_model_dir(self) -> bool:
        """Whether this process trains in model_dir alone: of several workers, the chief."""
        several = self.strategy_name == "multiworker"
        return self.trains and (not several or machine.is_chief_task())

    @property
    def applies(self) -> bool:
        """Whether this run uses a trained network."""
        return self.mode in ("probe", "embed", "predict", "select", "audit", "export")

    @property
    def evaluates(self) -> bool:
        """Whether this run evaluates."""
        return self.mode in ("eval", "train_then_eval") and bool(self.eval_split)

    @property
    def few_labels(self) -> bool:
        """Whether this run trains on a labeled subset."""
        chosen = self.label_fraction or self.labels_per_class
        return bool(chosen) and self.uses_labels and self.uses("label_fraction")

    @property
    def uses_labels(self) -> bool:
        """Whether labels are needed to train."""
        return modes.get(self.train_mode).needs_labels(self)

    @property
    def trains_on_labels(self) -> bool:
        """Whether this run leaves out the training images that have no label."""
        hides = modes.get(self.train_mode).hides_labels
        return self.uses_labels and not hides and not self.applies

    def uses(self, name: str) -> bool:
        """Whether a flag means anything to the train_mode."""
        return modes.get(self.train_mode).uses(name, field(name).metadata["group"])

    @property
    def teachers(self) -> tuple[str, ...]:
        """The paths of the teachers."""
        return tuple(part.strip() for part in self.teacher.split(",") if part.strip())

    @property
    def other_formats(self) -> tuple[str, ...]:
        """The formats to export besides the SavedModel."""
        names = [part.strip() for part in self.formats.split(",")]
        return tuple(dict.fromkeys(name for name in names if name and name != "savedmodel"))

    @property
    def dataset_name(self) -> str:
        """The dataset, with the empty default resolved to the embedded digits."""
        return self.dataset or "digits"

    @property
    def strategy_name(self) -> str:
        """The strategy, with `use_tpu` taken into account."""
        return "tpu" if self.use_tpu else self.strategy

    @property
    def stem_name(self) -> str:
        """The stem, imagenet or cifar, with auto resolved by image size."""
        if self.stem != "auto":
            return self.stem
        return architecture.default_stem(self.image_size)

    @property
    def autos(self) -> tuple[str, ...]:
        """The settings that are still "auto", flags and those of single stages: stage.flag."""
        shared = [f.name for f in flag_fields() if fields.is_auto(f, getattr(self, f.name))]
        return (*shared, *self._stage_autos())

    def _stage_autos(self) -> list[str]:
        return [
            f"{stage}.{name}"
            for stage, settings in self.stages.items()
            for name, value in settings.items()
            if fields.is_auto(field(name), value)
        ]

    def without_autos(self) -> Config:
        """Returns a copy with defaults in place of "auto", for the rules of `config_checks`."""
        chosen = {name: defaults()[name] for name in self.autos if "." not in name}
        return dataclasses.replace(self, **chosen) if chosen else self

    def check_resolved(self) -> None:
        """Checks that no setting is "auto".

        Raises:
            errors.UserError: one is.
        """
        if self.autos:
            name = self.autos[0]
            raise errors.UserError(
                f"Settings that are auto are chosen before a training begins. Received: {name}="
                f"auto. Set it, or start with tf2.train or tf2.run_all_stages, which choose it."
            )

    def architecture(self, num_classes: int, channels: int) -> dict[str, Any]:
        """Returns the arguments of `model.SimCLR` for the network that this run trains.

        Args:
            num_classes: of the data; 0 where it has no labels.
            channels: of the images as the network sees them.
        """
        pretrains = modes.get(self.train_mode).pretrains
        has_classifier = self.lineareval_while_pretraining or not pretrains
        return {
            "backbone": self.backbone,
            "depth": self.resnet_depth,
            "width_multiplier": self.width_multiplier,
            "sk_ratio": self.sk_ratio,
            "se_ratio": self.se_ratio,
            "num_classes": num_classes if has_classifier else 0,
            "proj_head_mode": self.proj_head_mode,
            "num_proj_layers": self.num_proj_layers,
            "proj_out_dim": self.proj_out_dim,
            "ft_proj_selector": None if pretrains else self.ft_proj_selector,
            "fine_tune_after_block": -1 if pretrains else self.fine_tune_after_block,
            "stem": self.stem_name,
            "channels": channels,
            "batch_norm_decay": self.batch_norm_decay,
            "global_bn": self.global_bn,
        }

    def default_model_dir(self) -> str:
        """The directory of this run where --model_dir is not given."""
        name = self.dataset_name
        if self.applies:  # a network, on its own images or on others
            name = _base_name(self.data_dir or "") or self.dataset or _base_name(self.checkpoint)
        elif self.dataset == "folder" and self.data_dir:
            name = _base_name(self.data_dir)
            if self.all_stages:
                return os.path.join("runs", _file_name(name))
        kind = self.mode if self.applies else self.train_mode
        return os.path.join("runs", _file_name(f"{name}_{kind}"))

    def for_stage(self, name: str) -> Config:
        """Returns the Config of one stage of train_mode=simclrv2; see STAGES."""
        of_mode = dataclasses.replace(self, train_mode=STAGES[name])
        # Unused flags are at their defaults: changing them doesn't make it another stage.
        settings = {n: value for n, value in defaults().items() if not of_mode.uses(n)}
        settings.pop("label_seed", None)  # also of the images that are held out from all stages
        settings |= self.stages.get(name, {})
        own = {n.removeprefix(f"{name}.") for n in self.explicit if n.startswith(f"{name}.")}
        shared = {n for n in self.explicit if "." not in n}
        shared -= {"label_fraction", "labels_per_class"}  # set for all stages together
        return dataclasses.replace(of_mode, **settings, explicit=frozenset(own | shared), stages={})

    def replace(self, **changes: Any) -> Config:
        """Returns a copy with some settings changed, as if the user had set them."""
        explicit = changes.pop("explicit", self.explicit | frozenset(changes))
        return dataclasses.replace(self, explicit=explicit, **changes)

    def validate(self) -> None:
        """Checks every rule that needs no data and no device.

        Raises:
            errors.UserError: a value is out of range or two contradict each other.
        """
        checks.check(self)

    def warnings(self) -> list[str]:
        """Returns a sentence for each legal setting that may surprise."""
        return checks.warnings(self)

    def as_flags(self) -> dict[str, Any]:
        """Returns every flag, ours and absl's, name -> JSON value, for flags.json."""
        ours = {field.name: getattr(self, field.name) for field in flag_fields()}
        of_stages = {
            f"{stage}.{name}": value
            for stage, settings in self.stages.items()
            for name, value in settings.items()
        }
        return {**self.other_flags, **ours, **of_stages}

    def changed_fields(
        self, other: Config | Mapping[str, Any], names: Iterable[str] | None = None
    ) -> dict[str, tuple[Any, Any]]:
        """Compares two runs.

        Args:
            other: a Config, or a mapping name -> value such as a flags.json; a name that the
                mapping lacks counts as equal.
            names: the names to compare; None compares all.

        Returns:
            A dict name -> (value here, value in other) of what differs.
        """
        theirs = other.as_flags() if isinstance(other, Config) else other
        names = [field.name for field in flag_fields()] if names is None else names
        return {
            name: (getattr(self, name), theirs[name])
            for name in names
            if name in theirs and getattr(self, name) != theirs[name]
        }


def get_train_steps(
    num_examples: int, batch_size: int, train_epochs: int, train_steps: int = 0
) -> int:
    """Returns the number of training steps: `train_steps` if above 0, else from the epochs.

    As in the reference: one step more than the whole batches of all epochs.
    """
    return train_steps or num_examples * train_epochs // batch_size + 1


def _base_name(path: str | None) -> str:
    """Returns the last part of a path, which "." has too; of a CSV file without its ending."""
    if not path:
        return ""
    return os.path.basename(os.path.abspath(os.path.expanduser(path))).removesuffix(".csv")


def _file_name(text: str) -> str:
    """Returns a text as the name of a directory that needs no quotes in a shell."""
    return re.sub(r"[^\w.-]+", "_", text)


def flag_of(argument: str) -> str:
    """Returns the flag of an argument of `model.SimCLR`."""
    return _FLAG_OF_ARGUMENT.get(argument, argument)


@functools.cache
def flag_fields() -> tuple[dataclasses.Field, ...]:
    """Returns the dataclass fields that are flags, in the order of `--help`."""
    return dataclasses.fields(flags.Flags)


def field(name: str) -> dataclasses.Field:
    """Returns the field of a flag."""
    return flags.Flags.__dataclass_fields__[name]


def names(**metadata: str) -> tuple[str, ...]:
    """Returns the names of the flags with this metadata: `names(scope=flag_fields.NETWORK)`."""
    wanted = metadata.items()
    return tuple(f.name for f in flag_fields() if wanted <= f.metadata.items())


@functools.cache
def defaults() -> dict[str, Any]:
    """Returns flag -> default."""
    return {field.name: field.default for field in flag_fields()}


def may_differ(name: str, stage: str) -> bool:
    """Whether a flag can be set for one stage of train_mode=simclrv2 alone.

    Not what all stages share, nor what the stage does not use.
    """
    flag = field(name)
    if flag.metadata["scope"] == fields.SHARED:
        return False
    if flag.metadata["scope"] == fields.NETWORK and stage in _ONE_NETWORK:
        return False
    return modes.TRAIN_MODES[STAGES[stage]].uses(name, flag.metadata["group"])
