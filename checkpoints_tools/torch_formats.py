"""PyTorch formats: the SimCLRv2 port's files, and ResNets as torchvision and timm name them.

pytorch: `{"resnet": state_dict, "head": state_dict, "model.json": text}` in a .pth. The first two
have the names of the SimCLRv2-Pytorch port; the last is ours (the port ignores it). Networks that
the port does not have (basic blocks, the CIFAR stem, squeeze-and-excitation) follow the same
pattern.

torchvision, timm: a flat state_dict, `conv1.weight` to `fc.bias`. ResNet-50, 101 and 152 (timm: 200
too) without selective kernels have the same layers as ours: a projection shortcut in the first
block of every group, strides in the 3x3. ResNet-18 and 34 do not: their first group has no
shortcut. Files of any width are read; only width 1 is written, because neither library builds
another. The libraries compute different numbers from the same weights: they pad max pooling by
(1, 1), not SAME, and normalize images by mean and standard deviation. `torch_resnet` has
TensorFlow's padding.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from checkpoints_tools import formats, pth, tensors, torch_names
from tf2 import architecture as architecture_lib
from tf2 import errors
from tf2.checkpoints import layouts, reference_checkpoints

if TYPE_CHECKING:
    from checkpoints_tools import torch_resnet

_METADATA_KEY = "model.json"
_COUNTER = ".num_batches_tracked"
LIBRARY_DEPTHS = {"torchvision": (50, 101, 152), "timm": (50, 101, 152, 200)}
_NORMALIZATION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

_STEM = {"conv": "0", "bn": "1.0"}
_DEEP_STEM = {"conv1": "0", "bn1": "1.0", "conv2": "2", "bn2": "3.0", "conv": "4", "bn": "5.0"}
_BLOCK = {
    "conv1": "net.0", "bn1": "net.1.0", "conv2": "net.2", "bn2": "net.3.0",
    "conv3": "net.4", "bn3": "net.5.0",
    "shortcut/conv": "projection.shortcut", "shortcut/bn": "projection.bn.0",
    "se/reduce": "se.reduce", "se/expand": "se.expand",
}  # fmt: skip
_SK_BLOCK = {
    **_BLOCK,
    "sk/conv": "net.2.main_conv.0", "sk/bn": "net.2.main_conv.1.0",
    "sk/squeeze": "net.2.mixing_conv.0", "sk/squeeze_bn": "net.2.mixing_conv.1.0",
    "sk/mix": "net.2.mixing_conv.2", "conv3": "net.3", "bn3": "net.4.0",
}  # fmt: skip


def _port_layer(layer: str, architecture: Mapping) -> str:
    """Returns the port's name of one of our layers."""
    part, *path = layer.split("/")
    selective = architecture["sk_ratio"] > 0
    if part == "supervised_head":
        return "resnet.fc"
    if part == "projection_head":  # a list of dense, batch norm, ReLU, dense, ...
        return f"head.layers.{3 * int(path[0]) + (path[1] == 'bn')}"
    if path[0] == "stem":
        deep = selective and architecture["stem"] == "imagenet"
        return f"resnet.net.0.{(_DEEP_STEM if deep else _STEM)[path[1]]}"
    group, index, leaf = path[0].removeprefix("block_group"), path[1], "/".join(path[2:])
    bottleneck = architecture_lib.DEPTHS[architecture["depth"]][0]
    name = (_SK_BLOCK if selective and bottleneck else _BLOCK)[leaf]
    if leaf == "shortcut/conv" and selective:  # after padding and average pooling
        name += ".2"
    return f"resnet.net.{group}.blocks.{index}.{name}"


