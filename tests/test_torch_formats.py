"""PyTorch files are read and written bit by bit; damaged files and code raise an error."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from checkpoints_tools import convert, formats, pth, tensors, torch_formats
from tests import reference
from tf2 import architecture as architecture_lib
from tf2 import errors, variables
from tf2.checkpoints import layouts

torch = pytest.importorskip("torch")
from checkpoints_tools import torch_resnet  # noqa: E402

NARROW = {"width_multiplier": 0.125, "num_classes": 10, "num_proj_layers": 3, "proj_out_dim": 16}


def weights_of(**architecture):
    """Returns the whole architecture, and our name -> weight by the fill rule."""
    architecture = {**architecture_lib.DEFAULTS, **architecture}
    shapes = layouts.weights(architecture)
    canonical = variables.reference_names(list(shapes), architecture["proj_head_mode"])
    return architecture, {
        n: reference.fill(canonical[n], shape).copy() for n, shape in shapes.items()
    }


def write(name, path, architecture, weights):
    target = formats.FORMATS[name]
    ours = tensors.Tensors.of_arrays(weights)
    sources = {}
    for our_name, (foreign, axes) in target.names(architecture, "online").items():
        sources[foreign] = (our_name, None if axes is None else tuple(np.argsort(axes)))
    metadata = {"format": 1, "architecture": architecture, "class_names": ["é"]}
    target.write(str(path), ours.renamed(sources), metadata)


def read(name, path):
    checkpoint = formats.FORMATS[name].read(str(path))
    names = formats.FORMATS[name].names(checkpoint.metadata["architecture"], "online")
    unread = {n for n in checkpoint.tensors if not formats.FORMATS[name].ignorable(n)}
    assert unread == {foreign for foreign, _ in names.values()}
    return checkpoint, dict(checkpoint.tensors.renamed(names))


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


PORT_CASES = {
    "sk0": {"depth": 50},
    "sk1": {"depth": 50, "sk_ratio": 0.0625},
    "fine-tuned": {"depth": 50, "ft_proj_selector": 1},
    "basic cifar": {"depth": 18, "stem": "cifar", "channels": 1},
    "excitation": {"depth": 18, "se_ratio": 0.25},
    "no classes": {"depth": 18, "num_classes": 0},
    "no head": {"depth": 18, "proj_head_mode": "none"},
}


@pytest.mark.parametrize("case", PORT_CASES)
def test_the_ports_file_is_read_bit_by_bit(case, tmp_path):
    architecture, weights = weights_of(**{**NARROW, **PORT_CASES[case]})
    write("pytorch", tmp_path / "x.pth", architecture, weights)
    checkpoint, found = read("pytorch", tmp_path / "x.pth")
    assert checkpoint.metadata["architecture"] == architecture
    assert checkpoint.metadata["class_names"] == ["é"]
    assert_same(found, weights)
    assert os.listdir(tmp_path) == ["x.pth"]


@pytest.mark.parametrize("case", ["sk0", "sk1", "fine-tuned"])
def test_the_architecture_of_the_ports_own_file_is_inferred(case, tmp_path):
    architecture, weights = weights_of(**{**NARROW, **PORT_CASES[case]})
    write("pytorch", tmp_path / "x.pth", architecture, weights)
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    torch.save({"resnet": content["resnet"], "head": content["head"]}, tmp_path / "theirs.pth")
    checkpoint, found = read("pytorch", tmp_path / "theirs.pth")
    if case == "fine-tuned":  # the width of a missing layer is unknown
        architecture["proj_out_dim"] = 128
    assert checkpoint.metadata["architecture"] == architecture
    assert_same(found, weights)


def test_names_are_those_of_the_ports_modules(tmp_path):
    """The names that the port's modules have, spelled out for one block of each kind."""
    architecture, weights = weights_of(depth=50, sk_ratio=0.0625, **NARROW)
    write("pytorch", tmp_path / "x.pth", architecture, weights)
    content = torch.load(tmp_path / "x.pth", weights_only=True, mmap=True)
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    block = "net.1.blocks.0."
    expected = {f"{block}{n}.weight" for n in (
        "projection.shortcut.2", "net.0", "net.2.main_conv.0", "net.2.mixing_conv.0",
        "net.2.mixing_conv.2", "net.3",
    )}  # fmt: skip
    for layer in (
        "projection.bn.0", "net.1.0", "net.2.main_conv.1.0", "net.2.mixing_conv.1.0", "net.4.0",
    ):  # fmt: skip
        expected |= {f"{block}{layer}.{kind}" for kind in norm}
    assert {n for n in content["resnet"] if n.startswith(block)} == expected
    head = {f"layers.{j}.weight" for j in (0, 3, 6)}
    head |= {f"layers.{j}.{kind}" for j in (1, 4, 7) for kind in norm}
    assert set(content["head"]) == head
    assert not content["head"]["layers.7.bias"].any()
    kernel = weights["backbone/block_group1/0/sk/conv/kernel"]
    np.testing.assert_array_equal(
        content["resnet"][f"{block}net.2.main_conv.0.weight"].numpy(), kernel.transpose(3, 2, 0, 1)
    )


