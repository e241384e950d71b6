"""A training directory of the reference's TF2 program is used where ours are, and left alone."""

import json
import os

import ckpt
import numpy as np
import pytest
import small
import tensorflow as tf

import tf2 as simclr
from checkpoints_tools import convert, name_map
from tf2 import resolve, run, run_directory
from tf2.checkpoints import checkpoint_reader, layouts, reference_checkpoints, reference_tf2

STEP = 40


def write_run(directory, architecture=ckpt.SMALL, **flags):
    """Writes what the reference's program leaves in a model_dir, filled by the rule."""
    canonical, shapes = layouts.canonical(architecture), layouts.weights(architecture)
    keys = reference_tf2.keys(architecture)
    model = ckpt.Reference({key: shapes[ours] for ours, key in keys.items()})
    for ours, key in keys.items():
        model.variables_by_key[key].assign(ckpt.fill(canonical[ours], shapes[ours]))
    step = tf.Variable(STEP, dtype=tf.int64)
    tf.train.Checkpoint(model=model, global_step=step).write(str(directory / f"ckpt-{STEP}"))
    directory.joinpath("checkpoint").write_text(f'model_checkpoint_path: "ckpt-{STEP}"\n')
    if flags:
        directory.joinpath("flags.json").write_text(json.dumps(flags))
    return str(directory)


