"""Layouts of a folder of images: splits, classes, what is labeled and held out; mistakes."""

import csv
import os

import pytest

from tf2 import errors, progress
from tf2.sources import image_check, labels_file, listing, scan


def _make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")


def _numbered(folder, count, start=0):
    return [f"{folder}/{number}.jpg".removeprefix("/") for number in range(start, start + count)]


def _found(root, labels="guess", **options):
    """Returns path -> (split, class)."""
    found = listing.list_images(str(root), labels=labels, **options)
    return {image.path: (image.split, image.class_name) for image in found.images}


def _table(path, labels):
    """Writes labels, name -> label or (label, split)."""
    rows = [(n, *(v if isinstance(v, tuple) else (v, ""))) for n, v in labels.items()]
    path.write_text("\n".join(["path,label,split", *(",".join(row) for row in rows)]))
    return str(path)


# ---- layouts


def test_a_flat_folder_has_no_labels(tmp_path):
    _make(tmp_path, "1.jpg", "2.PNG", "notes.txt", ".hidden.jpg", ".git/3.jpg")
    assert _found(tmp_path) == {"1.jpg": ("train", None), "2.PNG": ("train", None)}
    found = listing.list_images(str(tmp_path), labels="guess", holdout=0.2)
    assert (found.train_split, found.eval_split, found.class_names) == ("train", "", ())
    assert (found.num_labeled, found.splits, found.images[0].size) == (0, {"train": 2}, 5)
    assert found.describe() == [
        f"Found: 2 images in {tmp_path}, all in one folder.",
        "Labels: None of them is labeled.",
        "Held out: nothing.",
        "Not used: 2 hidden (.git, .hidden.jpg); 1 without an image's suffix (notes.txt).",
    ]


def test_class_folders(tmp_path):
    _make(tmp_path, *_numbered("cat", 10), *_numbered("dog", 20))
    found = listing.list_images(str(tmp_path), labels="guess", holdout=0.2)
    assert found.class_names == ("cat", "dog")
    assert found.splits == {"train": 24, "holdout": 6}
    assert (found.train_split, found.eval_split) == ("train", "holdout")
    assert found.describe()[1:] == [
        "Labels: 30 labeled of 30 images, by their folders: 2 classes of 10 to 20 images.",
        "Held out: 6 labeled images, 2 to 4 per class.",
    ]


@pytest.mark.parametrize("beside", [_numbered("unlabeled/deep", 5), _numbered("", 5)])
def test_class_folders_beside_unlabeled_images(tmp_path, beside):
    _make(tmp_path, *_numbered("cat", 10), *_numbered("dog", 10), *beside)
    found = listing.list_images(str(tmp_path), labels="guess", holdout=0.2)
    assert found.num_labeled == 20 and found.class_names == ("cat", "dog")
    assert set(found.train_split.split("+")) == set(found.splits) - {"holdout"}
    assert "in 2 class folders and 5 beside them" in found.describe()[0]
    assert "20 labeled of 25 images" in found.describe()[1]
    assert sum(image.class_name is None for image in found.images) == 5


def test_splits_with_classes_and_unlabeled_images(tmp_path):
    _make(tmp_path, *_numbered("train/cat", 3), *_numbered("train/dog", 3))
    _make(tmp_path, *_numbered("val/cat", 2), *_numbered("unlabeled", 4), "loose.jpg")
    found = listing.list_images(str(tmp_path), labels="guess", holdout=0.2)
    assert found.splits == {"unlabeled": 5, "train": 6, "val": 2}
    assert found.train_split == "train+unlabeled" and list(found.splits)[-1] == "val"
    assert found.eval_split == "val"  # and nothing else is held out
    assert found.describe()[2] == "Held out: 2 labeled images, 2 per class, the split val."


