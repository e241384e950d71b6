"""The Python API: help of every name, paths of every kind, and results as a notebook shows them."""

import csv
import inspect
import io
import re

import numpy as np
import pytest
from PIL import Image

import tf2 as simclr
from tf2.apply import features as features_lib
from tf2.apply import results

# ---- help


def is_documented(name):
    value = getattr(simclr, name)
    return inspect.isfunction(value) or inspect.isclass(value)


@pytest.mark.parametrize("name", [n for n in simclr.__all__ if is_documented(n)])
def test_help_of_a_name_is_complete_by_itself(name):
    value = getattr(simclr, name)
    text = inspect.getdoc(value)
    assert re.match(r"[A-Z][^.:]*[.:]", text)
    assert not re.findall(r"(?:see|as in) `[\w.]+`|as `[\w.]+`(?! (or `\w+` )?returns)", text)
    if name in ("Config", "UserError"):
        return  # fields are the flags, which --help explains; errors are not made by users
    parameters = inspect.signature(value).parameters
    for parameter in set(parameters) - {"self", "kwargs", "args", "name"}:
        assert re.search(rf"\b{parameter}\b", text), parameter
    returns = None if inspect.isclass(value) else inspect.signature(value).return_annotation
    assert returns in (None, "None") or "Returns" in text
    assert len(parameters) == 0 or "Args:" in text or inspect.isclass(value)


# ---- images and networks of every kind


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of gray images of three sizes, one of them in a folder of its own."""
    root = tmp_path_factory.mktemp("photos")
    (root / "unlabeled").mkdir()
    rng = np.random.RandomState(0)
    for name, size in (("a.png", 16), ("b.png", 20), ("unlabeled/c.png", 24)):
        Image.fromarray(rng.randint(0, 256, (size, size), dtype=np.uint8)).save(root / name)
    return root


@pytest.fixture(scope="module")
def expected(photos, supervised_run):
    """The probabilities of the three images."""
    return simclr.predict(supervised_run, photos)


def arrays(photos, *names):
    return [np.asarray(Image.open(photos / name)) for name in names]


def test_a_folder_is_all_its_images(expected):
    assert list(expected.ids) == ["a.png", "b.png", "unlabeled/c.png"]


@pytest.mark.parametrize(
    "give, rows",
    [
        (lambda p: p / "b.png", [1]),
        (lambda p: str(p / "b.png"), [1]),
        (lambda p: [p / "b.png", str(p / "a.png")], [1, 0]),
        (lambda p: arrays(p, "b.png")[0], [1]),
        (lambda p: arrays(p, "b.png")[0][..., np.newaxis], [1]),
        (lambda p: arrays(p, "a.png", "unlabeled/c.png", "b.png"), [0, 2, 1]),
        (lambda p: arrays(p, "a.png", "a.png"), [0, 0]),
        (lambda p: np.stack(arrays(p, "a.png", "a.png")), [0, 0]),
        (lambda p: (Image.open(p / name) for name in ("a.png", "b.png")), [0, 1]),
    ],
)
def test_images_may_be_files_or_arrays_one_or_many(give, rows, photos, expected, supervised_run):
    probabilities = simclr.predict(supervised_run, give(photos)).probabilities
    np.testing.assert_allclose(probabilities, expected.probabilities[rows], atol=1e-6)


@pytest.mark.parametrize(
    "images, words",
    [
        ([], "Images are uint8"),
        ([np.zeros((4, 4), np.uint8), np.zeros((5, 5))], "float64.*as number 1"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 5, 4), np.uint8)], "as many channels"),
        (["nowhere.png"], "nowhere.png .No such file"),
        ("nowhere.png", "nowhere.png .No such file"),
    ],
)
def test_images_that_cannot_be_used_are_one_sentence(images, words, supervised_run):
    with pytest.raises(simclr.UserError, match=words):
        simclr.embed(supervised_run, images)


def test_paths_may_begin_with_a_tilde(photos, expected, supervised_run, monkeypatch):
    monkeypatch.setenv("HOME", str(photos))
    found = simclr.predict(supervised_run, ["~/a.png", "~/b.png"]).probabilities
    np.testing.assert_allclose(found, expected.probabilities[:2], atol=1e-6)
    monkeypatch.setenv("HOME", str(supervised_run.parent))
    model, metadata = simclr.load_model(f"~/{supervised_run.name}")
    assert metadata["train_mode"] == "supervised"
    assert simclr.load_weights(model, f"~/{supervised_run.name}").matched
    assert simclr.configure(dataset="digits", model_dir="~/x").model_dir.startswith("/")


def test_the_directory_of_all_stages_is_a_network(photos, expected, supervised_run, tmp_path):
    for stage in ("finetune", "distill"):
        (tmp_path / stage).symlink_to(supervised_run)
    found = simclr.predict(tmp_path, photos).probabilities
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-6)


# ---- results


def test_predictions_are_a_short_text_a_csv_file_and_a_table(tmp_path):
    probabilities = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]])
    names = ["a<b", "c", "d", "e"]
    predictions = results.Predictions(["<b>.png", "b.png"], probabilities, names)
    assert repr(predictions) == "Predictions(2 images, 4 classes: a<b, c, d, ...)"
    path = predictions.to_csv(tmp_path / "new" / "predictions.csv", top=2)
    with open(path, newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {
        **{"path": "<b>.png", "class": "e", "probability": "0.400000"},
        **{"class_2": "d", "probability_2": "0.300000"},
    }
    assert (second["class"], second["probability"]) == ("a<b", "0.700000")
    table = predictions._repr_html_()
    assert "&lt;b&gt;.png" in table and "a&lt;b" in table and "<b>" not in table
    assert table.count("<tr>") == 3 and "more rows" not in table


def test_a_long_table_shows_its_first_rows():
    many = results.Predictions([str(i) for i in range(1234)], np.ones((1234, 1)), ["a"])
    assert many._repr_html_().count("<tr>") == 11 and "1,224 more rows" in many._repr_html_()
    assert len(many) == 1234 and len(many.rows(count=3)) == 3


def test_features_are_a_short_text_a_csv_file_and_a_table(tmp_path):
    values = np.arange(10, dtype=np.float32).reshape(2, 5)
    features = features_lib.Features(values, np.array([3, -1]), ["a.png", "b.png"])
    assert repr(features) == "Features(2 images, 5 features each, 1 labeled)"
    with open(features.to_csv(tmp_path / "features.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(rows[1][f"feature_{i}"]) for i in range(5)] == [5, 6, 7, 8, 9]
    assert [(row["id"], row["label"]) for row in rows] == [("a.png", "3"), ("b.png", "-1")]
    assert "feature_3" in features._repr_html_() and "feature_4" not in features._repr_html_()


def test_a_drawing_is_a_png_that_shows_and_saves_itself(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    drawing = results.Drawing(buffer.getvalue())
    assert drawing == buffer.getvalue() == drawing._repr_png_()
    assert repr(drawing) == f"Drawing(PNG of {len(buffer.getvalue())} bytes)"
    with Image.open(drawing.save(tmp_path / "new" / "figure.png")) as image:
        assert image.size == (4, 4)


def test_a_loaded_model_is_a_pair_with_a_short_text(supervised_run):
    loaded = simclr.load_model(supervised_run)
    model, metadata = loaded
    assert (loaded.model, loaded.metadata) == (model, metadata)
    assert repr(loaded) == (
        "LoadedModel(depth=18, width_multiplier=0.125, num_classes=10, global_step=4)"
    )
