"""Pictures show what was measured, are readable, and land where they are looked for."""

import json

import numpy as np
import pytest
import tensorflow as tf
from small import command, run_config

import tf2 as simclr
from tf2 import job as job_lib
from tf2 import metrics, run
from tf2.apply import inference
from tf2.checkpoints import checkpoint
from tf2.sources import loaders
from tf2.visuals import gallery, plots


@pytest.fixture
def figure(monkeypatch):
    """Draws and returns the figure in place of its PNG."""
    drawn = []

    def keep(made):
        drawn.append(made)
        made.canvas.draw()
        return b""

    monkeypatch.setattr(plots, "_png", keep)

    def call(function, *args, **kwargs):
        function(*args, **kwargs)
        return drawn[-1]

    return call


def legend_is_outside(ax):
    box = ax.get_legend().get_window_extent()
    return box.x0 >= ax.get_window_extent().x1


def test_curves_show_the_values_with_their_units(figure):
    history = {
        "train/contrast_loss": [(1, 5.0), (10, 4.0)],
        "eval/knn_accuracy": [(5, 0.4), (10, 0.6)],
        "eval/majority_class_accuracy": [(10, 0.1)],
        "eval/chance_accuracy": [(10, 0.1)],  # the former name
        "learning_rate": [(1, 0.1)],
    }
    losses, shares = figure(plots.curves, history, title="A run").axes
    assert losses.get_ylabel() == "loss (nats)" and shares.get_ylabel() == "accuracy (%)"
    assert shares.get_xlabel() == "training steps" and losses.get_title(loc="left") == "A run"
    assert [line.get_label() for line in losses.lines] == ["train/contrast_loss"]
    np.testing.assert_array_equal(losses.lines[0].get_xydata(), [(1, 5), (10, 4)])
    found = {line.get_label(): line.get_ydata() for line in shares.lines}
    np.testing.assert_allclose(found["eval/knn_accuracy"], [40, 60])
    np.testing.assert_allclose(found["eval/majority_class_accuracy"], 10)
    assert "eval/chance_accuracy" not in found
    assert legend_is_outside(losses) and legend_is_outside(shares)
    assert plots.curves({"learning_rate": [(1, 0.1)]}, title="") is None


def test_the_map_tells_every_class_apart_up_to_20(figure):
    rng = np.random.RandomState(0)
    labels = np.concatenate([np.repeat(np.arange(23), 4), np.arange(20), [-1]])
    points = rng.uniform(size=(len(labels), 2))
    names = [f"name {which}" for which in range(23)]
    (ax,) = figure(plots.feature_map, points, labels, names, title="").axes
    rest, *classes = ax.collections
    assert rest.get_label() == "other classes (3)" and len(rest.get_offsets()) == 13
    assert [c.get_label() for c in classes] == names[:20]
    looks = {(tuple(c.get_facecolor()[0]), len(c.get_paths()[0])) for c in classes}
    assert len(looks) == 20
    for which, drawn in enumerate(classes):
        np.testing.assert_allclose(drawn.get_offsets(), points[labels == which])
    assert legend_is_outside(ax)


def test_confusions_are_shares_of_the_true_class(figure):
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 2, 4]])
    ax, bar = figure(plots.confusion, counts, ["a", "b", "c"], title="").axes
    np.testing.assert_allclose(ax.images[0].get_array(), [[75, 25, 0], [0, 0, 0], [25, 25, 50]])
    written = {t.get_position(): t.get_text() for t in ax.texts}
    assert written == {(0, 0): "75", (1, 0): "25", (0, 2): "25", (1, 2): "25", (2, 2): "50"}
    assert ax.get_ylabel() == "true class" and "(%)" in bar.get_ylabel()

    (ax,) = figure(plots.class_accuracy, counts, ["a", "b", "c"], title="").axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a (n=4)", "c (n=8)"]
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], [75, 50])
    assert "62.5 %" in ax.get_legend().get_texts()[0].get_text() and legend_is_outside(ax)


