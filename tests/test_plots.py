"""Figures show the measured values, are readable, and are written to plots/ and TensorBoard."""

import json

import matplotlib.colors
import numpy as np
import pytest
import tensorflow as tf
from small import command, run_config

import tf2 as simclr
from tf2 import config, metrics, run, stage_results
from tf2 import job as job_lib
from tf2.apply import inference
from tf2.checkpoints import checkpoint
from tf2.sources import digits as digits_lib
from tf2.visuals import gallery, image_grids, plots, run_figures, style


@pytest.fixture
def figure(monkeypatch):
    """Calls a function that draws, and returns its figure in place of the PNG."""
    figures = []

    def render(figure):
        figures.append(figure)
        figure.canvas.draw()
        return b""

    monkeypatch.setattr(style, "to_png", render)

    def call(function, *args, **kwargs):
        function(*args, **kwargs)
        return figures[-1]

    return call


def legend_is_outside(ax):
    box = ax.get_legend().get_window_extent()
    return box.x0 >= ax.get_window_extent().x1


def test_curves_show_the_values_with_their_units(figure):
    history = {
        "train/contrast_loss": [(1, 5.0), (10, 4.0)],
        "eval/knn_accuracy": [(5, 0.4), (10, 0.6)],
        "eval/majority_class_accuracy": [(10, 0.1)],
        "eval/chance_accuracy": [(10, 0.1)],
        "learning_rate": [(1, 0.1)],
    }
    losses, accuracies = figure(plots.curves, history, title="A run").axes
    assert losses.get_ylabel() == "loss (nats)" and accuracies.get_ylabel() == "accuracy (%)"
    assert accuracies.get_xlabel() == "training steps" and losses.get_title(loc="left") == "A run"
    assert [line.get_label() for line in losses.lines] == ["train/contrast_loss"]
    np.testing.assert_array_equal(losses.lines[0].get_xydata(), [(1, 5), (10, 4)])
    lines = {line.get_label(): line.get_ydata() for line in accuracies.lines}
    assert set(lines) == {"eval/knn_accuracy", "eval/majority_class_accuracy"}
    np.testing.assert_allclose(lines["eval/knn_accuracy"], [40, 60])
    np.testing.assert_allclose(lines["eval/majority_class_accuracy"], 10)
    assert legend_is_outside(losses) and legend_is_outside(accuracies)
    assert plots.curves({"learning_rate": [(1, 0.1)]}, title="") is None


def test_curves_of_an_older_run_show_its_majority_class_accuracy(figure):
    (ax,) = figure(plots.curves, {"eval/chance_accuracy": [(10, 0.1)]}, title="").axes
    (line,) = ax.lines
    assert line.get_label() == "eval/majority_class_accuracy"
    np.testing.assert_allclose(line.get_ydata(), 10)


# Method -> (labels, mean, standard deviation).
POINTS = {
    "fine-tuned": [(1, 0.5, 0.02), (4, 0.75, 0.01), (8, 0.9, 0.0)],
    "supervised baseline": [(1, 0.25, 0.05), (4, 0.5, 0.04)],
}
METHODS = [
    {"method": "fine-tuned", "labels": "4 per class", "top_1": 0.87654, "parameters": 1234567},
    {"method": "supervised baseline", "labels": "4 per class", "top_1": 0.5, "parameters": 1},
]


def test_the_bars_are_the_accuracies_in_order(figure):
    (ax,) = figure(plots.accuracy_bars, METHODS, title="On digits").axes
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([87.654, 50.0])
    assert [text.get_text() for text in ax.texts] == ["87.7", "50.0"]
    ticks = [tick.get_text().splitlines() for tick in ax.get_yticklabels()]
    assert ticks[0] == ["fine-tuned", "1,234,567 parameters"]
    assert ticks[1][0] == "supervised baseline"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first is on top
    assert ax.get_xlabel() == "top-1 accuracy (%); labels: 4 per class"
    assert ax.get_title("left") == "On digits"
    colors = [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in ax.patches]
    assert colors == [style.METHOD_COLORS[row["method"]] for row in METHODS]
    mixed = [METHODS[0], {**METHODS[1], "labels": "all"}]
    (ax,) = figure(plots.accuracy_bars, mixed, title="").axes
    assert ax.get_xlabel() == "top-1 accuracy (%)"


