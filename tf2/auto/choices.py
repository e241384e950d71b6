"""Settings that are "auto": chosen once, before the first step, with reasons, and kept.

`resolve` measures the images, the machine and, where a length is to be chosen, a few training
steps; `rules` chooses. A run that is resumed takes what it was started with, from flags.json.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf2 import config as config_lib
from tf2 import data, distribute, errors, loop, modes, run_directory, training
from tf2.auto import rules, time_budget
from tf2.checkpoints import model_json
from tf2.flags import fields
from tf2.sources import image_facts
from tf2.sources import source as source_lib

Choice = rules.Choice

# Times some steps of a configuration.
TimeSteps = Callable[[config_lib.Config], time_budget.Timing]

KEY, STAGES_KEY = "auto", "auto_stages"  # in flags.json: the choices, and for which stages
_TIMED_SECONDS = 8.0  # of steps, after the first one
_FEWEST_TIMED = 3
_MOST_TIMED = 30
_STUDENT = "student"
# Flags that others follow from. Where the user changes one of them, nothing is kept.
_INPUTS = ("dataset", "backbone", "stem", "image_size", "resnet_depth", "width_multiplier")


def resolve(
    config: config_lib.Config,
    source: source_lib.Source,
    model_dir: str,
    strategy: tf.distribute.Strategy | None = None,
    stages: Sequence[str] = ("",),
) -> tuple[config_lib.Config, list[Choice]]:
    """Chooses the settings of a training that are "auto".

    Args:
        config: the run.
        source: its images, all of them, with all labels.
        model_dir: of the run; what its flags.json has is kept.
        strategy: the devices; None is the default strategy.
        stages: of train_mode=simclrv2, in their order; ("",) for a run of its own.

    Returns:
        The configuration without "auto", and the choices. Both are in its `as_flags`, the choices
        under KEY.

    Raises:
        errors.UserError: steps would have to be timed on several machines.
    """
    strategy = strategy or tf.distribute.get_strategy()
    config, of_splits = with_splits(config, source)
    stored = _kept_flags(config, _stored_flags(model_dir))
    images = image_facts.ImageFacts(count=0)  # nothing is asked of them
    if _is_undecided(config, stages, stored):
        images = image_facts.measure(source, config.train_split, config.eval_split)
    facts = rules.Facts(images, distribute.machine_facts(strategy), tuple(stages))
    config, choices = choose(config, facts, lambda run: time_steps(run, source, strategy), stored)
    choices = [*of_splits, *choices]
    written = {
        KEY: [[choice.setting, choice.value, choice.reason] for choice in choices],
        STAGES_KEY: list(stages),
    }
    return dataclasses.replace(config, other_flags={**config.other_flags, **written}), choices


def with_earlier_choices(config: config_lib.Config, model_dir: str) -> config_lib.Config:
    """Returns a configuration without "auto" that has the choices of its run in its `as_flags`."""
    stored = _stored_flags(model_dir)
    earlier = {name: stored[name] for name in (KEY, STAGES_KEY) if name in stored}
    return dataclasses.replace(config, other_flags={**earlier, **config.other_flags})


def describe(choices: Sequence[Choice]) -> str:
    """Returns the choices as an aligned table: setting, value, why."""
    rows = [("setting", "value", "why")]
    rows += [(choice.setting, f"{choice.value}", choice.reason) for choice in choices]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{a.ljust(widths[0])}  {b.ljust(widths[1])}  {why}" for a, b, why in rows)


def with_splits(
    config: config_lib.Config, source: source_lib.Source
) -> tuple[config_lib.Config, list[Choice]]:
    """Returns the configuration with the splits that "auto" stands for, and the choices."""
    listing = source.listing
    chosen = {}
    if listing is not None:
        chosen = {"train_split": listing.train_split, "eval_split": listing.eval_split}
    else:
        evaluation = [name for name in ("validation", "test") if name in source.splits]
        chosen = {"train_split": "train", "eval_split": next(iter(evaluation), "")}
    reasons = {
        "train_split": "all images that are not held out",
        "eval_split": "the images that are held out" if chosen["eval_split"] else "there is none",
    }
    wanted = [name for name in chosen if getattr(config, name) == fields.AUTO]
    settings: dict[str, Any] = {name: chosen[name] for name in wanted}
    choices = [Choice(name, chosen[name], reasons[name]) for name in wanted]
    return dataclasses.replace(config, **settings), choices


# ---- what the run was started with


def _stored_flags(model_dir: str) -> Mapping[str, Any]:
    """Returns the flags.json of a run that can be resumed; nothing without one."""
    if not (run_directory.has_checkpoint(model_dir) or run_directory.stages(model_dir)):
        return {}
    return model_json.read_checked_flags(model_dir)


def _kept_flags(config: config_lib.Config, stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the flags.json of a run; nothing where the user changes what others follow from."""
    # "auto" is a value of stem in every run; here, too, it is no choice of the user's.
    given = [n for n in _INPUTS if getattr(config, n) != fields.AUTO]
    same = (stored.get(n) in (None, fields.AUTO, getattr(config, n)) for n in given)
    return stored if all(same) else {}


