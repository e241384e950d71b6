"""The plan of a training, against published figures and counts by hand."""

import pathlib
import re

import pytest

from tf2 import errors, recipe, run
from tf2.auto import memory_estimate
from tf2.benchmark import cli, plan

GB = 10**9
OWN = ("--num_images=10", "--num_classes=2")
IMAGENET = plan.Data(images=1_281_167, classes=1000, channels=3)


def only(config, data=IMAGENET, **where):
    (found,) = plan.plan(config, data, **where)
    return found


def test_a_supervised_resnet_50_has_its_published_size_and_work():
    found = only(run.configure(train_mode="supervised", dataset="imagenet2012", ft_proj_selector=0))
    assert found.parameters == 25_557_032  # as torchvision's, with its classifier
    # 4.09 billion products forward; two of each in the backward pass; a product and a sum.
    assert found.flops_per_image == pytest.approx(6 * 4.09e9, rel=0.005)


def test_the_papers_largest_network_has_its_size_and_steps():
    config = run.configure(recipe="imagenet_r152_3x_sk1", train_mode="pretrain")
    found = only(config, replicas=128, device_memory=32 * GB)
    backbone = memory_estimate.layers_of(config.replace(num_proj_layers=0), 0, 3)
    # Table 1 of the paper: 795 million parameters, with the projection head's first layer or not.
    assert sum(layer.trained for layer in backbone) == pytest.approx(795e6, rel=0.05)
    assert found.steps == 1_281_167 * 800 // 4096 + 1
    assert found.batch == 4096


def test_time_is_work_over_speed():
    config = run.configure(recipe="imagenet_r50_1x_sk0", train_mode="pretrain", use_memory=False)
    found = only(config)
    exact = found.steps * 4096 * found.flops_per_image
    assert found.hours(1e15) == pytest.approx(exact / 1e15 / 3600)
    with_average = only(
        config.replace(use_memory=True)
    )  # whose forward pass is a third of the work
    assert with_average.flops_per_image == pytest.approx(found.flops_per_image * 4 / 3)


def test_a_distillation_adds_the_forward_pass_of_its_teacher():
    config = run.configure(recipe="imagenet_r152_1x_sk1", train_mode="simclrv2")
    stages = {stage.name: stage for stage in plan.plan(config, IMAGENET)}
    assert list(stages) == ["pretrain", "finetune", "distill", "student", "supervised"]
    # Trained: three passes. Self-distilled: a fourth, of the teacher, which is the same network.
    distilled, tuned = stages["distill"].flops_per_image, stages["finetune"].flops_per_image
    assert distilled == pytest.approx(tuned * 4 / 3, rel=0.02)
    student = config.for_stage("student")
    own = sum(layer.multiply_adds for layer in memory_estimate.layers_of(student, 1000, 3))
    teacher = config.for_stage("distill")
    taught = sum(layer.multiply_adds for layer in memory_estimate.layers_of(teacher, 1000, 3))
    assert stages["student"].flops_per_image == 6 * own + 2 * taught


def test_what_replicas_send_is_counted_by_hand():
    config = run.configure(
        train_mode="pretrain", dataset="cifar10", resnet_depth=18, image_size=32,
        train_batch_size=64, global_bn=False, proj_out_dim=32,
    )  # fmt: skip
    data = plan.Data(50_000, 10, 3)
    assert only(config, data).sent_per_step == 0
    four = only(config, data, replicas=4)
    # A ring: three quarters of all gradients, twice; three quarters of 2 * 64 embeddings, once.
    assert four.sent_per_step == 4 * 3 * (2 * four.parameters + 2 * 64 * 32) // 4
    with_statistics = only(config.replace(global_bn=True), data, replicas=4)
    assert with_statistics.sent_per_step > four.sent_per_step


