"""Progress shows step, epoch, losses, rate and time left: a bar in a terminal, else lines."""

import io
import re
import sys

import pytest

from tf2 import progress

METRICS = {
    "contrast_loss": 7.25,
    "contrast_acc": 0.125,
    "supervised_loss": 2.5,
    "supervised_acc": 0.25,
    "weight_decay": 0.0,
    "total_loss": 9.75,
    "alignment": 1.0,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Output(io.StringIO):
    """A notebook's stream, by its module."""


Output.__module__ = "ipykernel.iostream"


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


def run(stream, times, total=100, start=0, **kwargs):
    """Reports steps at given seconds: {step: seconds}."""
    clock = Clock()
    with progress.Progress(total, start, 50, 1000, stream, clock=clock, **kwargs) as shown:
        for step, clock.seconds in times.items():
            shown.update(step, METRICS, 0.0125)
    return stream.getvalue()


def test_plain_lines_are_at_least_some_seconds_apart_but_for_the_first_and_the_last():
    times = {1: 30.0, 2: 32.0, 6: 41.0, 7: 43.0, 9: 51.0, 10: 52.0}
    lines = run(io.StringIO(), times, total=10, seconds_between_lines=10.0).splitlines()
    assert [line.split(",")[0] for line in lines] == [f"step {n}/10" for n in (1, 6, 9, 10)]


def test_plain_lines_hold_step_epoch_scalars_rate_and_time_left():
    first, second = run(io.StringIO(), {1: 30.0, 11: 35.0}).splitlines()
    assert first == (
        "step 1/100, epoch 0.1, loss 9.75, contrastive 7.25, supervised 2.5, decay 0, "
        "contrastive acc 12.5%, acc 25.0%, lr 0.0125"
    )
    # 10 steps of 50 images in 5 s; 89 steps are left.
    assert second.startswith("step 11/100, epoch 0.6, ")
    assert second.endswith("lr 0.0125, 100 images/s, 44s left")


def test_the_first_step_is_not_part_of_the_rate():
    slow = run(io.StringIO(), {1: 3000.0, 11: 3005.0})
    assert "100 images/s, 44s left" in slow


def test_a_resumed_run_counts_its_own_steps_only():
    text = run(io.StringIO(), {61: 30.0, 71: 35.0}, start=60)
    assert "step 71/100, epoch 3.5" in text
    assert "100 images/s, 14s left" in text


def test_the_rate_is_measured_over_the_last_reports():
    times = {step: step * 1.0 for step in range(1, 50)}
    times |= {step: 49 + (step - 49) * 10.0 for step in range(50, 101)}
    assert run(io.StringIO(), times).splitlines()[-1].endswith("5 images/s, 0s left")


def test_a_terminal_gets_one_bar():
    text = run(Terminal(), {1: 30.0, 11: 35.0, 100: 80.0})
    assert "\n" not in text.rstrip("\n")  # drawn over itself
    states = [state for state in re.split(r"[\r\n]", text) if state.strip()]
    assert states[0].startswith("  0%|")
    assert any(s.startswith(" 11%|#") or s.startswith(" 11%|█") for s in states)
    assert states[-1].startswith("100%|")
    assert "step 100/100, epoch 5.0, loss 9.75" in states[-1]


def test_a_line_appears_at_once():
    class Flushed(io.StringIO):
        seen = ""

        def flush(self):
            self.seen = self.getvalue()

    stream = Flushed()
    progress.Progress(10, 0, 2, 20, stream).update(1, METRICS, 0.1)
    assert stream.seen.startswith("step 1/10")


def test_missing_scalars_are_left_out():
    stream = io.StringIO()
    progress.Progress(10, 0, 2, 20, stream).update(1, {"supervised_loss": 1.0}, 0.1)
    assert stream.getvalue() == "step 1/10, epoch 0.1, supervised 1, lr 0.1\n"


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (187, "3m07s"), (7500, "2h05m"), (273600, "3d04h")],
)
def test_time_spans(seconds, text):
    assert progress.format_seconds(seconds) == text


def test_the_stream_is_standard_error_and_in_a_notebook_standard_output(monkeypatch):
    assert progress.default_stream() is sys.stderr
    notebook = Output()
    monkeypatch.setattr(sys, "stdout", notebook)
    assert progress.default_stream() is sys.stderr
    monkeypatch.setattr(sys, "stderr", Output())
    assert progress.default_stream() is notebook
