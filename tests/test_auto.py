"""Settings that are auto: the flags, what is chosen from which facts, and what is kept."""

import dataclasses

import numpy as np
import pytest
from absl import flags as absl_flags
from PIL import Image

from tests import small
from tf2 import config as config_lib
from tf2 import data, errors, files, identity, machine, modes, optimization, run, training
from tf2.auto import choices as choices_lib
from tf2.auto import memory_estimate, rules, time_budget
from tf2.flags import fields
from tf2.sources import image_facts, loaders

AUTOS = {
    *("image_size", "resnet_depth", "width_multiplier", "train_batch_size", "train_epochs"),
    *("learning_rate", "temperature", "color_jitter_strength", "crop_min_area", "use_blur"),
    *("ft_proj_selector", "train_split", "eval_split", "memory_size", "ema_decay"),
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
    now = config_lib.Config(image_size=fields.AUTO)
    identity.check_same_run("runs/x", stored, now)
    with pytest.raises(errors.UserError, match="image_size=64"):
        identity.check_same_run("runs/x", stored, config_lib.Config(image_size=32))
    assert not identity.changed_settings({"image_size": 64}, {"image_size": "auto"}, "pretrain")
    assert identity.changed_settings({"image_size": 64}, {"image_size": 32}, "pretrain")


# ---- the rules, on facts


def facts(device="cpu", stages=("",), minutes=None, step=0.1, memory=0, **images):
    """Returns facts; with minutes, those of a machine whose every step takes `step` seconds."""
    images = image_facts.ImageFacts(**{"count": 5000, "labeled": 200, "num_classes": 10, **images})
    found = rules.Facts(
        images, machine.MachineFacts(device=device, memory=memory, gpu_memory=memory), stages
    )
    if minutes is not None:
        timing = time_budget.Timing(config_lib.Config(**R18), start=10.0, step=step)
        budget = time_budget.Budget(minutes, stages, images, timing)
        found = dataclasses.replace(found, budget=budget)
    return found


R18 = {
    "resnet_depth": 18,
    "width_multiplier": 0.25,
    "image_size": 32,
    "train_batch_size": 100,
    "use_blur": False,
}


def decided(rule, found, stage="", **settings):
    """Returns the value that a rule chooses."""
    return getattr(rules, rule)(found, config_lib.Config(**{**R18, **settings}), stage)[0]


@pytest.mark.parametrize(
    "short_side, on_cpu, on_gpu",
    [
        (8, 8, 8),
        (28, 28, 28),
        (32, 32, 32),
        (48, 32, 32),
        (64, 64, 64),
        (100, 96, 96),
        (375, 96, 224),
    ],
)
def test_small_images_keep_their_size_and_large_ones_are_capped_by_the_device(
    short_side, on_cpu, on_gpu
):
    assert decided("image_size", facts(short_side=short_side)) == on_cpu
    assert decided("image_size", facts("gpu", short_side=short_side)) == on_gpu


@pytest.mark.parametrize(
    "size, jitter, crop, blur, heat",
    [(8, 0.5, 0.3, False, 0.5), (32, 0.5, 0.2, False, 0.2), (96, 1.0, 0.08, True, 0.2)],
)
def test_augmentation_and_temperature_follow_the_size_whoever_chose_it(
    size, jitter, crop, blur, heat
):
    found = facts(short_side=500)
    rules = ("color_jitter_strength", "crop_min_area", "use_blur", "temperature")
    values = [decided(rule, found, image_size=size) for rule in rules]
    assert values == [jitter, crop, blur, heat]
    assert decided("color_jitter_strength", facts(gray=True), image_size=size) == 0


def test_a_gpu_has_the_deep_network_where_images_are_many_and_large():
    assert decided("resnet_depth", facts("gpu", count=20_000), image_size=96) == 50
    assert decided("resnet_depth", facts("gpu", count=19_999), image_size=96) == 18
    assert decided("resnet_depth", facts("gpu", count=20_000), image_size=64) == 18
    assert decided("resnet_depth", facts("cpu", count=20_000), image_size=96) == 18
    assert decided("width_multiplier", facts("gpu")) == 1


@pytest.mark.parametrize("minutes, width", [(30, 0.25), (5, 0.125), (1000, 0.5)])
def test_a_cpu_has_the_width_that_trains_long_enough(minutes, width):
    # 50 steps an epoch, 0.1 s each: 40 epochs take 200 s. Twice the width is 4 times the work.
    assert decided("width_multiplier", facts(minutes=minutes if minutes != 5 else 3.5)) == width


@pytest.mark.parametrize("count, batch", [(50, 50), (1999, 64), (2000, 128), (20_000, 256)])
def test_the_batch_grows_with_the_images_and_is_never_larger_than_they_are(count, batch):
    assert decided("train_batch_size", facts(count=count)) == batch


def test_a_stage_on_labels_has_a_batch_of_those():
    few = {"train_mode": "finetune", "checkpoint": "x"}
    assert decided("train_batch_size", facts(labeled=40), **few) == 40
    assert decided("train_batch_size", facts(labeled=200), labels_per_class=3, **few) == 30
    assert decided("train_batch_size", facts(labeled=200), label_fraction=0.1, **few) == 20
    distilled = {"train_mode": "distill", "teacher": "x"}
    assert decided("train_batch_size", facts(labeled=40), **distilled) == 128


def test_a_small_memory_halves_the_batch_until_it_fits():
    large = {"image_size": 224, "resnet_depth": 50, "width_multiplier": 1}
    batch = decided("train_batch_size", facts("gpu", memory=8 * 2**30, count=30_000), **large)
    assert batch in (4, 8, 16, 32, 64, 128)
    run_of_it = config_lib.Config(**{**R18, **large, "train_batch_size": batch})
    limit = machine.MachineFacts(device="gpu", gpu_memory=int(0.8 * 8 * 2**30))
    assert memory_estimate.fits(run_of_it, limit, 10)
    assert not memory_estimate.fits(run_of_it.replace(train_batch_size=2 * batch), limit, 10)


def test_a_rate_has_the_same_peak_in_either_scaling():
    settings = {"optimizer": "lars", "train_batch_size": 64}
    sqrt = decided("learning_rate", facts(), learning_rate_scaling="sqrt", **settings)
    linear = decided("learning_rate", facts(), learning_rate_scaling="linear", **settings)
    peaks = [
        optimization.peak_learning_rate(rate, 64, scaling)
        for rate, scaling in ((sqrt, "sqrt"), (linear, "linear"))
    ]
    assert peaks == pytest.approx([0.8, 0.8])


@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (5000, {}),
        (5000, {"memory_views": 2}),
        (300, {}),
        (60_000, {"memory_size": 50_000}),
        (5000, {"ema_decay": 0.9}),
        (5000, {"ema_decay": 0.9999}),
        (20, {"train_batch_size": 20}),
    ],
)
def test_a_memory_is_never_stale_nor_longer_than_the_images(count, settings):
    settings = {"use_memory": True, "train_batch_size": 32, **settings}
    autos = {n: "auto" for n in ("memory_size", "ema_decay") if n not in settings}
    config = run.configure(dataset="digits", train_mode="pretrain", **settings, **autos)
    config, choices = choices_lib.choose(config, facts(count=count), timed)
    assert [choice.setting for choice in choices] == list(autos)
    size, decay = config.memory_size, config.ema_decay
    enqueued = config.train_batch_size * config.memory_views
    assert 0 < size <= count and 0 < decay < 1
    assert (1 - decay) * size / enqueued <= 0.25 + 1e-6
    assert not [text for text in config.warnings() if "stale" in text]


