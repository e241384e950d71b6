"""Flags are the reference's, values have one order of strength, mistakes get one sentence."""

import errno
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import reference
import tensorflow as tf
from absl import flags

from tf2 import config, errors, modes, precedence, recipe, resolve, run
from tf2.flags import fields

ROOT = pathlib.Path(run.__file__).parents[1]
REFERENCE = reference.PACK.json("flags.json")
FIELDS = {field.name: field for field in config.flag_fields()}

# What this project changes on purpose: name -> (default, choices).
EXTENDED = {
    "dataset": ("", None),  # the embedded digits
    "use_tpu": (False, None),
    "mode": (
        "train",
        (
            *("train", "eval", "train_then_eval", "probe", "embed", "predict"),
            *("select", "audit", "export"),
        ),
    ),
    "train_mode": ("pretrain", ("pretrain", "finetune", "distill", "supervised", "simclrv2")),
    "optimizer": ("lars", ("momentum", "adam", "lars", "lamb")),
}


def parse(*args):
    """Returns the Config of a command line and the messages that are printed."""
    values = flags.FlagValues()
    run.define_flags(values)
    values(["run.py", *args])
    return run.build_config(values)


def call(*args, cwd):
    """Runs the program in a process of its own."""
    command = [sys.executable, str(ROOT / "tf2" / "run.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


# ---- what a flag's field carries


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_declares_scope_identity_and_group(name):
    metadata = FIELDS[name].metadata
    assert metadata["scope"] in (fields.SHARED, fields.PER_STAGE, fields.NETWORK)
    kinds = (fields.TRAINS, fields.LENGTH, fields.STARTS, fields.RESULTS, fields.FREE)
    assert metadata["identity"] in kinds
    assert metadata["group"] in fields.GROUPS
    if metadata["range"]:
        assert metadata["kind"] in ("int", "float")
        assert fields.in_interval(FIELDS[name].default, metadata["range"])


@pytest.mark.parametrize("left_out", ["scope", "identity"])
def test_a_flag_without_scope_or_identity_is_an_error(left_out):
    given = {"scope": fields.SHARED, "identity": fields.FREE}
    fields.flag("data", 0, "A flag.", **given)
    del given[left_out]
    with pytest.raises(TypeError, match=left_out):
        fields.flag("data", 0, "A flag.", **given)


def test_every_number_has_a_range_and_every_train_mode_s_flags_exist():
    free = {name for name, f in FIELDS.items() if f.metadata["kind"] in ("int", "float")}
    free -= {name for name, f in FIELDS.items() if f.metadata["range"]}
    assert free == {"resnet_depth"}  # it has a list of its own
    for mode in modes.TRAIN_MODES.values():
        assert {*mode.unused, *mode.card, *mode.arguments.values()} <= set(FIELDS)
        assert set(mode.groups) <= set(fields.GROUPS)


# ---- the reference's flags


def test_all_48_flags_of_the_reference_are_compared():
    assert len({flag["name"] for flag in REFERENCE["flags"]}) == 48


@pytest.mark.parametrize("flag", REFERENCE["flags"], ids=lambda flag: flag["name"])
def test_flag_is_as_in_the_reference(flag):
    field = FIELDS[flag["name"]]
    choices = tuple(flag["choices"]) if flag["choices"] else None
    expected = EXTENDED.get(flag["name"], (flag["default"], choices))
    assert (field.default, config.choices(field)) == expected
    kind = "float" if flag["name"] == "width_multiplier" else flag["type"].split()[-1]
    assert field.metadata["kind"] == kind


@pytest.mark.parametrize("command", REFERENCE["published_commands"], ids=lambda c: c["what"][:30])
def test_published_command_is_valid_and_gets_no_recipe(command):
    made, notes = parse(*command["argv"])
    made.validate()
    assert made.recipe == ""
    given = dict(arg[2:].split("=", 1) for arg in command["argv"])
    ignored = {flag["name"] for flag in REFERENCE["tf1_only_flags_in_published_commands"]}
    for name, text in given.items():
        if name not in ignored:
            assert name in made.explicit
            value = getattr(made, name)
            assert value == type(value)(text) if not isinstance(value, bool) else text == str(value)
    warned = [note for note in notes if "TF1 program" in note]
    assert len(warned) == len(ignored & set(given))


def test_each_field_says_what_it_is_and_has_that_type():
    types = {"bool": bool, "int": int, "float": float, "enum": str, "string": str}
    for name, field in FIELDS.items():
        assert field.metadata["help"].endswith("."), name
        assert field.metadata["group"] in config.GROUPS, name
        expected = types[field.metadata["kind"]]
        if field.default is not None:
            assert isinstance(field.default, expected), name
        assert field.type in (expected, expected | None), name
        choices = config.choices(field)
        assert choices is None or field.default in choices, name


def answer_without_tensorflow(program, *args):
    """Runs a program that must not import TensorFlow; returns what it printed."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = {[program, *args]}\n"
        f"try: runpy.run_path({program!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules), 'imported TensorFlow'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_recipes_and_the_help_of_a_study_come_without_tensorflow():
    assert "--recipe=images" in answer_without_tensorflow("tf2/run.py", "--recipe=help")
    assert "--seeds" in answer_without_tensorflow("tf2/study.py", "--help")


def test_help_comes_without_tensorflow_and_shows_only_our_flags():
    text = answer_without_tensorflow("tf2/run.py", "--help")
    shown = re.findall(r"^  --(\w+)", text, re.MULTILINE)
    assert sorted(shown) == sorted(FIELDS)
    first = ["mode", "data_dir", "labels", "minutes", "model_dir", "image_size", "checkpoint"]
    assert shown[:7] == first
    assert "sqrt(train_batch_size) under sqrt" in " ".join(text.split())


# ---- which value wins


def test_without_dataset_or_recipe_the_digits_are_used_and_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, notes = parse("--mode=train_then_eval")
    assert (made.dataset, made.recipe, made.mode) == ("digits", "digits", "train_then_eval")
    assert made.train_mode == "simclrv2" and made.model_dir == "runs/digits_simclrv2"
    assert "digits" in notes[0] and "runs/digits_simclrv2" in notes[0] and "\n" not in notes[0]
    assert "continuing" not in notes[0]

    (tmp_path / made.model_dir / "pretrain").mkdir(parents=True)
    (tmp_path / made.model_dir / "pretrain" / "checkpoint").write_text("")
    assert "Resuming the run there" in parse()[1][0]
    made, notes = parse("--train_mode=supervised")
    assert (made.recipe, made.model_dir) == ("digits", "runs/digits_supervised")
    assert "continuing" not in notes[0]


def test_the_command_line_wins_over_the_recipe_wins_over_the_default():
    made, notes = parse("--recipe=cifar10", "--resnet_depth=34", "--model_dir=m")
    assert (made.dataset, made.temperature) == ("cifar10", 0.5)
    assert made.resnet_depth == 34
    assert made.num_proj_layers == config.Config().num_proj_layers
    assert made.explicit == {"recipe", "resnet_depth", "model_dir"}
    assert len(notes) == 1 and "--temperature=0.5" in notes[0]
    assert "The command line overrides --resnet_depth." in notes[0]


def test_a_home_directory_is_found_where_the_shell_leaves_the_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    made, _ = parse("--model_dir=~/run", "--train_mode=finetune", "--checkpoint=~/pretrained")
    assert (made.model_dir, made.checkpoint) == ("/home/me/run", "/home/me/pretrained")


def test_the_dataset_alone_takes_no_recipe():
    made, notes = parse("--dataset=cifar10", "--model_dir=m")
    assert made.recipe == "" and made.image_size == 224 and not notes


@pytest.mark.parametrize(
    "args",
    [
        ("--data_dir=a/my photos/",),
        ("--dataset=folder", "--data_dir=a/my photos", "--labels_per_class=2", "--plots=False"),
    ],
    ids=len,
)
def test_a_folder_without_settings_gets_its_recipe_and_directory_and_it_says_so(args):
    made, notes = parse(*args)
    assert (made.dataset, made.recipe, made.train_mode) == ("folder", "images", "simclrv2")
    assert made.model_dir == "runs/my_photos"
    assert "a/my photos" in notes[0] and "recipe images" in notes[0]
    assert notes[0].endswith("Results go to runs/my_photos.")
    made, _ = parse(*args, "--train_mode=pretrain")
    assert (made.recipe, made.model_dir) == ("images", "runs/my_photos_pretrain")


@pytest.mark.parametrize("settings", ["--image_size=24", "--pretrain.train_epochs=3"])
def test_a_folder_with_settings_gets_no_recipe(settings):
    made, _ = parse("--dataset=folder", "--data_dir=photos", settings)
    assert (made.dataset, made.recipe, made.train_mode) == ("folder", "", "pretrain")


def test_a_directory_alone_is_a_folder_also_beside_a_recipe_without_data():
    assert parse("--recipe=imagenet_10pct", "--data_dir=photos")[0].dataset == "folder"
    assert parse("--recipe=cifar10", "--data_dir=tfds")[0].dataset == "cifar10"


def test_a_trained_network_s_run_decides_what_a_directory_alone_is():
    made, notes = parse("--mode=predict", "--checkpoint=c", "--data_dir=photos")
    assert (made.dataset, made.recipe, made.data_dir) == ("", "", "photos")


@pytest.mark.parametrize("name", ["--recipe=digits", "--dataset=digits"])
def test_a_directory_is_never_ignored(name):
    with pytest.raises(errors.UserError, match="data_dir=photos, dataset=digits. Use --dataset=f"):
        parse(name, "--data_dir=photos")[0].validate()


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_is_valid_for_pretraining_alone(name):
    data = ["--data_dir=photos"] if name == precedence.IMAGES else []
    made, _ = parse(f"--recipe={name}", *data)
    made.validate()
    assert made.train_mode == "pretrain" and made.warnings() == []


MODEL_JSON = {
    "architecture": {
        "depth": 18,
        "width_multiplier": 0.25,
        "num_proj_layers": 5,
        "stem": "cifar",
        "num_classes": 10,
    },
    "preprocessing": {"image_size": 16},
}


def test_the_checkpoint_wins_over_recipe_and_defaults():
    made, _ = parse("--recipe=cifar10", "--train_mode=finetune", "--checkpoint=c")
    assert (made.resnet_depth, made.image_size) == (18, 32)  # the recipe's
    made = resolve.with_architecture(made, MODEL_JSON, "c")
    assert (made.width_multiplier, made.num_proj_layers, made.stem) == (0.25, 5, "cifar")
    assert made.image_size == 16
    assert made.temperature == 0.5  # the recipe's: no part of the architecture


def test_an_explicit_image_size_wins_over_the_checkpoint():
    made, _ = parse("--recipe=cifar10", "--image_size=64", "--checkpoint=c")
    assert resolve.with_architecture(made, MODEL_JSON, "c").image_size == 64


@pytest.mark.parametrize("flag", ["--resnet_depth=50", "--stem=imagenet", "--num_proj_layers=3"])
def test_an_explicit_flag_that_contradicts_the_checkpoint_is_refused(flag):
    made, _ = parse("--recipe=cifar10", flag, "--checkpoint=some/where")
    name, value = flag[2:].split("=")
    theirs = {"resnet_depth": 18, "stem": "cifar", "num_proj_layers": 5}[name]
    with pytest.raises(errors.UserError) as caught:
        resolve.with_architecture(made, MODEL_JSON, "some/where")
    for part in (f"{name}={value}", f"{name}={theirs}", "some/where"):
        assert part in str(caught.value)


def test_explicit_flags_that_agree_with_the_checkpoint_are_fine():
    made, _ = parse("--resnet_depth=18", "--stem=auto", "--width_multiplier=0.25")
    assert resolve.with_architecture(made, MODEL_JSON, "c").stem == "cifar"


def test_the_selector_is_held_against_the_head_of_the_checkpoint():
    made = config.Config(train_mode="finetune", checkpoint="c", ft_proj_selector=5)
    made.validate()  # the checkpoint may have so many layers
    assert resolve.with_architecture(made, MODEL_JSON, "c").ft_proj_selector == 5
    short = {"architecture": {"num_proj_layers": 2}}
    with pytest.raises(errors.UserError, match="ft_proj_selector=5. Use 0 to 2"):
        resolve.with_architecture(made, short, "c")


def test_a_config_from_python_counts_what_differs_from_the_defaults_as_explicit():
    made = config.Config(resnet_depth=34, checkpoint="c")
    assert made.explicit == {"resnet_depth", "checkpoint"}
    assert made.replace(seed=3).explicit == {"resnet_depth", "checkpoint", "seed"}
    with pytest.raises(errors.UserError, match="resnet_depth=34"):
        resolve.with_architecture(made, MODEL_JSON, "c")


def test_width_multiplier_is_whole_or_a_fraction():
    assert repr(parse("--width_multiplier=2")[0].width_multiplier) == "2"
    assert repr(parse("--width_multiplier=0.25")[0].width_multiplier) == "0.25"
    assert repr(config.Config(width_multiplier=3.0).width_multiplier) == "3"


def test_flags_json_holds_our_flags_and_absls_and_comes_back():
    made, _ = parse("--dataset=cifar10", "--seed=3")
    made = made.replace(other_flags={"verbosity": 0})
    stored = json.loads(json.dumps(made.as_flags()))
    assert set(stored) == set(FIELDS) | {"verbosity"}
    assert made.changed_fields(stored) == {}
    assert made.replace(seed=4).changed_fields(stored, ("seed", "dataset")) == {"seed": (4, 3)}
    assert made.changed_fields(made.replace(resize="legacy")) == {
        "resize": ("half_pixel", "legacy")
    }


def test_derived_settings():
    assert config.Config(image_size=32).stem_name == "cifar"
    assert config.Config(image_size=33).stem_name == "imagenet"
    assert config.Config(image_size=32, stem="imagenet").stem_name == "imagenet"
    assert config.Config(use_tpu=True).strategy_name == "tpu"
    subset = config.Config(dataset="imagenet2012_subset/1pct", train_mode="finetune")
    assert subset.default_model_dir() == "runs/imagenet2012_subset_1pct_finetune"
    applied = config.Config(mode="predict", checkpoint="runs/photos/student")
    assert applied.default_model_dir() == "runs/student_predict"
    assert applied.replace(data_dir="~/My photos").default_model_dir() == "runs/My_photos_predict"


# ---- what is refused


FINETUNE = {"train_mode": "finetune", "checkpoint": "c"}
REJECTED = [
    ({"train_batch_size": 0}, "at least 1"),
    ({"eval_batch_size": -1}, "at least 1"),
    ({"image_size": 0}, "at least 1"),
    ({"train_steps": -5}, "at least 0"),
    ({"train_epochs": -1}, "at least 0"),
    ({"train_epochs": 0}, "--train_steps"),
    ({"checkpoint_epochs": 0}, "--checkpoint_steps"),
    ({"keep_checkpoint_max": 0}, "at least 1"),
    ({"num_proj_layers": 0}, "at least 1"),
    ({"proj_out_dim": 0}, "at least 1"),
    ({"temperature": 0.0}, "above 0"),
    ({"temperature": float("nan")}, "above 0"),
    ({"learning_rate": -0.1}, "at least 0"),
    ({"weight_decay": -1e-4}, "at least 0"),
    ({"momentum": 1.0}, "below 1"),
    ({"batch_norm_decay": 1.5}, "below 1"),
    ({"sk_ratio": -0.1}, "at least 0"),
    ({"se_ratio": 2.0}, "at most 1"),
    ({"width_multiplier": 0}, "at least 0.0625"),
    ({"color_jitter_strength": 1.3}, "at most 1.25"),
    ({"cutout_size": 1.5}, "at most 1"),
    ({"label_fraction": 10.0}, "not a percentage"),
    ({"seed": -1}, "at least 0 and at most"),
    ({"resnet_depth": 51}, "Did you mean 50"),
    ({"optimizer": "larss"}, "Did you mean lars"),
    ({"mode": "train_than_eval"}, "Did you mean train_then_eval"),
    ({"train_steps": 2.5}, "whole number"),
    ({"use_blur": 1}, "True or False"),
    ({"learning_rate": "0.1"}, "a number"),
    ({"model_dir": pathlib.Path("x")}, "a string"),
    ({"ft_proj_selector": 4}, "Use 0 to 3"),
    ({"ft_proj_selector": -2}, "at least -1"),
    ({"ft_proj_selector": 2, "proj_head_mode": "linear"}, "Use 0 to 1"),
    ({"ft_proj_selector": 1, "proj_head_mode": "none"}, "Use 0."),
    ({**FINETUNE, "fine_tune_after_block": 5}, "from -1 to 4"),
    ({"fine_tune_after_block": 0}, "--train_mode=finetune"),
    ({"fine_tune_after_block": 4, "train_mode": "supervised"}, "--train_mode=finetune"),
    ({**FINETUNE, "label_fraction": 0.1, "labels_per_class": 4}, "Set only one of them"),
    ({"labels_per_class": 4}, "pretraining uses all images"),
    ({"train_mode": "finetune"}, "Set --checkpoint"),
    ({"train_mode": "supervised", "checkpoint": "c"}, "--train_mode=finetune"),
    ({"restore_head": True}, "--train_mode=finetune"),
    ({**FINETUNE, "restore_head": True, "zero_init_logits_layer": True}, "Set only one of them"),
    ({"dataset": "folder"}, "Set --data_dir"),
    ({"labels": "labels.csv"}, "Set --data_dir to the folder"),
    ({"use_tpu": True, "strategy": "mirrored"}, "Remove --use_tpu or --strategy"),
]


@pytest.mark.parametrize("settings, remedy", REJECTED, ids=lambda value: str(value)[:40])
def test_errors_state_rule_value_and_remedy(settings, remedy):
    with pytest.raises(errors.UserError) as caught:
        config.Config(**settings).validate()
    message = str(caught.value)
    assert "Received: " in message and remedy in message and "\n" not in message
    name, value = list(settings.items())[-1]
    if name not in ("train_mode", "dataset"):  # there the flag that is missing is named
        assert f"{name}={value}" in message or f"{name}={value!r}" in message


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ft_proj_selector": -1},
        {"ft_proj_selector": 3},
        {"ft_proj_selector": 1, "proj_head_mode": "linear"},
        {**FINETUNE, "fine_tune_after_block": 4, "label_fraction": 1.0},
        {"train_mode": "supervised", "labels_per_class": 4},
        {"train_mode": "finetune", "mode": "eval"},
        {"color_jitter_strength": 1.25, "learning_rate": 1, "momentum": 0.0},
        {"train_epochs": 0, "train_steps": 1, "checkpoint_epochs": 0, "checkpoint_steps": 1},
        {"use_tpu": True, "strategy": "tpu"},
    ],
    ids=str,
)
def test_accepts_the_ends_of_the_ranges(settings):
    config.Config(**settings).validate()


def test_warnings_name_settings_without_effect():
    def warned(**settings):
        return " ".join(config.Config(**settings).warnings())

    assert warned() == ""
    assert "stem and shortcut but no selective kernels" in warned(sk_ratio=0.1, resnet_depth=34)
    small = warned(sk_ratio=0.1, resnet_depth=18, image_size=32)
    assert "ResNet-D shortcut but no selective kernels" in small
    assert warned(sk_ratio=0.0625) == ""
    assert "0.0625" in warned(sk_ratio=1.0)
    assert "sqrt" in warned(train_batch_size=256)
    assert warned(train_batch_size=256, learning_rate_scaling="sqrt") == ""
    assert "a batch has no negatives" in warned(train_batch_size=1)
    assert "negatives" not in warned(train_batch_size=2)
    assert warned(train_batch_size=256, mode="eval") == ""
    assert warned(train_batch_size=256, **FINETUNE) == ""
    assert "num_proj_layers" in warned(num_proj_layers=2, proj_head_mode="linear")


@pytest.mark.parametrize(
    ("settings", "stale"),
    [
        ({"memory_size": 4096, "ema_decay": 0.99}, "= 1.28 is above 0.25"),
        ({"memory_size": 801, "ema_decay": 0.99}, "= 0.2503 is above 0.25"),
        ({"memory_size": 800, "ema_decay": 0.99}, ""),
        ({"memory_size": 1600, "ema_decay": 0.99, "memory_views": 2}, ""),
        ({"memory_size": 4096, "ema_decay": 1.0}, ""),
        ({"memory_size": 0, "ema_decay": 0.0}, ""),
    ],
)
def test_a_stale_queue_is_a_warning_with_values_that_fit(settings, stale):
    """MoCo's ratio: 0.001 * 65536 / 256. What is warned of here: (1 - decay) * size / enqueued."""

    def warned(**settings):
        shared = {"train_batch_size": 32, "learning_rate_scaling": "sqrt", "use_memory": True}
        return " ".join(config.Config(**shared, **settings).warnings())

    text = warned(**settings)
    assert stale in text and bool(text) == bool(stale)
    for flag, kind in (("memory_size", int), ("ema_decay", float)) if stale else ():
        value = kind(re.search(rf"--{flag}=([\d.]+\d)", text)[1])
        assert not warned(**{**settings, flag: value})
        step = 1 if kind is int else -0.0001  # it is the first that fits
        assert warned(**{**settings, flag: value + step})


def test_memory_settings_that_do_not_go_together():
    text = " ".join(config.Config(use_memory=True, memory_weight=0.5).warnings())
    assert "memory_weight=0.5 has no effect with memory_loss=momentum" in text
    assert not config.Config(memory_size=10**6).warnings()
    with pytest.raises(errors.UserError, match="NT-Xent only. Received: contrastive_loss=supcon"):
        config.Config(use_memory=True, contrastive_loss="supcon").validate()


# ---- the command line, in a process of its own


@pytest.mark.parametrize(
    "args, part",
    [
        (["--trian_steps=3"], "train_steps"),
        (["--optimizer=larrs"], "Did you mean lars?"),
        (["--train_steps=many"], "train_steps=many"),
        (["--use_blur=maybe"], "use_blur=maybe"),
        (["eval"], "'eval'"),
        (["--recipe=digit"], "Did you mean digits?"),
        (["--temperature=-1"], "temperature=-1"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_command_line_is_one_line_and_no_traceback(args, part, tmp_path):
    done = call(*args, cwd=tmp_path)
    assert done.returncode == 1
    assert part in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_recipe_help_lists_the_recipes(tmp_path):
    done = call("--recipe=help", cwd=tmp_path)
    assert done.returncode == 0
    for name in recipe.names():
        assert f"--recipe={name}" in done.stdout


@pytest.mark.parametrize("delay", [0.0, 0.6, 1.5])
def test_ctrl_c_before_the_training_is_quiet(delay, tmp_path):
    command = [sys.executable, "-u", str(ROOT / "tf2" / "run.py")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def heed():  # a shell's job in the background ignores Ctrl-C, and its children with it
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, cwd=tmp_path, preexec_fn=heed, **pipes) as process:
        process.stdout.readline()  # its first words; then TensorFlow is imported
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_python_builds_the_config_of_the_command_line():
    made = run.configure(recipe="digits", train_mode="pretrain", train_epochs=3, flip=True)
    assert (made.dataset, made.image_size, made.temperature) == ("digits", 8, 0.5)  # the recipe's
    assert (made.train_epochs, made.flip, made.mode) == (3, True, "train")
    assert {"train_epochs", "flip"} <= made.explicit and "image_size" not in made.explicit
    whole = run.configure(recipe="digits", train_mode="simclrv2", **{"student.train_epochs": 5})
    assert whole.for_stage("student").train_epochs == 5


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"train_epoch": 3}, "train_epochs"),
        ({"image_size": "large"}, "image_size"),
        ({"recipe": "digit"}, "digits"),
        ({"dataset": "cifar10", "temperature": -1.0}, "temperature=-1.0"),
    ],
)
def test_a_mistake_in_python_gets_its_sentence(settings, told):
    with pytest.raises(errors.UserError, match=told) as caught:
        run.configure(**settings)
    assert "run.py" not in str(caught.value)


def start(monkeypatch, execute):
    """Runs main() on a legal command line with `execute` in place of the run itself."""
    values = flags.FlagValues()
    run.define_flags(values)
    values(["run.py", "--dataset=cifar10", "--model_dir=m"])
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(run, "execute", execute)
    return run.main(["run.py"])


def test_main_hands_the_config_on_and_its_exit_code_back(monkeypatch):
    def execute(made):
        assert (made.dataset, made.model_dir) == ("cifar10", "m")
        return 3

    assert start(monkeypatch, execute) == 3


def test_main_turns_a_users_mistake_into_its_sentence(monkeypatch, capsys):
    def execute(made):
        raise errors.UserError("No such thing.")

    assert start(monkeypatch, execute) == 1
    assert capsys.readouterr().err == "run.py: No such thing.\n"


def test_main_lets_a_bug_show_its_traceback(monkeypatch):
    def execute(made):
        return {}["missing"]

    with pytest.raises(KeyError):
        start(monkeypatch, execute)


# ---- which errors are the user's


def caught(function):
    """Returns what `function` raises."""
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


def raise_value_error():
    """Raises as a library would."""
    raise ValueError("from outside")


def test_faults_of_the_machine_are_one_sentence(tmp_path):
    missing = tmp_path / "missing"
    assert str(missing) in errors.sentence(caught(lambda: missing.read_text()))
    assert str(tmp_path) in errors.sentence(caught(lambda: tmp_path.read_text()))
    full = OSError(errno.ENOSPC, "No space left on device", "there")
    assert errors.sentence(full) == "No space left on device: there"
    assert "batch" in errors.sentence(MemoryError())
    gone = caught(lambda: tf.io.read_file(str(missing)))
    assert isinstance(gone, tf.errors.NotFoundError)
    assert str(missing) in errors.sentence(gone)
    lost = "Graph execution error:\n\nCollective ops is aborted by: /job:worker/task:1 is gone"
    assert "A worker of this run" in errors.sentence(tf.errors.UnavailableError(None, None, lost))
    oom = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\nmore")
    assert "smaller batch" in errors.sentence(oom) and "\n" not in errors.sentence(oom)


def test_only_a_user_error_is_the_users():
    refused = caught(lambda: config.Config(seed=-1).validate())
    assert errors.sentence(refused) == str(refused)
    assert errors.sentence(caught(lambda: fields.in_interval(0.0, "[a, b]"))) is None
    assert errors.sentence(caught(raise_value_error)) is None
    assert errors.sentence(caught(lambda: tf.zeros([2, 3]) @ tf.zeros([2, 3]))) is None
    assert errors.sentence(KeyError("x")) is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--mode=train", "--count=9"], ["--count has no effect with --mode=train, only with sel"]),
        (
            ["--mode=predict", "--checkpoint=x", "--endpoint=proj_1", "--probes=knn"],
            ["--endpoint has no effect with --mode=predict, only with probe or embed or select.",
             "--probes has no effect with --mode=predict, only with probe."],
        ),
        (["--mode=train", "--pretrain.eval_timeout=5"], ["--pretrain.eval_timeout has no effect"]),
        (["--mode=select", "--checkpoint=x", "--count=9", "--endpoint=proj_1"], []),
        (["--mode=train_then_eval", "--min_precision=0.9"], []),
    ],
)  # fmt: skip
def test_a_flag_that_the_mode_does_not_use_is_named(arguments, told):
    _, messages = parse(*arguments)
    found = [message for message in messages if "only with" in message]
    assert len(found) == len(told)
    for message, beginning in zip(sorted(found), sorted(told), strict=True):
        assert message.startswith(beginning)
