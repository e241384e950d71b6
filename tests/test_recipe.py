"""Recipes: valid settings, a description with results, and included files."""

import re

import pytest
import reference
from absl import flags

from tf2 import config, errors, precedence, recipe, run, stages

RESULTS = {
    row["name"]: row
    for row in reference.PACK.json("10_published_results/published_results.json")["simclrv2"]
}


def parse(*args):
    """Returns the Config of a command line and the messages that are printed."""
    values = flags.FlagValues()
    run.define_flags(values)
    values(["run.py", *args])
    return run.build_config(values)


@pytest.mark.parametrize("name", recipe.names())
def test_all_stages_of_a_recipe_are_valid_and_its_command_is_documented(name):
    text = (recipe.RECIPES / f"{name}.flags").read_text()
    command = re.search(r"# python tf2/run.py ((?:.*\\\n# )*.*)", text)[1].replace("\\\n#", "")
    command = [arg.replace("DIR", "/data") for arg in command.split()]
    assert any(re.fullmatch(rf"--recipe=(.*,)?{name}", arg) for arg in command)
    settings, messages = parse(*command, "--model_dir=m")
    settings.validate()
    planned = stages.plan(settings, "m")
    assert {"pretrain", "finetune", "distill", "supervised"} <= {stage.name for stage in planned}
    for stage in planned:
        assert stage.config.warnings() == []
        if stage.name != "pretrain":
            all_labels = "100" in name or name == precedence.IMAGES
            assert all_labels or stage.config.few_labels or stage.config.train_mode == "distill"
    assert f"--recipe={name}\n" in recipe.help_text()


@pytest.mark.parametrize("name", RESULTS)
def test_each_published_network_has_a_recipe_with_the_papers_settings(name):
    settings, _ = parse(f"--recipe=imagenet_{name}", "--train_mode=simclrv2", "--data_dir=d")
    row = RESULTS[name]
    sk_ratio = 0.0625 if row["sk"] else 0.0
    expected = (row["depth"], row["width"], sk_ratio)
    for stage in ("pretrain", "finetune", "distill", "supervised"):
        stage_config = settings.for_stage(stage)
        found = (stage_config.resnet_depth, stage_config.width_multiplier, stage_config.sk_ratio)
        assert found == expected
    pretrain, finetune = settings.for_stage("pretrain"), settings.for_stage("finetune")
    # Section 3 of the paper; 64K negatives, a rate of 0.1 * sqrt(4096) = 6.4, 5% of warm-up.
    assert (pretrain.use_memory, pretrain.memory_size, pretrain.ema_decay) == (True, 65536, 0.999)
    assert pretrain.learning_rate * pretrain.train_batch_size**0.5 == pytest.approx(6.4)
    assert pretrain.warmup_epochs == 0.05 * pretrain.train_epochs
    rate = finetune.learning_rate * finetune.train_batch_size**0.5
    large = row["width"] > 1 or row["sk"]
    assert rate == pytest.approx(0.064 if large else 0.16)
    assert (finetune.ft_proj_selector, finetune.weight_decay, finetune.warmup_epochs) == (1, 0, 0)
    assert settings.for_stage("distill").distill_temperature == 0.1
    student = student_stage(settings)
    assert (student is None) == (name == "r50_1x_sk0")
    if student:
        assert (student.resnet_depth, student.width_multiplier, student.sk_ratio) == (50, 1, 0)
        assert student.distill_temperature == 1
    text = (recipe.RECIPES / f"imagenet_{name}.flags").read_text()
    for key in ("ft_1pct", "ft_10pct", "ft_100pct", "linear_eval", "supervised", "params_M"):
        assert re.search(rf"\b{row[key]}\b", text), key
    assert "Not run here" in text


def student_stage(settings):
    return (
        settings.for_stage("student")
        if "student" in {s.name for s in stages.plan(settings, "m")}
        else None
    )


# Number of images -> the released networks' steps (their checkpoints' names): epochs and batch.
@pytest.mark.parametrize(
    "more, images, expected", [("", 12811, 751), (",imagenet_10pct", 128110, 3754)]
)
def test_fine_tuning_steps_match_the_released_networks(more, images, expected):
    settings, _ = parse(
        f"--recipe=imagenet_r50_1x_sk0{more}", "--train_mode=simclrv2", "--data_dir=d"
    )
    finetune = settings.for_stage("finetune")
    found = images * finetune.train_epochs // finetune.train_batch_size + 1
    assert found == expected
    assert settings.label_fraction == pytest.approx(round(images / 1281167, 2))


def test_fine_tuning_on_all_labels_drops_the_projection_head():
    one = "--recipe=imagenet_r152_3x_sk1,imagenet_100pct"
    settings, _ = parse(one, "--train_mode=simclrv2", "--data_dir=d")
    finetune, supervised = settings.for_stage("finetune"), settings.for_stage("supervised")
    assert (finetune.ft_proj_selector, finetune.label_fraction) == (0, 0)
    # 37535 and 28151 steps of the released networks.
    assert 1281167 * finetune.train_epochs // finetune.train_batch_size + 1 == 37535
    assert 1281167 * supervised.train_epochs // supervised.train_batch_size + 1 == 28151


def test_a_recipe_includes_a_file_that_is_not_a_recipe(tmp_path, monkeypatch):
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
def test_network_flags_do_not_change_the_recipes_student(given, whole, student):
    settings, messages = parse(*given, "--train_mode=simclrv2", "--model_dir=m")
    settings.validate()
    found = {stage.name: stage.config.width_multiplier for stage in stages.plan(settings, "m")}
    assert found.pop("student") == student
    assert set(found.values()) == {whole}
    text = " ".join(" ".join(messages).split())
    own = any(flag.startswith("--student") for flag in given)
    assert ("--student.width_multiplier=0.125" in text) == (not own)
    if "--width_multiplier=0.5" in given:
        assert "--width_multiplier=0.25" not in text
        assert re.search(r"The command line overrides --width_multiplier[.,]", text)


def test_other_flags_for_all_stages_apply_to_the_student():
    flags = ("--learning_rate=0.7", "--num_proj_layers=1", "--resnet_depth=34")
    settings, _ = parse("--recipe=digits", "--train_mode=simclrv2", *flags)
    student = settings.for_stage("student")
    assert (student.learning_rate, student.num_proj_layers) == (0.7, 1)
    assert student.resnet_depth == 34  # the recipe gives the student a width alone
    settings, _ = parse(
        "--recipe=imagenet_r152_3x_sk1", "--train_mode=simclrv2", "--resnet_depth=101"
    )
    assert settings.for_stage("distill").resnet_depth == 101
    assert settings.for_stage("student").resnet_depth == 50


def test_describe_lists_settings_by_stage_in_short_lines():
    args = ("--recipe=imagenet_r50_2x_sk1", "--train_mode=simclrv2", "--data_dir=d")
    _, messages = parse(*args, "--weight_decay=0", "--model_dir=m")
    lines = messages[0].splitlines()
    assert lines[0] == "Recipe imagenet_r50_2x_sk1 sets" and max(map(len, lines)) <= 100
    starts = [line for line in lines if re.match(r"  --", line)]
    for line, stage in zip(starts[1:], config.STAGES, strict=True):
        assert line.startswith(f"  --{stage}.")
    text = " ".join(messages[0].split())
    assert "--width_multiplier=2.0 " in text and "--student.resnet_depth=50 " in text
    assert "The command line overrides --weight_decay, --finetune.weight_decay." in text
    assert "weight_decay=" not in text
