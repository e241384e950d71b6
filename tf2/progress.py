"""Progress of long work: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import collections
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TextIO, TypeVar

import tqdm

T = TypeVar("T")

# Name of a scalar -> its label, in the order of display.
_LABELS = {
    "total_loss": "loss",
    "contrast_loss": "contrastive",
    "supervised_loss": "supervised",
    "weight_decay": "decay",
    "distill_loss": "distillation",
    "contrast_acc": "contrastive acc",
    "distill_acc": "agreement",
    "supervised_acc": "acc",
}
_WINDOW = 20  # number of reports over which the rate is measured


class Progress:
    """Shows a training's step, scalars, speed and remaining time.

    As a context manager it closes the bar at the end.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        examples_per_step: int,
        examples_per_epoch: int,
        stream: TextIO | None = None,
        *,
        seconds_between_lines: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Shows an empty bar in a terminal, and nothing yet elsewhere.

        Args:
            total_steps: number of the last step.
            start_step: number of steps done before; above 0 in a resumed run.
            examples_per_step: the global batch size.
            examples_per_epoch: size of the training set.
            stream: where to write; `default_stream()` by default.
            seconds_between_lines: outside a terminal, reports sooner after the last line are left
                out, but for the first and the last one.
            clock: returns seconds since any origin.
        """
        self._total = total_steps
        self._seconds_between_lines, self._last_line = seconds_between_lines, -math.inf
        self._examples_per_step = examples_per_step
        self._steps_per_epoch = examples_per_epoch / examples_per_step
        self._stream = default_stream() if stream is None else stream
        self._clock = clock
        # (seconds, step) at the last reports. The first one is at the end of the first report's
        # steps, so that the rate never includes tracing and compilation.
        self._marks: collections.deque[tuple[float, int]] = collections.deque(maxlen=_WINDOW + 1)
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
        """Shows the state after a step.

        Args:
            step: total number of steps done.
            metrics: scalars by name; the losses and accuracies are shown.
            learning_rate: learning rate of that step.
        """
        now = self._clock()
        self._marks.append((now, step))
        text = self._line(step, metrics, learning_rate)
        if self._bar is not None:
            self._bar.n = step
            self._bar.set_description_str(text)
        elif now - self._last_line >= self._seconds_between_lines or step == self._total:
            self._last_line = now
            print(text, file=self._stream, flush=True)

    def write(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def images_per_second(self) -> float | None:
        """Returns the rate over the last reports; None before the second report."""
        (begin, first), (end, last) = self._marks[0], self._marks[-1]
        if end <= begin:
            return None
        return (last - first) * self._examples_per_step / (end - begin)

    def close(self) -> None:
        """Leaves the bar in its current state and ends its line."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _line(self, step: int, metrics: Mapping[str, float], learning_rate: float) -> str:
        parts = [f"step {step}/{self._total}", f"epoch {step / self._steps_per_epoch:.1f}"]
        for name, label in _LABELS.items():
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


class LineProgress:
    """Shows progress every few seconds: in a terminal by updating one line, else by a new line.

    Work that takes less time shows nothing.
    """

    INTERVAL = 5.0  # seconds

    def __init__(
        self,
        total: int,
        label: str,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Shows nothing yet.

        Args:
            total: number of items.
            label: description of the items.
            stream: where to write; `default_stream()` by default.
            clock: returns seconds since any origin.
        """
        self._total, self._label, self._clock = total, label, clock
        self._stream = default_stream() if stream is None else stream
        self._begin = self._shown = clock()

    def update(self, done: int) -> None:
        """Sets the number of items done."""
        now = self._clock()
        last = done == self._total and self._shown > self._begin
        if not done or not (last or now - self._shown >= self.INTERVAL):
            return
        self._shown = now
        left = (now - self._begin) / done * (self._total - done)
        rate = done / max(now - self._begin, 1e-9)
        text = f"{self._label}: {done}/{self._total}, {rate:.2g}/s, {format_seconds(left)} left"
        terminal = _is_terminal(self._stream)
        end = "\n" if last or not terminal else ""
        print(f"\r{text:70}" if terminal else text, end=end, file=self._stream, flush=True)


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yields the items and shows the progress; see `LineProgress`."""
    lines = LineProgress(total, label)
    for done, item in enumerate(items, 1):
        yield item
        lines.update(done)


def count(items: Iterable[T], label: str) -> Iterator[T]:
    """Yields items whose number isn't known before, and prints how many there are so far."""
    shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if done % 100 == 0 and time.monotonic() - shown >= LineProgress.INTERVAL:
            shown = time.monotonic()
            print(f"{label}: {done:,} so far", file=default_stream(), flush=True)


def format_seconds(seconds: float) -> str:
    """Formats a time span as 42s, 3m07s, 2h05m or 3d04h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def default_stream() -> TextIO:
    """Returns standard error, or in a notebook, where that is shown in red, standard output."""
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return sys.stdout if in_notebook else sys.stderr


def _is_terminal(stream: TextIO) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)())
