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
from tf2.apply import commands, features, linear_probes
from tf2.checkpoints import checkpoint
from tf2.sources import digits as digits_lib
from tf2.sources import labeled_subset, loaders, memory
from tf2.visuals import image_grids, plots

pytestmark = pytest.mark.usefixtures("one_convolution")  # test_features has a ResNet


@pytest.fixture(scope="module")
def trained(one_convolution, tmp_path_factory):
    """The model_dir of a short pretraining on the digits, with its online classifier."""
    directory = tmp_path_factory.mktemp("run")
    assert run.run_argv(command(directory, width_multiplier=0.0625, image_size=8)) == 0
    return directory


def use(mode, network, model_dir, **flags):
    """Returns the command line of a mode."""
    flags = {"mode": mode, "checkpoint": network, "model_dir": model_dir, **flags}
    return ["run.py", *(f"--{name}={value}" for name, value in flags.items())]


def do(*args, **flags):
    assert run.run_argv(use(*args, **flags)) == 0


def write_images(root, count=5, seed=0):
    """Writes gray 8x8 images without classes; returns them by name."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState(seed)
    images = {f"{i}.png": rng.randint(0, 256, (8, 8), dtype=np.uint8) for i in range(count)}
    for name, image in images.items():
        Image.fromarray(image).save(root / name)
    return images


@pytest.fixture
def computed(monkeypatch):
    """The splits whose features are computed, not read from the cache."""
    calls, compute = [], features.Extractor._compute

    def spy(self, split, endpoint, count):
        calls.append((split, endpoint))
        return compute(self, split, endpoint, count)

    monkeypatch.setattr(features.Extractor, "_compute", spy)
    return calls


# ---- features


def test_two_replicas_give_the_same_features(trained):
    digits = digits_lib.DigitsSource().subset("test", range(21))
    config = run_config(trained, image_size=8, eval_batch_size=4)
    extracted = []
    for strategy in (tf.distribute.get_strategy(), mirrored(2)):
        with strategy.scope():
            model, _ = checkpoint.load_model(str(trained))
        extracted.append(features.Extractor(model, config, digits, strategy)("test"))
    one, two = extracted
    np.testing.assert_allclose(one.values, two.values, atol=1e-6)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.values.shape[0] == 21


def test_features_are_computed_once_and_again_when_anything_changes(trained, tmp_path, computed):
    folder = tmp_path / "images"
    write_images(folder / "a")
    write_images(folder / "b", seed=1)
    model, _ = checkpoint.load_model(str(trained))

    def extract(split="train", endpoint="final_avg_pool", **changes):
        changes = {"image_size": 8, "dataset": "folder", "data_dir": str(folder), **changes}
        config = run_config(tmp_path / "out", **changes)
        images = loaders.build_source(config, 1)
        strategy = tf.distribute.get_strategy()
        directory = str(tmp_path / "cache")
        extractor = features.Extractor(model, config, images, strategy, directory=directory)
        return extractor(split, endpoint)

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

    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "a" / "0.png")
    assert np.any(extract().values[0] != first.values[0])  # the same names, another image
    assert len(computed) == 6

    weight = next(iter(simclr.named_variables(model).values()))
    weight.assign(weight * 1.001)
    assert np.any(extract().values != first.values)
    assert len(computed) == 7


def test_changed_labels_are_not_taken_from_the_cache(trained, tmp_path, computed):
    write_images(tmp_path / "images", 4)

    def labels(names):
        rows = [f"images/{i}.png,{name}" for i, name in enumerate(names)]
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
        printed = capsys.readouterr().out
        summary = json.loads((tmp_path / "probe.json").read_text())
        assert (summary["endpoint"], summary["dataset"]) == ("proj_1", "digits")
        assert (summary["train_images"], summary["test_images"]) == (80, 360)
        assert summary["majority_class_accuracy"] == 0.1 and summary["global_step"] == 4
        assert summary["chance_accuracy"] == 0.1  # the former name of the same number
        assert "majority-class accuracy 10.00 %" in printed
        assert list(summary["probes"]) == ["knn", "logistic", "sgd"]

        digits = digits_lib.DigitsSource()
        few = labeled_subset.select_labels(digits.labels("train"), per_class=8)
        digits = digits.subset("train", few)
        train, test = (
            simclr.embed(trained, digits, endpoint="proj_1", split=s) for s in ("train", "test")
        )
        accuracy = knn.knn_accuracy(
            *(train.values, train.labels, test.values, test.labels), num_classes=10, k=5
        )
        assert summary["probes"]["knn"]["top_1"] == accuracy
        fit = linear_probes.sweep_logistic(train.values, train.labels, num_classes=10)
        expected = linear_probes.accuracies(fit.predict(test.values), test.labels)
        logistic = summary["probes"]["logistic"]
        assert logistic["l2"] == fit.l2 and logistic["l2"] in sweep
        assert logistic["top_1"] == pytest.approx(expected["top_1"])
        assert logistic["mean_per_class"] == pytest.approx(expected["mean_per_class"])
        assert f"top-1 {100 * accuracy:6.2f} %" in printed
        assert f"(L2 strength {fit.l2:.3g})" in printed
        fit = linear_probes.fit_sgd(train.values, train.labels, num_classes=10)
        expected = linear_probes.accuracies(fit.predict(test.values), test.labels)
        assert summary["probes"]["sgd"] == pytest.approx(expected)

        computed.clear()
        do("probe", trained, tmp_path, **{**flags, "probes": "knn"})
        assert not computed  # the features of the first call are used
        summary = json.loads((tmp_path / "probe.json").read_text())
        assert summary["probes"]["knn"]["top_1"] == accuracy


def test_embeddings_come_with_their_ids_in_stored_order(trained, tmp_path):
    do("embed", trained, tmp_path / "out")
    written = np.load(tmp_path / "out" / "embeddings_test.npz")
    digits = digits_lib.DigitsSource()
    assert written["ids"].tolist() == digits.ids("test")
    np.testing.assert_array_equal(written["labels"], digits.labels("test"))
    assert written["features"].dtype == np.float32
    expected = simclr.embed(trained, digits, split="test").values
    np.testing.assert_allclose(written["features"], expected, atol=1e-6)

    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "other" / "rows.parquet"  # in a directory that does not exist yet
    do("embed", trained, tmp_path / "out", output=path)
    rows = parquet.read_table(path).to_pydict()
    assert list(rows) == ["id", "label", "features"]
    assert rows["id"] == written["ids"].tolist() and rows["label"] == written["labels"].tolist()
    np.testing.assert_array_equal(np.array(rows["features"], "float32"), written["features"])


def test_predictions_on_a_folder_of_unlabeled_images(trained, tmp_path):
    images = write_images(tmp_path / "images")
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    do("predict", trained, tmp_path / "out", data_dir=tmp_path / "images")
    with open(tmp_path / "out" / "predictions_train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(images)
    columns = [f"{c}{n}" for n in ("", "_2", "_3", "_4", "_5") for c in ("class", "probability")]
    assert list(rows[0]) == ["path", *columns]

    model, _ = checkpoint.load_model(str(trained))
    views = [data_util.preprocess_for_eval(i[..., None], 8, 8, crop=False)
             for i in images.values()]  # fmt: skip
    logits = model(tf.stack(views), training=False)["logits_sup"].numpy().astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, p in zip(rows, expected, strict=True):
        best = np.argsort(-p)[:5]
        assert [row[c] for c in columns[::2]] == [str(label) for label in best]
        np.testing.assert_allclose([float(row[c]) for c in columns[1::2]], p[best], atol=2e-6)


def test_an_export_of_a_run_is_the_network_and_needs_no_images(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "build_source", None)
    do("export", trained, tmp_path)
    exported = tmp_path / "saved_model" / "4"
    model, metadata = checkpoint.load_model(str(trained))
    again, stored = checkpoint.load_model(str(exported))
    assert stored == metadata
    for (name, a), b in zip(
        simclr.named_variables(model).items(),
        simclr.named_variables(again).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)


@pytest.mark.parametrize("resize", ["legacy", "half_pixel"])
def test_a_checkpoint_without_flags_json_uses_the_preprocessing_of_model_json(
    resize, trained, tmp_path
):
    for path in trained.glob("ckpt-4.*"):
        shutil.copy(path, tmp_path)
    metadata = json.loads((trained / "model.json").read_text())
    metadata["preprocessing"]["resize"] = resize
    (tmp_path / "model.json").write_text(json.dumps(metadata))
    array = np.random.RandomState(0).randint(0, 256, (2, 13, 13, 1), dtype=np.uint8)
    embedded = simclr.embed(tmp_path / "ckpt-4", array).values
    model, _ = checkpoint.load_model(str(trained))
    views = [data_util.preprocess_for_eval(p, 8, 8, crop=False, resize=resize) for p in array]
    expected = model(tf.stack(views), training=False)["final_avg_pool"]
    np.testing.assert_allclose(embedded, expected, atol=1e-5)


# ---- Python


def test_arrays_and_folders_give_the_same_in_python(trained, tmp_path):
    images = write_images(tmp_path / "images")
    array = np.stack(list(images.values()))
    embedded = simclr.embed(trained, tmp_path / "images").values
    np.testing.assert_allclose(simclr.embed(str(trained), array).values, embedded, atol=1e-6)
    predictions = simclr.predict(trained, tmp_path / "images")
    np.testing.assert_allclose(
        simclr.predict(trained, array[..., np.newaxis]).probabilities,
        predictions.probabilities,
        atol=1e-6,
    )
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1)
    rows = predictions.rows(top=2)
    assert [row["path"] for row in rows] == sorted(images)
    assert list(rows[0]) == ["path", "class", "probability", "class_2", "probability_2"]
    assert rows[0]["probability"] == predictions.probabilities[0].max()
    assert not list(tmp_path.glob("features"))


@pytest.mark.parametrize(
    "images, words",
    [
        (np.zeros((2, 8, 8), np.float32), r"uint8.*Received: float32 of shape \(2, 8, 8\)"),
        (np.zeros(8, np.uint8), r"Received: uint8 of shape \(8,\)"),
        (np.zeros((0, 8, 8), np.uint8), r"Received: uint8 of shape \(0, 8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"for 1 channel\(s\), array with 3"),
        ("nowhere", "data_dir='nowhere'"),
    ],
)
def test_images_that_do_not_fit_are_one_sentence(images, words, trained):
    with pytest.raises(simclr.UserError, match=words):
        simclr.embed(trained, images)


# ---- bad input


REJECTED = [
    (
        "probe",
        {"probes": "knn,svm"},
        "--probes lists knn, logistic, sgd.*probes=svm. Correct --probes",
    ),
    ("probe", {"probes": " , "}, "Received: probes=' , '"),
    ("embed", {"endpoint": "proj_9"}, "An endpoint is one of .*proj_2.*endpoint=proj_9"),
    ("embed", {"output": "x.csv"}, "written as .npz or .parquet.*output=x.csv"),
    ("predict", {"output": "x.npz"}, "written as .csv.*output=x.npz"),
    ("embed", {"eval_split": "tset"}, "split='tset'"),
    ("embed", {"checkpoint": "nowhere"}, "nowhere"),
    ("embed", {"resnet_depth": 50}, "resnet_depth=18. Received: resnet_depth=50"),
    ("embed", {"weights": "ema"}, "moving average"),
    ("embed", {"dataset": "folder"}, "Received: data_dir=None"),
    ("probe", {"data_dir": "images", "eval_split": "train"}, "needs labels.*folder"),
    ("embed", {"model_dir": "file"}, "model_dir=file. Choose another"),
]


@pytest.mark.parametrize("mode, flags, words", REJECTED, ids=[str(row[:2]) for row in REJECTED])
def test_bad_input_is_one_sentence(mode, flags, words, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", 2)
    (tmp_path / "file").write_text("not a directory")
    flags = {"model_dir": "out", **flags}
    message = refusal(capsys, use(mode, flags.pop("checkpoint", trained), **flags))
    assert re.search(words, message), message


def test_every_mode_needs_a_network_with_its_model_json(tmp_path, trained, capsys):
    message = refusal(capsys, ["run.py", "--mode=probe", "--dataset=digits"])
    assert "mode=probe needs a trained network" in message
    shutil.copytree(trained, tmp_path / "bare")
    (tmp_path / "bare" / "model.json").unlink()
    message = refusal(capsys, use("embed", tmp_path / "bare", tmp_path / "out"))
    assert "model.json beside it" in message


def test_predictions_need_a_classifier(trained, monkeypatch):
    model, metadata = checkpoint.load_model(str(trained))
    bare = simclr.SimCLR(**{**model.hyperparameters, "num_classes": 0})
    monkeypatch.setattr(checkpoint, "load_model", lambda *_, **__: (bare, metadata))
    with pytest.raises(simclr.UserError, match="needs? a network with a classifier"):
        simclr.predict(trained, np.zeros((1, 8, 8), np.uint8))


def test_an_array_is_a_source_like_any_other():
    array = np.random.RandomState(0).randint(0, 256, (5, 4, 4), dtype=np.uint8)
    images = memory.ArraySource(array)
    records = images.load_all("images")
    np.testing.assert_array_equal(records["image"][..., 0], array)
    assert images.ids("images") == [name.decode() for name in records["id"].numpy()]
    assert images.labels("images").tolist() == records["label"].numpy().tolist() == [-1] * 5
    batches = evaluation.Evaluator(
        run_config("unused", image_size=4, eval_batch_size=2), images, tf.distribute.get_strategy()
    ).batches("images")
    assert [int(b["mask"].numpy().sum()) for b in batches] == [2, 2, 1]


# ---- accuracies and figures in Python


def test_score_is_the_accuracy_of_the_predictions(trained):
    digits = digits_lib.DigitsSource().subset("test", range(50))
    results = simclr.score(trained, digits, split="test")
    predicted = simclr.predict(trained, digits, split="test").probabilities.argmax(axis=1)
    assert results["eval/label_top_1_accuracy"] == np.mean(predicted == digits.labels("test"))


def test_score_needs_images_of_the_network_s_classes(trained):
    unlabeled = np.zeros((3, 8, 8), np.uint8)
    with pytest.raises(simclr.UserError, match="10 classes, array with no classes"):
        simclr.score(trained, unlabeled)


def index_of(image, images):
    """Returns the index of an image among others."""
    (index,) = (i for i, other in enumerate(images) if np.allclose(other, image, atol=1e-6))
    return index


def test_figures_in_python_show_the_features_of_embed(trained, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        image_grids, "neighbors", lambda rows, title: drawn.update(rows=rows, title=title) or b"n"
    )
    monkeypatch.setattr(plots, "feature_map", lambda *a, title: drawn.update(map=a) or b"m")
    digits = digits_lib.DigitsSource()
    embedded = simclr.embed(trained, digits, split="test")
    assert simclr.draw_neighbors(trained, digits, split="test") == b"n"
    assert drawn["title"].endswith("\n360 images of digits/test")
    unit = embedded.values / np.linalg.norm(embedded.values, axis=1, keepdims=True)
    images = digits.load_all("test")["image"].numpy() / 255.0
    for query, *others in drawn["rows"]:
        indices = [index_of(cell["image"], images) for cell in (query, *others)]
        names = [digits.class_names[embedded.labels[index]] for index in indices]
        assert [cell["name"] for cell in (query, *others)] == names
        cosines = unit @ unit[indices[0]]
        shown = [cell["cosine"] for cell in others]
        np.testing.assert_allclose(shown, cosines[indices[1:]], atol=1e-5)
        highest = np.sort(np.delete(cosines, indices[0]))[::-1][: len(others)]
        np.testing.assert_allclose(shown, highest, atol=1e-5)
    assert simclr.draw_map(trained, digits, split="test", features=embedded) == b"m"
    points, labels, classes = drawn["map"]
    assert len(points) == 360 and classes == digits.class_names
    np.testing.assert_array_equal(labels, digits.labels("test"))


def test_drawn_predictions_are_those_of_predict(trained, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        image_grids, "predictions", lambda cells, title: drawn.update(cells=cells) or b"p"
    )
    digits = digits_lib.DigitsSource()
    predictions = simclr.predict(trained, digits, split="test")
    png = simclr.draw_predictions(trained, digits, split="test", predictions=predictions)
    assert png == b"p" and len(drawn["cells"]) == 18
    rows = predictions.rows(top=1)
    images = digits.load_all("test")["image"].numpy() / 255.0
    for cell in drawn["cells"]:
        index = index_of(cell["image"], images)
        assert cell["predicted"] == rows[index]["class"]
        assert cell["probability"] == rows[index]["probability"]
        assert cell["true"] == digits.class_names[digits.labels("test")[index]]
    simclr.draw_predictions(trained, digits.load_all("test")["image"].numpy()[:3])
    assert [cell["true"] for cell in drawn["cells"]] == [None] * 3


def test_a_mode_runs_the_command_of_its_name(monkeypatch):
    calls = []
    names = ["run_probes", "write_embeddings", "write_predictions", "write_images_to_label"]
    names += ["write_audit", "export_network"]
    for name in names:
        monkeypatch.setattr(commands, name, lambda config, name=name: calls.append(name))
    for mode in ("probe", "embed", "predict", "select", "audit", "export"):
        commands.run(run_config("unused", mode=mode, checkpoint="somewhere"))
    assert calls == names
