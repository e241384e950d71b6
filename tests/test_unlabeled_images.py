"""Images without a label: trained on without it, never part of a supervised loss or accuracy."""

import types

import numpy as np
import pytest
import small
import tensorflow as tf

from tf2 import config as config_lib
from tf2 import errors, evaluation, intervals, job, knn, resolve, run_evaluation, training
from tf2.sources import digits, listing, loaders, source

pytestmark = pytest.mark.usefixtures("one_convolution")


def _log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


class PartlyLabeled(digits.DigitsSource):
    """The digits, of which every tenth has a label, in both splits."""

    every = 10

    def _stored_labels(self, split):
        labels = super()._stored_labels(split).copy()
        labels[np.arange(len(labels)) % self.every != 0] = -1
        return labels


@pytest.fixture
def partly(monkeypatch):
    monkeypatch.setitem(loaders.LOADERS, "digits", lambda options: PartlyLabeled())


# ---- sources


def test_a_source_counts_and_selects_its_labeled_images():
    images = PartlyLabeled()
    assert (images.num_labeled("train"), images.num_labeled("test")) == (144, 36)
    labeled = images.labeled("train")
    assert labeled.num_examples("train") == 144 and labeled.num_stored("train") == 1437
    assert labeled.labels("train").min() == 0
    assert labeled.ids("train") == images.ids("train")[::10] == images.labeled_ids("train")
    assert labeled.num_examples("test") == 360
    whole = digits.DigitsSource()
    assert whole.labeled("train") is whole and whole.num_labeled("train") == 1437


def test_a_large_set_that_tfds_reads_in_sequence_counts_as_labeled():
    class Large(source.Source):
        def may_lack_labels(self, split):
            return False

        def _stored_labels(self, split):
            raise AssertionError("all images were read")

    images = Large("large", {"train": 10}, class_names=("a", "b"))
    assert images.num_labeled("train") == 10 and images.labeled("train") is images


@pytest.mark.parametrize(
    "flags, examples",
    [
        ({}, 1437),
        ({"train_mode": "finetune", "checkpoint": "x"}, 144),
        ({"train_mode": "supervised"}, 144),
        ({"train_mode": "supervised", "labels_per_class": 2}, 20),
        ({"train_mode": "distill", "teacher": "x"}, 1437),
        ({"train_mode": "distill", "teacher": "x", "distill_alpha": 0.5}, 1437),
        ({"train_mode": "supervised", "mode": "predict", "checkpoint": "x"}, 1437),
    ],
)
def test_every_image_is_used_where_it_can_be(partly, flags, examples):
    images = loaders.build_source(config_lib.Config(**flags))
    assert images.num_examples("train") == examples


# ---- losses


def test_the_supervised_loss_and_accuracy_are_those_of_the_labeled_rows():
    random = np.random.RandomState(0)
    logits = random.randn(8, 3).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[random.randint(0, 3, 8)]
    labels[[1, 4, 5]] = 0
    rows = labels.sum(-1) > 0
    scalars = training._supervised_scalars(tf.constant(labels), tf.constant(logits))
    expected = -np.mean((labels * _log_softmax(logits)).sum(-1)[rows])
    np.testing.assert_allclose(scalars["supervised_loss"], expected, rtol=1e-6)
    hits = logits.argmax(-1) == labels.argmax(-1)
    np.testing.assert_allclose(scalars["supervised_acc"], hits[rows].mean(), rtol=1e-6)
    nothing = training._supervised_scalars(tf.zeros([8, 3]), tf.constant(logits))
    assert [float(value) for value in nothing.values()] == [0.0, 0.0]


# ---- evaluation


class _Model:
    """Returns the features and logits that its images are."""

    def __call__(self, images, training=False):
        flat = tf.reshape(images, [tf.shape(images)[0], -1])
        return {"logits_sup": flat[:, :10], "final_avg_pool": flat}


def _evaluator(images):
    flags = {"image_size": 8, "eval_split": "test", "eval_batch_size": 50, "knn_neighbors": 5}
    return evaluation.Evaluator(config_lib.Config(**flags), images, tf.distribute.get_strategy())


def test_the_classification_step_counts_labeled_images_alone():
    images = tf.constant(np.random.RandomState(0).rand(6, 1, 1, 10), tf.float32)
    labels = tf.one_hot([3, -1, 5, 7, -1, 2], 10)
    batch = {"image": images, "label": labels, "mask": tf.constant([1.0, 1, 1, 1, 1, 0])}
    sums = evaluation.make_classification_step(_Model(), top_5=True)(batch)
    logits = images.numpy()[:, 0, 0]
    rows, classes = [0, 2, 3], [3, 5, 7]
    ranks = [int(np.sum(logits[r] > logits[r, c])) for r, c in zip(rows, classes, strict=True)]
    assert float(sums["count"]) == 3
    assert float(sums["top_1"]) == sum(rank < 1 for rank in ranks)
    assert float(sums["top_5"]) == sum(rank < 5 for rank in ranks)
    expected = -sum(_log_softmax(logits)[r, c] for r, c in zip(rows, classes, strict=True))
    np.testing.assert_allclose(sums["loss"], expected, rtol=1e-5)


