"""What the images of a run were, so that a changed folder is noticed: names, sizes and labels.

No TensorFlow import.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterable, Mapping

from tf2 import errors
from tf2.sources import listing, scan

FILE_NAME = "data_files.tsv.gz"
_COLUMNS = ("path", "bytes", "split", "label")


@dataclasses.dataclass(frozen=True)
class Image:
    """An image as it is recorded: size in bytes, split, and label, empty without one."""

    size: int
    split: str
    label: str


Images = Mapping[str, Image]  # by path


def record(images: Iterable[listing.ImageFile]) -> dict[str, Image]:
    """Returns what is recorded of images."""
    return {scan.image_id(i.path): Image(i.size, i.split, i.class_name or "") for i in images}


def hashes(images: Images) -> dict[str, str]:
    """Returns the hashes of the files, and of their labels and splits, for model.json."""
    paths = sorted(images)
    files = [(path, images[path].size) for path in paths]
    labels = [(path, images[path].split, images[path].label) for path in paths]
    return {
        "files": _hash(files),
        "labels": _hash(row for row in labels if row[-1]),
    }


def _hash(rows: Iterable[tuple]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def to_bytes(images: Images) -> bytes:
    """Returns the content of `FILE_NAME`: a compressed table."""
    text = io.StringIO(newline="")
    table = csv.writer(text, dialect="excel-tab", lineterminator="\n")
    table.writerow(_COLUMNS)
    table.writerows((path, i.size, i.split, i.label) for path, i in sorted(images.items()))
    return gzip.compress(text.getvalue().encode("utf-8", "surrogateescape"), mtime=0)


def from_bytes(content: bytes) -> dict[str, Image] | None:
    """Returns the images of `to_bytes`; None if the content is damaged."""
    try:
        text = gzip.decompress(content).decode("utf-8", "surrogateescape")
        rows = list(csv.reader(io.StringIO(text, newline=""), dialect="excel-tab"))
        return {path: Image(int(size), split, label) for path, size, split, label in rows[1:]}
    except (OSError, EOFError, ValueError, csv.Error, zlib.error):
        return None


@dataclasses.dataclass(frozen=True)
class Changes:
    """What differs between two records: paths, or descriptions that begin with one.

    A file of the same name and size in another folder is the same.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]  # of another size
    labels: tuple[str, ...]  # other labels, or held out and not so before

    @property
    def files(self) -> str:
        """What differs in the files, but for their place, in words; empty if nothing does."""
        kinds = ((self.added, "added"), (self.removed, "removed"), (self.changed, "changed"))
        return "; ".join(
            f"{len(paths):,} {kind} ({errors.first_few(paths, 3)})"
            for paths, kind in kinds
            if paths
        )

    @property
    def labels_in_words(self) -> str:
        """What differs in the labels, in words; empty if nothing does."""
        if not self.labels:
            return ""
        return f"{len(self.labels):,} labels changed ({errors.first_few(self.labels, 3)})"


def compare(before: Images, now: Images) -> Changes:
    """Compares two records."""
    added, removed = now.keys() - before.keys(), before.keys() - now.keys()
    places = {_name_and_size(path, now): path for path in added}
    both = {path: path for path in before.keys() & now.keys()}
    for path in removed:
        if place := places.pop(_name_and_size(path, before), None):
            both[path] = place
    added, removed = added - set(both.values()), removed - both.keys()
    labels = [_label_change(new, before[old], now[new]) for old, new in both.items()]
    labels += [f"{path} is now {now[path].label}" for path in added if now[path].label]
    labels += [f"{path} was {before[path].label}" for path in removed if before[path].label]
    return Changes(
        added=tuple(sorted(added)),
        removed=tuple(sorted(removed)),
        changed=tuple(
            sorted(old for old, new in both.items() if before[old].size != now[new].size)
        ),
        labels=tuple(sorted(text for text in labels if text)),
    )


def _name_and_size(path: str, images: Images) -> tuple[str, int]:
    return os.path.basename(path), images[path].size


def _label_change(path: str, before: Image, now: Image) -> str:
    if before.label != now.label:
        return f"{path} was {before.label or 'unlabeled'}, now {now.label or 'unlabeled'}"
    if now.label and before.split != now.split:
        return f"{path} was in {before.split}, now in {now.split}"
    return ""
