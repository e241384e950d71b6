"""Comparisons with the reference: whole training runs, step by step.

Each function takes a `golden.Pack` and returns a list of `golden.Comparison`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

from tf2 import compat, optimization, resnet, training, variables
from tf2 import model as model_lib
from tf2.parity import golden, losses, network

HALF_ULP = 2.0**-24
# Sums over few weights (ten biases) differed by up to 1.24e-6, where the pack's floor is 1e-6.
SUM_FLOOR = 3e-6
# One replica runs the fused batch-norm kernel. The pack's tolerances are four times the noise of
# runs without it; with it, the same mathematics differed by up to 2.4 times the tolerance
# here, and 4 to 6 times on other machines in sums over few values, which SUM_FLOOR is for.
FUSED = 3
# By the plain formula one of 3,728 numbers differed by 1.03 times the pack's tolerance.
PLAIN = 1.1
# Single weights scatter more than the sums over them, whose noise the pack measured.
SCATTER = 100


@dataclasses.dataclass
class Run:
    """A network of ours with the initial weights and the flags of a run of the reference.

    Attributes:
        flags: of the run.
        model: the network.
        weights: canonical name -> variable.
        slots: canonical name -> momentum of LARS; empty for other optimizers.
        step: maps a distributed batch to the step's scalars.
        schedule: of the learning rate.
        strategy: the devices of the step.
    """

    flags: Mapping
    model: model_lib.SimCLR
    weights: dict[str, tf.Variable]
    slots: dict[str, Any]
    step: Callable[[Any], dict[str, tf.Tensor]]
    schedule: optimization.WarmUpAndCosineDecay
    strategy: tf.distribute.Strategy

    def train(self, batch: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Runs one step on a global batch; returns its scalars, averaged over the replicas."""
        replicas = self.strategy.num_replicas_in_sync
        if replicas == 1:
            return {k: float(v) for k, v in self.step(batch).items()}
        parts = {k: np.split(v, replicas) for k, v in batch.items()}
        distributed = self.strategy.experimental_distribute_values_from_function(
            lambda context: {
                k: tf.constant(v[context.replica_id_in_sync_group]) for k, v in parts.items()
            }
        )
        scalars = self.strategy.run(self.step, args=(distributed,))
        return {k: float(self.strategy.reduce("MEAN", v, None)) for k, v in scalars.items()}


@functools.lru_cache(maxsize=8)
def _strategy(replicas: int) -> tf.distribute.Strategy:
    return tf.distribute.get_strategy() if replicas == 1 else losses.mirrored(replicas)


@functools.lru_cache(maxsize=2)
def _model(
    selector: int | None, frozen: int, classes: int, global_bn: bool, decay: float, replicas: int
) -> model_lib.SimCLR:
    """Returns a ResNet-18 of the pack's runs; each run sets all of its weights."""
    config = {
        "resnet_depth": 18, "width_multiplier": 1, "sk_ratio": 0.0, "num_classes": classes,
        "num_proj_layers": 3, "image_size": 32, "weight_salt": "",
    }  # fmt: skip
    with _strategy(replicas).scope():
        return network.build(
            config, selector=selector, global_bn=global_bn, batch_norm_decay=decay,
            fine_tune_after_block=frozen,
        )[0]  # fmt: skip


def build_run(config: Mapping, *, drift: bool = False, **changed: Any) -> Run:
    """Returns the run of a pack's `config`.

    Args:
        config: of a file of 08_trajectory.
        drift: runs frozen blocks in training mode, a fault of the reference's TF2 code that ours
            does not have, so that everything else in such a run can be compared.
        **changed: flags that replace the run's.
    """
    flags = {**config["flags"], **changed}
    finetune = flags["train_mode"] == "finetune"
    after = flags.get("fine_tune_after_block", -1)
    classes = config["num_classes"] if finetune or flags["lineareval_while_pretraining"] else 0
    strategy = _strategy(config["num_replicas"])
    model = _model(
        flags["ft_proj_selector"] if finetune else None, -1 if drift else after, classes,
        flags["global_bn"], flags["batch_norm_decay"], config["num_replicas"],
    )  # fmt: skip
    weights = golden.fill_model(model, config["weight_salt"])
    named = variables.named_variables(model)
    canonical = variables.reference_names(list(named))
    batch = flags["train_batch_size"]
    schedule = optimization.WarmUpAndCosineDecay(
        optimization.peak_learning_rate(
            flags["learning_rate"], batch, flags["learning_rate_scaling"]
        ),
        optimization.get_train_steps(config["num_train_examples"], batch, 0, flags["train_steps"]),
        optimization.warmup_steps(config["num_train_examples"], batch, flags["warmup_epochs"]),
    )
    masks = optimization.build_masks(
        list(named), optimizer=flags["optimizer"], weight_decay=flags["weight_decay"],
        fine_tune_after_block=after,
    )  # fmt: skip
    trained = {name: named[name] for name in masks.trained}
    with strategy.scope():
        optimizer = optimization.make_optimizer(
            flags["optimizer"], schedule, momentum=flags["momentum"],
            weight_decay=flags["weight_decay"],
        )  # fmt: skip
        slots = optimization.build_slots(optimizer, trained)
    arguments = {
        "trained": list(trained.values()),
        "l2_variables": [named[name] for name in masks.l2_in_loss],
        "weight_decay": flags["weight_decay"],
    }
    if finetune:
        step = functools.partial(training.finetune_step, model, optimizer, **arguments)
    else:
        step = functools.partial(
            training.pretrain_step, model, optimizer, temperature=flags["temperature"],
            hidden_norm=flags["hidden_norm"], use_blur=flags["use_blur"], **arguments,
        )  # fmt: skip
    momenta = dict(zip(trained, slots.values(), strict=False))
    if flags["optimizer"] == "momentum":  # by position in any Keras, after other variables
        momenta = dict(zip(trained, map(compat.unwrap, optimizer.momentums), strict=True))
    if flags["optimizer"] == "adam":
        momenta = {}
    momenta = {canonical[name]: slot for name, slot in momenta.items()}
    return Run(flags, model, weights, momenta, step, schedule, strategy)


