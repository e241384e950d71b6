"""When two runs are the same run: what a resumed run and a resumed stage must have in common.

Each flag says what a change of it means (`identity` in `flag_fields.flag`). Flags that the train
mode does not use count as unchanged, and so do flags that an earlier version did not have, at their
defaults.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tf2 import config as config_lib
from tf2 import errors, files, modes
from tf2.flags import fields


def training_flags(train_mode: str) -> tuple[str, ...]:
    """Returns the flags that decide what a train mode trains, but for its length and start."""
    mode = modes.get(train_mode)
    return tuple(
        name
        for name in config_lib.names(identity=fields.TRAINS)
        if mode.uses(name, config_lib.field(name).metadata["group"])
    )


# ---- a run of its own


def check_same_run(model_dir: str, stored: Mapping[str, Any], config: config_lib.Config) -> None:
    """Raises errors.UserError where a run can't be resumed with a configuration.

    Its length, evaluation, reports and devices may change.

    Args:
        model_dir: of the run.
        stored: its flags.json.
        config: the configuration to resume it with; the message names each flag that differs.
    """
    changed = {
        name: (before, now)
        for name, (before, now) in _differences(stored, config).items()
        if _differ(before, now)
    }
    if changed:
        before = ", ".join(f"{name}={old}" for name, (old, _) in changed.items())
        now = ", ".join(f"{name}={new}" for name, (_, new) in changed.items())
        raise errors.UserError(
            f"A model_dir holds one run. Received: {model_dir} was started with {before}, this "
            f"command has {now}. Choose another --model_dir, or give the run's own flags."
        )


def _differences(
    stored: Mapping[str, Any], config: config_lib.Config
) -> dict[str, tuple[Any, Any]]:
    """Returns flag -> (value in flags.json, value now) of what makes it another run."""
    before = {**config_lib.defaults(), **stored}
    names = list(training_flags(config.train_mode))
    if config.checkpoint:
        names.append("weights")
    changed = {
        name: (before[name], getattr(config, name))
        for name in names
        if before[name] != getattr(config, name)
    }
    # Without --checkpoint a run resumes too: it has its start behind it.
    for name, now in (("checkpoint", config.checkpoint), ("teacher", config.teacher)):
        used = config.uses(name) and (now or name == "teacher")
        if used and not _same_paths(before[name], now, before["model_dir"], config.model_dir):
            changed[name] = (before[name], now)
    return changed


def _same_paths(
    before: str | None, now: str | None, model_dir_before: str | None, model_dir: str | None
) -> bool:
    """Whether two comma-separated lists of paths are the same places.

    A relative path began where the run was started, which is not known. Therefore it is enough that
    the path and the run's directory lie to each other as they did.
    """

    def same(old: str, new: str) -> bool:
        if files.canonical_path(old) == files.canonical_path(new):
            return True
        if not (model_dir_before and model_dir):
            return False
        return os.path.relpath(old, model_dir_before) == os.path.relpath(new, model_dir)

    old_paths, new_paths = _split(before), _split(now)
    return len(old_paths) == len(new_paths) and all(map(same, old_paths, new_paths))


def _differ(before: Any, now: Any) -> bool:
    """Whether two values of a setting are two choices; "auto" stands for any."""
    return before != now and fields.AUTO not in (before, now)


def _split(paths: str | None) -> list[str]:
    return [path.strip() for path in (paths or "").split(",") if path.strip()]


# ---- a stage


def stage_settings(config: config_lib.Config, directories: Mapping[str, str]) -> dict[str, Any]:
    """Returns what makes a stage what it is: its flags, and the weights that it starts from.

    Args:
        config: of the stage.
        directories: the place of an earlier stage -> its name, so that the model_dir may move.
    """
    names = (*training_flags(config.train_mode), *config_lib.names(identity=fields.LENGTH))
    values = {name: getattr(config, name) for name in sorted((*names, "weights"))}
    # Defaults are left out, so that a flag of a later version changes no earlier stage.
    settings = {n: value for n, value in values.items() if value != config_lib.defaults()[n]}

    def start(path: str) -> str:
        place = files.canonical_path(path)
        return directories.get(place, place)

    settings["checkpoint"] = config.checkpoint and start(config.checkpoint)
    settings["teacher"] = [start(teacher) for teacher in config.teachers]
    return settings


def changed_settings(
    stored: Mapping[str, Any], settings: Mapping[str, Any], train_mode: str
) -> dict[str, tuple[Any, Any]]:
    """Returns flag -> (value before, value now) of what makes it another stage.

    Args:
        stored: the settings in its stage.json. What an earlier version recorded beyond today's
            settings is ignored.
        settings: those of `stage_settings`.
        train_mode: of the stage.
    """
    defaults = {**config_lib.defaults(), "teacher": []}
    starts = config_lib.names(identity=fields.STARTS)
    lengths = config_lib.names(identity=fields.LENGTH)
    compared: Sequence[str] = (*training_flags(train_mode), *lengths, *starts)
    before, now = {**defaults, **stored}, {**defaults, **settings}
    return {n: (before[n], now[n]) for n in compared if _differ(before[n], now[n])}


def evaluation_settings(config: config_lib.Config) -> dict[str, Any]:
    """Returns the settings under which the results of a stage stay valid."""
    return {name: getattr(config, name) for name in config_lib.names(identity=fields.RESULTS)}
