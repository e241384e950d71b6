"""Measures speed on this machine, or plans a training: `python -m tf2.benchmark`.

Prints a line per workload:

    images/s      training steps on a batch in memory; for `input`, the input pipeline alone.
                  An image counts once, though it gives two views
    first step    seconds of the first step, with tracing
    waiting       fraction of the time that steps fed by the input pipeline wait for data
    peak memory   of the process so far

Compare numbers of one run on one machine only. With --plan nothing is measured: for each stage of a
run, described by run.py's flags (--recipe=NAME and others), the table shows parameters, work and
memory, which follow from the shapes of the network:

    python -m tf2.benchmark --plan --recipe=imagenet_r50_1x_sk0 --replicas=8 --device_memory_gb=80
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from tf2 import errors, run
from tf2.benchmark import plan

INPUT = "input"  # the workload of the input pipeline alone
WORKLOADS: dict[str, dict[str, Any]] = {
    "resnet18-32px": {
        "resnet_depth": 18, "image_size": 32, "train_batch_size": 64, "use_blur": False,
        "color_jitter_strength": 0.5,
    },
    "resnet50-224px": {"resnet_depth": 50, "image_size": 224, "train_batch_size": 8},
}  # fmt: skip
_GB = 10**9


def _positive(text: str) -> int:
    """Parses a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1. Received: {text}.")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line, without run.py's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m tf2.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--steps", type=_positive, default=8, help="timed steps per workload (default: 8)")
    add("--jit_compile", action="store_true", help="compile the steps with XLA")
    add("--only", choices=[*WORKLOADS, INPUT], help="run one workload (default: all)")
    planned = parser.add_argument_group("with --plan").add_argument
    planned("--plan", action="store_true", help="plan a training instead of measuring")
    planned("--replicas", type=_positive, default=1, help="devices that share a batch (default: 1)")
    planned("--device_memory_gb", type=float, default=0, help="memory of a device, 10^9 bytes")
    planned(
        "--tflops", type=float, default=0, help="10^12 FLOP/s that a device keeps up in training"
    )
    planned("--num_images", type=int, default=0, help="training images, of data of your own")
    planned("--num_classes", type=int, default=0, help="their classes")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if not arguments.plan:
        if rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        for line in _measured(arguments):
            print(line, flush=True)
        return 0
    try:
        print(_planned(arguments, rest))
    except errors.UserError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    return 0


def _measured(arguments: argparse.Namespace) -> Iterator[str]:
    """Yields the lines of the table of speeds, as they are measured."""
    from tf2.benchmark import speed  # imports TensorFlow

    yield f"{'workload':18}{'images/s':>10}{'first step':>12}{'waiting':>9}{'peak memory':>13}"
    for name, settings in WORKLOADS.items():
        if arguments.only in (None, name):
            times = speed.measure_step(settings, arguments.steps, jit_compile=arguments.jit_compile)
            rate, first = times["images_per_second"], times["first_step_seconds"]
            waiting = f"{times['waiting']:9.1%}"
            memory = f"{speed.peak_memory_gib():9.2f} GiB"
            yield f"{name:18}{rate:10.1f}{first:10.1f} s{waiting}{memory}"
    if arguments.only in (None, INPUT):
        rate = speed.measure_input()
        yield f"{'input 224px':18}{rate:10.1f}{'':21}{speed.peak_memory_gib():9.2f} GiB"


def _planned(arguments: argparse.Namespace, rest: Sequence[str]) -> str:
    """Returns the plan of the run that run.py's flags describe."""
    values = flags.FlagValues()
    run.define_flags(values)
    run.parse_flags(["benchmark", *rest], values)
    config, _ = run.build_config(values)
    config.validate()
    data = plan.data_of(config, arguments.num_images, arguments.num_classes)
    device_memory = int(arguments.device_memory_gb * _GB)
    stages = plan.plan(config, data, replicas=arguments.replicas, device_memory=device_memory)
    return plan.describe(
        stages,
        replicas=arguments.replicas,
        flops_per_second=arguments.tflops * 10**12 * arguments.replicas,
    )
