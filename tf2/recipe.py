"""Recipes: named settings in tf2/recipes, as absl flagfiles. What is in them, and what they set.

A file's opening comment says what it is for, what it gave and where that was measured. A line
--flagfile=OTHER takes in another file of the directory; a name that begins with _ is only for that.
"""

from __future__ import annotations

import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tf2 import config as config_lib
from tf2 import config_checks, errors, flag_fields, modes

RECIPES = pathlib.Path(__file__).parent / "recipes"
_INCLUDE = "--flagfile="

_LABEL_FLAGS = ("label_fraction", "labels_per_class")
# A flag -> another way to say the same: where the first is given, the second is turned off, so
# that what was set less strongly doesn't win.
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
    """Returns the recipes that --recipe names: one, or several separated by commas.

    Raises:
        errors.UserError: there is no such recipe.
    """
    known, chosen = names(), [name.strip() for name in value.split(",")]
    for name in chosen:
        if name not in known:
            raise errors.UserError(
                f"A recipe is one of {', '.join(known)}. Received: recipe={name}."
                f"{config_checks.closest(name, known)} --recipe=help describes them."
            )
    return chosen


def lines(name: str) -> list[str]:
    """Returns the flags that a recipe sets, --name=value, those of the files it takes in too."""
    found = []
    for line in (RECIPES / f"{name}.flags").read_text().splitlines():
        if line.startswith(_INCLUDE):
            found += lines(line.removeprefix(_INCLUDE).removesuffix(".flags"))
        elif line.startswith("--"):
            found.append(line)
    return found


def help_text() -> str:
    """Returns the text of --recipe=help: each recipe's name and opening comment."""
    blocks = ["Several recipes, separated by commas, add up; the last one wins where they differ."]
    for name in names():
        text = (RECIPES / f"{name}.flags").read_text().splitlines()
        end = next((i for i, line in enumerate(text) if not line.startswith("#")), len(text))
        comment = [line[1:].strip() for line in text[:end]]
        blocks.append(
            "\n".join([f"--recipe={name}", *(f"    {line}".rstrip() for line in comment)])
        )
    return "\n\n".join(blocks)


def describe(name: str, settings: Mapping[str, Any], decided: Sequence[str]) -> str:
    """Returns the lines that tell what a recipe sets: what all stages share, then stage by stage.

    Args:
        name: of the recipe.
        settings: flag -> value of what it sets; a stage's own flag is named stage.flag.
        decided: those of them that the command line decides instead.
    """
    told = [f"Recipe {name} sets"]
    kept = {flag: value for flag, value in settings.items() if flag not in decided}
    for stage in ("", *config_lib.STAGES):
        found = [f"--{f}={v}" for f, v in kept.items() if f.rpartition(".")[0] == stage]
        told += _wrapped(" ".join(found))
    if decided:
        told += _wrapped(f"The command line decides {', '.join(f'--{f}' for f in decided)}.")
    return "\n".join(told)


def _wrapped(text: str) -> list[str]:
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
    """Puts what a recipe and the command line set into `chosen`; returns the stages' own settings.

    Strongest last: the recipe, its stage's flags, the command line, its stage's flags; but
    see `replaces`.
    """
    of_stages: dict[str, dict[str, Any]] = {}
    strong = with_alternatives(given)
    for source in (with_alternatives(recipe), strong):
        for name, value in source.items():
            stage, _, flag = name.rpartition(".")
            if source is not strong and replaces(strong, name):
                continue
            if not stage:
                chosen[name] = value
            elif chosen["train_mode"] == modes.SIMCLRV2:
                of_stages.setdefault(stage, {})[flag] = value
            elif applies(name, chosen["train_mode"]):
                chosen[flag] = value
    return of_stages


def replaces(given: Mapping[str, Any], name: str) -> bool:
    """Whether a command line's flags decide in the place of what a recipe sets.

    Args:
        given: the flags, by name; see `with_alternatives`.
        name: what the recipe sets: flag or stage.flag.
    """
    stage, _, flag = name.rpartition(".")
    if stage and flag == "checkpoint":
        # `--checkpoint` replaces the pretraining, which is what the stage names.
        return name in given
    if stage == "student" and config_lib.field(flag).metadata["scope"] == flag_fields.NETWORK:
        # A student is another network than its teacher: `--width_multiplier=2` is the teacher's.
        return name in given
    return name in given or flag in given


def with_alternatives(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings of one strength with the other ways to say the same turned off."""
    off = {}
    for name in settings:
        stage, dot, flag = name.rpartition(".")
        if flag in _ALTERNATIVES:
            off[f"{stage}{dot}{_ALTERNATIVES[flag]}"] = 0
    return {**off, **settings}


def applies(name: str, train_mode: str) -> bool:
    """Whether a flag of one stage, such as finetune.learning_rate, counts in a train_mode."""
    stage = name.rpartition(".")[0]
    return not stage or train_mode in (modes.SIMCLRV2, stage)


def settings_that_apply(recipe: Mapping[str, Any], train_mode: str) -> dict[str, Any]:
    """Returns what a recipe sets in a train_mode: not the flags that the mode refuses."""
    unused = tuple(n for n in _LABEL_FLAGS if n in modes.get(train_mode).unused)
    if train_mode != modes.SIMCLRV2:  # the names of other stages mean nothing to one alone
        unused += tuple(n for n in recipe if n.endswith((".checkpoint", ".teacher")))
    return {n: v for n, v in recipe.items() if n not in unused and applies(n, train_mode)}