def fine_tuned(**changes):
    """Returns the flags.json of a fine-tuning, with absl's flags among them."""
    return {
        "train_mode": "finetune", "ft_proj_selector": 0, "image_size": 24, "dataset": "digits",
        "eval_split": "test", "use_tpu": True, "logtostderr": False, "data_dir": None, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def their_run(tmp_path_factory):
    gray = {**ckpt.SMALL, "channels": 1}  # as the digits are
    return write_run(tmp_path_factory.mktemp("theirs"), gray, **fine_tuned())


def test_its_size_and_grid_are_those_of_its_flags(their_run, tmp_path):
    model, metadata = simclr.load_model(their_run)
    assert metadata["preprocessing"]["image_size"] == 24
    assert metadata["preprocessing"]["center_crop"] is None
    assert metadata["preprocessing"]["resize"] == "half_pixel"
    assert (metadata["dataset"], metadata["global_step"]) == ("digits", STEP)
    named = simclr.named_variables(model)
    for ours, value in ckpt.expected(model.hyperparameters).items():
        np.testing.assert_array_equal(named[ours].numpy(), value, err_msg=ours)

    convert.convert(their_run, str(tmp_path / "ours"), "ours")
    converted = simclr.load_model(tmp_path / "ours").metadata
    assert converted["preprocessing"] == metadata["preprocessing"]
    assert converted["architecture"] == metadata["architecture"]


def test_without_flags_the_size_is_assumed_aloud(tmp_path, caplog):
    write_run(tmp_path)
    found = checkpoint_reader.read_metadata(str(tmp_path))["preprocessing"]
    assert (found["image_size"], found["resize"]) == (32, "half_pixel")
    assert "image size: 224 is assumed, 32 for a cifar stem" in caplog.text


def test_a_tf1_run_keeps_its_size_and_the_legacy_grid(tmp_path):
    ckpt.write_tf1(tmp_path / "model.ckpt-7", ckpt.released(ckpt.shapes(), ema=False))
    tmp_path.joinpath("flags.json").write_text(json.dumps({"image_size": 64}))
    for found in (
        checkpoint_reader.read_metadata(str(tmp_path)),
        convert.read(str(tmp_path)).metadata,
    ):
        assert found["preprocessing"]["image_size"] == 64
        assert found["preprocessing"]["center_crop"] == 0.875
        assert found["preprocessing"]["resize"] == "legacy"
        assert found["global_step"] == 1234


@pytest.mark.parametrize(
    ("flags", "selector"),
    [
        ({"ft_proj_selector": 1}, 1),
        ({"ft_proj_selector": 3}, None),  # 16 wide, the stored head is on 64
        ({"ft_proj_selector": 9}, None),
        ({"ft_proj_selector": "1"}, None),
        ({"ft_proj_selector": 1, "train_mode": "pretrain"}, None),
        ({"ft_proj_selector": 1, "image_size": -3}, 1),
    ],
)
def test_the_layer_of_the_classifier_is_that_of_the_flags(flags, selector):
    architecture = {**ckpt.SMALL, "num_proj_layers": 3, "ft_proj_selector": None}
    origin = reference_checkpoints.Origin("half_pixel", fine_tuned(**flags))
    found = reference_checkpoints.with_selector(architecture, origin)
    assert found["ft_proj_selector"] == selector
    size = reference_checkpoints.describe(found, 1, origin)["preprocessing"]["image_size"]
    assert size == (24 if flags.get("image_size", 1) > 0 else 32)


def test_it_is_evaluated_where_it_is(their_run, capsys):
    before = sorted(os.listdir(their_run))
    assert run.run_argv(["run.py", "--mode=eval", f"--model_dir={their_run}"]) == 0
    assert "Results on digits/test, 360 images" in capsys.readouterr().out
    with open(os.path.join(their_run, "result.json")) as f:
        results = json.load(f)
    model, _ = simclr.load_model(their_run)
    config = simclr.configure(dataset="digits", image_size=24, eval_split="test")
    batches = simclr.build_dataset(config, simclr.load_source("digits"), "test", training=False)
    correct = 0
    for batch in batches:
        classes = model(batch["image"], training=False)["logits_sup"].numpy().argmax(axis=1)
        real = batch["mask"].numpy() > 0
        correct += np.sum((classes == batch["label"].numpy().argmax(axis=1))[real])
    assert results["eval/label_top_1_accuracy"] == correct / 360
    assert results["global_step"] == STEP
    written = set(os.listdir(their_run)) - set(before)
    assert {"best", "model.json"}.isdisjoint(written) and "result.json" in written


def test_it_is_resumed_in_a_copy(their_run, capsys):
    sentence = small.refusal(capsys, small.command(their_run))
    assert f"checkpoints_tools.convert {their_run} COPY --to=ours" in sentence
    assert run_directory.is_of_reference(their_run)


def test_a_run_that_starts_from_it_takes_its_size_and_network(their_run, tmp_path):
    given = simclr.configure(train_mode="finetune", checkpoint=their_run, model_dir=str(tmp_path))
    taken = resolve.resolve(given)
    assert (taken.image_size, taken.resnet_depth, taken.stem) == (24, 18, "cifar")
    assert taken.width_multiplier == ckpt.SMALL["width_multiplier"]
    pretraining = simclr.SimCLR(**{**ckpt.SMALL, "channels": 1, "num_classes": 0})
    assert simclr.load_weights(pretraining, their_run).complete  # with all projection layers


SE = {"se_ratio": 0.25, "num_classes": 0, "width_multiplier": 0.125}


@pytest.mark.parametrize("architecture", [
    {"depth": 18, "stem": "cifar"}, {"depth": 50, "sk_ratio": 0.0625},
])  # fmt: skip
def test_squeeze_and_excitation_goes_to_the_references_program_and_back(architecture, tmp_path):
    architecture = {**ckpt.SMALL, "stem": "imagenet", **SE, **architecture}
    tmp_path.joinpath("theirs").mkdir()
    theirs = write_run(tmp_path / "theirs", architecture, image_size=64)
    network = ckpt.assert_same(theirs, ckpt.expected(architecture))
    assert network.metadata["architecture"]["se_ratio"] == 0.25
    convert.convert(theirs, str(tmp_path / "ours"), "ours")
    convert.convert(str(tmp_path / "ours"), str(tmp_path / "back"), "reference_tf2")
    stored = {
        path: set(tf.train.load_checkpoint(tf.train.latest_checkpoint(path))
        .get_variable_to_shape_map())
        for path in (theirs, str(tmp_path / "back"))
    }  # fmt: skip
    assert stored[theirs] - {f"save_counter{reference_tf2.VALUE}"} <= stored[str(tmp_path / "back")]


def test_squeeze_and_excitation_has_the_references_attributes():
    """As its classes name them: a list of layers in a bottleneck, an attribute in a basic block."""
    group = "model/resnet_model/block_groups/1/layers/0"
    name = "backbone/block_group2/0/se/reduce/bias"
    places = {
        (18, 0.0): "se_layer", (50, 0.0): "conv_relu_dropblock_layers/9",
        (50, 0.0625): "conv_relu_dropblock_layers/8",
    }  # fmt: skip
    for (depth, sk_ratio), place in places.items():
        architecture = {
            **ckpt.SMALL, **SE, "stem": "imagenet", "depth": depth, "sk_ratio": sk_ratio
        }  # fmt: skip
        assert reference_tf2.paths(architecture)[name] == f"{group}/{place}/se_reduce/bias"


def test_the_order_of_a_basic_block_is_that_of_its_attributes():
    """Keras gathers the lists of a block in the order of their first assignment."""
    architecture = {**ckpt.SMALL, **SE}
    paths = [p for p in reference_tf2.paths(architecture).values() if "/1/layers/0/" in p]
    parts = [path.split("/layers/0/")[1].split("/")[0] for path in name_map.reference_order(paths)]
    assert list(dict.fromkeys(parts)) == ["conv2d_bn_layers", "shortcut_layers", "se_layer"]
