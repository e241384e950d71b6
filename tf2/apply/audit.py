"""What is wrong with a set of images and their labels: `--mode=audit` and `tf2.audit`.

audit.csv     a row per image and finding, in the order of `FINDINGS`
audit.html    the same with the images
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf2 import errors, progress
from tf2.apply import cross_validation, inference, results
from tf2.apply import features as features_lib
from tf2.apply import network as network_lib
from tf2.inspection import alignment, doubts, duplicates, neighbors
from tf2.sources import loaders
from tf2.visuals import audit_page, gallery
from tf2.visuals import page as page_lib

CSV_FILE = "audit.csv"
# Finding -> what it means, in the order of the results.
FINDINGS = {
    "leak": "the same picture in the training and in the held-out images",
    "duplicate": "the same picture more than once",
    "label": "a label that the images like it contradict",
    "outlier": "unlike all other images",
    "blank": "no content",
    "tiny": "far smaller than the network's input",
    "unreadable": "no image can be decoded",
}
# Features of edges and textures: those of the last block hardly see what training images lack.
OUTLIER_ENDPOINT = "block_group2"

_SIDE = 32  # pixels of the images that are compared
_AT_ONCE = 256  # images
_PREVIEW = 96  # pixels of the longer side, at most
_TINY = 0.5  # of the network's image size
_LEAST_LABELS = 50  # to judge labels by the others


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of an audit, all splits one after another.

    Attributes:
        paths, splits: of each image.
        held_out: (n,) bool, whether an image is of a split for evaluation.
        labels: (n,) int64; -1 without one.
        class_names: by label.
        thumbnails: (n, side, side, c) uint8.
        short_sides: (n,) pixels.
    """

    paths: list[str]
    splits: list[str]
    held_out: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    thumbnails: np.ndarray
    short_sides: np.ndarray

    def class_of(self, index: int) -> str:
        """Returns the class of an image; "" without one."""
        label = int(self.labels[index])
        return self.class_names[label] if label >= 0 else ""


@dataclasses.dataclass(frozen=True)
class Audit:
    """The findings of an audit.

    Attributes:
        findings: a dict per image and finding, the rows of audit.csv: finding, group, path, split,
            label, probability (of the label), suggested, suggested_probability, reason.
        num_images: that were looked at.
        notes: sentences on what could not be looked at.
        page: audit.html.
    """

    findings: list[dict[str, Any]]
    num_images: int
    notes: tuple[str, ...] = ()
    page: str = dataclasses.field(default="", repr=False)

    def rows(self, finding: str | None = None) -> list[dict[str, Any]]:
        """Returns the rows of a finding; None for all."""
        return [row for row in self.findings if finding in (None, row["finding"])]

    def to_csv(self, path: str | os.PathLike) -> str:
        """Writes the rows as a CSV file; returns its path."""
        return results.write_csv(path, self.findings or [dict.fromkeys(_COLUMNS, "")])

    def to_html(self, path: str | os.PathLike) -> str:
        """Writes a page with the images; returns its path."""
        return results.write_file(path, page_lib.encode(self.page))

    def _repr_html_(self) -> str:
        return results.html_table(self.findings[: results.ROWS_SHOWN], len(self.findings))

    def describe(self) -> str:
        """Returns a line per finding."""
        lines = [f"Looked at {self.num_images:,} images:"]
        for finding, meaning in FINDINGS.items():
            rows = self.rows(finding)
            groups = len({row["group"] for row in rows}) if rows and rows[0]["group"] else 0
            count = f"{len(rows):,}" + (f" in {groups:,} groups" if groups else "")
            lines.append(f"  {finding:11}{count:>20}  {meaning}")
        return "\n".join([*lines, *self.notes])


_COLUMNS = (
    *("finding", "group", "path", "split", "label", "probability", "suggested"),
    *("suggested_probability", "reason"),
)


def audit(
    path: inference.Path,
    images: inference.Images,
    *,
    labels: str | os.PathLike | None = None,
    batch_size: int = 256,
) -> Audit:
    """Looks for duplicates, leaks, outliers, doubtful labels, broken and tiny files.

        found = audit("runs/photos", "photos", labels="labels.csv")
        found.to_csv("audit.csv")
        found.to_html("audit.html")

    Args:
        path: of a network, best one pretrained without these labels: a model_dir, that of a run of
            all stages (its pretrained network), a checkpoint prefix, an exported SavedModel, or
            the name of a released network.
        images: a folder, a CSV manifest, a list of image files; uint8 arrays; or a source.
        labels: of a folder's images: what --labels takes.
        batch_size: images per forward pass.

    Returns:
        The findings, which show as a table in a notebook and have `.to_csv` and `.to_html`.

    Raises:
        errors.UserError: the network, the images or the labels do not exist or do not fit.
    """
    settings: dict[str, Any] = {"max_bad_fraction": 1.0}  # unreadable images are findings
    settings |= {"labels": os.fspath(labels)} if labels else {}
    network, opened = inference.open_both(path, images, batch_size, mode="audit", **settings)
    return inspect(network, opened, network_lib.build_extractor(network, opened))


