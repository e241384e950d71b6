"""A run from start to end, in one process: what it leaves, how it resumes, what it refuses."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import small
import tensorflow as tf

import tf2 as simclr
from tf2 import (
    config,
    data,
    errors,
    identity,
    knn,
    metrics,
    pipeline,
    progress,
    resnet,
    resolve,
    run,
    training,
    watch,
)
from tf2 import job as job_lib
from tf2.apply import inference
from tf2.checkpoints import checkpoint_reader
from tf2.sources import digits as digits_lib
from tf2.sources import loaders

# Later stages read the architecture from the checkpoint: these are left out there.
ARCHITECTURE = ("resnet_depth", "width_multiplier", "num_proj_layers", "proj_out_dim", "image_size")


def later(model_dir, **changes):
    return small.run_config(model_dir, **{**dict.fromkeys(ARCHITECTURE), **changes})


def weights(model_dir):
    return checkpoint_reader.read_weights(str(model_dir))[0]


def top_k(model, k):
    """Returns the fraction of digits' test images whose class is among a model's k first."""
    source = loaders.load_source("digits")
    batches = data.build_eval_dataset(source, "test", batch_size=360, image_size=16)
    batch = next(iter(batches))
    logits = model(batch["image"], training=False)["logits_sup"].numpy()
    first = np.argsort(-logits, axis=1)[:, :k]
    return np.mean(np.any(first == np.argmax(batch["label"], axis=1)[:, None], axis=1))


@pytest.fixture(scope="module")
def pretrained(pretrained_run, tmp_path_factory):
    """A copy of the session's pretrained run, which some tests evaluate again."""
    return shutil.copytree(pretrained_run, tmp_path_factory.mktemp("pretrained") / "run")


def test_a_run_writes_checkpoints_results_and_an_export(pretrained):
    names = set(os.listdir(pretrained))
    assert {"checkpoint", "ckpt-4.index", "flags.json", "model.json", "variables.json"} <= names
    assert {"result.json", "result_4.json", "best", "saved_model"} <= names
    assert os.listdir(pretrained / "saved_model") == ["4"]
    assert (pretrained / "saved_model" / "4" / "model.json").exists()
    result = json.loads((pretrained / "result.json").read_text())
    assert result["global_step"] == 4.0
    assert result["eval/majority_class_accuracy"] == pytest.approx(0.1, abs=0.01)
    assert result["eval/chance_accuracy"] == result["eval/majority_class_accuracy"]
    model = simclr.load_model(str(pretrained))[0]
    assert result["eval/label_top_1_accuracy"] == pytest.approx(top_k(model, 1))
    assert result["eval/label_top_5_accuracy"] == pytest.approx(top_k(model, 5))
    assert result["eval/knn_accuracy"] > 0.3
    assert result["eval/knn_accuracy_untrained"] > 0.3  # pixels alone tell digits apart
    assert result == json.loads((pretrained / "result_4.json").read_text())


def test_model_json_holds_architecture_preprocessing_and_classes(pretrained):
    stored = json.loads((pretrained / "model.json").read_text())
    assert stored["architecture"]["depth"] == 18
    assert stored["architecture"]["width_multiplier"] == 0.125
    assert stored["preprocessing"]["image_size"] == 16
    assert stored["class_names"] == [str(i) for i in range(10)]
    assert (stored["global_step"], stored["train_steps"], stored["seed"]) == (4, 4, 0)
    assert stored["versions"]["tensorflow"] == tf.__version__