def test_every_stage_and_optimizer_has_a_rate():
    optimizers = config_lib.choices(config_lib.field("optimizer"))
    expected = {(mode, name) for mode in modes.TRAIN_MODES for name in optimizers}
    assert set(rules.RATES) == expected


# ---- time


def test_epochs_are_what_fits_into_the_stage_s_share():
    """Of 1,800 s, 10 are to start and 20 to end; an epoch is 50 steps of 0.1 s."""
    rule, found = rules.train_epochs, facts(minutes=30)
    config = config_lib.Config(**R18, mode="train")
    epochs, reason = rule(found, config, "")
    assert epochs == (1800 - 10 - 20) * 10 // 50
    assert reason.startswith(f"0.1 s a step: {epochs} epochs in 30.0 of 30 minutes")
    half = facts(minutes=30, stages=("pretrain", "distill", "student"))
    assert half.budget.minutes_of("pretrain") == pytest.approx(30 * 60 / 87)


def test_no_more_than_800_epochs_and_never_none():
    config = config_lib.Config(**R18, mode="train")
    epochs, reason = rules.train_epochs(facts(minutes=1000), config, "")
    assert epochs == 800 and "800 are enough" in reason
    assert rules.train_epochs(facts(minutes=0.1), config, "")[0] == 3  # 150 steps of 100
    assert rules.train_epochs(facts(minutes=0.1, count=90_000), config, "")[0] == 1


