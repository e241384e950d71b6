"""One worker of test_distribute.py's cluster: trains three steps and saves losses and weights."""

import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1])]

from tf2 import distribute  # noqa: E402, I001

strategy = distribute.make_strategy("multiworker")  # before anything else touches devices

import numpy as np  # noqa: E402
import small  # noqa: E402

from tf2 import resnet  # noqa: E402

resnet.ResNet = small.Backbone

history, weights, _ = small.train(strategy, small.make_batches(3, 16, views=2), memory_size=40)
np.savez(sys.argv[1], losses=[s["contrast_loss"] for s in history], **weights)
