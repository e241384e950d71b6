"""What every command does around its work: signals, closed output, names of files."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PRINTS = """
import sys
from tf2 import program

def main():
    for number in range(3):
        print("line", number, flush=True)
        print("progress", number, file=sys.stderr, flush=True)
    open(sys.argv[1], "w").write("all done")
    return 7

program.run(main)
"""


def run(code, *arguments, **environment):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts what runs in the background, perhaps these tests, deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_work_goes_on_when_its_output_is_closed(closed, tmp_path):
    with run(PRINTS, str(tmp_path / "result")) as process:
        for name in closed:
            getattr(process, name).close()
        rest = process.stdout.read() if "stdout" not in closed else None
        assert process.wait(60) == 7
    assert (tmp_path / "result").read_text() == "all done"
    assert rest is None or rest.count(b"line") == 3


def test_work_goes_on_when_the_disk_of_its_log_is_full(tmp_path):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", PRINTS, str(tmp_path / "result")]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 7 and b"Traceback" not in done.stderr
    assert (tmp_path / "result").read_text() == "all done"


WAITS = """
import time
from tf2 import program

def main():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)

program.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_with_cleanup_a_sentence_and_the_usual_code(number):
    with run(WAITS) as process:
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert stdout == b"cleaned up\n"
    assert stderr.decode() == f"Stopped by {number.name}. Repeat the command to resume.\n"


NAMES = """
import os, sys
from tf2 import program

def main():
    os.mkdir(sys.argv[1])
    print(os.path.basename(sys.argv[1]).encode("utf-8"), os.getpid())

program.run(main)
"""


def test_a_posix_locale_takes_names_that_are_no_ascii(tmp_path):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with run(NAMES, str(tmp_path / "läufe"), **locale) as process:
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, b"")
    assert stdout.decode() == f"{'läufe'.encode()} {process.pid}\n"
    assert os.listdir(tmp_path) == ["läufe"]
