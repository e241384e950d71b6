"""Directories that hold a run, as the command line reads them before TensorFlow is imported."""

import json

import pytest
from absl import flags

from tf2 import config, early_checks, errors, run, run_directory


def parse(*args):
    """Returns the Config of a command line and the messages that are printed."""
    values = flags.FlagValues()
    run.define_flags(values)
    values(["run.py", *args])
    return run.build_config(values)


def write_run(directory, *stages, **flags):
    """Writes the files by which a run, or a run of all stages, is known."""
    for place in [directory / stage for stage in stages] or [directory]:
        place.mkdir(parents=True, exist_ok=True)
        (place / "ckpt-3.index").write_text("")
    if flags:
        (directory / "flags.json").write_text(json.dumps(flags))
    return directory


def test_a_directory_alone_resumes_the_run_in_it_with_its_own_flags(tmp_path):
    started, _ = parse("--dataset=cifar10", "--temperature=0.7", "--train_steps=5")
    write_run(tmp_path, **started.as_flags())
    made, notes = parse(f"--model_dir={tmp_path}", "--mode=train_then_eval")
    assert notes == [f"Resuming the run in {tmp_path} with its own flags."]
    assert made.changed_fields(started).keys() == {"mode", "model_dir"}
    assert made.explicit == {"mode", "model_dir"}
    longer, _ = parse(f"--model_dir={tmp_path}", "--train_epochs=7", "--seed=3")
    assert (longer.train_epochs, longer.train_steps, longer.seed) == (7, 0, 3)
    assert (longer.dataset, longer.temperature) == ("cifar10", 0.7)


def test_a_directory_alone_resumes_a_run_of_all_stages_with_the_flags_of_each(tmp_path):
    command = ("--data_dir=photos", "--finetune.learning_rate=0.5", "--image_size=24")
    started, _ = parse(*command)
    write_run(tmp_path, "pretrain", **started.as_flags())
    made, _ = parse(f"--model_dir={tmp_path}")
    assert (made.train_mode, made.data_dir, made.recipe) == ("simclrv2", "photos", "images")
    assert made.stages == started.stages
    for stage in config.STAGES:
        changed = made.for_stage(stage).changed_fields(started.for_stage(stage))
        assert changed.keys() == {"model_dir"}
    made, _ = parse(f"--model_dir={tmp_path}", "--learning_rate=0.1")
    assert made.for_stage("finetune").learning_rate == 0.1


def test_flags_of_an_earlier_version_s_stages_are_not_guessed(tmp_path):
    write_run(tmp_path, "pretrain", "finetune")
    with pytest.raises(errors.UserError, match="pretrain, finetune, without that file. Repeat"):
        parse(f"--model_dir={tmp_path}")
    assert parse(f"--model_dir={tmp_path}", "--recipe=digits")[0].dataset == "digits"


@pytest.mark.parametrize("given", ["--dataset=digits", "--recipe=digits", "--data_dir=photos"])
def test_data_on_the_command_line_are_another_command(given, tmp_path):
    write_run(tmp_path, dataset="cifar10", train_mode="supervised")
    made, _ = parse(f"--model_dir={tmp_path}", given)
    assert made.dataset in ("digits", "folder") and made.train_mode != "supervised"


@pytest.mark.parametrize(
    "stages, stored, now", [((), "pretrain", "simclrv2"), (("finetune",), "simclrv2", "pretrain")]
)
def test_a_run_and_a_run_of_all_stages_do_not_share_a_directory(stages, stored, now, tmp_path):
    write_run(tmp_path, *stages, train_mode=stored)
    made = config.Config(model_dir=str(tmp_path), train_mode=now, train_steps=1)
    with pytest.raises(errors.UserError, match=f"train_mode={stored}, .* train_mode={now}. Choose"):
        early_checks.check(made)
    early_checks.check(made.replace(train_mode="simclrv2" if stages else "supervised"))


@pytest.mark.parametrize(
    "mode, stages, chosen",
    [
        ("predict", config.STAGES, "student"),
        ("predict", ("pretrain", "finetune", "distill", "supervised"), "distill"),
        ("export", ("pretrain", "finetune"), "finetune"),
        ("embed", config.STAGES, "pretrain"),
        ("probe", ("finetune", "student"), "finetune"),
    ],
)
@pytest.mark.parametrize("flag", ["model_dir", "checkpoint"])
def test_a_mode_chooses_the_stage_of_a_run_and_says_so(mode, stages, chosen, flag, tmp_path):
    write_run(tmp_path, *stages)
    made, notes = parse(f"--mode={mode}", f"--{flag}={tmp_path}")
    assert made.checkpoint == str(tmp_path / chosen)
    assert f"{tmp_path} holds all stages of a run; using {chosen}." in notes
    write_run(tmp_path)  # now it is a network itself
    assert parse(f"--mode={mode}", f"--{flag}={tmp_path}")[0].checkpoint != made.checkpoint


@pytest.mark.parametrize("there", [False, True])
def test_a_failed_command_leaves_no_empty_directory(there, tmp_path):
    run_dir = tmp_path / "runs" / "photos"
    if there:
        run_dir.mkdir(parents=True)

    def fail(file):
        with pytest.raises(KeyError), run_directory.removed_if_left_empty(str(run_dir)):
            (run_dir / "pretrain").mkdir(parents=True, exist_ok=True)
            if file:
                (run_dir / "pretrain" / "log").write_text("")
            raise KeyError

    fail(False)
    assert (tmp_path / "runs").exists() == there
    fail(True)
    assert (run_dir / "pretrain" / "log").exists()