def test_the_bars_have_their_intervals_and_a_line_for_the_majority_class(figure):
    more = {"top_1_low": 0.8, "top_1_high": 0.9, "majority_class": 0.53}
    rows = [{**METHODS[0], **more}]
    (ax,) = figure(plots.accuracy_bars, rows, title="").axes
    (bars,) = (drawn for drawn in ax.containers if hasattr(drawn, "patches"))
    (segment,) = bars.errorbar.lines[2][0].get_segments()
    np.testing.assert_allclose(segment[:, 0], [80.0, 90.0])
    (line,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert set(line.get_xdata()) == {53.0}
    assert "95 % interval" in ax.get_xlabel() and "majority class" in ax.get_xlabel()


def test_label_efficiency_has_a_line_per_method_through_its_means(figure):
    (ax,) = figure(plots.label_efficiency, POINTS, title="t", xlabel="labels per class").axes
    drawn = {box.get_label(): box for box in ax.containers}
    assert list(drawn) == list(POINTS)
    for method, points in POINTS.items():
        line, _, (bars,) = drawn[method].lines
        labels, means, deviations = np.array(points).T
        np.testing.assert_allclose(line.get_xdata(orig=False), labels)
        np.testing.assert_allclose(line.get_ydata(orig=False), 100 * means)
        for segment, label, mean, deviation in zip(
            bars.get_segments(), labels, means, deviations, strict=True
        ):
            expected = [[label, 100 * (mean - deviation)], [label, 100 * (mean + deviation)]]
            np.testing.assert_allclose(segment, expected)
        assert line.get_color() == style.METHOD_COLORS[method]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "4", "8"]
    assert ax.get_xscale() == "log" and ax.get_xlabel() == "labels per class"
    assert ax.get_ylabel() == "top-1 accuracy (%)"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(POINTS)
    assert legend_is_outside(ax)


def test_label_efficiency_of_one_number_of_labels_has_a_linear_axis(figure):
    points = {"fine-tuned": [(4, 0.5, 0.0)]}
    (ax,) = figure(plots.label_efficiency, points, title="t", xlabel="labels").axes
    assert ax.get_xscale() == "linear"


def test_each_method_has_its_own_color():
    assert set(style.METHOD_COLORS) == {*stage_results.TITLES.values()}
    colors = [style.method_color(method) for method in (*style.METHOD_COLORS, "another")]
    assert len(set(colors)) == len(colors)
    selection = {field.name: field for field in config.flag_fields()}["select_method"]
    assert set(style.SELECTION_COLORS) == set(selection.metadata["choices"])
    assert len(set(style.SELECTION_COLORS.values())) == len(style.SELECTION_COLORS)


def test_the_map_distinguishes_every_class_up_to_20(figure):
    rng = np.random.RandomState(0)
    labels = np.concatenate([np.repeat(np.arange(23), 4), np.arange(20), [-1]])
    points = rng.uniform(size=(len(labels), 2))
    names = [f"name {which}" for which in range(23)]
    (ax,) = figure(plots.feature_map, points, labels, names, title="").axes
    rest, *classes = ax.collections
    assert rest.get_label() == "other classes (3)" and len(rest.get_offsets()) == 13
    assert [c.get_label() for c in classes] == names[:20]
    styles = {(tuple(c.get_facecolor()[0]), len(c.get_paths()[0])) for c in classes}
    assert len(styles) == 20
    for which, drawn in enumerate(classes):
        np.testing.assert_allclose(drawn.get_offsets(), points[labels == which])
    assert legend_is_outside(ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("t-SNE 1", "t-SNE 2")


@pytest.mark.parametrize("labels, legend", [([-1, -1], "images"), ([0, -1], "unlabeled")])
def test_the_map_says_which_points_have_no_class(labels, legend, figure):
    (ax,) = figure(plots.feature_map, np.eye(2), labels, None, title="").axes
    assert ax.collections[0].get_label() == legend


def test_confusions_are_percentages_of_the_true_class(figure):
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 2, 4]])
    ax, bar = figure(plots.confusion, counts, ["a", "b", "c"], title="").axes
    np.testing.assert_allclose(ax.images[0].get_array(), [[75, 25, 0], [0, 0, 0], [25, 25, 50]])
    written = {t.get_position(): t.get_text() for t in ax.texts}
    assert written == {(0, 0): "75", (1, 0): "25", (0, 2): "25", (1, 2): "25", (2, 2): "50"}
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("true class", "predicted class")
    assert bar.get_ylabel() == "images of the true class (%)"

    (ax,) = figure(plots.class_accuracy, counts, ["a", "b", "c"], title="").axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a (n=4)", "c (n=8)"]
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], [75, 50])
    assert "62.5 %" in ax.get_legend().get_texts()[0].get_text() and legend_is_outside(ax)


