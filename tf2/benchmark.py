"""Speed on this machine: `python -m tf2.benchmark`.

Prints, per workload: images per second, seconds to the first step (tracing included), the share of
time spent waiting for data, and the peak memory of the process so far. A training step counts the
images of its batch once, though each gives two views. Numbers are for comparisons within one run
on one machine.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import tensorflow as tf

from tf2 import config as config_lib
from tf2 import input_benchmark, loop, training

WORKLOADS = {
    "resnet18-32px": {
        "resnet_depth": 18, "image_size": 32, "train_batch_size": 64, "use_blur": False,
        "color_jitter_strength": 0.5,
    },
    "resnet50-224px": {"resnet_depth": 50, "image_size": 224, "train_batch_size": 8},
}  # fmt: skip


def peak_memory_gib() -> float:
    """Returns the most memory this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_step(settings: dict, steps: int, *, jit_compile: bool = False) -> dict[str, float]:
    """Times pretraining steps on made-up images that are already in memory.

    Args:
        settings: of `config.Config`.
        steps: timed steps, after the first one.
        jit_compile: whether XLA compiles the step.

    Returns:
        images_per_second (median over the steps) and first_step_seconds.
    """
    config = config_lib.Config(train_steps=steps + 1, **settings)
    state = training.build_train_state(config, num_examples=50_000, num_classes=10, channels=3)
    size, batch = config.image_size, config.train_batch_size
    rng = np.random.default_rng(0)
    element = {
        "image": rng.uniform(size=(batch, size, size, 6)).astype("float32"),
        "label": np.eye(10, dtype="float32")[rng.integers(0, 10, batch)],
    }
    iterator = iter(tf.data.Dataset.from_tensors(element).repeat().prefetch(1))
    run = loop.make_train_loop(tf.distribute.get_strategy(), state.step, jit_compile=jit_compile)
    times = []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        run(iterator, 1)
        times.append(time.perf_counter() - begin)
    return {
        "images_per_second": batch / float(np.median(times[1:])),
        "first_step_seconds": times[0],
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each workload")
    parser.add_argument("--jit_compile", action="store_true", help="compile steps with XLA")
    parser.add_argument(
        "--only", choices=[*WORKLOADS, "input"], help="one workload in place of all"
    )
    arguments = parser.parse_args()
    print(f"{'workload':18}{'images/s':>10}{'first step':>12}{'peak memory':>13}", flush=True)
    for name, settings in WORKLOADS.items():
        if arguments.only in (None, name):
            found = measure_step(settings, arguments.steps, jit_compile=arguments.jit_compile)
            rate, first = found["images_per_second"], found["first_step_seconds"]
            print(f"{name:18}{rate:10.1f}{first:10.1f} s{peak_memory_gib():9.2f} GiB", flush=True)
    if arguments.only in (None, "input"):
        rate = input_benchmark.measure_input()
        print(f"{'input 224px':18}{rate:10.1f}{'':12}{peak_memory_gib():9.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
