"""How many labels are enough? Trains every method for each number of labels and each seed.

    python -m tf2.study --recipe=digits --labels_per_class=1,2,4,8 --seeds=5

Also takes the flags of run.py, so any dataset works. All runs of a seed share one pretraining and
choose their labeled images by that seed. Finished stages are not run again: repeat the command to
resume a study, or to add labels or seeds. With --select=random,maxherding it compares ways to
choose the images to label instead: see `select_study`. Writes to model_dir:

    study.csv     a row per method, number of labels and seed
    study.md      mean and standard deviation over the seeds
    study.png     accuracy over labels, a line per method; also in TensorBoard
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

if __name__ == "__main__":  # silences TensorFlow; must precede its import
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags, logging

# What needs TensorFlow is imported inside functions, so that --help and mistakes don't wait for it.
from tf2 import config as config_lib
from tf2 import console, errors, program, run

if typing.TYPE_CHECKING:
    from tf2 import stages as stages_lib

# Flags that the study sets for each of its runs.
_STUDY_FLAGS = ("labels_per_class", "label_fraction", "label_seed", "seed", "mode", "train_mode")

_OWN_FLAGS = (
    *("labels_per_class", "label_fraction", "select", "counts", "seeds", "first_seed", "methods"),
)


def study(
    config: config_lib.Config,
    *,
    labels_per_class: Sequence[int] = (),
    label_fractions: Sequence[float] = (),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    methods: Sequence[str] = ("finetune", "distill", "student", "supervised"),
) -> list[dict]:
    """Runs all stages for each number of labels and each seed.

    Args:
        config: the settings of every run; model_dir is the directory of the study.
        labels_per_class: numbers of labeled images per class.
        label_fractions: fractions of the labels, instead of labels_per_class.
        seeds: seeds of the weights, data order, augmentation and labeled subset.
        methods: the stages to compare; the stages they start from are run too.

    Returns:
        The rows of study.csv: method, labels (per class, or the fraction), seed, top_1,
        parameters, seconds.

    Raises:
        errors.UserError: there are no labels, seeds or methods to compare, or a setting is invalid.
        loop.Interrupted: a signal stopped the study; the same call resumes it.
    """
    from tf2 import distribute, progress, stage_results, stages

    amounts = [{"labels_per_class": n, "label_fraction": 0.0} for n in labels_per_class]
    amounts += [{"labels_per_class": 0, "label_fraction": f} for f in label_fractions]
    if bool(labels_per_class) == bool(label_fractions) or not seeds:
        raise errors.UserError(
            "A study needs numbers or fractions of labels, and seeds. Received: "
            f"labels_per_class={list(labels_per_class)}, label_fraction={list(label_fractions)}, "
            f"seeds={list(seeds)}. Give exactly one of the first two, and at least one seed."
        )
    if unknown := [name for name in methods if name not in stage_results.TITLES]:
        raise errors.UserError(
            f"methods must be from {', '.join(stage_results.TITLES)}. Received: "
            f"methods={unknown[0]}. Correct --methods."
        )
    config = config.replace(mode="train_then_eval", train_mode="simclrv2")
    work = [
        (seed, stage)
        for seed in seeds
        for stage in _stages_of(config, seed, amounts, tuple(methods))
    ]
    strategy = distribute.build_strategy(config)
    planned = [stage for _, stage in work]
    stages.check_data(planned, strategy, stages.open_source(planned, config.model_dir or ""))
    rows: list[dict] = []
    start, num_timed = time.monotonic(), 0
    for number, (seed, stage) in enumerate(work):
        left = ""
        if num_timed:
            seconds = (time.monotonic() - start) / num_timed * (len(work) - number)
            left = f", about {progress.format_seconds(seconds)} left"
        stages.print_on_chief(
            strategy, f"\n== run {number + 1} of {len(work)}{left}: {stage.directory}"
        )
        stage_start = time.monotonic()
        result = stages.run_stage(stage, strategy)
        num_timed += time.monotonic() - stage_start > 2  # a stage finished earlier takes no time
        if stage.name in methods and stage.name != "pretrain":
            rows.append(_row(stage, seed, result))
            if distribute.is_chief(strategy):
                write(rows, config.model_dir or "", title=_title(config))
    stages.print_on_chief(
        strategy, "\n" + summary(rows) + f"\n\nWritten to {config.model_dir}: {_FILES}"
    )
    return rows


_FILES = "study.csv, study.md, study.png"


def _stages_of(
    config: config_lib.Config, seed: int, amounts: Sequence[Mapping], methods: tuple
) -> list[stages_lib.Stage]:
    """Returns the stages of a seed: one pretraining, then the methods for each number of labels."""
    from tf2 import stages

    chosen: list[stages.Stage] = []
    seed_dir = os.path.join(config.model_dir or "", f"seed{seed}")
    for amount in amounts:
        name = f"labels{amount['labels_per_class'] or amount['label_fraction']:g}"
        settings = dataclasses.replace(config, **amount, seed=seed, label_seed=seed)
        shared = os.path.join(seed_dir, "pretrain")
        planned = stages.plan(settings, os.path.join(seed_dir, name), pretrained=shared)
        needed = [stage for stage in planned if stage.name in methods]
        for stage in needed:
            needed += [earlier for earlier in stage.after if earlier not in needed]
        chosen += [stage for stage in planned if stage in needed and stage not in chosen]
    return chosen


def _row(stage: stages_lib.Stage, seed: int, result: Mapping) -> dict:
    from tf2 import stage_results

    return {
        "method": stage_results.TITLES[stage.name],
        "labels": stage.config.labels_per_class or stage.config.label_fraction,
        "seed": seed,
        "top_1": result["results"]["eval/label_top_1_accuracy"],
        "parameters": result["parameters"],
        "seconds": round(result["seconds"], 1),
    }


def summarize(rows: Sequence[Mapping]) -> dict[str, list[tuple[float, float, float]]]:
    """Returns method -> [(labels, mean, standard deviation)] of the top-1 accuracy over seeds."""
    from tf2 import stage_results
    from tf2.visuals import tables

    return tables.over_seeds(rows, "top_1", stage_results.TITLES.values())


def summary(rows: Sequence[Mapping]) -> str:
    """Returns the Markdown table: a row per method, a column per number of labels."""
    from tf2.visuals import tables

    lines = []
    for method, points in summarize(rows).items():
        parameters = next(r["parameters"] for r in rows if r["method"] == method)
        lines.append((method, f"{parameters:,}", *tables.cells_over_labels(points, rows)))
    amounts = map(_format_labels, sorted({row["labels"] for row in rows}))
    return console.markdown_table(("method", "parameters", *amounts), lines)


def _format_labels(labels: float) -> str:
    return f"{100 * labels:g} % of labels" if labels < 1 else f"{labels} per class"


def _title(config: config_lib.Config) -> str:
    return f"Top-1 accuracy on {config.dataset_name}/{config.eval_split}"


def write(rows: Sequence[Mapping], directory: str, *, title: str) -> None:
    """Writes the study's files atomically, and its figure for TensorBoard."""
    from tf2 import files, metrics
    from tf2.visuals import plots, tables

    title = tables.study_title(title, rows)
    files.make_directory(directory)
    files.write_csv(os.path.join(directory, "study.csv"), rows)
    text = f"# {title}\n\n{summary(rows)}\n"
    files.write_text(os.path.join(directory, "study.md"), text)
    per_class = all(row["labels"] >= 1 for row in rows)
    png = plots.label_efficiency(
        summarize(rows),
        title=title,
        xlabel="labeled images per class" if per_class else "fraction of the labels",
    )
    files.write_bytes(os.path.join(directory, "study.png"), png)
    metrics.write_only_figure(directory, "study", png, step=len(rows))


