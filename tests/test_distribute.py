"""1, 2 and 4 replicas and two processes train the same network; every step compiles with XLA."""

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import small
import tensorflow as tf

from tf2 import distribute, errors, job, resnet

# By default on one convolution in place of a ResNet; test_reference_training.py compares a ResNet's
# steps with the reference's, on one replica and on two.
MODES = [
    {"train_mode": "pretrain", "use_blur": True},
    {"train_mode": "finetune"},
    {"train_mode": "pretrain", "memory_size": 40, "ema_decay": 0.2},  # full in step 3
    {"train_mode": "distill", "distill": {"temperature": 2.0, "alpha": 0.7}},
]
HYBRID = {"train_mode": "pretrain", "memory_size": 40, "memory_loss": "hybrid", "memory_views": 2}


def name(mode):
    return "-".join(
        [mode["train_mode"], *(k for k in mode if k in ("use_blur", "memory_size", "memory_loss"))]
    )


BY_NAME = {name(mode): mode for mode in [*MODES, HYBRID]}


def batches(mode):
    return small.make_batches(3, 16, views=2 if mode["train_mode"] == "pretrain" else 1)


@functools.cache
def on_one_device(mode_name, network):
    """Trains a mode without replicas; once for all comparisons. `network` is `resnet.ResNet`."""
    mode = BY_NAME[mode_name]
    return small.train(tf.distribute.get_strategy(), batches(mode), **mode)


def assert_same(expected, found, tolerance):
    for step, (a, b) in enumerate(zip(expected[0], found[0], strict=True)):
        for name in a:
            if name.endswith(("_loss", "weight_decay", "entropy")):
                np.testing.assert_allclose(b[name], a[name], rtol=2e-4, err_msg=f"{step} {name}")
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, atol=tolerance, err_msg=name)
    for name, value in expected[2].items():  # LARS moves kernels little: their momenta tell more
        error = np.linalg.norm(found[2][name] - value)
        assert error <= 0.1 * np.linalg.norm(value) + 1e-9, name


every_mode = pytest.mark.parametrize("mode", MODES, ids=name)


def assert_replicas_change_nothing(mode, *counts):
    one = on_one_device(name(mode), resnet.ResNet)
    for replicas in counts:
        many = small.train(small.mirrored(replicas), batches(mode), **mode)
        assert_same(one, many, 1e-5)


@every_mode
def test_replicas_do_not_change_the_training(mode, small_backbone):
    # A replica more is a graph more. With four, gathering is tested by itself, in
    # test_reference_losses.py and test_momentum_encoder.py.
    assert_replicas_change_nothing(mode, 2 if mode["train_mode"] == "pretrain" else 4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [MODES[2], HYBRID], ids=name)
def test_four_replicas_do_not_change_pretraining_with_a_memory(mode, small_backbone):
    """The whole step, with the queue that all replicas fill."""
    assert_replicas_change_nothing(mode, 4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES[:2], ids=name)
def test_two_and_four_replicas_do_not_change_the_training_of_a_whole_resnet(mode):
    """A ResNet's blocks amplify rounding errors more than one convolution."""
    assert_replicas_change_nothing(mode, 2, 4)


def assert_compiles(mode):
    strategy = tf.distribute.get_strategy()
    compiled = small.train(strategy, batches(mode), jit_compile=True, **mode)
    assert_same(on_one_device(name(mode), resnet.ResNet), compiled, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES[:2], ids=name)
def test_every_step_of_a_whole_resnet_is_one_xla_program(mode):
    """XLA compiles all of a ResNet's operations and their gradients."""
    assert_compiles(mode)


def test_a_resnet_is_one_xla_program(monkeypatch):
    """Without its gradients, which take most of the time to compile."""
    monkeypatch.setitem(resnet.DEPTHS, 18, (False, (1, 1, 1, 1)))
    network = small.make_state(stem="imagenet", sk_ratio=0.0625).model
    images = small.make_batches(1, 4, views=1)[0]["image"]
    compiled = tf.function(lambda x: network(x, training=True), jit_compile=True)(images)
    for endpoint, value in network(images, training=True).items():
        np.testing.assert_allclose(
            compiled[endpoint], value, atol=1e-4 * np.abs(value).max(), err_msg=endpoint
        )


@every_mode
def test_training_moves_weights_by_more_than_the_tolerance(mode, small_backbone):
    before = small.train(tf.distribute.get_strategy(), [], **mode)[1]
    after = on_one_device(name(mode), resnet.ResNet)[1]
    assert max(np.abs(after[k] - before[k]).max() for k in before) > 1e-4


