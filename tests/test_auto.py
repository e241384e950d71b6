"""Settings that are auto: the flags, what is chosen from which facts, and what is kept."""

import pytest
from absl import flags as absl_flags

from tests import small
from tf2 import config as config_lib
from tf2 import data, errors, flag_fields, identity, run, training

AUTOS = {
    *("image_size", "resnet_depth", "width_multiplier", "train_batch_size", "train_epochs"),
    *("learning_rate", "temperature", "color_jitter_strength", "crop_min_area", "use_blur"),
    *("ft_proj_selector", "train_split", "eval_split"),
}


# ---- the flags


def test_the_flags_that_may_be_auto_and_none_is_by_default():
    may_be = {f.name for f in config_lib.flag_fields() if f.metadata["auto"]}
    assert may_be == AUTOS
    assert not config_lib.Config().autos


@pytest.mark.parametrize("name", sorted(AUTOS))
def test_each_takes_auto_on_the_command_line_and_in_help(name):
    values = absl_flags.FlagValues()
    run.define_flags(values)
    run.parse_flags(["run.py", f"--{name}=auto", "--dataset=digits"], values)
    config, _ = run.build_config(values)
    config.validate()
    assert config.autos == (name,) and name in config.explicit
    assert f"--{name}=" in run.help_text()
    line = next(line for line in run.help_text().splitlines() if f"  --{name}=" in line)
    assert "|auto" in line


@pytest.mark.parametrize(
    "given, expected",
    [
        (["--use_blur"], True),
        (["--nouse_blur"], False),
        (["--use_blur=false"], False),
        (["--use_blur=auto"], "auto"),
    ],
)
def test_a_switch_that_may_be_auto_is_still_a_switch(given, expected):
    values = absl_flags.FlagValues()
    run.define_flags(values)
    run.parse_flags(["run.py", *given], values)
    assert values.use_blur == expected


def test_stages_and_python_take_auto_too():
    config = run.configure(
        dataset="digits",
        train_mode="simclrv2",
        image_size="auto",
        **{"student.width_multiplier": "auto", "finetune.learning_rate": "auto"},
    )
    assert set(config.autos) == {
        *("image_size", "student.width_multiplier", "finetune.learning_rate")
    }
    assert config.for_stage("student").width_multiplier == "auto"


@pytest.mark.parametrize(
    "name, value", [("image_size", "autos"), ("flip", "auto"), ("seed", "auto")]
)
def test_other_words_and_other_flags_are_refused(name, value):
    with pytest.raises(errors.UserError, match=name):
        run.configure(**{name: value})


def test_a_config_with_auto_cannot_train(tmp_path):
    config = small.run_config(tmp_path, learning_rate="auto")
    for build in (
        lambda: training.build_train_state(config, num_examples=10, num_classes=2, channels=3),
        lambda: data.build_dataset(config, None, "train", training=True),
    ):
        with pytest.raises(errors.UserError, match="Received: learning_rate=auto"):
            build()


def test_auto_is_the_same_run_and_stage_as_any_choice():
    stored = {**config_lib.defaults(), "image_size": 64}
    now = config_lib.Config(image_size=flag_fields.AUTO)
    identity.check_same_run("runs/x", stored, now)
    with pytest.raises(errors.UserError, match="image_size=64"):
        identity.check_same_run("runs/x", stored, config_lib.Config(image_size=32))
    assert not identity.changed_settings({"image_size": 64}, {"image_size": "auto"}, "pretrain")
    assert identity.changed_settings({"image_size": 64}, {"image_size": 32}, "pretrain")
