"""A command line that kills itself: POINT COUNT SECONDS FLAGS...

SIGKILL comes SECONDS after the COUNTth call of a function; COUNT 0 kills nothing.
"""

import os
import pathlib
import signal
import sys
import threading

TESTS = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import small  # noqa: E402
import tensorflow as tf  # noqa: E402

from tf2 import evaluation, progress, resnet, run  # noqa: E402
from tf2.checkpoints import checkpoint  # noqa: E402

POINTS = {
    "report": (progress.Progress, "update"),
    "checkpoint": (checkpoint.Saver, "_write_whole"),  # with the queue of a memory
    "saved_model": (tf.saved_model, "save"),
    "evaluation": (evaluation.Evaluator, "evaluate"),
    "knn": (evaluation.Evaluator, "knn_accuracy"),
}


def kill(point, count, seconds):
    place, name = POINTS[point]
    original, calls = getattr(place, name), [0]

    def counted(*arguments, **named):
        calls[0] += 1
        if calls[0] == count:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return original(*arguments, **named)

    setattr(place, name, counted)


if __name__ == "__main__":
    resnet.ResNet = small.Backbone
    kill(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    os._exit(run.run_argv(["run.py", *sys.argv[4:]]))