@every_mode
def test_every_step_is_one_xla_program(mode, small_backbone):
    assert_compiles(mode)


def test_xla_on_several_cpu_replicas_is_an_error_with_a_remedy(tmp_path):
    """TensorFlow hands XLA all replicas as one program, whose variables are on two devices."""
    flags = small.run_config(tmp_path, jit_compile=True)
    with pytest.raises(errors.UserError, match="2 CPU devices. Remove --jit_compile"):
        job.prepare(flags, small.mirrored(2))
    distribute.check_xla(tf.distribute.get_strategy())


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def test_two_processes_train_as_one(tmp_path, monkeypatch):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    program = os.path.join(os.path.dirname(__file__), "multiworker_program.py")
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task), "TF_CPP_MIN_LOG_LEVEL": "3"}
        processes.append(
            subprocess.Popen(
                [sys.executable, program, str(tmp_path / f"{index}.npz")],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [p.communicate(timeout=240)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    monkeypatch.setattr(resnet, "ResNet", small.Backbone)  # as the program does
    batches = small.make_batches(3, 16, views=2)
    expected = small.train(tf.distribute.get_strategy(), batches, memory_size=40)
    for index in range(2):
        found = dict(np.load(tmp_path / f"{index}.npz"))
        losses = found.pop("losses")
        np.testing.assert_allclose(losses, [s["contrast_loss"] for s in expected[0]], rtol=2e-4)
        for name, value in expected[1].items():
            np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def start_workers(directory, *flags):
    """Starts two workers of one command line, which share a model_dir."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    program = os.path.join(os.path.dirname(__file__), os.pardir, "tf2", "run.py")
    command = [sys.executable, program, "--mode=train", "--strategy=multiworker"]
    command += ["--train_mode=pretrain", "--recipe=digits", "--width_multiplier=0.125"]
    command += ["--train_batch_size=16", "--log_every_steps=2", "--export=False"]
    command += [f"--model_dir={directory}", *flags]
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **pipes))
    return processes


@pytest.mark.slow
def test_a_signal_to_one_worker_stops_all_at_one_step(tmp_path):
    processes = start_workers(tmp_path, "--train_steps=100000")
    for line in processes[0].stdout:
        if line.startswith("step 4/"):
            break
    processes[1].send_signal(signal.SIGTERM)
    outputs = [p.communicate(timeout=240)[0] for p in processes]
    assert [p.returncode for p in processes] == [128 + signal.SIGTERM] * 2, outputs
    stops = [re.search(r"Stopped by SIGTERM after step (\d+)", text)[1] for text in outputs]
    assert stops[0] == stops[1] and (tmp_path / f"ckpt-{stops[0]}.index").exists()
    last = int(stops[0]) + 2
    again = start_workers(tmp_path, f"--train_steps={last}")
    outputs = [p.communicate(timeout=240)[0] for p in again]
    assert [p.returncode for p in again] == [0, 0], outputs
    assert f"from step {stops[0]}" in outputs[0]
    assert (tmp_path / f"ckpt-{last}.index").exists()


def test_auto_is_one_device_without_gpus():
    assert distribute.make_strategy("auto").num_replicas_in_sync == 1


def test_mirrored_uses_every_logical_cpu():
    cpus = len(tf.config.list_logical_devices("CPU"))
    assert distribute.make_strategy("mirrored").num_replicas_in_sync == cpus


@pytest.mark.parametrize("device", ["/cpu:{}", "/device:CPU:{}"])
def test_strategies_of_several_sizes_share_a_process(device):
    for replicas in (2, 4, 3, 2):
        strategy = distribute.mirrored([device.format(i) for i in range(replicas)])

        def step(part):
            return tf.distribute.get_replica_context().all_reduce("SUM", part)

        parts = [np.arange(replicas + 1.0) + r for r in range(replicas)]
        for found in small.run_on(strategy, parts, step):
            np.testing.assert_array_equal(found, np.sum(parts, 0))


def test_a_missing_tpu_is_an_error_with_the_remedy():
    with pytest.raises(errors.UserError, match="No TPU could be reached.*tpu_name=nowhere"):
        distribute.make_strategy("tpu", tpu_name="nowhere")


def test_multiworker_without_a_cluster_is_an_error(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(errors.UserError, match="TF_CONFIG"):
        distribute.make_strategy("multiworker")


def test_a_batch_size_not_divisible_by_the_replicas_is_an_error_with_a_remedy():
    with pytest.raises(errors.UserError, match="divisible.*4.*train_batch_size=30.*Use 28"):
        distribute.check_batch("train_batch_size", 30, 4)