def test_knn_compares_labeled_images_alone():
    evaluator = _evaluator(PartlyLabeled())
    whole = _evaluator(digits.DigitsSource())
    bank, bank_labels = whole.features(_Model(), "train")
    queries, query_labels = whole.features(_Model(), "test")
    expected = knn.knn_accuracy(
        *(bank[::10], bank_labels[::10], queries[::10], query_labels[::10]), num_classes=10, k=5
    )
    assert evaluator.measures_knn
    np.testing.assert_allclose(evaluator.knn_accuracy(_Model()), expected)


@pytest.mark.parametrize("enough, count", [(36, 36), (37, 36 + 144)])
def test_too_few_held_out_images_are_joined_by_the_labeled_training_images(
    monkeypatch, enough, count
):
    images = PartlyLabeled()  # 36 labeled test images, 144 labeled training images
    monkeypatch.setattr(listing, "HOLDOUT", "test")
    monkeypatch.setattr(intervals, "ENOUGH_IMAGES", enough)
    evaluator = _evaluator(images)
    labels = evaluator.knn_labels()
    assert len(labels) == count and labels.min() >= 0
    if count > 36:
        features = [
            evaluator.features(_Model(), split, labeled=True) for split in ("train", "test")
        ]
        rows, classes = (np.concatenate(parts) for parts in zip(*features, strict=True))
        expected = knn.leave_one_out_accuracy(rows, classes, num_classes=10, k=5)
        np.testing.assert_allclose(evaluator.knn_accuracy(_Model()), expected)
        # 180 images of 10 classes: with more than 18 neighbors the other classes outvote its own.
        evaluator.config = evaluator.config.replace(knn_neighbors=50)
        expected = knn.leave_one_out_accuracy(rows, classes, num_classes=10, k=18)
        assert expected != knn.leave_one_out_accuracy(rows, classes, num_classes=10, k=50)
        np.testing.assert_allclose(evaluator.knn_accuracy(_Model()), expected)


def test_knn_is_bounded_unless_it_is_on(monkeypatch):
    """Images spread over the whole split, since a folder's are in the order of their classes."""
    monkeypatch.setattr(evaluation, "KNN_BANK", 240)
    monkeypatch.setattr(evaluation, "KNN_QUERIES", 90)
    images = digits.DigitsSource()  # 1,437 training images, 360 test images
    evaluator = _evaluator(images)
    bank, bank_labels = evaluator.features(_Model(), "train")
    queries, query_labels = evaluator.features(_Model(), "test")
    chosen = [int(i * 1437 / 240) for i in range(240)]
    expected = knn.knn_accuracy(
        *(bank[chosen], bank_labels[chosen], queries[::4], query_labels[::4]), num_classes=10, k=5
    )
    np.testing.assert_allclose(evaluator.knn_accuracy(_Model()), expected)
    np.testing.assert_array_equal(evaluator.knn_labels(), query_labels[::4])
    assert evaluator.knn_scope() == ", 90 of 360 images (--eval_knn=on: all)"
    evaluator.config = evaluator.config.replace(eval_knn="on")
    expected = knn.knn_accuracy(bank, bank_labels, queries, query_labels, num_classes=10, k=5)
    np.testing.assert_allclose(evaluator.knn_accuracy(_Model()), expected)
    assert evaluator.knn_scope() == ""


def test_images_that_are_read_in_sequence_are_the_first_ones():
    images = digits.DigitsSource()
    images.random_access = False
    assert images.at_most("test", 7).ids("test") == images.ids("test")[:7]
    assert images.at_most("test", 360) is images


@pytest.mark.parametrize("leaves_one_out", [False, True])
def test_the_printed_knn_accuracy_names_its_images(leaves_one_out, monkeypatch):
    monkeypatch.setattr(listing, "HOLDOUT", "test" if leaves_one_out else "holdout")
    monkeypatch.setattr(intervals, "ENOUGH_IMAGES", 37)
    evaluator, lines = _evaluator(PartlyLabeled()), []
    run = types.SimpleNamespace(
        config=evaluator.config, source=evaluator.source, evaluator=evaluator, print=lines.append
    )
    results = {"eval/knn_accuracy": 0.5, "eval/knn_low": 0.43, "eval/knn_high": 0.57}
    run_evaluation.print_results(run, {**results, "eval/num_images": 40.0})
    assert lines[0].endswith("/test, 40 images:")
    assert "50.00 % (43.0 to 57.0)" in lines[1]
    assert lines[1].endswith("each of all 180 labeled by the others") == leaves_one_out


