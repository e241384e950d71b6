"""The reference's numbers on disk, and the rules that generate its weights and its batches.

The numbers are outputs of the public google-research/simclr code; `tests/golden/README.md` says
where each file comes from. Only `tf2.parity` and the tests use this module.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from tf2 import model as model_lib
from tf2 import variables


class MissingData(FileNotFoundError):
    """A file or an array of the reference is missing; the message is one sentence."""


class Arrays(Mapping):
    """The arrays of one `.npz` path in several folders; an array is read from the first with it."""

    def __init__(self, path: str, files: Sequence[np.lib.npyio.NpzFile]):
        self._path = path
        self._files = files

    def __getitem__(self, key: str) -> np.ndarray:
        for file in self._files:
            if key in file.files:
                return file[key]
        raise MissingData(f"The reference's {self._path} has no array {key}.")

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key for file in self._files for key in file.files))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, key: object) -> bool:
        return any(key in file.files for file in self._files)


class Pack:
    """Reads the reference's files from the first of several folders that has them.

    Args:
        folders: in order of preference, e.g. `tests/golden` first.
    """

    def __init__(self, folders: Sequence[str | pathlib.Path]):
        self.folders = [pathlib.Path(f) for f in folders if pathlib.Path(f).is_dir()]
        self._searched = [str(f) for f in folders]

    def _find(self, *names: str) -> list[pathlib.Path]:
        files = [f / n for f in self.folders for n in names if (f / n).is_file()]
        return files or self._raise_missing(names[0])

    def _raise_missing(self, name: str) -> NoReturn:
        raise MissingData(
            f"The reference's {name} is missing from {' and '.join(self._searched)}; a clone of "
            "the repository has such numbers in tests/golden."
        )

    def json(self, path: str) -> Any:
        """Returns the content of a JSON file, which is stored as `path` or as `<path>.gz`."""
        file = self._find(path, path + ".gz")[0]
        opened = gzip.open(file, "rt") if file.suffix == ".gz" else open(file)
        with opened as stream:
            return json.load(stream)

    def arrays(self, path: str) -> Arrays:
        """Returns the arrays of an `.npz` file by name."""
        return Arrays(path, [np.load(file) for file in self._find(path)])

    def names(self, folder: str) -> list[str]:
        """Returns the JSON files of a folder, without their suffix, sorted."""
        files = [p.name for f in self.folders for p in (f / folder).glob("*.json*")]
        if not files:
            self._raise_missing(folder)
        return sorted({name.removesuffix(".gz").removesuffix(".json") for name in files})


def default_pack() -> Pack:
    """Returns the pack next to this package: `tests/golden`, then `../shared/reference`."""
    root = pathlib.Path(__file__).resolve().parents[2]
    return Pack([root / "tests" / "golden", root.parent / "shared" / "reference"])


@functools.lru_cache(maxsize=160)
def fill(name: str, shape: tuple[int, ...], salt: str = "") -> np.ndarray:
    """Returns the initial weight of the reference's runs: a function of its name alone.

    Args:
        name: the canonical name, `base_model/conv2d_3/kernel`.
        shape: of the weight.
        salt: the file's `weight_salt`.
    """
    seed = zlib.crc32((salt + name).encode()) & 0xFFFFFFFF
    normal = np.random.RandomState(seed).standard_normal(shape)
    kind = variables.role(name)
    if kind == "kernel":
        value = normal * np.sqrt(1.0 / np.prod(shape[:-1]))
    elif kind == "gamma":
        value = 1.0 + 0.1 * normal
    elif kind == "moving_variance":
        value = np.exp(0.2 * normal)
    else:
        value = 0.1 * normal
    value = np.asarray(value, np.float32)
    value.setflags(write=False)
    return value


def fill_model(model: model_lib.SimCLR, salt: str = "") -> dict[str, tf.Variable]:
    """Sets all weights of a model by the fill rule; returns canonical name -> variable."""
    named = variables.named_variables(model)
    canonical = variables.reference_names(list(named))
    by_name = {canonical[ours]: variable for ours, variable in named.items()}
    for name, variable in by_name.items():
        variable.assign(fill(name, tuple(variable.shape), salt))
    return by_name


def images(expression: Mapping) -> np.ndarray:
    """Returns the images of a forward case's `config`: (batch, size, size, 3) in [0, 1]."""
    batch, size = expression["batch"], expression["image_size"]
    random = np.random.RandomState(expression["input_seed"])
    if expression.get("input") != "blocks":
        return random.uniform(size=(batch, size, size, 3)).astype(np.float32)
    base = _blocks(random, batch, size)
    return (0.75 * base + 0.25 * random.uniform(size=base.shape)).astype(np.float32)


