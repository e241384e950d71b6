"""Mistakes in files: one sentence, exit code 1, nothing written, before TensorFlow is imported."""

import os
import pathlib
import subprocess
import sys

import pytest
from PIL import Image
from small import refusal
from test_run_directory import write_run

from tf2 import config, early_checks, errors, run
from tf2.sources import scan

# ---- weights


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"train_mode": "finetune", "checkpoint": "nowhere"}, "nowhere, which is neither"),
        (
            {"train_mode": "finetune", "checkpoint": "empty"},
            "Received: checkpoint=empty, which has neither",
        ),
        ({"train_mode": "finetune", "checkpoint": "all"}, "such as all/pretrain"),
        ({"train_mode": "distill", "teacher": "all/finetune,r50_1x_sk0_pretraned"}, "Did you mean"),
        ({"mode": "embed", "model_dir": "nowhere"}, "_dir=nowhere"),
        (
            {"train_mode": "simclrv2", "stages": {"distill": {"teacher": "finetune,nowhere"}}},
            "teacher=nowhere",
        ),
    ],
)
def test_missing_weights_are_found_before_tensorflow_is_imported(
    flags, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "all", "pretrain", "finetune")
    with pytest.raises(errors.UserError, match=words):
        early_checks.check(config.Config(**flags))


@pytest.mark.parametrize("path", ["all/pretrain", "all/pretrain/ckpt-3", "r50_1x_sk0_pretrained"])
def test_weights_that_are_there_or_released_pass(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "all", "pretrain")
    early_checks.check(config.Config(train_mode="finetune", checkpoint=path))


# ---- folders


def write_images(root, *names):
    """Writes an image under each name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(root / name)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of six images, in the current directory; a run that starts is a failure."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "execute", lambda _: pytest.fail("the mistake was not found"))
    write_images(tmp_path / "photos", *(f"{number}.png" for number in range(6)))
    return tmp_path / "photos"


def assert_refused(capsys, words, *args):
    """Checks that a command line is one sentence with these words, and that it writes nothing."""
    before = sorted(pathlib.Path().rglob("*"))
    message = refusal(capsys, ["run.py", "--mode=train_then_eval", *args])
    for part in words.split("|"):
        assert part in message
    assert sorted(pathlib.Path().rglob("*")) == before


LABELS = [
    ("image,class\n0.png,a\n", "Received"),
    ("path,label\n", "labels=labels.csv"),
    ("path,label\n7.png,a\n8.png,b\n", "7.png"),
    ("path,label\n0.png,a\n1.png,a\n", "at least two classes|'a'"),
    ("path,label\n0.png,a\n1.png,a\n2.png,b\n", "at least two labeled images|b"),
    ("path,label\n0.png,a\n0.png,b\n1.png,a\n", "0.png"),
    ("path,label\n0.png,\n", "blank"),
    ("path,label\n0.png,\u00fc\n".encode("latin-1"), "UTF-8"),
]


@pytest.mark.parametrize("content, words", LABELS, ids=[str(row[0])[:40] for row in LABELS])
def test_a_labels_file_that_cannot_be_used(content, words, photos, capsys):
    content = content if isinstance(content, bytes) else content.encode()
    (photos.parent / "labels.csv").write_bytes(content)
    assert_refused(capsys, words, "--data_dir=photos", "--labels=labels.csv")


FOLDERS = [
    (["--data_dir=nowhere"], "data_dir='nowhere', which does not exist"),
    (["--data_dir=texts"], "data_dir='texts', without images"),
    (["--data_dir=texts/notes.txt"], "another file"),
    (["--data_dir=photos", "--labels=nowhere.csv"], "nowhere.csv"),
    (["--data_dir=photos", "--train_split=tain"], "split='tain'. Did you mean train?"),
    (["--data_dir=photos", "--train_split=train+unlabelled"], "split='unlabelled'"),
    (["--data_dir=photos", "--student.train_split=trian"], "Stage student: |split='trian'"),
    (["--data_dir=photos", "--model_dir=photos/run"], "inside data_dir=photos"),
    (["--data_dir=photos", "--train_mode=supervised"], "needs labels|which has no classes"),
    (["--data_dir=.", "--labels=none"], "model_dir=runs/"),
    (["--data_dir=one", "--dataset=folder", "--image_size=8", "--labels=one"], "class 'a'"),
]


@pytest.mark.parametrize("args, words", FOLDERS, ids=[" ".join(row[0]) for row in FOLDERS])
def test_a_folder_that_cannot_be_used(args, words, photos, capsys):
    (photos.parent / "texts").mkdir()
    (photos.parent / "texts" / "notes.txt").write_text("not an image")
    write_images(photos.parent / "one", "a/0.png", "a/1.png")
    assert_refused(capsys, words, *args)


def test_a_folder_that_is_not_readable(photos, monkeypatch, capsys):
    walk = os.walk

    def deny(root, onerror=None, **_):
        if onerror:
            onerror(PermissionError(13, "Permission denied", root))
        return walk(root)

    monkeypatch.setattr(scan.os, "walk", deny)
    assert_refused(capsys, "Permission denied|photos", "--data_dir=photos")


def test_a_manifest_may_stand_above_its_run(photos, monkeypatch):
    monkeypatch.setattr(run, "execute", lambda made: 0)
    rows = "".join(f"photos/{n}.png,{n % 2}\n" for n in range(6))
    (photos.parent / "list.csv").write_text(f"path,label\n{rows}")
    assert run.run_argv(["run.py", "--data_dir=list.csv"]) == 0


def test_what_is_found_in_a_folder_is_printed(photos, monkeypatch, capsys):
    monkeypatch.setattr(run, "execute", lambda made: 0)
    assert run.run_argv(["run.py", "--data_dir=photos"]) == 0
    first, *_ = lines = capsys.readouterr().out.splitlines()
    assert first.startswith("The images of photos, with the settings of recipe images")
    assert "Found: 6 images in photos, all in one folder." in lines
    assert "Labels: None of them is labeled." in lines


def test_a_mistake_in_a_folder_comes_without_tensorflow(tmp_path):
    code = (
        "import sys\n"
        "from tf2 import run\n"
        "assert run.run_argv(['run.py', '--data_dir=nowhere']) == 1\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules), 'imported TensorFlow'\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(run.__file__))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
