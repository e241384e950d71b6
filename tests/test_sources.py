"""Digits, TFDS datasets, folders and manifests; labeled subsets; mistakes of users."""

import io
import json
import os
import pathlib
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from tf2 import config, errors, pipeline, run
from tf2.apply import images_to_label
from tf2.sources import folder, image_check, labeled_subset, loaders, order

CIFAR = pathlib.Path(__file__).resolve().parents[2] / "shared/tfds"


def _decoded(images, split):
    """Decodes a split in stored order: uint8 images, labels and ids."""
    rows = list(images.records(split).map(images.decode).as_numpy_iterator())
    return (
        [row["image"] for row in rows],
        [row["label"] for row in rows],
        [row["id"].decode() for row in rows],
    )


def _order(images, split, seed, count, start=0, window=None):
    records = images.records(split, start, seed, window).take(count)
    return [int(record["position"]) for record in records]


# Digits.


def test_digits_are_those_of_scikit_learn_in_a_fixed_balanced_split():
    from sklearn import datasets as sklearn_datasets

    digits = loaders.load_source("digits")
    assert (digits.splits, digits.num_classes, digits.channels) == (
        {"train": 1437, "test": 360},
        10,
        1,
    )
    assert np.all(np.bincount(digits.labels("test")) == 36)
    bunch = sklearn_datasets.load_digits()
    seen = []
    for split in ("train", "validation"):
        arrays, labels, ids = _decoded(digits, split)
        for image, label, name in zip(arrays, labels, ids, strict=True):
            number = int(name.removeprefix("digits/"))
            seen.append(number)
            assert label == bunch.target[number]
            np.testing.assert_array_equal(image[..., 0], np.round(bunch.images[number] * 15.9375))
    assert sorted(seen) == list(range(1797))
    assert digits.ids("validation") == digits.ids("test")
    assert digits.ids("test") == loaders.load_source("digits").ids("test")


# Order.


def test_each_epoch_holds_every_image_once_in_another_order():
    digits = loaders.load_source("digits")
    first, second, third = np.split(np.array(_order(digits, "test", 0, 1080)), 3)
    for epoch in (first, second, third):
        assert sorted(epoch) == list(range(360))
    other = np.array(_order(digits, "test", 1, 360))
    for a, b in ((first, second), (second, third), (first, other), (second, other)):
        assert np.mean(a == b) < 0.05
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.25
    assert abs(np.corrcoef(first, np.arange(360))[0, 1]) < 0.25
    assert _order(digits, "test", 0, 100, start=300) == list(np.r_[first, second][300:400])


# TFDS.


def _make_tfds(directory, file_format, name, shards=1, size=23, unlabelled=0):
    import tensorflow_datasets as tfds

    def examples(count, labeled=True):
        for number in range(count):
            image = np.full((6 + number % 3, 5, 3), 10 * number, np.uint8)
            label = number % 3 if labeled else -1
            yield number, {"note": "x", "image": image, "label": label}

    names = tfds.features.ClassLabel(names=["cat", "dog", "eel"])
    image = tfds.features.Image(shape=(None, None, 3))
    return tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {"note": tfds.features.Text(), "image": image, "label": names}
        ),
        split_datasets={
            "train": list(examples(size)),
            "validation": list(examples(5)),
            **({"unlabelled": list(examples(unlabelled, labeled=False))} if unlabelled else {}),
        },
        data_dir=directory,
        file_format=file_format,
        download_config=tfds.download.DownloadConfig(num_shards=shards),
        disable_shuffling=False,
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    _make_tfds(directory, "tfrecord", "tiny_tfrecord", shards=4)
    _make_tfds(directory, "array_record", "tiny_array_record", shards=2)
    return str(directory)


