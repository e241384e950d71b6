"""Measures the command for one's own images on folders whose true classes are known.

    python tests/guided_runs.py cifar10 --seed=0 --minutes=30

Writes a folder of images and a labels file for a few of them, runs the command with no flags but
these, and prints the accuracy of each network on all images without a label:

    cifar10    the first 5,000 training images of CIFAR-10 as JPEG files, 20 labels per class; needs
               the dataset, prepared in --data_dir
    digits     scikit-learn's 1,797 digits as PNG files, 4 labels per class, --flip=False
    enlarged   300 images of two classes of CIFAR-10, enlarged to 224 pixels and more, 30 labels
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import tf2 as simclr  # noqa: E402
from tf2 import intervals  # noqa: E402

LABELS_PER_CLASS = {"cifar10": 20, "digits": 4, "enlarged": 15}
FLAGS = {"digits": ["--flip=False"]}
STAGES = ("finetune", "distill", "student", "supervised")


def cifar10(data_dir, count):
    """Returns images and class names of the first training images of CIFAR-10."""
    source = simclr.load_source("cifar10", data_dir)
    decoded = [source.decode(record) for record in source.records("train").take(count)]
    names = [source.class_names[int(example["label"])] for example in decoded]
    return [example["image"].numpy() for example in decoded], names


def digits():
    """Returns the images and class names of scikit-learn's digits."""
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return list(images), [str(label) for label in bunch.target]


def enlarged(data_dir):
    """Returns 150 images each of automobiles and horses, of 224 to 420 pixels."""
    images, names = cifar10(data_dir, 4000)
    random = np.random.RandomState(0)
    chosen = []
    for wanted in ("automobile", "horse"):
        chosen += [i for i, name in enumerate(names) if name == wanted][:150]
    larger = []
    for index in chosen:
        height = random.randint(224, 300)
        size = (int(height * random.uniform(1, 1.4)), height)
        larger.append(np.asarray(Image.fromarray(images[index]).resize(size, Image.BICUBIC)))
    return larger, [names[index] for index in chosen]


def write_folder(directory, images, names, *, suffix, per_class, seed):
    """Writes photos/ and labels.csv; returns file name -> class of the images without a label."""
    photos = directory / "photos"
    photos.mkdir(parents=True)
    random, labeled = np.random.RandomState(seed), set()
    for name in sorted(set(names)):
        indices = [index for index, other in enumerate(names) if other == name]
        labeled |= set(random.permutation(indices)[:per_class].tolist())
    files = [f"{number:05}{suffix}" for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(photos / file, quality=95)
    with open(directory / "labels.csv", "w", newline="") as stream:
        rows = [(files[index], names[index]) for index in sorted(labeled)]
        csv.writer(stream).writerows([("path", "label"), *rows])
    pairs = enumerate(zip(files, names, strict=True))
    return {file: name for index, (file, name) in pairs if index not in labeled}


def measure(directory, truth):
    """Prints the accuracy of every network on the images whose classes it was not given."""
    for stage in STAGES:
        path = directory / "run" / stage
        if not path.is_dir():
            continue
        rows = simclr.predict(path, directory / "photos").rows(top=1)
        hits = [row["class"] == truth[row["path"]] for row in rows if row["path"] in truth]
        low, high = intervals.wilson(sum(hits), len(hits))
        print(
            f"{stage:12} {100 * np.mean(hits):5.1f} %  ({100 * low:.1f} to {100 * high:.1f})",
            flush=True,
        )
    results = json.loads((directory / "run" / "pretrain" / "result.json").read_text())
    trained, untrained = (results[f"eval/knn_accuracy{end}"] for end in ("", "_untrained"))
    print(f"kNN of labeled images: {100 * trained:.1f} %, untrained {100 * untrained:.1f} %")


def main(arguments):
    """Writes the folder, runs the command and prints the accuracies."""
    directory = pathlib.Path(arguments.directory) / f"{arguments.images}_{arguments.seed}"
    if arguments.images == "digits":
        images, names = digits()
    elif arguments.images == "cifar10":
        images, names = cifar10(arguments.data_dir, 5000)
    else:
        images, names = enlarged(arguments.data_dir)
    truth = write_folder(
        *(directory, images, names),
        suffix=".png" if arguments.images == "digits" else ".jpg",
        per_class=LABELS_PER_CLASS[arguments.images],
        seed=arguments.seed,
    )
    command = [sys.executable, str(ROOT / "tf2" / "run.py"), "--mode=train_then_eval"]
    command += [f"--data_dir={directory / 'photos'}", f"--labels={directory / 'labels.csv'}"]
    command += [f"--model_dir={directory / 'run'}", f"--seed={arguments.seed}"]
    command += [f"--minutes={arguments.minutes}", *FLAGS.get(arguments.images, [])]
    begin = time.monotonic()
    subprocess.run(command, check=True)
    print(f"\n{arguments.images}, seed {arguments.seed}: {time.monotonic() - begin:.0f} s")
    print(f"Accuracy on {len(truth):,} images without a label:")
    measure(directory, truth)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", choices=LABELS_PER_CLASS)
    parser.add_argument("--seed", type=int, default=0, help="of the labels and of the training")
    parser.add_argument("--minutes", type=float, default=30, help="of all stages together")
    parser.add_argument("--data_dir", default="../shared/tfds", help="of TensorFlow Datasets")
    parser.add_argument("--directory", default="guided", help="to write to")
    main(parser.parse_args())
