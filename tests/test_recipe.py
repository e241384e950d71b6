"""Recipes: valid in all that they set, described with their result, and built of each other."""

import re

import pytest
import reference
from absl import flags

from tf2 import config, errors, recipe, run, stages

RESULTS = {
    row["name"]: row
    for row in reference.PACK.json("10_published_results/published_results.json")["simclrv2"]
}


def parse(*args):
    """Makes the Config of a command line, and what the user is told about it."""
    values = flags.FlagValues()
    run.define_flags(values)
    values(["run.py", *args])
    return run.build_config(values)


@pytest.mark.parametrize("name", recipe.names())
def test_all_parts_of_a_recipe_are_valid_and_its_command_is_in_it(name):
    text = (recipe.RECIPES / f"{name}.flags").read_text()
    command = re.search(r"# python tf2/run.py ((?:.*\\\n# )*.*)", text)[1].replace("\\\n#", "")
    command = [arg.replace("DIR", "/data") for arg in command.split()]
    assert any(re.fullmatch(rf"--recipe=(.*,)?{name}", arg) for arg in command)
    made, notes = parse(*command, "--model_dir=m")
    made.validate()
    planned = stages.plan(made, "m")
    assert {"pretrain", "finetune", "distill", "supervised"} <= {step.name for step in planned}
    for step in planned:
        assert step.config.warnings() == []
        if step.name != "pretrain":
            assert step.config.few_labels or step.config.train_mode == "distill" or "100" in name
    assert f"--recipe={name}\n" in recipe.help_text()


@pytest.mark.parametrize("name", RESULTS)
def test_each_published_network_has_its_recipe_with_the_papers_settings(name):
    made, _ = parse(f"--recipe=imagenet_{name}", "--train_mode=simclrv2", "--data_dir=d")
    row = RESULTS[name]
    sk_ratio = 0.0625 if row["sk"] else 0.0
    expected = (row["depth"], row["width"], sk_ratio)
    for part in ("pretrain", "finetune", "distill", "supervised"):
        section = made.for_stage(part)
        found = (section.resnet_depth, section.width_multiplier, section.sk_ratio)
        assert found == expected
    pretrain, finetune = made.for_stage("pretrain"), made.for_stage("finetune")
    # Section 3 of the paper; 64K negatives, a rate of 0.1 * sqrt(4096) = 6.4, 5% of warm-up.
    assert (pretrain.use_memory, pretrain.memory_size, pretrain.ema_decay) == (True, 65536, 0.999)
    assert pretrain.learning_rate * pretrain.train_batch_size**0.5 == pytest.approx(6.4)
    assert pretrain.warmup_epochs == 0.05 * pretrain.train_epochs
    rate = finetune.learning_rate * finetune.train_batch_size**0.5
    large = row["width"] > 1 or row["sk"]
    assert rate == pytest.approx(0.064 if large else 0.16)
    assert (finetune.ft_proj_selector, finetune.weight_decay, finetune.warmup_epochs) == (1, 0, 0)
    assert made.for_stage("distill").distill_temperature == 0.1
    student = steps_student(made)
    assert (student is None) == (name == "r50_1x_sk0")
    if student:
        assert (student.resnet_depth, student.width_multiplier, student.sk_ratio) == (50, 1, 0)
        assert student.distill_temperature == 1
    text = (recipe.RECIPES / f"imagenet_{name}.flags").read_text()
    for key in ("ft_1pct", "ft_10pct", "ft_100pct", "linear_eval", "supervised", "params_M"):
        assert re.search(rf"\b{row[key]}\b", text), key
    assert "Not run here" in text


def steps_student(made):
    return (
        made.for_stage("student") if "student" in {s.name for s in stages.plan(made, "m")} else None
    )


# Number of images -> the released networks' steps (their checkpoints' names): epochs and batch.
@pytest.mark.parametrize(
    "more, images, expected", [("", 12811, 751), (",imagenet_10pct", 128110, 3754)]
)
def test_fine_tuning_has_the_released_networks_number_of_steps(more, images, expected):
    made, _ = parse(f"--recipe=imagenet_r50_1x_sk0{more}", "--train_mode=simclrv2", "--data_dir=d")
    finetune = made.for_stage("finetune")
    found = images * finetune.train_epochs // finetune.train_batch_size + 1
    assert found == expected
    assert made.label_fraction == pytest.approx(round(images / 1281167, 2))


