"""Damaged and edited JSON files of a run: one sentence, or a warning and the value anew."""

import json
import pathlib

import numpy as np
import pytest

from tf2 import architecture, config, errors, files, run_directory, schemas
from tf2.apply import features
from tf2.checkpoints import checkpoint_reader, model_json
from tf2.flags import fields

NETWORK = {**architecture.DEFAULTS, "depth": 18, "num_classes": 10}
MODEL = {
    "format": 1,
    "architecture": NETWORK,
    "preprocessing": architecture.preprocessing(32),
    "class_names": ["cat", "dog"],
    "dataset": "folder",
    "global_step": 4,
    "calibration": {"global_step": 4, "num_images": 60, "precision_curve": [[0.5, 3, 2]]},
}
BEST = {"format": 1, "global_step": 4, "value": 0.5, "measure": "accuracy"}
STAGE = {
    "format": 1, "identity": "ab", "settings": {}, "after": {}, "finished": True, "seconds": 3,
}  # fmt: skip
# File -> its schema and a content that is right.
GOOD = {
    "model.json": (schemas.model(), MODEL),
    "best.json": (schemas.BEST, BEST),
    "stage.json": (schemas.STAGE, STAGE),
    "flags.json": (schemas.flags(), config.Config().as_flags()),
    "result.json": (schemas.RESULT, {"global_step": 4, "eval/top_1_accuracy": 0.5}),
}
ODD = {
    "model.json": [
        ("architecture.sk_ratio", 1e9), ("architecture.width_multiplier", 1e300),
        ("architecture.num_classes", 2e9), ("architecture.num_classes", 2_000_000_000),
        ("architecture.depth", True), ("architecture.depth", 51), ("architecture.stem", "#ifar"),
        ("architecture.sk_rqtio", 0.0), ("architecture.num_proj_layers", 10**30),
        ("architecture.batch_norm_decay", float("nan")), ("architecture", []),
        ("architecture.global_bn", "yes"), ("architecture.proj_head_mode", ["nonlinear"]),
        ("preprocessing.center_crop", "x"), ("preprocessing.center_crop", -1),
        ("preprocessing.channels", 7), ("preprocessing.image_size", 10**9),
        ("preprocessing.resize", None), ("preprocessing", "bicubic"), ("class_names", {}),
        ("class_names", [1, 2]), ("global_step", -1), ("global_step", 2**70), ("format", 2),
        ("calibration.temperature", 0), ("calibration.precision_curve", [["a"]]),
    ],
    "best.json": [("global_step", "4"), ("value", float("nan")), ("value", None), ("format", 2)],
    "stage.json": [("seconds", -1), ("finished", 1), ("settings", None), ("identity", 7)],
    "flags.json": [
        ("num_parallel_calls", 1e30), ("width_multiplier", 1e300), ("train_steps", "many"),
        ("learning_rate", float("inf")), ("optimizer", "lbfgs"), ("use_blur", 1), ("dataset", None),
    ],
    "result.json": [("global_step", [])],
}  # fmt: skip


def changed(content, name, value):
    """Returns a copy with one value changed, under a key as in 'architecture.depth'."""
    content = json.loads(json.dumps(content))
    *parents, key = name.split(".")
    inner = content
    for parent in parents:
        inner = inner[parent]
    inner[key] = value
    return content


@pytest.mark.parametrize("file", GOOD)
def test_what_the_program_writes_passes(file):
    schema, content = GOOD[file]
    schema.check(content, file)


@pytest.mark.parametrize(
    ("file", "name", "value"), [(file, *case) for file, cases in ODD.items() for case in cases]
)
def test_an_odd_value_is_one_sentence_that_names_it(file, name, value):
    schema, content = GOOD[file]
    with pytest.raises(errors.UserError, match=r"^\S+ must .*\. Received: .*\. \S.*\.$") as raised:
        schema.check(changed(content, name, value), f"/runs/{file}")
    assert name.split(".")[-1] in str(raised.value)


@pytest.mark.parametrize(
    ("file", "key"),
    [("model.json", "architecture"), *(("best.json", k) for k in ("global_step", "value"))]
    + [("stage.json", k) for k in ("identity", "settings", "after", "finished", "seconds")],
)
def test_a_missing_key_is_one_sentence_that_names_it(file, key):
    schema, content = GOOD[file]
    with pytest.raises(errors.DamagedFile, match=f"must have the key {key}. Received"):
        schema.check({k: v for k, v in content.items() if k != key}, file)


def test_a_files_schema_has_the_ranges_of_the_flags():
    known = schemas.flags().keys
    for field in config.flag_fields():
        if field.metadata["range"]:
            low = float(field.metadata["range"][1:].split(",")[0])
            assert known[field.name].problem(low - 1), field.name


def test_every_number_among_the_flags_has_bounds():
    for field in config.flag_fields():
        kind = field.metadata["kind"]
        if kind in ("int", "float"):
            huge = 10**30 if kind == "int" else 1e300
            with pytest.raises(errors.UserError, match=f"{field.name} must be"):
                config.Config(**{field.name: huge}).validate()
            assert abs(field.default) <= fields.LARGEST[kind]


def damaged_texts(content, seed):
    """Yields a file's text cut short and with a flipped byte, at random places."""
    text, random = json.dumps(content).encode(), np.random.RandomState(seed)
    yield text[: random.randint(len(text))]
    flipped = bytearray(text)
    flipped[random.randint(len(text))] ^= 1 << random.randint(8)
    yield bytes(flipped)


READERS = {
    "model.json": model_json.read_model_json,
    "best.json": checkpoint_reader.read_best,
    "flags.json": lambda directory: run_directory.own_flags(str(directory)),
}


@pytest.mark.parametrize("file", READERS)
def test_a_damaged_file_is_read_or_is_one_sentence(file, tmp_path: pathlib.Path):
    for seed in range(12):
        for text in damaged_texts(GOOD[file][1], seed):
            (tmp_path / file).write_bytes(text)
            try:
                READERS[file](tmp_path)
            except errors.UserError as error:
                assert file in str(error)
            assert (tmp_path / file).read_bytes() == text  # nothing is written


def test_a_damaged_best_json_is_ignored_with_a_word(tmp_path, caplog):
    for step in (3, 8):
        (tmp_path / f"ckpt-{step}.index").touch()
    (tmp_path / "best.json").write_text(json.dumps({**BEST, "global_step": 3}))
    assert checkpoint_reader.latest_checkpoint(tmp_path).endswith("ckpt-3")
    (tmp_path / "best.json").write_text("{}")
    assert checkpoint_reader.latest_checkpoint(tmp_path).endswith("ckpt-8")
    assert "must have the key global_step" in caplog.text and "ignored" in caplog.text


def test_a_newer_best_json_is_refused(tmp_path):
    files.write_json(str(tmp_path / "best.json"), {**BEST, "format": 2})
    with pytest.raises(errors.UserError, match="version of this program that wrote it"):
        checkpoint_reader.read_best(tmp_path)


def test_a_damaged_cache_of_features_is_recomputed(tmp_path, caplog):
    path = tmp_path / "train_0.npz"
    values, labels = np.ones((4, 2), np.float32), np.arange(4)
    np.savez(path, values=values, labels=labels)
    whole = path.read_bytes()
    np.testing.assert_array_equal(features._read_cache(str(path), 4)[0], values)
    assert features._read_cache(str(path), 5) is None
    for text in (b"", b"PK", whole[:100], whole[:-30], b"\x80\x04N."):
        path.write_bytes(text)
        assert features._read_cache(str(path), 4) is None
    assert caplog.text.count("recomputed") == 6
