"""The PyTorch network computes the same numbers from the same weights, at any image size."""

import numpy as np
import pytest
import tensorflow as tf

from tests import reference
from tf2 import architecture as architecture_lib
from tf2 import errors, variables
from tf2 import model as model_lib
from tf2.checkpoints import layouts

torch = pytest.importorskip("torch")
from checkpoints_tools import torch_names, torch_resnet  # noqa: E402


def networks(**architecture):
    """Returns our network and PyTorch's, with the same weights by the fill rule."""
    ours = model_lib.SimCLR(**architecture)
    named = variables.named_variables(ours)
    canonical = variables.reference_names(list(named), ours.hyperparameters["proj_head_mode"])
    for name, variable in named.items():
        variable.assign(reference.fill(canonical[name], tuple(variable.shape)))
    theirs = torch_resnet.SimCLR(**ours.hyperparameters).eval()
    torch_resnet.load_weights(theirs, {name: v.numpy() for name, v in named.items()})
    return ours, theirs, named


def images_of(size, count=2, channels=3):
    return np.random.RandomState(7).uniform(size=(count, *size, channels)).astype("float32")


def differences(ours, theirs, images, training=False):
    """Returns endpoint -> largest difference over the largest of our values."""
    theirs.train(training)
    expected = ours(tf.constant(images), training=training)
    with torch.no_grad():
        found = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    assert set(found) == set(expected)
    result = {}
    for name, value in expected.items():
        there = found[name].numpy()
        there = there.transpose(0, 2, 3, 1) if there.ndim == 4 else there
        assert there.shape == tuple(value.shape), name
        result[name] = np.abs(there - value.numpy()).max() / np.abs(value.numpy()).max()
    return result


NARROW = {"width_multiplier": 0.125, "num_classes": 10, "num_proj_layers": 3, "proj_out_dim": 16}
CASES = {
    "sk0": {"depth": 50},
    "sk1": {"depth": 50, "sk_ratio": 0.0625},
    "basic": {"depth": 18},
    "basic sk1": {"depth": 18, "sk_ratio": 0.0625},
    "excitation": {"depth": 18, "se_ratio": 0.25},
    "excitation sk1": {"depth": 50, "se_ratio": 0.25, "sk_ratio": 0.0625},
    "cifar": {"depth": 18, "stem": "cifar", "channels": 1},
    "fine-tuned on layer 1": {"depth": 18, "ft_proj_selector": 1},
    "fine-tuned on the last": {"depth": 18, "ft_proj_selector": -1},
    "linear head": {"depth": 18, "proj_head_mode": "linear"},
    "no head": {"depth": 18, "proj_head_mode": "none", "num_classes": 0},
}


# Slow: another ResNet-50, whose two parts are compared one by one in the default tests.
SLOW = {"excitation sk1"}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow if c in SLOW else ()) for c in CASES]
)
def test_every_endpoint_is_equal_at_even_and_odd_sizes(case):
    architecture = {**NARROW, **CASES[case]}
    ours, theirs, _ = networks(**architecture)
    for size in ((64, 64), (61, 47)):
        found = differences(ours, theirs, images_of(size, channels=architecture.get("channels", 3)))
        assert max(found.values()) < 1e-5, (size, found)


def weights_of(**architecture):
    """Returns our name -> array by the fill rule."""
    shapes = layouts.weights(architecture)
    canonical = layouts.canonical(architecture)
    return {name: reference.fill(canonical[name], shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("sk_ratio", [0.0, 0.0625])
def test_weights_are_the_same_after_loading(sk_ratio):
    architecture = {**architecture_lib.DEFAULTS, "sk_ratio": sk_ratio, **NARROW}
    values = weights_of(**architecture)
    theirs = torch_resnet.SimCLR(**architecture)
    torch_resnet.load_weights(theirs, values)
    back = torch_resnet.weights(theirs)
    assert list(back) == list(values)
    for name, value in values.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_our_network_takes_weights_of_pytorch():
    torch.manual_seed(1)
    theirs = torch_resnet.SimCLR(depth=18, **NARROW)
    with torch.no_grad():  # statistics of their own, and no branch that is zero
        for name, tensor in theirs.state_dict().items():
            if ".bn" in name and not name.endswith("mean"):
                tensor.uniform_(0.5, 1.5)
    ours = model_lib.SimCLR(**theirs.hyperparameters)
    values = torch_resnet.weights(theirs)
    for name, variable in variables.named_variables(ours).items():
        variable.assign(values[name])
    assert max(differences(ours, theirs, images_of((48, 48))).values()) < 1e-5


def test_training_normalizes_by_the_batch_and_updates_the_statistics_alike():
    architecture = {**NARROW, "depth": 18, "ft_proj_selector": 1, "fine_tune_after_block": 1}
    ours, theirs, named = networks(**architecture)
    before = {name: v.numpy() for name, v in named.items()}
    found = differences(ours, theirs, images_of((32, 32), count=16), training=True)
    assert max(found.values()) < 1e-3, found
    moved = torch_resnet.weights(theirs)
    for name, variable in named.items():
        np.testing.assert_allclose(moved[name], variable.numpy(), atol=1e-4, err_msg=name)
        frozen = variables.block_index(name) in (0, 1) or "moving" not in name
        assert frozen == np.array_equal(moved[name], before[name]), name


@pytest.mark.parametrize("config", ["r50_1x_sk0", "r50_1x_sk1", "r152_3x_sk1"])
def test_names_and_shapes_are_those_of_the_reference(config):
    layout = reference.PACK.json(f"01_tf1_layouts/{config}.json")
    settings = {"depth": int(config[1:].split("_")[0]), "width_multiplier": int(config[-6])}
    settings["sk_ratio"] = 0.0625 if config.endswith("sk1") else 0.0
    names = list(layouts.weights({**architecture_lib.DEFAULTS, **settings}))
    canonical = variables.reference_names(names)
    with torch.device("meta"):
        network = torch_resnet.SimCLR(**settings)
    shapes = {}
    for name, tensor in network.state_dict().items():
        name, shape = torch_names.our_name(name), tuple(tensor.shape)
        axes = torch_names.axes_from_torch(name, len(shape))
        shapes[name] = shape if axes is None else tuple(shape[axis] for axis in axes)
    assert list(shapes) == names
    expected = {row[0]: tuple(row[1]) for row in layout["variables"]}
    assert {canonical[name]: shape for name, shape in shapes.items()} == expected


def test_weights_of_another_architecture_raise():
    architecture = {**architecture_lib.DEFAULTS, **NARROW, "depth": 18}
    theirs, values = torch_resnet.SimCLR(**architecture), weights_of(**architecture)
    name, value = next(iter(values.items()))
    with pytest.raises(errors.UserError, match="by name"):
        torch_resnet.load_weights(theirs, {n: v for n, v in values.items() if n != name})
    with pytest.raises(errors.UserError, match="Shapes must agree"):
        torch_resnet.load_weights(theirs, {**values, name: value[..., :-1]})


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (193, 161)])
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("sk_ratio", [0.0, 0.0625])
def test_full_networks_agree_at_full_size(size, width, sk_ratio):
    ours, theirs, _ = networks(depth=50, width_multiplier=width, sk_ratio=sk_ratio)
    assert max(differences(ours, theirs, images_of(size)).values()) < 1e-4