@pytest.mark.parametrize(
    "name, in_memory, by_position",
    [
        ("tiny_tfrecord", None, True),
        ("tiny_tfrecord", False, False),
        ("tiny_array_record", None, True),
        ("tiny_array_record", True, True),
    ],
)
def test_tfds_sets_are_read_from_disk(tiny, name, in_memory, by_position):
    images = loaders.load_source(name, tiny, in_memory=in_memory)
    assert images.random_access == by_position
    assert images.class_names == ("cat", "dog", "eel")
    assert images.splits == {"train": 23, "validation": 5}
    arrays, labels, ids = _decoded(images, "train")
    numbers = [image[0, 0, 0] // 10 for image in arrays]
    assert sorted(numbers) == list(range(23))
    assert labels == [number % 3 for number in numbers]
    assert [len(image) for image in arrays] == [6 + number % 3 for number in numbers]
    assert labels == images.labels("train").tolist()
    assert ids == images.ids("train")
    assert len(set(ids)) == 23 and ids[0].startswith(f"{name}-train.")
    part = _decoded(images, "train[:50%]")[2]
    assert part == ids[: len(part)] and 11 <= len(part) <= 12
    assert images.num_examples("train[10:]+validation") == 18
    few = images.subset("train", [3, 17, 4])
    assert few.ids("train") == [ids[3], ids[4], ids[17]]
    assert _decoded(few, "train")[2] == few.ids("train")
    orders = [_order(few, "train", 0, 3), _order(few, "train", 0, 3, start=3)]
    assert all(sorted(order) == [3, 4, 17] for order in orders)
    again = few.subset("train", [0, 2])
    assert again.ids("train") == [ids[3], ids[17]]
    assert again.labels("train").tolist() == [labels[3], labels[17]]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_tfds_split_without_labels_is_added_to_one_with_labels(tmp_path, in_memory):
    _make_tfds(tmp_path, "tfrecord", "tiny_unlabelled", size=7, unlabelled=4)
    images = loaders.load_source("tiny_unlabelled", str(tmp_path), in_memory=in_memory)
    both = "train+unlabelled"
    assert (images.num_examples(both), images.num_labeled(both)) == (11, 7)
    _, labels, ids = _decoded(images, both)
    assert labels[7:] == [-1] * 4 and min(labels[:7]) == 0
    labeled = images.labeled(both)
    assert labeled.ids(both) == images.ids("train") == ids[:7]
    assert sorted(_order(labeled, both, 0, 7)) == list(range(7))


def test_ids_are_those_of_tfds(tiny):
    import tensorflow_datasets as tfds

    builder = tfds.builder("tiny_tfrecord", data_dir=tiny)
    config = tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1)
    theirs = builder.as_dataset(split="train", read_config=config)
    ids = [row["tfds_id"].decode() for row in theirs.as_numpy_iterator()]
    assert loaders.load_source("tiny_tfrecord", tiny).ids("train") == ids


@pytest.mark.parametrize("buffer", [5, 1000])
def test_sequential_reading_is_a_pure_function_of_seed_and_number(tiny, buffer):
    images = loaders.load_source("tiny_tfrecord", tiny, in_memory=False, shuffle_buffer=buffer)
    straight = _order(images, "train", 7, 69)
    epochs = np.split(np.array(straight), 3)
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert _order(images, "train", 8, 69) != straight
    tf.random.set_seed(99)
    for start in (5, 23, 30):
        assert _order(images, "train", 7, 20, start) == straight[start : start + 20]
    window = order.Window(10, 4, 3)
    expected = [straight[number] for number in range(20, 60) if 4 <= number % 10 < 7]
    assert _order(images, "train", 7, 12, 20, window) == expected


def test_imagenet_subset_works_under_its_own_name(tmp_path):
    made = pathlib.Path(_make_tfds(tmp_path / "made", "tfrecord", "tiny_subset").data_dir)
    place = tmp_path / "imagenet2012_subset" / "1pct" / "5.0.0"
    place.mkdir(parents=True)
    for file in made.iterdir():
        shutil.copy(file, place / file.name.replace("tiny_subset", "imagenet2012_subset"))
    info = json.loads((place / "dataset_info.json").read_text())
    info.update(name="imagenet2012_subset", configName="1pct", version="5.0.0")
    (place / "dataset_info.json").write_text(json.dumps(info))
    images = loaders.load_source("imagenet2012_subset/1pct:5.0.0", str(tmp_path))
    assert images.num_examples("train") == 23
    assert _decoded(images, "validation")[1] == images.labels("validation").tolist()


