"""Recipes: named settings, stored as absl flagfiles in tf2/recipes.

The comment at the top of a file states its purpose and the measured results. A line
--flagfile=OTHER includes another file of the directory; files whose names begin with _ are only
included by others.
"""

from __future__ import annotations

import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tf2 import config as config_lib
from tf2 import errors, modes
from tf2.flags import checks, fields

RECIPES = pathlib.Path(__file__).parent / "recipes"
_INCLUDE = "--flagfile="

_LABEL_FLAGS = ("label_fraction", "labels_per_class")
# Flag -> a flag for the same quantity in other units. Setting the first resets the second, which
# a recipe may have set.
_ALTERNATIVES = {
    "label_fraction": "labels_per_class",
    "labels_per_class": "label_fraction",
    "train_epochs": "train_steps",
    "checkpoint_epochs": "checkpoint_steps",
}


def names() -> list[str]:
    """Returns the names of all recipes, sorted."""
    return sorted(p.stem for p in RECIPES.glob("*.flags") if not p.stem.startswith("_"))


def split(value: str) -> list[str]:
    """Splits the value of --recipe at commas.

    Raises:
        errors.UserError: a recipe is unknown.
    """
    known, chosen = names(), [name.strip() for name in value.split(",")]
    for name in chosen:
        if name not in known:
            raise errors.UserError(
                f"Unknown recipe; choose from {', '.join(known)}. Received: recipe={name}."
                f"{checks.closest(name, known)} --recipe=help describes them."
            )
    return chosen


def lines(name: str) -> list[str]:
    """Returns a recipe's flags, --name=value, including those of the files it includes."""
    settings = []
    for line in (RECIPES / f"{name}.flags").read_text().splitlines():
        if line.startswith(_INCLUDE):
            settings += lines(line.removeprefix(_INCLUDE).removesuffix(".flags"))
        elif line.startswith("--"):
            settings.append(line)
    return settings


def help_text() -> str:
    """Returns the text of --recipe=help: the name and top comment of each recipe."""
    blocks = ["Recipes can be combined, separated by commas; later ones override earlier ones."]
    for name in names():
        text = (RECIPES / f"{name}.flags").read_text().splitlines()
        end = next((i for i, line in enumerate(text) if not line.startswith("#")), len(text))
        comment = [line[1:].strip() for line in text[:end]]
        blocks.append(
            "\n".join([f"--recipe={name}", *(f"    {line}".rstrip() for line in comment)])
        )
    return "\n\n".join(blocks)


def describe(name: str, settings: Mapping[str, Any], overridden: Sequence[str]) -> str:
    """Returns a recipe's settings as text: first those of all stages, then stage by stage.

    Args:
        name: name of the recipe.
        settings: flag or stage.flag -> value that the recipe sets.
        overridden: names of the settings that the command line overrides.
    """
    text = [f"Recipe {name} sets"]
    used = {flag: value for flag, value in settings.items() if flag not in overridden}
    for stage in ("", *config_lib.STAGES):
        flags = [f"--{f}={v}" for f, v in used.items() if f.rpartition(".")[0] == stage]
        text += _wrap(" ".join(flags))
    if overridden:
        text += _wrap(f"The command line overrides {', '.join(f'--{f}' for f in overridden)}.")
    return "\n".join(text)


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        100,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def merge(
    chosen: dict[str, Any], recipe: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Merges a recipe and the command line into `chosen`; returns the settings of single stages.

    Precedence, lowest first: the recipe, its stage flags, the command line, its stage flags. See
    `replaces` for the exceptions.
    """
    stage_settings: dict[str, dict[str, Any]] = {}
    strong = with_alternatives(given)
    for source in (with_alternatives(recipe), strong):
        for name, value in source.items():
            stage, _, flag = name.rpartition(".")
            if source is not strong and replaces(strong, name):
                continue
            if not stage:
                chosen[name] = value
            elif chosen["train_mode"] == modes.SIMCLRV2:
                stage_settings.setdefault(stage, {})[flag] = value
            elif applies(name, chosen["train_mode"]):
                chosen[flag] = value
    return stage_settings


def replaces(given: Mapping[str, Any], name: str) -> bool:
    """Whether the command line overrides a setting of a recipe.

    Args:
        given: the command line's flags by name; see `with_alternatives`.
        name: the recipe's setting: flag or stage.flag.
    """
    stage, _, flag = name.rpartition(".")
    if stage and flag == "checkpoint":
        # The setting refers to an earlier stage; `--checkpoint` only replaces the pretraining.
        return name in given
    if stage == "student" and config_lib.field(flag).metadata["scope"] == fields.NETWORK:
        # The student's network differs from its teacher's; `--width_multiplier=2` is the teacher's.
        return name in given
    return name in given or flag in given


def with_alternatives(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings plus a 0 for each flag that they make redundant; see `_ALTERNATIVES`."""
    off = {}
    for name in settings:
        stage, dot, flag = name.rpartition(".")
        if flag in _ALTERNATIVES:
            off[f"{stage}{dot}{_ALTERNATIVES[flag]}"] = 0
    return {**off, **settings}


def applies(name: str, train_mode: str) -> bool:
    """Whether a flag such as finetune.learning_rate has an effect in a train_mode."""
    stage = name.rpartition(".")[0]
    return not stage or train_mode in (modes.SIMCLRV2, stage)


def settings_that_apply(recipe: Mapping[str, Any], train_mode: str) -> dict[str, Any]:
    """Returns a recipe's settings without those that a train_mode rejects."""
    unused = tuple(n for n in _LABEL_FLAGS if n in modes.get(train_mode).unused)
    if train_mode != modes.SIMCLRV2:  # a single stage has no other stages to refer to
        unused += tuple(n for n in recipe if n.endswith((".checkpoint", ".teacher")))
    return {n: v for n, v in recipe.items() if n not in unused and applies(n, train_mode)}