def test_without_labels_to_compare_there_is_no_knn_accuracy():
    class Bare(PartlyLabeled):
        every = 10**9  # the first image alone

    images = Bare().subset("test", range(1, 360))
    assert not _evaluator(images).measures_knn
    assert not evaluation.Evaluator(
        config_lib.Config(eval_split=""), PartlyLabeled(), None
    ).measures_knn


def test_accuracy_of_no_labeled_image_is_one_sentence():
    with pytest.raises(errors.UserError, match="Accuracy needs labeled images"):
        evaluation.classification_results(
            {"count": 0.0, "top_1": 0.0, "loss": 0.0, "class_count": np.zeros(2)}
        )


# ---- runs


def test_a_run_names_its_labeled_images(partly, tmp_path, caplog):
    settings = small.run_config(tmp_path, train_mode="supervised")
    images = loaders.build_source(settings)
    caplog.set_level("INFO", logger="absl")
    job.write_labeled_ids(settings, images, tmp_path)
    assert (tmp_path / "labeled_ids.txt").read_text().split() == PartlyLabeled().ids("train")[::10]
    assert "144 labeled of 1,437 images" in caplog.text


@pytest.mark.parametrize("mode", ["supervised", "finetune"])
def test_a_batch_larger_than_the_labeled_images_is_fitted_and_said(partly, tmp_path, capsys, mode):
    checkpoint = "x" if mode == "finetune" else None
    flags = {"train_mode": mode, "checkpoint": checkpoint, "train_batch_size": 200}
    settings = small.run_config(tmp_path, **flags)
    images = loaders.build_source(settings)
    assert resolve.fit_batch(settings, images, 4).train_batch_size == 144
    fitted = job._with_fitting_batch(settings, images, tf.distribute.get_strategy())
    assert fitted.train_batch_size == 144
    assert capsys.readouterr().out == "The batch is all 144 labeled images, fewer than 200.\n"


def test_a_batch_of_pretraining_is_not_fitted(partly, tmp_path):
    settings = small.run_config(tmp_path, train_batch_size=2000)
    images = loaders.build_source(settings)
    assert resolve.fit_batch(settings, images, 1).train_batch_size == 2000


class _Bare(PartlyLabeled):
    every = 10**9


@pytest.mark.parametrize(
    "images, words",
    [
        (
            _Bare().subset("train", range(1, 1437)),
            "train_mode=supervised needs labels.*split train",
        ),
        (_Bare().subset("test", range(1, 360)), "evaluation split must have labels.*split=test"),
    ],
    ids=["train", "eval"],
)
def test_splits_without_labels_are_found_before_the_training(tmp_path, images, words):
    settings = small.run_config(tmp_path, train_mode="supervised", mode="train_then_eval")
    with pytest.raises(errors.UserError, match=words):
        resolve.check_labels(settings, images)


def test_one_class_is_one_sentence(tmp_path):
    images = digits.DigitsSource()
    images.num_classes = 1
    with pytest.raises(errors.UserError, match="two classes.*1,437 labeled images are all of one"):
        resolve.check_labels(small.run_config(tmp_path, train_mode="supervised"), images)


def test_pretraining_on_a_split_without_labels_has_no_online_classifier(tmp_path, capsys):
    images = _Bare().subset("train", range(1, 1437))
    settings = resolve.fit_to_data(small.run_config(tmp_path), images)
    assert not settings.lineareval_while_pretraining
    assert "no labels" in capsys.readouterr().out


def test_replicas_with_unequal_numbers_of_labels_train_the_online_classifier_as_one():
    """Of 8 images the first two and the last have labels: two on one replica, one on the other."""
    batches = small.make_batches(2, 8, views=2)
    for batch in batches:
        batch["label"][2:7] = 0
    one, two = (small.train(small.mirrored(count), batches) for count in (1, 2))
    for before, after in zip(one[0], two[0], strict=True):
        for name in ("supervised_loss", "supervised_acc", "total_loss"):
            np.testing.assert_allclose(before[name], after[name], rtol=1e-4, err_msg=name)
    moved = {name: value for name, value in one[2].items() if "supervised_head" in name}
    assert len(moved) == 2
    for name, momentum in moved.items():
        assert np.abs(momentum).max() > 0
        np.testing.assert_allclose(momentum, two[2][name], rtol=1e-3, atol=1e-7, err_msg=name)