def test_an_evaluation_is_part_of_the_time():
    evaluated = facts(minutes=30, evaluated=1000)
    plain = config_lib.Config(**R18, mode="train")
    both = config_lib.Config(**R18, mode="train_then_eval")
    # Twice, 200 labeled images of the bank and 1,000 to classify, without the way back.
    layers = memory_estimate.layers_of(plain, 10, 3)
    network = sum(layer.multiply_adds + 230 * layer.kept for layer in layers)
    a_view = network + 7.5e6 + 5000 * 32**2  # of the 200 of a step that takes 0.1 s
    seconds = 2 * 1200 * (0.17 * network + 7.5e6) * 0.1 / (200 * a_view)
    steps = evaluated.budget.steps(plain, "") - evaluated.budget.steps(both, "")
    assert steps == pytest.approx(seconds / 0.1, abs=1.5)
    followed = dataclasses.replace(both, knn_every_epochs=-1)  # about ten times more
    steps = evaluated.budget.steps(plain, "") - evaluated.budget.steps(followed, "")
    assert steps == pytest.approx(6 * seconds / 0.1, abs=1.5)


@pytest.mark.parametrize("mode, few, epochs", [("finetune", 100, 30), ("supervised", 300, 60)])
def test_stages_on_labels_take_steps_for_few_labels_and_epochs_for_many(mode, few, epochs):
    def steps(**found):
        return decided("train_steps", facts(**found, stages=ALL_STAGES), mode, train_mode=mode)

    assert steps(minutes=120, labeled=200) == few
    assert steps(minutes=1200, labeled=5000) == epochs * 50  # batches of 100
    assert steps(minutes=0.1, labeled=200) == 50


def test_a_step_lasts_as_long_as_its_work():
    budget = facts(minutes=1).budget
    pretraining = config_lib.Config(**R18)
    assert budget.step_seconds(pretraining) == pytest.approx(0.1)
    finetuning = dataclasses.replace(pretraining, train_mode="finetune", checkpoint="x")
    assert budget.step_seconds(finetuning) == pytest.approx(0.05, rel=0.05)  # one view of two
    twice = dataclasses.replace(pretraining, train_batch_size=200)
    assert budget.step_seconds(twice) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "size, width, mode, measured",
    [
        (32, 0.25, "finetune", 0.576 / 1.158),
        (32, 0.25, "distill", 0.640 / 1.158),
        (32, 0.5, "finetune", 1.748 / 1.158),
        (32, 0.5, "pretrain", 3.344 / 1.158),
        (96, 0.25, "finetune", 0.515 / 1.158),
        (96, 0.25, "pretrain", 1.492 / 1.158),
    ],
)
def test_steps_last_as_long_as_measured(size, width, mode, measured):
    """CPU seconds of a step, relative to pretraining at 32 pixels, a quarter as wide."""
    images = image_facts.ImageFacts(count=512, num_classes=2)
    settings = {**R18, "image_size": size, "width_multiplier": width, "train_mode": mode}
    estimated = time_budget.work(config_lib.Config(**settings), images)
    estimated /= time_budget.work(config_lib.Config(**R18), images)
    assert estimated == pytest.approx(measured, rel=0.25)


# ---- all together


ALL_STAGES = tuple(config_lib.STAGES)
AUTO_RUN = {
    "dataset": "folder",
    "data_dir": "x",
    "train_mode": "simclrv2",
    **dict.fromkeys(sorted(AUTOS - {"train_split", "eval_split"}), "auto"),
    "student.width_multiplier": "auto",
    "distill.checkpoint": "pretrain",
}


def timed(config):
    """Stands for measured steps, 0.1 s for a width of 0.25."""
    assert not set(config.autos) - {"train_epochs"}
    return time_budget.Timing(config, start=10.0, step=0.1 * (config.width_multiplier / 0.25) ** 2)


