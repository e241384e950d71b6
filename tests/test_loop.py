"""The loop runs the exact number of steps, saves on schedule, and stops on signals and NaN."""

import os
import signal

import numpy as np
import pytest
import tensorflow as tf

from tf2 import errors, loop


class Recorder:
    """A loop that counts steps and records the calls of `run_steps`."""

    def __init__(self, fail_at=None):
        self.done, self.saved, self.reported, self.measured = 0, [], [], []
        self.fail_at = fail_at

    def __call__(self, iterator, count):
        for i in range(count):
            self.done += 1
            if self.done == self.fail_at:
                return {"total_loss": np.nan}, {"contrast_loss": np.nan}, i + 1
        return {"total_loss": 1.0}, {"contrast_loss": 1.0}, count

    def run(self, start, pace, stop=None):
        self.done = start
        return loop.run_steps(
            self,
            None,
            start=start,
            pace=pace,
            report=lambda step, scalars: self.reported.append(step),
            save=self.saved.append,
            stop_signal=lambda: stop,
            last_saved=lambda: "The last good checkpoint is ckpt-4.",
            measure=lambda step: self.measured.append((step, list(self.saved))),
        )


def test_runs_exactly_the_requested_steps():
    recorder = Recorder()
    assert recorder.run(0, loop.Pace(total=13, save_every=5, log_every=4)) == 13
    assert recorder.done == 13
    assert recorder.saved == [5, 10, 13]
    assert recorder.reported == [4, 5, 8, 10, 12, 13]


def test_a_resumed_run_keeps_the_intervals():
    recorder = Recorder()
    recorder.run(6, loop.Pace(total=12, save_every=5, log_every=4))
    assert recorder.saved == [10, 12]
    assert recorder.reported == [8, 10, 12]


def test_measures_at_its_own_interval_after_saving():
    recorder = Recorder()
    recorder.run(2, loop.Pace(total=14, save_every=6, log_every=4, measure_every=3))
    assert recorder.measured == [(3, []), (6, [6]), (9, [6]), (12, [6, 12])]
    assert recorder.reported == [3, 4, 6, 8, 9, 12, 14]
    assert recorder.saved == [6, 12, 14]


def test_a_signal_ends_the_training_without_a_measurement():
    recorder = Recorder()
    pace = loop.Pace(total=20, save_every=100, log_every=3, measure_every=3)
    with pytest.raises(loop.Interrupted):
        recorder.run(0, pace, stop=signal.SIGTERM)
    assert recorder.saved == [3] and recorder.measured == []


def test_a_loss_that_is_not_finite_stops_at_its_step_and_saves_nothing():
    recorder = Recorder(fail_at=7)
    with pytest.raises(errors.UserError, match="step 7.*contrast_loss=nan.*is ckpt-4"):
        recorder.run(0, loop.Pace(total=20, save_every=4, log_every=4))
    assert recorder.saved == [4]


def test_a_signal_saves_before_the_end():
    recorder = Recorder()
    with pytest.raises(loop.Interrupted, match="SIGTERM after step 3") as caught:
        recorder.run(0, loop.Pace(total=20, save_every=100, log_every=3), stop=signal.SIGTERM)
    assert recorder.saved == [3]
    assert caught.value.step == 3


def test_a_signal_in_the_last_step_changes_nothing():
    recorder = Recorder()
    pace = loop.Pace(total=3, save_every=100, log_every=3)
    assert recorder.run(0, pace, stop=signal.SIGTERM) == 3


def test_the_first_signal_is_recorded_and_the_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    with loop.StopSignal() as stop:
        assert stop.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_pace_chooses_a_round_number_of_steps():
    pace = loop.Pace(total=10_000, save_every=10_000)
    assert pace.steps(0) == 1
    pace.record(1, 0.3)  # 13 steps would fit
    assert pace.steps(0) == 10
    assert pace.steps(17) == 3


def test_the_graph_loop_averages_and_stops_at_the_first_value_that_is_not_finite():
    data = tf.data.Dataset.from_tensor_slices([1.0, 2.0, 3.0, float("nan"), 5.0])
    run = loop.make_train_loop(
        tf.distribute.get_strategy(), lambda x: {"a_loss": x, "b_loss": 2.0 * x}
    )
    iterator = iter(data)
    means, last, done = run(iterator, 3)
    assert (means, last, done) == (
        {"a_loss": 2.0, "b_loss": 4.0},
        {"a_loss": 3.0, "b_loss": 6.0},
        3,
    )
    _, last, done = run(iterator, 2)
    assert done == 1
    assert np.isnan(last["a_loss"])
    assert float(next(iterator)) == 5.0
