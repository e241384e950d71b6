"""Files that appear complete or not at all, and only once they are on the disk."""

import dataclasses
import os
import time

import pytest
import tensorflow as tf

from tf2 import files, processes
from tf2.checkpoints import checkpoint


@pytest.fixture
def trace(monkeypatch):
    """A list of what happened, in order: ("sync", path) and ("rename", from, to)."""
    happened, fsync, rename = [], os.fsync, tf.io.gfile.rename

    def traced_fsync(descriptor):
        happened.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def traced_rename(source, target, overwrite=False):
        happened.append(("rename", str(source), str(target)))
        rename(source, target, overwrite)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(tf.io.gfile, "rename", traced_rename)
    return happened


def assert_durable(trace, names):
    """Each file is synced before it gets one of these names, and its directory right after."""
    renamed = [event for event in trace if event[0] == "rename"]
    assert [os.path.basename(target) for _, _, target in renamed] == names
    for event in renamed:
        place = trace.index(event)
        assert ("sync", event[1]) in trace[:place]
        assert trace[place + 1] == ("sync", os.path.dirname(event[2]))


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_its_directory_after(tmp_path, trace):
    files.write_json(str(tmp_path / "result.json"), {"a": 1})
    assert_durable(trace, ["result.json"])


def test_a_checkpoint_of_tensorflow_is_on_the_disk_before_its_index_names_it(tmp_path, trace):
    contents = {"model": {"a": tf.Variable([1.0])}, "global_step": tf.Variable(0, dtype=tf.int64)}
    checkpoint.Saver(str(tmp_path), contents).save(3)
    data, index = "ckpt-3.data-00000-of-00001", "ckpt-3.index"
    assert_durable(trace, [data, index, "checkpoint"])


def test_all_files_of_a_directory_are_on_the_disk_before_it_gets_its_name(tmp_path, trace):
    (tmp_path / "new" / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "variables/variables.index"):
        (tmp_path / "new" / name).write_text(name)
    files.replace_directory(str(tmp_path / "new"), str(tmp_path / "17"))
    assert_durable(trace, ["17"])
    synced = {os.path.relpath(path, tmp_path / "new") for kind, path, *_ in trace[:-2]}
    assert synced == {".", "saved_model.pb", "variables", "variables/variables.index"}
    files.replace_directory(str(tmp_path / "17"), str(tmp_path / "17b"))
    assert os.listdir(tmp_path) == ["17b"]


def test_a_file_system_that_syncs_no_directories_is_no_error_and_a_failing_disk_is(
    tmp_path, monkeypatch
):
    def unsupported(descriptor):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unsupported)
    files.write_text(str(tmp_path / "a"), "1")

    def broken(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        files.write_text(str(tmp_path / "a"), "2")
    assert (tmp_path / "a").read_text() == "1" and os.listdir(tmp_path) == ["a"]


def test_two_processes_never_write_to_the_same_temporary_file(tmp_path, monkeypatch):
    own, path = processes.current(), str(tmp_path / "model.json")
    names = {files.temporary(path)}
    for changes in ({"pid": own.pid + 1}, {"host": "b"}, {"machine": "b"}, {"started": "1"}):
        monkeypatch.setattr(processes, "current", lambda c=changes: dataclasses.replace(own, **c))
        names.add(files.temporary(path))
    assert len(names) == 5


def test_what_killed_processes_left_is_removed_and_what_others_write_stays(tmp_path):
    own = processes.current()
    ended = dataclasses.replace(own, started="1")  # the process with this id started later
    parent = dataclasses.replace(own, pid=os.getppid())
    parent = dataclasses.replace(parent, started=processes._started(parent.pid))
    remote = dataclasses.replace(own, host="elsewhere")
    left = [tmp_path / f".writing-ckpt-{ended.token}", tmp_path / f".writing-17-a-{ended.token}"]
    others = [tmp_path / f".writing-ckpt-{p.token}" for p in (own, parent, remote)]
    for directory in (*left, *others):
        directory.mkdir()
        (directory / "ckpt.index").write_text("")
    old = tmp_path / f".writing-a-{remote.token}9"
    old.write_text("")
    os.utime(old, (0, time.time() - 90_000))
    files.remove_leftovers(str(tmp_path))
    assert {*tmp_path.iterdir()} == {*others}
