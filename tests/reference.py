"""What the tests share to read the reference's numbers and to judge comparisons with them."""

import pathlib

import pytest

from tf2.parity import golden

TESTS = pathlib.Path(__file__).resolve().parent
GOLDEN = TESTS / "golden"
# The whole pack, where it stands beside the repository; never needed for a default run to pass.
SHARED = TESTS.parents[1] / "shared" / "reference"

PACK = golden.Pack([GOLDEN, SHARED])

fill = golden.fill
training_batch = golden.training_batch


def check(function, *args, at_least=1):
    """Runs a comparison and requires every one of its rows to be within its tolerance.

    Skips, with the reason, where this machine lacks the numbers.
    """
    try:
        results = function(PACK, *args)
    except golden.MissingData as missing:
        pytest.skip(str(missing))
    assert len(results) >= at_least, f"only {len(results)} quantities were compared"
    failed = [str(result) for result in results if not result.passed]
    assert not failed, "\n".join([golden.HEADER, *failed[:20]])
    return results


def arrays(path, *keys):
    """Returns the arrays of a path, after making sure that it has the keys, or skips."""
    try:
        found = PACK.arrays(path)
        for key in keys:
            found[key]
    except golden.MissingData as missing:
        pytest.skip(str(missing))
    return found