def torchvision_names(sizes):
    """Returns the names of a bottleneck ResNet of torchvision, written out by its own rule."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"conv1.weight", "fc.weight", "fc.bias", *(f"bn1.{kind}" for kind in norm)}
    for group, blocks in enumerate(sizes, start=1):
        for i in range(blocks):
            path = f"layer{group}.{i}"
            for j in (1, 2, 3):
                names |= {f"{path}.conv{j}.weight", *(f"{path}.bn{j}.{kind}" for kind in norm)}
            if i == 0:
                names |= {f"{path}.downsample.0.weight"}
                names |= {f"{path}.downsample.1.{kind}" for kind in norm}
    return names


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_resnet_is_read_bit_by_bit(library, tmp_path):
    architecture, weights = weights_of(depth=50, proj_head_mode="none", num_classes=10)
    write(library, tmp_path / "x.pth", architecture, weights)
    state = torch.load(tmp_path / "x.pth", weights_only=True)
    assert set(state) == torchvision_names((3, 4, 6, 3))
    assert tuple(state["layer1.0.conv2.weight"].shape) == (64, 64, 3, 3)
    checkpoint, found = read(library, tmp_path / "x.pth")
    same = {name: checkpoint.metadata["architecture"][name] for name in architecture_lib.DEFAULTS}
    assert {**same, "num_proj_layers": 0} == {**architecture, "num_proj_layers": 0}
    assert_same(found, weights)
    wrapped = {"epoch": 3, "state_dict": {f"module.{n}": t for n, t in state.items()}}
    torch.save(wrapped, tmp_path / "wrapped.tar")
    assert_same(read(library, tmp_path / "wrapped.tar")[1], weights)


# torchvision's layers, in the order of a Sequential of them.
CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


@pytest.mark.parametrize("program", ["solo-learn", "lightly"])
def test_the_backbone_of_another_programs_checkpoint_is_read(program, tmp_path, caplog):
    architecture, weights = weights_of(
        depth=50, proj_head_mode="none", num_classes=0, width_multiplier=0.125
    )
    names = torch_formats._translate(torch_formats._library_layer, architecture)
    state = {}
    for ours, (foreign, axes) in names.items():
        first, rest = foreign.split(".", 1)
        first = first if program == "solo-learn" else CHILDREN.index(first)
        value = weights[ours] if axes is None else weights[ours].transpose(np.argsort(axes))
        state[f"backbone.{first}.{rest}"] = torch.from_numpy(np.ascontiguousarray(value))
    state["projector.0.weight"] = torch.zeros(2, 2)
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "x.ckpt")
    network = convert.read(str(tmp_path / "x.ckpt"))
    assert_same(dict(network.tensors), weights)
    assert "1 tensors beside the network are left out" in caplog.text


@pytest.mark.parametrize(
    "change, name",
    [
        ({"sk_ratio": 0.0625}, "sk_ratio"),
        ({"depth": 18}, "depth"),
        ({"depth": 200}, "depth"),
        ({"se_ratio": 0.25}, "se_ratio"),
        ({"stem": "cifar"}, "stem"),
        ({"ft_proj_selector": 1}, "ft_proj_selector"),
        ({"width_multiplier": 0.125}, "width_multiplier"),
    ],
)
def test_an_architecture_that_torchvision_lacks_is_one_sentence(change, name, tmp_path):
    architecture = {**architecture_lib.DEFAULTS, **change}
    with pytest.raises(errors.UserError, match=f"Received: {name}="):
        torchvision = formats.FORMATS["torchvision"]
        torchvision.names(architecture, "online")
        torchvision.write(
            str(tmp_path / "x.pth"), tensors.Tensors({}), {"architecture": architecture}
        )
    assert os.listdir(tmp_path) == []


def test_torchvision_gets_a_network_without_its_projection_head(tmp_path, caplog):
    architecture, weights = weights_of(depth=50, num_classes=10)
    write("pytorch", tmp_path / "x.pth", architecture, weights)
    convert.convert(str(tmp_path / "x.pth"), str(tmp_path / "tv.pth"), "torchvision")
    assert "has no place for 14 weights of the network, such as projection_head/0" in caplog.text
    assert "moving average" not in caplog.text  # there is none
    network = convert.read(str(tmp_path / "tv.pth"))
    assert network.format.name == "torchvision"
    backbone = {n: v for n, v in weights.items() if not n.startswith("projection_head/")}
    assert len(backbone) < len(weights)
    assert_same(dict(network.tensors), backbone)


def test_a_resnet_18_of_torchvision_raises(tmp_path):
    """Its first group has no shortcut; ours has one."""
    architecture, weights = weights_of(depth=18, proj_head_mode="none", num_classes=10)
    names = torch_formats._translate(torch_formats._library_layer, architecture)
    state = {
        foreign: torch.from_numpy(weights[ours])
        for ours, (foreign, _) in names.items()
        if not foreign.startswith("layer1.0.downsample")
    }
    torch.save(state, tmp_path / "resnet18.pth")
    with pytest.raises(errors.UserError, match="ResNet-18"):
        formats.FORMATS["torchvision"].read(str(tmp_path / "resnet18.pth"))


def test_a_module_is_loaded_from_a_file(tmp_path):
    architecture, weights = weights_of(depth=18, **NARROW)
    write("pytorch", tmp_path / "x.pth", architecture, weights)
    module = torch_formats.load_module(str(tmp_path / "x.pth"))
    assert not module.training
    assert_same(torch_resnet.weights(module), weights)


def test_a_file_of_an_old_pytorch_is_read(tmp_path):
    architecture, weights = weights_of(depth=18, **NARROW)
    write("pytorch", tmp_path / "x.pth", architecture, weights)
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "old.pth")
    assert_same(read("pytorch", tmp_path / "old.pth")[1], weights)


def test_views_and_shared_storages_are_read(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    saved = {
        "transposed": base.t(),
        "part": base[1:3, ::2],
        "scalar": torch.tensor(2.0),
        "whole": base,
    }
    torch.save({**saved, "empty": torch.zeros(0, 3), "note": "text"}, tmp_path / "x.pth")
    found, others = pth.read(str(tmp_path / "x.pth"))
    assert others == {"note": "text"}
    assert found.shape("empty") == (0, 3)
    for name, value in saved.items():
        np.testing.assert_array_equal(found[name], value.numpy(), err_msg=name)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("MARK",)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_raises_and_is_not_run(new, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"resnet": {"net.0.0.weight": Evil()}}, "x.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(errors.UserError, match="no code"):
        formats.FORMATS["pytorch"].read("x.pth")
    assert os.listdir(tmp_path) == ["x.pth"]
    assert formats.FORMATS["pytorch"].recognise("x.pth")


def test_a_saved_module_raises(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(errors.UserError, match="state_dict"):
        formats.FORMATS["pytorch"].read(str(tmp_path / "x.pth"))


def damaged(path, seed):
    """Damages a file at positions that the seed decides."""
    rng = np.random.RandomState(seed)
    data = bytearray(path.read_bytes())
    kind = ("cut", "flip", "zeros", "swap")[seed % 4]
    if kind == "cut":
        del data[rng.randint(len(data)) :]
    elif kind == "flip":
        for position in rng.randint(len(data), size=3):
            data[position] ^= 1 << rng.randint(8)
    else:
        begin = rng.randint(len(data) - 600)
        part = data[begin : begin + 500]
        data[begin : begin + 500] = bytes(500) if kind == "zeros" else part[::-1]
    path.write_bytes(data)


def test_damaged_files_raise_or_are_read_exactly(tmp_path):
    """Damage to the padding does not matter; any other damage must raise."""
    narrow = {**NARROW, "width_multiplier": 1 / 32}
    architecture, weights = weights_of(depth=18, **narrow)
    write("pytorch", tmp_path / "good.pth", architecture, weights)
    good, raised = (tmp_path / "good.pth").read_bytes(), 0
    path = tmp_path / "x.pth"
    for seed in range(60):
        path.write_bytes(good)
        damaged(path, seed)
        try:
            found = dict(convert.read(str(path)).tensors)
        except errors.UserError as error:
            raised += 1
            assert str(path) in str(error)
            continue
        assert_same(found, weights)
    assert raised >= 45


def test_a_wrong_model_json_raises(tmp_path):
    architecture, weights = weights_of(depth=18, **NARROW)
    write("pytorch", tmp_path / "x.pth", architecture, weights)
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    for wrong in ({"depth": 34}, {"width_multiplier": "wide"}, {"depth": 19}, {"num_classes": 11}):
        content["model.json"] = json.dumps({"format": 1, "architecture": {**architecture, **wrong}})
        torch.save(content, tmp_path / "y.pth")
        with pytest.raises(errors.UserError, match="model.json"):
            formats.FORMATS["pytorch"].read(str(tmp_path / "y.pth"))


def test_a_full_disk_leaves_the_old_file(tmp_path):
    def fail():
        raise OSError(28, os.strerror(28))

    entry = tensors.Entry((2,), np.dtype("float32"), fail)
    (tmp_path / "x.pth").write_bytes(b"before")
    with pytest.raises(errors.UserError, match="space"):
        pth.write(str(tmp_path / "x.pth"), {"a": entry})
    assert os.listdir(tmp_path) == ["x.pth"]
    assert (tmp_path / "x.pth").read_bytes() == b"before"


def test_a_tensor_larger_than_its_record_raises(tmp_path):
    torch.save({"a": torch.zeros(4)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    home = next(name for name in records if name.endswith("data.pkl"))
    assert pickle.dumps(4, protocol=2)[2:4] in records[home]
    records[home] = records[home].replace(b"K\x04\x85", b"K\x05\x85")
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    with pytest.raises(errors.UserError, match="damaged"):
        pth.read(str(tmp_path / "y.pth"))
