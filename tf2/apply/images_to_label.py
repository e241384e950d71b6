"""Which images to label: a choice from a network's features, and the files to label them with.

to_label.csv         rank, path, cluster and coverage of each image
label.html           a page to label them on; see `visuals.label_page`
label_studio.json    the same images as tasks of Label Studio, whose export `--labels` reads
"""

from __future__ import annotations

import dataclasses
import json
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf2 import config as config_lib
from tf2 import errors, files, guide
from tf2.apply import features as features_lib
from tf2.apply import inference, results
from tf2.apply import network as network_lib
from tf2.selection import methods
from tf2.sources import listing as listing_lib
from tf2.sources import loaders, scan
from tf2.visuals import gallery, label_page, page

DIRECTORY = "select"  # of the files, below model_dir
TO_LABEL_FILE, TASKS_FILE = "to_label.csv", "label_studio.json"
_SIDE = 256  # pixels of an image on the page, at most


@dataclasses.dataclass(frozen=True, repr=False)
class ImagesToLabel:
    """Images to label, most useful first.

    Attributes:
        ids: the images' names: paths relative to their folder, or their numbers in an array.
        clusters: (count,) a number that images with similar features share.
        coverage: (count,) in [0, 1], how similar the nearest labeled image is on average over all
            images, once this one and those before it are labeled.
        positions: (count,) of the images in their split.
        images: the source of all images.
        split: of them.
        predictions: classes of the chosen images; None without a classifier.
    """

    ids: Sequence[str]
    clusters: np.ndarray
    coverage: np.ndarray
    positions: np.ndarray
    images: loaders.Source
    split: str
    predictions: results.Predictions | None = None

    def __len__(self) -> int:
        """Returns the number of chosen images."""
        return len(self.ids)

    def __repr__(self) -> str:
        return f"ImagesToLabel({len(self):,} images, coverage {self.coverage[-1]:.3f})"

    def _repr_html_(self) -> str:
        return results.html_table(self.rows()[: results.ROWS_SHOWN], len(self))

    def rows(self) -> list[dict]:
        """Returns for each image its rank from 1, path, cluster and coverage."""
        columns = zip(self.ids, self.clusters, self.coverage, strict=True)
        return [
            {"rank": rank, "path": path, "cluster": int(cluster), "coverage": float(coverage)}
            for rank, (path, cluster, coverage) in enumerate(columns, 1)
        ]

    def to_csv(self, path: str | os.PathLike) -> str:
        """Writes `rows` as a CSV file, to_label.csv of --mode=select; returns its path.

        Args:
            path: of the file; its directory is created.
        """
        return results.write_csv(path, self.rows())

    def write(self, directory: str, command: str = "") -> list[str]:
        """Writes to_label.csv, and for the images of a folder label.html and label_studio.json.

        Args:
            directory: it is created.
            command: to continue with the labels; the page shows it.

        Returns:
            The names of the files.
        """
        self.to_csv(os.path.join(directory, TO_LABEL_FILE))
        listing = self.images.listing
        if listing is None:
            return [TO_LABEL_FILE]
        content = page.encode(label_page.render(self._page(listing, command)))
        files.write_bytes(os.path.join(directory, label_page.FILE_NAME), content)
        tasks = json.dumps(self._tasks(listing), indent=2)
        files.write_text(os.path.join(directory, TASKS_FILE), tasks + "\n")
        return [TO_LABEL_FILE, label_page.FILE_NAME, TASKS_FILE]

    def _best(self) -> list[tuple[str, float] | None]:
        """Returns the predicted class of each image and its probability."""
        if self.predictions is None:
            return [None] * len(self)
        return [(row["class"], row["probability"]) for row in self.predictions.rows(top=1)]

    def _page(self, listing: listing_lib.Listing, command: str) -> label_page.LabelPage:
        jpegs = gallery.thumbnails(self.images, self.split, self.positions, side=_SIDE)
        parts = zip(self.ids, jpegs, self._best(), strict=True)
        shown = [label_page.Image(path, jpeg, *(best or ())) for path, jpeg, best in parts]
        known = [i for i in listing.images if i.class_name is not None]
        moved = any(image.split != "train" for image in known)  # where a labels file says so
        return label_page.LabelPage(
            title=f"{len(self):,} images to label",
            images=shown,
            classes=self.predictions.class_names if self.predictions else listing.class_names,
            earlier=[(i.path, i.class_name or "", i.split if moved else "") for i in known],
            command=command,
        )

    def _tasks(self, listing: listing_lib.Listing) -> list[dict[str, Any]]:
        """Returns tasks as Label Studio imports them, with predictions where there is a classifier.

        Images are those of its local storage, whose document root is the folder's parent.
        """
        folder = os.path.basename(os.path.realpath(listing.root))
        tasks = []
        for row, best in zip(self.rows(), self._best(), strict=True):
            path = f"{folder}/{scan.path_of(row['path'])}"
            place = urllib.parse.quote(path.encode("utf-8", "surrogateescape"))
            data = {"image": f"/data/local-files/?d={place}", "rank": row["rank"]}
            task: dict[str, Any] = {"data": data}
            if best is not None:
                choice = {"from_name": "choice", "to_name": "image", "type": "choices"}
                result = {**choice, "value": {"choices": [best[0]]}, "score": best[1]}
                task["predictions"] = [{"score": best[1], "result": [result]}]
            tasks.append(task)
        return tasks


