"""Checkpoints are restored exactly or not at all, and every error is one sentence."""

import functools
import json
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import small
import tensorflow as tf

from tf2 import config, distribute, errors, identity, variables
from tf2 import model as model_lib
from tf2.checkpoints import checkpoint, checkpoint_reader, load_report, model_json

TESTS = pathlib.Path(__file__).parent
ARGUMENTS = {
    "depth": 18,
    "width_multiplier": 0.125,
    "num_classes": 6,
    "num_proj_layers": 2,
    "proj_out_dim": 16,
    "stem": "cifar",
}


@functools.cache
def make_model(**changes):
    """Returns a small network, shared by the tests that ask for the same one."""
    return model_lib.SimCLR(**{**ARGUMENTS, **changes})


def values(named):
    return {name: variable.numpy() for name, variable in named.items()}


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def contents(step=0, scale=1.0, shape=(3, 4)):
    """Returns the contents of a checkpoint, without a network."""
    names = ("backbone/stem/conv/kernel", "supervised_head/dense/bias")
    return {
        "model": {name: tf.Variable(tf.fill(shape, scale + i)) for i, name in enumerate(names)},
        "optimizer": {f"{names[0]}/momentum": tf.Variable(tf.fill(shape, -scale))},
        "global_step": tf.Variable(step, dtype=tf.int64),
    }


def save_steps(directory, *steps, keep_max=5):
    saver = checkpoint.Saver(directory, contents(), keep_max=keep_max)
    for step in steps:
        saver._contents["global_step"].assign(step)
        saver.save(step)
    return saver


