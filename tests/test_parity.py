"""`python -m tf2.parity`: its table, its exit status, and what it says without the numbers."""

import subprocess
import sys

import pytest
import reference

from tf2.parity import compare, golden


@pytest.fixture
def light(monkeypatch):
    """Keeps the groups that take a second."""

    def some(pack, steps, everything):
        assert (steps, everything) == (3, False)
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


def test_exits_with_1_where_a_quantity_is_off(light, capsys, monkeypatch):
    warmup = compare.parity_losses.optimization.warmup_steps
    monkeypatch.setattr(
        compare.parity_losses.optimization, "warmup_steps", lambda *a: warmup(*a) + 1
    )
    assert compare.main([], reference.PACK) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out and "warmup_steps" in out


def test_says_in_one_sentence_that_there_is_nothing_to_compare_with(capsys, tmp_path):
    assert compare.main([], golden.Pack([tmp_path / "golden"])) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path / "golden") in error and "was found in none of" in error


def test_nearest_prefers_what_fails_and_then_what_is_close():
    make = lambda ours, atol: golden.compare("g", "c", "q", 1.0, ours, atol=atol)  # noqa: E731
    exact, close, far = make(1.0, 0.0), make(1.09, 0.1), make(1.01, 0.1)
    wrong = make(1.2, 0.1)
    assert compare.nearest([exact, far, close]) is close
    assert compare.nearest([close, wrong, exact]) is wrong


def test_is_a_program():
    run = subprocess.run(
        [sys.executable, "-m", "tf2.parity", "--help"], cwd=reference.TESTS.parent,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--large" in run.stdout


@pytest.mark.slow
def test_the_whole_table_passes(capsys):
    assert compare.main([], reference.PACK) == 0
    assert "FAIL" not in capsys.readouterr().out
