"""Flags: what to do, and where."""

import dataclasses

from tf2 import modes
from tf2.flags import fields


@dataclasses.dataclass(frozen=True)
class Job:
    """What to do, and where."""

    mode: str = fields.job(
        "train",
        "train; eval (each checkpoint in model_dir as it appears); train_then_eval; or, with the "
        "network of checkpoint or model_dir, probe features, embed, predict or audit images, "
        "select images to label, or export.",
        (
            *("train", "eval", "train_then_eval", "probe", "embed", "predict"),
            *("select", "audit", "export"),
        ),
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    train_mode: str = fields.job(
        "pretrain",
        "; ".join(mode.help for mode in modes.TRAIN_MODES.values())
        + f"; or all of them in turn ({modes.SIMCLRV2}).",
        modes.names,
        scope=fields.SHARED,
        identity=fields.TRAINS,
    )
    recipe: str = fields.job(
        "",
        "Named settings from tf2/recipes; flags on the command line override them. "
        "'help' lists the recipes.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    model_dir: str | None = fields.job(
        None,
        "Directory for checkpoints, logs, results and exports. A stopped run resumes from "
        "it. Default: ./runs/<dataset>_<train_mode>; ./runs/<folder> for all stages on a folder.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    checkpoint: str | None = fields.job(
        None,
        "Weights to start from: a model_dir, a checkpoint prefix, an exported SavedModel, or the "
        "name of a released network, which is downloaded (python -m checkpoints_tools.catalog "
        "lists them). The architecture is read from model.json next to it.",
        scope=fields.PER_STAGE,
        identity=fields.STARTS,
    )
    weights: str = fields.job(
        "online",
        "Weights to load, evaluate and export for a network pretrained with a memory: the "
        "trained ones (online) or their moving average (ema).",
        ("online", "ema"),
        scope=fields.PER_STAGE,
        identity=fields.STARTS,
    )
    allow_partial: bool = fields.job(
        False,
        "Start even if --checkpoint lacks weights of the backbone.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    seed: int = fields.job(
        0,
        "Seed of the initial weights, the data order and the augmentation.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 2147483647]",
    )
