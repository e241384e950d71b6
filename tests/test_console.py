"""TensorFlow's internal messages are hidden, and nothing else is."""

import os
import pathlib
import subprocess
import sys

from tf2 import console

ROOT = pathlib.Path(__file__).parents[1]


def test_only_internal_lines_are_filtered_out(capfd):
    with console.filtered_stderr():
        os.write(2, b"I0000 00:00:1.5 7 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called\n")
        os.write(2, b"E0000 00:00:1.5 7 disk.cc:1] something broke\nImportant.\n")
    assert capfd.readouterr().err == "E0000 00:00:1.5 7 disk.cc:1] something broke\nImportant.\n"


def test_quiet_shows_our_warnings():
    program = (
        "import tf2 as simclr; simclr.quiet();"
        "import tensorflow as tf; tf.zeros([2]) + 1;"
        "from absl import logging; logging.info('a note'); logging.warning('a warning')"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=kept, capture_output=True, text=True
    )
    absls = "WARNING: Logging before flag parsing goes to stderr."
    lines = [line for line in ran.stderr.splitlines() if line != absls]
    assert (ran.returncode, ran.stdout, lines) == (0, "", ["Warning: a warning"])
