"""Recipes: named settings in tf2/recipes, as absl flagfiles. What is in them, and what they set.

A file's opening comment says what it is for, what it gave and where that was measured. A line
--flagfile=OTHER takes in another file of the directory; a name that begins with _ is only for that.
"""

import pathlib
import textwrap

from tf2 import config as config_lib
from tf2 import config_checks, errors

RECIPES = pathlib.Path(__file__).parent / "recipes"
_INCLUDE = "--flagfile="

_FEW_LABELS = ("label_fraction", "labels_per_class")
# A flag -> another way to say the same: where the first is given, the second is turned off, so
# that what was set less strongly doesn't win.
_ALTERNATIVES = {
    "label_fraction": "labels_per_class",
    "labels_per_class": "label_fraction",
    "train_epochs": "train_steps",
    "checkpoint_epochs": "checkpoint_steps",
}


def names():
    """Returns the names of all recipes, sorted."""
    return sorted(p.stem for p in RECIPES.glob("*.flags") if not p.stem.startswith("_"))


def split(value):
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


def lines(name):
    """Returns the flags that a recipe sets, --name=value, those of the files it takes in too."""
    found = []
    for line in (RECIPES / f"{name}.flags").read_text().splitlines():
        if line.startswith(_INCLUDE):
            found += lines(line.removeprefix(_INCLUDE).removesuffix(".flags"))
        elif line.startswith("--"):
            found.append(line)
    return found


def help_text():
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


def describe(name, settings, decided):
    """Returns the lines that tell what a recipe sets: what all parts share, then part by part.

    Args:
        name: of the recipe.
        settings: flag -> value of what it sets; a part's own flag is named part.flag.
        decided: those of them that the command line decides instead.
    """
    told = [f"Recipe {name} sets"]
    kept = {flag: value for flag, value in settings.items() if flag not in decided}
    for part in ("", *config_lib.SECTIONS):
        found = [f"--{f}={v}" for f, v in kept.items() if f.rpartition(".")[0] == part]
        told += _wrapped(" ".join(found))
    if decided:
        told += _wrapped(f"The command line decides {', '.join(f'--{f}' for f in decided)}.")
    return "\n".join(told)


def _wrapped(text):
    return textwrap.wrap(
        text,
        100,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def merge(chosen, recipe, given):
    """Puts what a recipe and the command line set into `chosen`; returns the parts' own settings.

    Strongest last: the recipe, the recipe's part, the command line, the command line's part; but
    see `replaces`.
    """
    sections, strong = {}, with_alternatives(given)
    for source in (with_alternatives(recipe), strong):
        for name, value in source.items():
            section, _, flag = name.rpartition(".")
            if source is not strong and replaces(strong, name):
                continue
            if not section:
                chosen[name] = value
            elif chosen["train_mode"] == "simclrv2":
                sections.setdefault(section, {})[flag] = value
            elif applies(name, chosen["train_mode"]):
                chosen[flag] = value
    return sections


def replaces(given, name):
    """Whether a command line's flags decide in the place of what a recipe sets.

    Args:
        given: the flags, by name; see `with_alternatives`.
        name: what the recipe sets: flag or part.flag.
    """
    section, _, flag = name.rpartition(".")
    if section and flag == "checkpoint":
        # `--checkpoint` stands in for the pretraining, which is what the part names.
        return name in given
    if section == "student" and flag in config_lib.ARCHITECTURE_FLAGS:
        # A student is another network than its teacher: `--width_multiplier=2` is the teacher's.
        return name in given
    return name in given or flag in given


def with_alternatives(settings):
    """Returns settings of one strength with the other ways to say the same turned off."""
    off = {}
    for name in settings:
        section, dot, flag = name.rpartition(".")
        if flag in _ALTERNATIVES:
            off[f"{section}{dot}{_ALTERNATIVES[flag]}"] = 0
    return {**off, **settings}


def applies(name, train_mode):
    """Whether a flag of one part, such as finetune.learning_rate, counts in a train_mode."""
    section = name.rpartition(".")[0]
    return not section or train_mode in ("simclrv2", section)


def parts_that_apply(recipe, train_mode):
    """Returns what a recipe sets in a train_mode: pretraining alone has no use for few labels."""
    unused = _FEW_LABELS if train_mode == "pretrain" else ()
    if train_mode != "simclrv2":  # names of the other parts mean nothing to a part alone
        unused += tuple(n for n in recipe if n.endswith((".checkpoint", ".teacher")))
    return {n: v for n, v in recipe.items() if n not in unused and applies(n, train_mode)}
