"""Comparisons with the reference: NT-Xent, LARS, the learning rate, the weight-decay term.

Each function takes a `golden.Pack` and returns a list of `golden.Comparison`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf2 import architecture, compat, distribute, lars_optimizer, objective, optimization
from tf2.parity import golden, network

GRADIENT_RULE = {"relative": 1e-4, "absolute": 1e-7}


def contrastive(pack: golden.Pack) -> list[golden.Comparison]:
    """NT-Xent of one replica: loss, logits, labels, accuracy, entropy, gradient."""
    data = pack.json("04_ntxent/ntxent.json")
    arrays = pack.arrays("04_ntxent/ntxent.npz")
    results = []
    for case in data["single"]:
        key = case["key"]
        hidden = tf.constant(arrays[f"{key}/hidden"])
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            loss, logits, labels = objective.add_contrastive_loss(
                hidden, case["hidden_norm"], case["temperature"]
            )
        gradient = tape.gradient(loss, hidden)
        results += _loss_and_logits(key, loss, logits, labels, case["loss"], arrays, ())
        accuracy, entropy = accuracy_and_entropy(logits.numpy(), labels.numpy())
        expected = arrays[f"{key}/grad"]
        results += [
            _row(key, "contrast_acc", case["contrast_acc"], accuracy, 1e-7),
            _row(key, "contrast_entropy", case["contrast_entropy"], entropy, 2e-6),
            _row(key, "gradient", expected, gradient.numpy(), _row_tolerance(expected)),
        ]
    return results


def _row(
    case: str, quantity: str, reference: Any, ours: Any, atol: Any = 0.0, rtol: float = 0.0
) -> golden.Comparison:
    return golden.compare("contrastive", case, quantity, reference, ours, atol=atol, rtol=rtol)


def _row_tolerance(gradient: np.ndarray) -> np.ndarray:
    """The pack's rule, row by row: rows of the edge case differ in scale by up to 1e6."""
    largest = np.abs(gradient).max(-1, keepdims=True)
    return GRADIENT_RULE["relative"] * largest + GRADIENT_RULE["absolute"]


def _loss_and_logits(
    key: str,
    loss: tf.Tensor,
    logits: tf.Tensor,
    labels: tf.Tensor,
    expected_loss: float,
    arrays: golden.Arrays,
    replica: tuple[int, ...],
) -> list[golden.Comparison]:
    name = f"{key} replica {replica[0]}" if replica else key
    expected = arrays[f"{key}/logits_ab"][replica]
    return [
        _row(name, "loss", expected_loss, float(loss), 2e-6, 2e-6),
        _row(name, "logits", expected, logits.numpy(), 2e-6 * max(1.0, np.abs(expected).max())),
        _row(name, "labels", arrays[f"{key}/labels"][replica], labels.numpy()),
    ]