def test_answers_are_told_with_their_probability_and_whether_they_are_right(figure):
    gray, colored = np.full((4, 4, 1), 0.5), np.full((4, 4, 3), 0.5)
    cells = [
        {"image": gray, "answer": "cat", "probability": 0.876, "truth": "cat"},
        {"image": colored, "answer": "dog", "probability": 0.5, "truth": "an elephant, sitting"},
        *[{"image": colored, "answer": "a", "probability": 1.0, "truth": None}] * 5,
    ]
    made = figure(plots.predictions, cells, title="Answers")
    axes = made.axes
    assert len(axes) == 12 and [ax.axison for ax in axes] == [True] * 7 + [False] * 5
    told = [ax.get_title() for ax in axes[:7]]
    assert told[0] == "cat 88% \u2713" and told[2:] == ["a 100%"] * 5
    assert told[1].splitlines()[0] == "dog 50% \u2717"
    assert told[1].splitlines()[1].startswith("is an elephant")
    edges = [ax.spines["left"].get_edgecolor() for ax in axes[:3]]
    assert len(set(edges)) == 3
    assert "blue" in made.get_suptitle()
    assert "blue" not in figure(plots.predictions, cells[2:], title="Answers").get_suptitle()


def test_of_a_thousand_classes_the_ends_are_shown(figure):
    counts = np.diag(np.arange(1000)) + np.diag(np.full(999, 7), 1)
    made = figure(plots.class_accuracy, counts, [f"n{i}" for i in range(1000)], title="All")
    (ax,) = made.axes
    assert len(ax.patches) == 40 and "of 1,000 classes" in ax.get_title(loc="left")
    assert made.get_size_inches()[1] < 15
    made = figure(plots.confusion, counts, [f"n{i}" for i in range(1000)], title="All")
    assert not made.axes[0].texts and len(made.axes[0].get_xticks()) == 40
    assert max(made.get_size_inches()) < 15


# ---- of a run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    flags = {"mode": "train_then_eval", "plots": True, "width_multiplier": 0.0625, "image_size": 8}
    assert run.run_argv(command(directory, **flags)) == 0
    return directory


ALL = ["augmented_pairs", "class_accuracy", "confusion", "curves", "feature_map", "neighbors"]
ALL += ["similarity"]
PROJECTED = "projector_config.pbtxt"


def test_a_run_leaves_its_pictures_as_files_and_in_tensorboard(drawn):
    assert sorted(path.stem for path in (drawn / "plots").iterdir()) == ALL
    shown = {}
    for path in drawn.glob("events.out.tfevents.*"):
        for event in metrics._events(str(path)):
            for value in event.summary.value:
                if value.tag.startswith("plots/"):
                    assert event.step == 4
                    shown[value.tag.removeprefix("plots/")] = tf.make_ndarray(value.tensor)[2]
    assert sorted(shown) == ALL
    for name, contents in shown.items():
        held = (drawn / "plots" / f"{name}.png").read_bytes()
        expected = tf.io.decode_png(held, channels=3).numpy()
        assert 300 < min(expected.shape[:2]) and max(expected.shape[:2]) < 1600, name
        assert expected.std() > 5, name  # not an empty page
        np.testing.assert_array_equal(tf.io.decode_png(contents), expected)


def test_a_runs_projector_shows_its_features_classes_and_images(drawn):
    digits = loaders.DigitsSource()
    features = inference.embed(drawn, digits, split="test")
    read = np.loadtxt(drawn / "projector" / "features.tsv", delimiter="\t")
    np.testing.assert_allclose(read, features.values, rtol=1e-4, atol=1e-5)
    header, *rows = (drawn / "projector" / "metadata.tsv").read_text().splitlines()
    labels = digits.labels("test")
    assert header == "class\tid" and len(rows) == len(read) == 360
    expected = [f"{label}\t{i}" for label, i in zip(labels, digits.ids("test"), strict=True)]
    assert rows == expected
    sprite = tf.io.decode_png((drawn / "projector" / "sprite.png").read_bytes()).numpy()
    pictures = digits.load_all("test")["image"].numpy()
    for number in range(361):  # 19 in a row
        y, x = number // 19 * 8, number % 19 * 8
        picture = pictures[number] if number < 360 else np.zeros([8, 8, 1])
        np.testing.assert_array_equal(sprite[y : y + 8, x : x + 8], picture.repeat(3, axis=2))


def test_scalars_come_back_from_the_events(drawn, tmp_path):
    history = metrics.read_scalars(str(drawn))
    result = json.loads((drawn / "result.json").read_text())
    assert [step for step, _ in history["train/contrast_loss"]] == [1, 2, 3, 4]
    ((step, value),) = history["eval/label_top_1_accuracy"]
    assert step == 4 and value == pytest.approx(result["eval/label_top_1_accuracy"])
    (events,) = drawn.glob("events.out.tfevents.*")
    whole = events.read_bytes()
    (tmp_path / events.name).write_bytes(whole[: whole.index(b"learning_rate") + 5])  # cut off
    before = metrics.read_scalars(str(tmp_path))
    assert before["train/contrast_loss"] == history["train/contrast_loss"][:1]


