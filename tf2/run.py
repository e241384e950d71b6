"""Pretrain, fine-tune and evaluate SimCLRv2 networks from the command line.

    python tf2/run.py [--recipe=NAME] [--flag=value ...]

Flags are the fields of `config.Config`. This module turns a command line into a `Config` and errors
into messages.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
if sys.path and os.path.abspath(sys.path[0]) == _HERE:
    # `python tf2/run.py` puts tf2/ on the path; the package is found from the directory above it.
    sys.path[0] = os.path.dirname(_HERE)
from absl import app, flags, logging  # noqa: E402

from tf2 import config as config_lib  # noqa: E402
from tf2 import (  # noqa: E402
    config_checks,
    console,
    early_checks,
    errors,
    flag_fields,
    modes,
    run_directory,
)
from tf2 import recipe as recipe_lib  # noqa: E402

# The recipes of runs without settings: of the embedded digits, and of a user's own images.
DIGITS, IMAGES = "digits", "images"
DEFAULT_TRAIN_MODE = modes.SIMCLRV2  # of these two
# What a first run needs, in the order of --help.
_FIRST = ("mode", "data_dir", "labels", "minutes", "model_dir", "image_size", "checkpoint")
# Groups of flags that say what to do, with which images and where, not how to train.
_PLACES = ("job", "data", "machine")

# Flags of the reference's TF1 program that its published commands still use -> what replaces them.
TF1_ONLY_FLAGS = {
    "train_summary_steps": "progress is written every --log_every_steps.",
    "variable_schema": "all weights but the classifier are restored; --restore_head adds it.",
}


class _ChoiceParser(flags.EnumParser):
    """An enum parser whose error suggests the closest choice."""

    def parse(self, argument: str) -> str:
        try:
            return super().parse(argument)
        except ValueError as error:
            hint = config_checks.closest(argument, self.enum_values)
            raise ValueError(f"{error}.{hint}" if hint else str(error)) from None


class _AutoParser(flags.ArgumentParser):
    """Parses what another parser does, and "auto"."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser = parser
        self.syntactic_help = f"{parser.syntactic_help} or auto"

    def parse(self, argument: Any) -> Any:
        if argument == flag_fields.AUTO:
            return argument
        try:
            return self._parser.parse(argument)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{error}; auto is possible too") from None

    def flag_type(self) -> str:
        return f"{self._parser.flag_type()} or auto"


def define_flags(values: flags.FlagValues, without: Sequence[str] = ()) -> None:
    """Defines the program's flags, including the ignored ones of the TF1 program.

    Args:
        values: the FlagValues to define them in.
        without: names of flags to leave out.
    """
    for field in config_lib.flag_fields():
        if field.name not in without:
            _define(field, field.name, field.default, values)
            for stage in config_lib.STAGES:
                if config_lib.may_differ(field.name, stage):
                    _define(field, f"{stage}.{field.name}", None, values)
    for name in TF1_ONLY_FLAGS:
        flags.DEFINE_string(name, None, "A flag of the TF1 program; ignored.", flag_values=values)


def _define(field: dataclasses.Field, name: str, default: Any, values: flags.FlagValues) -> None:
    help_text, kind = field.metadata["help"], field.metadata["kind"]
    if kind == "enum":
        parser = _ChoiceParser(list(config_lib.choices(field) or ()))
        flags.DEFINE(
            parser, name, default, help_text, flag_values=values,
            serializer=flags.ArgumentSerializer(),
        )  # fmt: skip
    else:
        define = getattr(flags, f"DEFINE_{kind}" if kind != "int" else "DEFINE_integer")
        define(name, default, help_text, flag_values=values)
        if field.metadata["auto"]:
            values[name].parser = _AutoParser(values[name].parser)


