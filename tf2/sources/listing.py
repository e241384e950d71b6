"""What is in a folder of images: files, splits, classes, and what is held out for evaluation.

Everything is found from paths, file sizes and a labels file. No image is opened and TensorFlow is
not imported, so that a mistake is found at once.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence

from tf2 import errors
from tf2.flags import checks
from tf2.sources import holdout as holdout_lib
from tf2.sources import labels_file, scan

# Values of --labels that are no files.
NONE = "none"  # folder names are no classes
GUESS = "guess"  # folder names are classes where they look like classes

HOLDOUT = "holdout"  # the split of the images that --holdout holds out
# Split of a command line -> other names of it in folders.
_ALIASES = {
    "train": ("training",),
    "validation": ("val", "valid", "dev", "eval"),
    "test": ("testing",),
}


ImageFile = scan.ImageFile


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images of a folder.

    Attributes:
        root: the folder.
        images: in their stored order.
        layout: in words.
        labels_from: in words; None without labels.
        held_out: in words.
        warnings: sentences.
        unused: files of the folder that are not used, in words; empty if there are none.
    """

    root: str
    images: tuple[ImageFile, ...]
    layout: str
    labels_from: str | None
    held_out: str
    warnings: tuple[str, ...] = ()
    unused: str = ""

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the labels."""
        return class_names(self.images)

    @property
    def num_labeled(self) -> int:
        """The number of images with a label."""
        return sum(image.class_name is not None for image in self.images)

    @functools.cached_property
    def splits(self) -> dict[str, int]:
        """Split -> number of its images; the training split first, those for evaluation last."""
        counts = collections.Counter(image.split for image in self.images)
        return {name: counts[name] for name in sorted(counts, key=_place)}

    @property
    def train_split(self) -> str:
        """What --train_split=auto means: all splits but those for evaluation, joined by "+"."""
        return "+".join(name for name in self.splits if not _is_for_evaluation(name))

    @property
    def eval_split(self) -> str:
        """What --eval_split=auto means: the split to evaluate on; "" for none."""
        return _evaluation_split(self.images) or ""

    def find_split(self, split: str) -> str:
        """Returns the folder's own name of a split, or of several joined by "+".

        Raises:
            errors.UserError: there is no such split.
        """
        return "+".join(dict.fromkeys(self._find_one(name) for name in split.split("+")))

    def has_split(self, split: str) -> bool:
        """Whether `find_split` finds a split."""
        try:
            return bool(self.find_split(split))
        except errors.UserError:
            return False

    def _find_one(self, split: str) -> str:
        known = self.splits
        for name in (split, *_ALIASES.get(split, ())):
            if name in known:
                return name
        raise errors.UserError(
            f"The split must be one of the folder's: {', '.join(known)}, or several joined by +. "
            f"Received: split={split!r}.{checks.closest(split, known)} Set --train_split or "
            "--eval_split to one of them, or hold out images for evaluation with --holdout=0.2 "
            "(of the labeled ones, as --eval_split=holdout) or --val_fraction=0.1."
        )

    def describe(self) -> list[str]:
        """Returns lines: what was found, is labeled and held out; what is not used, if any."""
        classes = collections.Counter(i.class_name for i in self.images if i.class_name is not None)
        labels = "None of them is labeled"
        if self.labels_from:
            each = _smallest_to_largest(classes.values())
            labels = (
                f"{self.num_labeled:,} labeled of {len(self.images):,} images, by "
                f"{self.labels_from}: {len(classes):,} classes of {each} images"
            )
        found = f"{len(self.images):,} images in {self.root}, {self.layout}"
        lines = [f"Found: {found}.", f"Labels: {labels}.", f"Held out: {self.held_out}."]
        return [*lines, f"Not used: {self.unused}."] if self.unused else lines


def list_images(
    data_dir: str | None,
    *,
    labels: str | None = None,
    holdout: float = 0.0,
    val_fraction: float = 0.0,
    label_seed: int = 0,
    follow_links: bool = False,
) -> Listing:
    """Lists the images of a folder or a CSV manifest.

    Args:
        data_dir: the folder; or FILE.csv with columns path, label and optionally split, with paths
            relative to the file.
        labels: a labels file (see `labels_file`), a folder of class folders, data_dir itself for
            the folders below it, "none", or "guess" for folders only where they look like classes;
            None or "" takes the first folder of each image, below its split, as its class.
        holdout: fraction of the labeled images of each class to hold out as the split "holdout" if
            there is no labeled evaluation split.
        val_fraction: fraction of each class, and of the unlabeled images, to hold out as
            "validation" if there is no evaluation split.
        label_seed: of `holdout`.
        follow_links: whether links that lead out of the folder are followed.

    Raises:
        errors.UserError: data_dir holds no images, or the labels are unusable.
    """
    data_dir = _check_path(data_dir)
    labels = os.path.expanduser(labels) if labels else None
    careful = labels == GUESS
    itself = labels is not None and os.path.realpath(labels) == os.path.realpath(data_dir)
    by_folder = labels in (None, GUESS) or itself
    if os.path.isfile(data_dir):
        listing = _list_manifest(data_dir, with_labels=by_folder)
    else:
        found = scan.find(data_dir, follow_links=follow_links)
        unused = _without(found.unused, data_dir, labels)
        images, layout = scan.folder(data_dir, found.paths, by_folder=by_folder, careful=careful)
        labeled = any(image.class_name is not None for image in images)
        source = "their folders" if labeled else None
        listing = Listing(data_dir, tuple(images), layout, source, "nothing", unused=unused)
    if not listing.images:
        beside = f"; not used are {listing.unused}" if listing.unused else ""
        raise errors.UserError(
            f"The data_dir must contain or list images ({', '.join(scan.SUFFIXES)}). Received: "
            f"data_dir={data_dir!r}, without images{beside}. Correct --data_dir."
        )
    if not by_folder and labels and labels != NONE:
        listing = _with_labels(listing, labels)
    if labels or holdout:
        _check_classes(listing)
    listing = listing if not val_fraction else with_validation(listing, val_fraction)
    return _with_holdout(listing, holdout, label_seed)


def _without(unused: Mapping[str, list[str]], root: str, labels: str | None) -> str:
    """Returns the unused files in words, without the labels file, which is used."""
    used = os.path.realpath(labels) if labels else ""
    kept = {
        reason: [n for n in names if os.path.realpath(os.path.join(root, n)) != used]
        for reason, names in unused.items()
    }
    return scan.describe_unused({reason: names for reason, names in kept.items() if names})


def _check_path(data_dir: str | None) -> str:
    if not data_dir:
        raise errors.UserError(
            "The dataset folder needs the path of a folder or CSV file. Received: "
            f"data_dir={data_dir!r}. Set --data_dir."
        )
    data_dir = os.path.expanduser(data_dir)
    if os.path.isdir(data_dir) or (os.path.isfile(data_dir) and data_dir.lower().endswith(".csv")):
        return data_dir
    kind = "which is another file" if os.path.exists(data_dir) else "which does not exist"
    raise errors.UserError(
        "The data_dir must be a folder of images or a .csv file. Received: "
        f"data_dir={data_dir!r}, {kind}. Correct --data_dir."
    )


# ---- what is found


def _list_manifest(path: str, *, with_labels: bool) -> Listing:
    """Lists the images that a CSV file names."""
    root = os.path.dirname(path) or "."
    found: dict[str, ImageFile] = {}
    for row in labels_file.read_manifest(path):
        name = _inside(row.name, root, path)
        label, size = row.label if with_labels else None, scan.file_size(os.path.join(root, name))
        image = ImageFile(name, row.split or "train", label, size)
        if found.setdefault(name, image) != image:
            raise errors.UserError(
                "An image must have one label and one split. Received: "
                f"data_dir={path}, where {scan.image_id(name)} has two. Correct these rows."
            )
    images = list(found.values())
    images.sort(key=lambda image: (image.split, image.path))
    if images and all(image.size < 0 for image in images):
        looked_for = [os.path.join(root, image.path) for image in images[:5]]
        raise errors.UserError(
            "The paths in a manifest must be relative to the folder that it is in. Received: "
            f"data_dir={path}, with {len(images):,} images of which none exists; looked for "
            f"{', '.join(looked_for)}. Correct the paths, or move the manifest."
        )
    labeled = any(image.class_name is not None for image in images)
    layout = f"listed in {os.path.basename(path)}"
    return Listing(root, tuple(images), layout, "its labels" if labeled else None, "nothing")


def _inside(name: str, root: str, manifest: str) -> str:
    """Returns the path of an image relative to the folder of a manifest, or an absolute one.

    Raises:
        errors.UserError: a relative path leads out of the folder.
    """
    path = os.path.normpath(os.path.join(root, name))
    relative = os.path.relpath(path, root)
    outside = relative.split(os.sep)[0] == os.pardir
    if "\0" in name or (outside and not os.path.isabs(name)):
        raise errors.UserError(
            "The paths of a manifest must lead below the folder that it is in, or be absolute. "
            f"Received: data_dir={manifest}, with the path {scan.image_id(name)}. Correct it, or "
            "move the manifest to a folder above all images."
        )
    return path if outside else relative


# ---- labels


def _with_labels(listing: Listing, labels: str) -> Listing:
    """Returns the listing with the labels, and splits, of a labels file."""
    paths = [scan.image_id(image.path) for image in listing.images]
    rows = labels_file.read(labels, listing.root)
    found, missing = labels_file.match(rows, paths, labels, listing.root)
    images = [
        dataclasses.replace(
            image,
            class_name=found[index].label,
            split=_split_name(found[index].split) or image.split,
        )
        if index in found
        else image
        for index, image in enumerate(listing.images)
    ]
    if not any(image.class_name is not None for image in images):
        raise errors.UserError(
            "A labels file must give a label for some images. Received: "
            f"labels={labels}, where all are blank. Fill in its label column, or remove --labels."
        )
    warnings = listing.warnings
    if missing:
        warnings += (
            f"{len(missing):,} of {len(rows):,} names in {labels} match no image in "
            f"{listing.root}: {errors.first_few(missing)}.",
        )
    return dataclasses.replace(
        listing, images=tuple(images), labels_from=os.path.basename(labels), warnings=warnings
    )


def _split_name(name: str | None) -> str | None:
    """Returns a split's usual name in lower case, others as they are."""
    return name.lower() if name and name.lower() in scan.SPLIT_NAMES else name