def steps_in(directory):
    return [checkpoint_reader.step_of(p) for p in checkpoint_reader.all_checkpoints(directory)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network after two steps, with slots and statistics, and its model_dir."""
    directory = tmp_path_factory.mktemp("run")
    state = small.make_state()
    for batch in small.make_batches(2, 8, views=2):
        state.step({name: tf.constant(value) for name, value in batch.items()})
    state.set_step(2)
    checkpoint.Saver(directory, state.checkpoint_variables()).save(2)
    metadata = {"format": 1, "architecture": state.model.hyperparameters}
    model_json.write_model_json(directory, metadata)
    return state, directory


# Saving and restoring


def test_a_run_is_restored_bit_for_bit(trained):
    state, directory = trained
    assert any(np.abs(v).max() > 0 for v in values(state.slots).values())
    other = small.make_state(seed=2)
    kernel = "backbone/stem/conv/kernel"
    assert np.any(other.named[kernel].numpy() != state.named[kernel].numpy())
    assert checkpoint.Saver(directory, other.checkpoint_variables()).restore_latest() == 2
    assert_equal(values(other.named), values(state.named))
    assert_equal(values(other.slots), values(state.slots))
    assert int(other.global_step.numpy()) == 2


def test_one_device_restores_what_replicas_save(tmp_path):
    strategy = distribute.mirrored(["/cpu:0", "/cpu:1"])
    with strategy.scope():
        state = small.make_state()
        saver = checkpoint.Saver(tmp_path, state.checkpoint_variables())
    moved, slot = "backbone/stem/bn/moving_mean", "backbone/stem/conv/kernel/momentum"

    def update():  # as a step does: every replica writes its own statistic
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        state.named[moved].assign(tf.fill([8], 1.0 + 2.0 * tf.cast(replica, tf.float32)))

    strategy.run(tf.function(update))
    state.slots[slot].assign(tf.fill(state.slots[slot].shape, 0.25))
    state.set_step(1)
    saver.save(1)
    expected = values(state.named)
    np.testing.assert_array_equal(expected[moved], np.full(8, 2.0, "float32"))  # their mean

    single = small.make_state(seed=2)
    assert checkpoint.Saver(tmp_path, single.checkpoint_variables()).restore_latest() == 1
    assert_equal(values(single.named), expected)
    assert_equal(values(single.slots), values(state.slots))

    with strategy.scope():
        again = small.make_state(seed=3)
        assert checkpoint.Saver(tmp_path, again.checkpoint_variables()).restore_latest() == 1
    assert_equal(values(again.named), expected)
    copies = strategy.experimental_local_results(again.named[moved])
    assert len(copies) == 2
    for copy in copies:  # every replica's own statistic is restored
        np.testing.assert_array_equal(copy.numpy(), expected[moved])


@pytest.mark.slow
def test_two_workers_leave_one_checkpoint_one_best_and_one_export(tmp_path):
    """Slow: two TensorFlow processes. Proves that collective reads do not hang, and who writes."""
    outputs = run_workers("multiworker_save_program.py", tmp_path)
    assert [code for code, _ in outputs] == [0, 0], outputs
    run = tmp_path / "run"
    assert steps_in(run) == steps_in(run / "best") == [1]
    assert not list(run.rglob(".writing*"))
    expected, _ = checkpoint.read_weights(run)
    for path in (run / "best", run / "saved_model" / "1"):
        assert_equal(checkpoint.read_weights(path)[0], expected)
    np.testing.assert_array_equal(expected["backbone/stem/bn/moving_mean"], [2.0] * 8)


def run_workers(program, directory):
    """Runs a program as two workers in their own directories; (exit status, output) of each."""
    sockets = [socket.socket() for _ in range(2)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        (directory / str(index)).mkdir()
        processes.append(
            subprocess.Popen(
                [sys.executable, str(TESTS / program), str(directory / "run")],
                env={**os.environ, "TF_CONFIG": json.dumps(task), "TF_CPP_MIN_LOG_LEVEL": "3"},
                cwd=directory / str(index),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [p.communicate(timeout=240)[0] for p in processes]
    return [(p.returncode, text[-2000:]) for p, text in zip(processes, outputs, strict=True)]


def test_a_worker_that_does_not_write_leaves_no_file(tmp_path):
    saver = checkpoint.Saver(tmp_path / "run", contents(), write=False)
    saver.save(1)
    saver.save_best(1, 0.5)
    assert not (tmp_path / "run").exists()


def test_file_names_are_the_references(tmp_path):
    save_steps(tmp_path, 12)
    assert {p.name for p in tmp_path.iterdir()} == {
        "checkpoint",
        "ckpt-12.data-00000-of-00001",
        "ckpt-12.index",
    }
    assert tf.train.latest_checkpoint(tmp_path) == str(tmp_path / "ckpt-12")


def test_the_latest_checkpoints_are_kept(tmp_path):
    save_steps(tmp_path, 1, 2, 3, 10, 9, keep_max=2)
    assert steps_in(tmp_path) == [9, 10]
    state = tf.train.get_checkpoint_state(tmp_path)
    assert state.model_checkpoint_path == str(tmp_path / "ckpt-9")
    assert len(list(tmp_path.glob("ckpt-*"))) == 4
    save_steps(tmp_path / "all", *range(8), keep_max=0)
    assert len(steps_in(tmp_path / "all")) == 8


def test_a_moved_run_is_found(tmp_path):
    save_steps(tmp_path / "a", 3)
    (tmp_path / "a").rename(tmp_path / "b")
    assert checkpoint_reader.latest_checkpoint(tmp_path / "b") == str(tmp_path / "b" / "ckpt-3")


def test_without_a_state_file_the_highest_step_is_the_latest(tmp_path):
    save_steps(tmp_path, 2, 10)
    (tmp_path / "checkpoint").unlink()
    assert checkpoint_reader.latest_checkpoint(tmp_path).endswith("ckpt-10")
    assert checkpoint_reader.latest_checkpoint(tmp_path / "nowhere") is None
    assert checkpoint.Saver(tmp_path / "empty", contents()).restore_latest() is None


@pytest.mark.parametrize("damage", [b"", b"\xff\x00noise", b'model_checkpoint_path: "ckpt-77"\n'])
def test_with_a_damaged_state_file_the_highest_step_is_the_latest(tmp_path, damage):
    save_steps(tmp_path, 2, 10)
    (tmp_path / "checkpoint").write_bytes(damage)
    assert checkpoint_reader.latest_checkpoint(tmp_path).endswith("ckpt-10")


# The best checkpoint


def test_the_best_checkpoint_is_saved_with_its_value(tmp_path):
    parts = contents()
    saver = checkpoint.Saver(tmp_path, parts)
    tf.io.gfile.makedirs(str(tmp_path))
    known = {"format": 1, "architecture": {"num_classes": 4, "channels": 3}}
    model_json.write_model_json(tmp_path, known)
    outcomes = []
    for step, value in [(1, 0.5), (2, 0.4), (3, float("nan")), (4, 0.7), (5, 0.7)]:
        parts["model"]["supervised_head/dense/bias"].assign(tf.fill((3, 4), float(step)))
        parts["global_step"].assign(step)
        outcomes.append(saver.save_best(step, value, "accuracy"))
    assert outcomes == [True, False, False, True, False]
    best = tmp_path / "best"
    found = json.loads((best / "best.json").read_text())
    assert found == {"format": 1, "global_step": 4, "value": 0.7, "measure": "accuracy"}
    assert steps_in(best) == [4]
    weights, metadata = checkpoint.read_weights(best)
    assert np.all(weights["supervised_head/dense/bias"] == 4.0)
    assert metadata == {**known, "global_step": 4}
    # A new process compares with the value on disk, unless it is of another measure.
    again = checkpoint.Saver(tmp_path, parts)
    assert not again.save_best(6, 0.6, "accuracy")
    assert again.save_best(6, 0.6, "kNN")


def test_the_best_checkpoint_has_the_weights_alone(tmp_path):
    parts = contents()
    checkpoint.Saver(tmp_path, parts).save_best(0, 0.5)
    reader = checkpoint_reader.CheckpointReader(str(tmp_path / "best" / "ckpt-0"))
    assert reader.shapes("model") and not reader.shapes("optimizer")


def test_pruning_keeps_the_latest_whole_and_the_best(tmp_path):
    saver = save_steps(tmp_path, 1, 2, 3)
    saver.save_best(2, 0.5)
    checkpoint.prune(str(tmp_path))
    assert steps_in(tmp_path) == [3] and steps_in(tmp_path / "best") == [2]
    assert checkpoint.Saver(tmp_path, contents()).restore_latest() == 3  # with the optimizer
    save_steps(tmp_path, 4)
    assert steps_in(tmp_path) == [3, 4]
    checkpoint.prune(str(tmp_path / "nothing there"))


def test_a_value_that_is_not_a_number_is_never_the_best(tmp_path):
    assert not checkpoint.Saver(tmp_path, contents()).save_best(1, float("nan"))


def test_a_crash_while_the_best_is_replaced_keeps_the_old_one(tmp_path, monkeypatch):
    saver = checkpoint.Saver(tmp_path, contents())
    saver.save_best(1, 0.5)
    monkeypatch.setattr("tf2.files.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        saver.save_best(2, 0.6)
    assert checkpoint_reader.latest_checkpoint(tmp_path / "best").endswith("ckpt-1")


# Crashes and full disks


KILLED_WHILE_SAVING = """
import os, sys
import tensorflow as tf
import test_checkpoint

saver = test_checkpoint.save_steps(sys.argv[1], 1)
rename = tf.io.gfile.rename

def killed_at_the_index(source, target, overwrite=False):
    if target.endswith(".index"):
        os.kill(os.getpid(), 9)
    rename(source, target, overwrite)

tf.io.gfile.rename = killed_at_the_index
saver.save(2)
"""


def test_a_process_killed_while_saving_leaves_the_previous_checkpoint(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path)]
    assert subprocess.run(program, env=environment, timeout=120).returncode == -9
    assert (tmp_path / "ckpt-2.data-00000-of-00001").exists()  # half of the checkpoint
    assert checkpoint_reader.latest_checkpoint(tmp_path).endswith("ckpt-1")
    assert checkpoint.Saver(tmp_path, contents()).restore_latest() == 1
    save_steps(tmp_path, 2)
    assert steps_in(tmp_path) == [1, 2] and not [*tmp_path.glob(".writing*")]


def test_a_crash_before_the_state_file_leaves_both_checkpoints_usable(tmp_path, monkeypatch):
    saver = save_steps(tmp_path, 1)

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_write_state", crash)
    with pytest.raises(KeyboardInterrupt):
        saver.save(2)
    assert checkpoint_reader.latest_checkpoint(tmp_path).endswith("ckpt-1")
    checkpoint_reader.read_weights(tmp_path / "ckpt-2")


def test_a_full_disk_is_one_sentence_and_leaves_no_partial_file(tmp_path):
    save_steps(tmp_path, 1)
    before = sorted(p.name for p in tmp_path.iterdir())
    big = checkpoint.Saver(tmp_path, contents(shape=(200, 200)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(errors.UserError) as caught:
            big.save(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = str(caught.value)
    assert "checkpoint of step 2 needs space, and none is left" in message
    assert "\n" not in message
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert checkpoint.Saver(tmp_path, contents()).restore_latest() == 1


def test_a_full_file_system(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]).returncode:
        pytest.skip("Mounting a file system is not permitted.")
    try:
        save_steps(disk, 1)
        with pytest.raises(errors.UserError, match="step 2 needs space, and none is left"):
            checkpoint.Saver(disk, contents(shape=(200, 200))).save(2)
        assert steps_in(disk) == [1] and not [*disk.glob(".writing*")]
        assert checkpoint.Saver(disk, contents()).restore_latest() == 1
    finally:
        subprocess.run(["umount", disk], check=True)


def truncate(prefix, suffix=".data-00000-of-00001", to=20):
    with open(f"{prefix}{suffix}", "r+b") as f:
        f.truncate(to)


def test_a_damaged_latest_checkpoint_is_replaced_by_the_one_before(tmp_path, caplog):
    saver = save_steps(tmp_path, 1, 2)
    truncate(tmp_path / "ckpt-2")
    assert saver.restore_latest() == 1
    assert "ckpt-2" in caplog.text and "resumes from" in caplog.text
    truncate(tmp_path / "ckpt-1")
    with pytest.raises(checkpoint_reader.DamagedCheckpoint, match="ckpt-2.*cut short"):
        saver.restore_latest()


# Another run in the model_dir


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["model"].pop("supervised_head/dense/bias"), "model .*bias is unexpected"),
        (lambda c: c["model"].update({"x/kernel": tf.Variable(1.0)}), "x/kernel is missing"),
        (lambda c: c["optimizer"].update(v=tf.Variable(0.0)), "optimizer .*v is missing"),
        (
            lambda c: c["model"].update({"backbone/stem/conv/kernel": tf.Variable(tf.ones([5]))}),
            r"kernel has shape \(3, 4\), not \(5,\)",
        ),
    ],
)
def test_restoring_other_variables_raises(tmp_path, change, message):
    save_steps(tmp_path, 1)
    parts = contents(scale=9.0)
    change(parts)
    before = values(parts["model"])
    with pytest.raises(errors.UserError, match=message):
        checkpoint.Saver(tmp_path, parts).restore_latest()
    assert_equal(values(parts["model"]), before)


def test_evaluation_restores_without_the_optimizer(tmp_path):
    save_steps(tmp_path, 3)
    parts = contents(scale=9.0)
    del parts["optimizer"]
    assert checkpoint.Saver(tmp_path, parts).restore(str(tmp_path / "ckpt-3")) == 3
    assert_equal(values(parts["model"]), values(contents()["model"]))


def test_flags_of_another_run_are_reported_with_both_values():
    first = config.Config(dataset="cifar10", resnet_depth=18, seed=1, train_steps=10)
    stored = json.loads(json.dumps(first.as_flags()))
    longer = first.replace(train_steps=20, eval_batch_size=8, stem="cifar")
    identity.check_same_run("runs/a", stored, longer)  # stem auto was resolved
    with pytest.raises(errors.UserError) as caught:
        identity.check_same_run("runs/a", stored, first.replace(resnet_depth=50, seed=2))
    message = str(caught.value)
    assert "runs/a was started with seed=1, resnet_depth=18, " in message
    assert "this command has seed=2, resnet_depth=50. Choose another --model_dir" in message


# Weights for another network


def test_the_fine_tuning_form_loads_what_it_needs(trained):
    state, directory = trained
    model = make_model(ft_proj_selector=1)
    report = checkpoint.load_weights(model, directory)
    named = variables.named_variables(model)
    loaded = {n: v for n, v in values(named).items() if not n.startswith("supervised_head/")}
    assert_equal(loaded, {name: state.named[name].numpy() for name in loaded})
    assert report.matched == list(loaded)
    assert report.complete
    assert {name.rsplit("/", 2)[0] for name in report.not_needed} == {"projection_head/1"}
    assert len(report.head_skipped) == 2
    text = str(report)
    assert text.startswith(f"{len(loaded)}/{len(loaded)} matched, 0 missing, 0 unexpected, 0 shape")
    assert "supervised head (6 classes) isn't loaded; --restore_head loads it" in text
    assert "Projection layer 1 of the checkpoint isn't needed" in text


def test_the_supervised_head_is_loaded_on_request_only(trained):
    state, directory = trained
    model = make_model(num_classes=6)
    kernel = model.supervised_head.dense.kernel
    before = kernel.numpy()
    checkpoint.load_weights(model, directory)
    np.testing.assert_array_equal(kernel.numpy(), before)
    report = checkpoint.load_weights(model, directory, restore_head=True)
    assert len(report.matched) == len(state.named)
    expected = state.named["supervised_head/dense/kernel"].numpy()
    np.testing.assert_array_equal(kernel.numpy(), expected)
    assert np.any(before != expected)


def test_a_head_with_other_classes_is_skipped_and_reported(trained):
    report = checkpoint.load_weights(make_model(num_classes=4), trained[1], restore_head=True)
    assert "it has 6 classes in the checkpoint and 4 in the network" in str(report)
    assert report.complete and len(report.head_skipped) == 2


def test_a_head_of_another_layer_raises(trained):
    # The widths agree: the shapes would fit, and the head be wrong.
    with pytest.raises(errors.UserError, match="projection layer 0, the network on 1"):
        checkpoint.load_weights(make_model(ft_proj_selector=1), trained[1], restore_head=True)


def test_a_network_without_a_head_reports_it(trained):
    report = checkpoint.load_weights(make_model(num_classes=0), trained[1])
    assert "(6 classes) isn't loaded: the network has none" in str(report)


def test_requesting_a_missing_head_raises(tmp_path):
    model = make_model(num_classes=0)
    parts = {"model": variables.named_variables(model), "global_step": tf.Variable(0, tf.int64)}
    checkpoint.Saver(tmp_path, parts).save(0)
    with pytest.raises(errors.UserError, match=r"2 missing \(supervised_head/dense/kernel"):
        checkpoint.load_weights(make_model(), tmp_path, restore_head=True)
    assert checkpoint.load_weights(make_model(), tmp_path).complete


@pytest.mark.parametrize(
    "change, message",
    [
        ({"depth": 34}, "has depth=18, you asked for depth=34"),
        ({"num_proj_layers": 3}, "has num_proj_layers=2, you asked for num_proj_layers=3"),
        (
            {"width_multiplier": 0.25, "sk_ratio": 0.0625},
            "has width_multiplier=0.125, sk_ratio=0.0, you asked for width_multiplier=0.25, sk_r",
        ),
    ],
)
def test_another_architecture_is_reported_with_both_values(trained, change, message):
    with pytest.raises(errors.UserError, match=message):
        checkpoint.load_weights(make_model(**change), trained[1])


def test_without_model_json_the_error_lists_the_differences(trained, tmp_path):
    for file in trained[1].glob("ckpt-2.*"):
        shutil.copy(file, tmp_path)
    model = make_model(depth=34, width_multiplier=0.25)
    before = values(variables.named_variables(model))
    wanted = {n: v.shape for n, v in before.items() if not n.startswith("supervised_head/")}
    found = {n: tuple(v.shape) for n, v in trained[0].named.items()}
    same = sum(found.get(name) == shape for name, shape in wanted.items())
    missing = sum(name not in found for name in wanted)
    assert 0 < missing < len(wanted)
    with pytest.raises(errors.UserError) as caught:
        checkpoint.load_weights(model, tmp_path / "ckpt-2")
    message = str(caught.value)
    assert "\n" not in message
    assert f"{same}/{len(wanted)} matched, {missing} missing (" in message
    assert "shape mismatch (backbone/stem/conv/kernel 3x3x3x8 for 3x3x3x16; " in message
    assert_equal(values(variables.named_variables(model)), before)


def test_allow_partial_loads_the_weights_that_match(trained):
    model = make_model(depth=34)
    report = checkpoint.load_weights(model, trained[1], allow_partial=True)
    assert not report.complete and report.missing and len(report.matched) > 50
    name = "backbone/stem/conv/kernel"
    found = variables.named_variables(model)[name].numpy()
    np.testing.assert_array_equal(found, trained[0].named[name].numpy())


def test_the_report_shows_shapes_side_by_side():
    report = load_report.compare(
        {"backbone/a/kernel": (3, 3, 8, 8), "backbone/b/kernel": (8,), "backbone/d/bias": (2,)},
        {"backbone/a/kernel": (3, 3, 8, 16), "backbone/b/kernel": (4,), "backbone/c/bias": (2,)},
    )
    assert str(report).splitlines() == [
        "0/3 matched, 1 missing, 1 unexpected, 2 shape mismatch.",
        "  backbone/c/bias    missing in the checkpoint",
        "  backbone/d/bias    not in the network",
        "  backbone/a/kernel  checkpoint 3x3x8x8  network 3x3x8x16",
        "  backbone/b/kernel  checkpoint 8        network 4",
    ]


# Paths


@pytest.mark.parametrize("name", ["", "ckpt-2", "ckpt-2.index", "ckpt-2.data-00000-of-00001"])
def test_a_path_is_a_directory_a_prefix_or_a_file(trained, name):
    weights, metadata = checkpoint.read_weights(trained[1] / name)
    assert_equal(weights, values(trained[0].named))
    assert metadata["architecture"] == trained[0].model.hyperparameters


def other_program(directory, kind):
    if kind == "name-based":
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            tf.compat.v1.get_variable("base_model/conv2d/kernel", [3])
            session.run(tf.compat.v1.global_variables_initializer())
            return tf.compat.v1.train.Saver().save(session, str(directory / "model.ckpt"))
    layer = tf.Module()
    layer.kernel = tf.Variable(1.0)
    return tf.train.Checkpoint(model=layer).save(str(directory / "ckpt"))


def bad_paths(directory):
    (directory / "empty").mkdir()
    (directory / "weights.h5").write_bytes(b"\x89HDF")
    for name in ("data", "index", "gone"):
        save_steps(directory / name, 1)
    truncate(directory / "data" / "ckpt-1")
    truncate(directory / "index" / "ckpt-1", ".index")
    (directory / "gone" / "ckpt-1.data-00000-of-00001").unlink()
    return {
        "nowhere": "must exist.*nowhere, where there is nothing",
        "empty": "must hold a checkpoint or a SavedModel.*empty",
        "weights.h5": "weights.h5, a file of another kind",
        "data": "must be whole.*cut short",
        "index": "must be whole.*cut short",
        "gone": "must be whole.*a file is missing",
        other_program(directory, "name-based"): "must hold a ResNet.*fit none",
        other_program(directory, "objects"): "must hold a ResNet.*fit none",
    }


def test_each_unusable_path_is_one_sentence(tmp_path):
    model = tf.Module()
    for path, message in bad_paths(tmp_path).items():
        with pytest.raises(errors.UserError, match=message) as caught:
            checkpoint.load_weights(model, str(tmp_path / path))
        assert "\n" not in str(caught.value)


def test_a_missing_checkpoint_is_not_a_damaged_one(tmp_path):
    saver = save_steps(tmp_path, 1)
    with pytest.raises(checkpoint_reader.MissingCheckpoint):
        saver.restore(str(tmp_path / "ckpt-7"))


def test_a_newer_model_json_raises(tmp_path):
    model_json.write_model_json(tmp_path, {"format": 2})
    with pytest.raises(errors.UserError, match="format 1. Received: format=2"):
        model_json.read_model_json(tmp_path)
    assert model_json.read_model_json(tmp_path / "nowhere" / "ckpt-1") is None


def test_model_json_rebuilds_the_network(tmp_path):
    model = make_model(ft_proj_selector=1, fine_tune_after_block=2)
    metadata = model_json.describe(
        model,
        config=config.Config(train_mode="finetune", seed=3),
        preprocessing={"image_size": 32, "range": [0, 1], "center_crop": None, "channels": 3},
        class_names=["a", "b"],
        global_step=np.int64(4),
    )
    model_json.write_model_json(tmp_path, metadata)
    found = model_json.read_model_json(tmp_path)
    assert found == json.loads(json.dumps(metadata))
    assert (found["seed"], found["train_mode"], found["global_step"]) == (3, "finetune", 4)
    assert found["class_names"] == ["a", "b"] and found["dataset"] == "digits"
    assert found["versions"]["python"] == sys.version.split()[0]
    rebuilt = model_lib.SimCLR(**found["architecture"])
    shapes = {n: v.shape for n, v in variables.named_variables(model).items()}
    assert {n: v.shape for n, v in variables.named_variables(rebuilt).items()} == shapes
