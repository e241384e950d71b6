"""Corrupted checkpoints raise one sentence, or still hold the original network."""

import json
import pathlib
import shutil
import zipfile

import ckpt
import h5py
import numpy as np
import pytest

from checkpoints_tools import convert
from tf2 import errors

FORMATS = ("tf1", "ours", "reference_tf2", "savedmodel", "safetensors", "keras", "keras_zip")
SEEDS = range(8)  # 56 corrupted checkpoints


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The same network in each format, written once."""
    directory = tmp_path_factory.mktemp("good")
    ckpt.write_tf1(directory / "source" / "model.ckpt-7", ckpt.released(ckpt.shapes(), ema=False))
    for to in FORMATS:
        path = ckpt.destination(directory, to, to)
        convert.convert(str(directory / "source"), str(path), to.removesuffix("_zip"))
    return directory


def files_of(path):
    """Returns the files of a checkpoint, those with tensors twice."""
    if path.is_file():
        return [path]
    files = [p for p in sorted(path.rglob("*")) if p.is_file()]
    return files + [p for p in files if p.suffix == ".index" or ".data-" in p.name]


def corrupt(file, random):
    """Changes a file in one of five random ways; returns which."""
    data = bytearray(file.read_bytes())
    way = random.choice(["cut", "flip", "zeros", "noise", "empty"], p=[0.25, 0.3, 0.2, 0.2, 0.05])
    begin = int(random.randint(len(data)))
    length = int(min(len(data) - begin, random.choice([8, 300, 5000])))
    if way == "cut":
        del data[begin:]
    elif way == "flip":
        data[begin] ^= 1 << int(random.randint(8))
    elif way == "zeros":
        data[begin : begin + length] = bytes(length)
    elif way == "noise":
        data[begin : begin + length] = random.bytes(length)
    else:
        data.clear()
    file.write_bytes(bytes(data))
    return way


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("to", FORMATS)
def test_a_corrupted_checkpoint_raises_or_is_read_exactly(good, tmp_path, to, seed):
    random = np.random.RandomState(1000 * FORMATS.index(to) + seed)
    whole = ckpt.destination(good, to, to)
    path = ckpt.destination(tmp_path, to)
    (shutil.copytree if whole.is_dir() else shutil.copy)(whole, path)
    files = files_of(path)
    way = corrupt(files[random.randint(len(files))], random)
    try:
        network = convert.read(str(path))
        values = {name: network.tensors[name] for name in network.tensors}
    except errors.UserError as error:
        assert "\n" not in str(error) and "Received" in str(error)
        return
    for name, value in ckpt.expected().items():
        np.testing.assert_array_equal(values[name], value, err_msg=f"{way}: {name}")


def header(path, change):
    """Rewrites a safetensors file's header."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + length])
    change(head)
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


KERNEL, BETA = "backbone/stem/conv/kernel", "backbone/stem/bn/beta"


def wrong_headers():
    """Returns name -> function that makes a safetensors header wrong."""
    return {
        "shape": lambda h: h[KERNEL].update(shape=[3, 3, 3, 9]),
        "transposed": lambda h: h[KERNEL].update(shape=[8, 3, 3, 3]),
        "negative": lambda h: h[KERNEL].update(shape=[-3, -3, 3, 8]),
        "huge": lambda h: h[KERNEL].update(shape=[2**62, 4]),
        "type": lambda h: h[KERNEL].update(dtype="F8"),
        "overlap": lambda h: h[KERNEL].update(
            data_offsets=h["backbone/stem/bn/beta"]["data_offsets"]
        ),
        "beyond": lambda h: h[KERNEL].update(data_offsets=[10**12, 10**12 + 864]),
        "list": lambda h: h.update({KERNEL: [1, 2]}),
        "exchange": lambda h: h.update(
            {KERNEL.replace("stem/conv", "block_group1/0/conv1"): h.pop(KERNEL)}
        ),
        "metadata": lambda h: h.update(__metadata__=[]),
        "model.json": lambda h: h["__metadata__"].update({"model.json": "[" * 5000}),
        "architecture": lambda h: h["__metadata__"].update(
            {"model.json": json.dumps({"architecture": {"depth": "many"}})}
        ),
    }


@pytest.mark.parametrize("change", wrong_headers())
def test_a_wrong_header_raises(good, tmp_path, change):
    path = tmp_path / "x.safetensors"
    shutil.copy(good / "safetensors.safetensors", path)
    header(path, wrong_headers()[change])
    with pytest.raises(errors.UserError) as caught:
        network = convert.read(str(path))
        [network.tensors[name] for name in network.tensors]
    assert "\n" not in str(caught.value)


def test_two_tensors_exchanged_in_a_header_raise(good, tmp_path):
    path = tmp_path / "x.safetensors"
    shutil.copy(good / "safetensors.safetensors", path)
    first, second = (f"backbone/block_group1/{i}/conv1/kernel" for i in (0, 1))

    def exchange(head):
        head[first], head[second] = head[second], head[first]

    header(path, exchange)
    network = convert.read(str(path))
    with pytest.raises(errors.UserError, match="was changed"):
        network.tensors[first]


def test_an_archive_never_writes_outside(good, tmp_path):
    path = tmp_path / "inner" / "x.keras"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../escaped", "x")
        archive.writestr("../../model.weights.h5", "x")
    with pytest.raises(errors.UserError, match="must be whole"):
        convert.read(str(path))
    assert [p.name for p in tmp_path.rglob("*")] == ["inner", "x.keras"]


def test_links_to_other_files_raise(good, tmp_path):
    path = tmp_path / "x.weights.h5"
    shutil.copy(good / "keras.weights.h5", path)
    with h5py.File(path, "r+") as f:
        del f["backbone/stem/conv/vars/0"]
        f["backbone/stem/conv/vars/0"] = h5py.ExternalLink("/etc/other.h5", "/x")
    with pytest.raises(errors.UserError, match="refers to other files"):
        convert.read(str(path))


def test_a_path_that_is_no_checkpoint_raises(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no weights")
    (tmp_path / "x.keras").write_bytes(b"PK")
    (tmp_path / "x.safetensors").write_bytes(b"")
    for path in ("empty", "notes.txt", "x.keras", "x.safetensors", "nowhere"):
        with pytest.raises(errors.UserError, match="Received") as caught:
            convert.read(str(pathlib.Path(tmp_path) / path))
        assert "\n" not in str(caught.value)