def inspect(
    network: network_lib.Network, images: loaders.Source, extract: features_lib.Extractor
) -> Audit:
    """Returns the findings of a network's images.

    Args:
        network: whose features are used.
        images: the images, with all of their labels.
        extract: of its features.

    Raises:
        errors.UserError: there are fewer than two images.
    """
    splits, held_out = _splits(network, images)
    count = sum(images.num_examples(split) for split in splits)
    if count < 2:
        raise errors.UserError(
            f"An audit compares images. Received: {images.name} with {count} that can be read. "
            "Correct --data_dir."
        )
    looked_at = _read(images, splits, held_out)

    def embed(endpoint: str) -> np.ndarray:
        return np.concatenate([extract(split, endpoint).values for split in splits])

    values = embed("final_avg_pool")
    findings, notes = [], []
    findings += _duplicates(looked_at, values)
    doubtful, note = _labels(looked_at, values)
    findings += doubtful
    notes += [note] if note else []
    findings += _outliers(looked_at, embed(OUTLIER_ENDPOINT))
    findings += _blank_and_tiny(looked_at, network.config.image_size)
    findings += [
        {"finding": "unreadable", "path": path, "reason": reason}
        for path, reason in images.unreadable.items()
    ]
    order = list(FINDINGS)
    findings.sort(key=lambda row: order.index(row["finding"]))  # stable
    rows = [{name: row.get(name, "") for name in ("index", *_COLUMNS)} for row in findings]
    listing = images.listing
    shown = [row["index"] for row in audit_page.choose(rows) if row["index"] != ""]
    page = audit_page.render(
        f"Audit of {os.path.basename(os.path.abspath(listing.root)) if listing else images.name}",
        rows,
        FINDINGS,
        _previews(images, splits, shown),
        count,
        notes,
    )
    rows = [{name: row[name] for name in _COLUMNS} for row in rows]
    return Audit(rows, count, tuple(notes), page)


def write(audited: Audit, directory: str) -> list[str]:
    """Writes audit.csv and audit.html; returns their names."""
    audited.to_csv(os.path.join(directory, CSV_FILE))
    audited.to_html(os.path.join(directory, audit_page.FILE_NAME))
    return [CSV_FILE, audit_page.FILE_NAME]


def _splits(network: network_lib.Network, images: loaders.Source) -> tuple[list[str], set[str]]:
    """Returns the splits to look at, and those of them that are held out for evaluation."""
    if images.listing:
        names = list(images.splits)
        return names, set(names) - set(images.listing.train_split.split("+"))
    config = network.config
    known = [name for name in (config.train_split, config.eval_split) if name in images.splits]
    names = list(dict.fromkeys(known)) or [next(iter(images.splits))]
    return names, {config.eval_split} - {config.train_split}


