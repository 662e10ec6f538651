"""A trained detector as a file that needs nothing of this toolbox: images in, judgements out.

The input is `images`, uint8, (batch, height, width, channels), of any number and size. SavedModel and TFLite have a
second signature beside `serving_default`: `float_images` takes float32 in [0, 1], for what has more than 8 bits. ONNX
has one input: floats if the run learnt from images of 16 bits, else bytes. Out come by name, as float32 or bool:

    score            (batch,)  the run's deciding score, `hyperparameters.score`; higher is more anomalous
    anomalous        (batch,)  bool: whether the score reaches the threshold that was chosen on the validation images
    calibrated       (batch,)  that score by (13), in [0, 1], with the minimum and maximum of the validation scores
    map              (batch, size, size)  where the image is odd, >= 0, in the units of `AnomalyDetector.anomaly_map`
    reconstruction   (batch, size, size, channels)  in [0, 1], whatever came in

They are what `anomaly_toolbox.load(run)` says of the same image, alone or in any batch. Resizing to the run's
`image_size` is part of it and follows `datasets/images.py`; two matrices do it, which every format can hold where it
cannot hold `tf.image.resize(antialias=True)`. Only the deciding score and what it needs is exported.

`metadata` says the rest: in ONNX as properties of the model, in a SavedModel as `assets.extra/metadata.json`, and in a
TFLite file, which is a zip archive too, as `metadata.json`.
"""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from anomaly_toolbox import __version__
from anomaly_toolbox.datasets.images import DEEP_WHITE, ROUNDING, WHITE, Aspect, Reading
from anomaly_toolbox.errors import problems_of
from anomaly_toolbox.files import atomic_write, temporary_path, write_json
from anomaly_toolbox.inference.detector import load_detector
from anomaly_toolbox.inference.formats import check
from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.base import AnomalyDetector, ScoreOutput
from anomaly_toolbox.models.knn import KNN
from anomaly_toolbox.runs import FinishedRun, advice_on_damage

ONNX_OPSET = 18
METADATA = "metadata.json"

Functions = dict[str, tf.types.experimental.GenericFunction]


def export(run_folder: Path, file_format: str, output: Path | None = None, overwrite: bool = False) -> Path:
    """Writes the detector of a finished run in another format.

    Args:
        run_folder: the folder of the run.
        file_format: a name in `FORMATS`.
        output: the file, or for `savedmodel` the folder; without it, the name in `FORMATS` in the run's folder.
        overwrite: replace what an earlier export wrote there.

    Returns:
        Where it was written.

    Raises:
        InputError, ToolboxError: see `formats.check`; or the conversion failed.
    """
    run, output = check(run_folder, file_format, output, overwrite)
    write(run, file_format, output)
    return output


def write(run: FinishedRun, file_format: str, output: Path) -> None:
    """Writes the detector of a run to where `formats.check` allows it; ToolboxError if the conversion fails."""
    with advice_on_damage(run.folder):
        detector, reading = load_detector(run.folder), Reading.of_run(run.hparams, run.image_size)
    functions = judging_functions(detector, reading, *run.score_range, run.threshold)
    takes = onnx_input(reading) if file_format == "onnx" else "uint8 or float32"
    known = metadata(run, reading, takes)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_format = {"savedmodel": _write_saved_model, "onnx": _write_onnx, "tflite": _write_tflite}[file_format]
    with problems_of(f"the conversion to {file_format}"):
        write_format(functions, known, output)


def onnx_input(reading: Reading) -> str:
    """The type of what an ONNX model takes: it has one input, and bytes would lose what a run of 16 bits learnt."""
    return "float32" if reading.levels == DEEP_WHITE else "uint8"


def metadata(run: FinishedRun, reading: Reading, takes: str) -> dict[str, str]:
    """What a program may want to know of an exported detector, by name; every value is text."""
    hp = run.hparams["hyperparameters"]
    label = hp["anomalous_label"] if hp["anomalous_label"] is not None else hp["class_label"]
    ranges = {"uint8": "0 to 255", "float32": "0 to 1"}
    low, high = run.score_range
    known = {
        "producer": f"anomaly-toolbox {__version__}",
        "run": run.folder.resolve().name,
        "method": run.method,
        "dataset": run.results["dataset"],
        "label": "" if label is None else label,
        "classes": "normal, anomalous",
        "score": run.results["score"],
        "threshold": repr(run.threshold),
        "score_min": repr(low),
        "score_max": repr(high),
        "input": ", or ".join(f"{name}, black to white: {ranges[name]}" for name in takes.split(" or ")),
        "image_size": reading.size,
        "channels": reading.channels,
        "aspect": reading.aspect,
        "white_level": reading.white_level or "",
    }
    return {name: str(value) for name, value in known.items()}


def judging_functions(
    detector: AnomalyDetector, reading: Reading, low: float, high: float, threshold: float
) -> Functions:
    """What is exported, by the name of the signature: `serving_default` takes bytes, `float_images` floats.

    Args:
        detector: concluded, with all it has to remember.
        reading: how images become what it takes.
        low, high: the minimum and maximum of the validation scores.
        threshold: scores at or above it are called anomalous.
    """
    channels = reading.channels
    graph = lambda spec: tf.function(input_signature=[spec], autograph=False)  # noqa: E731
    score_and_reconstruct = (
        knn_without_scikit_learn(detector) if isinstance(detector, KNN) else detector.score_and_reconstruct
    )

    @graph(tf.TensorSpec((None, *detector.image_shape), tf.float32))
    def judge(x):
        result = score_and_reconstruct(x)
        score = _selected_score(detector, x, result)
        return {
            "score": score,
            "anomalous": score >= threshold,
            "calibrated": tf.clip_by_value((score - low) / max(high - low, np.finfo(np.float32).tiny), 0.0, 1.0),
            "map": detector.map_from_reconstruction(x, result.reconstruction),
            "reconstruction": (result.reconstruction + 1) / 2,
        }

    @graph(tf.TensorSpec((None, None, None, channels), tf.uint8, "images"))
    def judge_bytes(images):
        return judge(2 * resize(tf.cast(images, tf.float32), reading, WHITE, WHITE) - 1)

    @graph(tf.TensorSpec((None, None, None, channels), tf.float32, "images"))
    def judge_floats(images):
        return judge(2 * resize(images, reading, 1, None) - 1)

    return {"serving_default": judge_bytes, "float_images": judge_floats}


