"""The estimate of a run's memory: layers, parts, refusals, and measured peaks."""

import ast
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import small
from tf2 import config, errors, machine, model
from tf2.auto import memory_estimate, network_shapes

GIB = 2**30


@pytest.mark.parametrize(
    "arguments",
    [
        {"depth": 18, "width_multiplier": 0.25, "stem": "cifar"},
        {"depth": 50, "width_multiplier": 0.125, "sk_ratio": 0.0625, "stem": "imagenet"},
        {"depth": 50, "width_multiplier": 0.125, "se_ratio": 0.25, "stem": "imagenet"},
    ],
    ids=lambda arguments: "-".join(map(str, arguments.values())),
)
@pytest.mark.parametrize("selector", [None, 1])
def test_the_layers_have_as_many_weights_as_the_network(arguments, selector):
    network = model.SimCLR(num_classes=10, ft_proj_selector=selector, **arguments)
    body = network_shapes.backbone(channels=3, image_size=64, **arguments)
    layers = [layer for part in body for layer in part]
    layers += network_shapes.heads(
        network_shapes.feature_dim(arguments["depth"], arguments["width_multiplier"]),
        proj_head_mode="nonlinear",
        num_proj_layers=3,
        proj_out_dim=128,
        num_classes=10,
        ft_proj_selector=selector,
    )
    expected = sum(int(np.prod(v.shape)) for v in network.weights)
    assert sum(layer.trained + layer.statistics for layer in layers) == expected


def test_a_resnet_50_multiplies_and_adds_four_billion_times():
    """He et al. 2015, table 1: 3.8e9 without strides in the 3x3; 4.1e9 as is common today."""
    body = network_shapes.backbone(
        depth=50, width_multiplier=1, stem="imagenet", channels=3, image_size=224
    )
    assert len(body) == 1 + 16
    assert 4.05e9 < sum(layer.multiply_adds for part in body for layer in part) < 4.15e9


def test_what_a_convolution_keeps_is_counted_by_hand():
    # 9 x 9 x 4 -> 5 x 5 x 8: before and after the rectifier, and the input padded to 11 x 11.
    layer = network_shapes.convolution(9, 4, 8, 3, 2)
    assert layer.output == 200
    assert layer.kept == 2 * 200 + 11 * 11 * 4
    assert (layer.trained, layer.statistics) == (3 * 3 * 4 * 8 + 2 * 8, 2 * 8)
    assert layer.multiply_adds == 25 * 3 * 3 * 4 * 8


def run(**changes):
    return config.Config(
        **{"resnet_depth": 18, "width_multiplier": 0.25, "image_size": 32, **changes}
    )


def parts(**changes):
    return memory_estimate.estimate(run(**changes), 10)


def test_activations_grow_with_the_batch_and_halve_with_one_view_and_over_two_replicas():
    one, two = parts(train_batch_size=64), parts(train_batch_size=128)
    assert two.activations == 2 * one.activations and two.fixed == one.fixed
    finetuning = parts(train_batch_size=64, train_mode="finetune", checkpoint="x")
    assert finetuning.activations == pytest.approx(one.activations / 2, rel=0.01)
    shared = memory_estimate.estimate(run(train_batch_size=128), 10, replicas=2)
    assert shared.activations == one.activations


def test_recomputed_blocks_hold_their_inputs_and_one_of_them_all_it_has():
    """Counted by hand: a stem, two blocks of two layers, a head; (output, kept) of each layer."""
    stem, first, second, head = [[(8, 16)], [(4, 9), (4, 5)], [(2, 5), (6, 7)], [(1, 2)]]
    parts = [
        [network_shapes.Layer(output, kept, 0, 0, 0) for output, kept in part]
        for part in (stem, first, second, head)
    ]
    assert network_shapes.kept(parts, recompute=False) == 16 + 14 + 12 + 2
    assert network_shapes.kept(parts, recompute=True) == 16 + 4 + 12  # in the second block
    parts[1] *= 2
    assert network_shapes.kept(parts, recompute=True) == 16 + 28  # in the first one


def test_micro_batches_divide_the_activations_and_hold_one_gradient_more():
    whole, parts_of_8 = parts(train_batch_size=64), parts(train_batch_size=64, micro_batches=8)
    assert parts_of_8.activations == pytest.approx(whole.activations / 8, rel=0.01)
    assert parts_of_8.batches == whole.batches and parts_of_8.loss == whole.loss
    trained = (parts(optimizer="adam").weights - parts(optimizer="lars").weights) // 4
    assert parts_of_8.weights - whole.weights == 4 * trained


def test_adam_has_one_slot_more_than_lars_and_a_memory_a_second_network():
    lars, adam = parts(optimizer="lars"), parts(optimizer="adam")
    trained = (adam.weights - lars.weights) // 4
    statistics = lars.weights // 4 - 3 * trained
    assert parts(use_memory=True).weights == 4 * (4 * trained + 2 * statistics)
    # 65,536 more negatives for each of 512 images.
    more = parts(use_memory=True).loss - lars.loss
    assert more >= 4 * 512 * 65536