def batch_of(config: Mapping, index: int) -> dict[str, np.ndarray]:
    """Returns global batch `index` of a run: image and one-hot label."""
    flags, classes = config["flags"], config["num_classes"]
    first, second, labels = golden.training_batch(
        config["data_seed"], index, flags["train_batch_size"], flags["image_size"], classes
    )
    views = [first] if flags["train_mode"] == "finetune" else [first, second]
    return {
        "image": np.concatenate(views, -1),
        "label": np.eye(classes, dtype=np.float32)[labels],
    }


def unused_decay(config: Mapping, step: int) -> float:
    """Returns the L2 term, in step `step`, of the unused projection layers.

    Unlike ours, the reference's TF2 code has the layers beyond `ft_proj_selector`, and with
    momentum it decays them. Their gradient is their own L2 term, so Nesterov's rule scales each
    by one factor, computed here.
    """
    flags = config["flags"]
    if flags["train_mode"] != "finetune" or flags["optimizer"] == "lars":
        return 0.0
    decay, momentum = flags["weight_decay"], flags["momentum"]
    rate = _schedule(config)
    factor, velocity = 1.0, 0.0
    for past in range(step):
        gradient = decay * factor
        velocity = momentum * velocity - float(rate(past)) * gradient
        factor += momentum * velocity - float(rate(past)) * gradient
    widths = [(512, 512), (512, 512), (512, 128)]
    names = [f"head_contrastive/nl_{j}/dense/kernel" for j in range(3)]
    squares = sum(
        np.square(golden.fill(name, shape).astype(np.float64)).sum()
        for name, shape in list(zip(names, widths, strict=True))[flags["ft_proj_selector"] :]
    )
    return 0.5 * decay * factor**2 * squares


def _schedule(config: Mapping) -> optimization.WarmUpAndCosineDecay:
    flags = config["flags"]
    batch = flags["train_batch_size"]
    peak = optimization.peak_learning_rate(
        flags["learning_rate"], batch, flags["learning_rate_scaling"]
    )
    warmup = optimization.warmup_steps(config["num_train_examples"], batch, flags["warmup_epochs"])
    return optimization.WarmUpAndCosineDecay(peak, flags["train_steps"], warmup)


def trajectory(
    pack: golden.Pack, name: str, steps: int = 0, plain: bool = False
) -> list[golden.Comparison]:
    """One training run: every metric of every step, the rates, and the captured weights.

    If the run freezes blocks, ours imitates the reference's drift of their statistics, so that
    everything else can be compared. The layers beyond `ft_proj_selector`, which ours does not
    have, are subtracted from the reference's L2 term.

    Args:
        pack: the reference's numbers.
        name: of a file of 08_trajectory.
        steps: how many to run; 0 runs all.
        plain: computes batch norm by the formula for several replicas, and applies the pack's own
            tolerances, almost without slack.
    """
    data = pack.json(f"08_trajectory/{name}.json")
    config = data["config"]
    frozen = config["flags"].get("fine_tune_after_block", -1) >= 0
    run = build_run(config, drift=frozen)
    fused = config["num_replicas"] == 1 and not plain
    slack = FUSED if fused else PLAIN if plain else 1
    results = []
    for index, row in enumerate(data["rows"][: steps or None]):
        with contextlib.ExitStack() as stack:
            if plain:
                stack.enter_context(mock.patch.object(resnet, "_replicas", lambda: 2))
            scalars = run.train(batch_of(config, index))
        results += _metrics(data, name, index, row, scalars, slack)
        rate = float(run.schedule(tf.constant(index + 1, tf.int64)))
        expected = data["learning_rate_logged_after_step"][index]
        results.append(
            golden.compare("run", name, f"rate after step {index + 1}", expected, rate,
                                rtol=2e-6, atol=1e-10)
        )  # fmt: skip
        if str(index + 1) in data["captures"]:
            results += _capture(data, name, str(index + 1), run, slack)
            if index + 1 == 2:
                results += _arrays_of_step_2(pack, data, name, run)
    return results