def test_a_test_split_without_labels_is_neither_trained_nor_evaluated_on(tmp_path):
    _make(tmp_path, *_numbered("train/cat", 5), *_numbered("train/dog", 5), *_numbered("test", 9))
    found = listing.list_images(str(tmp_path), labels="guess", holdout=0.2)
    assert (found.train_split, found.eval_split) == ("train", "holdout")
    assert found.splits == {"test": 9, "train": 6, "holdout": 4}
    assert found.describe()[2] == "Held out: 4 labeled images, 2 per class; not used: test."


def test_validation_comes_before_test(tmp_path):
    for split in ("train", "Test", "valid"):
        _make(tmp_path, *_numbered(f"{split}/cat", 2), *_numbered(f"{split}/dog", 2))
    found = listing.list_images(str(tmp_path), labels="guess")
    assert found.eval_split == "valid"
    assert found.describe()[2].endswith("not used: Test.")


@pytest.mark.parametrize(
    "names",
    [
        ("a/x/1.jpg", "a/2.jpg", "b/3.jpg"),  # not all in one folder
        ("a/1.jpg", "a/2.jpg"),  # a single one
        ("2021/1.jpg", "2022-05/2.jpg", "2022_06_30/3.jpg"),
        ("DCIM/1.jpg", "100CANON/2.jpg", "101APPLE/3.jpg"),
        ("DCIM/100CANON/1.jpg", "DCIM/101CANON/1.jpg"),
    ],
)
def test_folders_that_do_not_look_like_classes_are_none(tmp_path, names):
    _make(tmp_path, *names)
    assert set(_found(tmp_path).values()) == {("train", None)}
    found = listing.list_images(str(tmp_path), labels="guess")
    assert (
        f"in folders that are not classes by their looks (--labels={tmp_path} takes"
        in (found.describe()[0])
    )
    # Without guessing, the first folder is the class, as it always was.
    explicit = _found(tmp_path, labels=None)
    assert {c for _, c in explicit.values()} == {name.split("/")[0] for name in names}


def test_the_folder_itself_as_labels_takes_its_first_folders_as_classes(tmp_path):
    _make(tmp_path, *_numbered("2021/a", 2), *_numbered("2022", 2))
    assert set(_found(tmp_path, labels=f"{tmp_path}/").values()) == {
        ("train", "2021"),
        ("train", "2022"),
    }


def test_labels_none_ignores_folder_names(tmp_path):
    _make(tmp_path, *_numbered("cat", 2), *_numbered("dog", 2))
    found = listing.list_images(str(tmp_path), labels="none")
    assert found.num_labeled == 0 and "in folders that are not classes." in found.describe()[0]


def test_numbered_classes_are_in_the_order_of_numbers(tmp_path):
    _make(tmp_path, *_numbered("9", 2), *_numbered("10", 2))
    assert listing.list_images(str(tmp_path)).class_names == ("9", "10")


# ---- labels files


def test_a_labels_file_labels_some_images_of_a_flat_folder(tmp_path):
    _make(tmp_path / "photos", *_numbered("", 50))
    labels = {f"{n}.jpg": "even" if n % 2 == 0 else "odd" for n in range(20)}
    table = _table(tmp_path / "labels.csv", labels)
    found = listing.list_images(str(tmp_path / "photos"), labels=table, holdout=0.2)
    assert found.num_labeled == 20 and found.splits == {"train": 46, "holdout": 4}
    assert {i.path: i.class_name for i in found.images if i.class_name} == labels
    lines = found.describe()
    assert "20 labeled of 50 images, by labels.csv: 2 classes of 10 images" in lines[1]
    assert lines[2] == "Held out: 4 labeled images, 2 per class."


