"""Other formats of an export, for devices and other runtimes; each file is run on images.

litert         LiteRT (TensorFlow Lite), float32
litert_int8    LiteRT with weights and activations of 8 bits, whose ranges example images give
onnx           ONNX, float32

All are made from a SavedModel's signature `fixed_size`, with its input and its outputs by name, in
float32. LiteRT takes one image at a time.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf2 import console, data, errors, files
from tf2.apply import network as network_lib
from tf2.sources import source as source_lib

SIGNATURE = "fixed_size"
EXAMPLES = 200  # images that the ranges of 8 bits are taken from
_TIMED_IMAGES = 50
_ONNX_OPSET = 17

Run = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # images (n, h, w, c) -> outputs (n, ...)


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format of a network.

    Attributes:
        title: its name in the model card.
        file: the file's name.
        convert: maps a SavedModel and example images (n, h, w, c) to the file's content.
        load: maps the content to a function that runs it.
    """

    title: str
    file: str
    convert: Callable[[Any, np.ndarray], bytes]
    load: Callable[[bytes], Run]


@dataclasses.dataclass
class Measured:
    """What a format gave on the images of a split.

    Attributes:
        labeled: images with a label.
        correct: those of them whose most probable class is the true one.
        difference: the largest from TensorFlow's outputs.
        milliseconds: of each image that was timed, run alone.
    """

    labeled: int = 0
    correct: int = 0
    difference: float = 0.0
    milliseconds: Sequence[float] = ()


def build_writer(
    network: network_lib.Network, images: source_lib.Source, split: str
) -> Callable[[str], str]:
    """Returns the function that `export.export_saved_model` writes a network's formats with.

    Args:
        network: the network, with the configuration that names its formats.
        images: to run the formats on; 8 bits take their ranges from the training images.
        split: of the images, to run the formats on.
    """
    config, train = network.config, network_lib.default_split(images)
    count = images.num_examples(train)
    spread = np.linspace(0, count - 1, min(count, EXAMPLES)).astype(int)
    chosen = data.build_dataset(config, images.subset(train, spread), train, training=False)
    batches = data.build_dataset(config, images, split, training=False)
    classes = images.class_names or map(str, range(images.num_classes))
    if images.num_classes and list(classes) != network.class_names:  # labels of other classes
        batches = batches.map(lambda batch: {name: batch[name] for name in ("image", "mask")})

    def write_formats(directory: str) -> str:
        examples = [np.asarray(b["image"])[np.asarray(b["mask"]) > 0] for b in chosen]
        section = write(
            directory,
            config.other_formats,
            examples=np.concatenate(examples),
            batches=batches,
            described=f"{images.name}/{split}, {images.num_examples(split):,} images",
        )
        print(section.split("\n\n")[1])
        return section

    return write_formats


def write(
    directory: str,
    names: Iterable[str],
    *,
    examples: np.ndarray,
    batches: Iterable[Mapping[str, Any]],
    described: str,
) -> str:
    """Writes files beside a SavedModel, runs each, and returns the table for the model card.

    Args:
        directory: of the SavedModel.
        names: of `FORMATS`.
        examples: training images (n, h, w, c), prepared as for the network.
        batches: of `data.build_eval_dataset`, of the images to compare on.
        described: those images in words.

    Raises:
        errors.UserError: a format is unknown, or its packages cannot be imported.
    """
    chosen = [errors.choose("formats", name, FORMATS) for name in names]
    module = tf.saved_model.load(directory)
    signature = module.signatures[SIGNATURE]
    runs: dict[str, Run] = {"TensorFlow": lambda images: _numpy(signature(images=images))}
    paths = {"TensorFlow": ["saved_model.pb", "variables"]}
    for kind in chosen:
        with console.hidden_stderr():
            content = kind.convert(module, examples)
            runs[kind.title] = kind.load(content)
        files.write_bytes(os.path.join(directory, kind.file), content)
        paths[kind.title] = [kind.file]
    with console.hidden_stderr():
        measured = measure(runs, batches)
    sizes = {t: sum(_size(os.path.join(directory, p)) for p in paths[t]) for t in runs}
    return _section(measured, {t: p[0] for t, p in paths.items()}, sizes, described)