def _metrics(
    data: Mapping,
    name: str,
    index: int,
    row: Mapping[str, float],
    scalars: Mapping[str, float],
    slack: float,
) -> list[golden.Comparison]:
    unused = unused_decay(data["config"], index)
    results = []
    for key, expected in row.items():
        if key == "step":
            continue
        if key in ("train/weight_decay", "train/total_loss"):
            expected = expected - unused
        ours = scalars[key.removeprefix("train/")]
        tolerance = slack * data["recommended_atol"][index][key]
        if key.endswith("_acc") and slack == FUSED:  # rounding may flip one sample
            tolerance = max(tolerance, _one_sample(data["config"], key))
        results.append(
            golden.compare(
                "run", name, f"{key} of step {row['step']}", expected, ours, atol=tolerance
            )
        )
    return results


def _one_sample(config: Mapping, key: str) -> float:
    """Returns the share of one sample in an accuracy."""
    pairs = config["flags"]["train_mode"] != "finetune" and key == "train/supervised_acc"
    return 1.0001 / (config["flags"]["train_batch_size"] * (2 if pairs else 1))


def _capture(
    data: Mapping, name: str, step: str, run: Run, slack: float
) -> list[golden.Comparison]:
    """The sums over every weight after some steps, by kind of weight."""
    noise = data["capture_relative_noise"][step]
    sums: dict[tuple[str, str], list] = {}
    steps = int(step)
    captured = set()
    for canonical, _, abs_sum, _, delta_sum, _, momentum_sum in data["captures"][step]:
        if canonical not in run.weights:
            continue
        captured.add(canonical)
        kind = variables.role(canonical)
        value = run.weights[canonical].numpy().astype(np.float64)
        start = golden.fill(canonical, value.shape, data["config"]["weight_salt"])
        # Each update rounds each weight once, to half a unit in the last place of float32.
        rounding = HALF_ULP * np.sqrt(steps * np.square(value).sum()) if delta_sum else 0.0
        columns = {"abs_sum": (abs_sum, np.abs(value).sum(), 0.0)}
        columns["delta_abs_sum"] = (delta_sum, np.abs(value - start).sum(), rounding)
        if momentum_sum is not None and run.slots:
            slot = run.slots[canonical].numpy().astype(np.float64)
            columns["momentum_abs_sum"] = (momentum_sum, np.abs(slot).sum(), 0.0)
        for column, row in columns.items():
            sums.setdefault((kind, column), []).append(row)
    results = [
        golden.compare("run", name, f"weights in capture {step}", len(run.weights), len(captured))
    ]
    for (kind, column), rows in sums.items():
        reference, ours, rounding = np.transpose(rows)
        relative = max(4 * slack * noise[kind][column], SUM_FLOOR)
        results.append(
            golden.compare(
                "run",
                name,
                f"{kind} {column} after step {step}",
                reference,
                ours,
                rtol=relative,
                atol=rounding,
            )
        )
    return results


def _arrays_of_step_2(
    pack: golden.Pack, data: Mapping, name: str, run: Run
) -> list[golden.Comparison]:
    """The small weights and momenta after two steps, if the pack has them."""
    try:
        arrays = pack.arrays(f"08_trajectory/{data['arrays']}")
    except golden.MissingData:
        return []
    noise = data["capture_relative_noise"]["2"]
    results = []
    for key in arrays:
        if not key.startswith("step2/"):
            continue
        what, canonical = key.removeprefix("step2/").split("/", 1)
        if canonical not in run.weights:
            continue
        tensors = run.weights if what == "param" else run.slots
        ours, reference = tensors[canonical].numpy(), arrays[key]
        start = golden.fill(canonical, reference.shape) if what == "param" else 0.0
        column = "delta_abs_sum" if what == "param" else "momentum_abs_sum"
        moved = np.abs(reference.astype(np.float64) - start).sum()
        rounding = 2 * HALF_ULP * np.abs(reference).sum()
        relative = max(SCATTER * noise[variables.role(canonical)][column], 1e-5)
        results.append(
            golden.compare(
                "run", name, f"{canonical} {what} of step 2: sum of differences", 0.0,
                np.abs(reference.astype(np.float64) - ours).sum(),
                atol=relative * moved + rounding,
            )
        )  # fmt: skip
    return results
