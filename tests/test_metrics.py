"""Metrics against the reference's numbers, or against NumPy where the reference has none."""

import json
import math
import os

import numpy as np
import pytest
import reference
import tensorflow as tf

from tf2 import errors, files, metrics

CASES = [f"single{i}" for i in range(9)]


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def two_views(n=6, d=5, noise=0.7, seed=0):
    rng = np.random.RandomState(seed)
    first = rng.standard_normal((n, d))
    return np.concatenate([first, first + noise * rng.standard_normal((n, d))])


@pytest.mark.parametrize("key", CASES)
def test_contrastive_accuracy_and_entropy_are_the_references(key):
    arrays = reference.arrays("04_ntxent/ntxent.npz", f"{key}/logits_ab", f"{key}/labels")
    cases = reference.PACK.json("04_ntxent/ntxent.json")["single"]
    case = next(c for c in cases if c["key"] == key)
    logits, labels = arrays[f"{key}/logits_ab"], arrays[f"{key}/labels"]
    found = float(metrics.contrast_accuracy(logits, labels))
    assert found == pytest.approx(case["contrast_acc"], abs=1e-6)
    found = float(metrics.contrast_entropy(logits))
    assert found == pytest.approx(case["contrast_entropy"], abs=2e-6)


def test_contrastive_accuracy_of_a_replica_finds_its_own_columns():
    arrays = reference.arrays("04_ntxent/ntxent.npz", "multi2/logits_ab", "multi2/labels")
    for logits, labels in zip(arrays["multi2/logits_ab"], arrays["multi2/labels"], strict=True):
        expected = np.mean(logits.argmax(1) == np.nonzero(labels)[1])
        assert float(metrics.contrast_accuracy(logits, labels)) == pytest.approx(expected)


@pytest.mark.parametrize("hidden_norm", [True, False])
def test_full_accuracy_has_all_other_embeddings_as_candidates(hidden_norm):
    hidden = two_views(n=16)
    rows = unit(hidden) if hidden_norm else hidden
    hits = 0
    for i in range(32):
        others = [(rows[i] @ rows[j], j) for j in range(32) if j != i]
        hits += max(others)[1] == (i + 16) % 32
    assert 4 < hits < 28  # neither all nor none, or the comparison would show little
    found = metrics.full_contrast_accuracy(tf.constant(hidden, tf.float32), hidden_norm)
    assert float(found) == pytest.approx(hits / 32)


def test_full_accuracy_is_stricter_than_the_references():
    # Two images whose first views nearly coincide: each is the other's best match, although
    # among second views each finds its own.
    hidden = tf.constant([[1.0, 0.0], [1.0, 0.1], [1.0, -0.8], [1.0, 0.9]])
    rows = tf.math.l2_normalize(hidden, axis=1)
    logits = tf.matmul(rows[:2], rows[2:], transpose_b=True)
    assert float(metrics.contrast_accuracy(logits, np.eye(2, 4))) == 1.0
    assert float(metrics.full_contrast_accuracy(hidden)) < 1.0


def test_alignment_uniformity_and_spread_equal_numpy():
    hidden = two_views()
    a, b = np.split(unit(hidden), 2)
    found = metrics.embedding_scalars(tf.constant(hidden, tf.float32))
    assert float(found["alignment"]) == pytest.approx(np.mean(((a - b) ** 2).sum(1)), rel=1e-5)
    potentials = [
        math.exp(-2 * ((a[i] - a[j]) ** 2).sum()) for i in range(6) for j in range(6) if i != j
    ]
    assert float(found["uniformity"]) == pytest.approx(math.log(np.mean(potentials)), rel=1e-5)
    spread = a.std(axis=0).mean() * math.sqrt(5)
    assert float(found["embedding_std"]) == pytest.approx(spread, rel=1e-5)


def test_collapsed_embeddings_have_no_spread():
    collapsed = tf.ones([8, 4])
    found = {name: float(v) for name, v in metrics.embedding_scalars(collapsed).items()}
    assert found["alignment"] == pytest.approx(0, abs=1e-6)
    assert found["uniformity"] == pytest.approx(0, abs=1e-5)
    assert found["embedding_std"] == pytest.approx(0, abs=1e-4)
    healthy = np.random.RandomState(0).standard_normal((512, 64)).astype("float32")
    assert float(metrics.embedding_std(healthy)) == pytest.approx(1, abs=0.02)


def test_embedding_scalars_of_a_batch_of_one_image():
    """The other view is the only candidate; one embedding has neither a pair nor a spread."""
    hidden = two_views(n=1)
    a, b = unit(hidden)
    scalars = metrics.embedding_scalars(tf.constant(hidden, tf.float32))
    expected = {
        "contrast_acc_full": 1.0,
        "alignment": pytest.approx(np.sum((a - b) ** 2), rel=1e-5),
        "uniformity": 0.0,
        "embedding_std": 0.0,
    }
    assert {name: float(value) for name, value in scalars.items()} == expected