def test_predictions_show_their_probability_and_whether_they_are_correct(figure):
    gray, colored = np.full((4, 4, 1), 0.5), np.full((4, 4, 3), 0.5)
    cells = [
        {"image": gray, "predicted": "cat", "probability": 0.876, "true": "cat"},
        {"image": colored, "predicted": "dog", "probability": 0.5, "true": "an elephant, sitting"},
        *[{"image": colored, "predicted": "a", "probability": 1.0, "true": None}] * 5,
    ]
    drawn = figure(image_grids.predictions, cells, title="Predictions")
    axes = drawn.axes
    assert len(axes) == 12 and [ax.axison for ax in axes] == [True] * 7 + [False] * 5
    captions = [ax.get_title() for ax in axes[:7]]
    assert captions[0] == "cat (88%) \u2713" and captions[2:] == ["a (100%)"] * 5
    assert captions[1].splitlines()[0] == "dog (50%) \u2717"
    assert captions[1].splitlines()[1].startswith("true: an elephant")
    edges = [ax.spines["left"].get_edgecolor() for ax in axes[:3]]
    assert len(set(edges)) == 3
    assert "blue, \u2713: correct" in drawn.get_suptitle()
    unlabeled = figure(image_grids.predictions, cells[2:], title="Predictions")
    assert unlabeled.get_suptitle() == "Predictions"


def test_neighbors_are_marked_by_class(figure):
    image = np.full((4, 4, 3), 0.5)
    cells = [("cat", None, None), ("cat", 0.91, True), ("dog", 0.5, False)]
    row = [{"image": image, "name": n, "cosine": c, "same": s} for n, c, s in cells]
    drawn = figure(image_grids.neighbors, [row], title="Neighbors")
    captions = [ax.get_title() for ax in drawn.axes]
    assert captions == ["cat\nquery", "cat \u2713\ncosine 0.91", "dog \u2717\ncosine 0.50"]
    assert "same class as the query" in drawn.get_suptitle()
    unlabeled = [{**cell, "same": None} for cell in row]
    assert figure(image_grids.neighbors, [unlabeled], title="N").get_suptitle() == "N"


def test_pairs_are_drawn_one_below_the_other(figure):
    views = np.concatenate([np.full((3, 4, 4, 1), v) for v in (0.2, 0.7)], axis=-1)
    axes = figure(image_grids.pairs, views, title="Pairs").axes
    assert [ax.images[0].get_array().mean() for ax in axes] == pytest.approx([0.2] * 3 + [0.7] * 3)
    assert [ax.get_title() for ax in axes[:3]] == ["image 0", "image 1", "image 2"]


def test_similarity_has_the_mean_cosines_in_its_title(figure):
    cosines = np.array([[0.9, 0.1], [-0.3, 0.7]])
    ax, bar = figure(plots.similarity, cosines, title="Pairs").axes
    np.testing.assert_array_equal(ax.images[0].get_array(), cosines)
    title = ax.get_title("left").splitlines()
    assert title == ["Pairs", "mean cosine: same image (diagonal) 0.80, different images -0.10"]
    (ax, _) = figure(plots.similarity, cosines[:1, :1], title="One").axes
    assert ax.get_title("left").endswith("same image (diagonal) 0.90")


