"""`python -m tf2.parity`: its table, its exit status, and its message without the numbers."""

import os
import shutil
import subprocess
import sys

import pytest
import reference

from tf2.parity import compare, golden


@pytest.fixture
def light(monkeypatch):
    """Runs only the groups that take a second."""

    def some(pack, steps, large):
        assert (steps, large) == (3, False)
        yield compare.parity_network.fill_rule(pack)
        yield compare.parity_losses.schedule(pack)

    monkeypatch.setattr(compare, "comparisons", some)


def test_prints_a_table_and_succeeds(light, capsys):
    assert compare.main([], reference.PACK) == 0
    lines = capsys.readouterr().out.splitlines()
    for word in ("quantity", "reference", "ours", "difference", "tolerance", "result"):
        assert word in lines[0]
    assert len(lines) == 4 and all(line.endswith("pass") for line in lines[1:3])
    assert lines[-1].startswith("61 of 61 quantities within their tolerances (fill rule 17, ")


def test_all_prints_every_quantity(light, capsys):
    assert compare.main(["--all"], reference.PACK) == 0
    assert len(capsys.readouterr().out.splitlines()) == 63


def test_exits_with_1_if_a_quantity_is_off(light, capsys, monkeypatch):
    warmup = compare.parity_losses.optimization.warmup_steps
    monkeypatch.setattr(
        compare.parity_losses.optimization, "warmup_steps", lambda *a: warmup(*a) + 1
    )
    assert compare.main([], reference.PACK) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out and "warmup_steps" in out


def test_without_the_numbers_there_is_one_sentence_and_no_table(capsys, tmp_path):
    assert compare.main([], golden.Pack([tmp_path / "golden"])) == 1
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert str(tmp_path / "golden") in error and "tests/golden" in error


def test_a_copy_of_the_package_alone_says_so_and_exits_with_1(tmp_path):
    package = reference.TESTS.parent / "tf2"
    shutil.copytree(package, tmp_path / "tf2", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "tf2.parity"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL")
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert run.returncode == 1 and run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line.startswith("python -m tf2.parity: The reference's 00_fill_rule.json is missing")
    assert line.endswith(".") and str(tmp_path / "tests" / "golden") in line


def test_closest_prefers_what_fails_and_then_what_is_close():
    make = lambda ours, atol: golden.compare("g", "c", "q", 1.0, ours, atol=atol)  # noqa: E731
    exact, close, far = make(1.0, 0.0), make(1.09, 0.1), make(1.01, 0.1)
    wrong = make(1.2, 0.1)
    assert compare.closest([exact, far, close]) is close
    assert compare.closest([close, wrong, exact]) is wrong


def test_help_has_the_options(capsys):
    with pytest.raises(SystemExit) as end:
        compare.main(["--help"])
    assert end.value.code == 0 and "--large" in capsys.readouterr().out


@pytest.mark.slow
def test_the_whole_table_passes(capsys):
    assert compare.main([], reference.PACK) == 0
    assert "FAIL" not in capsys.readouterr().out
