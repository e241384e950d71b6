"""The loop: many steps in one call of the graph, reports, saving, signals, non-finite losses.

It knows nothing of networks or data: a step is a function of a batch that returns scalars.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Mapping

import tensorflow as tf

from tf2 import errors


def make_train_loop(strategy: tf.distribute.Strategy, step: Callable, *, jit_compile: bool = False):
    """Returns a function that runs several steps in one call of the graph.

    The function maps (iterator, count) to the scalars' names, their means over the steps done,
    their values in the last step, and the number of steps done, which is below `count` only where
    a value isn't finite: the loop stops right there.
    """
    names: list[str] = []

    @tf.function(jit_compile=jit_compile)
    def replica_step(batch):
        scalars = step(batch)
        names[:] = scalars
        return tf.stack([tf.cast(value, tf.float32) for value in scalars.values()])

    @tf.function
    def run(iterator, count):
        done = tf.constant(0)
        finite = tf.constant(True)
        totals = tf.zeros([1])  # grows to one place per scalar at the first addition
        last = tf.zeros([1])
        while tf.logical_and(done < count, finite):
            tf.autograph.experimental.set_loop_options(
                shape_invariants=[(totals, tf.TensorShape([None])), (last, tf.TensorShape([None]))]
            )
            values = strategy.run(replica_step, args=(next(iterator),))
            last = strategy.reduce(tf.distribute.ReduceOp.MEAN, values, axis=None)
            totals = totals + last
            finite = tf.reduce_all(tf.math.is_finite(last))
            done += 1
        return totals / tf.cast(done, tf.float32), last, done

    def call(iterator, count: int):
        means, last, done = run(iterator, tf.constant(count))
        as_dict = lambda values: dict(zip(names, map(float, values.numpy()), strict=True))  # noqa: E731
        return as_dict(means), as_dict(last), int(done)

    return call


class StopSignal:
    """Notices SIGINT and SIGTERM, so that a run can save before it ends.

    A second signal of the kind ends the program at once. Outside of the main thread, where Python
    allows no handlers, it notices nothing.
    """

    def __init__(self):
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._notice)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _notice(self, number, _frame):
        self.received = number
        signal.signal(number, self._previous[number])


class Interrupted(Exception):
    """A signal ended the training after its state was saved.

    Attributes:
        signal_number: the signal.
        step: the step that the saved state is of.
    """

    def __init__(self, signal_number: int, step: int):
        super().__init__(f"Stopped by {signal.Signals(signal_number).name} after step {step}.")
        self.signal_number = signal_number
        self.step = step


def check_finite(last: Mapping[str, float], step: int, kept: str) -> None:
    """Raises where a loss isn't finite.

    Args:
        last: the scalars of the last step.
        step: its number, from 1.
        kept: says where the last good state is.

    Raises:
        errors.UserError: names the first term that isn't finite.
    """
    for name, value in last.items():
        if not math.isfinite(value):
            raise errors.UserError(
                f"Training stopped at step {step}, since {name} must be finite. Received: "
                f"{name}={value}. {kept} Lower --learning_rate, lengthen --warmup_epochs, or "
                "raise --temperature."
            )


_ROUND_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_SECONDS_PER_CALL = 4.0


@dataclasses.dataclass
class Pace:
    """Chooses how many steps to run before control returns to Python.

    Attributes:
        total: the last step.
        save_every: steps between checkpoints.
        log_every: steps between reports; 0 finds a round number that takes a few seconds.
        measure_every: steps between measurements; 0 makes none.
    """

    total: int
    save_every: int
    log_every: int = 0
    measure_every: int = 0
    _seconds: float = 0.0

    def steps(self, step: int) -> int:
        """Returns the steps to run from `step`, up to the next report, save, measurement or end."""
        reports = self.log_every or self._comfortable()
        grids = [n for n in (reports, self.save_every, self.measure_every) if n]
        return min(self.total - step, *(every - step % every for every in grids))

    def measures(self, step: int) -> bool:
        """Whether a measurement is due after `step`."""
        return bool(self.measure_every) and step % self.measure_every == 0

    def learn(self, steps: int, seconds: float) -> None:
        """Takes in how long some steps took (not the first, which compiles)."""
        self._seconds = seconds / steps

    def _comfortable(self) -> int:
        if not self._seconds:
            return 1
        fitting = [n for n in _ROUND_COUNTS if n * self._seconds <= _SECONDS_PER_CALL]
        return fitting[-1] if fitting else 1


def run_steps(
    loop: Callable,
    iterator,
    *,
    start: int,
    pace: Pace,
    report: Callable[[int, dict], None],
    save: Callable[[int], None],
    stopping: Callable[[], int | None],
    kept: Callable[[], str],
    measure: Callable[[int], None] = lambda step: None,
) -> int:
    """Runs the training from step `start` to its end.

    Args:
        loop: of `make_train_loop`.
        iterator: of the batches from `start` on.
        start: updates done so far.
        pace: how often to come back, and the last step.
        report: called with the step and the mean scalars since the last call.
        save: called with the step, every `pace.save_every` steps and at the end.
        stopping: the signal to stop for, if one came.
        kept: says where the last good state is, for the error of a loss that isn't finite.
        measure: called with the step, every `pace.measure_every` steps, once it is saved.

    Returns:
        The last step.

    Raises:
        Interrupted: a signal came; the state was saved.
        errors.UserError: a loss isn't finite.
    """
    step = start
    while step < pace.total:
        count = pace.steps(step)
        begin = time.monotonic()
        means, last, done = loop(iterator, count)
        step += done
        check_finite(last, step, kept())
        if step - done > start:
            pace.learn(done, time.monotonic() - begin)
        report(step, means)
        stop = stopping()
        if step % pace.save_every == 0 or step == pace.total or stop:
            save(step)
        if stop and step < pace.total:
            raise Interrupted(stop, step)
        if pace.measures(step) and not stop:
            measure(step)
    return step