def test_tensorboard_tags_match_the_reference(pretrained):
    tags, images = set(), set()
    for path in pretrained.glob("events.out.tfevents.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                kind = value.metadata.plugin_data.plugin_name
                (images if kind == "images" else tags).add(value.tag)
    train = ("contrast_loss", "contrast_acc", "contrast_entropy", "supervised_loss")
    train += ("supervised_acc", "weight_decay", "total_loss", "alignment", "uniformity")
    assert {f"train/{name}" for name in (*train, "embedding_std")} <= tags
    assert {"learning_rate", "eval/label_top_1_accuracy", "eval/regularization_loss"} <= tags
    assert images == {"train/augmented_pairs"}


@pytest.mark.slow
def test_a_resumed_run_of_a_resnet_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    """With all augmentations; test_memory_runs.py resumes one convolution with a memory."""

    def train(directory):
        pipeline.run(small.run_config(directory, color_jitter_strength=1.0, use_blur=True))

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    small.assert_resumes_as_if_never_stopped(train, whole, stopped, monkeypatch)


def test_a_finished_run_is_reported_and_unchanged(pretrained, capsys):
    before = (pretrained / "ckpt-4.index").stat().st_mtime_ns
    pipeline.run(small.run_config(pretrained))
    assert "already finished at step 4" in capsys.readouterr().out
    assert (pretrained / "ckpt-4.index").stat().st_mtime_ns == before


def test_evaluation_needs_only_model_dir(pretrained, capsys):
    expected = json.loads((pretrained / "result.json").read_text())
    (pretrained / "result.json").unlink()
    pipeline.run(config.Config(mode="eval", model_dir=str(pretrained), eval_knn="off"))
    found = json.loads((pretrained / "result.json").read_text())
    for name in ("eval/label_top_1_accuracy", "eval/label_top_5_accuracy", "global_step"):
        assert found[name] == pytest.approx(expected[name])
    assert "top-1 accuracy" in capsys.readouterr().out


def test_linear_evaluation_trains_only_the_classifier(pretrained, tmp_path):
    pipeline.run(
        later(
            tmp_path,
            train_mode="finetune",
            fine_tune_after_block=4,
            checkpoint=str(pretrained),
            labels_per_class=4,
            optimizer="momentum",
        )
    )
    before, after = weights(pretrained), weights(tmp_path)
    backbone = [name for name in after if name.startswith("backbone/")]
    assert len(backbone) > 100
    for name in backbone:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert np.abs(after["supervised_head/dense/kernel"]).max() > 0
    assert not [name for name in after if name.startswith("projection_head/")]
    ids = (tmp_path / "labeled_ids.txt").read_text().split()
    assert len(set(ids)) == 40


def test_fine_tuning_from_an_export_and_a_middle_layer(pretrained, tmp_path, capsys):
    pipeline.run(
        later(
            tmp_path,
            mode="train_then_eval",
            train_mode="finetune",
            checkpoint=str(pretrained / "saved_model" / "4"),
            ft_proj_selector=1,
            zero_init_logits_layer=True,
            label_fraction=0.1,
            train_steps=2,
        )
    )
    after = weights(tmp_path)
    assert "projection_head/0/dense/kernel" in after
    assert "projection_head/1/dense/kernel" not in after
    assert "supervised head" in capsys.readouterr().out
    assert len((tmp_path / "labeled_ids.txt").read_text().split()) == pytest.approx(144, abs=5)


def test_a_supervised_baseline_starts_from_its_seeds_weights(tmp_path, small_backbone):
    settings = small.run_config(
        tmp_path, mode="train_then_eval", train_mode="supervised", train_steps=1, learning_rate=0.0
    )
    pipeline.run(settings)
    random = training.build_train_state(settings, num_examples=100, num_classes=10, channels=1)
    saved = weights(tmp_path)
    assert "supervised_head/dense/kernel" in random.trained
    for name, variable in random.trained.items():
        np.testing.assert_array_equal(saved[name], variable.numpy(), err_msg=name)
    result = json.loads((tmp_path / "result.json").read_text())
    model = simclr.load_model(str(tmp_path))[0]
    assert result["eval/label_top_1_accuracy"] == pytest.approx(top_k(model, 1))


def test_eval_name_is_a_separate_tensorboard_run(pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path / "run")
    before = metrics.read_scalars(str(tmp_path / "run"))
    pipeline.run(
        config.Config(
            mode="eval", model_dir=str(tmp_path / "run"), eval_knn="off", eval_name="again"
        )
    )
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    points = metrics.read_scalars(str(tmp_path / "run" / "again"))
    assert points["eval/label_top_1_accuracy"] == [
        (4, pytest.approx(result["eval/label_top_1_accuracy"]))
    ]
    assert metrics.read_scalars(str(tmp_path / "run")) == before


@pytest.mark.parametrize(
    "change, values",
    [
        ({"temperature": 0.5}, "temperature=0.1, this command has temperature=0.5"),
        ({"learning_rate": 0.2}, "learning_rate=0.1, this command has learning_rate=0.2"),
        ({"weight_decay": 0.5}, "weight_decay=1e-06, this command has weight_decay=0.5"),
        ({"crop_min_area": 0.5}, "crop_min_area=0.08, this command has crop_min_area=0.5"),
        ({"checkpoint": "elsewhere"}, "checkpoint=None, this command has checkpoint=elsewhere"),
    ],
    ids=str,
)
def test_resuming_with_other_training_settings_raises(change, values, pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path / "run")
    flags = (tmp_path / "run" / "flags.json").read_text()
    with pytest.raises(errors.UserError, match=values) as caught:
        pipeline.run(small.run_config(tmp_path / "run", train_steps=6, **change))
    assert "Choose another --model_dir, or give the run's own flags." in str(caught.value)
    assert (tmp_path / "run" / "flags.json").read_text() == flags


def test_logging_and_length_may_change_and_missing_flags_are_defaults():
    stored = config.Config(train_steps=4).as_flags()
    del stored["contrastive_loss"]  # of a later version
    changes = {"train_steps": 6, "knn_every_epochs": 2, "plots": False, "eval_steps": 1}
    identity.check_same_run("runs/a", stored, config.Config(**changes))
    with pytest.raises(errors.UserError, match="contrastive_loss=ntxent, this command has"):
        identity.check_same_run("runs/a", stored, config.Config(contrastive_loss="supcon"))


def test_evaluation_without_a_head_reports_the_contrastive_loss(tmp_path, small_backbone):
    pipeline.run(
        small.run_config(
            tmp_path, mode="train_then_eval", lineareval_while_pretraining=False, train_steps=1
        )
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["eval/contrast_loss"] > 0
    assert "eval/label_top_1_accuracy" not in result


def test_a_flag_that_contradicts_the_checkpoint_raises(pretrained, tmp_path):
    wrong = later(tmp_path, train_mode="finetune", checkpoint=str(pretrained), resnet_depth=34)
    with pytest.raises(errors.UserError, match="resnet_depth=18.*resnet_depth=34"):
        pipeline.run(wrong)


def test_a_run_killed_before_its_first_checkpoint_decides_nothing(
    pretrained, tmp_path, monkeypatch
):
    monkeypatch.setattr(resnet, "ResNet", small.Backbone)
    for name in ("model.json", "flags.json"):
        shutil.copy(pretrained / name, tmp_path)
    other = small.run_config(tmp_path, width_multiplier=0.25, seed=9)
    assert resolve.resolve(other).width_multiplier == 0.25
    pipeline.train(other)
    assert json.loads((tmp_path / "flags.json").read_text())["seed"] == 9
    stored = json.loads((tmp_path / "model.json").read_text())
    assert stored["architecture"]["width_multiplier"] == 0.25


def test_a_directory_of_another_run_raises(pretrained):
    with pytest.raises(errors.UserError, match="optimizer=lars.*optimizer=adam"):
        pipeline.run(small.run_config(pretrained, optimizer="adam", train_steps=6))


def test_a_non_finite_loss_preserves_the_last_good_checkpoint(tmp_path, small_backbone):
    rates = {"optimizer": "momentum", "learning_rate": 1e9, "weight_decay": 1e9}
    hot = small.run_config(tmp_path, checkpoint_steps=1, **rates)
    with pytest.raises(errors.UserError, match=r"stopped at step \d.*must be finite.*ckpt-"):
        pipeline.run(hot)
    assert all(np.isfinite(v).all() for v in weights(tmp_path).values())


@pytest.mark.parametrize(
    "settings, apart",
    [
        ({"train_mode": "finetune"}, 20),
        ({"train_mode": "finetune", "labels_per_class": 4}, 20),
        ({"train_mode": "supervised", "label_fraction": 0.01}, 20),
        ({"train_mode": "supervised", "label_fraction": 0.01, "checkpoint_epochs": 5}, 35),
        ({"train_mode": "pretrain", "label_fraction": 0.01}, 20),
        ({"labels_per_class": 4, "train_mode": "finetune", "checkpoint_steps": 1}, 1),
    ],
)
def test_checkpoints_are_further_apart_than_epochs_of_few_steps(settings, apart):
    found = pipeline._steps_between_checkpoints(config.Config(**settings), 7, 400)
    assert found == apart
    asked = config.Config(train_mode="finetune", labels_per_class=4)
    asked = asked.replace(explicit=asked.explicit | {"checkpoint_epochs"})
    assert pipeline._steps_between_checkpoints(asked, 7, 400) == 7
    # At most a hundred steps apart on all images, where epochs are shorter than that.
    pretraining = config.Config(train_mode="pretrain")
    assert pipeline._steps_between_checkpoints(pretraining, 7, 40_000) == 100
    assert pipeline._steps_between_checkpoints(pretraining, 700, 40_000) == 700


def test_a_split_smaller_than_a_batch_raises(tmp_path):
    with pytest.raises(errors.UserError, match="1437.*train_batch_size=2048|2048.*1437"):
        pipeline.run(small.run_config(tmp_path, train_batch_size=2048))


def test_a_model_dir_that_is_a_file_raises(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match="model_dir"):
        pipeline.run(small.run_config(tmp_path / "file"))


def test_evaluation_without_a_run_raises(tmp_path):
    with pytest.raises(errors.UserError, match="--mode=eval needs.*without a model.json"):
        pipeline.run(config.Config(mode="eval", model_dir=str(tmp_path)))


def write_images(directory, classes):
    for label in range(classes):
        for number in range(2):
            value = tf.fill([8, 8, 3], tf.cast(20 * label + number, tf.uint8))
            tf.io.write_file(f"{directory}/{label}/{number}.png", tf.io.encode_png(value))
    return f"--data_dir={directory}"


class Rgb(digits_lib.DigitsSource):
    """The digits in color."""

    def __init__(self):
        super().__init__()
        self.channels = 3


@pytest.mark.parametrize("classes, words", [(10, None), (3, "for 10 classes.*folder with 3")])
def test_a_folder_is_evaluated_with_the_networks_channels_and_classes(
    classes, words, pretrained, tmp_path, capsys
):
    shutil.copytree(pretrained, tmp_path / "run")
    args = ["run.py", "--mode=eval", "--dataset=folder", write_images(tmp_path / "p", classes)]
    args += ["--eval_split=train", "--eval_knn=off", f"--model_dir={tmp_path / 'run'}"]
    capsys.readouterr()
    assert run.run_argv(args) == (1 if words else 0)
    said = capsys.readouterr()
    if words:
        (line,) = said.err.splitlines()
        assert re.match(f"run.py: An evaluation needs images of the kind.*{words}", line)
    else:  # the digits' network is for one channel, and the images are in color
        assert "Results on folder/train, 20 images:" in said.out and not said.err


def test_images_with_other_channels_than_the_network_raise(pretrained, monkeypatch, capsys):
    monkeypatch.setattr(digits_lib, "DigitsSource", Rgb)
    capsys.readouterr()
    args = ["run.py", "--mode=eval", "--dataset=digits", f"--model_dir={pretrained}"]
    assert run.run_argv(args) == 1
    (line,) = capsys.readouterr().err.splitlines()
    expected = (
        f"Received: model_dir={pretrained} for 1 channel(s), dataset=digits with 3. Give other"
    )
    assert line.startswith("run.py: An evaluation needs images") and expected in line


def test_waiting_for_a_checkpoint_ends_at_the_timeout(tmp_path):
    waiting = config.Config(
        mode="eval", model_dir=str(tmp_path), eval_timeout=1, eval_split="test", image_size=16
    )
    with pytest.raises(errors.UserError, match="eval_timeout=1"):
        pipeline.run(waiting)


def test_the_python_api_trains_and_evaluates(tmp_path, small_backbone):
    settings = small.run_config(tmp_path, train_steps=1, train_mode="supervised")
    state = simclr.train(settings)
    results = simclr.evaluate(settings, state.model)
    assert int(state.global_step.numpy()) == 1
    assert results["eval/label_top_1_accuracy"] == pytest.approx(top_k(state.model, 1))
    loaded = simclr.SimCLR(**state.model.hyperparameters)
    assert not simclr.load_weights(loaded, str(tmp_path), restore_head=True).missing
    for name, variable in simclr.named_variables(loaded).items():
        np.testing.assert_array_equal(variable.numpy(), state.named[name].numpy())


def test_knn_accuracy_is_measured_while_pretraining(tmp_path, capsys, small_backbone):
    flags = {"width_multiplier": 0.0625, "image_size": 8, "train_batch_size": 718}
    pipeline.run(
        small.run_config(tmp_path, knn_every_epochs=1, train_steps=5, checkpoint_steps=2, **flags)
    )  # 2 steps an epoch
    out = capsys.readouterr().out
    said = re.findall(r"after step (\d+): ([\d.]+) %", out)
    # Before the first step, and once although both measurements are after a third of the steps.
    untrained = set(re.findall(r"untrained: ([\d.]+) %", out))
    assert len(untrained) == 1 and out.count("no better than those of an untrained") <= 1
    points = {
        event.step: float(tf.make_ndarray(value.tensor))
        for path in tmp_path.glob("events.out.tfevents.*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag == "eval/knn_accuracy"
    }
    assert list(points) == [2, 4]
    assert {int(step): float(percent) for step, percent in said} == {
        step: round(100 * value, 2) for step, value in points.items()
    }
    source = digits_lib.DigitsSource()
    for step, accuracy in points.items():  # as the checkpoint of that step has it
        bank, test = (
            inference.embed(tmp_path / f"ckpt-{step}", source, split=split)
            for split in ("train", "test")
        )
        expected = knn.knn_accuracy(
            *(bank.values, bank.labels, test.values, test.labels), num_classes=10
        )
        assert accuracy == pytest.approx(expected, abs=1 / 360)


def test_knn_accuracy_is_skipped_without_classes(tmp_path, capsys):
    for number in range(4):
        image = np.full((8, 8, 3), 50 * number, np.uint8)
        tf.io.write_file(f"{tmp_path}/images/{number}.png", tf.io.encode_png(image))
    changes = {"dataset": "folder", "data_dir": f"{tmp_path}/images", "train_batch_size": 4}
    job = job_lib.prepare(
        small.run_config(tmp_path / "run", knn_every_epochs=1, eval_split="train", **changes)
    )
    assert watch.Watch(job, 10, 1, print).every == 0
    assert "so --knn_every_epochs is ignored" in capsys.readouterr().out


@pytest.mark.parametrize("moment", ["report", "result"])
def test_a_directory_that_is_deleted_ends_the_run_with_a_sentence(
    moment, tmp_path, capsys, monkeypatch, small_backbone
):
    module, name = {
        "report": (progress.Progress, "update"),
        "result": (metrics.Writer, "write_result"),
    }[moment]
    original = getattr(module, name)

    def deletes(*arguments):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        original(*arguments)

    monkeypatch.setattr(module, name, deletes)
    flags = {"mode": "train_then_eval", "train_mode": "supervised"}
    sentence = small.refusal(capsys, small.command(tmp_path / "run", **flags))
    assert "somebody has deleted" in sentence and f"{tmp_path}/run" in sentence
