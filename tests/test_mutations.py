"""The tests detect faults: each fault of `mutants.py` in a copy of the package makes its test fail.

`-m slow -s` prints the table. A few faults show only in distributions, whose 5,000 draws are not
in `tests/golden`; they need the whole pack.
"""

import os
import shutil
import subprocess
import sys

import mutants
import pytest
import reference

ROOT = reference.TESTS.parent


def copy_of_the_repository(directory):
    """Copies the package and tests, and links the reference's numbers."""
    repository = directory / "repository"
    for name in ("tf2", "checkpoints_tools", "tests"):
        shutil.copytree(
            ROOT / name, repository / name, ignore=shutil.ignore_patterns("__pycache__", "golden")
        )
    (repository / "tests" / "golden").symlink_to(reference.GOLDEN)
    shutil.copy(ROOT / "pyproject.toml", repository)
    if reference.SHARED.is_dir():
        (directory / "shared").mkdir()
        (directory / "shared" / "reference").symlink_to(reference.SHARED)
    return repository


def run_tests(repository, *nodes):
    """Runs tests of a copy, after checking that they import its package; returns the process."""
    (repository / "tests" / "test_own_package.py").write_text(
        "import pathlib, tf2\n"
        "def test_own_package():\n"
        "    assert pathlib.Path(tf2.__file__).parents[1] == pathlib.Path(__file__).parents[1]\n"
    )
    command = [
        sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider",
        "-W", "ignore",
        "tests/test_own_package.py", *(f"tests/{node}" for node in nodes),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(repository), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, timeout=900
    )


def test_every_mutant_can_be_applied():
    assert len(mutants.MUTANTS) >= 20
    assert len({m.name for m in mutants.MUTANTS}) == len(mutants.MUTANTS)
    for mutant in mutants.MUTANTS:
        text = (ROOT / "tf2" / mutant.file).read_text()
        assert mutant.apply(text) != text


@pytest.fixture(scope="module")
def sound_tests():
    """The tests known to pass on the unchanged code."""
    return set()


@pytest.mark.slow
@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.name)
def test_a_fault_makes_its_test_fail(mutant, tmp_path, sound_tests):
    if mutant.whole_pack and not reference.SHARED.is_dir():
        pytest.skip(f"the draws to compare with are not at {reference.SHARED}")
    repository = copy_of_the_repository(tmp_path)
    if mutant.caught_by not in sound_tests:
        sound = run_tests(repository, mutant.caught_by)
        assert sound.returncode == 0, sound.stdout[-2000:]
        sound_tests.add(mutant.caught_by)
    file = repository / "tf2" / mutant.file
    text = file.read_text()
    file.write_text(mutant.apply(text))
    broken = run_tests(repository, mutant.caught_by)
    assert broken.returncode == 1, f"not detected by {mutant.caught_by}\n{broken.stdout[-2000:]}"
    assert "test_own_package" not in broken.stdout.split("short test summary")[-1]
    reason = [line for line in broken.stdout.splitlines() if line.startswith("FAILED")]
    print(f"| {mutant.name} | `{mutant.file}` | {len(reason)} | {mutant.caught_by} |")