def _library_layer(layer: str, _: Mapping) -> str:
    """Returns torchvision's and timm's name of one of our layers."""
    part, *path = layer.split("/")
    if part == "supervised_head":
        return "fc"
    if part == "projection_head":
        return f"projection_head.{'.'.join(path)}"
    if path[0] == "stem":
        return path[1] if path[1][-1].isdigit() else f"{path[1]}1"
    leaf = "/".join(path[2:])
    leaf = {"shortcut/conv": "downsample.0", "shortcut/bn": "downsample.1"}.get(leaf, leaf)
    return f"layer{path[0].removeprefix('block_group')}.{path[1]}.{leaf.replace('/', '.')}"


def _translate(layer_name: Callable[[str, Mapping], str], architecture: Mapping) -> layouts.Names:
    """Returns our name -> (foreign name, axes), for any architecture."""
    architecture = {**architecture_lib.DEFAULTS, **architecture}
    names: layouts.Names = {}
    for ours, shape in layouts.weights(architecture).items():
        layer, kind = ours.rsplit("/", 1)
        foreign = layer_name(layer, architecture)
        names[ours] = (
            f"{foreign}.{torch_names.ROLES[kind]}",
            torch_names.axes_from_torch(ours, len(shape)),
        )
    return names


def port_names(architecture: Mapping, weights: str = "online") -> layouts.Names:
    """Returns our name -> (name in the port's file, axes)."""
    return _translate(_port_layer, architecture)


def library_names(library: str, architecture: Mapping, weights: str = "online") -> layouts.Names:
    """Returns our name -> (name in a library's state_dict, axes), without the projection head.

    Raises:
        errors.UserError: the library has no such network.
    """
    check_library(library, architecture)
    return {
        ours: foreign
        for ours, foreign in _translate(_library_layer, architecture).items()
        if not ours.startswith("projection_head/")
    }


def check_library(library: str, architecture: Mapping) -> None:
    """Checks that a library's ResNet has the layers of an architecture.

    Raises:
        errors.UserError: names the argument that differs.
    """
    depths = LIBRARY_DEPTHS[library]
    wanted = {
        "depth": (depths, ", ".join(map(str, depths))), "sk_ratio": ((0,), "0"),
        "se_ratio": ((0,), "0"), "stem": (("imagenet",), "imagenet"), "channels": ((3,), "3"),
        "ft_proj_selector": ((None, 0), "0"),
    }  # fmt: skip
    for name, (allowed, text) in wanted.items():
        value = architecture.get(name, architecture_lib.DEFAULTS[name])
        if value not in allowed:
            raise errors.UserError(
                f"A ResNet of {library} has the layers of ours only for {name} of {text}. "
                f"Received: {name}={value}. Use the format pytorch or ours."
            )


def _is_port(path: str) -> bool:
    return _holds(path, r"resnet\.net\.0\.")


def _is_library(path: str) -> bool:
    return _holds(path, r"layer1\.0\.conv1\.weight")


def _holds(path: str, pattern: str) -> bool:
    if not pth.is_pth(path):
        return False
    try:
        values = _unwrapped(pth.read(path)[0])
    except errors.UserError:
        return True  # so that `read` reports what is wrong with the file
    return any(re.match(pattern, name) for name in values)


# Prefixes that training programs add to names. Where one is, other names are not the network's.
_PREFIXES = ("state_dict.", "model.", "module.", "backbone.")
# A ResNet of torchvision without its last layer, as a Sequential.
_SEQUENTIAL = {
    "0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4",
}  # fmt: skip


def _unwrapped(values: tensors.Tensors) -> tensors.Tensors:
    """Returns the tensors of a network that a training program saved as a part of its own."""
    entries = values.entries
    for prefix in _PREFIXES:
        inside = {n.removeprefix(prefix): e for n, e in entries.items() if n.startswith(prefix)}
        entries = inside or entries
    if "4.0.conv1.weight" in entries:
        names = {n: n.split(".", 1) for n in entries}
        entries = {
            f"{_SEQUENTIAL[first]}.{rest[0]}": entries[n]
            for n, (first, *rest) in names.items()
            if first in _SEQUENTIAL
        }
    return tensors.Tensors(entries)


