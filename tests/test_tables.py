"""The results table of a run: Markdown, CSV and figure."""

import csv

import numpy as np
import pytest
import tensorflow as tf

from tf2 import console, metrics
from tf2.visuals import plots, tables

ROWS = [
    {
        **{"method": "pretrained", "labels": "none", "top_1": None, "knn": 0.96251},
        **{"parameters": 184722, "seconds": 3661.0},
    },
    {
        **{"method": "fine-tuned", "labels": "4 per class", "top_1": 0.87654, "knn": None},
        **{"parameters": 1234567, "seconds": 59.4},
    },
    {
        **{"method": "supervised baseline", "labels": "4 per class", "top_1": 0.5, "knn": None},
        **{"parameters": 1, "seconds": 61.0},
    },
]


def test_a_markdown_table_lines_up_and_has_every_cell():
    table = console.markdown_table(("a", "long name"), [("something", "1"), ("b", "22")])
    assert table.splitlines() == [
        "| a         | long name |",
        "|-----------|-----------|",
        "| something | 1         |",
        "| b         | 22        |",
    ]


@pytest.mark.parametrize("value, text", [(None, ""), (0.0, "0.0"), (0.87654, "87.7"), (1, "100.0")])
def test_percentages_have_one_decimal(value, text):
    assert tables.percent(value) == text


def test_the_table_is_rounded_and_the_csv_is_not(tmp_path):
    printed = tables.write_results(ROWS, str(tmp_path / "new"), title="On digits")
    lines = [line.split("|") for line in printed.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line[1:-1]] for line in lines]
    columns = ["method", "labels", "top-1 (%)", "mean per class (%)", "kNN (%)", "parameters"]
    assert cells[0] == [*columns, "time"]
    assert cells[1][:6] == ["pretrained", "none", "", "", "96.3", "184,722"]
    assert cells[2][:6] == ["fine-tuned", "4 per class", "87.7", "", "", "1,234,567"]
    assert cells[2][6] == "59s" and cells[1][6].startswith("1h")
    for name in ("results.md", "results.csv", "results.png"):
        assert name in printed and (tmp_path / "new" / name).stat().st_size
    text = (tmp_path / "new" / "results.md").read_text()
    assert text.startswith("# On digits\n\n| method") and "| 1,234,567 " in text
    with open(tmp_path / "new" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["top_1"] for row in rows] == ["", "0.87654", "0.5"]
    assert [float(row["seconds"]) for row in rows] == [3661.0, 59.4, 61.0]


def test_accuracies_have_their_interval_and_the_majority_class_beside_them(tmp_path):
    measured = {"top_1_low": 0.834, "top_1_high": 0.9029, "mean_per_class": 0.8449}
    measured |= {"mean_per_class_low": 0.8, "mean_per_class_high": 0.881}
    measured |= {"majority_class": 0.53, "num_images": 230.0}
    rows = [{**ROWS[1], "top_1": 0.8719, **measured}]
    text = tables.write_results(rows, str(tmp_path), title="t", notes=["A second estimate."])
    assert "| 87.2 (83.4 to 90.3) | 84.5 (80.0 to 88.1) " in text
    assert "Measured on 230 images" in text and "majority class alone: 53.0 %." in text
    assert text.index("majority") < text.index("A second estimate.")
    assert "A second estimate." in (tmp_path / "results.md").read_text()


def test_the_figure_has_the_methods_with_a_top_1_accuracy(tmp_path, monkeypatch):
    calls = []
    draw = plots.accuracy_bars
    monkeypatch.setattr(
        plots, "accuracy_bars", lambda *a, **k: calls.append((a, k)) or draw(*a, **k)
    )
    tables.write_results(ROWS, str(tmp_path), title="On digits")
    assert calls == [((ROWS[1:],), {"title": "On digits"})]


def test_tensorboard_has_the_figure_of_the_last_call_only(tmp_path):
    for rows in (ROWS, ROWS[:2]):
        tables.write_results(rows, str(tmp_path), title="On digits")
        (events,) = tmp_path.glob("events.out.tfevents.*")
        values = [v for event in metrics._events(str(events)) for v in event.summary.value]
        assert [value.tag for value in values] == ["results"]
        png = (tmp_path / "results.png").read_bytes()
        expected = tf.io.decode_png(png, channels=3).numpy()
        shown = tf.io.decode_png(tf.make_ndarray(values[0].tensor)[2]).numpy()
        np.testing.assert_array_equal(shown, expected)


def test_without_accuracies_there_is_a_table_and_no_figure(tmp_path):
    printed = tables.write_results(ROWS[:1], str(tmp_path), title="t")
    assert "results.png" not in printed
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "results.md"}