def test_embedding_scalars_have_no_gradient():
    hidden = tf.Variable(two_views().astype("float32"))
    with tf.GradientTape() as tape:
        total = tf.add_n([tf.reduce_sum(v) for v in metrics.embedding_scalars(hidden).values()])
    assert tape.gradient(total, hidden) is None


def test_chance_level_is_the_loss_of_equal_candidates():
    n = 7
    logits = np.zeros(2 * n - 1)
    cross_entropy = -math.log(math.exp(logits[0]) / np.exp(logits).sum())
    assert metrics.chance_level(n) == pytest.approx(cross_entropy)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_equals_sorting(k):
    rng = np.random.RandomState(k)
    logits, classes = rng.standard_normal((50, 10)).astype("float32"), rng.randint(0, 10, 50)
    order = np.argsort(-logits, axis=1)[:, :k]
    expected = [classes[i] in order[i] for i in range(50)]
    found = metrics.in_top_k(np.eye(10)[classes], logits, k)
    np.testing.assert_array_equal(found, expected)
    accuracy = metrics.top_k_accuracy(np.eye(10)[classes], logits, k)
    assert float(accuracy) == pytest.approx(np.mean(expected))


def test_ties_beyond_k_and_nans_are_wrong():
    labels = np.eye(10)
    assert float(metrics.top_k_accuracy(labels, np.zeros((10, 10), "float32"), 5)) == 0.5
    assert float(metrics.top_k_accuracy(labels, np.full((10, 10), np.nan, "float32"), 1)) == 0.0


def read_events(directory):
    found = {}
    for name in os.listdir(directory):
        if "tfevents" in name:
            for record in tf.compat.v1.train.summary_iterator(os.path.join(directory, name)):
                for value in record.summary.value:
                    found[value.tag, record.step] = tf.make_ndarray(value.tensor)
    return found


def test_writer_writes_points_that_tensorboard_reads(tmp_path):
    writer = metrics.Writer(tmp_path)
    writer.scalars({"train/contrast_loss": 1.5, "learning_rate": tf.constant(0.25)}, 7)
    views = np.zeros((10, 4, 6, 6), "float32")
    views[..., 3:] = 1.0  # the second view is white
    writer.image_pairs("train/augmented_pairs", views, 0)
    # Flushed at once: a killed run keeps its curves.
    events = read_events(tmp_path)
    writer.close()
    assert events["train/contrast_loss", 7] == 1.5
    assert events["learning_rate", 7] == 0.25
    width, height, *images = events["train/augmented_pairs", 0]
    assert (int(width), int(height), len(images)) == (12, 4, 8)
    pixels = tf.image.decode_png(images[0]).numpy()
    assert pixels[:, :6].max() == 0 and pixels[:, 6:].min() == 255


@pytest.mark.parametrize("channels, shown", [(1, 1), (2, 1), (3, 3), (4, 1)])
def test_pairs_with_any_number_of_channels_are_written(tmp_path, channels, shown):
    writer = metrics.Writer(tmp_path)
    writer.image_pairs("pairs", np.zeros((2, 4, 4, 2 * channels), "float32"), 0)
    assert tf.image.decode_png(read_events(tmp_path)["pairs", 0][2]).shape[-1] == shown


def test_result_files_have_the_references_names_and_values(tmp_path):
    run = reference.PACK.json("08_trajectory/evaluation.json")["runs"][0]
    expected = run["result_json"]
    values = {name: np.float32(v) for name, v in expected.items() if name != "global_step"}
    metrics.Writer(tmp_path).write_result(values, int(expected["global_step"]))
    names = {n for n in run["model_dir_files"] if n.startswith("result")}
    assert {p.name for p in tmp_path.iterdir()} == names
    for name in names:
        found = json.loads((tmp_path / name).read_text())
        assert found == expected and list(found) == list(expected)
        assert all(isinstance(value, float) for value in found.values())


def test_flags_file_leaves_out_values_that_json_cannot_represent(tmp_path):
    writer = metrics.Writer(tmp_path / "new" / "run")
    writer.write_flags({"seed": 0, "eval_name": None, "flip": True, "layers": [1, 2], "x": object})
    found = json.loads((tmp_path / "new" / "run" / "flags.json").read_text())
    assert found == {"eval_name": None, "flip": True, "layers": [1, 2], "seed": 0}


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})

    def no_space(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")

    monkeypatch.setattr(tf.io.gfile, "rename", no_space)
    with pytest.raises(errors.UserError, match="(?s)result.json needs space.*path=.*--model_dir"):
        files.write_json(path, {"a": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert files.read_json(path) == {"a": 1}


def test_a_model_dir_inside_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match="directory that can be written to.*file/run"):
        metrics.Writer(tmp_path / "file" / "run").write_flags({})


def test_a_truncated_json_file_is_an_error(tmp_path):
    (tmp_path / "model.json").write_text('{"format": 1, "archi')
    with pytest.raises(errors.UserError, match="model.json must hold one JSON object"):
        files.read_json(tmp_path / "model.json")