def read_port(path: str) -> tensors.Checkpoint:
    """Opens a file in the port's layout.

    Raises:
        errors.UserError: it is damaged, contains code, or holds another network.
    """
    values, others = pth.read(path)
    if not any(name.startswith("resnet.") for name in values):
        raise _no_network(path)
    metadata = _stored_metadata(others.get(_METADATA_KEY), path)
    values = _without_counters(values)
    if metadata is None:
        values = _without_last_beta(values)
        architecture = layouts.infer(_shapes(values), port_names)
        if architecture is None:
            raise _no_network(path)
        metadata = reference_checkpoints.describe(architecture)
    else:
        expected = {foreign for foreign, _ in port_names(metadata["architecture"]).values()}
        values = _without_last_beta(values, expected)
        _check(values, port_names(metadata["architecture"]), metadata, path)
    return tensors.Checkpoint("pytorch", path, values, metadata, metadata.get("global_step"))


def read_library(library: str, path: str) -> tensors.Checkpoint:
    """Opens a flat state_dict of a ResNet.

    Raises:
        errors.UserError: it is damaged, contains code, or holds another network.
    """
    everything = pth.read(path)[0]
    values = _unwrapped(everything)
    if len(values) < len(everything):
        left = len(everything) - len(values)
        logging.warning("%s: %d tensors beside the network are left out.", path, left)
    values = _without_counters(values)
    names = functools.partial(_translate, _library_layer)
    architecture = layouts.infer(_shapes(values), names)
    if architecture is None and "layer1.0.conv1.weight" in values:
        raise errors.UserError(
            f"A ResNet of {library} has the layers of ours only as ResNet-"
            f"{', '.join(map(str, LIBRARY_DEPTHS[library]))} of plain bottleneck blocks. Received: "
            f"{path}, a network of another kind, such as a ResNet-18, ResNet-34, ResNeXt or wide "
            "ResNet. Train that one in its own library."
        )
    if architecture is None:
        raise _no_network(path)
    check_library(library, architecture)
    metadata = reference_checkpoints.describe(architecture)
    metadata["preprocessing"]["normalize"] = _NORMALIZATION
    return tensors.Checkpoint(library, path, values, metadata)


def _no_network(path: str) -> errors.UserError:
    return errors.UserError(
        f"A PyTorch file must hold a whole ResNet of a known architecture. Received: {path}, "
        "whose names or shapes fit none. Give the port's {'resnet', 'head'} file, or "
        "the state_dict of a ResNet of torchvision or timm."
    )


def _shapes(values: tensors.Tensors) -> dict:
    return {name: values.shape(name) for name in values}


def _stored_metadata(text: Any, path: str) -> dict | None:
    if text is None:
        return None
    try:
        metadata = json.loads(text)
        architecture = metadata["architecture"]
        layouts.weights(architecture)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise errors.UserError(
            f"The model.json in a PyTorch file must describe a network. Received: {path}, whose "
            "doesn't. Copy or convert the file again."
        ) from error
    return metadata


def _check(values: tensors.Tensors, names: layouts.Names, metadata: Mapping, path: str) -> None:
    """Raises an error unless a file has all weights of the network in its model.json."""
    for ours, shape in layouts.weights(metadata["architecture"]).items():
        if ours not in names:
            continue
        foreign, axes = names[ours]
        stored = values.shape(foreign) if foreign in values else None
        if stored and axes and len(axes) == len(stored):
            stored = tuple(stored[axis] for axis in axes)
        if stored != shape:
            raise errors.UserError(
                "A PyTorch file must hold the weights of the network that its model.json "
                f"describes. Received: {path}, where {foreign} has shape {stored}, not {shape}. "
                "Copy or convert the file again."
            )


def _without_counters(values: tensors.Tensors) -> tensors.Tensors:
    entries = values.entries.items()
    return tensors.Tensors({n: e for n, e in entries if not n.endswith(_COUNTER)})


