"""What the JSON files of a run hold, checked when they are read: anybody may have edited them.

One `Schema` per file; flags and a network's architecture have the ranges of their flags. Nothing
here imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

from tf2 import architecture, errors
from tf2 import config as config_lib
from tf2.flags import fields

FORMAT = 1  # of model.json, best.json and stage.json
_STEPS = f"[0, {2**63 - 1}]"
_KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "string": (str,),
    "enum": (str,),
}
_WORDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
    dict: "an object", list: "a list", type(None): "null",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Key:
    """What a key may hold.

    Attributes:
        kinds: the types; `type(None)` allows null.
        range: the interval of a number.
        choices: the allowed values; empty allows all.
        required: whether the key must be there.
        schema: of an object's own keys.
        items: of a list's entries.
    """

    kinds: tuple[type, ...]
    range: str = "(-inf, inf)"
    choices: tuple[Any, ...] = ()
    required: bool = False
    schema: Schema | None = None
    items: Key | None = None

    def problem(self, value: Any) -> str:
        """Returns what a value should have been, in words; "" where it may be what it is."""
        if not isinstance(value, self.kinds) or (
            isinstance(value, bool) and bool not in self.kinds
        ):
            kinds = (kind for kind in self.kinds if not (kind is int and float in self.kinds))
            return " or ".join(_WORDS[kind] for kind in kinds)
        if self.choices and value not in self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not fields.in_interval(value, self.range):
                return fields.describe_interval(self.range, whole=isinstance(value, int))
        if isinstance(value, list) and self.items:
            wrong = next(filter(None, map(self.items.problem, value)), "")
            return f"a list, in which each entry is {wrong}," if wrong else ""
        return ""


@dataclasses.dataclass(frozen=True)
class Schema:
    """The keys of a JSON file.

    Attributes:
        keys: name -> what it may hold.
        closed: whether other keys are refused.
        remedy: what to do about a damaged file, a sentence.
    """

    keys: Mapping[str, Key]
    closed: bool = False
    remedy: str = "Restore the file from a copy, or delete it."

    def check(self, content: Mapping[str, Any], path: str) -> None:
        """Checks the content of a file.

        Raises:
            errors.UserError: a newer version of this program wrote the file.
            errors.DamagedFile: a key is missing, unknown or holds an odd value.
        """
        if "format" in self.keys and content.get("format", FORMAT) != FORMAT:
            name = os.path.basename(path)
            raise errors.UserError(
                f"{name} must be of format {FORMAT}. Received: format={content['format']} in "
                f"{path}. Use the version of this program that wrote it."
            )
        self._check(content, path, "", self.remedy)

    def _check(self, content: Mapping[str, Any], path: str, parent: str, remedy: str) -> None:
        def refuse(rule: str, received: str) -> errors.DamagedFile:
            return errors.DamagedFile(
                f"{os.path.basename(path)} must have {rule}. Received: {path} with {received}. "
                f"{remedy}"
            )

        for name, key in self.keys.items():
            if name not in content:
                if key.required:
                    raise refuse(f"the key {parent}{name}", f"the keys {_few(content)}")
                continue
            value = content[name]
            if wanted := key.problem(value):
                raise refuse(f"{wanted} as {parent}{name}", f"{parent}{name}={_shown(value)}")
            if key.schema is not None and value is not None:
                key.schema._check(value, path, f"{parent}{name}.", remedy)
        unknown = next((name for name in content if name not in self.keys), None)
        if self.closed and unknown is not None:
            raise refuse(f"no other keys than {_few(self.keys)}", f"{parent}{unknown}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _few(names: Mapping[str, Any]) -> str:
    return errors.first_few(list(names)) or "none"


def _of_flag(name: str, **changes: Any) -> Key:
    """Returns what a flag may hold."""
    field = config_lib.field(name)
    metadata, kinds = field.metadata, _KINDS[field.metadata["kind"]]
    if metadata["auto"]:
        kinds = (*kinds, str)
    if field.default is None:
        kinds = (*kinds, type(None))
    # A registry's names are not known here: the program that wrote the file may have added some.
    choices = metadata["choices"] if isinstance(metadata["choices"], tuple) else ()
    interval = metadata["range"] or "(-inf, inf)"
    if metadata["kind"] in fields.LARGEST:
        interval = interval.replace("inf)", f"{fields.LARGEST[metadata['kind']]:.0f}]")
    return Key(**{"kinds": kinds, "choices": choices, "range": interval, **changes})


def _of_argument(name: str) -> Key:
    """Returns what an argument of `model.SimCLR` may hold."""
    whole = (int,)
    known = {
        "depth": Key(whole, choices=tuple(architecture.DEPTHS)),
        "num_classes": Key(whole, range="[0, 1000000]", required=True),
        "channels": Key(whole, range="[1, 64]", required=True),
        "stem": Key((str,), choices=architecture.STEMS),
        "ft_proj_selector": _of_flag("ft_proj_selector", kinds=(int, type(None))),
    }
    if name in known:
        return known[name]
    key = _of_flag(config_lib.flag_of(name))
    numbers = tuple(kind for kind in key.kinds if kind is not str)
    return dataclasses.replace(key, kinds=numbers or key.kinds)  # "auto" is no architecture


@functools.cache
def model() -> Schema:
    """Returns the schema of model.json."""
    names = ("backbone", *architecture.DEFAULTS)
    optional_text = Key((str, type(None)))
    preprocessing = {
        "image_size": _of_flag("image_size", kinds=(int,)),
        "range": Key((list,)),
        "center_crop": Key((int, float, type(None)), range="(0, 1]"),
        "resize": Key((str,), choices=architecture.RESIZES),
        "interpolation": Key((str,)),
        "channels": Key((int,), choices=(1, 3, 4)),
        "sobel": Key((bool,)),
    }
    step = Key((int, type(None)), range=_STEPS)
    objects = (dict, type(None))
    return Schema(
        {
            "format": Key((int,), required=True),
            "architecture": Key(
                (dict,),
                schema=Schema({name: _of_argument(name) for name in names}, closed=True),
                required=True,
            ),
            "preprocessing": Key((dict,), schema=Schema(preprocessing)),
            "class_names": Key((list, type(None)), items=Key((str,))),
            "dataset": optional_text,
            "train_mode": optional_text,
            "global_step": step,
            "train_steps": step,
            "versions": Key(objects),
            "calibration": Key(objects, schema=_CALIBRATION),
        },
        remedy="Restore the file from a copy, or from an export of the run.",
    )


_SHARES = ("accuracy", "low", "high", "mean_per_class", "majority_class")
_REAL = Key((int, float, type(None)))
_NUMBER = Key((int, float))
_CALIBRATION = Schema(
    {
        "global_step": Key((int,), range=_STEPS, required=True),
        "num_images": Key((int,), range=_STEPS, required=True),
        "temperature": Key((int, float), range="(0, 1000000]"),
        "unknown": Key((str,)),
        "ece_before": _REAL,
        "ece_after": _REAL,
        "reliability": Key((dict,)),
        "precision_curve": Key((list,), items=Key((list,), items=_NUMBER)),
        "true_class_quantiles": Key((list,), items=_NUMBER),
    }
)
BEST = Schema(
    {
        "format": Key((int,)),
        "global_step": Key((int,), range=_STEPS, required=True),
        "value": Key((int, float), required=True),
        "measure": Key((str,), required=True),
    }
)
STAGE = Schema(
    {
        "format": Key((int,)),
        "identity": Key((str,), required=True),
        "settings": Key((dict,), required=True),
        "after": Key((dict,), required=True),
        "finished": Key((bool,), required=True),
        "seconds": Key((int, float), range="[0, inf)", required=True),
        "parameters": Key((int,), range=_STEPS),
        "images": Key((int,), range=_STEPS),
        "results": Key((dict, type(None))),
    }
)
CROSS_VALIDATION = Schema(
    {
        "identity": Key((str,), required=True),
        **{n: Key((int, float), range="[0, 1]", required=True) for n in _SHARES},
        "fold_accuracies": Key((list,), items=_NUMBER, required=True),
        "num_images": Key((int,), range=_STEPS, required=True),
    },
    closed=True,
)
# As in the reference: the step of result.json is written as a float.
RESULT = Schema({"global_step": Key((int, float), range=_STEPS)})


@functools.cache
def flags() -> Schema:
    """Returns the schema of the program's own flags in flags.json; other flags are left alone."""
    known = {field.name: _of_flag(field.name) for field in config_lib.flag_fields()}
    return Schema(known, remedy="Restore the file from a copy, or give the flags again.")
