"""The features of a ResNet are its endpoints, computed without the input pipeline."""

import numpy as np
import pytest
import tensorflow as tf

import tf2 as simclr
from tf2 import data_util
from tf2.checkpoints import checkpoint
from tf2.sources import digits as digits_lib

SIZE = 16  # of pretrained_run


@pytest.fixture(scope="module")
def endpoints(pretrained_run):
    """Every endpoint and projection layer for the first eight test images."""
    model, _ = checkpoint.load_model(str(pretrained_run))
    images = digits_lib.DigitsSource().load_all("test")["image"][:8].numpy()
    views = tf.stack([data_util.preprocess_for_eval(i, SIZE, SIZE, crop=False) for i in images])
    outputs = model(views, training=False)
    layers = model.project(outputs["final_avg_pool"], training=False)
    outputs |= {f"proj_{number}": layer for number, layer in enumerate(layers)}
    return {name: value.numpy() for name, value in outputs.items()}


@pytest.mark.parametrize(
    "endpoint", ["final_avg_pool", "initial_conv", "block_group2", "proj_0", "proj_2", "logits_sup"]
)
def test_any_endpoint_gives_features(endpoint, pretrained_run, endpoints):
    digits = digits_lib.DigitsSource().subset("test", range(8))
    embedded = simclr.embed(pretrained_run, digits, endpoint=endpoint, split="test", batch_size=3)
    expected = endpoints[endpoint]
    if expected.ndim == 4:
        expected = expected.mean(axis=(1, 2))
    assert embedded.values.dtype == np.float32
    np.testing.assert_allclose(embedded.values, expected, atol=1e-5 * np.abs(expected).max())
    assert list(embedded.ids) == digits.ids("test")
    np.testing.assert_array_equal(embedded.labels, digits.labels("test"))
