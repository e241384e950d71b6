"""verify reports every change of a network, and passes an exact conversion."""

import os
import subprocess
import sys

import numpy as np
import pytest

from checkpoints_tools import convert, formats, tensors, verify
from tests import reference
from tf2 import architecture as architecture_lib
from tf2 import errors, variables
from tf2.checkpoints import layouts

SIZE = 33
NARROW = {
    "depth": 18, "width_multiplier": 0.125, "num_classes": 10, "num_proj_layers": 3,
    "proj_out_dim": 16, "ft_proj_selector": 1,
}  # fmt: skip


def weights_of(**architecture):
    architecture = {**architecture_lib.DEFAULTS, **architecture}
    shapes = layouts.weights(architecture)
    canonical = variables.reference_names(list(shapes))
    return architecture, {n: reference.fill(canonical[n], shape) for n, shape in shapes.items()}


def write(path, architecture, weights, **metadata):
    """Writes a PyTorch file; returns its path."""
    pytest.importorskip("torch")
    pytorch = formats.load()["pytorch"]
    names = pytorch.names(architecture, "online")
    sources = {
        f: (n, None if axes is None else tuple(np.argsort(axes))) for n, (f, axes) in names.items()
    }
    metadata = {"format": 1, "architecture": architecture, **metadata}
    pytorch.write(str(path), tensors.Tensors.of_arrays(weights).renamed(sources), metadata)
    return str(path)


@pytest.fixture
def good(tmp_path):
    return write(tmp_path / "good.pth", *weights_of(**NARROW))


def failed(rows):
    return {(row.part, row.name) for row in rows if not row.passed}


@pytest.mark.parametrize("to", ["ours", "tf1", "safetensors", "pytorch"])
def test_an_exact_conversion_has_no_difference(good, tmp_path, to):
    path = str(tmp_path / {"pytorch": "x.pth", "safetensors": "x.safetensors"}.get(to, "x"))
    convert.convert(good, path, to)
    back = str(tmp_path / "back.pth")
    settings = {"ft_proj_selector": 1} if to == "tf1" else {}
    convert.convert(path, back, "pytorch", **settings)
    rows = verify.verify(good, back, image_size=SIZE)
    assert len(rows) >= 12
    assert all(row.passed and row.difference == 0.0 for row in rows), "\n".join(map(str, rows))


def test_two_swapped_layers_of_equal_shape_are_reported(good, tmp_path):
    architecture, weights = weights_of(**NARROW)
    one, other = (f"backbone/block_group3/1/conv{j}/kernel" for j in (1, 2))
    assert weights[one].shape == weights[other].shape
    swapped = {**weights, one: weights[other], other: weights[one]}
    rows = verify.verify(good, write(tmp_path / "x.pth", architecture, swapped), image_size=SIZE)
    found = failed(rows)
    assert ("weights", "by name") in found
    assert ("endpoint", "block_group3") in found
    assert ("endpoint", "logits_sup") in found
    assert ("endpoint", "block_group2") not in found
    assert ("preprocessing", "images") not in found


def test_a_swap_hidden_by_a_gamma_of_zero_is_reported(tmp_path):
    architecture, weights = weights_of(**NARROW)
    weights = dict(weights)
    gamma = "backbone/block_group3/1/bn2/gamma"
    weights[gamma] = np.zeros_like(weights[gamma])
    one, other = (f"backbone/block_group3/1/conv{j}/kernel" for j in (1, 2))
    swapped = {**weights, one: weights[other], other: weights[one]}
    a = write(tmp_path / "a.pth", architecture, weights)
    b = write(tmp_path / "b.pth", architecture, swapped)
    assert failed(verify.verify(a, b, image_size=SIZE)) == {("weights", "by name")}


def test_a_head_on_the_wrong_layer_is_reported(good, tmp_path):
    """All weights are the same, and the shapes fit: only the layer of the head differs."""
    architecture, weights = weights_of(**NARROW)
    wrong = {**architecture, "ft_proj_selector": None, "num_proj_layers": 2}
    extra = {
        f"projection_head/1/{name}": np.ones(shape, "float32")
        for name, shape in (
            ("dense/kernel", (64, 16)),
            *((f"bn/{kind}", (16,)) for kind in ("gamma", "moving_mean", "moving_variance")),
        )
    }
    path = write(tmp_path / "x.pth", wrong, {**weights, **extra})
    rows = verify.verify(good, path, image_size=SIZE)
    found = failed(rows)
    assert {("classifier", "projection layer"), ("endpoint", "logits_sup")} <= found
    assert ("weights", "by name") not in found
    assert "layer 1 and layer 0" in "\n".join(map(str, rows))


PREPROCESSING = {"image_size": SIZE, "center_crop": 0.875, "resize": "legacy", "channels": 3}
NORMALIZE = {"normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}


def test_preprocessing_is_compared_apart_from_the_network(tmp_path):
    architecture, weights = weights_of(**NARROW)
    a = write(tmp_path / "a.pth", architecture, weights, preprocessing=PREPROCESSING)
    other = {**PREPROCESSING, **NORMALIZE}
    b = write(tmp_path / "b.pth", architecture, weights, preprocessing=other)
    assert failed(verify.verify(a, b)) == {("preprocessing", "images")}


@pytest.mark.parametrize(
    "change",
    [{}, {"resize": "half_pixel"}, {"center_crop": None}, {"image_size": SIZE + 1}, NORMALIZE],
    ids=str,
)
def test_each_change_of_the_preprocessing_is_reported(change):
    images = verify.synthetic_images(3)
    batches = [verify.preprocess(images, {**PREPROCESSING, **c}) for c in ({}, change)]
    row = verify.compare("preprocessing", "images", *batches, 1e-4)
    assert row.passed == (not change) and (row.difference == 0.0) == row.passed


def test_nan_differs_from_everything():
    nothing = np.array([np.nan], "float32")
    assert not verify.compare("endpoint", "x", nothing, nothing, 1.0).passed
    assert not verify.compare("endpoint", "x", np.ones(1), nothing, 1.0).passed
    assert verify.compare("endpoint", "x", np.ones(2), np.ones(2) + 1e-5, 1e-4).passed
    assert not verify.compare("endpoint", "x", np.ones(2), np.ones(2) + 2e-4, 1e-4).passed


def test_images_are_read_from_a_directory(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.RandomState(0).randint(0, 255, (40, 50, 3), "uint8")
    image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(verify.read_images(str(tmp_path))[0], pixels)
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(errors.UserError, match="b.png"):
        verify.read_images(str(tmp_path))
    with pytest.raises(errors.UserError, match="must exist"):
        verify.verify(str(tmp_path / "none"), str(tmp_path / "none"))
    with pytest.raises(errors.UserError, match="which has none"):
        verify.read_images(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "change, code",
    # Equal networks take a process more; that all their rows pass is tested above.
    [(1.0, 1), pytest.param(0.0, 0, marks=pytest.mark.slow)],
    ids=["other", "equal"],
)
def test_the_script_exits_with_1_over_the_tolerance(change, code, good, tmp_path):
    architecture, weights = weights_of(**NARROW)
    name = "supervised_head/dense/bias"
    path = write(tmp_path / "x.pth", architecture, {**weights, name: weights[name] + change})
    program = reference.TESTS.parent / "checkpoints_tools" / "verify.py"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(program), good, path, f"--image_size={SIZE}"], capture_output=True,
        text=True, cwd=tmp_path, env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "logits_sup" in done.stdout and ("DIFFERS" in done.stdout) == bool(code)
    assert "Traceback" not in done.stderr