def _read(images: loaders.Source, splits: Sequence[str], held_out: set[str]) -> Images:
    """Decodes all images once, for their sizes and small versions of them."""

    def shrink(record: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        image = images.decode(dict(record))["image"]
        small = tf.image.resize(image, [_SIDE, _SIDE], antialias=True)
        short = tf.reduce_min(tf.shape(image)[:2])
        return tf.cast(tf.round(tf.clip_by_value(small, 0, 255)), tf.uint8), short

    thumbnails, short_sides = [], []
    for split in splits:
        records = images.records(split).map(shrink, num_parallel_calls=tf.data.AUTOTUNE)
        steps = -(-images.num_examples(split) // _AT_ONCE)
        for small, short in progress.track(records.batch(_AT_ONCE), steps, f"images of {split}"):
            thumbnails.append(small.numpy())
            short_sides.append(short.numpy())
    counts = [images.num_examples(split) for split in splits]
    names = [split for split, count in zip(splits, counts, strict=True) for _ in range(count)]
    return Images(
        paths=[path for split in splits for path in images.ids(split)],
        splits=names,
        held_out=np.isin(names, list(held_out)),
        labels=np.concatenate([images.labels(split) for split in splits]),
        class_names=images.class_names or list(map(str, range(images.num_classes))),
        thumbnails=np.concatenate(thumbnails),
        short_sides=np.concatenate(short_sides),
    )


def _row(finding: str, images: Images, index: int, reason: str, **more: Any) -> dict[str, Any]:
    return {
        "finding": finding,
        "index": index,
        "path": images.paths[index],
        "split": images.splits[index],
        "label": images.class_of(index),
        "reason": reason,
        **more,
    }


def _duplicates(images: Images, values: np.ndarray) -> list[dict]:
    """Returns the rows of the groups of equal pictures, those with a leak first."""
    near = neighbors.nearest(values, duplicates.CANDIDATES)
    found = duplicates.find(images.thumbnails, near.indices)

    def leaks(group: Sequence[int]) -> bool:
        return len(set(images.held_out[list(group)])) > 1

    rows = []
    for number, group in enumerate(sorted(found.groups, key=lambda g: not leaks(g)), 1):
        labels = {images.class_of(index) for index in group} - {""}
        conflict = f"; labels differ: {', '.join(sorted(labels))}" if len(labels) > 1 else ""
        for index in group:
            reason = f"correlation {found.correlations[index]:.3f}{conflict}"
            finding = "leak" if leaks(group) else "duplicate"
            rows.append(_row(finding, images, index, reason, group=number))
    return rows


def _labels(images: Images, values: np.ndarray) -> tuple[list[dict], str]:
    """Returns the rows of doubtful labels, and why there may be none."""
    known = np.flatnonzero(images.labels >= 0)
    classes, labels = np.unique(images.labels[known], return_inverse=True)
    counts = np.bincount(labels) if len(known) else np.zeros(1)
    if len(classes) < 2 or len(known) < _LEAST_LABELS or counts.min() < 2:
        return [], (
            f"Labels were not judged: that takes at least {_LEAST_LABELS} labeled images, of two "
            f"classes or more with two images each; there are {len(known):,} of {len(classes)}."
        )
    probabilities = cross_validation.out_of_fold_probabilities(
        values[known], labels, num_classes=len(classes)
    )
    found = doubts.doubtful_labels(probabilities, labels)
    names = [images.class_names[label] for label in classes]
    return [
        _row(
            "label",
            images,
            int(known[index]),
            "fitted without this image, a classifier of the features finds the label unlikely",
            probability=float(own),
            suggested=names[suggested],
            suggested_probability=float(probability),
        )
        for index, own, suggested, probability in zip(
            found.indices, found.probabilities, found.suggested, found.suggested_probabilities,
            strict=True,
        )
    ], ""  # fmt: skip


def _outliers(images: Images, values: np.ndarray) -> list[dict]:
    """Returns the rows of the images unlike all others, the farthest first."""
    near = neighbors.nearest(values, doubts.OUTLIER_NEIGHBORS)
    scores = doubts.outlier_scores(near.cosines)
    far = np.flatnonzero(scores > doubts.OUTLIER_SCORE)
    return [
        _row("outlier", images, int(i), f"score {scores[i]:.1f} (limit {doubts.OUTLIER_SCORE})")
        for i in far[np.argsort(-scores[far], kind="stable")]
    ]


def _blank_and_tiny(images: Images, image_size: int) -> list[dict]:
    """Returns the rows of images without content and of those that are enlarged a lot."""
    blank = np.flatnonzero(alignment.contrast(images.thumbnails) < alignment.LEAST_CONTRAST)
    tiny = np.flatnonzero(images.short_sides < _TINY * image_size)
    tiny = tiny[np.argsort(images.short_sides[tiny], kind="stable")]
    rows = [_row("blank", images, int(index), "almost one color") for index in blank]
    return rows + [
        _row(
            "tiny",
            images,
            int(index),
            f"short side {images.short_sides[index]} px, enlarged to {image_size} px",
        )
        for index in tiny
    ]


def _previews(images: loaders.Source, splits: Sequence[str], shown: Sequence[int]) -> dict:
    """Returns index -> JPEG of some images, small and uncropped."""
    found: dict[int, bytes] = {}
    begin = 0
    for split in splits:
        count = images.num_examples(split)
        own = sorted({index - begin for index in shown if begin <= index < begin + count})
        if own:
            jpegs = gallery.thumbnails(images, split, own, side=_PREVIEW)
            found |= {begin + index: jpeg for index, jpeg in zip(own, jpegs, strict=True)}
        begin += count
    return found