def test_a_labels_file_overrides_folder_names_and_names_splits(tmp_path):
    _make(tmp_path / "photos", *_numbered("x", 4), *_numbered("y", 4))
    labels = {f"x/{n}.jpg": ("cat" if n < 2 else "dog", "Test" if n % 2 else "") for n in range(4)}
    labels |= {"y/0.jpg": "cat", "y/1.jpg": "dog"}
    found = listing.list_images(
        str(tmp_path / "photos"), labels=_table(tmp_path / "l.csv", labels), holdout=0.2
    )
    assert found.class_names == ("cat", "dog") and found.num_labeled == 6
    assert (found.eval_split, found.splits) == ("test", {"train": 6, "test": 2})


def test_a_few_missing_images_are_a_warning_with_the_first_five(tmp_path):
    _make(tmp_path / "photos", *_numbered("", 4))
    labels = {f"{n}.jpg": "ab"[n % 2] for n in range(12)}
    table = _table(tmp_path / "l.csv", labels)
    (warning,) = listing.list_images(str(tmp_path / "photos"), labels=table).warnings
    assert "8 of 12 names" in warning and "4.jpg, 5.jpg, 6.jpg, 7.jpg, 8.jpg and 3 more" in warning


def test_a_manifest_may_leave_labels_blank(tmp_path):
    _make(tmp_path, *_numbered("pics", 6))
    labels = {f"pics/{n}.jpg": "" if n > 3 else "ab"[n % 2] for n in range(6)}
    table = _table(tmp_path / "list.csv", labels)
    found = listing.list_images(table)
    assert [i.class_name for i in found.images] == ["a", "b", "a", "b", None, None]
    assert listing.list_images(table, labels="none").num_labeled == 0


def test_too_few_labels_to_hold_any_out(tmp_path):
    _make(tmp_path, *_numbered("a", 2), *_numbered("b", 2))
    found = listing.list_images(str(tmp_path), labels="guess", holdout=0.2)
    assert found.eval_split == "" and found.describe()[2] == "Held out: nothing: too few labels."


# ---- mistakes