@pytest.mark.slow
def test_cifar10_in_memory_and_in_sequence_hold_the_same():
    """On a whole dataset as TFDS prepares it; the tiny ones above hold the same promise."""
    if not CIFAR.is_dir():
        pytest.skip(f"CIFAR-10 is not at {CIFAR}")
    memory = loaders.load_source("cifar10", str(CIFAR))
    stream = loaders.load_source("cifar10", str(CIFAR), in_memory=False)
    assert memory.random_access and not stream.random_access
    assert memory.splits == {"train": 50000, "test": 10000}
    assert memory.class_names[3] == "cat"
    assert np.all(np.bincount(memory.labels("test")) == 1000)
    np.testing.assert_array_equal(memory.labels("test"), stream.labels("test"))
    for a, b in zip(_decoded_some(memory), _decoded_some(stream), strict=True):
        assert a["id"] == b["id"] and a["label"] == b["label"]
        np.testing.assert_array_equal(a["image"], b["image"])
    assert memory.num_examples("train[:80%]") == 40000
    order = _order(stream, "test", 3, 200, start=9900)
    assert order == _order(stream, "test", 3, 200, start=9900)
    assert len(set(order[100:])) == 100 and np.std(order) > 2000


def _decoded_some(images):
    rows = images.records("test", 9000).take(5).map(images.decode)
    return list(rows.as_numpy_iterator())


# Folders.