def test_one_run_of_all_stages():
    config = run.configure(**AUTO_RUN)
    found = facts(stages=ALL_STAGES, short_side=32)
    config, choices = choices_lib.choose(config, found, timed)
    assert not config.autos
    own = {stage: config.for_stage(stage) for stage in ALL_STAGES}
    assert {c.image_size for c in own.values()} == {32}
    assert own["student"].width_multiplier == own["distill"].width_multiplier / 2
    batches = {stage: c.train_batch_size for stage, c in own.items()}
    assert batches == {**dict.fromkeys(ALL_STAGES, 128), "finetune": 64, "supervised": 64}
    assert own["finetune"].ft_proj_selector == own["distill"].ft_proj_selector == 1
    assert own["supervised"].ft_proj_selector == own["student"].ft_proj_selector == 0
    assert 50 <= own["finetune"].train_steps <= 300 and not own["distill"].train_steps
    assert own["pretrain"].train_epochs > own["distill"].train_epochs > 1
    named = [choice.setting for choice in choices]
    assert len(named) == len(set(named)) and "finetune.train_steps" in named
    text = choices_lib.describe(choices)
    assert text.splitlines()[0].split() == ["setting", "value", "why"]
    assert " s a step: " in text


def test_another_size_by_the_user_is_decided_again():
    stored, _ = kept({})
    changed = run.configure(**{**AUTO_RUN, "image_size": 16})
    assert not choices_lib._kept_flags(changed, stored)
    assert choices_lib._kept_flags(run.configure(**{**AUTO_RUN, "image_size": 64}), stored)
    assert choices_lib._kept_flags(run.configure(**{**AUTO_RUN, "minutes": 90}), stored)


@pytest.mark.parametrize("minutes", [0.3, 4, 30])
def test_all_stages_but_the_student_have_one_network(minutes):
    """The baseline, too, whose few labels leave time for a wider one."""
    config = run.configure(**AUTO_RUN, minutes=minutes)
    config, choices = choices_lib.choose(config, facts(stages=ALL_STAGES, short_side=32), timed)
    widths = {stage: config.for_stage(stage).width_multiplier for stage in ALL_STAGES}
    assert widths.pop("student") == widths["pretrain"] / 2
    assert set(widths.values()) == {0.125 if minutes < 30 else 0.25}
    names = {c.setting for c in choices if "width_multiplier" in c.setting}
    assert names == {"width_multiplier", "student.width_multiplier"}


@pytest.mark.parametrize(
    "given, device, side, stem",
    [
        ({}, "cpu", 32, "imagenet"),
        ({}, "cpu", 8, "cifar"),
        ({}, "cpu", 64, "imagenet"),  # by its size
        ({}, "gpu", 32, "cifar"),
        ({"stem": "cifar"}, "cpu", 32, "cifar"),
        ({"width_multiplier": 0.25}, "cpu", 32, "cifar"),  # a network of the user's
    ],
)
def test_a_cpu_halves_small_images_first_and_keeps_that_on_resume(given, device, side, stem):
    config = run.configure(**{**AUTO_RUN, **given})
    found = facts(device, stages=ALL_STAGES, short_side=side)
    resolved, choices = choices_lib.choose(config, found, timed)
    assert resolved.stem_name == stem
    assert {resolved.for_stage(stage).stem_name for stage in ALL_STAGES} == {stem}
    stored = {**resolved.as_flags(), "auto_stages": list(ALL_STAGES)}
    stored["auto"] = [[c.setting, c.value, c.reason] for c in choices]
    kept = choices_lib._kept_flags(config, stored)
    assert choices_lib.choose(config, found, timed, kept)[0].as_flags() == resolved.as_flags()


def test_what_the_user_gives_wins_and_the_rest_follows_it():
    given = {"image_size": 16, "finetune.learning_rate": 0.5, "width_multiplier": 1}
    config = run.configure(**{**AUTO_RUN, **given})
    config, choices = choices_lib.choose(config, facts(stages=ALL_STAGES, short_side=224), timed)
    assert config.image_size == 16 and config.crop_min_area == 0.3 and config.temperature == 0.5
    assert config.for_stage("finetune").learning_rate == 0.5
    assert config.for_stage("student").width_multiplier == 0.5
    assert not {"image_size", "finetune.learning_rate"} & {choice.setting for choice in choices}


