"""Labels that are kept beside the images: a table, a Label Studio export, or a folder of classes.

Each becomes `Row`s of a name, a label and a split, which `match` finds among a folder's images. No
TensorFlow import.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import json
import os
import posixpath
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tf2 import cells as cells_lib
from tf2 import errors
from tf2.sources import scan

# What the columns of a table may be called.
PATH_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path"),
    *("image", "image_path", "image_name", "image_id", "img", "name", "id"),
)
LABEL_COLUMNS = (
    *("label", "labels", "class", "class_name", "category", "target", "choice", "choices", "y"),
)
SPLIT_COLUMNS = ("split", "set", "subset")
# Keys of a Label Studio task in its short form that are no label.
_TASK_KEYS = {"id", "annotation_id", "annotator", "created_at", "updated_at", "lead_time"}
_UPLOAD_HASH = re.compile(r"^[0-9a-f]{8}-")


@dataclasses.dataclass(frozen=True)
class Row:
    """What a labels file says of one image.

    Attributes:
        name: a path, or the end of one, or a file's name, with or without suffix.
        label: the class; None where it is blank.
        split: None where it is not given.
        by_file_name: whether the name's folders are those of another place, as in a URL.
    """

    name: str
    label: str | None
    split: str | None = None
    by_file_name: bool = False


def read(path: str, root: str) -> list[Row]:
    """Reads the labels in a file or a folder of class folders.

    Args:
        path: a CSV or TSV file, a JSON export of Label Studio, or a folder.
        root: the folder of the images.

    Raises:
        errors.UserError: there is no such file, or it is none of these.
    """
    if os.path.isdir(path):
        return _read_folder(path, root)
    if not os.path.isfile(path):
        raise errors.UserError(
            "The labels must be a CSV, TSV or JSON file, or a folder of class folders. Received: "
            f"labels={path}, which does not exist. Correct --labels."
        )
    return _read_label_studio(path) if path.lower().endswith(".json") else _read_labels(path)


def _read_folder(path: str, root: str) -> list[Row]:
    paths = [parts for parts in scan.find(path, follow_links=True).paths if len(parts) > 1]
    if not paths:
        raise errors.UserError(
            "A folder of labels must hold one folder of images per class. Received: "
            f"labels={path}, which holds none. Correct --labels."
        )
    below = os.path.relpath(os.path.realpath(path), os.path.realpath(root))
    if below.startswith(os.pardir):  # another folder, with images of the same names
        return [Row("/".join(parts[1:]), parts[0]) for parts in paths]
    return [Row("/".join((below, *parts)), parts[0]) for parts in paths]


def read_text(path: str, flag: str) -> str:
    """Returns the text of a file in UTF-8.

    Raises:
        errors.UserError: it cannot be read, or has another encoding.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UserError(
            f"The file must be readable text in UTF-8. Received: {flag}={path}, which cannot be "
            f"read: {error}. Save it as UTF-8."
        ) from error


# ---- tables


