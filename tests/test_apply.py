"""Uses of a trained network: probe, embed, predict, export, from the command line."""

import csv
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pyarrow import parquet

from tf2 import checkpoint, datasets, features, run

TINY = ("--recipe=digits", "--width_multiplier=0.125", "--train_batch_size=32", "--train_steps=2")


def call(*flags):
    return run.run_argv(["run.py", *map(str, flags)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained")
    base = (*TINY, "--mode=train", "--export=False")
    assert call(*base, "--train_mode=pretrain", f"--model_dir={directory}/p") == 0
    tuned = ("--train_mode=finetune", f"--checkpoint={directory}/p", "--labels_per_class=4")
    assert call(*base, *tuned, f"--model_dir={directory}/f") == 0
    return directory


def test_probes_write_what_they_measured(trained, tmp_path, capsys):
    flags = (f"--checkpoint={trained}/p", f"--model_dir={tmp_path}", "--labels_per_class=4")
    assert call("--mode=probe", "--probes=knn,logistic,sgd", "--endpoint=proj_1", *flags) == 0
    about = json.loads((tmp_path / "probe.json").read_text())
    assert about["endpoint"] == "proj_1"
    assert (about["train_images"], about["test_images"]) == (40, 360)
    assert set(about["probes"]) == {"knn", "logistic", "sgd"}
    shown = capsys.readouterr().out
    for name, found in about["probes"].items():
        assert 0 <= found["top_1"] <= 1 and 0 <= found["mean_per_class"] <= 1
        assert f"{name:9} top-1 {100 * found['top_1']:6.2f} %" in shown
    assert about["probes"]["logistic"]["l2"] > 0


def test_embeddings_are_the_network_s_features_in_stored_order(trained, tmp_path):
    assert call("--mode=embed", f"--checkpoint={trained}/p", f"--model_dir={tmp_path}") == 0
    with np.load(tmp_path / "embeddings_test.npz") as held:
        found = dict(held)
    source = datasets.load_source("digits")
    assert list(found["ids"]) == source.ids("test")
    np.testing.assert_array_equal(found["labels"], source.labels("test"))
    model, _ = checkpoint.load_model(str(trained / "p"))
    images = tf.cast(source.load_all("test")["image"], tf.float32) / 255  # 8 px, as they are
    expected = model(images, training=False)["final_avg_pool"]
    np.testing.assert_allclose(found["features"], expected, atol=1e-5)
    file = tmp_path / "e.parquet"
    assert call("--mode=embed", f"--model_dir={trained}/p", f"--output={file}") == 0
    table = parquet.read_table(file).to_pydict()
    assert table["id"] == list(found["ids"])
    np.testing.assert_array_equal(np.float32(table["features"]), found["features"])


def test_predictions_are_the_network_s_five_best(trained, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    random = np.random.RandomState(0)
    for number in range(3):
        pixels = random.randint(0, 256, (12, 10), np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    color = ("--dataset=folder", f"--data_dir={pictures}", f"--model_dir={tmp_path / 'out'}")
    network = f"--checkpoint={trained}/f"
    # The digits' network sees one channel, a folder's pictures have three: one sentence.
    assert call("--mode=predict", network, *color) == 1
    assert call("--mode=predict", network, f"--model_dir={tmp_path / 'out'}") == 0
    rows = list(csv.DictReader(open(tmp_path / "out" / "predictions_test.csv")))
    source = datasets.load_source("digits")
    assert [row["path"] for row in rows] == source.ids("test")
    model, _ = checkpoint.load_model(str(trained / "f"))
    images = tf.cast(source.load_all("test")["image"], tf.float32) / 255
    probabilities = tf.nn.softmax(model(images, training=False)["logits_sup"]).numpy()
    for row, expected in zip(rows, probabilities, strict=True):
        best = np.argsort(-expected, kind="stable")
        assert float(row["probability"]) == pytest.approx(expected[best[0]], abs=2e-6)
        assert float(row["probability_5"]) == pytest.approx(expected[best[4]], abs=2e-6)
    assert np.mean([int(r["class"]) == p.argmax() for r, p in zip(rows, probabilities)]) > 0.99  # noqa: B905


def test_an_export_by_itself(trained, tmp_path):
    assert call("--mode=export", f"--checkpoint={trained}/f", f"--model_dir={tmp_path}") == 0
    module = tf.saved_model.load(str(tmp_path / "saved_model" / "2"))
    images = np.random.RandomState(0).uniform(size=(2, 8, 8, 1)).astype(np.float32)
    model, _ = checkpoint.load_model(str(trained / "f"))
    np.testing.assert_allclose(
        module(images, trainable=False)["logits_sup"],
        model(images, training=False)["logits_sup"],
        atol=1e-6,
    )


def test_features_are_computed_once(trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "p", tmp_path / "p", ignore=shutil.ignore_patterns("features"))
    flags = ("--mode=embed", f"--model_dir={tmp_path / 'p'}")
    computed = []
    original = features.Extractor._compute

    def counted(self, *args):
        computed.append(args)
        return original(self, *args)

    monkeypatch.setattr(features.Extractor, "_compute", counted)
    assert call(*flags) == 0 and call(*flags) == 0
    assert len(computed) == 1
    assert call(*flags, "--endpoint=block_group2") == 0  # another endpoint, averaged over places
    with np.load(tmp_path / "p" / "embeddings_test.npz") as held:
        assert held["features"].ndim == 2
    assert call(*flags, "--eval_split=train") == 0  # another split
    assert call(*flags, "--resize=legacy") == 0  # other preprocessing
    other = ("--mode=embed", f"--checkpoint={trained}/f", f"--model_dir={tmp_path / 'p'}")
    assert call(*other) == 0  # other weights
    assert len(computed) == 5


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (("--mode=probe",), "uses a trained network"),
        (("--mode=probe", "--model_dir={p}", "--probes=svm"), "Probes are knn, logistic, sgd"),
        (("--mode=probe", "--model_dir={p}", "--endpoint=block5"), "An endpoint is one of"),
        (("--mode=embed", "--model_dir={p}", "--output={t}/x.txt"), ".npz or .parquet"),
        (("--mode=embed", "--model_dir={t}/nothing"), "A checkpoint must exist"),
        (("--mode=predict", "--model_dir={p}", "--weights=ema"), "moving average"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_sentence(flags, sentence, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert call(*(flag.format(p=trained / "p", t=tmp_path) for flag in flags)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert sentence in lines[-1] and lines[-1].startswith("run.py: ")


def test_predictions_need_a_classifier(trained, tmp_path, capsys):
    base = (*TINY, "--mode=train", "--export=False", "--train_mode=pretrain")
    without = f"--model_dir={tmp_path}/none"
    assert call(*base, without, "--lineareval_while_pretraining=False") == 0
    capsys.readouterr()
    assert call("--mode=predict", without) == 1
    assert "need a network with a classifier" in capsys.readouterr().err
