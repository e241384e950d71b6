"""Which value a flag has: the command line's, a recipe's, that of the run in model_dir, a default.

From weakest to strongest: the defaults, a recipe, the command line. A command line without data and
settings has a recipe of its own, and one that names the directory of a run resumes that run with
the run's flags in place of a recipe's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from tf2 import config as config_lib
from tf2 import modes, run_directory
from tf2 import recipe as recipe_lib
from tf2.flags import fields

# The recipes of runs without settings: of the embedded digits, and of a user's own images.
DIGITS, IMAGES = "digits", "images"
DEFAULT_TRAIN_MODE = modes.SIMCLRV2  # of these two
# Groups of flags that say what to do, with which images and where, not how to train.
_PLACES = ("job", "data", "machine")


def build_config(
    chosen: dict[str, Any],
    given: Mapping[str, Any],
    read_recipe: Callable[[str], dict[str, Any]],
) -> tuple[config_lib.Config, list[str]]:
    """Builds a Config from the flags of a command line.

    Args:
        chosen: every flag -> its value on the command line, or its default.
        given: those of the command line alone, also of single stages: stage.flag.
        read_recipe: returns the settings of a recipe, flag or stage.flag -> value.

    Returns:
        A Config with `model_dir` filled in, and messages to print.

    Raises:
        errors.UserError: a recipe is unknown, or model_dir holds a run without its flags.
    """
    given = {  # shells don't expand ~ after "="; data_dir is expanded where it is read
        name: os.path.expanduser(value) if name in ("model_dir", "checkpoint") else value
        for name, value in given.items()
    }
    chosen = chosen | {name: value for name, value in given.items() if name in chosen}
    explicit = frozenset(given)
    weaker, messages = _flags_to_resume_with(chosen, given)
    default_recipe = "" if weaker else _default_recipe(chosen, explicit)
    if default_recipe:
        chosen["recipe"] = default_recipe
        chosen["train_mode"] = given.get("train_mode", DEFAULT_TRAIN_MODE)
    if not weaker and chosen["recipe"]:
        weaker, messages = _recipe_settings(chosen, given, read_recipe)
    if default_recipe == IMAGES:  # most of it is auto, and shown once it is chosen
        messages = []
    unused = [n for n in given if "." in n and not recipe_lib.applies(n, chosen["train_mode"])]
    for name in unused:
        messages.append(f"--{name} has no effect with --train_mode={chosen['train_mode']}.")
    messages += _unused_in_mode(chosen.get("mode"), given)
    stage_settings = recipe_lib.merge(chosen, weaker, given)
    messages += _choose_stage(chosen)
    if chosen["data_dir"] and not chosen["dataset"] and not _reads_run(chosen):
        chosen["dataset"] = "folder"
    if chosen["train_mode"] != modes.SIMCLRV2:  # a single stage: its flags are the run's
        explicit |= {n.rpartition(".")[2] for n in given if n not in unused}
    config = config_lib.Config(**chosen, explicit=explicit, stages=stage_settings)
    if not config.model_dir:
        config = config.replace(model_dir=config.default_model_dir(), explicit=explicit)
    if default_recipe or "model_dir" not in explicit:
        messages.insert(0, _data_and_directory(config, default_recipe))
    return config, messages


def _unused_in_mode(mode: str | None, given: Iterable[str]) -> list[str]:
    """Returns a message for each flag of the command line that a --mode does not use."""
    messages = []
    for name in given:
        users = config_lib.field(name.rpartition(".")[2]).metadata["modes"]
        if mode and users and mode not in users:
            messages.append(
                f"--{name} has no effect with --mode={mode}, only with {' or '.join(users)}."
            )
    return messages


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
    chosen["train_mode"] = given.get("train_mode", own.get("train_mode", chosen["train_mode"]))
    return own, [f"Resuming the run in {chosen['model_dir']} with its own flags."]


def _recipe_settings(
    chosen: dict[str, Any],
    given: Mapping[str, Any],
    read_recipe: Callable[[str], dict[str, Any]],
) -> tuple[dict[str, Any], list[str]]:
    """Returns the settings of a recipe, and a message with them.

    Args:
        chosen: flag -> value; its train_mode becomes the recipe's.
        given: the command line's flags.
        read_recipe: see `build_config`.
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
    network = run_directory.network(path, chosen["mode"], chosen["select_method"])
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
    alone = all(m["group"] in _PLACES or m["identity"] == fields.FREE for m in known)
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
        IMAGES: f"The images of {config.data_dir}, with the settings of recipe {IMAGES} "
        "(--recipe=help shows them). ",
    }
    message = f"{data[default_recipe]}Results go to {config.model_dir}."
    if resumes:
        message += " Resuming the run there; use --model_dir=DIR to start a new one."
    return message
