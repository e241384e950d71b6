"""The network gives the reference's numbers: weights by name and shape, every endpoint."""

import pytest
import reference

from tf2 import variables
from tf2.parity import golden
from tf2.parity import network as parity_network

LAYOUTS = [
    name
    for name in reference.PACK.names("01_tf1_layouts")
    if name not in ("summary", "model_fn_variables")
]
FORWARD = reference.PACK.names("02_forward")
HEAVY = ("r101", "r50_2x", "224", "r50_1x_sk0_64_b2_train", "r50_1x_sk1_64_b2_train", "b8_train")
LIGHT = ("cifar_r18", "r50_1x_sk1_64_b8_train_blocks")


def by_weight(case):
    heavy = any(part in case for part in HEAVY) and not any(part in case for part in LIGHT)
    return pytest.param(case, marks=pytest.mark.slow if heavy else ())


def test_weights_and_batches_of_the_reference_follow_its_rules():
    reference.check(parity_network.fill_rule, at_least=17)


def test_the_pack_has_every_published_architecture():
    assert len(LAYOUTS) == 17
    assert sum(name.startswith("v1_") for name in LAYOUTS) == 3
    assert sum(name.startswith("r") for name in LAYOUTS) == 13


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_and_parameter_counts_are_the_reference_s(name):
    reference.check(parity_network.layout, name, at_least=7)


@pytest.mark.parametrize("case", [by_weight(case) for case in FORWARD])
def test_every_endpoint_is_the_reference_s(case):
    reference.check(parity_network.forward, case, at_least=20)


def test_the_default_cases_cover_every_kind_of_network():
    default = [p.values[0] for p in map(by_weight, FORWARD) if not p.marks]
    for part in ("cifar_r18_1x_sk0", "cifar_r18_1x_sk1", "r50_1x_sk0_64", "r50_1x_sk1_64", "_se_"):
        assert any(part in case for case in default), part
    for ending in ("_infer", "_train", "_blocks", "_localbn"):
        assert any(case.endswith(ending) for case in default), ending


def _ours_to_train(run):
    """Canonical names, in order, that our fine-tuning or pretraining form of a run trains."""
    finetune = run["train_mode"] == "finetune"
    rows = parity_network.layout_of(
        18, 1, 0.0, 0.0, "cifar", 10 if finetune else 0, 3,
        run["ft_proj_selector"] if finetune else None,
    )  # fmt: skip
    after = run["fine_tune_after_block"]
    return [canonical for ours, canonical, *_ in rows if variables.is_trainable(ours, after)]


def test_the_weights_that_train_are_those_of_the_tf1_code():
    """TF1 and TF2 differ in fine-tuning: TF2 trains the projection layers that the classifier
    reads, TF1 never trains the projection head. The TF2 behaviour holds here."""
    runs = reference.PACK.json("01_tf1_layouts/model_fn_variables.json")["runs"]
    assert len(runs) == 8
    for run in runs:
        ours = _ours_to_train(run)
        backbone_and_classifier = [n for n in ours if not n.startswith("head_contrastive")]
        if run["train_mode"] == "pretrain":
            assert ours == run["variables_to_train"]
        else:
            assert backbone_and_classifier == run["variables_to_train"]
            layers = {n.split("/")[1] for n in ours if n.startswith("head_contrastive")}
            assert layers == {f"nl_{j}" for j in range(run["ft_proj_selector"])}


def test_the_tolerance_is_what_decides():
    """The comparison itself can fail: a wrong number, a wrong shape, a NaN."""
    right = golden.compare("g", "c", "q", [1.0, 2.0], [1.0, 2.0 + 1e-6], atol=1e-5)
    wrong = golden.compare("g", "c", "q", [1.0, 2.0], [1.0, 2.1], atol=1e-5)
    shape = golden.compare("g", "c", "q", [1.0, 2.0], [1.0], atol=1e-5)
    nan = golden.compare("g", "c", "q", [1.0, 2.0], [1.0, float("nan")], atol=1e-5)
    assert right.passed and not (wrong.passed or shape.passed or nan.passed)
    assert (wrong.reference, wrong.ours) == (2.0, 2.1)
    assert not golden.compare_tables("g", "c", "q", ["a", "b"], ["a"]).passed
