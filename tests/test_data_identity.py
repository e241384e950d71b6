"""A folder that changes between two starts of a run is noticed; labels that change, too."""

import dataclasses
import io
import json
import pathlib
import types

import numpy as np
import pytest
import small
from PIL import Image

from tf2 import config as config_lib
from tf2 import errors, job, pipeline, run_data, stage_results, stages
from tf2.checkpoints import checkpoint_reader, model_json
from tf2.sources import data_identity, listing, loaders, memory

pytestmark = pytest.mark.usefixtures("one_convolution")


def _images(**labels):
    """Records images: name=(size, split, label)."""
    return {f"{name}.jpg": data_identity.Image(*values) for name, values in labels.items()}


BEFORE = _images(a=(1, "train", "cat"), b=(2, "train", ""), c=(3, "holdout", "dog"))


# ---- records


def test_a_record_is_read_as_it_was_written():
    odd = {'d\t"ä\udce9/1\n.jpg': data_identity.Image(9, "train", "x\ty")}
    content = data_identity.to_bytes({**BEFORE, **odd})
    assert data_identity.from_bytes(content) == {**BEFORE, **odd}
    assert data_identity.to_bytes({**odd, **BEFORE}) == content
    assert data_identity.from_bytes(content[:-9]) is None
    assert data_identity.from_bytes(b"text") is None


def test_hashes_are_of_files_and_of_labels_with_their_splits():
    before = data_identity.hashes(BEFORE)
    assert data_identity.hashes(dict(reversed(BEFORE.items()))) == before
    for now, differ in (
        ({**BEFORE, **_images(b=(9, "train", ""))}, {"files"}),
        ({**BEFORE, **_images(d=(9, "train", ""))}, {"files"}),
        ({**BEFORE, **_images(a=(1, "train", "dog"))}, {"labels"}),
        ({**BEFORE, **_images(a=(1, "holdout", "cat"))}, {"labels"}),
        ({**BEFORE, **_images(b=(2, "other", ""))}, set()),  # of an unlabeled image
    ):
        after = data_identity.hashes(now)
        assert {name for name in before if before[name] != after[name]} == differ


def test_changes_are_counted_with_the_first_of_them():
    assert data_identity.compare(BEFORE, BEFORE).files == ""
    now = _images(a=(7, "train", "dog"), c=(3, "train", "dog"), d=(4, "train", ""))
    changes = data_identity.compare(BEFORE, now)
    assert changes.files == "1 added (d.jpg); 1 removed (b.jpg); 1 changed (a.jpg)"
    assert changes.labels_in_words == (
        "2 labels changed (a.jpg was cat, now dog, c.jpg was in holdout, now in train)"
    )


def test_an_image_sorted_into_a_class_folder_is_the_same_image_with_a_label():
    moved = {"cat/b.jpg": data_identity.Image(2, "train", "cat")}
    now = {**{n: i for n, i in BEFORE.items() if n != "b.jpg"}, **moved}
    changes = data_identity.compare(BEFORE, now)
    assert changes.files == ""
    assert changes.labels == ("cat/b.jpg was unlabeled, now cat",)


def test_100_000_images_are_compared():
    images = {f"{n}.jpg": data_identity.Image(n, "train", str(n % 10)) for n in range(100_000)}
    content = data_identity.to_bytes(images)
    assert len(content) < 2**20
    less = {name: image for name, image in images.items() if name != "7.jpg"}
    assert data_identity.compare(data_identity.from_bytes(content), less).files == (
        "1 removed (7.jpg)"
    )


# ---- runs


def _write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


@pytest.fixture
def photos(tmp_path):
    for number in range(40):
        _write(tmp_path / "photos" / f"{number}.png", number)
    return tmp_path / "photos"


def _labels(path, count, of=lambda number: "ab"[number % 2]):
    path.write_text("".join(["path,label\n", *(f"{n}.png,{of(n)}\n" for n in range(count))]))
    return str(path)


def _config(photos, run, **flags):
    folder = {"dataset": "folder", "data_dir": str(photos), "train_batch_size": 8}
    return small.run_config(run, **{**folder, "train_steps": 2, **flags})


def test_a_run_is_resumed_on_its_own_images_only(photos, tmp_path):
    run = tmp_path / "run"
    pipeline.run(_config(photos, run, mode="train"))
    recorded = json.loads((run / "model.json").read_text())["data"]
    assert recorded == run_data.hashes(loaders.load_source("folder", str(photos)))
    _write(photos / "new.png", 1)
    longer = _config(photos, run, mode="train", train_steps=3)
    with pytest.raises(errors.UserError, match=r"1 added \(new.png\).*--allow_changed_data"):
        pipeline.run(longer)
    pipeline.check_same_run(job.prepare(longer.replace(allow_changed_data=True)))
    (run / data_identity.FILE_NAME).unlink()  # as a run of an earlier version
    pipeline.check_same_run(job.prepare(longer))


def test_pretraining_goes_on_when_its_images_get_labels(photos, tmp_path, capsys):
    run = tmp_path / "run"
    pipeline.run(_config(photos, run, mode="train"))
    assert "no labels" in capsys.readouterr().out
    labels = {"labels": _labels(tmp_path / "labels.csv", 20), "holdout": 0.2}
    whole = {"mode": "train_then_eval", "eval_split": "holdout", "eval_knn": "on"}
    pipeline.run(_config(photos, run, train_steps=3, **labels, **whole))
    assert "eval/knn_accuracy" in json.loads((run / "result.json").read_text())


