"""Random combinations of flags are valid, or are refused in one sentence."""

import random

import pytest

from tf2 import config, errors, modes
from tf2.flags import fields

NUMBERS = {
    "int": (-1, 0, 1, 2, 7, 10**4, 2**31 - 1, 2**31, 10**30),
    "float": (-1.0, 0.0, 1e-9, 0.5, 1.0, 3.0, 1e9, 1e300, float("inf"), float("nan")),
}
TEXTS = ("", "auto", "0", "folder", "runs/x", "knn,", "a" * 300, "=1+1", "\n", "\udcff")


def draw(field, drawn):
    """Returns a value of a flag: of its choices, near its bounds, or odd."""
    kind = field.metadata["kind"]
    if kind == "bool":
        return drawn.choice([True, False])
    known = fields.choices(field) or ()
    if known and drawn.random() < 0.9:
        return drawn.choice(known)
    return drawn.choice(NUMBERS.get(kind, TEXTS))


@pytest.mark.parametrize("seed", range(10))
def test_a_combination_of_flags_is_valid_or_one_sentence(seed):
    drawn = random.Random(seed)
    outcomes = []
    for _ in range(100):
        chosen = drawn.sample(config.flag_fields(), drawn.randint(1, 6))
        values = {field.name: draw(field, drawn) for field in chosen}
        values["train_mode"] = drawn.choice(list(modes.TRAIN_MODES))
        settings = config.Config(explicit=frozenset(values), **values)
        try:
            settings.validate()
            outcomes.append(all(isinstance(text, str) for text in settings.warnings()))
        except errors.UserError as error:
            assert "Received: " in str(error), values
            outcomes.append(False)
    assert 3 <= sum(outcomes) <= 97