def test_of_a_thousand_classes_the_best_and_the_worst_are_shown(figure):
    counts = np.diag(np.arange(1000)) + np.diag(np.full(999, 7), 1)
    drawn = figure(plots.class_accuracy, counts, [f"n{i}" for i in range(1000)], title="All")
    (ax,) = drawn.axes
    assert len(ax.patches) == 40 and "of 1,000 classes" in ax.get_title(loc="left")
    assert drawn.get_size_inches()[1] < 15
    drawn = figure(plots.confusion, counts, [f"n{i}" for i in range(1000)], title="All")
    assert not drawn.axes[0].texts and len(drawn.axes[0].get_xticks()) == 40
    assert max(drawn.get_size_inches()) < 15


# ---- of a run


@pytest.fixture(scope="module")
def run_dir(one_convolution, tmp_path_factory):
    """The model_dir of a short pretraining with figures."""
    directory = tmp_path_factory.mktemp("run")
    flags = {"mode": "train_then_eval", "plots": True, "width_multiplier": 0.0625, "image_size": 8}
    assert run.run_argv(command(directory, **flags)) == 0
    return directory


ALL = ["augmented_pairs", "class_accuracy", "confusion", "curves", "feature_map", "neighbors"]
ALL += ["similarity"]
PROJECTED = "projector_config.pbtxt"


def test_a_run_writes_its_figures_as_files_and_to_tensorboard(run_dir):
    assert sorted(path.stem for path in (run_dir / "plots").iterdir()) == ALL
    shown = {}
    for path in run_dir.glob("events.out.tfevents.*"):
        for event in metrics._events(str(path)):
            for value in event.summary.value:
                if value.tag.startswith("plots/"):
                    assert event.step == 4
                    shown[value.tag.removeprefix("plots/")] = tf.make_ndarray(value.tensor)[2]
    assert sorted(shown) == ALL
    for name, contents in shown.items():
        png = (run_dir / "plots" / f"{name}.png").read_bytes()
        expected = tf.io.decode_png(png, channels=3).numpy()
        assert 300 < min(expected.shape[:2]) and max(expected.shape[:2]) < 1600, name
        assert expected.std() > 5, name  # not blank
        np.testing.assert_array_equal(tf.io.decode_png(contents), expected)


def test_a_runs_projector_shows_its_features_classes_and_images(run_dir):
    digits = digits_lib.DigitsSource()
    features = inference.embed(run_dir, digits, split="test")
    read = np.loadtxt(run_dir / "projector" / "features.tsv", delimiter="\t")
    np.testing.assert_allclose(read, features.values, rtol=1e-4, atol=1e-5)
    header, *rows = (run_dir / "projector" / "metadata.tsv").read_text().splitlines()
    labels = digits.labels("test")
    assert header == "class\tid" and len(rows) == len(read) == 360
    expected = [f"{label}\t{i}" for label, i in zip(labels, digits.ids("test"), strict=True)]
    assert rows == expected
    sprite = tf.io.decode_png((run_dir / "projector" / "sprite.png").read_bytes()).numpy()
    images = digits.load_all("test")["image"].numpy()
    for number in range(361):  # 19 in a row
        y, x = number // 19 * 8, number % 19 * 8
        image = images[number] if number < 360 else np.zeros([8, 8, 1])
        np.testing.assert_array_equal(sprite[y : y + 8, x : x + 8], image.repeat(3, axis=2))


def test_scalars_come_back_from_the_events(run_dir, tmp_path):
    history = metrics.read_scalars(str(run_dir))
    result = json.loads((run_dir / "result.json").read_text())
    assert [step for step, _ in history["train/contrast_loss"]] == [1, 2, 3, 4]
    ((step, value),) = history["eval/label_top_1_accuracy"]
    assert step == 4 and value == pytest.approx(result["eval/label_top_1_accuracy"])
    (events,) = run_dir.glob("events.out.tfevents.*")
    whole = events.read_bytes()
    (tmp_path / events.name).write_bytes(whole[: whole.index(b"learning_rate") + 5])  # cut off
    before = metrics.read_scalars(str(tmp_path))
    assert before["train/contrast_loss"] == history["train/contrast_loss"][:1]


