"""What to do next, after all stages: the commands to type, and a list of images to label."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf2 import files

LABELS_FILE = "labels.csv"
_TO_LABEL = 100  # images in the list


def write_images_to_label(model_dir: str, ids: Sequence[str], *, seed: int = 0) -> str:
    """Writes a labels file with some images, drawn at random, whose labels are still blank.

    Args:
        model_dir: where to write it. A file that is there already is left as it is, since labels
            may have been filled in.
        ids: the images' paths, relative to the folder.
        seed: of the choice.

    Returns:
        The path of the file.
    """
    path = os.path.join(model_dir, LABELS_FILE)
    if os.path.exists(path):
        return path
    chosen = np.sort(np.random.RandomState(seed).permutation(len(ids))[:_TO_LABEL])
    files.write_csv(path, [{"path": ids[index], "label": ""} for index in chosen])
    return path


def after_pretraining(given: Mapping[str, Any], labels_path: str, figure: str) -> str:
    """Returns the next steps of a run whose images have no labels yet.

    Args:
        given: the flags that the user gave, by name.
        labels_path: from `write_images_to_label`.
        figure: the path of the map of the features, which is not named unless it exists.
    """
    similar = f"\n{figure} shows which images the network considers similar."
    similar = similar if os.path.exists(figure) else ""
    return f"""The network is pretrained. Without labels there is no classifier yet.{similar}
Next: write the class of some images, 10 or more per class, into the label column of {labels_path}
(other images may be added, labels may stay blank), and continue from this pretraining:

  {_command({**given, "mode": "train_then_eval", "labels": labels_path})}"""


def after_all_stages(given: Mapping[str, Any], network: str) -> str:
    """Returns the next steps of a run that has a classifier.

    Args:
        given: the flags that the user gave, by name.
        network: the directory of the stage whose network is the result.
    """
    predict = {"mode": "predict", "checkpoint": network, "data_dir": "OTHER_IMAGES"}
    return f"""Next: predict other images; export the network for use without this program; or add
labels and repeat the command, which keeps the pretraining:

  {_command(predict)}
  {_command({"mode": "export", "checkpoint": network})}
  {_command({**given, "mode": "train_then_eval"})}"""


def _command(flags: Mapping[str, Any]) -> str:
    """Returns a command line, the flags that one needs first."""
    first = [name for name in ("mode", "data_dir", "labels") if name in flags]
    names = [*first, *(name for name in flags if name not in first)]
    return shlex.join(["python", "tf2/run.py", *(f"--{name}={flags[name]}" for name in names)])