def _is_undecided(
    config: config_lib.Config, stages: Sequence[str], stored: Mapping[str, Any]
) -> bool:
    """Whether a choice is left that the run was not started with."""
    return any(
        _is_auto(_own(config, stage), flag) and _kept(stored, stage, flag) is None
        for stage in stages
        for flag in rules.RULES
    )


def _kept(stored: Mapping[str, Any], stage: str, flag: str) -> Choice | None:
    """Returns what a stage was started with; None if it was not. Steps replace epochs."""
    if not stored or stage not in stored.get(STAGES_KEY, [""]):
        return None
    prefix = f"{stage}." if stage else ""

    def find(name: str) -> Any:
        return stored.get(f"{prefix}{name}", stored.get(name))

    name = "train_steps" if flag == "train_epochs" and find("train_steps") else flag
    if find(name) in (None, fields.AUTO):
        return None
    reasons = {setting: reason for setting, _, reason in stored.get(KEY, [])}
    reason = reasons.get(f"{prefix}{name}", reasons.get(name, "as the run was started"))
    return Choice(name, find(name), reason)


def _own(config: config_lib.Config, stage: str) -> config_lib.Config:
    return config.for_stage(stage) if stage else config


def _is_auto(config: config_lib.Config, flag: str) -> bool:
    return getattr(config, flag) == fields.AUTO


def _has_open_length(config: config_lib.Config) -> bool:
    return _is_auto(config, "train_epochs") and not config.train_steps


def with_choices(config: config_lib.Config, choices: Sequence[Choice]) -> config_lib.Config:
    """Returns the configuration with chosen settings, of the run and of single stages."""
    shared: dict[str, Any] = {}
    stages = {name: dict(settings) for name, settings in config.stages.items()}
    for choice in choices:
        stage, _, flag = choice.setting.rpartition(".")
        settings = stages.setdefault(stage, {}) if stage else shared
        settings[flag] = choice.value
        if flag == "train_steps" and _is_auto(_own(config, stage), "train_epochs"):
            if not stage or settings.get("train_epochs") == fields.AUTO:
                settings["train_epochs"] = config_lib.defaults()["train_epochs"]
    return dataclasses.replace(config, **shared, stages=stages)


# ---- choosing


def choose(
    config: config_lib.Config,
    facts: rules.Facts,
    timed: TimeSteps,
    stored: Mapping[str, Any] | None = None,
) -> tuple[config_lib.Config, list[Choice]]:
    """Returns the configuration without "auto", and the choices.

    Args:
        config: the run, with its splits.
        facts: without a budget.
        timed: times the steps of a configuration; called where a length is to be chosen.
        stored: the flags that the run was started with, which are kept.
    """
    stored, choices = stored or {}, list[Choice]()
    network_is_open = _is_auto(config, "width_multiplier")
    for flag in rules.RULES:
        if flag == "width_multiplier" and network_is_open:
            new = _choose_stem(config, facts, stored)
            config, choices = with_choices(config, new), choices + new
        if flag in ("width_multiplier", "train_epochs"):
            facts = _with_budget(config, facts, timed, stored)
        new = _choose_flag(config, facts, flag, stored)
        config = with_choices(config, new)
        if _is_auto(config, flag):  # no stage uses it
            unused: dict[str, Any] = {flag: config_lib.defaults()[flag]}
            config = dataclasses.replace(config, **unused)
        choices += new
    return config, choices


def _choose_stem(
    config: config_lib.Config, facts: rules.Facts, stored: Mapping[str, Any]
) -> list[Choice]:
    """Returns the choice of the first layers, where it isn't that of the image size alone."""
    if config.stem != fields.AUTO:
        return []
    if stored:
        kept = _kept(stored, facts.stages[0], "stem")
        return [kept] if kept else []
    chosen = rules.stem(facts, config)
    return [Choice("stem", *chosen)] if chosen else []