def define_flags(values: flags.FlagValues) -> None:
    """Defines the study's flags and those of run.py that it does not set."""
    run.define_flags(values, without=_STUDY_FLAGS)
    target = {"flag_values": values}
    flags.DEFINE_list("labels_per_class", [], "Labeled images per class: 1,2,4,8.", **target)
    flags.DEFINE_list(
        "label_fraction",
        [],
        "Fractions of the labels, instead of labels_per_class: 0.01,0.1.",
        **target,
    )
    flags.DEFINE_list(
        "select",
        [],
        "Methods of --mode=select to compare, for --counts labels, instead of --labels_per_class.",
        **target,
    )
    flags.DEFINE_list("counts", ["10", "20", "40", "100"], "Labeled images of --select.", **target)
    flags.DEFINE_integer("seeds", 5, "Number of seeds.", lower_bound=1, **target)
    flags.DEFINE_integer("first_seed", 0, "The first seed.", lower_bound=0, **target)
    flags.DEFINE_list(
        "methods", ["finetune", "distill", "student", "supervised"], "Stages to compare.", **target
    )


def main(values: flags.FlagValues) -> int:
    """Runs the study that parsed flags describe; returns the exit code."""
    logging.use_absl_handler()
    console.quiet_logs()
    try:
        counts = _numbers(values, "counts", int, 1)
        amounts = {
            "labels_per_class": _numbers(values, "labels_per_class", int, 1),
            "label_fractions": _numbers(values, "label_fraction", float, 0.0),
        }
        config, messages = run.build_config(values, train_mode="simclrv2")
        seeds = list(range(values.first_seed, values.first_seed + values.seeds))
        with run.starting(config, messages):
            if values.select:
                finetune = "finetune" in values.methods
                chosen = {"methods": values.select, "counts": counts, "finetune": finetune}
                return _execute(_compare_choices, config, **chosen, seeds=seeds)
            return _execute(study, config, **amounts, seeds=seeds, methods=values.methods)
    except Exception as error:
        message = errors.sentence(error)
        if message is None:
            raise
        print(f"study: {message}", file=sys.stderr)
        return 1


