"""A run that is killed at any moment, and repeated, ends as one that never was."""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import small
import tensorflow as tf

from tf2 import pipeline, processes

PROGRAM = pathlib.Path(__file__).parent / "killed_program.py"
RUN = {"mode": "train_then_eval", "checkpoint_steps": 1, "train_steps": 4}
MEMORY = {"use_memory": True, "memory_size": 50, "ema_decay": 0.9}
MOMENTS = 25
ENDED = dataclasses.replace(processes.current(), started="1")


def flags(kind, directory):
    """Returns the flags of a run of a kind below a directory, which also has what it starts from.

    The directory has `start`, a pretrained network, and `teacher`, a fine-tuned one.
    """
    return {
        "pretrain": {"eval_knn": "on", "export": True},
        "memory": {"eval_knn": "on", "knn_every_epochs": 1, **MEMORY},
        "finetune": {"train_mode": "finetune", "checkpoint": directory / "start", "export": True},
        "distill": {"train_mode": "distill", "teacher": directory / "teacher", "export": True},
        "stages": {
            **{"train_mode": "simclrv2", "labels_per_class": 2, "use_blur": False},
            **{"eval_knn": "on", "export": True, "student.width_multiplier": 0.0625},
        },
    }[kind]


def assert_equal_results(found, expected):
    """Compares the weights, queues and results of two directories, also of their stages."""
    stages = [path for path in sorted(expected.iterdir()) if (path / "flags.json").exists()]
    for path in stages or [expected]:
        own = found / path.relative_to(expected)
        arrays = small.saved(path)
        assert small.saved(own).keys() == arrays.keys()
        for name, value in small.saved(own).items():
            np.testing.assert_array_equal(value, arrays[name], err_msg=f"{path.name}/{name}")
        results = [json.loads((place / "result.json").read_text()) for place in (own, path)]
        assert results[0] == results[1]
    left = [path for path in found.rglob("*") if path.name.startswith((".writing", ".lock"))]
    assert not left


def test_what_a_kill_between_any_two_file_operations_leaves_is_resumed(
    tmp_path, monkeypatch, small_backbone
):
    """Copies the directory at each operation, as a kill there would leave it; resumes one."""
    directory, copies = tmp_path / "whole", []

    def run(path):
        pipeline.run(small.run_config(path, **RUN, **MEMORY))

    def copying(operation):
        def copy_first(*arguments, **named):
            if directory.exists():
                copies.append(shutil.copytree(directory, tmp_path / f"{len(copies)}"))
            return operation(*arguments, **named)

        return copy_first

    with monkeypatch.context() as patch:
        for place, name in ((os, "fsync"), (tf.io.gfile, "rename"), (tf.io.gfile, "remove")):
            patch.setattr(place, name, copying(getattr(place, name)))
        run(directory)
    assert len(copies) > 50
    half_written = [copy for copy in copies if [*copy.glob(".writing-ckpt-*/ckpt.index")]]
    copy = random.Random(0).choice(half_written)
    for leftover in copy.glob(".*"):  # of this process, which is still running
        ended = leftover.name.replace(processes.current().token, ENDED.token)
        leftover.rename(copy / ended)
    run(copy)
    assert_equal_results(copy, directory)


def execute(arguments, flags, directory):
    """Runs a command line in a process of its own; returns its exit code."""
    argv = small.command(directory, **RUN, **flags)[1:]
    command = [sys.executable, str(PROGRAM), *map(str, arguments), *argv]
    return subprocess.run(command, stdout=subprocess.DEVNULL, timeout=600).returncode


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the directory of a kind's run that nobody killed, and its parent."""
    root = tmp_path_factory.mktemp("whole")

    def run(name, flags):
        if not (root / name).exists():
            assert execute(("report", 0, 0), flags, root / name) == 0
        return root / name

    def of_kind(kind):
        if kind in ("finetune", "distill"):
            run("start", {"train_mode": "pretrain"})
        if kind == "distill":
            run("teacher", {"train_mode": "finetune", "checkpoint": root / "start"})
        return run(kind, flags(kind, root)), root

    return of_kind


def moment(kind, number):
    """Returns the seeded moment of a kill: the point, the call and the seconds after it."""
    chance = random.Random(f"{kind} {number}")
    inside = ["checkpoint", "evaluation"]
    inside += ["knn"] if kind in ("pretrain", "memory", "stages") else []
    inside += [] if kind == "memory" else ["saved_model"]
    point = chance.choice(inside) if number % 3 == 0 else "report"
    calls = {"checkpoint": 5, "report": 4}.get(point, 1) * (4 if kind == "stages" else 1)
    return point, chance.randint(1, calls), round(chance.uniform(0, 0.3), 3)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(MOMENTS))
@pytest.mark.parametrize("kind", ["pretrain", "memory", "finetune", "distill", "stages"])
def test_a_killed_process_resumes_to_the_same_weights_and_results(kind, number, whole, tmp_path):
    expected, root = whole(kind)
    first = execute(moment(kind, number), flags(kind, root), tmp_path / "run")
    assert first in (-9, 0)
    assert execute(("report", 0, 0), flags(kind, root), tmp_path / "run") == 0
    assert_equal_results(tmp_path / "run", expected)