def accuracy_and_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Plain versions of the reference's two metrics, in float64."""
    correct = np.argmax(logits, 1) == np.argmax(labels, 1)
    z = logits.astype(np.float64) - logits.max(1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return float(correct.mean()), float(-(p * np.log(p + 1e-8)).sum(1).mean())


def mirrored(replicas: int) -> tf.distribute.Strategy:
    """Returns a strategy over logical CPU devices.

    Raises:
        ValueError: the process has too few of them.
    """
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    if len(devices) < replicas:
        raise ValueError(
            f"This comparison needs {replicas} logical CPU devices. Received: {len(devices)}. "
            "Create them before TensorFlow starts."
        )
    return distribute.mirrored(devices[:replicas])


def contrastive_over_replicas(pack: golden.Pack) -> list[golden.Comparison]:
    """NT-Xent of 2 and 4 replicas: each one's loss, logits, labels; gradients of the mean loss.

    Raises:
        ValueError: the process has fewer logical CPU devices than a case has replicas.
    """
    data = pack.json("04_ntxent/ntxent.json")
    arrays = pack.arrays("04_ntxent/ntxent.npz")
    results = []
    for case in data["multi"]:
        key, replicas = case["key"], case["num_replicas"]
        hidden, weight = arrays[f"{key}/hidden"], arrays[f"{key}/weight"]
        plain = _over_replicas(case, hidden, None)
        through = _over_replicas(case, hidden, weight)
        for r in range(replicas):
            loss, logits, labels, gradient = (part[r] for part in plain)
            expected = case["per_replica_loss"][r]
            results += _loss_and_logits(key, loss, logits, labels, expected, arrays, (r,))
            reference = arrays[f"{key}/grad_hidden"][r]
            name = f"{key} replica {r}"
            tolerance = _row_tolerance(reference)
            results.append(_row(name, "gradient of hidden", reference, gradient.numpy(), tolerance))
            expected = case["per_replica_loss_through_weight"][r]
            results.append(
                _row(name, "loss through weight", expected, float(through[0][r]), 2e-6, 2e-6)
            )
            reference = arrays[f"{key}/grad_weight_local"][r]
            results.append(_weight_gradient(name, reference, through[3][r].numpy()))
        total = np.sum([g.numpy() for g in through[3]], 0)
        results += [
            _weight_gradient(f"{key} all replicas", arrays[f"{key}/grad_weight_sum"], total),
            _row(
                f"{key} all replicas", "mean loss", case["mean_loss"],
                np.mean([float(x) for x in plain[0]]), 2e-6, 2e-6,
            ),
        ]  # fmt: skip
    return results


def _weight_gradient(name: str, reference: np.ndarray, ours: np.ndarray) -> golden.Comparison:
    tolerance = GRADIENT_RULE["relative"] * np.abs(reference).max() + GRADIENT_RULE["absolute"]
    return _row(name, "gradient of weight", reference, ours, tolerance)


def _over_replicas(
    case: Mapping, hidden: np.ndarray, weight: np.ndarray | None
) -> list[Sequence[tf.Tensor]]:
    """Returns per replica: loss, logits, labels, gradient of (loss / replicas)."""
    replicas = case["num_replicas"]
    strategy = mirrored(replicas)
    inputs = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(hidden[context.replica_id_in_sync_group])
    )

    def step(rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        watched = rows if weight is None else tf.constant(weight)
        with tf.GradientTape() as tape:
            tape.watch(watched)
            projected = rows if weight is None else rows @ watched
            loss, logits, labels = objective.add_contrastive_loss(
                projected, case["hidden_norm"], case["temperature"], strategy=strategy
            )
            share = loss / replicas
        return loss, logits, labels, tape.gradient(share, watched)

    @tf.function
    def run(rows: Any) -> Any:
        return strategy.run(step, args=(rows,))

    outputs = run(inputs)
    return [strategy.experimental_local_results(o) for o in outputs]


def lars(pack: golden.Pack) -> list[golden.Comparison]:
    """LARS: ten variables, six steps, every variant; which are decayed and which adapted."""
    data = pack.json("05_lars/lars.json")
    arrays = pack.arrays("05_lars/lars.npz")
    s = data["learning_rate_schedule"]
    schedule = optimization.WarmUpAndCosineDecay(
        optimization.peak_learning_rate(s["base"], s["train_batch_size"], s["scaling"]),
        s["train_steps"],
        optimization.warmup_steps(s["num_examples"], s["train_batch_size"], s["warmup_epochs"]),
    )
    keys = [v["key"] for v in data["variables"]]
    names = [v["name"] for v in data["variables"]]
    results = []
    for config in data["configs"]:
        case = config["key"]
        optimizer = lars_optimizer.LARSOptimizer(schedule, **config["arguments"])
        tracked = [tf.Variable(arrays[f"{key}/initial"]) for key in keys]
        optimizer.build(tracked, names)
        for quantity, ours in (
            ("uses_weight_decay", optimizer.uses_decay),
            ("uses_layer_adaptation", optimizer.uses_adaptation),
        ):
            results.append(
                golden.compare_tables("lars", case, quantity, config[quantity], list(ours))
            )
        for step in range(data["steps"]):
            rate = float(schedule(compat.iterations(optimizer)))
            expected = config["learning_rates"][step]
            results.append(_lars_row(case, f"learning rate {step}", expected, rate))
            gradients = [tf.constant(arrays[f"{key}/grads"][step]) for key in keys]
            optimizer.apply_gradients(zip(gradients, tracked, strict=True))
            for key, variable, slot in zip(keys, tracked, optimizer.momentums, strict=True):
                for kind, tensor in (("params", variable), ("momentum", compat.unwrap(slot))):
                    results.append(
                        _lars_row(
                            case, f"{key} {kind} {step}", arrays[f"{case}/{key}/{kind}"][step],
                            tensor.numpy(),
                        )
                    )  # fmt: skip
    return results


def _lars_row(case: str, quantity: str, reference: Any, ours: Any) -> golden.Comparison:
    return golden.compare("lars", case, quantity, reference, ours, rtol=1e-5, atol=1e-7)


def schedule(pack: golden.Pack) -> list[golden.Comparison]:
    """Step counts, warm-up length, peak and the rate at about sixty steps of eleven flag sets."""
    results = []
    for number, c in enumerate(pack.json("06_lr_schedule/lr_schedule.json")["combinations"]):
        flags, examples = c["flags"], c["num_examples"]
        batch = flags["train_batch_size"]
        steps = optimization.get_train_steps(
            examples, batch, flags["train_epochs"], flags["train_steps"]
        )
        warmup = optimization.warmup_steps(examples, batch, flags["warmup_epochs"])
        peak = optimization.peak_learning_rate(
            flags["learning_rate"], batch, flags["learning_rate_scaling"]
        )
        rate = optimization.WarmUpAndCosineDecay(peak, steps, warmup)
        case = f"flags {number}"
        for quantity, ours in (
            ("get_train_steps", steps),
            ("warmup_steps", warmup),
            ("peak_learning_rate", peak),
        ):
            results.append(
                golden.compare("schedule", case, quantity, c[quantity], ours, rtol=1e-12)
            )
        finite = [(step, value) for step, value in c["step_lr"] if not isinstance(value, str)]
        at = tf.constant([step for step, _ in finite], tf.int64)
        results.append(
            golden.compare(
                "schedule", case, f"rate at {len(finite)} steps", [v for _, v in finite],
                rate(at).numpy(), atol=1e-6 * peak,
            )
        )  # fmt: skip
    return results


@functools.lru_cache(maxsize=None)
def _l2(name: str, shape: tuple[int, ...], salt: str) -> float:
    """Half the squared length of a filled weight, in float64."""
    return 0.5 * float(np.square(golden.fill(name, shape, salt).astype(np.float64)).sum())


def weight_decay(pack: golden.Pack) -> list[golden.Comparison]:
    """The loss's L2 term over a full set of weights: its value and the weights in it."""
    results = []
    for number, c in enumerate(pack.json("09_weight_decay/weight_decay.json")["cases"]):
        head = c["lineareval_while_pretraining"] or c["train_mode"] == "finetune"
        rows = network.layout_of(
            c["resnet_depth"], 1, c["sk_ratio"], c["se_ratio"],
            architecture.default_stem(c["image_size"]), c["num_classes"] if head else 0, 3,
        )  # fmt: skip
        canonical = {ours: (name, shape) for ours, name, shape, _, _ in rows}
        masks = optimization.build_masks(
            list(canonical),
            optimizer=c["optimizer"],
            weight_decay=c["weight_decay"],
            fine_tune_after_block=c["fine_tune_after_block"],
        )
        included = [canonical[ours] for ours in masks.l2_in_loss]
        case = (
            f"{number}: r{c['resnet_depth']} sk{c['sk_ratio']:g} se{c['se_ratio']:g} "
            f"{c['optimizer']} {c['train_mode']} {c['fine_tune_after_block']}"
        )
        others = sorted(name for name, _ in included if not name.endswith("kernel"))
        scopes = sorted({name.split("/")[0] for name, _ in included})
        value = c["weight_decay"] * sum(_l2(*row, c["weight_salt"]) for row in included)
        results += [
            golden.compare("weight decay", case, "value", c["value"], value, rtol=2e-6),
            golden.compare(
                "weight decay", case, "number of weights", c["number_of_variables_included"],
                len(included),
            ),
            golden.compare_tables(
                "weight decay", case, "non-kernels", c["included_non_kernels"], others
            ),
            golden.compare_tables(
                "weight decay", case, "scopes", c["included_scopes"], scopes
            ),
        ]  # fmt: skip
        if c["resnet_depth"] == 18:  # small enough for the float32 term itself
            values = [golden.fill(*row, c["weight_salt"]) for row in included]
            ours = float(optimization.add_weight_decay(values, c["weight_decay"]))
            results.append(
                golden.compare(
                    "weight decay", case, "value in float32", c["value"], ours, rtol=2e-6
                )
            )
    return results
