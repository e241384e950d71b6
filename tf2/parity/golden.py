"""The reference's numbers on disk, and the two rules that make its weights and its batches.

The numbers are outputs of the public google-research/simclr code; `tests/golden/README.md` tells
where each file comes from. Nothing here is needed to train: it serves `tf2.parity` and the tests.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import pathlib
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from tf2 import variables


class MissingData(FileNotFoundError):
    """A file or an array of the reference isn't on this machine; the message is one sentence."""


class Arrays(Mapping):
    """The arrays of one `.npz` path, gathered from several folders; the first that has one wins."""

    def __init__(self, path: str, files: Sequence[np.lib.npyio.NpzFile]):
        self._path = path
        self._files = files

    def __getitem__(self, key):
        for file in self._files:
            if key in file.files:
                return file[key]
        raise MissingData(f"{self._path} on this machine lacks the array {key}.")

    def __iter__(self):
        return iter(dict.fromkeys(key for file in self._files for key in file.files))

    def __len__(self):
        return len(list(iter(self)))

    def __contains__(self, key):
        return any(key in file.files for file in self._files)


class Pack:
    """Reads the reference's files from the first of several folders that has them.

    Args:
        folders: in order of preference, e.g. the small copies of `tests/golden` first.
    """

    def __init__(self, folders: Sequence[str | pathlib.Path]):
        self.folders = [pathlib.Path(f) for f in folders if pathlib.Path(f).is_dir()]
        self._named = [str(f) for f in folders]

    def _find(self, *names: str) -> list[pathlib.Path]:
        found = [f / n for f in self.folders for n in names if (f / n).is_file()]
        if not found:
            raise MissingData(
                f"The reference's {names[0]} was found in none of: {', '.join(self._named)}."
            )
        return found

    def json(self, path: str):
        """Returns the content of a JSON file, stored as it is or as `<path>.gz`."""
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
            raise MissingData(
                f"The reference's {folder} was found in none of: {', '.join(self._named)}."
            )
        return sorted({name.removesuffix(".gz").removesuffix(".json") for name in files})


def default_pack() -> Pack:
    """Returns the pack next to this package: `tests/golden`, then `../shared/reference`."""
    root = pathlib.Path(__file__).resolve().parents[2]
    return Pack([root / "tests" / "golden", root.parent / "shared" / "reference"])


@functools.lru_cache(maxsize=160)
def fill(name: str, shape: tuple[int, ...], salt: str = "") -> np.ndarray:
    """Returns the weight that the reference's runs started from: a function of its name alone.

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


def fill_model(model, salt: str = "") -> dict:
    """Sets all weights of a model by the fill rule; returns canonical name -> `tf.Variable`."""
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


def _blocks(random, batch, size):
    base = random.uniform(size=(batch, 4, 4, 3))
    return np.kron(base, np.ones((1, size // 4, size // 4, 1)))


def training_batch(data_seed: int, index: int, batch: int, size: int, classes: int):
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

    Of an array, `reference` and `ours` are the element with the largest difference in terms of
    its tolerance.
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
        """The difference in terms of the tolerance; 0 where both are 0."""
        return self.difference / self.tolerance if self.tolerance else float(not self.passed)

    def __str__(self):
        verdict = "pass" if self.passed else "FAIL"
        return (
            f"{self.group:<12} {self.case:<44} {self.quantity:<44} {self.reference:>14.7g} "
            f"{self.ours:>14.7g} {self.difference:>10.2e} {self.tolerance:>10.2e}  {verdict}"
        )


HEADER = (
    f"{'group':<12} {'case':<44} {'quantity':<44} {'reference':>14} {'ours':>14} "
    f"{'difference':>10} {'tolerance':>10}  result"
)


def compare(group, case, quantity, reference, ours, *, atol=0.0, rtol=0.0) -> Comparison:
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


def compare_tables(group, case, quantity, reference: Sequence, ours: Sequence) -> Comparison:
    """Compares two lists exactly; the numbers are those of rows and of equal rows."""
    equal = sum(a == b for a, b in zip(reference, ours, strict=False))
    longest = max(len(reference), len(ours))
    return Comparison(group, case, quantity, len(reference), equal, longest - equal, 0.0)
