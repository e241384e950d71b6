"""The training loop: many steps per graph call, reports, checkpoints, signals, non-finite losses.

It is independent of networks and data: a step is a function that maps a batch to scalars.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, TracebackType
from typing import Any

import tensorflow as tf

from tf2 import errors

Scalars = dict[str, float]
# (iterator, number of steps) -> mean scalars, scalars of the last step, number of steps done.
TrainLoop = Callable[[Iterator, int], tuple[Scalars, Scalars, int]]


def make_train_loop(
    strategy: tf.distribute.Strategy, step: Callable, *, jit_compile: bool = False
) -> TrainLoop:
    """Returns a function that runs several steps in one graph call.

    The function maps (iterator, count) to the mean scalars over the steps done, the scalars of the
    last step, and the number of steps done. That number is smaller than `count` only if a scalar is
    not finite: the loop stops after that step.
    """
    names: list[str] = []

    @tf.function(jit_compile=jit_compile)
    def replica_step(batch: Any) -> tf.Tensor:
        scalars = step(batch)
        names[:] = scalars
        return tf.stack([tf.cast(value, tf.float32) for value in scalars.values()])

    @tf.function
    def run(iterator: Iterator, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        done = tf.constant(0)
        finite = tf.constant(True)
        totals = tf.zeros([1])  # one element per scalar after the first addition
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

    def as_dict(values: tf.Tensor) -> Scalars:
        return dict(zip(names, map(float, values.numpy()), strict=True))

    def call(iterator: Iterator, count: int) -> tuple[Scalars, Scalars, int]:
        means, last, done = run(iterator, tf.constant(count))
        return as_dict(means), as_dict(last), int(done)

    return call


class StopSignal:
    """Context manager that handles SIGINT and SIGTERM, so that a run can save before it ends.

    A second signal of the same kind ends the program at once. Outside the main thread, where Python
    allows no handlers, signals have their usual effect.

    Attributes:
        received: number of the first signal; None if there was none.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._previous[number])


class Interrupted(Exception):
    """Raised when a signal has ended the training and its state is saved.

    Attributes:
        signal_number: the signal.
        step: the step of the saved state.
    """

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(signal_number).name} after step {step}.")
        self.signal_number = signal_number
        self.step = step


def check_finite(last: Mapping[str, float], step: int, saved: str) -> None:
    """Checks that all scalars of a step are finite.

    Args:
        last: the scalars of the last step.
        step: its number, from 1.
        saved: a sentence that names the last good checkpoint.

    Raises:
        errors.UserError: a scalar is not finite; the message names the first one.
    """
    for name, value in last.items():
        if not math.isfinite(value):
            raise errors.UserError(
                f"Training stopped at step {step}: {name} must be finite. Received: "
                f"{name}={value}. {saved} Lower --learning_rate, lengthen --warmup_epochs, or "
                "raise --temperature."
            )


_ROUND_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_SECONDS_PER_CALL = 4.0


@dataclasses.dataclass
class Pace:
    """Decides how many steps to run in one graph call.

    Attributes:
        total: number of the last step.
        save_every: steps between checkpoints.
        log_every: steps between reports; 0 means a round number that takes a few seconds.
        measure_every: steps between measurements; 0 means none.
    """

    total: int
    save_every: int
    log_every: int = 0
    measure_every: int = 0
    _seconds: float = 0.0

    def steps(self, step: int) -> int:
        """Returns the number of steps from `step` to the next report, save, measurement or end."""
        log_every = self.log_every or self._steps_per_report()
        intervals = [n for n in (log_every, self.save_every, self.measure_every) if n]
        return min(self.total - step, *(every - step % every for every in intervals))

    def measures(self, step: int) -> bool:
        """Returns whether a measurement is due after `step`."""
        return bool(self.measure_every) and step % self.measure_every == 0

    def record(self, steps: int, seconds: float) -> None:
        """Records how long some steps took; not the first ones, which include compilation."""
        self._seconds = seconds / steps

    def _steps_per_report(self) -> int:
        if not self._seconds:
            return 1
        fitting = [n for n in _ROUND_COUNTS if n * self._seconds <= _SECONDS_PER_CALL]
        return fitting[-1] if fitting else 1


def run_steps(
    loop: TrainLoop,
    iterator: Iterator,
    *,
    start: int,
    pace: Pace,
    report: Callable[[int, dict], None],
    save: Callable[[int], None],
    stop_signal: Callable[[], int | None],
    last_saved: Callable[[], str],
    measure: Callable[[int], None] = lambda step: None,
) -> int:
    """Trains from step `start` to the last step.

    Args:
        loop: from `make_train_loop`.
        iterator: yields the batches from step `start` on.
        start: number of updates done so far.
        pace: the intervals and the last step.
        report: called with the step and the mean scalars since the last call.
        save: called with the step, every `pace.save_every` steps and at the end.
        stop_signal: returns the number of a signal to stop for, or None.
        last_saved: returns a sentence that names the last checkpoint, for the error message of a
            loss that is not finite.
        measure: called with the step, every `pace.measure_every` steps, after saving.

    Returns:
        The last step.

    Raises:
        Interrupted: a signal was received; the state is saved.
        errors.UserError: a loss is not finite.
    """
    step = start
    while step < pace.total:
        count = pace.steps(step)
        begin = time.monotonic()
        means, last, done = loop(iterator, count)
        step += done
        check_finite(last, step, last_saved())
        if step - done > start:
            pace.record(done, time.monotonic() - begin)
        report(step, means)
        stop = stop_signal()
        if step % pace.save_every == 0 or step == pace.total or stop:
            save(step)
        if stop and step < pace.total:
            raise Interrupted(stop, step)
        if pace.measures(step) and not stop:
            measure(step)
    return step
