"""The programs of checkpoints_tools start as scripts and as modules, and answer in sentences."""

import ast
import os
import subprocess
import sys

import pytest
import reference

from checkpoints_tools import cli
from tf2 import errors

ROOT = reference.TESTS.parent
PROGRAMS = ("catalog", "convert", "download", "inspect", "push", "verify")


def run(*command, cwd=ROOT):
    """Runs Python without our path, so that only the program itself finds the package."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True
    )


def started_as_a_script(program, directory):
    """Returns what a program prints with --help, after checking that it is its help."""
    path = ROOT / "checkpoints_tools" / f"{program}.py"
    done = run(str(path), "--help", cwd=directory)
    assert "Traceback" not in done.stderr and "--helpfull" in done.stdout, done.stderr
    assert path.read_text().splitlines()[0].strip('"') in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_starts_as_a_script(program, tmp_path):
    """Each in a process of its own, where nothing is imported yet. By default test_verify.py runs
    one of them so, and the next test reads all."""
    path = ROOT / "checkpoints_tools" / f"{program}.py"
    done = run(str(path), "--help", cwd=tmp_path)
    assert "Traceback" not in done.stderr and "--helpfull" in done.stdout, done.stderr
    assert path.read_text().splitlines()[0].strip('"') in done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_imports_script_path_before_all_others(program):
    """Or else its own directory, which has an inspect.py, would stay on sys.path."""
    tree = ast.parse((ROOT / "checkpoints_tools" / f"{program}.py").read_text())
    imports = (ast.Import, ast.ImportFrom)
    first, second = [
        node
        for node in tree.body
        if isinstance(node, imports) or any(isinstance(n, imports) for n in ast.walk(node))
    ][:2]
    assert ast.unparse(first) == "from __future__ import annotations"
    assert ast.unparse(second) == "if not __package__:\n    import script_path"


def test_a_program_starts_as_a_module():
    """The others are run so by the tests of what they do."""
    done = run("-m", "checkpoints_tools.catalog", "r50_1x_sk0", "supervised")
    assert done.returncode == 0 and "76.6%" in done.stdout, done.stderr


def test_every_program_is_run_here():
    found = {
        path.stem
        for path in (ROOT / "checkpoints_tools").glob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert found == set(PROGRAMS)


def outcome(main, capsys):
    """Returns the exit status and the standard error of a program."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(main)
    return stopped.value.code, capsys.readouterr().err


def test_a_mistake_is_one_sentence_and_a_bug_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr(cli.app, "run", lambda main: main(["verify", "a"]))

    def wants_two(arguments):
        cli.check_arguments(arguments, 2, "verify takes two checkpoints.", "Write: verify A B.")

    expected = "verify takes two checkpoints. Received: a. Write: verify A B.\n"
    assert outcome(wants_two, capsys) == (1, expected)
    with pytest.raises(errors.UserError, match="Received: nothing. "):
        cli.check_arguments(["x"], 1, "Give one.", "Do.")
    assert outcome(lambda arguments: None, capsys) == (None, "")
    assert outcome(lambda arguments: 1, capsys) == (1, "")

    def bug(arguments):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        cli.run(bug)
