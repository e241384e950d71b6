"""--mode=audit and simclr.audit: what they find in a folder with known faults."""

import csv
import pathlib
import re
import shutil

import numpy as np
import planted
import pytest
import small
from PIL import Image
from test_inspection import smooth_images

import tf2 as simclr
from tf2 import resnet, run
from tf2.visuals import audit_page

CIFAR = pathlib.Path(__file__).resolve().parents[2] / "shared" / "tfds"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with one of each fault: a leak, a duplicate, a blank, a tiny and a broken file."""
    root = tmp_path_factory.mktemp("photos")
    images = smooth_images(14)
    for number, image in enumerate(images):
        split = "val" if number > 10 else "train"
        path = root / split / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    Image.fromarray(images[0]).save(root / "val" / "a" / "leak.png")
    Image.fromarray(images[1][:, ::-1]).save(root / "train" / "a" / "copy.png")
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(root / "train" / "a" / "flat.png")
    Image.fromarray(images[2][:7]).save(root / "train" / "a" / "tiny.png")
    (root / "train" / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no image")
    return root


@pytest.fixture(scope="module")
def found(pretrained_run, photos):
    return simclr.audit(pretrained_run, photos)


def paths(found, finding):
    return {row["path"] for row in found.rows(finding)}


def test_each_fault_is_found(found):
    assert paths(found, "leak") == {"train/a/00.png", "val/a/leak.png"}
    assert paths(found, "duplicate") == {"train/b/01.png", "train/a/copy.png"}
    assert "labels differ: a, b" in found.rows("duplicate")[0]["reason"]
    assert paths(found, "blank") == {"train/a/flat.png"}
    assert paths(found, "tiny") == {"train/a/tiny.png"}
    assert paths(found, "unreadable") == {"train/a/broken.png"}
    assert found.num_images == 18
    assert len({row["group"] for row in found.rows("leak") + found.rows("duplicate")}) == 2


def test_too_few_labels_are_not_judged(found):
    assert not found.rows("label")
    assert "at least 50 labeled images" in found.notes[0] and "there are 18 of 2" in found.notes[0]


def test_the_page_shows_each_finding_with_its_image(found, tmp_path):
    text = pathlib.Path(found.to_html(tmp_path / "audit.html")).read_text()
    assert text.count('src="data:image/jpeg') == len(found.rows()) - 1  # one cannot be read
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text)
    for row in found.rows():
        assert row["path"] in text


def test_file_names_cannot_break_the_page():
    row = {"finding": "outlier", "index": 0, "group": "", "path": "<b>.png", "label": "<i>",
           "split": "train", "reason": "<u>"}  # fmt: skip
    text = audit_page.render("<title>", [row], {"outlier": "far"}, {0: b"jpeg"}, 1)
    assert "<b>" not in text and "<i>" not in text and "<u>" not in text


def test_the_command_writes_what_the_function_finds(
    pretrained_run, photos, found, tmp_path, capsys
):
    flags = [f"--checkpoint={pretrained_run}", f"--data_dir={photos}", f"--model_dir={tmp_path}"]
    assert run.run_argv(["run.py", "--mode=audit", *flags]) == 0
    with open(tmp_path / "audit.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    key = [(row["finding"], row["path"]) for row in rows]
    assert key == [(row["finding"], row["path"]) for row in found.rows()]
    assert (tmp_path / "audit.html").exists()
    printed = capsys.readouterr().out
    assert re.search(r"leak +2 in 1 groups", printed) and "audit.csv, audit.html" in printed


def test_labels_are_judged_by_classifiers_that_have_not_seen_them(pretrained_run, tmp_path):
    images = simclr.load_source("digits")
    subset = images.subset("train", np.arange(300)).subset("test", np.arange(2))
    found = simclr.audit(pretrained_run, subset)
    listed = found.rows("label")
    probabilities = [row["probability"] for row in listed]
    assert probabilities == sorted(probabilities) and max(probabilities, default=0) < 0.02
    assert all(row["suggested"] != row["label"] for row in listed)


def test_leaks_of_a_run_s_own_folder_are_those_of_its_holdout(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(resnet.DEPTHS, 18, (False, (1, 1, 1, 1)))
    folder = tmp_path / "photos"
    shutil.copytree(photos / "train", folder)
    (folder / "a" / "broken.png").unlink()
    flags = small.command(
        tmp_path / "run", dataset="folder", data_dir=folder, holdout=0.3, eval_split="holdout",
        train_batch_size=8, train_steps=1, resnet_depth=18,
    )  # fmt: skip
    assert run.run_argv([*flags, "--mode=train"]) == 0
    audit = ["run.py", "--mode=audit", f"--checkpoint={tmp_path / 'run'}", f"--data_dir={folder}"]
    assert run.run_argv([*audit, f"--model_dir={tmp_path / 'found'}"]) == 0
    with open(tmp_path / "found" / "audit.csv", newline="") as file:
        splits = {row["split"] for row in csv.DictReader(file) if row["path"]}
    assert splits <= {"train", "holdout", ""} and "train" in splits


def test_an_empty_folder_and_one_image_are_one_sentence(pretrained_run, tmp_path, capsys):
    Image.fromarray(smooth_images(1)[0]).save(tmp_path / "one.png")
    flags = [f"--checkpoint={pretrained_run}", f"--data_dir={tmp_path}"]
    text = small.refusal(capsys, ["run.py", "--mode=audit", *flags, f"--model_dir={tmp_path}/m"])
    assert "An audit compares images." in text


@pytest.mark.slow
def test_planted_faults_of_cifar10_are_found(tmp_path):
    """Trains for a few minutes on 2,000 photographs; see docs/audit.md for the numbers."""
    if not CIFAR.is_dir():
        pytest.skip("needs CIFAR-10")
    source = simclr.load_source("cifar10", CIFAR, download=False)
    decoded = [source.decode(record) for record in source.records("train").take(2000)]
    names = [source.class_names[int(example["label"])] for example in decoded]
    truth = planted.write([example["image"].numpy() for example in decoded], names, tmp_path)
    config = simclr.configure(
        data_dir=str(tmp_path / "photos"), labels=str(tmp_path / "labels.csv"), minutes=6,
        train_mode="pretrain", recipe="images", model_dir=str(tmp_path / "run"),
    )  # fmt: skip
    simclr.train(config)
    found = simclr.audit(tmp_path / "run", tmp_path / "photos", labels=tmp_path / "labels.csv")
    measured = planted.measure(found, *truth)
    hits, planted_count, true, listed = measured["copies"]
    assert hits / planted_count >= 0.9 and true / listed >= 0.9
    compressed, all_compressed, *_ = measured["  compressed"]
    assert compressed / all_compressed >= 0.9
    hits, wrong, true, listed = measured["label"]
    assert hits / wrong >= 0.3 and true / listed >= 0.2  # 2.4 % of all labels are wrong
