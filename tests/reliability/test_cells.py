"""Cells of our CSV files: no formula for a spreadsheet, and read back as they were."""

import csv
import itertools

import pytest

from tf2 import cells, files
from tf2.apply import results
from tf2.sources import labels_file

FORMULAS = ["=1+1", "+1+1|cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")']
PLAIN = ["cat", "", "'quoted'", "a=b", "a-b", "O'Hara", "5", "-5", "+0.5", "-1.5e-07", "d/-x.jpg"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_written_as_text(text):
    assert cells.guard(text) == f"'{text}"


@pytest.mark.parametrize("value", [*PLAIN, 5, -0.5, None, True])
def test_plain_text_and_numbers_are_written_as_they_are(value):
    assert cells.guard(value) == value


def test_every_text_is_read_back_as_it_was():
    for length in range(5):
        for characters in itertools.product("'=-\ta5", repeat=length):
            text = "".join(characters)
            assert cells.unguard(cells.guard(text)) == text


def test_predictions_hold_no_formula(tmp_path):
    rows = [
        {"path": path, "=class": path, "probability": 0.5, "change": -0.25} for path in FORMULAS
    ]
    results.write_csv(tmp_path / "predictions.csv", rows)
    with open(tmp_path / "predictions.csv", newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["path", "'=class", "probability", "change"]
    for row, text in zip(table[1:], FORMULAS, strict=True):
        assert row[:2] == [f"'{text}"] * 2 and float(row[2]) == 0.5 and float(row[3]) == -0.25


def test_labels_and_manifests_are_read_back_as_they_were(tmp_path):
    names = [f"{text.strip()}.jpg" for text in (*FORMULAS, *PLAIN) if text]
    rows = [{"path": name, "label": "=cat", "split": ""} for name in names]
    path = str(tmp_path / "labels.csv")
    files.write_csv(path, rows)
    for read in (labels_file._read_labels, labels_file.read_manifest):
        assert [(row.name, row.label) for row in read(path)] == [(n, "=cat") for n in names]