def class_names(images: Iterable[ImageFile]) -> tuple[str, ...]:
    """Returns the sorted classes, the same for all splits.

    Raises:
        errors.UserError: a class has no image outside of the evaluation splits.
    """
    first_split: dict[str, str] = {}
    trained = set()
    for image in images:
        if image.class_name is not None:
            first_split.setdefault(image.class_name, image.split)
            if not _is_for_evaluation(image.split):
                trained.add(image.class_name)
    unknown = sorted(first_split.keys() - trained)
    if unknown and trained:
        raise errors.UserError(
            "Every class must have training images. Received: "
            f"class {unknown[0]!r} only in split {first_split[unknown[0]]!r}. Add it to the "
            "training split or remove it."
        )
    if all(name.isdecimal() for name in first_split):  # 10 after 9
        return tuple(sorted(first_split, key=lambda name: (int(name), name)))
    return tuple(sorted(first_split))


def _check_classes(listing: Listing) -> None:
    """Raises errors.UserError for a single class, or one with fewer than two images."""
    counts = collections.Counter(
        i.class_name for i in listing.images
        if i.class_name is not None and not _is_for_evaluation(i.split)
    )  # fmt: skip
    where = f"data_dir={listing.root} with the labels of {listing.labels_from}"
    if len(listing.class_names) == 1:
        raise errors.UserError(
            f"Labels must be of at least two classes. Received: {where}, all of class "
            f"{listing.class_names[0]!r}. Label images of another class, or set --labels=none."
        )
    single = [name for name in listing.class_names if counts[name] == 1]
    if single:
        raise errors.UserError(
            f"Every class must have at least two labeled images. Received: {where}, where "
            f"{len(single):,} of {len(counts):,} classes have one: {errors.first_few(single)}. "
            "Label more images, or remove these labels."
        )