def gather(monkeypatch, job, model):
    """Draws a run's figures; returns the arguments of each drawing function."""
    arguments = {}
    for module, name in (
        *((plots, name) for name in ("confusion", "similarity", "feature_map", "class_accuracy")),
        *((image_grids, name) for name in ("neighbors", "pairs")),
    ):
        monkeypatch.setattr(
            module, name, lambda *args, name=name, **_: arguments.update({name: args}) or b"PNG"
        )
    monkeypatch.setattr(plots, "curves", lambda *_, **__: None)
    monkeypatch.setattr(job.writer, "figure", lambda *_: None)
    written = run_figures.draw(job, model, 4)
    assert written == [f"plots/ ({len(arguments)} figures)", PROJECTED]
    return arguments


def test_figures_show_the_networks_features_and_predictions(run_dir, tmp_path, monkeypatch):
    changes = {"width_multiplier": 0.0625, "image_size": 8}
    job = job_lib.prepare(run_config(tmp_path, mode="train_then_eval", **changes))
    model, _ = checkpoint.load_model(str(run_dir))
    monkeypatch.setattr(gallery, "MAX_IMAGES", 60)
    arguments = gather(monkeypatch, job, model)

    digits = digits_lib.DigitsSource()
    sample = digits.subset("test", np.sort(np.random.RandomState(0).permutation(360)[:60]))
    labels = sample.labels("test")
    predicted = inference.predict(run_dir, sample, split="test").probabilities.argmax(axis=1)
    counts = np.zeros((10, 10))
    np.add.at(counts, (labels, predicted), 1)
    np.testing.assert_array_equal(arguments["confusion"][0], counts)
    np.testing.assert_array_equal(arguments["feature_map"][1], labels)

    x = inference.embed(run_dir, sample, split="test").values
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    images = sample.load_all("test")["image"].numpy() / 255
    assert len(arguments["neighbors"][0]) == 6
    for first, *others in arguments["neighbors"][0]:
        query = int(np.argmin([np.abs(image - first["image"]).max() for image in images]))
        np.testing.assert_allclose(first["image"], images[query], atol=1e-6)
        assert first["name"] == str(labels[query]) and first["cosine"] is None
        nearest = sorted(set(range(60)) - {query}, key=lambda i: -(x[i] @ x[query]))[:6]
        cosines = [cell["cosine"] for cell in others]
        np.testing.assert_allclose(cosines, [x[i] @ x[query] for i in nearest], atol=1e-5)
        assert cosines == sorted(cosines, reverse=True)
        for cell in others:
            assert cell["same"] == (cell["name"] == first["name"])

    cosines = arguments["similarity"][0]
    assert cosines.shape == (32, 32) and np.abs(cosines).max() <= 1 + 1e-5


def test_without_classes_there_is_no_confusion_matrix(run_dir, tmp_path, monkeypatch):
    for number in range(12):
        image = np.random.RandomState(number).randint(0, 256, (8, 8, 3)).astype("uint8")
        tf.io.write_file(f"{tmp_path}/images/{number}.png", tf.io.encode_png(image))
    changes = {"dataset": "folder", "data_dir": f"{tmp_path}/images", "eval_split": "train"}
    changes |= {"image_size": 8, "train_batch_size": 4, "width_multiplier": 0.0625}
    job = job_lib.prepare(run_config(tmp_path / "run", mode="train_then_eval", **changes))
    architecture = json.loads((run_dir / "model.json").read_text())["architecture"]
    model = simclr.SimCLR(**{**architecture, "channels": 3, "num_classes": 0})
    arguments = gather(monkeypatch, job, model)
    assert set(arguments) == {"pairs", "similarity", "feature_map", "neighbors"}
    assert {cell["same"] for row in arguments["neighbors"][0] for cell in row} == {None}
    names = {cell["name"] for row in arguments["neighbors"][0] for cell in row}
    assert names <= {f"{number}.png" for number in range(12)}
    ids = (tmp_path / "run" / "projector" / "metadata.tsv").read_text().splitlines()
    assert ids == job.source.ids("train")


def test_plots_can_be_turned_off(one_convolution, tmp_path, monkeypatch):
    monkeypatch.setattr(run_figures, "draw", None)
    flags = {"mode": "train_then_eval", "plots": False, "train_steps": 1, "image_size": 8}
    assert run.run_argv(command(tmp_path, width_multiplier=0.0625, **flags)) == 0
    assert not (tmp_path / "plots").exists()
