"""Follows a pretraining: kNN accuracy of its features, and signs that it goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tf2 import job as job_lib
from tf2 import model as model_lib
from tf2 import modes, run_evaluation, sanity
from tf2.auto import time_budget


class Watch:
    """What is measured beside the steps of a training.

    Attributes:
        every: steps between measurements; 0 for none.
    """

    def __init__(
        self, job: job_lib.Job, total: int, steps_per_epoch: int, write: Callable[[str], None]
    ) -> None:
        """Measures the untrained network, if its features are to be followed.

        Args:
            job: the run.
            total: number of its steps.
            steps_per_epoch: to turn epochs into steps.
            write: prints a line.
        """
        self._job, self._total, self._write = job, total, write
        self._pretrains = modes.get(job.config.train_mode).pretrains
        self._warned: set[str] = set()
        self.every = self._steps_between(steps_per_epoch)
        if self.every:
            self._untrained = run_evaluation.untrained_knn_accuracy(job)

    def _steps_between(self, steps_per_epoch: int) -> int:
        epochs = self._job.config.knn_every_epochs
        if not self._pretrains or not epochs:
            return 0
        if not self._job.evaluator.measures_knn:
            if epochs > 0:
                self._print("There are no labeled images, so --knn_every_epochs is ignored.")
            return 0
        if epochs > 0:
            return epochs * steps_per_epoch
        return max(self._total // time_budget.MEASUREMENTS, 1)

    def measure(self, step: int, model: model_lib.SimCLR) -> None:
        """Measures the features after a step, and compares them with untrained ones."""
        accuracy = self._job.evaluator.knn_accuracy(model)
        if self._job.writer is not None:
            self._job.writer.scalars({"eval/knn_accuracy": accuracy}, step)
        self._print(
            f"kNN accuracy of the features after step {step}: {100 * accuracy:.2f} % (untrained: "
            f"{100 * self._untrained:.2f} %)"
        )
        images = len(self._job.evaluator.knn_labels())
        share = step / self._total
        found = sanity.untrained_features(accuracy, self._untrained, share, images)
        self._warn("features", found)

    def check(self, step: int, scalars: Mapping[str, float]) -> None:
        """Checks the scalars of a report."""
        if self._pretrains:
            self._warn("embedding", sanity.collapsed_embedding(scalars, step / self._total))

    def _warn(self, kind: str, sentence: str | None) -> None:
        """Prints a sentence, once of each kind."""
        if sentence and kind not in self._warned:
            self._warned.add(kind)
            self._print(f"Warning: {sentence}")

    def _print(self, text: str) -> None:
        if self._job.writer is not None:
            self._write(text)