def _read_labels(path: str) -> list[Row]:
    text = read_text(path, "labels")
    first = text.lstrip().partition("\n")[0]
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    try:
        table = [cells for cells in lines if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise errors.UserError(
            "The labels must be a table with one image per line. Received: "
            f"labels={path}, which cannot be read: {error}. Correct the file."
        ) from error
    head = [name.strip().lower() for name in table[0]] if table else []
    if len(head) in (2, 3) and scan.is_image(head[0]):  # a table without names of its columns
        head, table = ["path", "label", "split"][: len(head)], [[], *table]
    columns = [_find(head, names) for names in (PATH_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS)]
    if columns[0] is None or columns[1] is None:
        raise errors.UserError(
            "The first line of a labels file must name its columns: path and label, and optionally "
            f"split. Received: {', '.join(head) or 'an empty file'} in labels={path}. Name the "
            "columns so."
        )
    rows = []
    for cells in table[1:]:
        name, label, split = (
            cells_lib.unguard(cells[at].strip()) if at is not None and at < len(cells) else ""
            for at in columns
        )
        if "://" in name or name.startswith("/data/"):  # of Label Studio
            rows.append(Row(_file_of(name), label or None, split or None, by_file_name=True))
        elif name:
            rows.append(Row(name, label or None, split or None))
    return rows


def read_manifest(path: str) -> list[Row]:
    """Reads a CSV file that names images by their paths, and optionally labels and splits.

    Raises:
        errors.UserError: it cannot be read, or has no column `path`.
    """
    rows = csv.DictReader(io.StringIO(read_text(path, "data_dir"), newline=""))
    try:
        names = rows.fieldnames or []
        if "path" in names:
            cells = [
                {name: cells_lib.unguard((row[name] or "").strip()) for name in names}
                for row in rows
            ]
            return [
                Row(row["path"], row.get("label") or None, row.get("split") or None)
                for row in cells
                if row["path"]
            ]
    except csv.Error as error:
        raise errors.UserError(
            "A manifest must be a CSV file in UTF-8. Received: "
            f"data_dir={path}, which cannot be read: {error}. Save it as such."
        ) from error
    raise errors.UserError(
        "The first line of a manifest must name its columns: path, label and optionally split. "
        f"Received: {', '.join(names) or 'an empty file'} in data_dir={path}. Name the columns, "
        "separated by commas."
    )


def _find(head: Sequence[str], names: Sequence[str]) -> int | None:
    """Returns the place of the first of some columns that a table has."""
    return next((head.index(name) for name in names if name in head), None)


# ---- Label Studio


def _read_label_studio(path: str) -> list[Row]:
    try:
        tasks = json.loads(read_text(path, "labels"))
        if not (isinstance(tasks, list) and all(isinstance(task, dict) for task in tasks)):
            raise ValueError("it is no list of tasks")
        label_key = _label_key(tasks)
        return [row for task in tasks for row in _task_rows(task, label_key)]
    except errors.UserError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise errors.UserError(
            "A JSON file of labels must be an export of Label Studio (JSON or JSON-MIN) with one "
            f"choice per image. Received: labels={path}: {error}. Export it so, or use a CSV file."
        ) from error


def _label_key(tasks: Iterable[Mapping[str, Any]]) -> str:
    """Returns the key of the choice in the short form of an export; "" for the full form."""
    short = [task for task in tasks if "data" not in task]
    keys = {key: True for task in short for key in task if key not in _TASK_KEYS}
    for task in short:
        keys.pop(_image_key(task), None)
    known = [key for key in LABEL_COLUMNS if key in keys] or list(keys)
    if len(keys) > 1 and len(known) > 1:
        raise ValueError(f"any of {', '.join(known)} may be the choice")
    return known[0] if known else ""


def _task_rows(task: Mapping[str, Any], label_key: str) -> Iterable[Row]:
    data = task.get("data", task)
    name = _file_of(str(data[_image_key(data)]))
    if "data" not in task:
        labels = _choices([task[label_key]] if task.get(label_key) else [])
    else:
        results = [
            result
            for annotation in task.get("annotations") or task.get("completions") or ()
            if not annotation.get("was_cancelled")
            for result in annotation.get("result") or ()
        ]
        labels = _choices(r.get("value") for r in results if r.get("type") == "choices")
    # Several annotators may each have chosen; `match` finds out whether they agree.
    for label in labels or [None]:
        yield Row(name, label, by_file_name=True)


def _image_key(data: Mapping[str, Any]) -> str:
    keys = [key for key, value in data.items() if isinstance(value, str)]
    keys = [key for key in keys if scan.is_image(_file_of(data[key]))]
    if not keys:
        raise ValueError(f"a task without an image: {json.dumps(data)[:80]}")
    return "image" if "image" in keys else keys[0]


def _choices(values: Iterable[Any]) -> list[str | None]:
    """Returns the choices in the forms that Label Studio writes: text, a list, {"choices": []}."""
    labels: list[str | None] = []
    for value in values:
        value = value.get("choices") if isinstance(value, dict) else value
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or len(value) > 1:
            raise ValueError(f"an image with the choice {json.dumps(value)[:80]}")
        labels += [str(choice).strip() for choice in value if str(choice).strip()]
    return labels


def _file_of(reference: str) -> str:
    """Returns the path in a URL, also in /data/local-files/?d=photos/1.jpg."""
    parsed = urllib.parse.urlsplit(reference)
    local = urllib.parse.parse_qs(parsed.query).get("d")
    return local[0] if local else urllib.parse.unquote(parsed.path)


# ---- from names to images


def match(
    rows: Sequence[Row], paths: Sequence[str], where: str, root: str
) -> tuple[dict[int, Row], list[str]]:
    """Finds the image of each row.

    A name may be an image's path below the folder, the end of that path, or that path after the
    folders that lead to it.

    Args:
        rows: of a labels file.
        paths: of the images, relative to the folder.
        where: the labels file, for messages.
        root: the folder, for messages.

    Returns:
        Index of an image -> its row, and the names that match no image.

    Raises:
        errors.UserError: a name matches several images, an image has two labels, or no name
            matches.
    """
    index = _Index(paths)
    found: dict[int, Row] = {}
    several: dict[str, None] = {}  # as sets that keep their order
    disagree: dict[str, None] = {}
    missing: dict[str, None] = {}
    for row in rows:
        images = index.find(row)
        if not images:
            missing[row.name] = None
        elif len(images) > 1:
            several[row.name] = None
        else:
            before = found.setdefault(images[0], row)
            if before.label is None:
                found[images[0]] = row
            elif row.label is not None and (before.label, before.split) != (row.label, row.split):
                disagree[f"{paths[images[0]]} ({before.label}, {row.label})"] = None
    if several:
        raise errors.UserError(
            f"A name in a labels file must match one image. Received: labels={where}, with "
            f"{len(several):,} names of several images in data_dir={root}: "
            f"{errors.first_few(several)}. Give their paths from there."
        )
    if disagree:
        raise errors.UserError(
            f"An image must have one label and one split. Received: labels={where}, where "
            f"{len(disagree):,} images have two: {errors.first_few(disagree)}. Correct these rows."
        )
    if not found:
        raise errors.UserError(
            "A labels file must name images by their paths below the data_dir, or by their file "
            f"names. Received: labels={where}, none of whose {len(missing):,} names is in "
            f"data_dir={root}: {errors.first_few(missing)}; the images there are "
            f"{errors.first_few(paths)}. Correct --labels or --data_dir."
        )
    return found, list(missing)


class _Index:
    """Finds images by names as people write them."""

    def __init__(self, paths: Sequence[str]):
        self._keys = [_key(path) for path in paths]
        self._exact = {key: index for index, key in enumerate(self._keys)}
        self._by_name: dict[str, list[int]] = collections.defaultdict(list)
        for index, key in enumerate(self._keys):
            name = posixpath.basename(key)
            self._by_name[name].append(index)
            self._by_name[posixpath.splitext(name)[0]].append(index)

    def find(self, row: Row) -> list[int]:
        """Returns the indices of the images that a row may mean."""
        wanted = _key(row.name)
        if wanted in self._exact:
            return [self._exact[wanted]]
        name = posixpath.basename(wanted)
        candidates = self._by_name.get(name, [])
        if row.by_file_name:
            candidates = candidates or self._by_name.get(_UPLOAD_HASH.sub("", name), [])
        # The end of an image's path, with or without suffix; or a path that leads to the folder.
        inside = [i for i in candidates if _is_end(wanted, self._keys[i])]
        if not inside:
            leading = [i for i in candidates if _is_end(self._keys[i], wanted)]
            longest = max((len(self._keys[i]) for i in leading), default=0)
            inside = [i for i in leading if len(self._keys[i]) == longest]
        return inside or (candidates if row.by_file_name else [])


def _key(path: str) -> str:
    """Returns a path in the form in which names are compared."""
    return posixpath.normpath(unicodedata.normalize("NFC", path.replace("\\", "/")))


def _is_end(end: str, path: str) -> bool:
    """Whether a name, with or without suffix, is the end of a path."""
    if not scan.is_image(posixpath.basename(end)):
        path = posixpath.splitext(path)[0]
    return path == end or path.endswith(f"/{end}")
