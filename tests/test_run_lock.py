"""One training per directory: refused, recognised as stale, released."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import small

from tf2 import config, errors, machine, processes, run, run_lock

ROOT = pathlib.Path(__file__).parents[1]
# Takes a lock and keeps it until its input is closed.
HOLDER = """
import sys
from tf2 import errors, run_lock
try:
    with run_lock.hold(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
except errors.UserError as error:
    print(error, flush=True)
"""


def start(directory):
    command = [sys.executable, "-c", HOLDER, str(directory)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


@pytest.fixture
def holder(tmp_path):
    with start(tmp_path) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def write_lock(directory, seconds_ago=0.0, **changes):
    """Writes the lock of a process that is not this one."""
    owner = {**dataclasses.asdict(processes.current()), "since": "2020-02-02 02:02:02 UTC"}
    path = directory / run_lock.FILE_NAME
    path.write_text(json.dumps(owner | changes))
    touched = time.time() - seconds_ago
    os.utime(path, (touched, touched))
    return path


def owner_of(directory):
    return json.loads((directory / run_lock.FILE_NAME).read_text())["pid"]


def test_a_second_process_is_refused_with_host_process_and_start(tmp_path, holder):
    content = (tmp_path / run_lock.FILE_NAME).read_bytes()
    with pytest.raises(errors.UserError) as refused, run_lock.hold(str(tmp_path)):
        pass
    host, since = os.uname().nodename, json.loads(content)["since"]
    assert f"process {holder.pid} on {host} has been training since {since}." in str(refused.value)
    assert f"Received: model_dir={tmp_path}, where" in str(refused.value)
    assert os.listdir(tmp_path) == [run_lock.FILE_NAME]
    assert (tmp_path / run_lock.FILE_NAME).read_bytes() == content


def test_the_command_line_is_refused_before_tensorflow_is_imported(
    tmp_path, holder, capsys, monkeypatch
):
    monkeypatch.setattr(run, "execute", lambda _: pytest.fail("TensorFlow is imported here"))
    for flags in ({"mode": "train"}, {"mode": "train_then_eval", "train_mode": "simclrv2"}):
        assert f"process {holder.pid} on " in small.refusal(
            capsys, small.command(tmp_path, **flags)
        )
        assert os.listdir(tmp_path) == [run_lock.FILE_NAME]


def test_reading_evaluation_and_all_workers_but_the_chief_need_no_lock(monkeypatch):
    def locks(**flags):
        return config.Config(**flags).locks_model_dir

    assert locks(mode="train") and locks(mode="train_then_eval")
    assert not any(locks(mode=m) for m in ("eval", "predict", "embed", "probe", "export", "select"))
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a", "b"]}, "task": {"index": 1}}')
    assert not locks(mode="train", strategy="multiworker") and locks(mode="train")


@pytest.mark.parametrize(
    "cluster, task, chief",
    [
        ({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 0}, True),
        ({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 1}, False),
        ({"chief": ["a:1"], "worker": ["b:1"]}, {"type": "worker", "index": 0}, False),
        ({"chief": ["a:1"], "worker": ["b:1"]}, {"type": "chief", "index": 0}, True),
    ],
)
def test_the_chief_is_the_first_worker_unless_one_is_named(cluster, task, chief, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    assert machine.is_chief_task() is chief


def test_the_lock_of_a_killed_process_is_taken_at_once(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    while processes.Process(**_process(tmp_path)).is_running():
        time.sleep(0.01)  # before the parent has waited for it, it is a zombie
    with run_lock.hold(str(tmp_path)):
        assert owner_of(tmp_path) == os.getpid()
    assert os.listdir(tmp_path) == []


def _process(directory):
    content = json.loads((directory / run_lock.FILE_NAME).read_text())
    return {name: value for name, value in content.items() if name != "since"}


def test_a_process_id_that_another_process_has_got_is_no_owner(tmp_path):
    write_lock(tmp_path, pid=os.getppid(), started="1")
    with run_lock.hold(str(tmp_path)):
        assert owner_of(tmp_path) == os.getpid()


@pytest.mark.parametrize("place", [{"host": "elsewhere"}, {"machine": "another boot"}])
def test_the_lock_of_another_machine_ends_with_its_heartbeat(tmp_path, place):
    write_lock(tmp_path, seconds_ago=run_lock.STALE_SECONDS - 20, **place)
    with pytest.raises(errors.UserError, match="its lock ends 120 seconds after it"):
        with run_lock.hold(str(tmp_path)):
            pass
    write_lock(tmp_path, seconds_ago=run_lock.STALE_SECONDS + 1, **place)
    with run_lock.hold(str(tmp_path)):
        assert owner_of(tmp_path) == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": -1}', '{"pid": "x", "host": 1}'])
def test_a_damaged_lock_names_nobody(tmp_path, content):
    (tmp_path / run_lock.FILE_NAME).write_text(content)
    with run_lock.hold(str(tmp_path)):
        assert owner_of(tmp_path) == os.getpid()


def test_the_owner_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / run_lock.FILE_NAME
    with run_lock.hold(str(tmp_path)):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - path.stat().st_mtime < 20


def test_a_lock_is_released_at_an_error_and_its_owner_may_take_it_twice(tmp_path):
    with pytest.raises(KeyError), run_lock.hold(str(tmp_path)):
        with run_lock.hold(str(tmp_path)):
            pass
        assert owner_of(tmp_path) == os.getpid()
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_one_of_many_gets_a_stale_lock(tmp_path):
    write_lock(tmp_path, pid=os.getppid(), started="1")
    contenders = [start(tmp_path) for _ in range(6)]
    lines = [process.stdout.readline() for process in contenders]
    for process in contenders:
        process.communicate()
    assert lines.count("held\n") == 1
    assert sum("One process at a time" in line for line in lines) == 5
    assert os.listdir(tmp_path) == []