def test_other_backbones_are_not_estimated():
    tiny = machine.MachineFacts(memory=1)
    efficient = run(backbone="efficientnet_b0")
    assert memory_estimate.estimate(efficient, 10) is None
    memory_estimate.check(efficient, tiny, 10)


def test_a_run_that_cannot_fit_is_refused_with_values_that_do():
    wanted = config.Config(train_batch_size=512, image_size=224)
    facts = machine.MachineFacts(memory=16 * GIB)
    with pytest.raises(errors.UserError) as refusal:
        memory_estimate.check(wanted, facts, 10)
    message = str(refusal.value)
    assert "this machine has free 16.0 GiB. Received: train_batch_size=512" in message
    remedies = message.split("Use ")[1].rstrip(".").split(" or ")
    assert remedies[0].startswith("--train_batch_size=")
    assert remedies[1] == "--micro_batches=16"
    for remedy in remedies:
        flag, value = remedy.removeprefix("--").split("=")
        changed = dataclasses.replace(wanted, **{flag: ast.literal_eval(value)})
        memory_estimate.check(changed, facts, 10)
    with pytest.raises(errors.UserError, match="--recompute=True"):
        memory_estimate.check(dataclasses.replace(wanted, train_batch_size=128), facts, 10)
    batch = int(remedies[0].split("=")[1])
    larger = dataclasses.replace(wanted, train_batch_size=batch + 8)  # it is the largest that fits
    assert not memory_estimate.fits(larger, facts, 10)


def test_a_gpu_is_asked_for_its_own_memory_and_an_unknown_one_refuses_nothing():
    wanted = config.Config(train_batch_size=512, image_size=224)
    gpu = machine.MachineFacts(device="gpu", memory=500 * GIB, gpu_memory=16 * GIB)
    with pytest.raises(errors.UserError, match="each GPU has 16.0 GiB"):
        memory_estimate.check(wanted, gpu, 10)
    memory_estimate.check(wanted, dataclasses.replace(gpu, replicas=16), 10)
    memory_estimate.check(wanted, dataclasses.replace(gpu, gpu_memory=0), 10)
    memory_estimate.check(wanted, machine.MachineFacts(device="tpu", memory=1), 10)


def test_a_run_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "usable_memory", lambda: GIB // 2)
    for mode in ("pretrain", "simclrv2"):
        sentence = small.refusal(capsys, small.command(tmp_path / mode, train_mode=mode))
        assert "must fit into memory" in sentence and "0.5 GiB" in sentence
        assert not list(tmp_path.rglob("checkpoint"))


def test_usable_memory_is_what_is_available_within_the_limits_of_control_groups(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (groups / "job").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    (proc / "self" / "status").write_text("Name: python\nVmRSS:\t  500 kB\n")
    (proc / "self" / "cgroup").write_text("0::/job\n")
    (groups / "job" / "memory.max").write_text("max\n")
    (groups / "job" / "memory.current").write_text("1024000\n")

    def usable():
        return machine.usable_memory(proc, groups) // 1024

    assert usable() == 4500
    (groups / "job" / "memory.max").write_text("2048000\n")  # 2,000 KiB, of which 1,000 are used
    assert usable() == 1500
    (groups / "job" / "memory.stat").write_text("anon 3\ninactive_file 204800\n")  # 200 KiB
    assert usable() == 1700
    assert machine.usable_memory(tmp_path / "none", groups) == 0


MEASURED = {
    "small images": {"image_size": 32, "resnet_depth": 18, "train_batch_size": 128},
    "a wide network": {
        **{"image_size": 32, "resnet_depth": 18, "width_multiplier": 1, "train_batch_size": 64},
    },
    "large images": {"image_size": 96, "resnet_depth": 18, "train_batch_size": 128},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_the_estimate_is_within_20_percent_of_the_measured_peak(name, tmp_path):
    settings = {"width_multiplier": 0.25, **MEASURED[name], "use_blur": name == "large images"}
    side = int(1.25 * settings["image_size"])
    random = np.random.RandomState(0)
    for number in range(256):
        pixels = random.randint(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
    settings |= {"dataset": "folder", "data_dir": str(tmp_path), "train_steps": 3}
    flags = {**settings, "model_dir": str(tmp_path / "run"), "export": False, "plots": False}
    program = (
        "import resource, sys; from tf2 import run; assert not run.run_argv(sys.argv);"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    argv = [sys.executable, "-c", program, *(f"--{flag}={value}" for flag, value in flags.items())]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    peak = int(done.stdout.split("peak ")[1]) * 1024
    expected = memory_estimate.estimate(config.Config(**settings), num_classes=0)
    assert expected.total == pytest.approx(peak, rel=0.2)
