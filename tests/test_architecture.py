"""One place says what the networks are; signatures, flags and tools agree with it."""

import inspect
import subprocess
import sys

import pytest

from tf2 import architecture, config, data_util, model, resnet
from tf2.checkpoints import catalog, layouts, reference_checkpoints
from tf2.flags import checks
from tf2.flags import fields as flag_fields


def defaults_of(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def test_the_module_imports_no_framework():
    program = "import sys; from tf2 import architecture; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "tf2.architecture" in run.stdout.split(), run.stderr
    assert not {"tensorflow", "keras", "torch", "numpy"} & set(run.stdout.split())


def test_the_networks_signatures_have_these_defaults():
    network = defaults_of(model.SimCLR)
    assert network.pop("dtype") is None
    assert network.pop("backbone") == architecture.DEFAULT_BACKBONE
    assert network == architecture.DEFAULTS and list(network) == list(architecture.DEFAULTS)
    backbone = defaults_of(resnet.ResNet)
    shared = backbone.keys() & architecture.DEFAULTS.keys()
    assert {"width_multiplier", "sk_ratio", "se_ratio", "stem", "channels"} <= shared
    assert {n: backbone[n] for n in shared} == {n: architecture.DEFAULTS[n] for n in shared}


def test_the_flags_have_these_defaults_and_choices():
    fields = {field.name: field for field in config.flag_fields()}
    flags = {{"depth": "resnet_depth"}.get(name, name): name for name in architecture.DEFAULTS}
    # Pretraining has no selector, data sets decide on classes and channels, `auto` on the stem.
    own = {"ft_proj_selector": 0, "stem": "auto"}
    for flag, name in flags.items():
        if name not in ("num_classes", "channels"):
            assert fields[flag].default == own.get(name, architecture.DEFAULTS[name]), flag
    plain = config.Config()
    assert plain.image_size == architecture.IMAGENET_SIZE
    assert plain.stem_name == architecture.DEFAULTS["stem"]
    assert plain.resize == architecture.RESIZES[0]
    small = config.Config(image_size=architecture.SMALL_IMAGE_SIZE)
    assert small.stem_name == architecture.default_stem(architecture.SMALL_IMAGE_SIZE) == "cifar"
    weights = {flag for flag, name in flags.items() if name in architecture.WEIGHT_ARGUMENTS}
    network_flags = set(config.names(scope=flag_fields.NETWORK))
    assert network_flags == (weights | {"backbone"}) - {"channels"}
    assert fields["backbone"].default == architecture.DEFAULT_BACKBONE


@pytest.mark.parametrize("depth", [18, 49, 50, 201])
def test_flags_and_network_allow_the_same_depths(depth):
    def allowed(build):
        try:
            build()
        except ValueError:
            return False
        return True

    known = depth in architecture.DEPTHS
    assert allowed(lambda: checks.check(config.Config(resnet_depth=depth))) == known
    if not known:
        assert not allowed(lambda: resnet.ResNet(depth))


def test_weight_arguments_decide_the_names_and_shapes():
    other = {
        "depth": 34, "width_multiplier": 2, "sk_ratio": architecture.SK_RATIO, "se_ratio": 0.25,
        "num_classes": 10, "proj_head_mode": "linear", "num_proj_layers": 2, "proj_out_dim": 64,
        "ft_proj_selector": 1, "fine_tune_after_block": 1, "stem": "cifar", "channels": 1,
        "batch_norm_decay": 0.99, "global_bn": False,
    }  # fmt: skip
    assert other.keys() == architecture.DEFAULTS.keys()
    usual = layouts.weights(architecture.DEFAULTS)
    for name, value in other.items():
        differs = layouts.weights({**architecture.DEFAULTS, name: value}) != usual
        heads = ("num_classes", "ft_proj_selector")  # the classifier and its place, free to change
        assert differs == (name in architecture.WEIGHT_ARGUMENTS or name in heads), name


@pytest.mark.parametrize("mode, layers", [("none", 0), ("linear", 1), ("nonlinear", 4)])
def test_a_head_has_layers_up_to_the_selected_one(mode, layers):
    head = {"proj_head_mode": mode, "num_proj_layers": 4}
    for selector in (None, -1, *range(layers + 1)):
        existing = layers if selector in (None, -1) else selector
        a = {**head, "ft_proj_selector": selector}
        assert architecture.projection_layers(a) == (layers, existing)


def test_released_networks_are_preprocessed_as_they_were_trained():
    """By the TF1 program: crops of 224 pixels, the legacy grid, values in [0, 1]."""
    expected = {
        "image_size": 224, "range": [0.0, 1.0], "center_crop": 0.875, "resize": "legacy",
        "interpolation": "bicubic", "channels": 3, "sobel": False,
    }  # fmt: skip
    assert architecture.released_preprocessing() == expected
    assert reference_checkpoints.describe(architecture.DEFAULTS)["preprocessing"] == expected
    for release in catalog.RELEASES.values():
        assert release.sk_ratio in (0.0, architecture.SK_RATIO)
        if release.metadata is None:
            continue
        assert release.metadata["preprocessing"] == expected, release.name
        assert release.metadata["architecture"].keys() == architecture.DEFAULTS.keys()
    small = reference_checkpoints.describe({**architecture.DEFAULTS, "stem": "cifar"})
    assert small["preprocessing"] == {**expected, "image_size": 32, "center_crop": None}


def test_evaluation_crops_as_model_json_says():
    sizes = (architecture.SMALL_IMAGE_SIZE, architecture.SMALL_IMAGE_SIZE + 1)
    crops = [architecture.preprocessing(size)["center_crop"] for size in sizes]
    assert crops == [None, architecture.CROP_PROPORTION] == [None, data_util.CROP_PROPORTION]
    assert data_util.MAX_SIZE_WITHOUT_CROP == architecture.SMALL_IMAGE_SIZE
