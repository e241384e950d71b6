"""A short run of everything: pretrain, fine-tune, predict, convert, compare with the reference.

`python -m pytest -m smoke` runs this file and the quick ones that `conftest.SMOKE` lists.
"""

import csv
import json
import pathlib

import conftest
import numpy as np
import pytest
import small
from PIL import Image

from checkpoints_tools import convert, inspect
from tf2 import config as config_lib
from tf2 import machine, resnet, run
from tf2.auto import rules
from tf2.parity import golden, losses
from tf2.sources import image_facts

pytestmark = pytest.mark.smoke

SHORT = (
    "--mode=train_then_eval", "--recipe=digits", "--train_steps=2", "--train_batch_size=32",
    "--plots=False",
)  # fmt: skip


def simclr(*arguments):
    assert run.run_argv(["run.py", *map(str, arguments)]) == 0


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("smoke") / "pretrained"
    simclr(*SHORT, "--train_mode=pretrain", f"--model_dir={directory}")
    return directory


@pytest.fixture(scope="module")
def finetuned(pretrained):
    directory = pretrained.parent / "finetuned"
    simclr(
        *SHORT, "--train_mode=finetune", f"--checkpoint={pretrained}", "--export=False",
        f"--model_dir={directory}",
    )  # fmt: skip
    return directory


def test_pretraining_measures_the_features_and_exports(pretrained):
    result = json.loads((pretrained / "result.json").read_text())
    assert result["eval/knn_accuracy"] > 2 * result["eval/majority_class_accuracy"]
    assert (pretrained / "saved_model" / "2" / "saved_model.pb").exists()


def test_fine_tuning_starts_from_it_and_predicts(finetuned, tmp_path):
    assert len((finetuned / "labeled_ids.txt").read_text().split()) == 40
    output = tmp_path / "predictions.csv"
    simclr(
        "--mode=predict", f"--checkpoint={finetuned}", "--eval_split=test", f"--output={output}",
        f"--model_dir={tmp_path}",
    )  # fmt: skip
    with open(output) as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 360
    assert all(0 < float(row["probability"]) <= 1 for row in rows)


def test_its_checkpoint_converts(finetuned, tmp_path):
    convert.convert(str(finetuned), str(tmp_path / "network.safetensors"), "safetensors")
    contents = inspect.inspect(str(tmp_path / "network.safetensors"))
    assert "supervised_head" in str(contents)


def test_the_contrastive_loss_is_the_reference_s():
    results = losses.contrastive(golden.default_pack())
    assert len(results) > 50 and all(result.passed for result in results)


def test_all_stages_run_on_a_folder_with_every_augmentation(tmp_path, monkeypatch):
    """The other train modes, on one convolution in place of the ResNet."""
    monkeypatch.setattr(resnet, "ResNet", small.Backbone)
    random = np.random.RandomState(0)
    for name in ("ape", "bee"):
        for number in range(8):
            path = tmp_path / "images" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.randint(0, 256, (16, 16, 3), np.uint8)).save(path)
    flags = {
        **small.FLAGS, "dataset": "folder", "data_dir": tmp_path / "images", "eval_split": None,
        "train_mode": "simclrv2", "mode": "train_then_eval", "train_batch_size": 4,
        "train_steps": 1, "val_fraction": 0.25, "noise_std": 0.1, "cutout_size": 0.2,
        "rotation_degrees": 10,
    }  # fmt: skip
    simclr(*small.command(tmp_path / "run", **flags)[1:])
    stages = {path.parent.name for path in (tmp_path / "run").glob("*/result.json")}
    assert stages == {"pretrain", "finetune", "distill", "supervised"}
    used = (
        "--eval_split=validation",
        "--train_split=train",
        f"--checkpoint={tmp_path}/run/finetune",
    )
    simclr(*used, "--mode=probe", "--probes=knn", f"--model_dir={tmp_path}/run/finetune")
    assert (tmp_path / "run" / "finetune" / "probe.json").exists()


def test_settings_are_chosen_for_the_images_and_the_machine():
    images = image_facts.ImageFacts(count=500, labeled=40, num_classes=4, short_side=28, gray=True)
    facts = rules.Facts(images, machine.MachineFacts(device="cpu", memory=8 * 2**30, gpu_memory=0))
    config = config_lib.Config(image_size=28, resnet_depth=18, width_multiplier=0.25)
    assert rules.image_size(facts, config, "")[0] == 28
    assert rules.color_jitter_strength(facts, config, "")[0] == 0  # gray
    assert rules.train_batch_size(facts, config, "")[0] == 64


# A package and one of the tests above, or of the files in conftest.SMOKE, that runs its code.
PACKAGES = {
    "apply": "test_fine_tuning_starts_from_it_and_predicts",
    "auto": "test_settings_are_chosen_for_the_images_and_the_machine",
    "augment": "test_all_stages_run_on_a_folder_with_every_augmentation",
    "benchmark": "test_plan",
    "checkpoints": "test_layouts",
    "checkpoints_tools": "test_its_checkpoint_converts",
    "flags": "test_recipe",
    "inspection": "test_inspection",
    "parity": "test_the_contrastive_loss_is_the_reference_s",
    "selection": "test_selection",
    "sources": "test_all_stages_run_on_a_folder_with_every_augmentation",
    "visuals": "test_tables",
}


def test_every_package_has_a_smoke_test():
    tests = pathlib.Path(__file__).parent
    packages = {path.parent.name for path in (tests.parent / "tf2").glob("*/__init__.py")}
    assert set(PACKAGES) == packages - {"recipes"} | {"checkpoints_tools"}
    assert set(conftest.SMOKE) <= {path.stem for path in tests.glob("test_*.py")}
    assert set(PACKAGES.values()) <= {*conftest.SMOKE, *globals()}