# ---- what is held out


def _is_for_evaluation(split: str) -> bool:
    return split.lower() in scan.EVAL_NAMES or split == HOLDOUT


def _place(split: str) -> tuple[bool, bool]:
    return _is_for_evaluation(split), split.lower() not in scan.TRAIN_NAMES


def _evaluation_split(images: Collection[ImageFile]) -> str | None:
    """Returns the evaluation split that has labels, validation before test; None without one."""
    present = {image.split.lower(): image.split for image in images if image.class_name is not None}
    return next((present[n] for n in (*scan.EVAL_NAMES, HOLDOUT) if n in present), None)


def with_validation(listing: Listing, fraction: float) -> Listing:
    """Returns the listing with a fraction of the training images as the split "validation"."""
    images = listing.images
    if any(image.split.lower() in scan.EVAL_NAMES for image in images):
        text = "val_fraction is ignored: the folder has an evaluation split."
        return dataclasses.replace(listing, warnings=(*listing.warnings, text))
    train = [i for i, image in enumerate(images) if image.split.lower() in scan.TRAIN_NAMES]
    chosen = holdout_lib.choose_fraction([images[i].class_name for i in train], fraction)
    return _moved(listing, [train[i] for i in sorted(chosen)], "validation")


def _with_holdout(listing: Listing, fraction: float, seed: int) -> Listing:
    """Returns the listing with labeled images of each class as the split "holdout"."""
    split = _evaluation_split(listing.images)
    unused = [n for n in listing.splits if _is_for_evaluation(n) and n != split]
    if split is None and fraction:
        train = [i for i, m in enumerate(listing.images) if not _is_for_evaluation(m.split)]
        chosen = holdout_lib.choose(
            [listing.images[i].path for i in train],
            [listing.images[i].class_name for i in train],
            fraction,
            seed,
        )
        listing = _moved(listing, [train[i] for i in sorted(chosen)], HOLDOUT)
        split = HOLDOUT if chosen else None
    labeled = any(image.class_name is not None for image in listing.images)
    words = "nothing: too few labels" if labeled and fraction else "nothing"
    if split is not None:
        counts = collections.Counter(
            i.class_name for i in listing.images if i.split == split and i.class_name is not None
        ).values()
        words = f"{sum(counts):,} labeled images, {_smallest_to_largest(counts)} per class"
        words += "" if split == HOLDOUT else f", the split {split}"
    if unused:
        words += f"; not used: {', '.join(unused)}"
    return dataclasses.replace(listing, held_out=words)


def _smallest_to_largest(counts: Collection[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _moved(listing: Listing, indices: Sequence[int], split: str) -> Listing:
    images = list(listing.images)
    for index in indices:
        images[index] = dataclasses.replace(images[index], split=split)
    return dataclasses.replace(listing, images=tuple(images))
