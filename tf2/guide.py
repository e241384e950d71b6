"""What to do next: the commands to type, and a labels file to fill in."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tf2 import files

LABELS_FILE = "labels.csv"
TO_LABEL = 100  # images in the list


def write_labels_file(path: str, ids: Sequence[str]) -> None:
    """Writes a labels file with images whose labels are still blank.

    Args:
        path: of the file. One that is there already is left as it is, since labels may have been
            filled in.
        ids: the images' paths, relative to the folder.
    """
    if not os.path.exists(path):
        files.write_csv(path, [{"path": name, "label": ""} for name in ids])


def after_pretraining(given: Mapping[str, Any], labels_path: str, page: str, figure: str) -> str:
    """Returns the next steps of a run whose images have no labels yet.

    Args:
        given: the flags that the user gave, by name.
        labels_path: of `write_labels_file`.
        page: the page to label images on, which is not named unless it exists.
        figure: the path of the map of the features, likewise.
    """
    similar = f"\n{figure} shows which images the network considers similar."
    similar = similar if os.path.exists(figure) else ""
    browser = f"""open {page}
in a browser, label the images there and save the file in the place of {labels_path}; or """
    browser = browser if os.path.exists(page) else ""
    return f"""The network is pretrained. Without labels there is no classifier yet.{similar}
Next: {browser}write the class of some images, 10 or more per class, into the label column of
{labels_path} (other images may be added, labels may stay blank). Continue from this pretraining:

  {continue_with_labels(given, labels_path)}"""


def after_selection(given: Mapping[str, Any], page: str) -> str:
    """Returns the next steps after images were chosen.

    Args:
        given: the flags of the training to continue with, by name.
        page: the page to label images on.
    """
    return f"""Next: open {page}
in a browser, label the images there, save, and train with the file:

  {continue_with_labels(given, LABELS_FILE)}"""


def continue_with_labels(given: Mapping[str, Any], labels_path: str) -> str:
    """Returns the command that trains on labels, from the pretraining where there is one."""
    return command({**given, "mode": "train_then_eval", "labels": labels_path})


def after_all_stages(given: Mapping[str, Any], network: str) -> str:
    """Returns the next steps of a run that has a classifier.

    Args:
        given: the flags that the user gave, by name.
        network: the directory of the stage whose network is the result.
    """
    predict = {"mode": "predict", "checkpoint": network, "data_dir": "OTHER_IMAGES"}
    return f"""Next: predict other images; export the network for use without this program; or add
labels and repeat the command, which keeps the pretraining:

  {command(predict)}
  {command({"mode": "export", "checkpoint": network})}
  {command({**given, "mode": "train_then_eval"})}"""


def command(flags: Mapping[str, Any]) -> str:
    """Returns a command line, with the flags first that a first run needs."""
    first = [name for name in ("mode", "data_dir", "labels") if name in flags]
    names = [*first, *(name for name in flags if name not in first)]
    return shlex.join(["python", "tf2/run.py", *(f"--{name}={flags[name]}" for name in names)])
