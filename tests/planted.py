"""A folder of CIFAR-10 photographs with known faults, and how many of them an audit finds.

    python tests/planted.py CHECKPOINT DIRECTORY --data_dir=../shared/tfds

Writes 2,000 photographs as JPEG files, 50 copies of some (20 compressed again, 15 cropped, 15
mirrored), 50 wrong labels and 20 foreign images (digits, stripes, pages of text, noise), audits
them with a network and prints precision and recall.
"""

from __future__ import annotations

import argparse
import csv
import io
import pathlib
import sys

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import tf2 as simclr  # noqa: E402

COPIES = {"compressed": 20, "cropped": 15, "mirrored": 15}
WRONG, FOREIGN = 50, 20


def copy(image, kind, random):
    """Returns a copy (32, 32, 3) of an image, and its JPEG quality."""
    if kind == "compressed":
        return image, int(random.randint(40, 85))
    if kind == "mirrored":
        return np.ascontiguousarray(image[:, ::-1]), 90
    side = int(random.randint(26, 31))
    top, left = random.randint(0, 33 - side, 2)
    cropped = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(cropped.resize((32, 32), Image.BICUBIC)), 90


def foreign(number, random):
    """Returns an image (32, 32, 3) that is no photograph."""
    from sklearn import datasets

    if number % 4 == 0:
        digit = Image.fromarray(np.uint8(datasets.load_digits().images[7 * number] * 15.9))
        return np.asarray(digit.resize((32, 32), Image.BICUBIC).convert("RGB"))
    if number % 4 == 1:
        y, x = np.mgrid[:32, :32]
        stripes = np.sin(x * random.uniform(0.5, 2.5) + y * random.uniform(0.5, 2.5)) > 0
        return np.repeat(np.uint8(255 * stripes)[..., None], 3, -1)
    if number % 4 == 2:
        page = np.full((32, 32, 3), 255, np.uint8)
        for top in range(3, 30, 5):
            page[top : top + 2, 2:30][:, random.uniform(size=28) < 0.6] = 0
        return page
    return random.randint(0, 256, (32, 32, 3)).astype(np.uint8)


def write(images, names, directory, seed=0):
    """Writes photos/ and labels.csv; returns the truth: copy -> original, wrong, foreign."""
    random = np.random.RandomState(seed)
    photos = pathlib.Path(directory) / "photos"
    photos.mkdir(parents=True)
    classes = sorted(set(names))
    rows, order = {}, random.permutation(len(images))

    def save(stem, image, label, quality=95):
        Image.fromarray(image).save(photos / f"{stem}.jpg", quality=quality)
        rows[f"{stem}.jpg"] = label

    for number, (image, name) in enumerate(zip(images, names, strict=True)):
        save(f"{number:05}", image, name)
    copies, taken = {}, iter(order)
    for kind, count in COPIES.items():
        for _ in range(count):
            number = next(taken)
            stored = Image.open(io.BytesIO((photos / f"{number:05}.jpg").read_bytes()))
            made, quality = copy(np.asarray(stored), kind, random)
            save(f"{kind}_{number:05}", made, names[number], quality)
            copies[f"{kind}_{number:05}.jpg"] = f"{number:05}.jpg"
    wrong = {f"{next(taken):05}.jpg" for _ in range(WRONG)}
    for path in wrong:
        others = [name for name in classes if name != rows[path]]
        rows[path] = others[random.randint(len(others))]
    strange = set()
    for number in range(FOREIGN):
        save(f"foreign_{number:02}", foreign(number, random), classes[number % len(classes)])
        strange.add(f"foreign_{number:02}.jpg")
    with open(pathlib.Path(directory) / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *sorted(rows.items())])
    return copies, wrong, strange


def measure(found, copies, wrong, strange):
    """Returns name -> (found, planted, true among the findings, findings)."""
    groups = {}
    for row in found.rows("duplicate") + found.rows("leak"):
        groups.setdefault(row["group"], set()).add(row["path"])
    pairs = {(path, original) for path, original in copies.items()}
    hits = {path for path, original in pairs if any({path, original} <= g for g in groups.values())}
    true = sum(bool(group & copies.keys()) for group in groups.values())
    measured = {"copies": (len(hits), len(copies), true, len(groups))}
    for kind in COPIES:
        own = {path for path in copies if path.startswith(kind)}
        measured[f"  {kind}"] = (len(hits & own), len(own), None, None)
    for name, truth in (("label", wrong), ("outlier", strange)):
        listed = {row["path"] for row in found.rows(name)}
        measured[name] = (len(listed & truth), len(truth), len(listed & truth), len(listed))
    return measured


def main(arguments):
    """Writes the folder, audits it and prints precision and recall."""
    source = simclr.load_source("cifar10", arguments.data_dir)
    decoded = [source.decode(record) for record in source.records("train").take(2000)]
    names = [source.class_names[int(example["label"])] for example in decoded]
    images = [example["image"].numpy() for example in decoded]
    directory = pathlib.Path(arguments.directory)
    truth = write(images, names, directory, arguments.seed)
    found = simclr.audit(
        arguments.checkpoint, directory / "photos", labels=directory / "labels.csv"
    )
    found.to_csv(directory / "audit.csv")
    found.to_html(directory / "audit.html")
    print(found.describe())
    for name, (hits, planted, true, listed) in measure(found, *truth).items():
        precision = "" if true is None else f"   precision {true}/{listed} = {true / listed:.2f}"
        print(f"{name:14} recall {hits}/{planted} = {hits / planted:.2f}{precision}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("directory")
    parser.add_argument("--data_dir", default="../shared/tfds", help="of TensorFlow Datasets")
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())
