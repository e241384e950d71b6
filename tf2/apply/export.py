"""SavedModels: a network that TensorFlow alone can load, run, train further and serve.

    module = tf.saved_model.load(directory)
    endpoints = module(images, trainable=False)         # float32 in [0, 1]
    module.signatures["serving_default"](images=...)    # uint8 of any size
    module.signatures["fixed_size"](images=...)         # as the first, for one image size
    hub.KerasLayer(directory, trainable=True, output_key="final_avg_pool")

An export has no Keras object and no augmentation. Its variables are in a dictionary keyed by our
names, which the file format stores: `checkpoint.read_weights` reads them back.

In every output of a signature the first dimension is that of the images, as the row format of
TensorFlow Serving, {"instances": [...]}, requires.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from tf2 import calibration, data_util, files, variables
from tf2 import model as model_lib
from tf2.checkpoints import model_json as model_json_lib
from tf2.visuals import model_card


class ExportedModel(tf.Module):
    """The exported module: a function of images over named variables.

    Attributes:
        named_variables: all weights by our names.
        trainable_variables_list: the trainable ones, as in the reference's exports.
        variables, trainable_variables, regularization_losses: what TensorFlow's interface of
            reusable SavedModels asks for.
    """

    # In a tf.Module these are properties, which a SavedModel would not store.
    variables: Sequence[tf.Variable] = ()
    trainable_variables: Sequence[tf.Variable] = ()

    def __init__(
        self,
        model: model_lib.SimCLR,
        preprocessing: Mapping,
        class_names: Sequence[str] | None = None,
        temperature: float = 1.0,
    ):
        """Wraps a network that was built outside of any strategy.

        Args:
            model: the network. Only its variables become part of the module.
            preprocessing: see `model_json.describe`.
            class_names: of the supervised head; None numbers the classes.
            temperature: divisor of the logits in the probabilities of serving.
        """
        super().__init__()
        named = variables.named_variables(model)
        self.named_variables = dict(named)
        frozen = model.hyperparameters["fine_tune_after_block"]
        self.trainable_variables_list = list(variables.trainable_variables(named, frozen).values())
        self.variables = list(self.named_variables.values())
        self.trainable_variables = list(self.trainable_variables_list)
        self.regularization_losses: list = []
        # All functions share its graphs. Behind a lambda it is not tracked, nor is the Keras model.
        forward = tf.function(lambda images, training: model(images, training=training))
        self._forward = lambda images, training: forward(images, training)
        self._preprocessing = {**preprocessing}
        self._temperature = temperature
        classes = model.hyperparameters["num_classes"]
        self._class_names = tuple(class_names or map(str, range(classes)))

    @tf.function
    def __call__(
        self, images: tf.Tensor, trainable: bool = False, training: bool | None = None
    ) -> dict[str, tf.Tensor]:
        """Maps images (n, h, w, channels), float32 in [0, 1], to the dict of endpoints.

        Args:
            images: of any size.
            trainable: use the batch statistics, and update the moving ones; a Python bool.
            training: the name of the same in reusable SavedModels; None leaves it to `trainable`.
        """
        return self._forward(images, trainable if training is None else training)

    @tf.function(input_signature=[])
    def class_names(self) -> tf.Tensor:
        """Returns the names by class, strings (classes,)."""
        return tf.constant(self._class_names, tf.string)

    @tf.function
    def serve(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Maps images (n, h, w, channels), uint8 of any size, to the outputs of serving.

        These are probabilities and logits (n, classes) and predicted_class (n,), a name, of a
        classifier; else the features.
        """
        views = tf.map_fn(
            self._preprocess, images, fn_output_signature=tf.TensorSpec(self._view_shape())
        )
        outputs = self._outputs(views)
        if "logits" in outputs:
            outputs["predicted_class"] = tf.gather(
                tf.constant(self._class_names), tf.argmax(outputs["logits"], axis=-1)
            )
        return outputs

    @tf.function
    def serve_fixed_size(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Maps images that are prepared as for `__call__` to the numbers among those outputs.

        It has neither strings nor the resizing, which devices cannot run.
        """
        return self._outputs(images)

    def _outputs(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        endpoints = self._forward(images, False)
        if "logits_sup" in endpoints:
            logits = tf.cast(endpoints["logits_sup"], tf.float32)
            return {"probabilities": tf.nn.softmax(logits / self._temperature), "logits": logits}
        names = ("final_avg_pool", "proj_head_output")
        return {name: tf.cast(endpoints[name], tf.float32) for name in names if name in endpoints}

    def _preprocess(self, image: tf.Tensor) -> tf.Tensor:
        size = self._preprocessing["image_size"]
        return data_util.preprocess_for_eval(
            image,
            size,
            size,
            crop=bool(self._preprocessing.get("center_crop")),
            resize=self._preprocessing.get("resize", "half_pixel"),
            sobel=self._preprocessing.get("sobel", False),
        )

    def _view_shape(self) -> list[int]:
        size, channels = self._preprocessing["image_size"], self._preprocessing["channels"]
        sobel = self._preprocessing.get("sobel", False)
        return [size, size, data_util.output_channels(channels, sobel)]


def export_saved_model(
    model: model_lib.SimCLR,
    directory: str | os.PathLike,
    *,
    preprocessing: Mapping,
    class_names: Sequence[str] | None = None,
    model_json: Mapping,
    settings: Mapping | None = None,
    results: Mapping | None = None,
    keep: int = 0,
    write: bool = True,
    write_formats: Callable[[str], str] | None = None,
) -> str:
    """Writes a SavedModel with its model.json and model card, atomically.

    With several workers each must call this, since reading the weights needs all of them. Call it
    outside of `strategy.scope()`: the export must not depend on how training was distributed.

    Args:
        model: the network, of pretraining or of fine-tuning.
        directory: of the SavedModel; an existing one is replaced.
        preprocessing: what serving does to an image, as model.json has it: image_size, range,
            center_crop, resize, channels.
        class_names: names by class, an output of serving.
        model_json: the content of the export's model.json.
        settings: the run's flags, for the model card.
        results: of an evaluation of these weights, for the model card.
        keep: how many exports to keep in the parent directory, including this one; 0 keeps all.
        write: whether this process is the one that writes files.
        write_formats: is called with the directory of the SavedModel before that is in its place;
            writes further files into it and returns a section of the model card.

    Returns:
        The directory.

    Raises:
        errors.UserError: the disk is full, or the directory is not writable.
    """
    assert not tf.distribute.has_strategy(), "export_saved_model was called in a strategy's scope"
    values = {name: v.numpy() for name, v in variables.named_variables(model).items()}
    directory = os.path.expanduser(os.fspath(directory)).rstrip("/")
    if not write:
        return directory
    measured = calibration.from_json(model_json.get("calibration"))
    temperature = measured.temperature if measured else 1.0
    module = ExportedModel(_copy(model, values), preprocessing, class_names, temperature)
    parent, name = os.path.split(directory)
    aside = files.temporary(directory)
    with files.writing(directory, "the export"):
        try:
            files.remove_leftovers(parent)
            _save(module, aside, model.hyperparameters["channels"], preprocessing)
            model_json_lib.write_model_json(aside, model_json)
            card = model_card.text(
                model,
                model_json,
                preprocessing=preprocessing,
                class_names=class_names,
                settings=settings,
                results=results,
                formats=write_formats(aside) if write_formats else "",
            )
            files.write_text(os.path.join(aside, model_card.FILE_NAME), card)
            files.replace_directory(aside, directory)
        finally:
            files.remove(aside)
    if keep > 0:
        _prune(parent, name, keep)
    return directory


def _copy(model: model_lib.SimCLR, values: Mapping) -> model_lib.SimCLR:
    """Returns the same network on plain variables, independent of any strategy."""
    copy = type(model)(**model.hyperparameters)
    for name, variable in variables.named_variables(copy).items():
        variable.assign(values[name])
    return copy


def _save(module: ExportedModel, directory: str, channels: int, preprocessing: Mapping) -> None:
    images = tf.TensorSpec([None, None, None, channels], tf.float32, name="images")
    for value in (True, False):
        module.__call__.get_concrete_function(images, trainable=value)
        module.__call__.get_concrete_function(images, training=value)
    module.class_names.get_concrete_function()
    size, decoded_channels = preprocessing["image_size"], preprocessing["channels"]
    served = tf.TensorSpec([None, None, None, decoded_channels], tf.uint8, name="images")
    fixed = tf.TensorSpec([None, size, size, channels], tf.float32, name="images")
    tf.saved_model.save(
        module,
        directory,
        signatures={
            "serving_default": module.serve.get_concrete_function(served),
            "fixed_size": module.serve_fixed_size.get_concrete_function(fixed),
        },
        # With its custom gradients a loaded network can be trained further.
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
    )


def _prune(parent: str, newest: str, keep: int) -> None:
    """Removes all but `keep` numbered exports of a directory: the newest and the highest ones."""
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(parent)]
    others = sorted((n for n in names if n.isdigit() and n != newest), key=int, reverse=True)
    for name in others[keep - 1 :]:
        files.remove(os.path.join(parent, name))