def test_the_largest_batch_fits_and_the_next_one_does_not():
    config = run.configure(train_mode="pretrain", dataset="imagenet2012", resnet_depth=50)
    memory = 16 * GB
    found = only(config, replicas=4, device_memory=memory)

    def needed(batch):
        changed = config.replace(train_batch_size=batch)
        return memory_estimate.estimate(changed, 1000, 3, replicas=4).on_gpu()

    assert found.largest_batch > 0 and found.largest_batch % 4 == 0
    assert needed(found.largest_batch) <= memory < needed(found.largest_batch + 4)
    assert only(config, device_memory=GB // 8).largest_batch == 0
    assert only(config, device_memory=GB // 8).micro_batches == 0
    assert only(config).largest_batch is None


def test_the_fewest_micro_batches_that_fit_are_found():
    config = run.configure(train_mode="pretrain", dataset="imagenet2012", train_batch_size=512)
    memory = 16 * GB

    def needed(parts):
        changed = config.replace(micro_batches=parts)
        return memory_estimate.estimate(changed, 1000, 3, replicas=4).on_gpu()

    assert only(config.replace(train_batch_size=64), device_memory=memory).micro_batches == 1
    found = only(config, replicas=4, device_memory=memory)
    assert found.largest_batch < 512 and 512 // 4 % found.micro_batches == 0
    assert needed(found.micro_batches) <= memory < needed(found.micro_batches // 2)
    # The embeddings of all parts take another forward pass.
    more = only(config.replace(micro_batches=found.micro_batches))
    assert more.flops_per_image == pytest.approx(found.flops_per_image * 4 / 3)


def test_few_labels_shorten_the_stages_that_need_them():
    config = run.configure(recipe="digits", train_mode="simclrv2")
    stages = {stage.name: stage for stage in plan.plan(config, plan.data_of(config))}
    assert stages["finetune"].batch == 40  # 4 of each of the 10 digits
    assert stages["pretrain"].steps == 1437 * 80 // 128 + 1


def test_the_data_of_a_recipe_are_known():
    config = run.configure(recipe="cifar10_small")
    assert plan.data_of(config) == plan.Data(10_000, 10, 3)
    assert plan.data_of(config, 700, 3) == plan.Data(700, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset=folder", "--data_dir=x"], "needs the number of training images.*folder"),
        (["--recipe=images", "--data_dir=x", *OWN], "chosen before a training begins"),
        (["--dataset=cifar10", "--replicas=3"], "train_batch_size=512 of pretrain, replicas=3"),
        (["--dataset=cifar10", "--backbone=efficientnet_b0"], "shapes of a ResNet"),
        (["--recipe=imagenet_r5"], "Unknown recipe"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(arguments, message, capsys):
    assert cli.main(["--plan", *arguments]) == 1
    text = capsys.readouterr().err
    assert text.startswith("benchmark: ") and text.count("\n") == 1
    assert re.search(message, text)


def test_the_command_prints_both_tables(capsys):
    arguments = ["--plan", "--recipe=imagenet_r50_1x_sk0", "--replicas=8"]
    assert cli.main([*arguments, "--device_memory_gb=80", "--tflops=100"]) == 0
    text = capsys.readouterr().out
    for word in ("pretrain", "device-days", "250,228", "largest batch that fits", "sent per step"):
        assert word in text
    with pytest.raises(errors.UserError, match="not divisible|divided"):
        plan.plan(run.configure(dataset="cifar10"), IMAGENET, replicas=7)


def test_the_table_of_the_imagenet_recipes_is_the_plans():
    page = (pathlib.Path(__file__).parents[1] / "docs" / "scale.md").read_text()
    rows = dict(re.findall(r"^\| `(imagenet_r\w+)` \| (.+) \|$", page, re.MULTILINE))
    assert list(rows) == [name for name in recipe.names() if name.startswith("imagenet_r")]
    for name, row in rows.items():
        found = only(
            run.configure(recipe=name, train_mode="pretrain"),
            replicas=64, device_memory=80 * GB,
        )  # fmt: skip
        assert row.split(" | ") == [
            f"{found.parameters / 1e6:.0f}",
            f"{found.flops_per_image / 1e9:.0f}",
            f"{found.memory.on_gpu() / GB:.1f}",
            f"{found.largest_batch:,}",
            f"{found.hours(64 * 1e14) * 64 / 24:,.0f}",
        ]


@pytest.mark.parametrize("wrong", ["--replicas=0", "--steps=0", "--num_images=x"])
def test_a_number_that_is_none_is_one_sentence(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--plan", "--recipe=digits", wrong])
    assert stop.value.code == 2
    assert wrong.split("=")[0] in capsys.readouterr().err.splitlines()[-1]
