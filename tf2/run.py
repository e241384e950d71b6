"""Pretrain, fine-tune and evaluate SimCLRv2 networks from the command line.

    python tf2/run.py [--recipe=NAME] [--flag=value ...]

Flags are the fields of `config.Config`. This module turns a command line into a `Config` and errors
into messages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
if sys.path and os.path.abspath(sys.path[0]) == _HERE:
    # `python tf2/run.py` puts tf2/ on the path; the package is found from the directory above it.
    sys.path[0] = os.path.dirname(_HERE)
from absl import app, flags, logging  # noqa: E402

from tf2 import config as config_lib  # noqa: E402
from tf2 import (  # noqa: E402
    console,
    early_checks,
    errors,
    precedence,
    program,
    run_directory,
    run_lock,
)
from tf2 import recipe as recipe_lib  # noqa: E402
from tf2.flags import checks  # noqa: E402
from tf2.flags import fields as flag_fields  # noqa: E402

# What a first run needs, in the order of --help.
_FIRST = ("mode", "data_dir", "labels", "minutes", "model_dir", "image_size", "checkpoint")
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
            hint = checks.closest(argument, self.enum_values)
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
        hint = checks.closest(stage, config_lib.STAGES)
        known = ", ".join(config_lib.STAGES)
        return f"A stage is one of {known}. Received: --{error.flagname}.{hint}"
    own = [f.name for f in config_lib.flag_fields() if config_lib.may_differ(f.name, stage)]
    if name in config_lib.names(scope=flag_fields.SHARED):
        hint = f" All stages share --{name}."
    elif name in {field.name for field in config_lib.flag_fields()}:
        hint = f" Use --{name} for the whole run, or set it for a stage that uses it."
    else:
        hint = checks.closest(name, own)
    return f"Stage {stage} has no flag {name} of its own. Received: --{error.flagname}.{hint}"


def configure(**settings: Any) -> config_lib.Config:
    """Returns a Config from Python. Precedence: defaults < recipe < the given settings.

        configure(recipe="digits", train_mode="pretrain", train_epochs=5, model_dir="runs/mine")

    Args:
        settings: flags by name, as `python tf2/run.py --help` lists them; paths may be
            `pathlib.Path`s. For a flag of one stage, `**{"student.train_epochs": 5}`.

    Returns:
        A Config, for `train`, `run_all_stages`, `evaluate`, `build_source` and `build_dataset`.

    Raises:
        errors.UserError: a flag, value or recipe is unknown.
    """
    return configure_and_explain(**settings)[0]


def configure_and_explain(**settings: Any) -> tuple[config_lib.Config, list[str]]:
    """Returns the Config of `configure`, and the messages that the command line prints.

    Raises:
        errors.UserError: a flag, value or recipe is unknown.
    """
    values = flags.FlagValues()
    define_flags(values)
    try:
        parse_flags(["configure", *(f"--{n}={v}" for n, v in settings.items())], values)
    except SystemExit as stop:
        raise errors.UserError(str(stop.code).removeprefix("run.py: ")) from None
    config, messages = build_config(values)
    config.validate()
    return config, messages


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
    """Builds a Config from parsed flags; see `precedence`.

    Args:
        values: a FlagValues that has parsed a command line.
        train_mode: the train mode, for a program without that flag.

    Returns:
        A Config with `model_dir` filled in, and messages to print.

    Raises:
        errors.UserError: a recipe is unknown, or model_dir holds a run without its flags.
    """
    given = present_flags(values)
    if train_mode:
        given["train_mode"] = train_mode
    names = [field.name for field in config_lib.flag_fields()]
    chosen = {name: values[name].value for name in names if name in values}
    chosen.setdefault("train_mode", train_mode)
    config, messages = precedence.build_config(chosen, given, read_recipe)
    for name, instead in TF1_ONLY_FLAGS.items():
        if values[name].present:
            messages.append(f"--{name} is a flag of the TF1 program and ignored: {instead}")
    return dataclasses.replace(config, other_flags=_other_flags(values, names)), messages


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


@contextlib.contextmanager
def starting(config: config_lib.Config, messages: Sequence[str]) -> Iterator[None]:
    """Prints the messages, locks model_dir for a training and checks the files of a run.

    A failing run leaves no empty directory.

    Raises:
        errors.UserError: see `run_lock.hold` and `early_checks.check`.
    """
    for text in messages:
        print(text, flush=True)
    model_dir = config.model_dir or ""
    with run_directory.removed_if_left_empty(model_dir):
        with run_lock.hold(model_dir, needed=config.locks_model_dir):
            early_checks.check(config)
            yield


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
        with starting(config, messages):
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
    program.run(lambda: app.run(main, flags_parser=parse_flags))


if __name__ == "__main__":
    cli()
