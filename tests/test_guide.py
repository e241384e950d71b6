"""What a run on a folder says at its end: without labels and with them."""

import csv
import html
import shlex
import types

import numpy as np
import pytest
import small
from PIL import Image

from tf2 import guide, run, stage_results
from tf2.apply import images_to_label

pytestmark = pytest.mark.usefixtures("one_convolution")


@pytest.fixture(name="picture_folder")
def _picture_folder(tmp_path):
    """A flat folder of gray images, as many as a batch and some more."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    for number in range(40):
        pixels = np.random.RandomState(number).randint(0, 256, (12, 12), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


def _command(text):
    """Returns the flags of the last command in a text."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("  python ")]
    return shlex.split(lines[-1])[2:]


def test_a_folder_without_labels_is_pretrained_and_the_next_command_continues_it(
    tmp_path, capsys, picture_folder
):
    flags = {**small.FLAGS, "dataset": "folder", "eval_split": "train", "train_steps": 2}
    flags |= {"data_dir": str(picture_folder), "model_dir": str(tmp_path / "run")}
    argv = ["run.py", "--train_mode=simclrv2", "--mode=train_then_eval"]
    argv += [f"--{name}={value}" for name, value in flags.items()]
    assert run.run_argv(argv) == 0
    printed = capsys.readouterr().out
    assert "== pretrain, stage 1 of 1" in printed and "finetune" not in printed.split("Next:")[0]
    labels = tmp_path / "run" / "labels.csv"
    assert str(labels) in printed and str(tmp_path / "run" / "select" / "label.html") in printed
    rows = list(csv.DictReader(labels.open()))
    chosen = list(csv.DictReader((tmp_path / "run" / "select" / "to_label.csv").open()))
    assert [row["path"] for row in rows] == [row["path"] for row in chosen]
    assert printed.rstrip().splitlines()[-1].strip() in html.unescape(
        (tmp_path / "run" / "select" / "label.html").read_text()
    )
    assert rows and all(row["label"] == "" for row in rows)
    assert {row["path"] for row in rows} <= {path.name for path in picture_folder.iterdir()}
    given = dict(flag.removeprefix("--").split("=", 1) for flag in _command(printed))
    assert given["labels"] == str(labels) and given["mode"] == "train_then_eval"
    assert given["data_dir"] == str(picture_folder) and given["train_steps"] == "2"


def test_labels_that_were_filled_in_are_not_overwritten(tmp_path):
    path = tmp_path / "labels.csv"
    guide.write_labels_file(str(path), ["a.png", "b.png"])
    assert path.read_text() == "path,label\na.png,\nb.png,\n"
    filled = "path,label\na.png,cat\nb.png,dog\n"
    path.write_text(filled)
    guide.write_labels_file(str(path), ["a.png", "c.png"])
    assert path.read_text() == filled


def test_several_workers_get_at_most_a_hundred_random_images(tmp_path):
    ids = [f"{number}.png" for number in range(250)]
    images = types.SimpleNamespace(ids=lambda split: ids)
    text = images_to_label.write_for_run(
        str(tmp_path / "pretrain"), images, "train", {"data_dir": "photos"}, at_random=True
    )
    rows = list(csv.DictReader((tmp_path / "labels.csv").open()))
    assert len(rows) == len({row["path"] for row in rows}) == 100
    assert {row["path"] for row in rows} < set(ids)
    assert "browser" not in text and str(tmp_path / "labels.csv") in text


def test_the_next_commands_use_the_result_and_every_flag_of_the_user():
    given = {"image_size": 48, "data_dir": "my photos", "student.width_multiplier": 0.5}
    text = guide.after_all_stages(given, "runs/x/student")
    commands = [shlex.split(line)[2:] for line in text.splitlines() if line.startswith("  python")]
    assert commands == [
        ["--mode=predict", "--data_dir=OTHER_IMAGES", "--checkpoint=runs/x/student"],
        ["--mode=export", "--checkpoint=runs/x/student"],
        [
            *("--mode=train_then_eval", "--data_dir=my photos", "--image_size=48"),
            "--student.width_multiplier=0.5",
        ],
    ]


@pytest.mark.parametrize(
    "accuracies, result",
    [
        # name -> top-1 and the upper end of its interval
        ({"finetune": (0.6, 0.7), "distill": (0.65, 0.75), "student": (0.6, 0.7)}, "student"),
        ({"finetune": (0.6, 0.7), "distill": (0.5, 0.7), "student": (0.2, 0.4)}, "distill"),
        ({"finetune": (0.8, 0.9), "distill": (0.5, 0.7), "student": (0.2, 0.4)}, "finetune"),
        ({"finetune": (0.6, 0.7), "distill": (0.6, 0.7)}, "distill"),
        ({"finetune": (None, None), "student": (None, None)}, "student"),
        ({"pretrain": (None, None)}, None),
        ({"pretrain": (None, None), "supervised": (0.9, 1.0)}, None),
    ],
)
def test_the_smallest_network_is_the_result_unless_a_larger_one_is_better(accuracies, result):
    rows = [
        {"method": stage_results.TITLES[name], "top_1": top_1, "top_1_high": high}
        for name, (top_1, high) in accuracies.items()
    ]
    assert stage_results.result_of(rows) == result
