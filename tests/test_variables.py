"""Names of weights: the same on every Keras, complete, and mapped to the reference's."""

import keras
import pytest

from tf2 import compat, model, variables
from tf2.parity import network as parity_network

NETWORKS = {
    "basic": {"depth": 18, "width_multiplier": 0.125, "stem": "cifar"},
    "selective kernels": {"depth": 50, "width_multiplier": 0.125, "sk_ratio": 0.0625},
    "squeeze": {"depth": 50, "width_multiplier": 0.125, "se_ratio": 0.25},
    "linear head": {"depth": 18, "width_multiplier": 0.125, "proj_head_mode": "linear"},
    "no heads": {
        "depth": 18,
        "width_multiplier": 0.125,
        "proj_head_mode": "none",
        "num_classes": 0,
    },
    "fine-tuning": {"depth": 18, "width_multiplier": 0.125, "ft_proj_selector": 2},
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return model.SimCLR(**{"num_classes": 10, **NETWORKS[request.param]})


def test_every_weight_has_one_name(network):
    named = variables.named_variables(network)
    ours = [id(v) for v in named.values()]
    keras_s = [id(compat.unwrap(w)) for w in network.weights]
    assert len(ours) == len(set(ours))
    assert set(ours) == set(keras_s)


def test_names_end_in_a_role_and_trainability_is_keras_s(network):
    named = variables.named_variables(network)
    trainable = {id(compat.unwrap(w)) for w in network.trainable_weights}
    for name, variable in named.items():
        assert variables.role(name) in variables.ROLES
        assert variables.is_trainable(name) == (id(variable) in trainable), name


def test_reference_names_are_unique(network):
    named = variables.named_variables(network)
    canonical = variables.reference_names(list(named))
    assert list(canonical) == list(named)
    assert len(set(canonical.values())) == len(named)
    assert all(variables.role(a) == variables.role(b) for a, b in canonical.items())


def test_names_that_others_rely_on():
    names = list(variables.named_variables(model.SimCLR(18, 0.125, num_classes=10)))
    assert names[:5] == [
        "backbone/stem/conv/kernel",
        "backbone/stem/bn/gamma",
        "backbone/stem/bn/beta",
        "backbone/stem/bn/moving_mean",
        "backbone/stem/bn/moving_variance",
    ]
    assert "backbone/block_group1/0/shortcut/conv/kernel" in names
    assert "backbone/block_group1/0/conv1/kernel" in names
    assert "projection_head/2/bn/gamma" in names
    assert "projection_head/2/bn/beta" not in names
    assert names[-2:] == ["supervised_head/dense/kernel", "supervised_head/dense/bias"]


def test_a_linear_head_has_the_reference_s_names():
    named = variables.named_variables(
        model.SimCLR(18, 0.125, num_classes=0, proj_head_mode="linear")
    )
    canonical = variables.reference_names(list(named), proj_head_mode="linear")
    head = [n for n in canonical.values() if n.startswith("head_contrastive")]
    assert head == [
        "head_contrastive/l_0/dense/kernel",
        "head_contrastive/l_0/batch_normalization/gamma",
        "head_contrastive/l_0/batch_normalization/moving_mean",
        "head_contrastive/l_0/batch_normalization/moving_variance",
    ]


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("backbone/stem/bn/gamma", 0),
        ("backbone/block_group3/0/conv1/kernel", 3),
        ("projection_head/0/dense/kernel", None),
        ("supervised_head/dense/bias", 5),
    ],
)
def test_blocks_of_fine_tuning(name, block):
    assert variables.block_index(name) == block


def test_only_what_comes_after_the_frozen_block_is_trained():
    named = variables.named_variables(
        model.SimCLR(18, 0.125, num_classes=10, ft_proj_selector=1, fine_tune_after_block=3)
    )
    trained = variables.trainable_variables(named, 3)
    assert {n.split("/")[0] for n in trained} == {
        "backbone", "projection_head", "supervised_head",
    }  # fmt: skip
    assert {n.split("/")[1] for n in trained if n.startswith("backbone")} == {"block_group4"}
    everything = variables.trainable_variables(named)
    assert list(trained) == [n for n in everything if n in trained]


