"""--mode=select: the files it writes, what it leaves out, its mistakes; the same in Python."""

import csv
import json
import re
import types

import numpy as np
import pytest
from PIL import Image
from small import command, refusal
from test_apply import use

import tf2 as simclr
from tf2 import errors, run
from tf2.apply import network
from tf2.selection import methods
from tf2.sources import labels_file, listing

pytestmark = pytest.mark.usefixtures("one_convolution")

COUNT = 6


@pytest.fixture(scope="module")
def trained(one_convolution, tmp_path_factory):
    """The model_dir of a short pretraining on the digits, with its online classifier."""
    directory = tmp_path_factory.mktemp("run")
    assert run.run_argv(command(directory, width_multiplier=0.0625, image_size=8)) == 0
    return directory


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 30 gray images, some of them in a folder of their own, and labels of eight."""
    folder = tmp_path_factory.mktemp("photos") / "my photos"
    (folder / "a, b").mkdir(parents=True)
    for number in range(30):
        pixels = np.random.RandomState(number).randint(0, 256, (8 + number, 12), np.uint8)
        Image.fromarray(pixels).save(folder / ("a, b" if number % 3 else ".") / f"{number:02d}.png")
    labels = folder.parent / "so_far.csv"
    lines = [f"{number:02d}.png,{'cat' if number % 2 else 'dog'}" for number in range(8)]
    labels.write_text("path,label\n" + "\n".join(lines) + "\n")
    return folder, labels


def select(trained, photos, model_dir, **flags):
    """Runs the mode; returns its directory and the rows of to_label.csv."""
    flags = {"data_dir": photos[0], "count": COUNT, **flags}
    assert run.run_argv(use("select", trained, model_dir, **flags)) == 0
    rows = list(csv.DictReader((model_dir / "select" / "to_label.csv").open()))
    return model_dir / "select", rows


def page_data(directory):
    text = (directory / "label.html").read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def selected(trained, photos, tmp_path_factory):
    """What `select` returns, with labels for eight images."""
    return select(trained, photos, tmp_path_factory.mktemp("selected"), labels=photos[1])


def test_ranks_paths_clusters_and_coverage_are_listed(selected, trained, photos):
    directory, rows = selected
    assert sorted(path.name for path in directory.iterdir()) == [
        *("label.html", "label_studio.json", "to_label.csv"),
    ]
    assert list(rows[0]) == ["rank", "path", "cluster", "coverage"]
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, COUNT + 1)]
    features = simclr.embed(trained, photos[0])
    is_labeled = np.array([int(name[-6:-4]) < 8 for name in features.ids])
    expected = methods.choose(features.values, COUNT, is_labeled=is_labeled)
    assert [row["path"] for row in rows] == [features.ids[i] for i in expected.indices]
    np.testing.assert_allclose(
        [float(row["coverage"]) for row in rows], expected.coverage, atol=1e-5
    )


def test_the_page_has_the_images_in_order_and_the_earlier_labels(selected, photos):
    directory, rows = selected
    data = page_data(directory)
    assert [image["path"] for image in data["images"]] == [row["path"] for row in rows]
    assert sorted(name for name, *_ in data["earlier"]) == sorted(
        name for name in listed(photos) if int(name[-6:-4]) < 8
    )
    assert {tuple(row[1:]) for row in data["earlier"]} == {("cat", ""), ("dog", "")}
    assert all(i["source"].startswith("data:image/jpeg;base64,") for i in data["images"])
    assert data["classes"] == [str(digit) for digit in range(10)]  # of the network's classifier


def listed(photos):
    return [image.path for image in listing.list_images(str(photos[0]), labels="none").images]


def test_label_studio_tasks_have_predictions_and_their_export_is_read(selected, photos, tmp_path):
    directory, rows = selected
    tasks = json.loads((directory / "label_studio.json").read_text())
    assert len(tasks) == COUNT
    for task in tasks:
        (prediction,) = task["predictions"]
        (result,) = prediction["result"]
        assert 0 < prediction["score"] <= 1 and result["type"] == "choices"
        assert result["value"]["choices"][0] in map(str, range(10))
        # What Label Studio's export adds once a person agreed with the prediction.
        task["annotations"] = [{"result": [{**result, "value": {"choices": ["cat"]}}]}]
    exported = tmp_path / "export.json"
    exported.write_text(json.dumps(tasks))
    found = labels_file.read(str(exported), str(photos[0]))
    paths = listed(photos)
    matched, missing = labels_file.match(found, paths, "x", "y")
    assert {paths[index] for index in matched} == {row["path"] for row in rows} and not missing
    assert {row.label for row in matched.values()} == {"cat"}


def test_without_labels_no_image_is_labeled_whatever_the_folders(trained, photos, tmp_path):
    directory, rows = select(trained, photos, tmp_path, count=30, select_method="random")
    assert sorted(row["path"] for row in rows) == sorted(listed(photos))
    assert page_data(directory)["earlier"] == []


@pytest.mark.parametrize("method", ["margin", "uncertainty_herding"])
def test_a_classifier_chooses_where_it_is_uncertain(trained, photos, method):
    found = simclr.select(trained, photos[0], count=3, labels=photos[1], method=method)
    probabilities = simclr.predict(trained, photos[0]).probabilities
    best, second = np.sort(probabilities, axis=1)[:, ::-1][:, :2].T
    ids = simclr.embed(trained, photos[0]).ids
    is_new = np.array([int(name[-6:-4]) >= 8 for name in ids])
    order = [ids[i] for i in np.argsort(best - second, kind="stable") if is_new[i]]
    assert (list(found.ids) == order[:3]) is (method == "margin")
    assert not {int(name[-6:-4]) for name in found.ids} & set(range(8))


def test_python_chooses_what_the_command_does(selected, trained, photos, tmp_path):
    found = simclr.select(trained, photos[0], count=COUNT, labels=photos[1])
    assert [row["path"] for row in found.rows()] == [row["path"] for row in selected[1]]
    assert len(found) == COUNT and repr(found).startswith("ImagesToLabel(6 images, coverage 0.")
    assert "<table>" in found._repr_html_()
    found.to_csv(tmp_path / "new" / "x.csv")
    text = (tmp_path / "new" / "x.csv").read_text()
    assert text == (selected[0] / "to_label.csv").read_text()


def test_arrays_have_no_page(trained, tmp_path):
    arrays = np.random.RandomState(0).randint(0, 256, (12, 8, 8, 1), np.uint8)
    found = simclr.select(trained, arrays, count=4)
    assert found.write(str(tmp_path)) == ["to_label.csv"]
    with pytest.raises(errors.UserError, match="labels are those of a folder's images"):
        simclr.select(trained, arrays, count=4, labels="labels.csv")


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"count": 31}, "there are 30. Received: count=31. Set --count to 1 to 30"),
        ({"count": 0}, "count must be at least 1. Received: count=0"),
        ({"select_method": "coreset"}, "select_method"),
        ({"checkpoint": "lost"}, "checkpoint=lost"),
        ({"labels": "lost.csv"}, "labels=lost.csv, which does not exist"),
        ({"data_dir": "lost"}, "data_dir='lost', which does not exist"),
        ({"endpoint": "middle", "count": COUNT}, "endpoint=middle"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    capsys, trained, photos, tmp_path, flags, words
):
    flags = {"data_dir": photos[0], "checkpoint": trained, **flags}
    argv = use("select", flags.pop("checkpoint"), tmp_path / "new", **flags)
    if "select_method" in flags:
        assert run.run_argv(argv) == 1
        assert "select_method" in capsys.readouterr().err
    else:
        assert words in refusal(capsys, argv)
    assert not (tmp_path / "new" / "select").exists()


def test_the_next_command_goes_on_with_the_run_or_from_its_weights(tmp_path):
    photos, stage = tmp_path / "photos", tmp_path / "run" / "pretrain"
    stage.mkdir(parents=True)
    (stage / "ckpt-1.index").touch()
    flags = {"data_dir": str(photos), "image_size": 24, "train_mode": "simclrv2"}
    (tmp_path / "run" / "flags.json").write_text(json.dumps(flags))

    def flags_after(path, data_dir):
        config = types.SimpleNamespace(data_dir=str(data_dir))
        found = types.SimpleNamespace(path=str(path), config=config)
        return network.flags_to_continue(found)

    whole = {"model_dir": str(tmp_path / "run")}
    assert flags_after(tmp_path / "run", photos) == flags_after(stage, photos) == whole
    for path, data_dir in ((stage, tmp_path / "other"), (stage / "ckpt-1", photos)):
        weights = {"data_dir": str(data_dir), "checkpoint": str(path)}
        assert flags_after(path, data_dir) == weights
    resumed = simclr.configure(mode="train_then_eval", labels="labels.csv", **whole)
    assert (resumed.data_dir, resumed.image_size, resumed.labels) == (str(photos), 24, "labels.csv")
