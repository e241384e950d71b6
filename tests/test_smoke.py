"""A short run of everything: pretrain, fine-tune, predict, convert, compare with the reference.

`python -m pytest -m smoke` runs this file and the quick ones that `conftest.SMOKE` lists.
"""

import csv
import json
import pathlib

import conftest
import pytest

from checkpoints_tools import convert, inspect
from tf2 import run
from tf2.parity import golden, losses

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


def test_the_other_smoke_tests_exist():
    names = {path.stem for path in pathlib.Path(__file__).parent.glob("test_*.py")}
    assert names >= set(conftest.SMOKE)
