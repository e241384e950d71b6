"""README and docs/: each command shown is one that the programs take, and README's run."""

import os
import pathlib
import re
import shlex

import ckpt
import numpy as np
import pytest
from absl import flags
from PIL import Image

from checkpoints_tools import convert, inspect
from tf2 import run, study
from tf2.benchmark import cli as benchmark_cli

ROOT = pathlib.Path(__file__).parents[1]
CIFAR = ROOT.parent / "shared" / "tfds"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES += [ROOT / "colabs" / "README.md"]
SHRINK = ("--train_steps=2", "--train_batch_size=16", "--eval_batch_size=32", "--eval_steps=1")
SHRINK += ("--eval_knn=off", "--export=False", "--plots=False")


def command_lines(*pages):
    """Returns the distinct command lines in the shell blocks of some pages, in order."""
    text = "\n".join(page.read_text() for page in pages)
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    lines = blocks.replace("\\\n", " ").splitlines()
    return list(dict.fromkeys(" ".join(line.split()) for line in lines))


def arguments(program, *pages):
    """Returns the arguments of every command of a program in some pages."""
    calls = [line.split(program, 1)[1] for line in command_lines(*pages) if program in line]
    return [shlex.split(call) for call in calls]


def shown(value):
    return " ".join(value)[:80]


RUNS = [call for call in arguments("tf2/run.py", *PAGES) if call != ["--recipe=help"]]
STUDIES = arguments("tf2.study", *PAGES)
CONVERSIONS = arguments("checkpoints_tools.", *PAGES)


@pytest.fixture(autouse=True)
def directories(monkeypatch, tmp_path):
    for name in ("MODEL_DIR", "DATA_DIR", "PICTURES"):
        monkeypatch.setenv(name, str(tmp_path))


def test_readme_is_short_and_has_one_reader():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 250
    assert "docs/label_efficiency.png" in text
    for command in (
        "pip install -e . && python tf2/run.py --mode=train_then_eval",
        "pip install -e '.[test]' && python -m pytest",
    ):
        assert f"```bash\n{command}\n```" in text


def test_the_pages_have_a_command_for_each_mode():
    text = " ".join(flag for command in RUNS for flag in command)
    for mode in ("pretrain", "finetune", "distill", "supervised", "simclrv2"):
        assert f"--train_mode={mode}" in text
    for mode in (
        "train_then_eval",
        "eval",
        "probe",
        "embed",
        "predict",
        "select",
        "audit",
        "export",
    ):
        assert f"--mode={mode} " in text
    assert "--dataset=folder" in text
    assert len(RUNS) >= 20 and len(STUDIES) >= 5 and len(CONVERSIONS) >= 12


@pytest.mark.parametrize("command", RUNS, ids=shown)
def test_every_command_is_valid(command):
    values = flags.FlagValues()
    run.define_flags(values)
    values(["run.py", *map(os.path.expandvars, command)])
    config, _ = run.build_config(values)
    config.validate()


@pytest.mark.parametrize("command", STUDIES, ids=shown)
def test_every_study_is_valid(command):
    if not command:
        pytest.skip("the program's name alone")
    values = flags.FlagValues()
    study.define_flags(values)
    values(["study", *map(os.path.expandvars, command)])
    config, _ = run.build_config(values, train_mode="simclrv2")
    amounts = [{"labels_per_class": 1, "label_fraction": 0.0}]
    stages = study._stages_of(config, 0, amounts, tuple(values.methods))
    assert {"pretrain", *values.methods} == {stage.name for stage in stages}
    amounts = (values.labels_per_class, values.label_fraction, values.select)
    assert sum(map(bool, amounts)) == 1


def test_flags_named_in_the_text_exist():
    """`--flag` in a sentence or a table, of run.py and the other programs."""
    values = flags.FlagValues()
    run.define_flags(values)
    known = set(values) | {"to", "all", "help", "flagfile", "first_seed", "verbosity", "private"}
    known |= set(vars(benchmark_cli.build_parser().parse_args([])))
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for flag in re.findall(r"(?<![\w-])--([a-z][\w.]*\w)", prose):
            if page.name not in ("CONTRIBUTING.md", "extending.md"):
                assert flag in known, f"{page.name}: --{flag}"


def test_modules_that_are_run_exist():
    for page in PAGES:
        for module in re.findall(
            r"python -m ((?:tf2|checkpoints_tools)[\w.]*\w)", page.read_text()
        ):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_the_conversions_run(tmp_path):
    prefix = tmp_path / "released" / "model.ckpt-3"
    ckpt.write_tf1(prefix, ckpt.released(ckpt.shapes(), ema=False))
    convert.convert(str(prefix), str(tmp_path / "small"), "ours")
    formats = set()
    for program, *rest in CONVERSIONS:
        downloaded = any("~/.cache" in argument for argument in rest)
        if program not in ("convert", "inspect") or downloaded or "SOURCE" in rest:
            continue
        paths = [os.path.expandvars(a) for a in rest if not a.startswith("--")]
        flag = [a.removeprefix("--to=") for a in rest if a.startswith("--to=")]
        if program == "convert":
            formats.add(*flag)
            convert.convert(*paths, *flag)
        else:
            inspect.inspect(*paths)
        ckpt.assert_same(paths[-1], ckpt.expected())
    assert formats >= {"tf1", "ours", "reference_tf2", "savedmodel", "safetensors", "keras"}


def picture_folder(directory):
    """Writes a folder of random images in two classes, and a labels file for some of them."""
    random = np.random.RandomState(0)
    for split in ("train", "val"):
        for name in ("apple", "pear"):
            folder = directory / split / name
            folder.mkdir(parents=True)
            for number in range(16):
                pixels = random.randint(0, 256, (40, 50, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{split}_{name}_{number}.png")
    names = [(name, number) for name in ("apple", "pear") for number in range(6)]
    rows = [f"train_{name}_{number}.png,{name}" for name, number in names]
    (directory / "labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/own_images.md", "docs/tasks.md"])
def test_the_commands_of_a_page_run_one_after_the_other(page, monkeypatch, tmp_path):
    calls = [call for call in arguments("tf2/run.py", ROOT / page) if len(call) > 1]
    if not CIFAR.exists() and any("--dataset=cifar10" in call for call in calls):
        pytest.skip(f"the commands need CIFAR-10, prepared in {CIFAR}")
    picture_folder(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(CIFAR))
    monkeypatch.setenv("PICTURES", str(tmp_path / "pictures"))
    if page == "docs/tasks.md":  # it uses a run of one's own, too
        own = "--mode=train_then_eval --dataset=folder --data_dir=$PICTURES --eval_split=val"
        own += " --image_size=32 --resnet_depth=18 --model_dir=$MODEL_DIR/mine"
        calls.insert(0, own.split())
    for call in calls:
        shrunk = SHRINK if any("--mode=train" in flag for flag in call) else ()
        stages = tuple(f for f in call if re.match(r"--\w+\.train_(epochs|steps)=", f))
        call = [flag for flag in call if flag not in stages]
        assert run.run_argv(["run.py", *map(os.path.expandvars, call), *shrunk]) == 0, call
