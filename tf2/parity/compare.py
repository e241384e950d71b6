"""Prints our numbers beside the reference's: `python -m tf2.parity`.

Reads `tests/golden/` next to the package, and `../shared/reference` if it exists. Exits with 1 if a
quantity is out of its tolerance or the numbers are missing. `--all` prints every quantity; without
it, each group and case prints the one closest to its tolerance.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import tensorflow as tf

from tf2.parity import evaluation as parity_evaluation
from tf2.parity import golden
from tf2.parity import losses as parity_losses
from tf2.parity import network as parity_network
from tf2.parity import runs as parity_runs

# One network of each kind, in a few minutes; `--large` and the slow tests run all of them.
NETWORKS = (
    "cifar_r18_1x_sk0_32_b2_infer", "cifar_r18_1x_sk0_32_b8_train_blocks",
    "cifar_r18_1x_sk0_32_b8_train_localbn", "cifar_r18_1x_sk1_32_b2_infer",
    "r50_1x_sk0_64_b2_infer", "r50_1x_sk1_64_b2_infer", "r50_1x_sk0_se_64_b2_infer",
)  # fmt: skip
NOT_ARCHITECTURES = ("summary", "model_fn_variables")


def comparisons(
    pack: golden.Pack, *, steps: int = 3, large: bool = False
) -> Iterator[list[golden.Comparison]]:
    """Yields lists of comparisons, one list per group and case.

    Args:
        pack: the reference's numbers.
        steps: of each training run; 0 runs all twelve.
        large: includes the forward passes of large networks.

    Raises:
        golden.MissingData: the pack lacks a table.
    """
    yield parity_network.fill_rule(pack)
    for name in pack.names("01_tf1_layouts"):
        if name not in NOT_ARCHITECTURES:
            yield parity_network.layout(pack, name)
    for case in pack.names("02_forward") if large else NETWORKS:
        yield parity_network.forward(pack, case)
    yield parity_losses.contrastive(pack)
    yield parity_losses.contrastive_over_replicas(pack)
    yield parity_losses.lars(pack)
    yield parity_losses.schedule(pack)
    yield parity_losses.weight_decay(pack)
    yield parity_evaluation.preprocessing(pack)
    for name in pack.names("08_trajectory"):
        if name != "evaluation":
            yield parity_runs.trajectory(pack, name, steps)
    yield parity_evaluation.evaluations(pack)


def closest(results: Iterable[golden.Comparison]) -> golden.Comparison:
    """Returns the comparison that is closest to, or farthest beyond, its tolerance."""
    return max(results, key=lambda r: (not r.passed, r.ratio))


def main(argv: Sequence[str] | None = None, pack: golden.Pack | None = None) -> int:
    """Runs the comparisons and prints their table; returns the exit status.

    Args:
        argv: arguments of the command line; None takes those of this process.
        pack: the reference's numbers; None takes those next to the package.
    """
    parser = argparse.ArgumentParser(prog="python -m tf2.parity", description=__doc__)
    parser.add_argument("--all", action="store_true", help="print every quantity")
    parser.add_argument("--steps", type=int, default=3, help="of each training run; 0: all 12")
    parser.add_argument(
        "--large", action="store_true", help="also run the forward passes of large networks"
    )
    options = parser.parse_args(argv)
    start, total, failed = time.monotonic(), 0, 0
    groups: collections.Counter[str] = collections.Counter()
    try:
        pack = pack or golden.default_pack()
        for results in comparisons(pack, steps=options.steps, large=options.large):
            if not total:  # the numbers exist
                print(golden.HEADER)
            total += len(results)
            failed += sum(not r.passed for r in results)
            shown = results if options.all else [r for r in results if not r.passed]
            for result in shown or [closest(results)]:
                print(result, flush=True)
            groups.update(r.group for r in results)
    except golden.MissingData as missing:
        print(f"python -m tf2.parity: {missing}", file=sys.stderr)
        return 1
    counts = ", ".join(f"{name} {count}" for name, count in groups.items())
    print(
        f"{total - failed} of {total} quantities within their tolerances ({counts}); "
        f"TensorFlow {tf.__version__}; {time.monotonic() - start:.0f} s"
    )
    return 1 if failed else 0


def make_logical_devices(count: int = 4) -> None:
    """Splits the CPU into logical devices, for the comparisons on several replicas."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )
