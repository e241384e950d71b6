"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TextIO

import tqdm

# What is shown of a step's scalars, by which short name, in this order.
_SHOWN = {
    "total_loss": "loss",
    "contrast_loss": "contrastive",
    "supervised_loss": "supervised",
    "weight_decay": "decay",
    "distill_loss": "distillation",
    "contrast_acc": "contrastive acc",
    "distill_acc": "agreement",
    "supervised_acc": "acc",
}
_WINDOW = 20  # reports that the rate is measured over


class Progress:
    """Says where a training is, how fast it goes and when it ends.

    Usable as a context manager, which ends the bar.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        examples_per_step: int,
        examples_per_epoch: int,
        stream=None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Shows an empty bar on a terminal, and nothing yet elsewhere.

        Args:
            total_steps: number of the last step.
            start_step: steps done before, where a run is resumed.
            examples_per_step: the global batch size.
            examples_per_epoch: size of the training set.
            stream: where to write; see `default_stream`.
            clock: returns seconds, from any origin.
        """
        self._total = total_steps
        self._examples_per_step = examples_per_step
        self._steps_per_epoch = examples_per_epoch / examples_per_step
        self._stream = default_stream() if stream is None else stream
        self._clock = clock
        # (seconds, step) of the last reports. The first is the end of the first report's steps, so
        # that tracing and compiling are never part of the rate.
        self._marks = collections.deque(maxlen=_WINDOW + 1)
        self._bar = None
        if _is_terminal(self._stream):
            self._bar = tqdm.tqdm(
                total=total_steps,
                initial=start_step,
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar:10}| {desc}",
            )

    def update(self, step: int, metrics: Mapping[str, float], learning_rate: float) -> None:
        """Shows how things stand after a step.

        Args:
            step: steps done in all.
            metrics: scalars by name; losses and accuracies among them are shown.
            learning_rate: of that step.
        """
        self._marks.append((self._clock(), step))
        text = self._line(step, metrics, learning_rate)
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.n = step
            self._bar.set_description_str(text)

    def say(self, text: str) -> None:
        """Prints a line for the user, above the bar where there is one."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def images_per_second(self) -> float | None:
        """Returns the rate over the last reports; None before the second one."""
        (begin, first), (end, last) = self._marks[0], self._marks[-1]
        if end <= begin:
            return None
        return (last - first) * self._examples_per_step / (end - begin)

    def close(self) -> None:
        """Leaves the bar as it stands and ends its line."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _line(self, step: int, metrics: Mapping[str, float], learning_rate: float) -> str:
        parts = [f"step {step}/{self._total}", f"epoch {step / self._steps_per_epoch:.1f}"]
        for name, label in _SHOWN.items():
            if name in metrics:
                number = ".1%" if name.endswith("_acc") else ".4g"
                parts.append(f"{label} {float(metrics[name]):{number}}")
        parts.append(f"lr {float(learning_rate):.3g}")
        rate = self.images_per_second()
        if rate:
            parts.append(f"{rate:.0f} images/s" if rate >= 100 else f"{rate:.2g} images/s")
            left = (self._total - step) * self._examples_per_step / rate
            parts.append(f"{format_seconds(left)} left")
        return ", ".join(parts)


class Lines:
    """Says how far something is: one line that moves on a terminal, a line now and then elsewhere.

    Only what takes longer than a few seconds says anything.
    """

    _EVERY = 5.0  # seconds

    def __init__(
        self, total: int, what: str, *, stream: TextIO | None = None, clock=time.monotonic
    ):
        """Says nothing yet.

        Args:
            total: number of parts.
            what: they are, in words.
            stream: where to write; see `default_stream`.
            clock: returns seconds, from any origin.
        """
        self._total, self._what, self._clock = total, what, clock
        self._stream = default_stream() if stream is None else stream
        self._begin = self._said = clock()

    def update(self, done: int) -> None:
        """Takes in how many parts are done."""
        now = self._clock()
        last = done == self._total and self._said > self._begin
        if not done or not (last or now - self._said >= self._EVERY):
            return
        self._said = now
        left = (now - self._begin) / done * (self._total - done)
        rate = done / max(now - self._begin, 1e-9)
        text = f"{self._what}: {done}/{self._total}, {rate:.2g}/s, {format_seconds(left)} left"
        terminal = _is_terminal(self._stream)
        end = "\n" if last or not terminal else ""
        print(f"\r{text:70}" if terminal else text, end=end, file=self._stream, flush=True)


def over(parts: Iterable, total: int, what: str) -> Iterator:
    """Yields the parts, and says how far it is; see `Lines`."""
    lines = Lines(total, what)
    for done, part in enumerate(parts, 1):
        yield part
        lines.update(done)


def format_seconds(seconds: float) -> str:
    """Writes a time span as 42s, 3m07s, 2h05m or 3d04h."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


def default_stream() -> TextIO:
    """Returns where progress goes: standard error, and in a notebook, where that is red, output."""
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return sys.stdout if in_notebook else sys.stderr


def _is_terminal(stream) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)())
