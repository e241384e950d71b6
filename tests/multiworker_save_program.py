"""One worker of test_checkpoint.py's cluster: saves, restores and exports a small network."""

import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1])]

from tf2 import distribute  # noqa: E402, I001

strategy = distribute.make_strategy("multiworker")  # before anything else touches devices

import small  # noqa: E402
import tensorflow as tf  # noqa: E402

from tf2.apply import export  # noqa: E402
from tf2.checkpoints import checkpoint  # noqa: E402

model_dir = pathlib.Path(sys.argv[1])
chief = distribute.is_chief(strategy)
STATISTIC = "backbone/stem/bn/moving_mean"

with strategy.scope():
    state = small.make_state()
    saver = checkpoint.Saver(model_dir, state.checkpoint_variables(), write=chief)


def update():
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    state.named[STATISTIC].assign(tf.fill([8], 1.0 + 2.0 * tf.cast(replica, tf.float32)))


strategy.run(tf.function(update))
state.set_step(1)
saver.save(1)
assert saver.save_best(1, 0.5)
assert not saver.save_best(1, 0.4)
if not chief:
    assert not list(pathlib.Path.cwd().iterdir())

state.named[STATISTIC].assign(tf.zeros([8]))
strategy.run(tf.function(lambda: tf.distribute.get_replica_context().all_reduce("SUM", 1.0)))
assert saver.restore_latest() == 1
assert state.named[STATISTIC].numpy().tolist() == [2.0] * 8

export.export_saved_model(
    state.model,
    model_dir / "saved_model" / "1",
    preprocessing={"image_size": 16, "center_crop": None, "channels": 3},
    model_json={"format": 1},
    write=chief,
)
