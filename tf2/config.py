"""Every setting of a run, with its default, help text, choices and checks.

`Config` is the only place where a flag is defined: run.py makes its command line
from these fields. Nothing here imports TensorFlow, so `--help` is quick.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Mapping
from typing import Any

from tf2 import architecture, config_checks, errors, modes

GROUPS = {
    "job": "What to do, and where",
    "data": "Data",
    "augmentation": "Augmentation",
    "training": "Training",
    "loss": "Contrastive loss",
    "memory": "Memory of negatives",
    "model": "Network",
    "finetuning": "Fine-tuning",
    "distillation": "Distillation",
    "evaluation": "Evaluation and export",
    "machine": "Machine",
}

# The stages of train_mode=simclrv2, in their order -> the train_mode of each.
STAGES = {
    "pretrain": "pretrain",
    "finetune": "finetune",
    "distill": "distill",
    "student": "distill",
    "supervised": "supervised",
}
# Flags that all stages of a run share: `--finetune.dataset` would make no sense.
SHARED_FLAGS = (
    "mode",
    "train_mode",
    "recipe",
    "model_dir",
    "dataset",
    "data_dir",
    "label_fraction",
    "labels_per_class",
    "label_seed",
    "val_fraction",
    "max_bad_fraction",
    "strategy",
    "use_tpu",
    "tpu_name",
    "tpu_zone",
    "gcp_project",
    "master",
)

_FLAG_OF_ARGUMENT = {"depth": "resnet_depth"}  # where a model argument's name differs


def flag_of(argument: str) -> str:
    """Returns the flag of an argument of `model.SimCLR`."""
    return _FLAG_OF_ARGUMENT.get(argument, argument)


# Flags that describe the network itself: a checkpoint's model.json knows them.
ARCHITECTURE_FLAGS = tuple(
    flag_of(name) for name in architecture.WEIGHT_ARGUMENTS if name != "channels"
)
# Flags that a resumed run cannot change: with another value it is another run.
RUN_FLAGS = ARCHITECTURE_FLAGS + (
    "train_mode",
    "contrastive_loss",
    "dataset",
    "train_split",
    "train_batch_size",
    "image_size",
    "optimizer",
    "lineareval_while_pretraining",
    "ft_proj_selector",
    "fine_tune_after_block",
    "label_fraction",
    "labels_per_class",
    "label_seed",
    "val_fraction",
    "seed",
    "use_memory",
    "memory_size",
    "ema_decay",
    "teacher",
    "distill_temperature",
    "distill_alpha",
    "distill_scale_by_t2",
)


def _flag(group, default, help_text, choices=None):
    kinds = {bool: "bool", int: "int", float: "float", str: "string"}
    kind = "enum" if choices else kinds.get(type(default), "string")
    metadata = {"help": help_text, "choices": choices, "kind": kind, "group": group}
    return dataclasses.field(default=default, metadata=metadata)


_job = functools.partial(_flag, "job")
_data = functools.partial(_flag, "data")
_augmentation = functools.partial(_flag, "augmentation")
_training = functools.partial(_flag, "training")
_loss = functools.partial(_flag, "loss")
_memory = functools.partial(_flag, "memory")
_model = functools.partial(_flag, "model")
_finetuning = functools.partial(_flag, "finetuning")
_distillation = functools.partial(_flag, "distillation")
_evaluation = functools.partial(_flag, "evaluation")
_machine = functools.partial(_flag, "machine")


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of one run.

    Values come, weakest first, from the defaults, a recipe, the model.json of
    `checkpoint` (architecture only) and the command line.

    Attributes:
      explicit: names that the user set, which nothing weaker may override. Left
        out, it is every field whose value differs from its default. A flag of one
        stage is named like finetune.learning_rate.
      stages: stage of train_mode=simclrv2 -> the settings that only it has.
      other_flags: values of flags that are not ours (absl's), kept for flags.json.
    """

    mode: str = _job(
        "train",
        "train; eval (every checkpoint in model_dir as it appears); both in turn; or use the "
        "network of checkpoint or model_dir: probe its features, embed or predict images, export.",
        ("train", "eval", "train_then_eval", "probe", "embed", "predict", "export"),
    )
    train_mode: str = _job(
        "pretrain",
        "; ".join(mode.help for mode in modes.TRAIN_MODES.values())
        + f"; or all of them in turn ({modes.SIMCLRV2}).",
        modes.names,
    )
    recipe: str = _job(
        "",
        "Named settings from tf2/recipes; flags on the command line win over them. "
        "'help' lists the recipes.",
    )
    model_dir: str | None = _job(
        None,
        "Directory for checkpoints, logs, results and exports. A run that stopped "
        "there continues. Default: ./runs/<dataset>_<train_mode>.",
    )
    checkpoint: str | None = _job(
        None,
        "Weights to start from: a model_dir, a checkpoint prefix, an exported SavedModel, or the "
        "name of a released network, which is downloaded (python -m checkpoints_tools.catalog "
        "lists them). The architecture is read from the model.json beside it.",
    )
    weights: str = _job(
        "online",
        "Which weights of a network pretrained with a memory are taken from --checkpoint, "
        "evaluated and exported: those that were trained (online), or their moving average (ema).",
        ("online", "ema"),
    )
    allow_partial: bool = _job(
        False, "Start even where --checkpoint lacks weights of the backbone."
    )
    seed: int = _job(0, "Seed of the initial weights, the data order and the augmentation.")

    dataset: str = _data(
        "",
        "digits (embedded), folder (pictures below data_dir), or the name of any "
        "TensorFlow Datasets image classification set. Empty means digits.",
    )
    data_dir: str | None = _data(
        None, "Directory of the TensorFlow Datasets files or of the picture folder."
    )
    train_split: str = _data("train", "Split to train on.")
    eval_split: str = _data("validation", "Split to evaluate on.")
    cache_dataset: bool = _data(
        False, "Keep the undecoded training records in memory after the first epoch."
    )
    val_fraction: float = _data(
        0.0,
        "Fraction of a folder's pictures held out for evaluation, where the folder "
        "has no split of its own for it.",
    )
    max_bad_fraction: float = _data(
        0.01, "Fraction of unreadable pictures above which a folder is refused."
    )
    label_fraction: float = _data(
        0.0,
        "Fraction of the labels to fine-tune or train on, the same for each class; 0 uses all.",
    )
    labels_per_class: int = _data(
        0, "Labeled images per class to fine-tune or train on; 0 uses all."
    )
    label_seed: int = _data(0, "Seed of the choice of labeled images.")
    shuffle_buffer: int = _data(
        50000, "Records to shuffle among where a dataset can only be read in sequence."
    )
    num_parallel_calls: int = _data(0, "Images prepared in parallel; 0 lets TensorFlow decide.")

    image_size: int = _augmentation(
        224, "Side of the square images that the network sees, in pixels."
    )
    color_jitter_strength: float = _augmentation(
        1.0,
        "Strength of the color jitter in pretraining: brightness, contrast and "
        "saturation vary by 0.8 times this, hue by 0.2 times this; 0 turns jitter "
        "and grayscale off.",
    )
    color_jitter_impl: str = _augmentation(
        "simclrv2",
        "Whether brightness is multiplied (simclrv2) or added to (simclrv1).",
        ("simclrv1", "simclrv2"),
    )
    use_blur: bool = _augmentation(
        True, "Blur half of the images in pretraining (Gaussian, sigma 0.1 to 2)."
    )
    crop_min_area: float = _augmentation(
        0.08,
        "Smallest random crop of a training image, as a fraction of its area; more than the "
        "published 0.08 where the objects fill small pictures.",
    )
    flip: bool = _augmentation(
        True, "Mirror half of the training images left to right; not for digits."
    )
    rotation_degrees: float = _augmentation(
        0.0, "Rotate training images by up to this many degrees either way."
    )
    noise_std: float = _augmentation(
        0.0, "Standard deviation of Gaussian noise added to images in [0, 1]."
    )
    cutout_size: float = _augmentation(
        0.0, "Side of a square that is blanked out, as a fraction of the image's."
    )
    sobel: bool = _augmentation(
        False, "Replace images by their edges (Sobel), in training and in evaluation."
    )
    resize: str = _augmentation(
        "half_pixel",
        "Pixel grid of every resize, in training too: half_pixel, as the reference's TF2 "
        "program, or legacy, as its TF1 program, which made the released networks.",
        architecture.RESIZES,
    )

    train_batch_size: int = _training(
        512, "Images per training step over all replicas (each gives two views)."
    )
    train_epochs: int = _training(100, "Passes over the training images; train_steps overrides it.")
    train_steps: int = _training(0, "Steps to train for; 0 means train_epochs.")
    warmup_epochs: float = _training(
        10.0, "Epochs in which the learning rate rises from 0 to its peak."
    )
    learning_rate: float = _training(
        0.3,
        "The peak learning rate is this times train_batch_size / 256 under linear "
        "scaling (a rate per 256 images) and this times sqrt(train_batch_size) under "
        "sqrt scaling.",
    )
    learning_rate_scaling: str = _training(
        "linear",
        "How the peak learning rate grows with train_batch_size; see learning_rate.",
        ("linear", "sqrt"),
    )
    optimizer: str = _training(
        "lars",
        "lars and lamb adapt the step per layer; momentum is SGD with Nesterov's.",
        ("momentum", "adam", "lars", "lamb"),
    )
    momentum: float = _training(0.9, "Momentum of lars and momentum.")
    weight_decay: float = _training(
        1e-6,
        "Decay of the weights: coefficient of 0.5 * |w|^2. lars applies it to kernels in its own "
        "update (to the classifier's in the loss); with the other optimizers it is in the loss, "
        "on all weights but batch norm's.",
    )
    log_every_steps: int = _training(
        0, "Steps between progress lines and TensorBoard points; 0 chooses."
    )
    checkpoint_epochs: int = _training(
        1,
        "Epochs between checkpoints; checkpoint_steps overrides it. With few labels, whose epochs "
        "are short, the default is a twentieth of the training where that is more.",
    )
    checkpoint_steps: int = _training(0, "Steps between checkpoints; 0 means checkpoint_epochs.")
    keep_checkpoint_max: int = _training(
        5, "Newest checkpoints to keep; the best one is kept besides, under best/."
    )

    contrastive_loss: str = _loss(
        "ntxent",
        "Contrastive loss: ntxent (SimCLR's) or supcon (supervised contrastive, which needs "
        "labels); --contrastive_loss=help lists all.",
    )
    temperature: float = _loss(0.1, "Divisor of the similarities in the contrastive loss.")
    hidden_norm: bool = _loss(
        True,
        "Scale embeddings to length 1 before the contrastive loss, so that it compares cosines.",
    )
    lineareval_while_pretraining: bool = _loss(
        True,
        "While pretraining also fit a linear classifier on the features, whose "
        "gradient does not reach the backbone; needs labels.",
    )

    use_memory: bool = _memory(
        False,
        "Contrast with a memory too: a queue of embeddings of earlier batches, made by a moving "
        "average of the network (SimCLRv2, section 2).",
    )
    memory_size: int = _memory(65536, "Embeddings in the memory; the oldest make way for new ones.")
    ema_decay: float = _memory(0.999, "How much of the moving average of the weights a step keeps.")

    backbone: str = _model(
        "resnet",
        "Network below the projection head: resnet or efficientnet_b0; --backbone=help lists all.",
    )
    resnet_depth: int = _model(50, "ResNet depth: 18, 34, 50, 101, 152 or 200.")
    width_multiplier: float = _model(
        1.0, "Width of the ResNet: 1, 2, 3, 4, or a fraction such as 0.25."
    )
    sk_ratio: float = _model(
        0.0,
        "Selective kernels: width of their bottleneck, and ResNet-D stem and "
        "shortcut. 0 for none; the released sk1 networks have 0.0625.",
    )
    se_ratio: float = _model(0.0, "Squeeze-and-excitation: width of its bottleneck; 0 for none.")
    stem: str = _model(
        "auto",
        "First layers: imagenet (7x7, stride 2, pooling) or cifar (3x3, stride 1); "
        "auto means cifar up to image_size 32.",
        ("auto", *architecture.STEMS),
    )
    proj_head_mode: str = _model(
        "nonlinear",
        "Projection head between the features and the contrastive loss.",
        architecture.PROJ_HEAD_MODES,
    )
    num_proj_layers: int = _model(3, "Layers of the nonlinear projection head.")
    proj_out_dim: int = _model(128, "Width of the projection head's output.")
    batch_norm_decay: float = _model(
        0.9, "How much of batch norm's moving statistics a step keeps."
    )
    global_bn: bool = _model(True, "Compute batch norm's statistics over all replicas' images.")

    ft_proj_selector: int = _finetuning(
        0,
        "Layer of the projection head after which the classifier sits: 0 on the "
        "features before the head, 1 after its first layer, -1 after its last.",
    )
    fine_tune_after_block: int = _finetuning(
        -1,
        "Freeze the network up to this block: -1 nothing, 0 the stem, 1 to 4 that "
        "block group too; 4 is linear evaluation.",
    )
    zero_init_logits_layer: bool = _model(
        False, "Start the classifier from zeros instead of small random numbers."
    )
    restore_head: bool = _finetuning(False, "Start the classifier from the one in --checkpoint.")

    teacher: str = _distillation(
        "",
        "Network to learn from: a model_dir, checkpoint, or SavedModel with logits_sup; several, "
        "separated by commas, are averaged.",
    )
    distill_temperature: float = _distillation(
        1.0, "Divisor of the logits of teacher and student in the distillation loss."
    )
    distill_alpha: float = _distillation(
        1.0,
        "Weight of the distillation loss; that of the loss on labels is 1 minus it. At 1 no label "
        "is read.",
    )
    distill_scale_by_t2: bool = _distillation(
        False,
        "Multiply the distillation loss by the square of its temperature; the paper doesn't.",
    )

    eval_batch_size: int = _evaluation(256, "Images per evaluation step.")
    eval_steps: int = _evaluation(0, "Evaluation steps; 0 means the whole split, exactly.")
    eval_name: str | None = _evaluation(
        None, "Name of this evaluation's TensorBoard run, to tell several apart."
    )
    eval_timeout: int = _evaluation(
        0,
        "Seconds that mode=eval waits for another checkpoint of an unfinished run; "
        "0 waits for ever.",
    )
    eval_knn: str = _evaluation(
        "auto",
        "Measure nearest-neighbor accuracy of the features; auto: after pretraining.",
        ("auto", "on", "off"),
    )
    probes: str = _evaluation(
        "knn,logistic",
        "What mode=probe fits on frozen features: knn, logistic (L-BFGS, L2 chosen on a "
        "validation part), sgd; separated by commas.",
    )
    endpoint: str = _evaluation(
        "final_avg_pool",
        "Features that mode=probe and mode=embed use: an endpoint, or proj_0, proj_1, ... for "
        "the projection head's layers.",
    )
    output: str | None = _evaluation(
        None, "File that mode=embed (.npz or .parquet) or mode=predict (.csv) writes."
    )
    knn_every_epochs: int = _evaluation(
        0,
        "Epochs between measurements of the features' nearest-neighbor accuracy while "
        "pretraining; 0 for none. Needs labels.",
    )
    knn_neighbors: int = _evaluation(20, "Neighbors that vote.")
    knn_bank_size: int = _evaluation(
        50000, "Training images, at most, among which neighbors are looked for."
    )
    plots: bool = _evaluation(
        True,
        "Draw the run after mode=train_then_eval, in model_dir/plots and for TensorBoard: curves, "
        "features (in the projector too), neighbors, similarities, what the classifier confuses.",
    )
    export: bool = _evaluation(True, "Export a SavedModel at the end.")
    keep_hub_module_max: int = _evaluation(1, "Newest SavedModel exports to keep; 0 keeps all.")

    strategy: str = _machine(
        "auto",
        "Replicas: one device, mirrored over this machine's GPUs, multiworker "
        "(TF_CONFIG), or tpu; auto is mirrored where there are several GPUs.",
        ("auto", "one", "mirrored", "multiworker", "tpu"),
    )
    use_tpu: bool = _machine(False, "Short for --strategy=tpu.")
    tpu_name: str | None = _machine(None, "Cloud TPU to use.")
    tpu_zone: str | None = _machine(None, "Zone of the Cloud TPU.")
    gcp_project: str | None = _machine(None, "Project of the Cloud TPU.")
    master: str | None = _machine(None, "Address of the TPU, in place of tpu_name.")
    mixed_precision: str = _machine(
        "off", "bf16 computes in bfloat16; losses stay in float32.", ("off", "bf16")
    )
    jit_compile: bool = _machine(False, "Compile the training step with XLA; slower on a CPU.")

    explicit: frozenset[str] | None = dataclasses.field(default=None, compare=False, repr=False)
    stages: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )
    other_flags: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    def __post_init__(self):
        """Writes whole widths as integers and fills in `explicit`."""
        width = self.width_multiplier
        if isinstance(width, float) and math.isfinite(width) and width == int(width):
            object.__setattr__(self, "width_multiplier", int(width))
        if self.explicit is None:
            changed = frozenset(self.changed_fields(_defaults()))
            object.__setattr__(self, "explicit", changed)

    @property
    def all_stages(self):
        """Whether this run is all stages of SimCLRv2, one after another."""
        return self.train_mode == modes.SIMCLRV2

    @property
    def trains(self):
        """Whether this run trains."""
        return self.mode in ("train", "train_then_eval")

    @property
    def applies(self):
        """Whether this run uses a trained network."""
        return self.mode in ("probe", "embed", "predict", "export")

    @property
    def evaluates(self):
        """Whether this run evaluates."""
        return self.mode in ("eval", "train_then_eval")

    @property
    def few_labels(self):
        """Whether this run learns from a chosen few of the labels."""
        chosen = self.label_fraction or self.labels_per_class
        return bool(chosen) and self.uses_labels and self.uses("label_fraction")

    @property
    def uses_labels(self):
        """Whether labels are needed to train."""
        return modes.get(self.train_mode).needs_labels(self)

    def uses(self, name):
        """Whether a flag means anything to the train_mode."""
        return _uses(modes.get(self.train_mode), Config.__dataclass_fields__[name])

    @property
    def teachers(self):
        """The paths of the teachers."""
        return tuple(part.strip() for part in self.teacher.split(",") if part.strip())

    @property
    def dataset_name(self):
        """The dataset, with the empty default resolved to the embedded digits."""
        return self.dataset or "digits"

    @property
    def strategy_name(self):
        """The strategy, with `use_tpu` taken into account."""
        return "tpu" if self.use_tpu else self.strategy

    @property
    def stem_name(self):
        """The stem, imagenet or cifar, with auto resolved by image size."""
        if self.stem != "auto":
            return self.stem
        return architecture.default_stem(self.image_size)

    def default_model_dir(self):
        """The directory of this run where --model_dir is not given."""
        dataset = self.dataset_name.replace("/", "_").replace(":", "_")
        return os.path.join("runs", f"{dataset}_{self.train_mode}")

    def for_stage(self, name):
        """Returns the Config of one stage of train_mode=simclrv2; see STAGES."""
        mode = modes.TRAIN_MODES[STAGES[name]]
        # Unused flags are at their defaults: changing them doesn't make it another stage.
        settings = {f.name: f.default for f in flag_fields() if not _uses(mode, f)}
        settings |= self.stages.get(name, {})
        own = {n.removeprefix(f"{name}.") for n in self.explicit if n.startswith(f"{name}.")}
        shared = {n for n in self.explicit if "." not in n}
        shared -= {"label_fraction", "labels_per_class"}  # given for all stages together
        return dataclasses.replace(
            self, **settings, train_mode=STAGES[name], explicit=frozenset(own | shared), stages={}
        )

    def replace(self, **changes):
        """Returns a copy with some settings changed, as if the user had set them."""
        explicit = changes.pop("explicit", self.explicit | frozenset(changes))
        return dataclasses.replace(self, explicit=explicit, **changes)

    def validate(self):
        """Checks every rule that needs no data and no device.

        Raises:
          errors.UserError: a value is out of range or two contradict each other.
        """
        config_checks.check(self)

    def warnings(self):
        """Returns a sentence for each legal setting that may surprise."""
        return config_checks.warnings(self)

    def as_flags(self):
        """Returns every flag, ours and absl's, name -> JSON value, for flags.json."""
        ours = {field.name: getattr(self, field.name) for field in flag_fields()}
        of_stages = {
            f"{stage}.{name}": value
            for stage, settings in self.stages.items()
            for name, value in settings.items()
        }
        return {**self.other_flags, **ours, **of_stages}

    def changed_fields(self, other, names=None):
        """Compares two runs.

        Args:
          other: a Config, or a mapping name -> value such as a flags.json; a name
            that the mapping lacks counts as equal.
          names: the names to compare, such as RUN_FLAGS. Default: all.

        Returns:
          A dict name -> (value here, value in other) of what differs.
        """
        theirs = other if isinstance(other, Mapping) else other.as_flags()
        names = [field.name for field in flag_fields()] if names is None else names
        return {
            name: (getattr(self, name), theirs[name])
            for name in names
            if name in theirs and getattr(self, name) != theirs[name]
        }

    def with_model_json(self, model_json, source):
        """Takes the architecture from a checkpoint's model.json.

        Args:
          model_json: the dict of model.json: its "architecture" holds the arguments
            of the model, its "preprocessing" the image size.
          source: where it was read, for messages.

        Returns:
          A Config with the checkpoint's architecture, and with its image size where
          the user gave none.

        Raises:
          errors.UserError: an explicit flag contradicts the checkpoint.
        """
        stored = model_json.get("architecture", {})
        found = {
            flag_of(name): value
            for name, value in (architecture.with_backbone(stored) if stored else {}).items()
        }
        found = {name: found[name] for name in ARCHITECTURE_FLAGS if name in found}
        for name, (ours, theirs) in self.changed_fields(found).items():
            if name in self.explicit and (name, ours) != ("stem", "auto"):
                raise errors.UserError(
                    f"The flag contradicts the checkpoint {source}, which has "
                    f"{name}={theirs}. Received: {name}={ours}. Leave --{name} out, "
                    "or give a checkpoint that has it."
                )
        image_size = model_json.get("preprocessing", {}).get("image_size")
        if image_size and "image_size" not in self.explicit:
            found["image_size"] = image_size
        adopted = dataclasses.replace(self, **found)
        config_checks.check_ft_proj_selector(adopted)
        return adopted


@functools.cache
def flag_fields():
    """Returns the dataclass fields that are flags, in the order of `--help`."""
    return tuple(f for f in dataclasses.fields(Config) if "help" in f.metadata)


def choices(field):
    """Returns the values that a flag may have; None where any is possible."""
    allowed = field.metadata["choices"]
    return allowed() if callable(allowed) else allowed


def _uses(mode, field):
    return mode.uses(field.name, field.metadata["group"])


def may_differ(name, stage):
    """Whether a flag can be set for one stage of train_mode=simclrv2 alone.

    Not what all stages share, nor what the stage does not use. Pretraining and fine-tuning train
    one network, the same as the baseline's.
    """
    field, mode = Config.__dataclass_fields__[name], modes.TRAIN_MODES[STAGES[stage]]
    if name in SHARED_FLAGS or not _uses(mode, field):
        return False
    return name not in ARCHITECTURE_FLAGS or STAGES[stage] not in ("pretrain", "finetune")


@functools.cache
def _defaults():
    return {field.name: field.default for field in flag_fields()}
