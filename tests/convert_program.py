"""Makes or converts a large checkpoint and prints seconds and peak memory, for test_convert_size.

python tests/convert_program.py make NAME DST, or convert SRC DST FORMAT
"""

import json
import pathlib
import resource
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np

from checkpoints_tools import bundle, convert, tensors
from tf2 import architecture as architecture_lib
from tf2.checkpoints import layouts


def make(name, directory):
    """Writes a TF1 checkpoint of the paper's size, its values drawn by the names' places."""
    depth, width, squeezed = name.removeprefix("r").split("_")
    architecture = {
        **architecture_lib.BACKBONE_DEFAULTS,
        "depth": int(depth),
        "width_multiplier": int(width.removesuffix("x")),
        "sk_ratio": 0.0625 if squeezed == "sk1" else 0.0,
        "num_classes": 1000,
        "proj_head_mode": "nonlinear",
    }
    entries = {}
    shapes, names = layouts.weights(architecture), layouts.canonical(architecture)
    for seed, (ours, shape) in enumerate(shapes.items()):

        def read(seed=seed, shape=shape):
            return np.random.default_rng(seed).random(shape, np.float32)

        entries[names[ours]] = tensors.Entry(shape, np.dtype(np.float32), read)
    pathlib.Path(directory).mkdir()
    bundle.write(directory, "model.ckpt-1", tensors.Tensors(entries), {"global_step": np.int64(1)})
    return tensors.Tensors(entries).nbytes


def check(path):
    """Compares every tensor with what `make` drew."""
    network = convert.read(path)
    for seed, (name, value) in enumerate(network.tensors.items()):
        drawn = np.random.default_rng(seed).random(value.shape, np.float32)
        assert np.array_equal(value, drawn), name
    return network.tensors.nbytes


begin = time.monotonic()
if sys.argv[1] == "make":
    size = make(*sys.argv[2:])
elif sys.argv[1] == "check":
    size = check(sys.argv[2])
else:
    convert.convert(*sys.argv[2:])
    size = None
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": time.monotonic() - begin, "peak": peak, "bytes": size}))
