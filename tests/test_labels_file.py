"""Labels files: tables, exports of Label Studio, folders of classes, and their mistakes."""

import json

import pytest

from tf2 import errors
from tf2.sources import labels_file

PATHS = ["1.jpg", "a/2.jpg", "a/3.jpg", "b/2.jpg", "b/deep/4.png"]


def _rows(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
    return labels_file.read(str(path), "photos")


def _labels(rows):
    found, missing = labels_file.match(rows, PATHS, "labels.csv", "photos")
    return {PATHS[index]: row.label for index, row in found.items()}, missing


def _read(tmp_path, name, content):
    return _labels(_rows(tmp_path, name, content))


# ---- tables


@pytest.mark.parametrize(
    "name, content",
    [
        ("x.csv", "path,label\n1.jpg,cat\na/2.jpg,dog\nb/deep/4.png,\n"),
        ("x.csv", "\ufeffFilename;Class;width\n1.jpg;cat;9\nphotos/a/2.jpg;dog;\n4.png;;3\n"),
        ("x.tsv", "label\timage\n cat \t./1.jpg\r\ndog\ta\\2.jpg\n\t4.png\n"),
        ("x.csv", "1.jpg,cat\na/2.jpg,dog\n4.png,\n"),  # without names of the columns
        ("x.csv", "id,category\n1,cat\na/2,dog\n4,\n"),  # without suffixes
        ("x.csv", 'path,label\n"/data/photos/1.jpg",cat\n"/data/photos/a/2.jpg",dog\n4.png,\n'),
    ],
    ids=["paths", "semicolons", "tabs", "no head", "no suffixes", "elsewhere"],
)
def test_a_table_names_images_by_path_or_file_name(tmp_path, name, content):
    labels, missing = _read(tmp_path, name, content)
    assert labels == {"1.jpg": "cat", "a/2.jpg": "dog", "b/deep/4.png": None}
    assert not missing


def test_the_end_of_a_path_and_the_longest_match_decide(tmp_path):
    labels, _ = _read(tmp_path, "x.csv", "path,label\ndeep/4.png,x\n/somewhere/b/2.jpg,y\n")
    assert labels == {"b/deep/4.png": "x", "b/2.jpg": "y"}
    rows = [labels_file.Row("photos/a/1.jpg", "x")]
    found, _ = labels_file.match(rows, ["1.jpg", "a/1.jpg"], "labels.csv", "photos")
    assert list(found) == [1]


def test_an_accented_name_is_found_in_either_form():
    rows = [labels_file.Row("caf\u00e9.jpg", "x")]
    found, _ = labels_file.match(rows, ["cafe\u0301.jpg"], "labels.csv", "photos")
    assert list(found) == [0]


def test_splits_and_repeated_rows_that_agree(tmp_path):
    text = "path,label,split\n1.jpg,cat,val\n1.jpg,cat,val\n1.jpg,,\n3.jpg,dog,\n"
    rows = _rows(tmp_path, "x.csv", text)
    found, _ = labels_file.match(rows, PATHS, "labels.csv", "photos")
    assert {PATHS[i]: (row.label, row.split) for i, row in found.items()} == {
        "1.jpg": ("cat", "val"),
        "a/3.jpg": ("dog", None),
    }


def test_names_of_no_image_are_returned(tmp_path):
    labels, missing = _read(tmp_path, "x.csv", "path,label\n1.jpg,cat\nc/2.jpg,x\n9.jpg,y\n")
    assert labels == {"1.jpg": "cat"}
    assert missing == ["c/2.jpg", "9.jpg"]


@pytest.mark.parametrize(
    "content, words",
    [
        ("path,label\n2.jpg,x\n", r"1 names of several images in data_dir=photos: 2.jpg. Give"),
        ("path,label\n1.jpg,x\n./1.jpg,y\n", r"1 images have two: 1.jpg \(x, y\). Correct"),
        ("path,label,split\n1.jpg,x,val\n1.jpg,x,test\n", "one label and one split.*1.jpg"),
        (
            "path,label\n" + "".join(f"{n}.bmp,x\n" for n in range(7)),
            "none of whose 7 names is in data_dir=photos: 0.bmp, 1.bmp, 2.bmp, 3.bmp, 4.bmp and 2 "
            "more; the images there are 1.jpg, a/2.jpg",
        ),
        ("name,width\n1.jpg,3\n", "path and label.*Received: name, width in labels="),
        ("label\nx\n", "path and label.*Received: label in labels="),
        ("", "Received: an empty file in labels="),
        ("path,label\n1.jpg,\xe9t\xe9\n".encode("latin-1"), "UTF-8.*labels=.*cannot be read"),
        ("path,label\n1.jpg,x\n".encode("utf-16"), "UTF-8.*labels=.*Save it as UTF-8"),
        ("path,label\n1.jpg," + 200_000 * "a", "labels=.*larger than field limit"),
    ],
    ids=[
        *("several images", "two labels", "two splits", "nothing matches", "columns", "no path"),
        *("empty", "latin-1", "utf-16", "field size"),
    ],
)
def test_an_unusable_table_is_one_sentence(tmp_path, content, words):
    with pytest.raises(errors.UserError, match=words) as caught:
        _read(tmp_path, "x.csv", content)
    assert "\n" not in str(caught.value)


def test_a_missing_labels_file_is_one_sentence():
    with pytest.raises(errors.UserError, match="labels=lost.csv, which does not exist"):
        labels_file.read("lost.csv", "photos")


# ---- Label Studio


def _task(image, *choices):
    result = [
        {"type": "choices", "from_name": "c", "to_name": "i", "value": {"choices": [choice]}}
        for choice in choices
    ]
    return {
        "id": 1,
        "data": {"note": "x", "image": image},
        "annotations": [{"result": result}],
    }


def test_a_full_export_of_label_studio(tmp_path):
    tasks = [
        _task("https://host/bucket/photos/1.jpg?signature=x", "cat"),
        _task("/data/local-files/?d=photos/a/2.jpg", "dog"),
        _task("/data/upload/1/0a1b2c3d-3.jpg", "cat"),
        _task("s3://bucket/other/4.png"),
        _task("9.jpg", "dog"),
    ]
    labels, missing = _read(tmp_path, "x.json", json.dumps(tasks))
    assert labels == {"1.jpg": "cat", "a/2.jpg": "dog", "a/3.jpg": "cat", "b/deep/4.png": None}
    assert missing == ["9.jpg"]


def test_a_short_export_of_label_studio(tmp_path):
    rest = {"id": 1, "annotator": 1, "annotation_id": 2, "lead_time": 1.5, "created_at": "t"}
    tasks = [
        {"image": "/data/upload/1/0a1b2c3d-1.jpg", "choice": "cat", **rest},
        {"image": "/data/upload/1/0a1b2c3d-3.jpg", "choice": {"choices": ["dog"]}, **rest},
        {"image": "/data/upload/1/0a1b2c3d-4.png", "note": "x", **rest},
    ]
    expected = {"1.jpg": "cat", "a/3.jpg": "dog", "b/deep/4.png": None}
    assert _read(tmp_path, "x.json", json.dumps(tasks))[0] == expected
    named = json.dumps(tasks).replace('"choice"', '"kind"').replace('"note": "x", ', "")
    assert _read(tmp_path, "x.json", named)[0] == expected
    table = "id,image,choice\n7,/data/upload/1/0a1b2c3d-1.jpg,cat\n8,https://x.y/z/3.jpg?k=v,dog\n"
    assert _read(tmp_path, "x.csv", table)[0] == {"1.jpg": "cat", "a/3.jpg": "dog"}


def test_a_cancelled_annotation_is_no_label(tmp_path):
    task = _task("1.jpg", "cat")
    task["annotations"][0]["was_cancelled"] = True
    assert _read(tmp_path, "x.json", json.dumps([task, _task("3.jpg", "dog")]))[0]["1.jpg"] is None


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "export of Label Studio.*labels=.*x.json"),
        ('{"a": 1}', "no list of tasks"),
        ('[{"data": {"text": "x"}}]', "a task without an image"),
        ('[{"data": 3}]', "export of Label Studio"),
        (json.dumps([{"image": "1.jpg", "choice": {"choices": ["a", "b"]}}]), "the choice .*a.*b"),
        (json.dumps([{"image": "1.jpg", "kind": "a", "note": "x"}]), "any of kind, note may be"),
        (json.dumps([_task("1.jpg", "a"), _task("1.jpg", "b")]), r"have two: 1.jpg \(a, b\)"),
    ],
    ids=["no JSON", "no list", "no image", "no data", "two choices", "two keys", "two annotators"],
)
def test_an_unusable_export_is_one_sentence(tmp_path, content, words):
    with pytest.raises(errors.UserError, match=words) as caught:
        _read(tmp_path, "x.json", content)
    assert "\n" not in str(caught.value)


# ---- folders of classes


def test_a_folder_of_class_folders_labels_images_of_the_same_name(tmp_path):
    for name in ("cat/1.jpg", "dog/3.jpg", "dog/deep/4.png", "loose.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    labels, missing = _labels(labels_file.read(str(tmp_path), "photos"))
    assert labels == {"1.jpg": "cat", "a/3.jpg": "dog", "b/deep/4.png": "dog"} and not missing


def test_a_folder_of_class_folders_among_the_images_labels_those_in_it(tmp_path):
    for name in ("1.jpg", "labeled/cat/1.jpg", "labeled/dog/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    rows = labels_file.read(str(tmp_path / "labeled"), str(tmp_path))
    assert [(row.name, row.label) for row in rows] == [
        ("labeled/cat/1.jpg", "cat"),
        ("labeled/dog/3.jpg", "dog"),
    ]


def test_a_folder_without_class_folders_is_one_sentence(tmp_path):
    (tmp_path / "loose.jpg").write_bytes(b"")
    with pytest.raises(errors.UserError, match="one folder of images per class"):
        labels_file.read(str(tmp_path), "photos")