@pytest.mark.parametrize(
    "names, labels, words",
    [
        (["notes.txt"], None, "must contain or list images.*without images"),
        (["1.jpg", "2.jpg"], {"1.jpg": "x", "2.jpg": "x"}, "two classes.*all of class 'x'"),
        (
            ["1.jpg", "2.jpg", "3.jpg"],
            {"1.jpg": "x", "2.jpg": "x", "3.jpg": "y"},
            "at least two labeled images.*1 of 2 classes have one: y. Label more",
        ),
        (["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"], None, "1 of 2 classes have one: cat"),
        (["1.jpg", "2.jpg"], {"1.jpg": "", "2.jpg": ""}, "where all are blank"),
        (["1.jpg", "2.jpg"], {"a.jpg": "x", "b.jpg": "y"}, "none of whose 2 names"),
        (
            ["1.jpg", "2.jpg", "3.jpg"],
            {"1.jpg": "x", "2.jpg": "x", "3.jpg": ("y", "val")},
            "class 'y' only in split 'val'",
        ),
    ],
)
def test_unusable_images_or_labels_are_one_sentence(tmp_path, names, labels, words):
    _make(tmp_path / "photos", *names)
    table = labels and _table(tmp_path / "labels.csv", labels)
    with pytest.raises(errors.UserError, match=words) as caught:
        listing.list_images(str(tmp_path / "photos"), labels=table or "guess")
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path, monkeypatch):
    _make(tmp_path, "a/1.jpg", "b/1.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(errors.UserError, match="readable .Permission denied.*/b in data_dir="):
        listing.list_images(str(tmp_path))


# ---- many files


def test_100_000_files_are_listed_and_matched_with_progress(monkeypatch, capsys):
    """On a faked file system; a second passes between two files."""
    folders = [f"/photos/{n:03d}" for n in range(100)]
    names = [f"{n:04d}.jpg" for n in range(1000)]
    tree = [("/photos", [f[-3:] for f in folders], []), *((f, [], list(names)) for f in folders)]
    monkeypatch.setattr(os, "walk", lambda root, **_: iter(tree))
    monkeypatch.setattr(os.path, "isdir", lambda path: path == "/photos")
    monkeypatch.setattr(scan, "file_size", lambda path: 1)
    clock = iter(range(10**6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    rows = [labels_file.Row(f"{f}/{n:04d}.jpg", f[-1]) for f in folders for n in range(10)]
    monkeypatch.setattr(labels_file, "read", lambda *paths: rows)
    found = listing.list_images("/photos", labels="labels.csv", holdout=0.2)
    assert len(found.images) == 100_000 and found.num_labeled == 1000
    assert found.splits == {"train": 99_800, "holdout": 200}
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Looking for images: 500 so far" and len(lines) < 500


def test_suffixes_and_hidden_files():
    assert scan.is_image("a.JPEG") and not scan.is_image("._a.jpg") and not scan.is_image("a.txt")


# ---- every file is accounted for


def test_a_link_to_another_class_and_a_link_to_train_are_named(tmp_path):
    _make(tmp_path, *_numbered("train/cat", 3), *_numbered("train/dog", 3))
    os.symlink(tmp_path / "train" / "dog", tmp_path / "train" / "wolf")
    os.symlink(tmp_path / "train", tmp_path / "val")
    found = listing.list_images(str(tmp_path))
    assert found.splits == {"train": 6} and found.class_names == ("cat", "dog")
    last = found.describe()[-1]
    assert "1 link to train, whose images are used there (val)" in last
    assert f"1 link to {os.path.join('train', 'dog')}, whose images" in last and "wolf" in last


def test_links_out_of_the_folder_are_followed_only_when_asked(tmp_path):
    _make(tmp_path, "elsewhere/1.jpg", "photos/a/1.jpg", "photos/b/1.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "photos" / "c")
    os.symlink(tmp_path / "elsewhere" / "1.jpg", tmp_path / "photos" / "a" / "2.jpg")
    root = str(tmp_path / "photos")
    found = listing.list_images(root)
    assert len(found.images) == 2
    assert "2 links out of the folder (--follow_links=True follows them)" in found.describe()[-1]
    assert len(listing.list_images(root, follow_links=True).images) == 4
    assert len(listing.list_images(root, follow_links=True).describe()) == 3


def test_a_link_to_a_folder_above_lists_no_image_twice(tmp_path):
    _make(tmp_path, "photos/a/1.jpg", "photos/z/2.jpg", "beside/3.jpg")
    os.symlink(tmp_path, tmp_path / "photos" / "b")
    found = listing.list_images(str(tmp_path / "photos"), follow_links=True)
    names = sorted(os.path.basename(image.path) for image in found.images)
    assert names == ["1.jpg", "2.jpg", "3.jpg"]


def test_a_folder_of_labels_may_hold_links_to_the_images(tmp_path):
    _make(tmp_path, *(f"photos/{number}.jpg" for number in range(4)))
    for number in range(4):
        folder = tmp_path / "labels" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        os.symlink(tmp_path / "photos" / f"{number}.jpg", folder / f"{number}.jpg")
    found = listing.list_images(str(tmp_path / "photos"), labels=str(tmp_path / "labels"))
    assert [image.class_name for image in found.images] == ["cat", "dog", "cat", "dog"]


@pytest.mark.parametrize(
    ("beside", "split"),
    [
        (["stray.jpg", "new/1.jpg"], "train"),
        (["foo/1.jpg", "foo/2.jpg"], "train"),
        (["1.jpg"], "val"),
    ],
)
def test_a_split_or_a_class_beside_images_is_refused_with_both_readings(tmp_path, beside, split):
    _make(tmp_path, *beside, *_numbered(f"{split}/cat", 2), *_numbered(f"{split}/dog", 2))
    with pytest.raises(errors.UserError, match=f"{split}.*classes cat, dog.*a class '{split}'"):
        listing.list_images(str(tmp_path))


def test_a_stray_image_beside_splits_has_no_label(tmp_path):
    _make(tmp_path, "stray.jpg", *_numbered("train/cat", 2), *_numbered("train/dog", 2))
    found = listing.list_images(str(tmp_path))
    assert found.class_names == ("cat", "dog") and found.splits == {"train": 4, "unlabeled": 1}


NAMES = [
    "a\nb.jpg",
    "c\rd.jpg",
    "e\tf.jpg",
    "g\x0ch.jpg",
    "i\u2028j.jpg",
    "k\udcffl.jpg",
    "m\\n.jpg",
]


def test_names_are_escaped_once_and_back(tmp_path):
    ids = [scan.image_id(name) for name in NAMES]
    assert ids == [
        *("a\\u000ab.jpg", "c\\u000dd.jpg", "e\\u0009f.jpg", "g\\u000ch.jpg", "i\\u2028j.jpg"),
        *("k\\xffl.jpg", "m\\\\n.jpg"),
    ]
    assert [scan.path_of(name) for name in ids] == NAMES
    assert scan.image_id("Ünïcode/ä b.jpg") == "Ünïcode/ä b.jpg"
    "".join(ids).encode()  # is UTF-8


def test_images_of_any_name_are_labeled_and_checked(tmp_path):
    for name in NAMES:
        (tmp_path / name).write_bytes(b"not an image")
    ids = sorted(scan.image_id(name) for name in NAMES)
    with open(tmp_path / "labels.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label"))
        rows.writerows((name, "x" if number < 3 else "y") for number, name in enumerate(ids))
    found = listing.list_images(str(tmp_path), labels=str(tmp_path / "labels.csv"))
    assert found.num_labeled == len(NAMES) and found.unused == ""
    log = str(tmp_path / "log.txt")
    paths = [image.path for image in found.images]
    first = image_check.find_unreadable(str(tmp_path), paths, max_bad_fraction=1, log_path=log)
    again = image_check.find_unreadable(str(tmp_path), paths, max_bad_fraction=1, log_path=log)
    assert set(first) == set(NAMES) and again == first
    with open(log, encoding="utf-8") as file:
        assert len(file.read().split("\n")) == 1 + len(NAMES) + 1


@pytest.mark.parametrize("path", ["../out.jpg", "a/../../1.jpg", "a\0b.jpg"])
def test_a_manifest_names_images_below_its_folder_alone(tmp_path, path):
    _make(tmp_path, "1.jpg")
    (tmp_path / "m.csv").write_text(f"path,label\n1.jpg,x\n{path},y\n")
    with pytest.raises(errors.UserError, match="lead below the folder|cannot be read"):
        listing.list_images(str(tmp_path / "m.csv"))


def test_a_manifest_gives_an_image_one_label_and_the_same_row_twice_counts_once(tmp_path):
    _make(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "m.csv").write_text(f"path,label\n1.jpg,x\n./1.jpg,x\n{tmp_path}/2.jpg,y\n")
    found = listing.list_images(str(tmp_path / "m.csv"))
    assert [(i.path, i.class_name) for i in found.images] == [("1.jpg", "x"), ("2.jpg", "y")]
    (tmp_path / "m.csv").write_text("path,label\n1.jpg,x\n1.jpg,y\n")
    with pytest.raises(errors.UserError, match="where 1.jpg has two"):
        listing.list_images(str(tmp_path / "m.csv"))


@pytest.mark.parametrize(
    "content",
    ["path,label\nü.jpg,x\n".encode("latin-1"), b"path,label\n" + b"x" * 200_000 + b".jpg,y\n"],
)
@pytest.mark.parametrize("flag", ["manifest", "labels"])
def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path, content, flag):
    _make(tmp_path, "1.jpg")
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(errors.UserError, match="cannot be read"):
        if flag == "manifest":
            listing.list_images(str(tmp_path / "m.csv"))
        else:
            listing.list_images(str(tmp_path), labels=str(tmp_path / "m.csv"))