def test_a_run_on_labels_is_resumed_on_its_own_labels_only(photos, tmp_path):
    settings = _config(
        *(photos, tmp_path / "run"),
        mode="train",
        train_mode="supervised",
        labels=_labels(tmp_path / "labels.csv", 20),
    )
    pipeline.run(settings)
    _labels(tmp_path / "labels.csv", 21)
    with pytest.raises(errors.UserError, match="1 labels changed .20.png was unlabeled, now a"):
        pipeline.run(settings.replace(train_steps=3))


def test_sources_in_memory_know_their_listing(photos):
    images = loaders.load_source("folder", str(photos))
    assert memory.MemorySource(images).listing is images.listing
    assert run_data.hashes(loaders.load_source("digits")) is None


# ---- stages


@pytest.fixture
def trained(monkeypatch):
    """Lists the stages that are trained; nothing is."""
    names = []

    def run_job(work):
        names.append(work.model_dir.name)
        run_data.write(str(work.model_dir), work.source)
        results = {"eval/label_top_1_accuracy": 0.5} if work.config.evaluates else {}
        return types.SimpleNamespace(named={}), results

    monkeypatch.setattr(pipeline, "run_job", run_job)
    monkeypatch.setattr(stage_results, "finish", lambda *args, **kwargs: "")
    monkeypatch.setattr(
        checkpoint_reader,
        "latest_checkpoint",
        lambda path: path if pathlib.Path(path, data_identity.FILE_NAME).exists() else None,
    )
    return names


ALL = ["pretrain", "finetune", "distill", "supervised"]


def _run_stages(photos, run, **flags):
    settings = {
        **{"train_mode": "simclrv2", "mode": "train_then_eval", "eval_split": "holdout"},
        **{"eval_knn": "off", "holdout": 0.2, "train_steps": 1, "use_blur": False},
    }
    stages.run_all_stages(_config(photos, run, **{**settings, **flags}))


def test_labels_that_change_repeat_the_stages_that_use_them(photos, tmp_path, trained, capsys):
    labels = _labels(tmp_path / "labels.csv", 20)
    _run_stages(photos, tmp_path / "run", labels=labels)
    assert trained == ALL
    _run_stages(photos, tmp_path / "run", labels=labels)
    assert trained == ALL
    _labels(tmp_path / "labels.csv", 20, of=lambda number: "ba"[number % 2] if number else "a")
    capsys.readouterr()
    _run_stages(photos, tmp_path / "run", labels=labels)
    said = capsys.readouterr().out
    assert "Running it again: 19 labels changed (1.png was b, now a" in said
    # Pretraining is only evaluated with the new labels, and the distillation has a new teacher.
    assert "Trained before; evaluating it with the new settings." in said
    assert trained[4:] == ALL and (tmp_path / "run" / "finetune.1").is_dir()
    assert not (tmp_path / "run" / "pretrain.1").exists()


def test_what_is_held_out_later_repeats_no_pretraining(photos, tmp_path, trained):
    labels = _labels(tmp_path / "labels.csv", 20)
    _run_stages(photos, tmp_path / "run", labels=labels)
    _run_stages(photos, tmp_path / "run", labels=labels, label_seed=3)
    assert not (tmp_path / "run" / "pretrain.1").exists()
    assert (tmp_path / "run" / "finetune.1").exists()
    assert (tmp_path / "run" / "supervised.1").exists()


def test_files_that_change_are_refused_before_any_stage(photos, tmp_path, trained):
    labels = _labels(tmp_path / "labels.csv", 20)
    _run_stages(photos, tmp_path / "run", labels=labels)
    (photos / "39.png").unlink()
    with pytest.raises(errors.UserError, match=r"Stage pretrain: .*1 removed \(39.png\)"):
        _run_stages(photos, tmp_path / "run", labels=labels)
    _run_stages(photos, tmp_path / "run", labels=labels, allow_changed_data=True)
    _run_stages(photos, tmp_path / "run", labels=labels)  # allowed once, they need no flag again
    assert trained == ALL


def test_a_pretraining_with_a_classifier_of_other_classes_is_not_evaluated_again(photos, tmp_path):
    images = loaders.load_source("folder", str(photos))
    images.num_classes = 3
    directory = tmp_path / "pretrain"
    directory.mkdir()
    stage = stages.Stage("pretrain", config_lib.Config(model_dir=str(directory)))
    for classes, known in ((0, True), (3, True), (2, False)):
        content = {"format": 1, "architecture": {"num_classes": classes, "channels": 3}}
        model_json.write_model_json(str(directory), content)
        assert ("labels" in stages._evaluation(stage, images)) == known


def test_images_added_between_two_stages_are_refused(photos, tmp_path, trained, monkeypatch):
    labels = _labels(tmp_path / "labels.csv", 20)
    run_job = pipeline.run_job

    def add_image(work):
        _write(photos / "new.png", 1)
        return run_job(work)

    monkeypatch.setattr(pipeline, "run_job", add_image)
    with pytest.raises(errors.UserError, match=r"run/finetune; since then 1 added \(new.png\)"):
        _run_stages(photos, tmp_path / "run", labels=labels)
    assert trained == ["pretrain"]


def test_results_of_an_earlier_version_are_valid():
    now = {"eval_split": "val", "labels": "x"}
    assert stages._is_same_evaluation({"eval_split": "val"}, now)
    assert not stages._is_same_evaluation({"eval_split": "val", "labels": "y"}, now)
    assert not stages._is_same_evaluation(None, now) and stages._is_same_evaluation(None, None)


def test_a_listing_is_recorded_with_its_sizes_splits_and_labels():
    images = (
        listing.ImageFile("a.jpg", "train", "cat", 5),
        listing.ImageFile("b.jpg", "holdout", None, -1),
    )
    recorded = data_identity.record(images)
    assert [dataclasses.astuple(i) for i in recorded.values()] == [
        (5, "train", "cat"),
        (-1, "holdout", ""),
    ]
