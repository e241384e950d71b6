"""Losses, LARS, learning rates and weight decay give the reference's numbers."""

import numpy as np
import pytest
import reference

from tf2 import optimization
from tf2.parity import golden
from tf2.parity import losses as parity_losses
from tf2.parity import network as parity_network


def test_contrastive_loss_logits_labels_and_gradients():
    results = reference.check(parity_losses.contrastive, at_least=54)
    assert {r.case for r in results} == {f"single{k}" for k in range(9)}


def test_contrastive_loss_of_two_and_four_replicas_with_the_gather_s_gradient():
    reference.check(parity_losses.contrastive_over_replicas, at_least=80)


def test_lars_in_all_variants_over_six_steps():
    results = reference.check(parity_losses.lars, at_least=1000)
    assert {r.case for r in results} == {f"config{k}" for k in range(9)}


def test_schedule_and_step_counts():
    results = reference.check(parity_losses.schedule, at_least=44)
    assert {r.case for r in results} == {f"flags {k}" for k in range(11)}


def test_weight_decay_terms():
    reference.check(parity_losses.weight_decay, at_least=100)


@pytest.mark.parametrize("selector", [0, 1, 2, 3])
def test_projection_layers_beyond_the_selector_are_not_decayed(selector):
    """Unlike the reference's TF2 code, whose L2 term shrinks layers that nothing reads."""
    whole = parity_network.layout_of(18, 1, 0.0, 0.0, "cifar", 10, 3)
    form = parity_network.layout_of(18, 1, 0.0, 0.0, "cifar", 10, 3, selector)

    def term(rows):
        named = {ours: (canonical, shape) for ours, canonical, shape, _, _ in rows}
        masks = optimization.build_masks(list(named), optimizer="momentum", weight_decay=1e-4)
        values = [golden.fill(*named[name]) for name in masks.l2_in_loss]
        return float(optimization.add_weight_decay(values, 1e-4)), values

    beyond = [
        golden.fill(canonical, shape)
        for _, canonical, shape, _, _ in whole
        if canonical.endswith("kernel")
        and canonical.startswith("head_contrastive")
        and int(canonical.split("/")[1][3:]) >= selector
    ]
    assert len(beyond) == 3 - selector
    removed = 0.5e-4 * sum(np.square(w.astype(np.float64)).sum() for w in beyond)
    classifier = golden.fill("head_supervised/linear_layer/dense/kernel", (512, 10))
    difference = 0.0
    if selector == 3:  # the classifier then reads 128 features, not 512
        narrow = golden.fill("head_supervised/linear_layer/dense/kernel", (128, 10))
        difference = 0.5e-4 * (np.square(narrow).sum() - np.square(classifier).sum())
    np.testing.assert_allclose(term(form)[0], term(whole)[0] - removed + difference, rtol=2e-6)