def test_a_name_without_a_role_is_refused():
    with pytest.raises(ValueError, match="Received: name='backbone/stem/conv'"):
        variables.role("backbone/stem/conv")


def test_networks_can_be_described_without_being_allocated():
    """A ResNet-152 of threefold width: 878 million values, none of them made."""
    with parity_network.shapes_only():
        large = model.SimCLR(152, 3, 0.0625)
    sizes = [v.shape.num_elements() for v in variables.named_variables(large).values()]
    assert sum(sizes) == 877_713_800


# --- Functional and sequential models ----------------------------------------------------------


def functional(prefix=""):
    """A functional model: named and unnamed layers, a nested model, a layer that is used twice."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name=f"{prefix}entry")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.DepthwiseConv2D(3)(x)
    x = keras.layers.BatchNormalization()(x)
    inner = keras.Sequential([keras.Input((None, None, 4)), keras.layers.Dense(4)])
    shared = keras.layers.Dense(4)
    return keras.Model(inputs, shared(shared(inner(x))))


def test_a_functional_model_has_a_name_for_every_weight():
    built = functional()
    named = variables.named_variables(built)
    assert {id(v) for v in named.values()} == {id(compat.unwrap(w)) for w in built.weights}
    assert list(named) == [
        "entry/kernel", "entry/bias",
        *(f"batch_normalization/{r}" for r in ("gamma", "beta", "moving_mean", "moving_variance")),
        "depthwise_conv2d/kernel", "depthwise_conv2d/bias",
        *(
            f"batch_normalization_1/{r}"
            for r in ("gamma", "beta", "moving_mean", "moving_variance")
        ),
        "sequential/dense/kernel", "sequential/dense/bias", "dense/kernel", "dense/bias",
    ]  # fmt: skip


def test_names_do_not_depend_on_what_was_built_before():
    """Keras numbers unnamed layers through the process: this model's are not those of the first."""
    assert list(variables.named_variables(functional())) == list(
        variables.named_variables(functional())
    )


def test_an_application_has_a_name_for_every_weight():
    with parity_network.shapes_only():
        built = keras.applications.MobileNetV2(include_top=False, weights=None)
    named = variables.named_variables(built)
    assert {id(v) for v in named.values()} == {id(compat.unwrap(w)) for w in built.weights}
    assert {variables.role(name) for name in named} == {
        "kernel", "gamma", "beta", "moving_mean", "moving_variance",
    }  # fmt: skip


def test_statistics_of_normalization_are_not_trained():
    layer = keras.layers.Normalization()
    layer.build((None, 3))
    named = variables.named_variables(keras.Sequential([keras.Input((3,)), layer]))
    assert set(named) == {f"normalization/{name}" for name in ("mean", "variance", "count")}
    assert not any(variables.is_trainable(name) for name in named)


class Holder(keras.layers.Layer):
    """Holds layers in a dictionary, which names cannot be taken from."""

    def __init__(self):
        super().__init__()
        self.layers_by_name = {"a": keras.layers.Dense(2), "b": keras.layers.Dense(2)}
        for layer in self.layers_by_name.values():
            layer.build((None, 2))
        self.built = True


def test_two_weights_of_one_name_are_an_error():
    with pytest.raises(ValueError, match="Received: two weights named 'kernel'"):
        variables.named_variables(Holder())


def test_a_layer_s_own_weight_is_named_beside_its_sublayers():
    class Scaled(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)
            self.dense.build((None, 2))
            self.gamma = self.add_weight(name="gamma", shape=(2,))
            self.built = True

    assert list(variables.named_variables(Scaled())) == ["dense/kernel", "dense/bias", "gamma"]


def test_a_weight_outside_the_blocks_of_a_backbone_is_an_error():
    with pytest.raises(ValueError, match="stem and block_group1 to block_group4.*backbone/top/"):
        variables.block_index("backbone/top/kernel")