def knn_without_scikit_learn(detector: KNN) -> Callable[[tf.Tensor], ScoreOutput]:
    """KNN's `score_and_reconstruct` in TensorFlow's operations.

    Neighbours are found by products, which are fast, and their distances taken from differences, which are exact.
    """

    def score_and_reconstruct(x):
        images = detector.training_images.arrays["images"]
        pixels, flat = layers.flatten(tf.cast(images, tf.float32) / 127.5 - 1), layers.flatten(x)
        closeness = tf.matmul(pixels, flat, transpose_b=True) - tf.reduce_sum(pixels**2, axis=1, keepdims=True) / 2
        _, indices = tf.math.top_k(tf.transpose(closeness), min(detector.hyperparameters.neighbours, images.shape[0]))
        nearest = tf.gather(pixels, indices)
        score = tf.reduce_mean(losses.distance(nearest, flat[:, tf.newaxis]), axis=1)
        return ScoreOutput(score, tf.reshape(tf.reduce_mean(nearest, axis=1), tf.shape(x)), {})

    return score_and_reconstruct


def resize(pixels: tf.Tensor, reading: Reading, white: int, own_levels: int | None) -> tf.Tensor:
    """(batch, height, width, channels) of any height and width -> (batch, size, size, channels) in [0, 1], float32.

    Linear, with antialiasing where an image becomes smaller, and rounded to whole levels, as `Reading` does it.

    Args:
        pixels: from 0 to `white`.
        reading: of the run.
        white: what is white.
        own_levels: how many levels the pixels themselves have, if they are whole numbers.
    """
    size, levels = reading.size, own_levels if reading.levels == "own" else reading.levels
    height, width = tf.unstack(tf.cast(tf.shape(pixels)[1:3], tf.float32))
    channels = pixels.shape[3]
    rows = tf.matmul(_weights(width, height, size, reading.aspect), pixels)
    rows = tf.reshape(rows, (-1, tf.shape(pixels)[1], size * channels))
    square = tf.matmul(_weights(height, width, size, reading.aspect), rows)
    square = tf.reshape(square, (-1, size, size, channels))
    return square / white if levels is None else tf.floor(square * (levels / white) + ROUNDING) / levels


def _weights(n: tf.Tensor, across: tf.Tensor, size: int, aspect: Aspect) -> tf.Tensor:
    """The matrix (size, n) that resizes a line of `n` pixels, in an image that has `across` the other way."""
    match aspect:
        case "pad":
            covered = tf.maximum(tf.round(n * size / tf.maximum(n, across)), 1.0)
            step = n / covered
            beginning = -tf.round((size - covered) / 2) * step
        case "crop":
            step = tf.minimum(n, across) / size
            beginning = (n - tf.minimum(n, across)) / 2
        case "stretch":
            step, beginning = n / size, 0.0
    centres = (beginning + (tf.range(size, dtype=tf.float32) + 0.5) * step)[:, tf.newaxis]
    triangles = tf.nn.relu(1 - tf.abs(tf.range(n) + 0.5 - centres) / tf.maximum(step, 1.0))
    inside = tf.cast((centres > 0) & (centres < n), tf.float32)
    return inside * tf.math.divide_no_nan(triangles, tf.reduce_sum(triangles, axis=1, keepdims=True))


def _selected_score(detector: AnomalyDetector, x: tf.Tensor, result: ScoreOutput) -> tf.Tensor:
    """(batch,): that of `AnomalyDetector.scores` which `hyperparameters.score` names, and no other."""
    name = detector.hyperparameters.score
    match name:
        case "paper":
            return result.score
        case "residual":
            return losses.l1_per_image(x, result.reconstruction)
        case _:
            return detector.memory_banks[name](result.vectors[name])


def _write_saved_model(functions: Functions, known: dict[str, str], folder: Path) -> None:
    temporary = temporary_path(folder)
    try:
        _save(functions, temporary)
        (temporary / "assets.extra").mkdir()
        write_json(temporary / "assets.extra" / METADATA, known)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_onnx(functions: Functions, known: dict[str, str], path: Path) -> None:
    import tf2onnx

    function = functions["float_images" if known["input"].startswith("float32") else "serving_default"]
    model, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=ONNX_OPSET)
    for name, value in known.items():
        model.metadata_props.add(key=name, value=value)
    with atomic_write(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def _write_tflite(functions: Functions, known: dict[str, str], path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _save(functions, Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
        model = converter.convert()
    with atomic_write(path) as temporary:
        temporary.write_bytes(model)
        with zipfile.ZipFile(temporary, "a") as archive:  # as TensorFlow Lite's own tools add files to a model
            archive.writestr(METADATA, json.dumps(known, indent=2))


def _save(functions: Functions, folder: Path) -> None:
    """Saves the functions with the variables that they use; the detector itself has more, for its training."""
    concrete = {name: function.get_concrete_function() for name, function in functions.items()}
    module = tf.Module()
    module.used = [variable for function in concrete.values() for variable in function.variables]
    tf.saved_model.save(module, str(folder), concrete)
