"""A trained network at work: probes, embeddings, predictions, exports; the same in Python."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small import command, mirrored, refusal, run_config

import tf2 as simclr
from tf2 import data_util, evaluation, knn, run
from tf2.apply import features, linear_probes
from tf2.checkpoints import checkpoint
from tf2.sources import loaders, source
from tf2.visuals import plots


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A pretraining of a few steps on the embedded digits, with its online classifier."""
    directory = tmp_path_factory.mktemp("run")
    made = {"width_multiplier": 0.0625, "image_size": 8}
    assert run.run_argv(command(directory, **made)) == 0
    return directory


@pytest.fixture(scope="module")
def endpoints(trained):
    """Every endpoint of the first eight test images, computed without this program's input."""
    model, _ = checkpoint.load_model(str(trained))
    digits = loaders.DigitsSource()
    pictures = digits.load_all("test")["image"][:8].numpy()
    views = tf.stack([data_util.preprocess_for_eval(p, 8, 8, crop=False) for p in pictures])
    found = model(views, training=False)
    layers = model.project(found["final_avg_pool"], training=False)
    found |= {f"proj_{number}": layer for number, layer in enumerate(layers)}
    return {name: value.numpy() for name, value in found.items()}


def use(mode, network, model_dir, **flags):
    """Returns the command line of a mode."""
    given = {"mode": mode, "checkpoint": network, "model_dir": model_dir, **flags}
    return ["run.py", *(f"--{name}={value}" for name, value in given.items())]


def do(*args, **flags):
    assert run.run_argv(use(*args, **flags)) == 0