def _encode(image, kind, **options):
    from PIL import Image

    buffer = io.BytesIO()
    options.setdefault("quality", 95) if kind == "JPEG" else None
    (image if hasattr(image, "save") else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def _write(root, name, contents=None, value=100):
    path = pathlib.Path(root) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if contents is None:
        image = tf.fill([4, 5, 3], tf.constant(value, tf.uint8))
        png = path.suffix.lower() == ".png"
        contents = (tf.io.encode_png if png else tf.io.encode_jpeg)(image).numpy()
    path.write_bytes(contents)
    return path


def test_folder_of_splits_and_classes(tmp_path):
    for name in (
        "train/b/2.jpg",
        "train/b/10.PNG",
        "train/A ñ/x.jpeg",
        "train/A ñ/deep/er/y.jpg",
        "val/b/z.jpg",
        "train/b/notes.txt",
        "train/.hidden/h.jpg",
        "train/b/._2.jpg",
    ):
        _write(tmp_path, name)
    images = loaders.load_source("folder", str(tmp_path))
    assert images.class_names == ("A ñ", "b") and images.num_classes == 2
    assert images.splits == {"train": 4, "val": 1}
    expected = ["train/A ñ/deep/er/y.jpg", "train/A ñ/x.jpeg", "train/b/10.PNG", "train/b/2.jpg"]
    assert images.ids("train") == expected
    arrays, labels, ids = _decoded(images, "train")
    assert ids == expected and labels == [0, 0, 1, 1]
    assert all(image.shape == (4, 5, 3) for image in arrays)
    # "validation", the reference's default, also finds "val".
    assert _decoded(images, "validation")[1] == [1]


def test_folder_of_classes_holds_out_the_same_part_of_each(tmp_path):
    for number in range(10):
        _write(tmp_path, f"train/{number}.jpg")  # a class: railway trains
        _write(tmp_path, f"bus/{number}.jpg")
    images = loaders.load_source("folder", str(tmp_path), val_fraction=0.2)
    assert images.class_names == ("bus", "train")
    assert images.splits == {"train": 16, "validation": 4}
    assert np.bincount(images.labels("validation")).tolist() == [2, 2]
    assert not set(images.ids("train")) & set(images.ids("validation"))
    whole = loaders.load_source("folder", str(tmp_path))
    assert whole.splits == {"train": 20}
    with pytest.raises(errors.UserError, match="split='validation'.*val_fraction"):
        whole.num_examples("validation")


def test_folder_without_classes_is_for_pretraining_only(tmp_path):
    for number in range(3):
        _write(tmp_path, f"{number}.jpg")
    images = loaders.load_source("folder", str(tmp_path))
    assert (images.num_classes, images.class_names) == (0, None)
    assert _decoded(images, "train")[1] == [-1, -1, -1]


def test_unlabeled_split_beside_a_labeled_one(tmp_path):
    for name in ("train/a/1.jpg", "train/b/1.jpg", "unlabeled/1.jpg", "unlabeled/2.jpg"):
        _write(tmp_path, name)
    images = loaders.load_source("folder", str(tmp_path))
    assert images.splits == {"train": 2, "unlabeled": 2}
    assert images.labels("unlabeled").tolist() == [-1, -1]


def test_splits_of_a_folder_are_added(tmp_path):
    for name in ("train/a/1.jpg", "train/b/1.jpg", "unlabeled/1.jpg", "val/a/1.jpg"):
        _write(tmp_path, name)
    images = loaders.load_source("folder", str(tmp_path))
    both = "train+unlabeled"
    assert images.num_examples(both) == 3 and images.num_labeled(both) == 2
    assert _decoded(images, both)[1:] == (
        [0, 1, -1],
        ["train/a/1.jpg", "train/b/1.jpg", "unlabeled/1.jpg"],
    )
    assert images.labeled(both).ids(both) == images.ids("train")
    assert images.ids("train+validation") == [*images.ids("train"), "val/a/1.jpg"]
    with pytest.raises(errors.UserError, match="split='tset'"):
        images.num_examples("train+tset")


def test_a_manifest_may_have_absolute_paths(tmp_path):
    _write(tmp_path, "elsewhere/1.jpg")
    manifest = tmp_path / "lists" / "list.csv"
    manifest.parent.mkdir()
    manifest.write_text(f"path\n{tmp_path}/elsewhere/1.jpg\n")
    images = loaders.load_source("folder", str(manifest))
    assert len(_decoded(images, "train")[0]) == 1


def test_labels_and_images_held_out_of_a_folder(tmp_path):
    for number in range(20):
        _write(tmp_path, f"pics/{number}.jpg")
    rows = [f"{number}.jpg,{'ab'[number % 2]}" for number in range(10)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    settings = config.Config(
        dataset="folder",
        data_dir=str(tmp_path / "pics"),
        labels=str(tmp_path / "labels.csv"),
        holdout=0.2,
        train_mode="supervised",
        eval_split="holdout",
    )
    images = loaders.build_source(settings)
    assert images.splits == {"train": 16, "holdout": 4} and images.num_examples("train") == 6
    assert sorted(images.labels("holdout")) == [0, 0, 1, 1]
    other = loaders.build_source(settings.replace(label_seed=2))
    assert other.ids("holdout") != images.ids("holdout")


def test_manifest_names_paths_labels_and_splits(tmp_path):
    for number in range(4):
        _write(tmp_path, f"pics/{number}.jpg", value=40 * number)
    lines = [
        "path,label,split",
        "pics/3.jpg,10,train",
        "pics/0.jpg,9,train",
        "pics/1.jpg,9,test",
        "pics/2.jpg,,train",
    ]
    manifest = tmp_path / "list.csv"
    manifest.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    images = loaders.load_source("folder", str(manifest))
    assert images.class_names == ("9", "10")  # by number, not "10" before "9"
    assert images.ids("train") == ["pics/0.jpg", "pics/2.jpg", "pics/3.jpg"]
    arrays, labels, _ = _decoded(images, "train")
    assert labels == [0, -1, 1]
    np.testing.assert_allclose([image.mean() for image in arrays], [0, 80, 120], atol=1)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"file,class\npics/0.jpg,9\n", "path, label.*Received: file, class in data_dir"),
        (b"path;label\npics/0.jpg;9\n", "Received: path;label in data_dir.*separated by commas"),
        (b"", "Received: an empty file in data_dir"),
        (b"path,label\n", "list.csv', without images"),
        ("path,label\npics/0.jpg,\xe9t\xe9\n".encode("latin-1"), "UTF-8.*data_dir=.*list.csv"),
        (b"path,label\npics/0.jpg," + 200_000 * b"a", "CSV file.*data_dir=.*larger than field"),
        (b"path,label\nlost/0.jpg,9\n", "1 images of which none exists; looked for /.*/lost/0.jpg"),
    ],
    ids=["columns", "semicolons", "empty", "no rows", "encoding", "field size", "paths"],
)
def test_unusable_manifest_is_one_sentence(tmp_path, content, words):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(errors.UserError, match=words):
        loaders.load_source("folder", str(tmp_path / "list.csv"))


