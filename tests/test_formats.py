"""Other formats of an export hold the same network, and what the model card says of them is so."""

import importlib.util
import re

import conftest
import numpy as np
import pytest
import small

import tf2 as simclr
from tf2 import config, data_util, early_checks, errors, resnet, run
from tf2.apply import formats
from tf2.flags import evaluation

pytestmark = pytest.mark.usefixtures("one_convolution")


def batch(images, labels, mask):
    images = np.array(images, "float32").reshape(-1, 1, 1, 1)
    return {"image": images, "label": np.eye(3)[labels], "mask": np.array(mask, "float32")}


def test_a_format_is_compared_on_the_real_images_of_a_split():
    def exact(images):  # the class is the pixel, rounded
        return {
            "probabilities": np.eye(3, dtype="float32")[np.round(images[:, 0, 0, 0]).astype(int)]
        }

    def rough(images):
        return {"probabilities": exact(images)["probabilities"] * 0.75 + 0.0}

    def wrong(images):
        return {"probabilities": exact(images)["probabilities"][:, ::-1]}

    batches = [batch([0, 1, 2], [0, 1, 1], [1, 1, 1]), batch([2, 0, 0], [2, 1, 1], [1, 0, 0])]
    found = formats.measure({"a": exact, "b": rough, "c": wrong}, batches)
    assert {name: (m.correct, m.labeled) for name, m in found.items()} == {
        "a": (3, 4),
        "b": (3, 4),
        "c": (1, 4),
    }
    assert {name: m.difference for name, m in found.items()} == {"a": 0, "b": 0.25, "c": 1}
    assert all(len(m.milliseconds) == 3 for m in found.values())


def test_without_labels_or_classes_only_the_outputs_are_compared():
    unlabeled = batch([1, 2], [0, 0], [1, 1])
    unlabeled["label"] *= 0
    for given in (unlabeled, {name: unlabeled[name] for name in ("image", "mask")}):
        for output in ("probabilities", "final_avg_pool"):
            runs = {
                "a": lambda images, output=output: {output: images[:, 0, 0]},
                "b": lambda images, output=output: {output: images[:, 0, 0] + 0.5},
            }
            found = formats.measure(runs, [given])
            assert [(m.labeled, m.correct) for m in found.values()] == [(0, 0), (0, 0)]
            assert found["b"].difference == 0.5
    text = formats._section(found, {"a": "x", "b": "y"}, {"a": 1, "b": 2}, "two images")
    assert "| b " in text and "%" not in text and "5.0e-01" in text


def test_every_format_of_the_flag_can_be_written():
    assert set(evaluation.FORMATS) == {"savedmodel", *formats.FORMATS}
    assert config.Config(formats="onnx, savedmodel,litert,onnx").other_formats == ("onnx", "litert")
    assert config.Config().other_formats == ()


@pytest.mark.parametrize(
    "value, words",
    [
        ("savedmodel,onx", "Received: formats=onx. Did you mean onnx"),
        ("litert_int8", r"without ai_edge_litert. Run `pip install 'simclr-tf2\[litert\]'`"),
        ("onnx", r"without tf2onnx. Run `pip install 'simclr-tf2\[onnx\]'`"),
    ],
)
def test_a_format_that_cannot_be_written_is_refused_before_tensorflow(value, words, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UserError, match=words):
        early_checks.check(config.Config(mode="export", checkpoint="nowhere", formats=value))


@pytest.fixture(scope="module")
def trained(one_convolution, tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained")
    assert run.run_argv(small.command(directory, train_mode="supervised", mode="train")) == 0
    return directory


def ship(trained, directory, names):
    """Exports in some formats; returns the directory and the card's table by file."""
    flags = [f"--checkpoint={trained}", f"--model_dir={directory}", f"--formats={','.join(names)}"]
    assert run.run_argv(["run.py", "--mode=export", *flags]) == 0
    (path,) = (directory / "saved_model").iterdir()
    card = (path / "README.md").read_text()
    section = card.split("## Formats\n")[1].split("\n## ")[0]
    assert "Run on digits/test, 360 images." in section
    rows = [[cell.strip() for cell in row.split("|")[2:-1]] for row in section.splitlines()]
    return path, {row[0].strip("`"): row[1:] for row in rows if row and row[0][:1] == "`"}


def installed(name):
    return all(importlib.util.find_spec(package) for package in evaluation.FORMATS[name][0])


@pytest.fixture(scope="module")
def shipped(trained, tmp_path_factory):
    """The directory of an export in the float formats whose packages are installed; its table."""
    names = [name for name in ("litert", "onnx") if installed(name)]
    if not names:
        pytest.skip("neither the extra litert nor onnx is installed")
    return ship(trained, tmp_path_factory.mktemp("shipped"), ["savedmodel", *names])


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_a_file_answers_as_the_network_does(name, shipped, trained):
    if not installed(name):
        pytest.skip(f"the extra {name} is not installed")
    (path, rows), kind = shipped, formats.FORMATS[name]
    digits = simclr.load_source("digits")
    images = digits.load_all("test")["image"][:5]
    views = np.stack([data_util.preprocess_image(image, 16, 16) for image in images])
    expected = simclr.predict(trained, digits, split="test").probabilities
    found = kind.load((path / kind.file).read_bytes())(views)
    np.testing.assert_allclose(found["probabilities"], expected[:5], atol=1e-5)
    accuracy = 100 * np.mean(expected.argmax(1) == digits.labels("test"))
    assert float(rows[kind.file][0].removesuffix(" %")) == pytest.approx(accuracy, abs=0.01)
    assert rows["saved_model.pb"][0] == rows[kind.file][0] and float(rows[kind.file][1]) <= 1e-5
    megabytes = (path / kind.file).stat().st_size / 1e6
    assert rows[kind.file][2] == f"{megabytes:.2f} MB"
    assert re.fullmatch(r"\d+\.\d+ ms", rows[kind.file][3])


def test_no_file_of_an_export_names_a_directory_of_this_machine(shipped, trained):
    path, _ = shipped
    places = (path, trained, formats.__file__.rsplit("/tf2/", 1)[0])
    for file in path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not [place for place in places if str(place).encode() in content], file


@pytest.mark.slow  # two minutes: a ResNet that has learned something
def test_eight_bits_cost_less_than_a_point_of_accuracy(tmp_path, monkeypatch):
    if not installed("litert_int8"):
        pytest.skip("the extra litert is not installed")
    monkeypatch.setattr(resnet, "ResNet", conftest.RESNET)
    flags = {"train_steps": 400, "train_mode": "supervised", "learning_rate": 1.0}
    assert run.run_argv(small.command(tmp_path / "run", mode="train", **flags)) == 0
    path, rows = ship(tmp_path / "run", tmp_path / "shipped", ["litert_int8"])
    exact, rounded = (float(row[0].removesuffix(" %")) for row in rows.values())
    assert exact > 70 and abs(exact - rounded) <= 1
    sizes = [(path / "model_int8.tflite").stat().st_size, (path / "saved_model.pb").stat().st_size]
    assert sizes[0] < sizes[1] / 2
