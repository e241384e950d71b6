"""The names and shapes of an architecture, known without building it, are those of the network."""

import numpy as np
import pytest
import reference

from tf2 import architecture as architecture_lib
from tf2 import model as model_lib
from tf2 import variables
from tf2.checkpoints import layouts
from tf2.parity import network as parity_network

SMALL = {"depth": 18, "width_multiplier": 0.125, "num_classes": 6, "proj_out_dim": 16}
ARCHITECTURES = [
    {},
    {"stem": "cifar", "channels": 1},
    {"depth": 34, "se_ratio": 0.25},
    {"depth": 50, "sk_ratio": 0.0625},
    {"depth": 50, "width_multiplier": 0.5, "sk_ratio": 0.5, "stem": "cifar", "se_ratio": 0.0625},
    {"depth": 101, "width_multiplier": 0.25},
    {"depth": 152, "sk_ratio": 0.0625, "num_classes": 0},
    {"depth": 200},
    {"proj_head_mode": "linear"},
    {"proj_head_mode": "none"},
    {"num_proj_layers": 2, "ft_proj_selector": 2},
    {"ft_proj_selector": 1},
    {"ft_proj_selector": 0, "num_classes": 1000},
]


def canonical_names(architecture):
    return {ours: (theirs, None) for ours, theirs in layouts.canonical(architecture).items()}


@pytest.mark.parametrize("changes", ARCHITECTURES, ids=str)
def test_weights_are_those_of_the_network(changes):
    with parity_network.shapes_only():
        model = model_lib.SimCLR(**{**SMALL, **changes})
    named = variables.named_variables(model)
    expected = {name: tuple(variable.shape) for name, variable in named.items()}
    found = layouts.weights(model.hyperparameters)
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize("changes", ARCHITECTURES, ids=str)
def test_the_architecture_is_inferred_from_names_and_shapes(changes):
    architecture = {
        **architecture_lib.BACKBONE_DEFAULTS,
        "proj_head_mode": "nonlinear",
        **SMALL,
        **changes,
    }
    shapes = layouts.weights(architecture)
    names = layouts.canonical(architecture)
    found = layouts.infer({names[n]: s for n, s in shapes.items()}, canonical_names)
    assert list(layouts.weights(found).items()) == list(shapes.items())
    undecided = {"num_proj_layers", "proj_out_dim", "ft_proj_selector", "proj_head_mode"}
    if changes.get("ft_proj_selector") != 0:
        undecided -= {"proj_head_mode"}
    for key in set(architecture) - undecided:
        assert found[key] == architecture[key], key


@pytest.mark.parametrize("name", reference.PACK.names("01_tf1_layouts"))
def test_reference_layouts_are_recognised(name):
    data = reference.PACK.json(f"01_tf1_layouts/{name}.json")
    if "variables" not in data:
        pytest.skip("not the layout of one network")
    shapes = {row[0]: tuple(row[1]) for row in data["variables"]}
    found = layouts.infer(shapes, canonical_names)
    config = data["config"]
    assert found["depth"] == config["resnet_depth"]
    assert found["width_multiplier"] == config["width_multiplier"]
    assert found["sk_ratio"] == config["sk_ratio"]
    assert found["num_classes"] == config["num_classes"]
    assert (found["proj_head_mode"] == "none") == (config["num_proj_layers"] == 0)
    ours = layouts.weights(found)
    named = {layouts.canonical(found)[n]: s for n, s in ours.items()}
    assert list(named.items()) == list(shapes.items())
    backbone = sum(int(np.prod(s)) for n, s in ours.items() if n.startswith("backbone/"))
    stated = config["params_base_model_trainable"] + config["params_base_model_moving_stats"]
    assert backbone == stated


def test_nothing_is_recognised_in_other_weights():
    assert layouts.infer({"a/kernel": (3, 3, 3, 64)}, canonical_names) is None
    shapes = {layouts.canonical(SMALL)[n]: s for n, s in layouts.weights(SMALL).items()}
    shapes["base_model/conv2d_5/kernel"] = (3, 3, 8, 9)
    assert layouts.infer(shapes, canonical_names) is None
