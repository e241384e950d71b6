"""Memory of many trainings in one process, and of a long one."""

import gc
import re

import pytest
import small
from tensorflow.python.framework import func_graph

import tf2 as simclr
from tf2 import pipeline, progress


def graphs():
    gc.collect()
    return sum(isinstance(thing, func_graph.FuncGraph) for thing in gc.get_objects())


def resident():
    """Returns the memory of this process in MiB."""
    with open("/proc/self/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1]) / 1024


def test_a_training_leaves_no_graph(tmp_path, small_backbone):
    """Of the step, the larger part of what it takes."""
    before = graphs()
    state = simclr.train(small.run_config(tmp_path, train_steps=1))
    del state
    assert graphs() == before


@pytest.mark.slow
def test_trainings_in_one_process_take_no_more_memory_each(tmp_path):
    memory = []
    for number in range(11):
        simclr.train(small.run_config(tmp_path / str(number), train_steps=2))
        gc.collect()
        memory.append(resident())
    # The first ones fill caches; 15 MiB each would be 90.
    assert memory[-1] - memory[4] < 20, memory


@pytest.mark.slow
def test_a_long_run_takes_no_more_memory_over_time(tmp_path, monkeypatch, small_backbone):
    """20,000 steps with a memory queue, kNN accuracy, checkpoints and an evaluation."""
    memory = {}
    update = progress.Progress.update

    def measuring(bar, step, *arguments):
        memory[step] = resident()
        update(bar, step, *arguments)

    monkeypatch.setattr(progress.Progress, "update", measuring)
    queue = {"use_memory": True, "memory_size": 256, "ema_decay": 0.99}
    length = {"train_steps": 20_000, "checkpoint_steps": 1000, "log_every_steps": 500}
    pipeline.run(
        small.run_config(
            tmp_path, mode="train_then_eval", eval_knn="on", knn_every_epochs=20,
            **queue, **length, learning_rate=0.01, image_size=8,
        )
    )  # fmt: skip
    memory["end"] = resident()
    assert max(memory[20_000], memory["end"]) - memory[5000] < 30, memory