def gather(monkeypatch, job, model):
    """Draws a run's pictures; returns what each was drawn from."""
    given = {}
    for name in ("confusion", "neighbors", "similarity", "feature_map", "class_accuracy", "pairs"):
        monkeypatch.setattr(
            plots, name, lambda *args, name=name, **_: given.update({name: args}) or b"PNG"
        )
    monkeypatch.setattr(plots, "curves", lambda *_, **__: None)
    monkeypatch.setattr(job.writer, "picture", lambda *_: None)
    assert gallery.draw(job, model, 4) == [f"plots/ ({len(given)} pictures)", PROJECTED]
    return given


def test_pictures_are_of_the_networks_own_features_and_answers(drawn, tmp_path, monkeypatch):
    changes = {"width_multiplier": 0.0625, "image_size": 8}
    job = job_lib.prepare(run_config(tmp_path, mode="train_then_eval", **changes))
    model, _ = checkpoint.load_model(str(drawn))
    monkeypatch.setattr(gallery, "SAMPLE", 60)
    given = gather(monkeypatch, job, model)

    digits = loaders.DigitsSource()
    sample = digits.subset("test", np.random.RandomState(0).permutation(360)[:60])
    answers = inference.predict(drawn, sample, split="test").probabilities.argmax(axis=1)
    counts = np.zeros((10, 10))
    for label, answer in zip(sample.labels("test"), answers, strict=True):
        counts[label, answer] += 1
    np.testing.assert_array_equal(given["confusion"][0], counts)
    np.testing.assert_array_equal(given["feature_map"][1], sample.labels("test"))

    x = inference.embed(drawn, sample, split="test").values
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    pictures = sample.load_all("test")["image"].numpy() / 255
    labels = sample.labels("test")
    assert len(given["neighbors"][0]) == 6
    for first, *others in given["neighbors"][0]:
        query = int(np.argmin([np.abs(p - first["image"]).max() for p in pictures]))
        np.testing.assert_allclose(first["image"], pictures[query], atol=1e-6)
        assert first["name"] == str(labels[query]) and first["cosine"] is None
        nearest = sorted(set(range(60)) - {query}, key=lambda i: -(x[i] @ x[query]))[:6]
        cosines = [cell["cosine"] for cell in others]
        np.testing.assert_allclose(cosines, [x[i] @ x[query] for i in nearest], atol=1e-5)
        assert cosines == sorted(cosines, reverse=True)
        for cell in others:
            assert cell["same"] == (cell["name"] == first["name"])

    cosines = given["similarity"][0]
    assert cosines.shape == (32, 32) and np.abs(cosines).max() <= 1 + 1e-5


def test_without_classes_there_is_nothing_to_confuse(drawn, tmp_path, monkeypatch):
    for number in range(12):
        picture = np.random.RandomState(number).randint(0, 256, (8, 8, 3)).astype("uint8")
        tf.io.write_file(f"{tmp_path}/pictures/{number}.png", tf.io.encode_png(picture))
    changes = {"dataset": "folder", "data_dir": f"{tmp_path}/pictures", "eval_split": "train"}
    changes |= {"image_size": 8, "train_batch_size": 4, "width_multiplier": 0.0625}
    job = job_lib.prepare(run_config(tmp_path / "run", mode="train_then_eval", **changes))
    about = json.loads((drawn / "model.json").read_text())["architecture"]
    model = simclr.SimCLR(**{**about, "channels": 3, "num_classes": 0})
    given = gather(monkeypatch, job, model)
    assert set(given) == {"pairs", "similarity", "feature_map", "neighbors"}
    assert {cell["same"] for row in given["neighbors"][0] for cell in row} == {None}
    names = {cell["name"] for row in given["neighbors"][0] for cell in row}
    assert names <= {f"{number}.png" for number in range(12)}
    ids = (tmp_path / "run" / "projector" / "metadata.tsv").read_text().splitlines()
    assert ids == job.source.ids("train")


def test_plots_can_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "draw", None)
    flags = {"mode": "train_then_eval", "plots": False, "train_steps": 1, "image_size": 8}
    assert run.run_argv(command(tmp_path, width_multiplier=0.0625, **flags)) == 0
    assert not (tmp_path / "plots").exists()
