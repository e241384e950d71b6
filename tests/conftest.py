"""Setup of all tests: quiet TensorFlow, four logical CPU devices, shared fixtures, file order."""

import fcntl
import gc
import os
import pathlib
import sys

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

# What TensorFlow's C++ code writes while it is imported heeds no level, and would come after
# pytest's summary.
_stderr, _nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
os.dup2(_nowhere, 2)
try:
    import tensorflow as tf  # noqa: E402
finally:
    os.dup2(_stderr, 2)
    os.close(_stderr)
    os.close(_nowhere)

# One process can hold several replicas only if its devices are set up before first use.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)

# Every test traces new graphs, to run them a few times: optimizing them would take a quarter of the
# time. The tests that start processes, the slow ones of them above all, run optimized graphs.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

import small  # noqa: E402

from tf2 import pipeline, resnet  # noqa: E402

RESNET, DEPTH_18 = resnet.ResNet, resnet.DEPTHS[18]


@pytest.fixture(scope="module", autouse=True)
def frozen_heap():
    """Keeps `gc.collect`, which each stage of a run calls, from searching TensorFlow's modules and
    what earlier files left: a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def one_convolution():
    """Replaces the ResNet by `small.Backbone`; the heads, losses and runs are the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "ResNet", small.Backbone)
        yield


@pytest.fixture
def small_backbone(monkeypatch):
    """As one_convolution, in a module whose other tests have a ResNet."""
    monkeypatch.setattr(resnet, "ResNet", small.Backbone)


@pytest.fixture(scope="module")
def one_block_per_group():
    """Halves ResNet-18: one block in each of its four groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.DEPTHS, 18, (False, (1, 1, 1, 1)))
        yield


def _finished_run(tmp_path_factory, name, **flags):
    """Trains a run, or waits for the other process of pytest-xdist that trains it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with open(root / f"{name}.lock", "w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / name / "saved_model").exists():
            patch.setattr(resnet, "ResNet", RESNET)  # also where a module uses one_convolution
            patch.setitem(resnet.DEPTHS, 18, DEPTH_18)
            pipeline.run(small.run_config(root / name, mode="train_then_eval", **flags))
    return root / name


@pytest.fixture(scope="session")
def pretrained_run(tmp_path_factory):
    """Model directory of a pretrained ResNet: evaluated, kNN measured, exported. Read only."""
    return _finished_run(tmp_path_factory, "pretrained_run", export=True, eval_knn="on")


@pytest.fixture(scope="session")
def supervised_run(tmp_path_factory):
    """Model directory of a ResNet trained with labels: evaluated, exported. Read only."""
    return _finished_run(tmp_path_factory, "supervised_run", export=True, train_mode="supervised")


# In order of duration. A long file at the end would leave the other process without work.
LONGEST = [
    "test_run", "test_distribute", "test_reference_training", "test_pipeline", "test_distillation",
    "test_stages", "test_smoke", "test_colabs", "test_data", "test_memory_runs", "test_export",
    "test_convert", "test_run_report", "test_audit", "test_apply", "test_data_util", "test_plots",
    "test_backbones", "test_features", "test_data_identity", "test_momentum_encoder",
]  # fmt: skip


# Files of quick tests that, with test_smoke, touch every package; -m smoke runs them.
SMOKE = [
    "test_docs", "test_inspection", "test_layering", "test_layouts", "test_metrics",
    "test_model_card", "test_objective", "test_optimization", "test_plan", "test_progress",
    "test_recipe", "test_selection", "test_tables", "test_variables",
]  # fmt: skip


def pytest_collection_modifyitems(items):
    """Marks the smoke tests, and puts the files that take longest first."""
    for item in items:
        if item.path.stem in SMOKE and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.smoke)
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


def pytest_runtest_logreport(report):
    """Lists skipped tests in the file that .ci/run names, to run them where their files are."""
    path = os.environ.get("SIMCLR_SKIPPED_TESTS")
    if path and report.skipped and "PYTEST_XDIST_WORKER" not in os.environ:
        with open(path, "a") as stream:
            stream.write(f"{report.nodeid}\n")