def test_all_labels_are_learned_before_the_projection_head():
    one = "--recipe=imagenet_r152_3x_sk1,imagenet_100pct"
    made, _ = parse(one, "--train_mode=simclrv2", "--data_dir=d")
    finetune, supervised = made.for_stage("finetune"), made.for_stage("supervised")
    assert (finetune.ft_proj_selector, finetune.label_fraction) == (0, 0)
    # 37535 and 28151 steps of the released networks.
    assert 1281167 * finetune.train_epochs // finetune.train_batch_size + 1 == 37535
    assert 1281167 * supervised.train_epochs // supervised.train_batch_size + 1 == 28151


def test_a_recipe_can_take_in_a_file_that_is_no_recipe_itself(tmp_path, monkeypatch):
    (tmp_path / "_base.flags").write_text(
        "# Shared.\n--dataset=digits\n--seed=1\n--train_steps=5\n"
    )
    (tmp_path / "one.flags").write_text("# One.\n\n--flagfile=_base.flags\n--seed=2\n")
    (tmp_path / "two.flags").write_text("# Two.\n--train_epochs=3\n--finetune.seed=4\n")
    monkeypatch.setattr(recipe, "RECIPES", tmp_path)
    assert recipe.names() == ["one", "two"]
    assert "_base" not in recipe.help_text()
    assert run.read_recipe("one") == {"dataset": "digits", "seed": 2, "train_steps": 5}
    both = {"dataset": "digits", "seed": 2, "train_epochs": 3, "finetune.seed": 4}
    assert run.read_recipe("one, two") == both
    for wrong in ("_base", "one,tow", ""):
        with pytest.raises(errors.UserError, match="Unknown recipe; choose from one, two"):
            run.read_recipe(wrong)


@pytest.mark.parametrize(
    "given, whole, student",
    [
        ((), 0.25, 0.125),
        (("--width_multiplier=0.5",), 0.5, 0.125),
        (("--student.width_multiplier=0.0625",), 0.25, 0.0625),
        (("--width_multiplier=0.5", "--student.width_multiplier=0.25"), 0.5, 0.25),
        (("--recipe=digits", "--width_multiplier=0.5"), 0.5, 0.125),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_recipes_student_stays_small_under_a_flag_for_all_parts(given, whole, student):
    made, notes = parse(*given, "--train_mode=simclrv2", "--model_dir=m")
    made.validate()
    found = {step.name: step.config.width_multiplier for step in stages.plan(made, "m")}
    assert found.pop("student") == student
    assert set(found.values()) == {whole}
    told = " ".join(" ".join(notes).split())
    own = any(flag.startswith("--student") for flag in given)
    assert ("--student.width_multiplier=0.125" in told) == (not own)
    if "--width_multiplier=0.5" in given:
        assert "--width_multiplier=0.25" not in told
        assert re.search(r"The command line overrides --width_multiplier[.,]", told)


def test_every_other_flag_for_all_parts_is_the_students_too():
    flags = ("--learning_rate=0.7", "--num_proj_layers=1", "--resnet_depth=34")
    made, _ = parse("--recipe=digits", "--train_mode=simclrv2", *flags)
    student = made.for_stage("student")
    assert (student.learning_rate, student.num_proj_layers) == (0.7, 1)
    assert student.resnet_depth == 34  # the recipe gives the student a width alone
    made, _ = parse("--recipe=imagenet_r152_3x_sk1", "--train_mode=simclrv2", "--resnet_depth=101")
    assert made.for_stage("distill").resnet_depth == 101
    assert made.for_stage("student").resnet_depth == 50


def test_what_a_recipe_sets_is_told_part_by_part_in_short_lines():
    args = ("--recipe=imagenet_r50_2x_sk1", "--train_mode=simclrv2", "--data_dir=d")
    _, notes = parse(*args, "--weight_decay=0", "--model_dir=m")
    lines = notes[0].splitlines()
    assert lines[0] == "Recipe imagenet_r50_2x_sk1 sets" and max(map(len, lines)) <= 100
    starts = [line for line in lines if re.match(r"  --", line)]
    for line, part in zip(starts[1:], config.STAGES, strict=True):
        assert line.startswith(f"  --{part}.")
    told = " ".join(notes[0].split())
    assert "--width_multiplier=2.0 " in told and "--student.resnet_depth=50 " in told
    assert "The command line overrides --weight_decay, --finetune.weight_decay." in told
    assert "weight_decay=" not in told
