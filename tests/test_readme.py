"""README's commands: each one is a command line that the program takes, and each one runs."""

import os
import pathlib
import re
import shlex

import made
import numpy as np
import pytest
from absl import flags
from PIL import Image

from checkpoints_tools import convert, inspect
from tf2 import run, study

ROOT = pathlib.Path(__file__).parents[1]
CIFAR = ROOT.parent / "shared" / "tfds"
SHRINK = ("--train_steps=2", "--train_batch_size=16", "--eval_batch_size=32", "--eval_steps=1")
SHRINK += ("--eval_knn=off", "--export=False", "--plots=False")


def commands():
    """Returns the arguments of every run.py command in README's shell blocks, in order."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    calls = [line.split("python tf2/run.py", 1)[1] for line in lines if "tf2/run.py" in line]
    return [shlex.split(call) for call in calls]


def studies():
    """Returns the arguments of every command of tf2.study in README and docs/, in order."""
    texts = [file.read_text() for file in (ROOT / "README.md", *ROOT.glob("docs/*.md"))]
    text = "\n".join(texts).replace("\\\n", " ")
    return [shlex.split(call) for call in re.findall(r"python -m tf2\.study (.*)", text)]


@pytest.mark.parametrize("call", studies(), ids=lambda call: " ".join(call)[:60])
def test_a_study_s_command_is_taken(call, monkeypatch, tmp_path):
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    values = flags.FlagValues()
    study.define_flags(values)
    values(["study", *map(os.path.expandvars, call)])
    config, _ = run.build_config(values, train_mode="simclrv2")
    amounts = [{"labels_per_class": 1, "label_fraction": 0.0}]
    steps = study._steps_of(config, 0, amounts, tuple(values.methods))
    assert {"pretrain", *values.methods} == {step.name for step in steps}
    assert bool(values.labels_per_class) != bool(values.label_fraction)


def conversions():
    """Returns the arguments of every command of checkpoints_tools in README, in order."""
    lines = (ROOT / "README.md").read_text().splitlines()
    start = "python -m checkpoints_tools."
    return [shlex.split(line.removeprefix(start)) for line in lines if line.startswith(start)]


def test_readmes_conversions_run(monkeypatch, tmp_path):
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    prefix = tmp_path / "released" / "model.ckpt-3"
    made.write_tf1(prefix, made.released(made.shapes(), ema=False))
    convert.convert(str(prefix), str(tmp_path / "small"), "ours")
    told = set()
    for program, *arguments in conversions():
        released = any("~/.cache" in argument for argument in arguments)  # of a download
        if program in ("convert", "inspect") and not released:
            paths = [os.path.expandvars(a) for a in arguments if not a.startswith("--")]
            flag = [a.removeprefix("--to=") for a in arguments if a.startswith("--to=")]
            if program == "convert":
                told.add(*flag)
                convert.convert(*paths, *flag)
            else:
                inspect.inspect(*paths)
            made.assert_same(paths[-1], made.expected())
    assert told >= {"tf1", "ours", "reference_tf2", "savedmodel", "safetensors", "keras"}


def test_readme_has_a_command_for_each_mode():
    told = " ".join(flag for command in commands() for flag in command)
    for mode in ("pretrain", "finetune", "distill", "supervised", "simclrv2"):
        assert f"--train_mode={mode}" in told
    assert "--mode=eval" in told and "--dataset=folder" in told
    assert len(commands()) == 13


@pytest.mark.parametrize("command", commands(), ids=lambda c: " ".join(c)[:60])
def test_every_command_is_taken(command, monkeypatch, tmp_path):
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PICTURES", str(tmp_path))
    values = flags.FlagValues()
    run.define_flags(values)
    values(["run.py", *map(os.path.expandvars, command)])
    config, _ = run.build_config(values)
    config.validate()


@pytest.mark.slow
def test_every_command_runs(monkeypatch, tmp_path):
    if not CIFAR.exists():
        pytest.skip(f"the commands need CIFAR-10, prepared in {CIFAR}")
    random = np.random.RandomState(0)
    for split in ("train", "val"):
        for name in ("apple", "pear"):
            directory = tmp_path / "pictures" / split / name
            directory.mkdir(parents=True)
            for number in range(16):
                pixels = random.randint(0, 256, (40, 50, 3), np.uint8)
                Image.fromarray(pixels).save(directory / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("DATA_DIR", str(CIFAR))
    monkeypatch.setenv("PICTURES", str(tmp_path / "pictures"))
    for command in commands():
        shrunk = SHRINK if any("train" in flag for flag in command) else ()
        assert run.run_argv(["run.py", *map(os.path.expandvars, command), *shrunk]) == 0, command