def test_every_kind_of_image_becomes_three_channels(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.zeros((8, 6, 3), np.uint8)
    pixels[:, 3:] = (200, 100, 50)
    rgb = image_module.fromarray(pixels)
    gray = rgb.convert("L")
    wide = image_module.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    kinds = {
        "rgb.png": (_encode(rgb, "PNG"), rgb),
        "rgba.png": (_encode(rgb.convert("RGBA"), "PNG"), rgb),
        "palette.png": (_encode(rgb.convert("P"), "PNG"), rgb.convert("P").convert("RGB")),
        "gray.png": (_encode(gray, "PNG"), gray.convert("RGB")),
        "sixteen.png": (_encode(wide, "PNG"), gray.convert("RGB")),
        "rgb.bmp": (_encode(rgb, "BMP"), rgb),
        "gray.bmp": (_encode(gray, "BMP"), gray.convert("RGB")),
        "gray.jpg": (_encode(gray, "JPEG"), gray.convert("RGB")),
        "cmyk.jpg": (_encode(rgb.convert("CMYK"), "JPEG"), rgb),
        "moving.gif": (
            _encode(rgb.convert("P"), "GIF", save_all=True, append_images=[gray.convert("P")]),
            rgb.convert("P").convert("RGB"),
        ),
    }
    for name, (contents, _) in kinds.items():
        _write(tmp_path, name, contents)
    images = loaders.load_source("folder", str(tmp_path), max_bad_fraction=0.0)
    arrays, _, ids = _decoded(images, "train")
    assert ids == sorted(kinds)
    for name, image in zip(ids, arrays, strict=True):
        close = 40 if name == "cmyk.jpg" else 12 if name.endswith("jpg") else 1
        expected = np.asarray(kinds[name][1]).astype(int)
        assert np.abs(image.astype(int) - expected).mean() <= close, name
    one = loaders.load_source("folder", str(tmp_path), channels=1)
    assert one.channels == 1
    assert all(image.shape == (8, 6, 1) for image in _decoded(one, "train")[0])


def _folder_with_unreadable(root, good=40):
    for number in range(good):
        _write(root, f"a/{number:02d}.jpg")
    whole = (root / "a/00.jpg").read_bytes()
    _write(root, "a/cut.jpg", whole[: len(whole) // 2])
    _write(root, "a/empty.png", b"")
    _write(root, "b/text.gif", b"not a image")
    _write(root, "b/fine.jpg")


def test_unreadable_images_are_skipped_named_and_counted(tmp_path):
    _folder_with_unreadable(tmp_path / "pics")
    log = tmp_path / "run" / "unreadable_images.txt"
    images = folder.load(str(tmp_path / "pics"), max_bad_fraction=0.1, log_path=str(log))
    assert images.num_examples("train") == 41
    assert len(_decoded(images, "train")[0]) == 41
    rows = [line.split("\t") for line in log.read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["a/cut.jpg", "a/empty.png", "b/text.gif"]
    assert rows[1][1] == "empty file" and all(row[1] for row in rows)
    with pytest.raises(errors.UserError, match="max_bad_fraction=0.01, but 3 of 44 images"):
        folder.load(str(tmp_path / "pics"), log_path=str(log))


@pytest.fixture
def checked(monkeypatch):
    """Lists the paths that the check for unreadable images decodes."""
    paths = []
    read_error = image_check.read_error
    monkeypatch.setattr(
        image_check, "read_error", lambda path, **how: paths.append(path) or read_error(path, **how)
    )
    return paths


def test_a_log_replaces_the_check_until_an_image_changes(tmp_path, checked):
    _folder_with_unreadable(tmp_path / "pics")
    log = tmp_path / "run" / "unreadable_images.txt"
    options = {"max_bad_fraction": 0.1, "log_path": str(log)}
    first = folder.load(str(tmp_path / "pics"), **options)
    assert len(checked) == 44
    assert folder.load(str(tmp_path / "pics"), **options).ids("train") == first.ids("train")
    below = tmp_path / "run" / "seed0" / "labels10" / "finetune" / log.name  # of a study
    folder.load(str(tmp_path / "pics"), max_bad_fraction=0.1, log_path=str(below))
    assert len(checked) == 44 and not below.exists()
    _write(tmp_path, "pics/a/empty.png")
    assert folder.load(str(tmp_path / "pics"), **options).num_examples("train") == 42
    assert len(checked) == 88


def test_100_000_images_are_checked_a_few_at_a_time_with_progress(monkeypatch, caplog):
    queued, clock = [], iter(range(10**6))
    pool = image_check.concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(
        pool, "map", lambda self, f, paths: queued.append(len(paths)) or map(f, paths)
    )
    monkeypatch.setattr(
        image_check, "read_error", lambda path, **how: "bad" if path == "77777" else None
    )
    monkeypatch.setattr(image_check.time, "monotonic", lambda: next(clock) / 1000)
    caplog.set_level("INFO", logger="absl")
    assert image_check.check_all([str(n) for n in range(100_000)], 9) == {77777: "bad"}
    assert sum(queued) == 100_000 and max(queued) <= 4096
    assert "of 100000 images, 1000 images/s, 1 unreadable." in caplog.text


@pytest.fixture
def jpegs(tmp_path):
    """A folder of 16 JPEGs in two classes, and one unreadable file."""
    for split, count in (("train", 6), ("val", 2)):
        for label, name in enumerate("ab"):
            for number in range(count):
                _write(tmp_path, f"pics/{split}/{name}/{number}.jpg", value=100 * label + number)
    _write(tmp_path, "pics/train/b/cut.jpg", b"")
    return tmp_path / "pics"


def _run_all_stages(jpegs, model_dir, *flags, code=0):
    settings = (
        *("--dataset=folder", "--image_size=8", "--eval_split=val", "--max_bad_fraction=0.1"),
        *("--resnet_depth=18", "--width_multiplier=0.125", "--num_proj_layers=2"),
        *("--proj_out_dim=8", "--train_batch_size=8", "--train_steps=1", "--warmup_epochs=0"),
        *("--train_mode=simclrv2", "--mode=train_then_eval", "--labels_per_class=3"),
        *("--eval_knn=off", "--export=False", "--plots=False", "--use_blur=False"),
        *(f"--data_dir={jpegs}", f"--model_dir={model_dir}"),
    )
    assert run.run_argv(["run.py", *settings, *flags]) == code


def test_all_stages_check_each_image_once(tmp_path, jpegs, checked, monkeypatch):
    stages_run = []

    def run_job(job):  # trains nothing: the data are opened before
        stages_run.append(job.model_dir.name)
        assert job.source.num_examples(job.config.train_split) in (6, 12)
        return types.SimpleNamespace(named={}), {}

    monkeypatch.setattr(pipeline, "run_job", run_job)
    _run_all_stages(jpegs, tmp_path / "run")
    assert stages_run == ["pretrain", "finetune", "distill", "supervised"]
    assert len(checked) == len(set(checked)) == 17
    assert "train/b/cut.jpg\tempty file" in (tmp_path / "run/unreadable_images.txt").read_text()
    # The same command again, and one that runs every stage anew.
    for flags in ((), ("--train_steps=2",)):
        _run_all_stages(jpegs, tmp_path / "run", *flags)
        assert len(checked) == 17
    assert len(stages_run) == 8


def test_all_stages_are_refused_before_pretraining_without_the_labels_of_one(
    tmp_path, jpegs, monkeypatch, capsys
):
    monkeypatch.setattr(pipeline, "run_job", lambda job: pytest.fail("a stage runs"))
    _run_all_stages(jpegs, tmp_path / "run", "--labels_per_class=7", code=1)
    assert "Stage finetune: Class a has only 6 labeled images" in capsys.readouterr().err


def test_all_stages_are_the_pretraining_alone_without_any_label(
    tmp_path, jpegs, monkeypatch, capsys
):
    stages_run = []

    def run_job(job):
        stages_run.append(job.model_dir.name)
        return types.SimpleNamespace(named={}), {}

    monkeypatch.setattr(pipeline, "run_job", run_job)
    monkeypatch.setattr(images_to_label, "write_for_run", lambda *args, **options: "")
    flat = [f"--data_dir={jpegs}/train/a", "--eval_split=train", "--train_batch_size=4"]
    _run_all_stages(jpegs, tmp_path / "run", *flat)
    assert stages_run == ["pretrain"]
    assert "No image has a label: pretraining is the only stage." in capsys.readouterr().out


@pytest.mark.slow
def test_training_all_stages_checks_each_image_once(tmp_path, jpegs, checked):
    """With training, evaluation, figures and export, which may open the data as well."""
    student = ("--student.width_multiplier=0.0625", "--export=True", "--plots=True")
    _run_all_stages(jpegs, tmp_path / "run", *student)
    assert len(checked) == len(set(checked)) == 17
    _run_all_stages(jpegs, tmp_path / "run", *student)
    assert len(checked) == 17


def test_bitmap_with_a_color_palette_is_read(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    palette = image_module.fromarray(pixels).convert("P")
    path = _write(tmp_path, "p.bmp", _encode(palette, "BMP"))
    assert image_check.read_error(str(path)) is None
    record = next(iter(folder.load(str(tmp_path)).records("train")))
    found = folder.load(str(tmp_path)).decode(record)["image"].numpy()
    np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))


def test_folder_follows_links_but_no_cycles(tmp_path):
    _write(tmp_path, "outside/1.jpg")
    _write(tmp_path, "root/a/1.jpg")
    os.symlink(tmp_path / "outside", tmp_path / "root" / "b")
    os.symlink(tmp_path / "root", tmp_path / "root" / "a" / "loop")
    images = loaders.load_source("folder", str(tmp_path / "root"), follow_links=True)
    assert images.ids("train") == ["a/1.jpg", "b/1.jpg"]
    assert loaders.load_source("folder", str(tmp_path / "root")).ids("train") == ["a/1.jpg"]


# Labeled subsets.


def test_labels_per_class_are_balanced_and_fixed_by_the_seed():
    digits = loaders.load_source("digits")
    labels = digits.labels("train")
    chosen = labeled_subset.select_labels(labels, per_class=4)
    assert np.all(np.bincount(labels[chosen]) == 4) and np.all(np.diff(chosen) > 0)
    np.testing.assert_array_equal(chosen, labeled_subset.select_labels(labels, per_class=4))
    assert set(chosen) != set(labeled_subset.select_labels(labels, per_class=4, seed=1))
    few = digits.subset("train", chosen)
    assert few.num_examples("train") == 40 and few.num_examples("test") == 360
    assert _decoded(few, "train")[2] == [digits.ids("train")[i] for i in chosen]
    assert sorted(set(_order(few, "train", 0, 80))) == chosen.tolist()


def test_one_percent_of_imagenet_is_12_or_13_per_class():
    # Class sizes between 732 and 1,300 and 1,281,167 in all, as in ImageNet.
    sizes = np.full(1000, 1300)
    sizes[:105] = np.linspace(732, 1290, 105).astype(int)
    sizes[104] -= sizes.sum() - 1281167 if abs(sizes.sum() - 1281167) < 500 else 0
    labels = np.repeat(np.arange(1000), sizes)
    chosen = labeled_subset.select_labels(labels, fraction=0.01)
    counts = np.bincount(labels[chosen])
    assert len(chosen) == round(0.01 * len(labels))
    assert set(counts) <= {12, 13}


def test_label_fraction_takes_at_least_one_and_at_most_all():
    labels = np.repeat([0, 1, 2], [2, 50, 100])
    assert np.bincount(labels[labeled_subset.select_labels(labels, fraction=0.001)]).tolist() == [
        1,
        1,
        1,
    ]
    counts = np.bincount(labels[labeled_subset.select_labels(labels, fraction=0.5)])
    assert counts.tolist() == [2, 37, 37]
    assert len(labeled_subset.select_labels(labels, fraction=1.0)) == 152


def test_too_few_labels_are_one_sentence():
    with pytest.raises(errors.UserError, match="Class b has only 2.*labels_per_class=3"):
        labeled_subset.select_labels([0] * 5 + [1] * 2, per_class=3, class_names=("a", "b"))
    with pytest.raises(errors.UserError, match="needs labeled images"):
        labeled_subset.select_labels([-1, -1], fraction=0.5)
    with pytest.raises(errors.UserError, match="label_fraction=1.5"):
        labeled_subset.select_labels([0, 1], fraction=1.5)


def test_build_source_takes_a_labeled_subset_outside_pretraining():
    settings = config.Config(labels_per_class=2)
    assert loaders.build_source(settings).num_examples("train") == 1437
    settings = settings.replace(train_mode="finetune")
    assert loaders.build_source(settings).num_examples("train") == 20
    again = loaders.build_source(settings.replace(label_seed=1))
    assert again.ids("train") != loaders.build_source(settings).ids("train")


def test_build_source_reads_a_folder_and_logs_into_model_dir(tmp_path):
    _folder_with_unreadable(tmp_path / "pics")
    settings = config.Config(
        dataset="folder",
        data_dir=str(tmp_path / "pics"),
        model_dir=str(tmp_path / "run"),
        max_bad_fraction=0.2,
        val_fraction=0.5,
        cache_dataset=True,
    )
    images = loaders.build_source(settings)
    assert images.splits == {"train": 21, "validation": 20}
    assert len(_decoded(images, "validation")[0]) == 20
    assert (tmp_path / "run" / "unreadable_images.txt").is_file()


# Mistakes of users.


@pytest.mark.parametrize(
    "dataset, data_dir, message",
    [
        ("cifra10", None, "dataset='cifra10'. Did you mean cifar10"),
        ("cifar10/nothing", "{tmp}", "dataset='cifar10/nothing'"),
        ("mnist", "{tmp}/none", "mnist is not prepared in {tmp}/none.*--data_dir"),
        ("imagenet2012", "{tmp}", "imagenet2012 is not prepared in {tmp}.*--data_dir"),
        ("folder", None, "data_dir=None. Set --data_dir"),
        (
            "folder",
            "{tmp}/none",
            "Received: data_dir='{tmp}/none', which does not exist. Correct --data_dir",
        ),
        (
            "folder",
            "{tmp}/text.jpg",
            "'{tmp}/text.jpg', which is another file. Correct --data_dir",
        ),
        (
            "folder",
            "{tmp}/empty",
            "must contain or list images.*'{tmp}/empty', without images",
        ),
    ],
)
def test_wrong_dataset_or_directory_is_one_sentence(tmp_path, dataset, data_dir, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("")
    place = data_dir and data_dir.format(tmp=tmp_path)
    with pytest.raises(errors.UserError, match=message.format(tmp=tmp_path)) as caught:
        loaders.load_source(dataset, place, download=False)
    assert "\n" not in str(caught.value)


def test_missing_network_is_reported_at_once(tmp_path, monkeypatch):
    from tf2.sources import tfds_source

    monkeypatch.setattr(tfds_source, "_online", lambda: False)
    with pytest.raises(errors.UserError, match="no network.*dataset=mnist"):
        loaders.load_source("mnist", str(tmp_path))


def test_failed_download_is_one_sentence(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    from tf2.sources import tfds_source

    def fail(self, **_):
        raise ConnectionError("connection reset\nand more")

    monkeypatch.setattr(tfds_source, "_online", lambda: True)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(errors.UserError, match="could not be: connection reset. Received"):
        loaders.load_source("mnist", str(tmp_path))


def test_unknown_split_lists_the_splits(tiny):
    for images in (loaders.load_source("digits"), loaders.load_source("tiny_tfrecord", tiny)):
        with pytest.raises(errors.UserError, match="train.*split='nothing'"):
            images.num_examples("nothing")
    with pytest.raises(errors.UserError, match=r"split='train\[:x\]'"):
        loaders.load_source("tiny_tfrecord", tiny).records("train[:x]")


def test_class_only_in_the_evaluation_split_is_an_error(tmp_path):
    for name in ("train/a/1.jpg", "val/a/1.jpg", "val/new/1.jpg"):
        _write(tmp_path, name)
    with pytest.raises(errors.UserError, match="class 'new' only in split 'val'"):
        loaders.load_source("folder", str(tmp_path))
