"""The teacher of a distillation: fixed networks that answer with class probabilities."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence

import tensorflow as tf

from tf2 import errors
from tf2 import model as model_lib
from tf2.checkpoints import checkpoint, model_json


@dataclasses.dataclass(frozen=True)
class Network:
    """One network that a teacher asks.

    Attributes:
        path: where it was read, for messages.
        logits: maps images (n, h, w, c) to logits (n, classes), by inference.
        num_classes: of the logits.
        class_names: None where they aren't known.
        image_size: side of the images that it was made for; None takes them as they come.
        owner: what holds the variables that `logits` uses.
    """

    path: str
    logits: Callable
    num_classes: int
    class_names: tuple[str, ...] | None
    image_size: int | None
    owner: object = None


class Teacher:
    """One network, or the average of several.

    Attributes:
        num_classes: of the answers.
        class_names: in the order of the answers; None where they aren't known.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        *,
        temperature: float,
        class_names: Sequence[str] | None = None,
        num_classes: int = 0,
    ):
        """Puts the networks' answers into one order of classes.

        Args:
            networks: at least one.
            temperature: divides their logits.
            class_names: the order of the student's classes; None takes the first network's.
            num_classes: of the student's data; 0 takes the first network's.

        Raises:
            errors.UserError: a network's classes aren't the student's.
        """
        self.class_names = class_names or networks[0].class_names
        self.num_classes = num_classes or networks[0].num_classes
        self._temperature = temperature
        self._networks = [
            (network, _order(network, self.num_classes, self.class_names)) for network in networks
        ]

    def __call__(self, images):
        """Maps images (n, h, w, c), float in [0, 1], to probabilities (n, classes), float32."""
        answers = []
        for network, order in self._networks:
            logits = tf.cast(network.logits(_resized(images, network.image_size)), tf.float32)
            if order is not None:
                logits = tf.gather(logits, order, axis=-1)
            answers.append(tf.nn.softmax(logits / self._temperature))
        return tf.add_n(answers) / len(answers)


def _resized(images, size: int | None):
    if size is None or tuple(images.shape[1:3]) == (size, size):
        return images
    return tf.clip_by_value(tf.image.resize(images, [size, size], "bicubic"), 0.0, 1.0)


def _order(network: Network, num_classes: int, class_names: Sequence[str] | None):
    """Returns where each of the student's classes is among the network's; None for the same."""
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


def build_teacher(config, *, channels: int, num_classes: int, class_names=None) -> Teacher:
    """Loads the teachers of a configuration; call it in the strategy's scope.

    Args:
        config: a `config.Config`.
        channels: of the images as the student sees them.
        num_classes: of the data; 0 where it has no labels.
        class_names: of the data; None where they aren't known.

    Raises:
        errors.UserError: one is missing, gives no logits, or has other classes or channels.
    """
    networks = [load_network(os.path.expanduser(p), channels=channels) for p in config.teachers]
    return Teacher(
        networks,
        temperature=config.distill_temperature,
        class_names=class_names,
        num_classes=num_classes,
    )


def load_network(path: str, *, channels: int = 3) -> Network:
    """Loads one fixed network.

    Args:
        path: a model_dir, checkpoint prefix or export of this program, or another program's
            SavedModel that maps (images, trainable=False) to a dict with logits_sup.
        channels: of the images that it will be asked about.

    Raises:
        errors.UserError: see `build_teacher`.
    """
    about = model_json.read_model_json(path)
    if about is None and tf.io.gfile.exists(os.path.join(path, "saved_model.pb")):
        return _load_graph(path, channels)
    if about is None:
        about = checkpoint.read_weights(path)[1]  # a published network tells it by its shapes
    if about is None:
        raise errors.UserError(
            "A teacher's architecture is read from the model.json beside it. Received: "
            f"--teacher={path}, without one. Give a model_dir or an export of this program."
        )
    architecture = about["architecture"]
    if not architecture["num_classes"]:
        raise _without_logits(path)
    if architecture["channels"] != channels:
        raise errors.UserError(
            "Teacher and student must see images of the same kind. Received: "
            f"--teacher={path} for {architecture['channels']} channel(s), images with {channels}. "
            "Give a teacher that was trained on such images."
        )
    network = model_lib.SimCLR(**{**architecture, "fine_tune_after_block": -1})
    checkpoint.load_weights(network, path, restore_head=True)
    names = about.get("class_names") or ()
    numbers = [str(i) for i in range(len(names))]  # what classes without names are called
    return Network(
        path=path,
        logits=lambda images: network(images, training=False)["logits_sup"],
        num_classes=architecture["num_classes"],
        class_names=tuple(names) if list(names) != numbers else None,
        image_size=about.get("preprocessing", {}).get("image_size"),
        owner=network,
    )


def _load_graph(path: str, channels: int) -> Network:
    """Loads another program's SavedModel, whose graph is run."""
    try:
        module = tf.saved_model.load(path)
        logits = lambda images: module(images, trainable=False)["logits_sup"]  # noqa: E731
        # Tried on the replicas: with spread variables it runs nowhere else.
        strategy = tf.distribute.get_strategy()
        found = strategy.run(lambda: logits(tf.zeros([1, 32, 32, channels])))
        classes = strategy.experimental_local_results(found)[0].shape[-1]
    except KeyError:
        raise _without_logits(path) from None
    except (tf.errors.OpError, OSError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise errors.UserError(
            "A teacher must be a SavedModel that maps images to a dict with logits_sup. Received: "
            f"--teacher={path} ({reason}). Give a fine-tuned network."
        ) from error
    return Network(path, logits, int(classes), None, None, owner=module)


def _without_logits(path: str) -> errors.UserError:
    return errors.UserError(
        "A teacher must have a supervised head. Received: "
        f"--teacher={path}, which gives no logits_sup. Fine-tune it first (--train_mode=finetune)."
    )
