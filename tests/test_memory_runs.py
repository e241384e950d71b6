"""Runs with a memory: resuming, and loading the averaged weights afterwards."""

import json
import re
import shutil

import numpy as np
import pytest
import small
import tensorflow as tf

import tf2 as simclr
from tf2 import errors, pipeline, run, training
from tf2.checkpoints import checkpoint, checkpoint_reader

# Networks of one convolution with the real heads; test_distribute.py trains whole ResNets.
pytestmark = pytest.mark.usefixtures("one_convolution")


MEMORY = {"use_memory": True, "memory_size": 50, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("memory")
    pipeline.run(
        small.run_config(
            directory, mode="train_then_eval", weights="ema", export=True, eval_knn="on", **MEMORY
        )
    )
    return directory


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    directory = tmp_path_factory.mktemp("plain")
    pipeline.run(small.run_config(directory, train_steps=1))
    return directory


def part(saved, section):
    return {k.split("/", 1)[1]: v for k, v in saved.items() if k.startswith(section + "/")}


def test_a_resumed_run_equals_an_uninterrupted_one_in_queue_average_and_weights(
    tmp_path, monkeypatch
):
    def train(directory):
        pipeline.run(small.run_config(directory, use_blur=True, **MEMORY))

    saved = small.assert_resumes_as_if_never_stopped(
        train, tmp_path / "whole", tmp_path / "stopped", monkeypatch
    )
    assert saved["memory/written"] == 4 * 32 and saved["memory/ids"].min() >= 0
    # 4 batches of 32 were written to 50 slots, over the end twice: all rows are unit vectors.
    np.testing.assert_allclose(np.linalg.norm(saved["memory/queue"], axis=1), 1.0, rtol=1e-5)
    online, average = part(saved, "model"), part(saved, "ema")
    assert set(online) - set(average) == {f"supervised_head/dense/{w}" for w in ("kernel", "bias")}
    assert any(np.any(online[name] != value) for name, value in average.items())


def test_a_checkpoint_without_ids_resumes_with_unknown_images(pretrained):
    """As runs of earlier versions have saved."""
    config = small.run_config(pretrained, **MEMORY)
    state = training.build_train_state(config, num_examples=99, num_classes=10, channels=1)
    contents = state.checkpoint_variables()
    former = {**contents, "memory": {k: v for k, v in contents["memory"].items() if k != "ids"}}
    saver = checkpoint.Saver(str(pretrained), contents)
    expected = small.saved(pretrained)
    assert saver.restore_latest() == 4 and state.memory.ids.numpy().min() >= 0
    state.memory.ids.assign(-tf.ones_like(state.memory.ids))
    directory = pretrained / "former"
    directory.mkdir()
    checkpoint.Saver(str(directory), former).save(4)
    state.memory.queue.assign(tf.zeros_like(state.memory.queue))
    assert checkpoint.Saver(str(directory), contents).restore_latest() == 4
    np.testing.assert_array_equal(state.memory.queue.numpy(), expected["memory/queue"])
    assert set(state.memory.ids.numpy()) == {-1}


def test_tensorboard_shows_the_filled_share_of_the_memory(pretrained):
    values = []
    for path in pretrained.glob("events.out.tfevents.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            values += [
                tf.make_ndarray(value.tensor).item()
                for value in event.summary.value
                if value.tag == "train/memory_filled"
            ]
    np.testing.assert_allclose(values, [32 / 50, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("weights", ["online", "ema"])
def test_either_set_of_weights_can_be_loaded(pretrained, weights):
    saved = part(small.saved(pretrained), "ema" if weights == "ema" else "model")
    stored = json.loads((pretrained / "model.json").read_text())["architecture"]
    model = simclr.SimCLR(**{**stored, "num_classes": 0})
    report = simclr.load_weights(model, str(pretrained), weights=weights)
    assert not report.missing
    for name, variable in simclr.named_variables(model).items():
        np.testing.assert_array_equal(variable.numpy(), saved[name], err_msg=name)


def test_the_export_holds_the_requested_weights(pretrained):
    export = pretrained / "saved_model" / "4"
    expected = part(small.saved(pretrained), "ema")
    found, metadata = checkpoint.read_weights(str(export))
    assert found.keys() == expected.keys() and metadata["architecture"]["num_classes"] == 0
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    endpoints = tf.saved_model.load(str(export))(tf.zeros([1, 16, 16, 1]), trainable=False)
    assert "proj_head_output" in endpoints and "logits_sup" not in endpoints


def test_evaluation_of_either_set_of_weights(pretrained, tmp_path, capsys):
    at_the_end = json.loads((pretrained / "result.json").read_text())
    copy = tmp_path / "run"
    shutil.copytree(pretrained, copy)
    found = {}
    for weights in ("ema", "online"):
        capsys.readouterr()
        argv = ["run.py", "--mode=eval", f"--model_dir={copy}", f"--weights={weights}"]
        assert run.run_argv([*argv, "--eval_knn=on"]) == 0
        found[weights] = json.loads((copy / "result.json").read_text())
    # Embeddings of a barely trained network are similar: rounding decides which is nearest.
    accuracies = [result.pop("eval/contrast_acc") for result in (found["ema"], at_the_end)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.05)
    assert found["ema"] == pytest.approx(at_the_end, rel=1e-5)
    assert "eval/contrast_loss" in found["ema"]  # the average has no classifier
    assert "eval/label_top_1_accuracy" in found["online"]


@pytest.mark.parametrize("weights", ["online", "ema"])
def test_fine_tuning_starts_from_either_set_of_weights(pretrained, tmp_path, weights):
    config = small.run_config(
        tmp_path,
        **dict.fromkeys(("resnet_depth", "width_multiplier", "num_proj_layers", "proj_out_dim")),
        train_mode="finetune",
        fine_tune_after_block=4,
        checkpoint=str(pretrained),
        weights=weights,
        train_steps=1,
    )
    pipeline.run(config)
    saved = part(small.saved(pretrained), "ema" if weights == "ema" else "model")
    frozen = [name for name in saved if name.startswith("backbone/")]
    assert frozen
    for name in frozen:
        np.testing.assert_array_equal(small.saved(tmp_path)[f"model/{name}"], saved[name])


def test_an_average_starts_at_the_weights_of_the_checkpoint(pretrained, tmp_path):
    config = small.run_config(tmp_path, checkpoint=str(pretrained), learning_rate=0.0, **MEMORY)
    state = training.build_train_state(config, num_examples=99, num_classes=10, channels=1)
    job = pipeline.job_lib.prepare(config)
    saver = checkpoint.Saver(str(tmp_path), state.checkpoint_variables())
    assert pipeline.restore_or_initialize(job, state, saver) == 0
    saved = part(small.saved(pretrained), "model")
    for name, variable in simclr.named_variables(state.memory.encoder).items():
        np.testing.assert_array_equal(variable.numpy(), saved[name], err_msg=name)


# ---- errors


def test_a_missing_average_is_an_error(plain, tmp_path, capsys):
    for path in (plain, checkpoint_reader.latest_checkpoint(str(plain))):
        argv = small.command(
            tmp_path, train_mode="finetune", checkpoint=path, weights="ema", resnet_depth=None
        )
        said = small.refusal(capsys, argv)
        assert "pretraining with a memory" in said and "weights=ema" in said and str(path) in said
    argv = ["run.py", "--mode=eval", f"--model_dir={plain}", "--weights=ema"]
    said = small.refusal(capsys, argv)
    assert "weights=ema" in said and "Use --weights=online" in said
    said = small.refusal(capsys, small.command(tmp_path / "new", weights="ema"))
    assert "weights=ema" in said and "--use_memory" in said


def test_an_export_has_no_second_average(pretrained):
    model = simclr.SimCLR(
        **json.loads((pretrained / "saved_model" / "4" / "model.json").read_text())["architecture"]
    )
    with pytest.raises(errors.UserError, match="weights=ema.*has none. Use --weights=online"):
        simclr.load_weights(model, str(pretrained / "saved_model" / "4"), weights="ema")


@pytest.mark.parametrize("mode", ["finetune", "distill", "supervised"])
def test_a_memory_outside_pretraining_is_an_error(mode, pretrained, tmp_path, capsys):
    more = {"finetune": {"checkpoint": pretrained}, "distill": {"teacher": pretrained}}
    argv = small.command(tmp_path, train_mode=mode, use_memory=True, **more.get(mode, {}))
    said = small.refusal(capsys, argv)
    assert "Only pretraining has a memory" in said and "use_memory=True" in said


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("memory_size", 64, "memory_size=50.*memory_size=64"),
        ("ema_decay", 0.95, "ema_decay=0.9.*ema_decay=0.95"),
        ("memory_loss", "hybrid", "memory_loss=momentum.*memory_loss=hybrid"),
        ("use_memory", False, "use_memory=True.*use_memory=False"),
    ],
)
def test_a_run_cannot_be_resumed_with_another_memory(pretrained, flag, value, words, capsys):
    argv = small.command(pretrained, train_steps=6, **{**MEMORY, flag: value})
    said = small.refusal(capsys, argv)
    assert re.search(words, said) and "Choose another --model_dir" in said


@pytest.mark.parametrize(
    ("flag", "value"), [("memory_size", -1), ("ema_decay", 1.5), ("ema_decay", -0.1)]
)
def test_memory_flags_out_of_range_are_errors(flag, value, tmp_path, capsys):
    said = small.refusal(capsys, small.command(tmp_path, **{**MEMORY, flag: value}))
    assert said.startswith(f"run.py: {flag} must be at least 0") and f"{flag}={value}" in said