def measure(runs: Mapping[str, Run], batches: Iterable[Mapping[str, Any]]) -> dict[str, Measured]:
    """Runs formats on the same images.

    Args:
        runs: title -> function; the first one is compared with.
        batches: dicts of image (b, h, w, c), mask (b,), 0 for padding, and if known label
            (b, classes), one-hot, zeros where an image has none.
    """
    measured = {title: Measured() for title in runs}
    for number, batch in enumerate(batches):
        real = np.asarray(batch["mask"]) > 0
        images = np.asarray(batch["image"])[real]
        labels = (
            np.asarray(batch["label"])[real] if "label" in batch else np.zeros((len(images), 1))
        )
        known, expected = labels.any(axis=1), None
        for title, run in runs.items():
            outputs, found = run(images), measured[title]
            name = "probabilities" if "probabilities" in outputs else "final_avg_pool"
            values = outputs[name]
            expected = values if expected is None else expected
            found.difference = max(found.difference, float(np.abs(values - expected).max()))
            if name == "probabilities":
                found.labeled += int(known.sum())
                found.correct += int((values.argmax(1) == labels.argmax(1))[known].sum())
            if not number:
                found.milliseconds = _timed(run, images[:_TIMED_IMAGES])
    return measured


def _timed(run: Run, images: np.ndarray) -> list[float]:
    """Returns the milliseconds of each image (n, h, w, c), run alone."""
    times = []
    run(images[:1])
    for image in images:
        start = time.perf_counter()
        run(image[np.newaxis])
        times.append(1000 * (time.perf_counter() - start))
    return times


def _section(
    measured: Mapping[str, Measured],
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    described: str,
) -> str:
    """Returns the model card's section: title -> what was measured, the file and its bytes."""
    rows = [
        (
            *(title, f"`{names[title]}`"),
            f"{100 * found.correct / found.labeled:.2f} %" if found.labeled else "",
            f"{found.difference:.1e}" if number else "",
            f"{sizes[title] / 1e6:.2f} MB",
            f"{statistics.median(found.milliseconds):.2f} ms",
        )
        for number, (title, found) in enumerate(measured.items())
    ]
    columns = ("format", "file", "top-1", "largest difference", "size", "time per image")
    return (
        f"## Formats\n\n{console.markdown_table(columns, rows)}\n\nRun on {described}. The "
        "difference is that from TensorFlow's probabilities, or without a classifier from its "
        "features. Time: "
        f"the median of images run alone, on {os.cpu_count()} CPU core(s). All take `images`, "
        "float32 in [0, 1], prepared as above; LiteRT takes one image at a time."
    )


def _size(path: str) -> int:
    if not tf.io.gfile.isdir(path):
        return tf.io.gfile.stat(path).length
    return sum(_size(os.path.join(path, name)) for name in tf.io.gfile.listdir(path))


def _numpy(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in outputs.items()}


def _of_batch(module: Any, n: int | None) -> Any:
    """Returns the signature of a SavedModel as a function of n images."""
    signature = module.signatures[SIGNATURE]
    spec = signature.structured_input_signature[1]["images"]
    spec = tf.TensorSpec([n, *spec.shape[1:]], spec.dtype, name="images")
    return tf.function(lambda images: signature(images=images), input_signature=[spec])


def _to_litert(module: Any, examples: np.ndarray, int8: bool = False) -> bytes:
    function = _of_batch(module, 1).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in examples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def _to_litert_int8(module: Any, examples: np.ndarray) -> bytes:
    return _to_litert(module, examples, int8=True)


def _load_litert(content: bytes) -> Run:
    from ai_edge_litert import interpreter

    runner = interpreter.Interpreter(
        model_content=content, num_threads=os.cpu_count()
    ).get_signature_runner()

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        each = [_numpy(runner(images=image[np.newaxis])) for image in images]
        return {name: np.concatenate([outputs[name] for outputs in each]) for name in each[0]}

    return run


def _import_onnx() -> tuple[Any, Any]:
    try:
        import onnxruntime
        import tf2onnx
    except (ImportError, AttributeError) as error:
        raise errors.UserError(
            f"ONNX files are written by tf2onnx. Received: formats=onnx, without it ({error}). Run "
            "`pip install -e '.[onnx]'`; beside TensorFlow 2.15 also `pip install 'onnx<1.19'`."
        ) from error
    return tf2onnx, onnxruntime


def _to_onnx(module: Any, examples: np.ndarray) -> bytes:
    tf2onnx, _ = _import_onnx()
    function = _of_batch(module, None)
    model, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=_ONNX_OPSET)
    return model.SerializeToString()


def _load_onnx(content: bytes) -> Run:
    _, onnxruntime = _import_onnx()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


FORMATS = {
    "litert": Format("LiteRT", "model.tflite", _to_litert, _load_litert),
    "litert_int8": Format("LiteRT int8", "model_int8.tflite", _to_litert_int8, _load_litert),
    "onnx": Format("ONNX", "model.onnx", _to_onnx, _load_onnx),
}