def select(
    path: inference.Path,
    images: inference.Images,
    *,
    count: int = 40,
    labels: str | os.PathLike = "",
    method: str = "maxherding",
    split: str | None = None,
    endpoint: str = "final_avg_pool",
    seed: int = 0,
    batch_size: int = 256,
) -> ImagesToLabel:
    """Chooses the images whose labels help most.

        chosen = select("runs/photos", "photos", count=40)
        chosen.write("runs/photos/select")  # to_label.csv, label.html, label_studio.json

    Args:
        path: of the network: a model_dir, that of a run of all stages (its pretrained network, or
            its classifier where the method needs one), a checkpoint prefix, an exported SavedModel,
            or the name of a released network.
        images: a folder, a CSV manifest, a list of image files, uint8 arrays, or a source.
        count: images to choose.
        labels: of a folder's images that are labeled already, which are never chosen: what
            --labels takes. Without it no image is.
        method: maxherding, typiclust, kcenter or random; with a classifier, for later rounds,
            margin or uncertainty_herding.
        split: of the images; by default all to train on.
        endpoint: of the network, with the features that are compared.
        seed: of every random choice.
        batch_size: images per forward pass.

    Returns:
        The images, most useful first.

    Raises:
        errors.UserError: the network or the images do not exist or do not fit, fewer images than
            count have no label, or the method is unknown or lacks a classifier.
    """
    network, opened = inference.open_both(
        path,
        images,
        batch_size,
        mode="select",
        labels=os.fspath(labels),
        count=count,
        select_method=method,
        endpoint=endpoint,
        seed=seed,
    )
    if labels and opened.listing is None:
        raise errors.UserError(
            f"labels are those of a folder's images. Received: labels={labels}, images of "
            f"{opened.name}. Give the folder, or leave out labels."
        )
    extract = network_lib.build_extractor(network, opened)
    return build_choice(network, opened, extract, split or network_lib.default_split(opened))


def build_choice(
    network: network_lib.Network,
    images: loaders.Source,
    extract: features_lib.Extractor,
    split: str,
) -> ImagesToLabel:
    """Chooses images of a split, as the configuration of the network says.

    Args:
        network: whose features decide.
        images: the source; those of a folder with a label are labeled already.
        extract: of the network and the source.
        split: of the images.
    """
    config = network.config
    labels = images.labels(split)
    # Other datasets have all labels, which are not asked for.
    is_labeled = (labels >= 0) & (images.listing is not None)
    classes = network.model.hyperparameters["num_classes"]
    methods.check(config.select_method, config.count, int(np.sum(~is_labeled)), classes > 1)
    features = extract(split, config.endpoint)
    predictions = inference.classify(network, extract, split) if classes > 1 else None
    choice = methods.choose(
        features.values,
        config.count,
        method=config.select_method,
        is_labeled=is_labeled,
        probabilities=None if predictions is None else predictions.probabilities,
        seed=config.seed,
    )
    ids = [features.ids[index] for index in choice.indices]
    if predictions is not None:
        chosen = predictions.probabilities[choice.indices]
        predictions = results.Predictions(ids, chosen, predictions.class_names)
    return ImagesToLabel(
        ids, choice.clusters, choice.coverage, choice.indices, images, split, predictions
    )


def write_for_run(
    directory: str,
    images: loaders.Source,
    split: str,
    given: Mapping[str, Any],
    *,
    at_random: bool = False,
) -> str:
    """Writes what to label images with after a pretraining without labels, unless it is there.

    Args:
        directory: of the pretraining, inside that of its run.
        images: those of the run, a folder's.
        split: of them.
        given: the flags that the user gave, by name.
        at_random: whether the images are chosen at random, without the network and the page.

    Returns:
        The next steps.
    """
    run = os.path.dirname(directory)
    labels = os.path.join(run, guide.LABELS_FILE)
    page_path = os.path.join(run, DIRECTORY, label_page.FILE_NAME)
    if not os.path.exists(labels):
        ids = images.ids(split)
        count = min(guide.TO_LABEL, len(ids))
        if at_random:
            order = np.random.RandomState(0).permutation(len(ids))
            ids = [ids[index] for index in order[:count]]
        else:
            network = network_lib.open_network(
                config_lib.Config(mode="select", checkpoint=directory, count=count)
            )
            extract = network_lib.build_extractor(network, images)
            chosen = build_choice(network, images, extract, split)
            chosen.write(os.path.dirname(page_path), guide.continue_with_labels(given, labels))
            ids = list(chosen.ids)
        guide.write_labels_file(labels, ids)
    figure = os.path.join(directory, "plots", "feature_map.png")
    return guide.after_pretraining(given, labels, page_path, figure)