def _compare_choices(config: config_lib.Config, **arguments: Any) -> list[dict]:
    from tf2 import select_study

    return select_study.select_study(config, **arguments)


def _execute(compare: Callable, config: config_lib.Config, **arguments: Any) -> int:
    with console.quiet_import():
        from tf2 import loop
    try:
        compare(config, **arguments)
        return 0
    except loop.Interrupted as stop:
        print(f"{stop} Repeat the command to resume.", file=sys.stderr)
        return 128 + stop.signal_number


def _numbers(values: flags.FlagValues, name: str, kind: Callable[[str], Any], low: float) -> list:
    """Parses a list flag; returns its distinct values, sorted.

    Raises:
        errors.UserError: a value is not a number or out of range.
    """
    parsed = []
    for text in values[name].value:
        try:
            parsed.append(kind(text))
            valid = parsed[-1] >= low and (kind is int or 0 < parsed[-1] <= 1)
        except ValueError:
            valid = False
        if not valid:
            expected = "whole numbers above 0" if kind is int else "fractions above 0, at most 1"
            raise errors.UserError(
                f"--{name} must be {expected}. Received: {name}={text}. Correct it."
            )
    return sorted(set(parsed))


def cli(argv: Sequence[str]) -> int:
    """Parses a command line and runs it; returns the exit code."""
    values = flags.FlagValues()
    define_flags(values)
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(__doc__)
        for name in _OWN_FLAGS:
            print(f"  --{name}: {values[name].help} (default: {values[name].default_as_str})")
        return 0
    try:
        run.parse_flags(list(argv), values)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    return main(values)


if __name__ == "__main__":
    program.run(lambda: cli(sys.argv))