def test_steps_are_not_timed_where_no_length_is_to_be_chosen():
    def refuse(config):
        raise AssertionError("timed")

    config = run.configure(dataset="digits", train_mode="pretrain", image_size="auto")
    config, _ = choices_lib.choose(config, facts(short_side=8), refuse)
    assert config.image_size == 8
    config = run.configure(
        dataset="digits", train_mode="pretrain", train_epochs="auto", train_steps=7
    )
    assert not choices_lib.choose(config, facts(), refuse)[0].autos


def kept(config, **changes):
    """Returns the flags.json of a run on other images, which took longer."""
    found = facts(stages=config.pop("stages", ALL_STAGES), short_side=64, count=50_000)
    resolved, choices = choices_lib.choose(run.configure(**{**AUTO_RUN, **config}), found, timed)
    rows = [[c.setting, c.value, c.reason] for c in choices]
    return {
        **resolved.as_flags(), "auto": rows, "auto_stages": list(found.stages), **changes
    }, resolved  # fmt: skip


def test_a_resumed_run_keeps_what_it_was_started_with():
    def refuse(config):
        raise AssertionError("timed")

    stored, before = kept({})
    config, choices = choices_lib.choose(
        run.configure(**AUTO_RUN), facts(stages=ALL_STAGES), refuse, stored
    )
    assert config.as_flags() == before.as_flags()
    assert [[c.setting, c.value, c.reason] for c in choices] == stored["auto"]


def test_stages_that_are_added_later_are_chosen_then():
    stored, before = kept({"stages": ("pretrain",)})
    config, _ = choices_lib.choose(
        run.configure(**AUTO_RUN), facts(stages=ALL_STAGES), timed, stored
    )
    assert config.for_stage("pretrain") == before.for_stage("pretrain")
    assert 50 <= config.for_stage("finetune").train_steps <= 300
    assert config.for_stage("student").width_multiplier == before.width_multiplier / 2


def test_the_splits_of_a_run_without_a_folder():
    digits = loaders.load_source("digits")
    config = config_lib.Config(train_split="auto", eval_split="auto")
    config, choices = choices_lib.with_splits(config, digits)
    assert (config.train_split, config.eval_split) == ("train", "test")
    assert [choice.setting for choice in choices] == ["train_split", "eval_split"]


# ---- facts of images


def test_the_facts_of_a_folder_are_read_from_its_files(tmp_path):
    random = np.random.RandomState(0)
    for number, side in enumerate((20, 40, 60, 80, 100)):
        pixels = random.randint(0, 255, (side, 2 * side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    source = loaders.load_source("folder", str(tmp_path), labels="none")
    found = image_facts.measure(source, "train", "")
    assert (found.count, found.labeled, found.short_side, found.gray) == (5, 0, 40, False)
    for path in tmp_path.glob("*.png"):  # gray images, stored in color
        Image.open(path).convert("L").convert("RGB").save(path)
    assert image_facts.measure(source, "train", "").gray


def test_the_facts_of_the_digits_are_those_of_its_arrays():
    found = image_facts.measure(loaders.load_source("digits"), "train", "test")
    assert (found.count, found.labeled, found.evaluated) == (1437, 1437, 360)
    assert (found.short_side, found.gray, found.num_classes) == (8, True, 10)


def test_a_sample_is_spread_over_all_files():
    assert image_facts.evenly(range(10), 20) == list(range(10))
    assert image_facts.evenly(range(1000), 500) == list(range(0, 1000, 2))
    assert len(image_facts.evenly(range(1001), 500)) <= 500


# ---- a run


@pytest.mark.usefixtures("one_convolution")
def test_a_run_writes_its_choices_and_repeats_them(tmp_path, capsys, monkeypatch):
    settings = {"image_size": "auto", "train_epochs": "auto", "train_steps": 0, "minutes": 0.05}
    argv = small.command(tmp_path, **settings)
    monkeypatch.setattr(choices_lib, "_TIMED_SECONDS", 0.1)
    assert run.run_argv(argv) == 0
    printed = capsys.readouterr().out
    assert "Settings that are auto" in printed and "small images keep their size" in printed
    stored = files.read_json(str(tmp_path / "flags.json"))
    assert stored["image_size"] == 8 and stored["train_epochs"] >= 1
    assert [row[0] for row in stored["auto"]] == ["image_size", "train_epochs"]
    monkeypatch.setattr(choices_lib, "time_steps", None)
    assert run.run_argv(argv) == 0
    assert "already finished" in capsys.readouterr().out
