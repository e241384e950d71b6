"""The teacher of a distillation: fixed networks that predict class probabilities."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf2 import config as config_lib
from tf2 import errors
from tf2 import model as model_lib
from tf2.checkpoints import checkpoint, model_json


@dataclasses.dataclass(frozen=True)
class Network:
    """One network of a teacher.

    Attributes:
        path: where it was loaded from, for messages.
        logits: maps images (n, h, w, c) to logits (n, classes), in inference mode.
        num_classes: number of classes.
        class_names: names in the order of the logits; None if unknown.
        image_size: side length of the images it was trained on; None accepts any size.
        owner: the object that holds the variables of `logits`.
    """

    path: str
    logits: Callable[[tf.Tensor], tf.Tensor]
    num_classes: int
    class_names: tuple[str, ...] | None
    image_size: int | None
    owner: Any = None


class Teacher:
    """One network, or the average of several.

    Attributes:
        num_classes: number of classes.
        class_names: names in the order of the predictions; None if unknown.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        *,
        temperature: float,
        class_names: Sequence[str] | None = None,
        num_classes: int = 0,
    ) -> None:
        """Maps the networks' predictions to one order of classes.

        Args:
            networks: one network or more.
            temperature: divisor of the logits.
            class_names: the student's classes in order; None means the first network's.
            num_classes: number of the student's classes; 0 means the first network's.

        Raises:
            errors.UserError: a network has other classes than the student.
        """
        self.class_names = class_names or networks[0].class_names
        self.num_classes = num_classes or networks[0].num_classes
        self._temperature = temperature
        self._networks = [
            (network, _order(network, self.num_classes, self.class_names)) for network in networks
        ]

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Maps images (n, h, w, c), float in [0, 1], to probabilities (n, classes), float32."""
        predictions = []
        for network, order in self._networks:
            logits = tf.cast(network.logits(_resized(images, network.image_size)), tf.float32)
            if order is not None:
                logits = tf.gather(logits, order, axis=-1)
            predictions.append(tf.nn.softmax(logits / self._temperature))
        return tf.add_n(predictions) / len(predictions)


def _resized(images: tf.Tensor, size: int | None) -> tf.Tensor:
    if size is None or tuple(images.shape[1:3]) == (size, size):
        return images
    return tf.clip_by_value(tf.image.resize(images, [size, size], "bicubic"), 0.0, 1.0)


def _order(
    network: Network, num_classes: int, class_names: Sequence[str] | None
) -> tf.Tensor | None:
    """Returns the network's index of each of the student's classes; None if they are the same."""
    if network.num_classes != num_classes:
        raise errors.UserError(
            "A teacher must know the classes of the data. Received: "
            f"--teacher={network.path} with {network.num_classes} classes, data or first teacher "
            f"with {num_classes}. Give a teacher that was trained on these classes."
        )
    theirs = network.class_names
    if not theirs or not class_names or tuple(theirs) == tuple(class_names):
        return None
    unknown = [name for name in class_names if name not in theirs]
    if unknown:
        raise errors.UserError(
            "A teacher must know the classes of the data. Received: "
            f"--teacher={network.path}, which has no class {unknown[0]!r}. Give a teacher that "
            "was trained on these classes."
        )
    return tf.constant([list(theirs).index(name) for name in class_names], tf.int32)


def build_teacher(
    config: config_lib.Config,
    *,
    channels: int,
    num_classes: int,
    class_names: Sequence[str] | None = None,
) -> Teacher:
    """Loads the teachers of a configuration; call it in the strategy's scope.

    Args:
        config: the configuration.
        channels: number of channels of the student's images.
        num_classes: number of classes of the data; 0 for unlabeled data.
        class_names: class names of the data; None if unknown.

    Raises:
        errors.UserError: a teacher is missing, has no logits, or has other classes or channels.
    """
    networks = [
        load_network(
            os.path.expanduser(path), channels=channels, trust_graph=config.trust_teacher_graph
        )
        for path in config.teachers
    ]
    return Teacher(
        networks,
        temperature=config.distill_temperature,
        class_names=class_names,
        num_classes=num_classes,
    )


def load_network(path: str, *, channels: int = 3, trust_graph: bool = False) -> Network:
    """Loads one fixed network: its variables; a graph, which is a program, only where trusted.

    Args:
        path: a model_dir, checkpoint prefix or export of this program, a released network, or
            another program's SavedModel that maps (images, trainable=False) to a dict with
            logits_sup.
        channels: number of channels of the images.
        trust_graph: run the graph of another program's SavedModel, which may read and write files.

    Raises:
        errors.UserError: see `build_teacher`.
    """
    metadata = model_json.read_model_json(path)
    foreign = metadata is None and tf.io.gfile.exists(os.path.join(path, "saved_model.pb"))
    if foreign and trust_graph:
        return _load_graph(path, channels)
    if metadata is None:  # a released network, whose shapes determine its architecture
        try:
            metadata = checkpoint.read_weights(path)[1]
        except errors.UserError as error:
            raise (_untrusted(path) if foreign else error) from None
    if metadata is None:
        raise errors.UserError(
            "A teacher's architecture is read from the model.json beside it. Received: "
            f"--teacher={path}, without one. Give a model_dir or an export of this program."
        )
    architecture = metadata["architecture"]
    if not architecture["num_classes"]:
        raise _without_logits(path)
    if architecture["channels"] != channels:
        raise errors.UserError(
            "Teacher and student must have images with as many channels. Received: "
            f"--teacher={path} for {architecture['channels']} channel(s), images with {channels}. "
            "Give a teacher that was trained on such images."
        )
    network = model_lib.SimCLR(**{**architecture, "fine_tune_after_block": -1})
    checkpoint.load_weights(network, path, restore_head=True)
    names = metadata.get("class_names") or ()
    numbers = [str(i) for i in range(len(names))]  # the names of unnamed classes
    return Network(
        path=path,
        logits=lambda images: network(images, training=False)["logits_sup"],
        num_classes=architecture["num_classes"],
        class_names=tuple(names) if list(names) != numbers else None,
        image_size=metadata.get("preprocessing", {}).get("image_size"),
        owner=network,
    )


def _load_graph(path: str, channels: int) -> Network:
    """Loads another program's SavedModel and runs its graph."""
    try:
        module = tf.saved_model.load(path)
        logits = lambda images: module(images, trainable=False)["logits_sup"]  # noqa: E731
        # A trial on the replicas; with mirrored variables it cannot run elsewhere.
        strategy = tf.distribute.get_strategy()
        trial = strategy.run(lambda: logits(tf.zeros([1, 32, 32, channels])))
        classes = strategy.experimental_local_results(trial)[0].shape[-1]
    except KeyError:
        raise _without_logits(path) from None
    except (tf.errors.OpError, OSError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise errors.UserError(
            "A teacher must be a SavedModel that maps images to a dict with logits_sup. Received: "
            f"--teacher={path} ({reason}). Give a fine-tuned network."
        ) from error
    return Network(path, logits, int(classes), None, None, owner=module)


def _untrusted(path: str) -> errors.UserError:
    return errors.UserError(
        "Of a SavedModel only the variables are read, and a teacher's must be those of a network "
        f"of this program or of the reference. Received: --teacher={path}, with others. Add "
        "--trust_teacher_graph to run its graph, which can read and write files as you can."
    )


def _without_logits(path: str) -> errors.UserError:
    return errors.UserError(
        "A teacher must have a supervised head. Received: "
        f"--teacher={path}, which has no logits_sup. Fine-tune it first (--train_mode=finetune)."
    )