def write_pictures(root, count=5, seed=0):
    """Writes gray 8x8 pictures without classes; returns them by name."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState(seed)
    pictures = {f"{i}.png": rng.randint(0, 256, (8, 8), dtype=np.uint8) for i in range(count)}
    for name, picture in pictures.items():
        Image.fromarray(picture).save(root / name)
    return pictures


@pytest.fixture
def computed(monkeypatch):
    """The splits whose features are computed, not read."""
    found, compute = [], features.Extractor._compute

    def spy(self, split, endpoint, count):
        found.append((split, endpoint))
        return compute(self, split, endpoint, count)

    monkeypatch.setattr(features.Extractor, "_compute", spy)
    return found


# ---- features


@pytest.mark.parametrize(
    "endpoint", ["final_avg_pool", "initial_conv", "block_group2", "proj_0", "proj_2", "logits_sup"]
)
def test_any_endpoint_gives_features(endpoint, trained, endpoints):
    digits = loaders.DigitsSource().subset("test", range(8))
    found = simclr.embed(trained, digits, endpoint=endpoint, split="test", batch_size=3)
    expected = endpoints[endpoint]
    if expected.ndim == 4:
        expected = expected.mean(axis=(1, 2))
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, expected, atol=1e-5 * np.abs(expected).max())
    assert list(found.ids) == digits.ids("test")
    np.testing.assert_array_equal(found.labels, digits.labels("test"))


def test_two_replicas_give_the_same_features(trained):
    digits = loaders.DigitsSource().subset("test", range(21))
    config = run_config(trained, image_size=8, eval_batch_size=4)
    found = {}
    for name, strategy in {"one": tf.distribute.get_strategy(), "two": mirrored(2)}.items():
        with strategy.scope():
            model, _ = checkpoint.load_model(str(trained))
        found[name] = features.Extractor(model, config, digits, strategy)("test")
    np.testing.assert_allclose(found["one"].values, found["two"].values, atol=1e-6)
    np.testing.assert_array_equal(found["one"].labels, found["two"].labels)
    assert found["one"].values.shape[0] == 21


def test_features_are_computed_once_and_anew_when_anything_changes(trained, tmp_path, computed):
    pictures = tmp_path / "pictures"
    write_pictures(pictures / "a")
    write_pictures(pictures / "b", seed=1)
    model, _ = checkpoint.load_model(str(trained))

    def extract(split="train", endpoint="final_avg_pool", **changes):
        changes = {"image_size": 8, "dataset": "folder", "data_dir": str(pictures), **changes}
        config = run_config(tmp_path / "out", **changes)
        images = loaders.build_source(config, 1)
        strategy = tf.distribute.get_strategy()
        directory = str(tmp_path / "kept")
        return features.Extractor(model, config, images, strategy, directory=directory)(
            split, endpoint
        )

    first, again = extract(), extract()
    assert len(computed) == 1
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert list(first.ids) == list(again.ids)

    extract(endpoint="proj_1")  # another endpoint
    extract(image_size=16)  # another preprocessing
    extract(dataset="digits", data_dir=None)  # other images
    extract("test", dataset="digits", data_dir=None)  # another split
    assert len(computed) == 5
    extract("test", dataset="digits", data_dir=None)
    assert len(computed) == 5

    Image.fromarray(np.zeros((9, 9), np.uint8)).save(pictures / "a" / "0.png")
    assert np.any(extract().values[0] != first.values[0])  # the same names, another picture
    assert len(computed) == 6

    weight = next(iter(simclr.named_variables(model).values()))
    weight.assign(weight * 1.001)
    assert np.any(extract().values != first.values)
    assert len(computed) == 7


def test_labels_that_change_are_seen(trained, tmp_path, computed):
    write_pictures(tmp_path / "pictures", 4)

    def labels(names):
        rows = [f"pictures/{i}.png,{name}" for i, name in enumerate(names)]
        (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
        do("embed", trained, tmp_path, dataset="folder", data_dir=tmp_path / "list.csv")
        path = tmp_path / "embeddings_train.npz"
        return np.load(path)["labels"].tolist()

    assert labels("abab") == [0, 1, 0, 1]
    assert labels("abba") == [0, 1, 1, 0]
    assert len(computed) == 2


# ---- modes


def test_probes_measure_what_the_library_functions_do(trained, tmp_path, capsys, computed):
    flags = {"probes": "knn, logistic,sgd", "endpoint": "proj_1", "knn_neighbors": 5}
    flags["labels_per_class"] = 8
    sweep = (0.1, 10.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_probes, "L2_SWEEP", sweep)
        patch.setattr(linear_probes.sweep_logistic, "__kwdefaults__", {
            **linear_probes.sweep_logistic.__kwdefaults__, "l2_values": sweep,
        })  # fmt: skip
        do("probe", trained, tmp_path, **flags)
        said = capsys.readouterr().out
        about = json.loads((tmp_path / "probe.json").read_text())
        assert (about["endpoint"], about["dataset"]) == ("proj_1", "digits")
        assert (about["train_images"], about["test_images"]) == (80, 360)
        assert (
            about["majority_class_accuracy"] == about["chance_accuracy"] == 0.1
            and about["global_step"] == 4
        )
        assert list(about["probes"]) == ["knn", "logistic", "sgd"]

        digits = loaders.DigitsSource()
        few = loaders.select_labels(digits.labels("train"), per_class=8)
        digits = digits.subset("train", few)
        train, test = (
            simclr.embed(trained, digits, endpoint="proj_1", split=s) for s in ("train", "test")
        )
        accuracy = knn.knn_accuracy(
            *(train.values, train.labels, test.values, test.labels), num_classes=10, k=5
        )
        assert about["probes"]["knn"]["top_1"] == accuracy
        fit = linear_probes.sweep_logistic(train.values, train.labels, num_classes=10)
        expected = linear_probes.accuracies(fit.predict(test.values), test.labels)
        found = about["probes"]["logistic"]
        assert found["l2"] == fit.l2 and found["l2"] in sweep
        assert found["top_1"] == pytest.approx(expected["top_1"])
        assert found["mean_per_class"] == pytest.approx(expected["mean_per_class"])
        assert f"top-1 {100 * accuracy:6.2f} %" in said and f"(L2 strength {fit.l2:.3g})" in said
        assert 0.1 < about["probes"]["sgd"]["top_1"] <= 1

        computed.clear()
        do("probe", trained, tmp_path, **{**flags, "probes": "knn"})
        assert not computed  # the features of the first call serve
        assert (
            json.loads((tmp_path / "probe.json").read_text())["probes"]["knn"]["top_1"] == accuracy
        )


def test_embeddings_come_with_their_ids_in_stored_order(trained, tmp_path, endpoints):
    do("embed", trained, tmp_path / "out")
    held = np.load(tmp_path / "out" / "embeddings_test.npz")
    digits = loaders.DigitsSource()
    assert held["ids"].tolist() == digits.ids("test")
    np.testing.assert_array_equal(held["labels"], digits.labels("test"))
    assert held["features"].dtype == np.float32
    np.testing.assert_allclose(held["features"][:8], endpoints["final_avg_pool"], atol=1e-5)

    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "other" / "rows.parquet"  # in a directory that isn't there yet
    do("embed", trained, tmp_path / "out", output=path)
    rows = parquet.read_table(path).to_pydict()
    assert list(rows) == ["id", "label", "features"]
    assert rows["id"] == held["ids"].tolist() and rows["label"] == held["labels"].tolist()
    np.testing.assert_array_equal(np.array(rows["features"], "float32"), held["features"])


def test_predictions_on_a_folder_of_pictures_without_labels(trained, tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    do("predict", trained, tmp_path / "out", data_dir=tmp_path / "pictures")
    with open(tmp_path / "out" / "predictions_train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(pictures)
    columns = [f"{c}{n}" for n in ("", "_2", "_3", "_4", "_5") for c in ("class", "probability")]
    assert list(rows[0]) == ["path", *columns]

    model, _ = checkpoint.load_model(str(trained))
    views = [data_util.preprocess_for_eval(p[..., None], 8, 8, crop=False)
             for p in pictures.values()]  # fmt: skip
    logits = model(tf.stack(views), training=False)["logits_sup"].numpy().astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, p in zip(rows, expected, strict=True):
        best = np.argsort(-p)[:5]
        assert [row[c] for c in columns[::2]] == [str(which) for which in best]
        np.testing.assert_allclose([float(row[c]) for c in columns[1::2]], p[best], atol=2e-6)


def test_an_export_of_a_run_is_the_network_and_needs_no_images(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "build_source", None)
    do("export", trained, tmp_path)
    exported = tmp_path / "saved_model" / "4"
    model, about = checkpoint.load_model(str(trained))
    again, stored = checkpoint.load_model(str(exported))
    assert stored == about
    for (name, a), b in zip(
        simclr.named_variables(model).items(),
        simclr.named_variables(again).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)


@pytest.mark.parametrize("resize", ["legacy", "half_pixel"])
def test_weights_alone_say_how_images_are_prepared(resize, trained, tmp_path):
    for path in trained.glob("ckpt-4.*"):
        shutil.copy(path, tmp_path)
    about = json.loads((trained / "model.json").read_text())
    about["preprocessing"]["resize"] = resize
    (tmp_path / "model.json").write_text(json.dumps(about))  # and no flags.json
    array = np.random.RandomState(0).randint(0, 256, (2, 13, 13, 1), dtype=np.uint8)
    found = simclr.embed(tmp_path / "ckpt-4", array).values
    model, _ = checkpoint.load_model(str(trained))
    views = [data_util.preprocess_for_eval(p, 8, 8, crop=False, resize=resize) for p in array]
    expected = model(tf.stack(views), training=False)["final_avg_pool"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


# ---- Python


def test_arrays_and_folders_give_the_same_in_python(trained, tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    array = np.stack(list(pictures.values()))
    found = simclr.embed(trained, tmp_path / "pictures")
    np.testing.assert_allclose(simclr.embed(str(trained), array).values, found.values, atol=1e-6)
    answers = simclr.predict(trained, tmp_path / "pictures")
    np.testing.assert_allclose(
        simclr.predict(trained, array[..., np.newaxis]).probabilities,
        answers.probabilities,
        atol=1e-6,
    )
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1)
    rows = answers.rows(top=2)
    assert [row["path"] for row in rows] == sorted(pictures)
    assert list(rows[0]) == ["path", "class", "probability", "class_2", "probability_2"]
    assert rows[0]["probability"] == answers.probabilities[0].max()
    assert not list(tmp_path.glob("features"))


@pytest.mark.parametrize(
    "images, words",
    [
        (np.zeros((2, 8, 8), np.float32), r"uint8.*Received: float32 of shape \(2, 8, 8\)"),
        (np.zeros((8, 8), np.uint8), r"Received: uint8 of shape \(8, 8\)"),
        (np.zeros((0, 8, 8), np.uint8), r"Received: uint8 of shape \(0, 8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"for 1 channel\(s\), array with 3"),
        ("nowhere", "data_dir='nowhere'"),
    ],
)
def test_images_that_do_not_fit_are_one_sentence(images, words, trained):
    with pytest.raises(simclr.UserError, match=words):
        simclr.embed(trained, images)


# ---- bad input


REFUSED = [
    ("probe", {"probes": "knn,svm"}, "Probes are knn, logistic, sgd.*probes=svm. Correct --probes"),
    ("probe", {"probes": " , "}, "Received: probes=' , '"),
    ("embed", {"endpoint": "proj_9"}, "An endpoint is one of .*proj_2.*endpoint=proj_9"),
    ("embed", {"output": "x.csv"}, "written as .npz or .parquet.*output=x.csv"),
    ("predict", {"output": "x.npz"}, "written as .csv.*output=x.npz"),
    ("embed", {"eval_split": "tset"}, "split='tset'"),
    ("embed", {"checkpoint": "nowhere"}, "nowhere"),
    ("embed", {"resnet_depth": 50}, "resnet_depth=18. Received: resnet_depth=50"),
    ("embed", {"weights": "ema"}, "moving average"),
    ("embed", {"dataset": "folder"}, "Received: data_dir=None"),
    ("probe", {"data_dir": "pictures", "eval_split": "train"}, "needs labels.*folder"),
    ("embed", {"model_dir": "file"}, "model_dir=file. Choose another"),
]


@pytest.mark.parametrize("mode, flags, words", REFUSED, ids=[str(row[:2]) for row in REFUSED])
def test_bad_input_is_one_sentence(mode, flags, words, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures", 2)
    (tmp_path / "file").write_text("not a directory")
    flags = {"model_dir": "out", **flags}
    said = refusal(capsys, use(mode, flags.pop("checkpoint", trained), **flags))
    assert re.search(words, said), said


def test_a_network_is_needed_with_its_description(tmp_path, trained, capsys):
    capsys.readouterr()
    said = refusal(capsys, ["run.py", "--mode=probe", "--dataset=digits"])
    assert "mode=probe uses a trained network" in said
    shutil.copytree(trained, tmp_path / "bare")
    (tmp_path / "bare" / "model.json").unlink()
    said = refusal(capsys, use("embed", tmp_path / "bare", tmp_path / "out"))
    assert "model.json beside it" in said


def test_a_network_without_a_classifier_predicts_nothing(trained, monkeypatch):
    model, about = checkpoint.load_model(str(trained))
    bare = simclr.SimCLR(**{**model.hyperparameters, "num_classes": 0})
    monkeypatch.setattr(checkpoint, "load_model", lambda *_, **__: (bare, about))
    with pytest.raises(simclr.UserError, match="needs? a network with a classifier"):
        simclr.predict(trained, np.zeros((1, 8, 8), np.uint8))


def test_images_of_an_array_are_read_as_any_others():
    array = np.random.RandomState(0).randint(0, 256, (5, 4, 4), dtype=np.uint8)
    images = source.ArraySource(array)
    held = images.load_all("images")
    np.testing.assert_array_equal(held["image"][..., 0], array)
    assert images.ids("images") == [name.decode() for name in held["id"].numpy()]
    assert images.labels("images").tolist() == held["label"].numpy().tolist() == [-1] * 5
    batches = evaluation.Evaluator(
        run_config("unused", image_size=4, eval_batch_size=2), images, tf.distribute.get_strategy()
    ).batches("images")
    assert [int(b["mask"].numpy().sum()) for b in batches] == [2, 2, 1]


# ---- accuracies and pictures in Python


def test_the_score_in_python_is_that_of_the_predictions(trained):
    digits = loaders.DigitsSource().subset("test", range(50))
    scored = simclr.score(trained, digits, split="test")
    best = simclr.predict(trained, digits, split="test").probabilities.argmax(axis=1)
    assert scored["eval/label_top_1_accuracy"] == np.mean(best == digits.labels("test"))


def test_a_score_needs_images_of_the_classifier_s_classes(trained):
    unlabeled = np.zeros((3, 8, 8), np.uint8)
    with pytest.raises(simclr.UserError, match="10 classes, array with no classes"):
        simclr.score(trained, unlabeled)


def test_pictures_in_python_show_the_features_that_embed_finds(trained, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "neighbors", lambda rows, title: drawn.update(rows=rows) or b"n")
    monkeypatch.setattr(plots, "feature_map", lambda *a, title: drawn.update(map=a) or b"m")
    digits = loaders.DigitsSource()
    found = simclr.embed(trained, digits, split="test")
    assert simclr.draw_neighbors(trained, digits, split="test") == b"n"
    unit = found.values / np.linalg.norm(found.values, axis=1, keepdims=True)
    pictures = digits.load_all("test")["image"].numpy() / 255.0

    def place_of(cell):
        (place,) = (i for i, x in enumerate(pictures) if np.allclose(x, cell["image"], atol=1e-6))
        assert cell["name"] == digits.class_names[found.labels[place]]
        return place

    for sample, *others in drawn["rows"]:
        cosines = unit @ unit[place_of(sample)]
        told = [cell["cosine"] for cell in others]
        np.testing.assert_allclose(told, cosines[[place_of(cell) for cell in others]], atol=1e-5)
        highest = np.sort(np.delete(cosines, place_of(sample)))[::-1][: len(others)]
        np.testing.assert_allclose(told, highest, atol=1e-5)
    assert simclr.draw_map(trained, digits, split="test", found=found) == b"m"
    points, labels, classes = drawn["map"]
    assert len(points) == 360 and classes == digits.class_names
    np.testing.assert_array_equal(labels, digits.labels("test"))


def test_answers_in_pictures_are_those_of_predict(trained, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "predictions", lambda cells, title: drawn.update(c=cells) or b"p")
    digits = loaders.DigitsSource()
    assert simclr.draw_predictions(trained, digits, split="test") == b"p"
    rows = simclr.predict(trained, digits, split="test").rows(top=1)
    pictures = digits.load_all("test")["image"].numpy() / 255.0
    assert len(drawn["c"]) == 18
    for cell in drawn["c"]:
        (place,) = (i for i, x in enumerate(pictures) if np.allclose(x, cell["image"], atol=1e-6))
        assert cell["answer"] == rows[place]["class"]
        assert cell["probability"] == rows[place]["probability"]
        assert cell["truth"] == digits.class_names[digits.labels("test")[place]]
    simclr.draw_predictions(trained, digits.load_all("test")["image"].numpy()[:3])
    assert [cell["truth"] for cell in drawn["c"]] == [None] * 3