def help_text() -> str:
    """Returns the text of --help: the program's flags with defaults and choices, by group."""
    lines = [__doc__.split("\n\n")[0], "", __doc__.split("\n\n")[1].strip("\n"), ""]
    lines.append(
        "Without --dataset and --recipe, all stages run on the images of --data_dir "
        "(--recipe=images),\nwithout it on the embedded digits (--recipe=digits).\n"
        "--STAGE.FLAG=value sets a flag for one stage of --train_mode=simclrv2: "
        f"{', '.join(config_lib.STAGES)}."
    )
    groups = {"The flags to begin with": [config_lib.field(name) for name in _FIRST]}
    for field in config_lib.flag_fields():
        if field.name not in _FIRST:
            groups.setdefault(config_lib.GROUPS[field.metadata["group"]], []).append(field)
    for title, fields in groups.items():
        lines += ["", title]
        for field in fields:
            value = flag_fields.values(field)
            default = "" if field.default in (None, "") else f"  (default: {field.default})"
            lines.append(f"  --{field.name}={value}{default}")
            lines += textwrap.wrap(
                field.metadata["help"], 88, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
    ignored = ", ".join(f"--{name}" for name in TF1_ONLY_FLAGS)
    lines += ["", f"Accepted and ignored: {ignored}. --helpfull also lists absl's flags."]
    return "\n".join(lines)


def parse_flags(argv: Sequence[str], values: flags.FlagValues | None = None) -> list[str]:
    """Parses the command line into `values`, absl's FLAGS by default.

    Raises:
        SystemExit: after --help, or with a message about a wrong flag.
    """
    values = flags.FLAGS if values is None else values
    before_dashes = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    if {"--help", "-help", "-h", "--h", "--helpshort", "-?"} & set(before_dashes):
        print(help_text())
        sys.exit(0)
    try:
        rest = values(argv)
        if len(rest) > 1:
            raise flags.Error(f"Flags begin with --. Received: {rest[1]!r}.")
    except flags.UnrecognizedFlagError as error:
        sys.exit(f"run.py: {_unknown_flag(error)} (--help lists the flags)")
    except flags.Error as error:
        sys.exit(f"run.py: {error} (--help lists the flags)")
    return rest


def _unknown_flag(error: flags.UnrecognizedFlagError) -> str:
    """Returns the message for an unknown flag, with or without a stage prefix."""
    stage, _, name = error.flagname.rpartition(".")
    if not stage:
        return str(error)
    if stage not in config_lib.STAGES:
        hint = config_checks.closest(stage, config_lib.STAGES)
        known = ", ".join(config_lib.STAGES)
        return f"A stage is one of {known}. Received: --{error.flagname}.{hint}"
    own = [f.name for f in config_lib.flag_fields() if config_lib.may_differ(f.name, stage)]
    if name in config_lib.names(scope=flag_fields.SHARED):
        hint = f" All stages share --{name}."
    elif name in {field.name for field in config_lib.flag_fields()}:
        hint = f" Use --{name} for the whole run, or set it for a stage that uses it."
    else:
        hint = config_checks.closest(name, own)
    return f"Stage {stage} has no flag {name} of its own. Received: --{error.flagname}.{hint}"


def configure(**settings: Any) -> config_lib.Config:
    """Returns a Config from Python. Precedence: defaults < recipe < the given settings.

        configure(recipe="digits", train_mode="pretrain", train_epochs=5, model_dir="runs/mine")

    Args:
        settings: flags by name. For a flag of one stage, `**{"student.train_epochs": 5}`.

    Raises:
        errors.UserError: a flag, value or recipe is unknown.
    """
    values = flags.FlagValues()
    define_flags(values)
    try:
        parse_flags(["configure", *(f"--{n}={v}" for n, v in settings.items())], values)
    except SystemExit as stop:
        raise errors.UserError(str(stop.code).removeprefix("run.py: ")) from None
    config, _ = build_config(values)
    config.validate()
    return config


def read_recipe(value: str) -> dict[str, Any]:
    """Reads a recipe, or several separated by commas; later recipes override earlier ones.

    Returns:
        The settings as a dict flag name -> value.

    Raises:
        errors.UserError: a recipe is unknown.
    """
    settings: dict[str, Any] = {}
    for name in recipe_lib.split(value):
        values = flags.FlagValues()
        define_flags(values)
        values([name, *recipe_lib.lines(name)])
        new = present_flags(values)
        replaced = recipe_lib.with_alternatives(new)
        settings = {**{k: v for k, v in settings.items() if k not in replaced}, **new}
    return settings


def present_flags(values: flags.FlagValues) -> dict[str, Any]:
    """Returns the flags set on the command line: name or stage.name -> value."""
    names = [field.name for field in config_lib.flag_fields()]
    names += [f"{stage}.{name}" for stage in config_lib.STAGES for name in names]
    return {n: values[n].value for n in names if n in values and values[n].present}


def build_config(
    values: flags.FlagValues, train_mode: str | None = None
) -> tuple[config_lib.Config, list[str]]:
    """Builds a Config from parsed flags. Precedence: defaults < recipe < command line.

    Args:
        values: a FlagValues that has parsed a command line.
        train_mode: the train mode, for a program without that flag.

    Returns:
        A Config with `model_dir` filled in, and messages to print.

    Raises:
        errors.UserError: a recipe is unknown.
    """
    given = present_flags(values)
    if train_mode:
        given["train_mode"] = train_mode
    for name in {"model_dir", "checkpoint"} & set(given):  # data_dir is expanded where it is read
        given[name] = os.path.expanduser(given[name])  # shells don't expand ~ after "="
    explicit = frozenset(given)
    names = [field.name for field in config_lib.flag_fields()]
    chosen = {name: values[name].value for name in names if name in values}
    chosen |= {name: given[name] for name in names if name in given}
    chosen.setdefault("train_mode", train_mode)
    weaker, messages = _flags_to_resume_with(chosen, given)
    default_recipe = "" if weaker else _default_recipe(chosen, explicit)
    if default_recipe:
        chosen["recipe"] = default_recipe
        chosen["train_mode"] = given.get("train_mode", DEFAULT_TRAIN_MODE)
    if not weaker and chosen["recipe"]:
        weaker, messages = _recipe_settings(chosen, given)
    unused = [n for n in given if "." in n and not recipe_lib.applies(n, chosen["train_mode"])]
    for name in unused:
        messages.append(f"--{name} has no effect with --train_mode={chosen['train_mode']}.")
    stage_settings = recipe_lib.merge(chosen, weaker, given)
    messages += _choose_stage(chosen)
    if chosen["data_dir"] and not chosen["dataset"] and not _reads_run(chosen):
        chosen["dataset"] = "folder"
    if chosen["train_mode"] != modes.SIMCLRV2:  # a single stage: its flags are the run's
        explicit |= {n.rpartition(".")[2] for n in given if n not in unused}
    config = config_lib.Config(
        **chosen,
        explicit=explicit,
        stages=stage_settings,
        other_flags=_other_flags(values, names),
    )
    if not config.model_dir:
        directory = config.default_model_dir()
        config = config.replace(model_dir=directory, explicit=explicit)
    if default_recipe or "model_dir" not in explicit:
        messages.insert(0, _data_and_directory(config, default_recipe))
    for name, instead in TF1_ONLY_FLAGS.items():
        if values[name].present:
            messages.append(f"--{name} is a flag of the TF1 program and ignored: {instead}")
    return config, messages


def _flags_to_resume_with(
    chosen: dict[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Returns the own flags of the run in model_dir, where no data are given, and a message.

    Args:
        chosen: flag -> value; its train_mode becomes the run's.
        given: the command line's flags.
    """
    trains = chosen.get("mode") in ("train", "train_then_eval")
    if not trains or "model_dir" not in given or {"dataset", "recipe", "data_dir"} & set(given):
        return {}, []
    own = run_directory.own_flags(chosen["model_dir"])
    if not own:
        return {}, []
    chosen["train_mode"] = given.get("train_mode", own["train_mode"])
    return own, [f"Resuming the run in {chosen['model_dir']} with its own flags."]


def _recipe_settings(
    chosen: dict[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Returns the settings of a recipe, and a message with them.

    Args:
        chosen: flag -> value; its train_mode becomes the recipe's.
        given: the command line's flags.
    """
    recipe = read_recipe(chosen["recipe"])
    chosen["train_mode"] = recipe.get("train_mode", chosen["train_mode"])
    chosen["train_mode"] = given.get("train_mode", chosen["train_mode"])
    recipe = recipe_lib.settings_that_apply(recipe, chosen["train_mode"])
    strong = recipe_lib.with_alternatives(given)
    overridden = [n for n in recipe if recipe_lib.replaces(strong, n)]
    return recipe, [recipe_lib.describe(chosen["recipe"], recipe, overridden)]


def _choose_stage(chosen: dict[str, Any]) -> list[str]:
    """Chooses the stage whose network is used where there is a run of all stages; says which."""
    path = chosen["checkpoint"] or chosen["model_dir"]
    if not path or chosen.get("mode") not in run_directory.MODES:
        return []
    network = run_directory.network(path, chosen["mode"])
    if network == path:
        return []
    chosen["checkpoint"] = network
    return [f"{path} holds all stages of a run; using {os.path.basename(network)}."]


def _reads_run(chosen: Mapping[str, Any]) -> bool:
    """Whether the dataset is that of a trained network, unless the command line names one."""
    network = chosen["model_dir"] or chosen["checkpoint"]
    return chosen.get("mode") not in (None, "train", "train_then_eval") and bool(network)


def _default_recipe(chosen: Mapping[str, Any], explicit: Collection[str]) -> str:
    """Returns the recipe of a command line without settings; empty for any other.

    Args:
        chosen: flag -> value.
        explicit: the flags of the command line.
    """
    if "recipe" in explicit or _reads_run(chosen):
        return ""
    if "dataset" not in explicit:
        return IMAGES if chosen["data_dir"] else DIGITS
    known = (config_lib.field(name.rpartition(".")[2]).metadata for name in explicit)
    alone = all(m["group"] in _PLACES or m["identity"] == flag_fields.FREE for m in known)
    return IMAGES if chosen["dataset"] == "folder" and chosen["data_dir"] and alone else ""


def _data_and_directory(config: config_lib.Config, default_recipe: str) -> str:
    """Returns a message with the default dataset and directory of a run."""
    directories = [os.path.join(config.model_dir or "", s) for s in ("", *config_lib.STAGES)]
    resumes = config.trains and any(
        os.path.exists(os.path.join(directory, "checkpoint")) for directory in directories
    )
    data = {
        "": "",
        DIGITS: "No --dataset or --recipe given: using scikit-learn's 1,797 handwritten digits "
        f"(recipe {DIGITS}). ",
        IMAGES: f"The images of {config.data_dir}, with the settings of recipe {IMAGES}. ",
    }
    message = f"{data[default_recipe]}Results go to {config.model_dir}."
    if resumes:
        message += " Resuming the run there; use --model_dir=DIR to start a new one."
    return message


def _other_flags(values: flags.FlagValues, ours: Sequence[str]) -> dict[str, Any]:
    """Returns absl's flags as JSON values, for flags.json."""
    settings = {}
    for name, value in values.flag_values_dict().items():
        if name in ours or "." in name or name.startswith(("help", "?")):
            continue
        try:
            json.dumps(value)
        except TypeError:
            continue
        settings[name] = value
    return settings


def execute(config: config_lib.Config) -> int:
    """Runs a checked Config; returns the exit code."""
    with console.quiet_import():
        # Imported late, because TensorFlow takes seconds to import.
        from tf2 import loop, pipeline, stages
        from tf2.apply import commands

    try:
        if config.applies:
            commands.run(config)
            return 0
        (stages.run_all_stages if config.all_stages else pipeline.run)(config)
        return 0
    except loop.Interrupted as stop:
        print(f"{stop} Repeat the command to resume.", file=sys.stderr)
        return 128 + stop.signal_number


def main(argv: Sequence[str]) -> int:
    """Runs the command line that absl has parsed; returns the exit code."""
    del argv
    return run_flags(flags.FLAGS)


def run_argv(argv: Sequence[str]) -> int:
    """Runs a command line in this process; returns the exit code. May be called repeatedly.

    Args:
        argv: the program's name, then its flags (absl's flags are unknown here).
    """
    values = flags.FlagValues()
    define_flags(values)
    try:
        parse_flags(argv, values)
        return run_flags(values)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0


def run_flags(values: flags.FlagValues) -> int:
    """Builds the Config of parsed flags and runs it; returns the exit code."""
    console.quiet_logs()
    try:
        if values.recipe == "help":
            print(recipe_lib.help_text())
            return 0
        config, messages = build_config(values)
        config.validate()
        for text in messages:
            print(text, flush=True)
        with run_directory.removed_if_left_empty(config.model_dir or ""):
            early_checks.check(config)
            return execute(config)
    except Exception as error:
        message = errors.sentence(error)
        if message is None:
            raise
        logging.debug("Traceback:", exc_info=True)  # --verbosity=1 shows it
        print(f"run.py: {message}", file=sys.stderr)
        return 1


def cli() -> None:
    """Runs the program and exits."""
    define_flags(flags.FLAGS)
    try:
        app.run(main, flags_parser=parse_flags)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    cli()