def _blocks(random: np.random.RandomState, batch: int, size: int) -> np.ndarray:
    """Returns images (batch, size, size, 3) of 4 x 4 blocks of one color each."""
    base = random.uniform(size=(batch, 4, 4, 3))
    return np.kron(base, np.ones((1, size // 4, size // 4, 1)))


def training_batch(
    data_seed: int, index: int, batch: int, size: int, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns batch `index` of a run: two views (batch, size, size, 3) and labels (batch,)."""
    random = np.random.RandomState(data_seed + index)
    base = _blocks(random, batch, size)
    noise = [random.uniform(size=base.shape) for _ in range(2)]
    labels = random.randint(0, classes, size=batch)
    views = [(0.75 * base + 0.25 * n).astype(np.float32) for n in noise]
    return views[0], views[1], labels


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One quantity of the reference beside ours.

    For an array, `reference` and `ours` are the element with the largest ratio of difference to
    tolerance.
    """

    group: str
    case: str
    quantity: str
    reference: float
    ours: float
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance

    @property
    def ratio(self) -> float:
        """The difference divided by the tolerance; 0 if both are 0."""
        return self.difference / self.tolerance if self.tolerance else float(not self.passed)

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "FAIL"
        return (
            f"{self.group:<12} {self.case:<44} {self.quantity:<44} {self.reference:>14.7g} "
            f"{self.ours:>14.7g} {self.difference:>10.2e} {self.tolerance:>10.2e}  {verdict}"
        )


HEADER = (
    f"{'group':<12} {'case':<44} {'quantity':<44} {'reference':>14} {'ours':>14} "
    f"{'difference':>10} {'tolerance':>10}  result"
)


def compare(
    group: str,
    case: str,
    quantity: str,
    reference: Any,
    ours: Any,
    *,
    atol: Any = 0.0,
    rtol: float = 0.0,
) -> Comparison:
    """Compares numbers or arrays of one shape; `atol` may be an array too."""
    reference = np.asarray(reference, np.float64)
    ours = np.asarray(ours, np.float64)
    if reference.shape != ours.shape or not reference.size:
        return Comparison(group, case, f"{quantity}: shape", np.nan, np.nan, np.inf, 0.0)
    difference = np.abs(reference - ours)
    difference = np.where(np.isnan(difference), np.inf, difference)
    tolerance = np.broadcast_to(atol + rtol * np.abs(reference), reference.shape)
    ratio = difference / np.maximum(tolerance, 1e-300)
    worst = np.unravel_index(np.argmax(ratio), ratio.shape)
    return Comparison(
        group, case, quantity, float(reference[worst]), float(ours[worst]),
        float(difference[worst]), float(tolerance[worst]),
    )  # fmt: skip


def compare_tables(
    group: str, case: str, quantity: str, reference: Sequence, ours: Sequence
) -> Comparison:
    """Compares two lists exactly; the numbers are the rows and the equal rows."""
    equal = sum(a == b for a, b in zip(reference, ours, strict=False))
    longest = max(len(reference), len(ours))
    return Comparison(group, case, quantity, len(reference), equal, longest - equal, 0.0)