def _choose_flag(
    config: config_lib.Config, facts: rules.Facts, flag: str, stored: Mapping[str, Any]
) -> list[Choice]:
    """Returns the choice of a flag for the run, and for the stages that differ from it."""
    choices: list[Choice] = []
    shared, networks = getattr(config, flag), config_lib.names(scope=fields.NETWORK)

    def own_settings(stage: str) -> Mapping[str, Any]:
        return config.stages.get(stage, {})

    for stage in facts.stages:
        own = _own(config, stage)
        if not _is_auto(own, flag):
            continue
        if flag in networks and shared != fields.AUTO and flag not in own_settings(stage):
            continue  # one network, whatever the stage
        choice = _kept(stored, stage, flag) or _decide(facts, own, stage, flag, shared)
        if choice.setting == flag and shared == fields.AUTO:
            shared = choice.value
            choices.append(choice)
        elif choice.setting != flag or choice.value != shared or flag in own_settings(stage):
            setting = f"{stage}.{choice.setting}" if stage else choice.setting
            choices.append(dataclasses.replace(choice, setting=setting))
    return choices


def _decide(
    facts: rules.Facts, own: config_lib.Config, stage: str, flag: str, shared: Any
) -> Choice:
    """Returns the choice of a flag for a stage, by the rules.

    Args:
        facts: see `rules.Facts`.
        own: the configuration of the stage.
        stage: its name.
        flag: the flag.
        shared: the value of the run, which a stage may follow.
    """
    if flag == "train_epochs" and _has_open_length(own) and rules.on_labels(own):
        return Choice("train_steps", *rules.train_steps(facts, own, stage))
    if flag == "width_multiplier" and stage == _STUDENT and shared != fields.AUTO:
        return Choice(flag, *rules.student_width(shared))
    return Choice(flag, *rules.RULES[flag](facts, own, stage))


# ---- time


def _with_budget(
    config: config_lib.Config,
    facts: rules.Facts,
    timed: TimeSteps,
    stored: Mapping[str, Any],
) -> rules.Facts:
    """Returns the facts with the time of the first stage's steps, if a length is to be chosen."""
    runs = {stage: _own(config, stage) for stage in facts.stages}
    if not any(
        _has_open_length(own) and _kept(stored, stage, "train_epochs") is None
        for stage, own in runs.items()
    ):
        return facts
    first = runs[facts.stages[0]]
    if _is_auto(first, "width_multiplier"):
        width: Any = rules.CPU_WIDTHS[1] if facts.on_cpu else rules.GPU_WIDTH
        first = dataclasses.replace(first, width_multiplier=width)
    before = facts.budget.timing.config if facts.budget else None
    if before is not None and before.width_multiplier == first.width_multiplier:
        return facts
    minutes = config.minutes or time_budget.MINUTES["cpu" if facts.on_cpu else "gpu"]
    begin, spent = time.monotonic(), facts.budget.spent if facts.budget else 0.0
    timing = timed(first)
    spent += (time.monotonic() - begin) / 60
    budget = time_budget.Budget(minutes, facts.stages, facts.images, timing, spent)
    return dataclasses.replace(facts, budget=budget)


def time_steps(
    config: config_lib.Config, source: source_lib.Source, strategy: tf.distribute.Strategy
) -> time_budget.Timing:
    """Builds a network, trains it for some steps, and returns how long they took.

    Raises:
        errors.UserError: several machines train together, each with times of its own.
    """
    if distribute.is_multi_worker(strategy):
        raise errors.UserError(
            "A length is chosen from the times of one machine. Received: strategy=multiworker, "
            "train_epochs=auto. Set --train_epochs."
        )
    if modes.get(config.train_mode).distills:  # without its teacher
        config = dataclasses.replace(config, train_mode="supervised", teacher="")
    config = dataclasses.replace(config, train_epochs=1).without_autos()
    num_examples = source.num_examples(config.train_split)
    begin = time.monotonic()
    with strategy.scope():
        state = training.build_train_state(
            config,
            num_examples=num_examples,
            num_classes=source.num_classes,
            channels=data.model_channels(config, source),
        )
    batches = strategy.distribute_datasets_from_function(
        lambda context: data.build_dataset(
            config, source, config.train_split, training=True, input_context=context
        )
    )
    steps, iterator = loop.make_train_loop(strategy, state.step), iter(batches)
    steps(iterator, 1)
    start, times = time.monotonic() - begin, list[float]()
    while len(times) < _FEWEST_TIMED or (sum(times) < _TIMED_SECONDS and len(times) < _MOST_TIMED):
        begin = time.monotonic()
        steps(iterator, 1)
        times.append(time.monotonic() - begin)
    del state, batches, steps, iterator
    keras.backend.clear_session()  # frees the memory for the run
    gc.collect()
    return time_budget.Timing(config, start, statistics.median(times))
