"""What people read of a run: the table, its CSV, its pictures."""

import csv

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image

from tf2 import metrics
from tf2.visuals import tables

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
# Method -> (labels, mean, standard deviation).
POINTS = {
    "fine-tuned": [(1, 0.5, 0.02), (4, 0.75, 0.01), (8, 0.9, 0.0)],
    "supervised baseline": [(1, 0.25, 0.05), (4, 0.5, 0.04)],
}


@pytest.fixture
def figures(monkeypatch):
    """Keeps the figures that are drawn."""
    kept, savefig = [], Figure.savefig

    def save(self, *args, **kwargs):
        kept.append(self)
        return savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", save)
    return kept


def test_a_markdown_table_lines_up_and_has_every_cell():
    table = tables.markdown_table(("a", "long name"), [("something", "1"), ("b", "22")])
    assert table.splitlines() == [
        "| a         | long name |",
        "|-----------|-----------|",
        "| something | 1         |",
        "| b         | 22        |",
    ]


def test_the_table_rounds_for_people_and_the_csv_doesnt(tmp_path):
    told = tables.write_table(ROWS, str(tmp_path / "new"), title="On digits")
    lines = [line.split("|") for line in told.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line[1:-1]] for line in lines]
    assert cells[0] == ["method", "labels", "top-1 (%)", "kNN (%)", "parameters", "time"]
    assert cells[1][:5] == ["pretrained", "none", "", "96.3", "184,722"]
    assert cells[2][:5] == ["fine-tuned", "4 per class", "87.7", "", "1,234,567"]
    assert cells[2][5] == "59s" and cells[1][5].startswith("1h")
    for name in ("results.md", "results.csv", "results.png"):
        assert name in told and (tmp_path / "new" / name).stat().st_size
    text = (tmp_path / "new" / "results.md").read_text()
    assert text.startswith("# On digits\n\n| method") and "| 1,234,567 " in text
    with open(tmp_path / "new" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["top_1"] for row in rows] == ["", "0.87654", "0.5"]
    assert [float(row["seconds"]) for row in rows] == [3661.0, 59.4, 61.0]


def test_tensorboard_has_the_bars_of_the_last_call_alone(tmp_path):
    for rows in (ROWS, ROWS[:2]):
        tables.write_table(rows, str(tmp_path), title="On digits")
        (events,) = tmp_path.glob("events.out.tfevents.*")
        values = [v for event in metrics._events(str(events)) for v in event.summary.value]
        assert [value.tag for value in values] == ["results"]
        held = (tmp_path / "results.png").read_bytes()
        expected = tf.io.decode_png(held, channels=3).numpy()
        found = tf.io.decode_png(tf.make_ndarray(values[0].tensor)[2]).numpy()
        np.testing.assert_array_equal(found, expected)


def test_without_accuracies_there_is_a_table_and_no_picture(tmp_path):
    told = tables.write_table(ROWS[:1], str(tmp_path), title="t")
    assert "results.png" not in told
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "results.md"}


def test_the_bars_are_the_accuracies_in_order_and_decode(tmp_path, figures):
    path = tmp_path / "bars.png"
    tables.draw_bars(ROWS[1:], str(path), title="On digits")
    (axes,) = figures[0].axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([87.654, 50.0])
    assert [text.get_text() for text in axes.texts] == ["87.7", "50.0"]
    ticks = [tick.get_text().splitlines()[0] for tick in axes.get_yticklabels()]
    assert ticks == ["fine-tuned", "supervised baseline"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first is on top
    assert "4 per class labeled" in axes.get_xlabel() and axes.get_title("left") == "On digits"
    colors = [bar.get_facecolor() for bar in axes.patches]
    assert colors[0] != colors[1]
    with Image.open(path) as picture:
        picture.load()
        # 7.5 inches at 120 dots, cut to what is drawn.
        assert 600 <= picture.size[0] <= 1100 and 150 <= picture.size[1] <= 500
        assert np.asarray(picture.convert("L")).min() < 128 < np.asarray(picture.convert("L")).max()


def test_label_efficiency_has_a_line_per_method_through_its_means(tmp_path, figures):
    path = tmp_path / "labels.png"
    tables.draw_label_efficiency(POINTS, str(path), title="t", xlabel="labels per class")
    (axes,) = figures[0].axes
    drawn = {box.get_label(): box for box in axes.containers}
    assert list(drawn) == list(POINTS)
    for method, points in POINTS.items():
        line, _, (bars,) = drawn[method].lines
        labels, means, spreads = np.array(points).T
        np.testing.assert_allclose(line.get_xdata(orig=False), labels)
        np.testing.assert_allclose(line.get_ydata(orig=False), 100 * means)
        for segment, label, mean, spread in zip(
            bars.get_segments(), labels, means, spreads, strict=True
        ):
            expected = [[label, 100 * (mean - spread)], [label, 100 * (mean + spread)]]
            np.testing.assert_allclose(segment, expected)
        assert line.get_color() == tables.COLORS[method]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "4", "8"]
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "labels per class"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(POINTS)
    with Image.open(path) as picture:
        picture.load()
        assert picture.size[0] > 600 and picture.size[1] > 400


def test_label_efficiency_of_one_number_of_labels(tmp_path, figures):
    one = {"fine-tuned": [(4, 0.5, 0.0)]}
    tables.draw_label_efficiency(one, str(tmp_path / "one.png"), title="t", xlabel="labels")
    assert figures[0].axes[0].get_xscale() == "linear"


def test_colors_of_methods_differ():
    assert len(set(tables.COLORS.values())) == len(tables.COLORS)