def _without_last_beta(values: tensors.Tensors, expected: Collection[str] = ()) -> tensors.Tensors:
    """Leaves out the bias of the head's last batch norm: the port has one, and it is zero.

    If it is not zero, the layer is a middle one, in a network that was fine-tuned from it.
    """
    matches = (re.fullmatch(r"head\.layers\.(\d+)\.running_mean", name) for name in values)
    last = max((int(match[1]) for match in matches if match), default=-1)
    name = f"head.layers.{last}.bias"
    if name not in values or name in expected or np.any(values[name]):
        return values
    return tensors.Tensors({n: e for n, e in values.entries.items() if n != name})


def write_port(path: str, values: tensors.Tensors, metadata: Mapping) -> None:
    """Writes the port's layout, including the entries of its modules that we do not have.

    Raises:
        errors.UserError: PyTorch is missing, or the path is not writable.
    """
    content: dict = {"resnet": {}, "head": {}}
    for name, entry in _with_counters(values).items():
        module, inner = name.split(".", 1)
        content[module][inner] = entry
    for name, entry in values.entries.items():  # the port's last batch norm has a bias, of zeros
        match = re.fullmatch(r"head\.(layers\.\d+)\.running_mean", name)
        if match and f"{match[1]}.bias" not in content["head"]:
            content["head"][f"{match[1]}.bias"] = tensors.Entry.of(
                np.zeros(entry.shape, entry.dtype)
            )
    content[_METADATA_KEY] = json.dumps(metadata)
    pth.write(path, content)


def write_library(library: str, path: str, values: tensors.Tensors, metadata: Mapping) -> None:
    """Writes a flat state_dict for the library's ResNet.

    Raises:
        errors.UserError: the library has no such network, PyTorch is missing, or the path is not
            writable.
    """
    architecture = metadata["architecture"]
    check_library(library, architecture)
    if architecture["width_multiplier"] != 1:
        raise errors.UserError(
            f"A ResNet of {library} has the layers of ours only for width_multiplier of 1. "
            f"Received: width_multiplier={architecture['width_multiplier']}. Use the format "
            "pytorch or ours."
        )
    pth.write(path, _with_counters(values))


def _with_counters(values: tensors.Tensors) -> dict[str, tensors.Entry]:
    """Adds the counters that PyTorch's batch norm keeps."""
    entries = {}
    for name, entry in values.entries.items():
        entries[name] = entry
        if name.endswith(".running_var"):
            counter = name.removesuffix(".running_var") + _COUNTER
            entries[counter] = tensors.Entry.of(np.zeros((), np.int64))
    return entries


def load_module(path: str) -> torch_resnet.SimCLR:
    """Reads a file of any of these formats into a `torch_resnet.SimCLR`, in inference mode.

    Raises:
        errors.UserError: see the formats' readers; PyTorch is missing.
    """
    pth.import_torch("The network in PyTorch")
    from checkpoints_tools import torch_resnet

    source = next((f for f in _FORMATS if f.recognise(path)), _FORMATS[0])
    checkpoint = source.read(path)
    assert checkpoint.metadata is not None
    architecture = checkpoint.metadata["architecture"]
    model = torch_resnet.SimCLR(**architecture)
    weights = checkpoint.tensors.renamed(source.names(architecture, "online"))
    torch_resnet.load_weights(model, weights)
    return model.eval()


def _ignorable(name: str) -> bool:
    return name.endswith(_COUNTER)


_FORMATS = [formats.Format("pytorch", _is_port, read_port, port_names, _ignorable, write_port)] + [
    formats.Format(
        library,
        _is_library,
        functools.partial(read_library, library),
        functools.partial(library_names, library),
        _ignorable,
        functools.partial(write_library, library),
    )
    for library in LIBRARY_DEPTHS
]
for _format in _FORMATS:
    formats.register(_format)
