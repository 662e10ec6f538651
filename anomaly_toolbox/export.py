"""A trained detector as a file that needs nothing of this toolbox: images in, judgements out.

The input is `images`, uint8, (batch, height, width, channels), of any number and size. SavedModel and TFLite have a
second signature beside `serving_default`: `float_images` takes float32 in [0, 1], for what has more than 8 bits. Out
come, as float32 and by name:

    score            (batch,)  the run's deciding score, `hyperparameters.score`; higher is more anomalous
    calibrated       (batch,)  that score by (13), in [0, 1], with the minimum and maximum of the validation scores
    map              (batch, size, size)  where the image is odd, >= 0, in the units of `AnomalyDetector.anomaly_map`
    reconstruction   (batch, size, size, channels)  in [0, 1], whatever came in

They are what `anomaly_toolbox.load(run)` says of the same image, alone or in any batch. Resizing to the run's
`image_size` is part of it and follows `datasets/images.py`; two matrices do it, which every format can hold where it
cannot hold `tf.image.resize(antialias=True)`. Only the deciding score and what it needs is exported.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from anomaly_toolbox import layers, losses
from anomaly_toolbox.datasets.images import ROUNDING, Aspect
from anomaly_toolbox.errors import InputError, ToolboxError, did_you_mean, problems_of
from anomaly_toolbox.experiment import load_detector
from anomaly_toolbox.files import read_json, whole
from anomaly_toolbox.models.base import AnomalyDetector, Rating
from anomaly_toolbox.models.knn import KNN
from anomaly_toolbox.runs import Run

#: Formats, and what the output is called in the run's folder.
FORMATS = {"savedmodel": "saved_model", "onnx": "model.onnx", "tflite": "model.tflite"}
#: What a format cannot hold: AnoGAN's search follows gradients, and only TensorFlow has operations for them.
IMPOSSIBLE = {("AnoGAN", "onnx"), ("AnoGAN", "tflite")}
ONNX_OPSET = 18

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
        InputError: there is no finished run, no such format, the format cannot hold the method, `output` is something
            else than an export, or a package is missing.
        ToolboxError: the run is damaged, `output` exists and may not be overwritten, or the conversion failed.
    """
    if file_format not in FORMATS:
        raise InputError(f"no format is called {file_format!r}: {did_you_mean(file_format, FORMATS)}")
    run = Run(run_folder, {})
    results = run.finished_results()
    if results is None:
        raise InputError(f"{run_folder}: is no finished run's folder: there is no {run.results_path.name} in it")
    if (results["experiment"], file_format) in IMPOSSIBLE:
        raise InputError(
            f"{results['experiment']} cannot be exported to {file_format}, which has no operations for the gradients "
            "that its search follows; savedmodel can hold it"
        )
    output = output or run_folder / FORMATS[file_format]
    _check_output(output, file_format == "savedmodel", overwrite)
    try:
        aspect = read_json(run.hparams_path).get("aspect") or "stretch"
        detector, validation = load_detector(run_folder), results["validation"]
        functions = judging_functions(detector, validation["score_min"], validation["score_max"], aspect)
    except (KeyError, TypeError, ValueError, OSError) as problem:
        raise ToolboxError(f"{run_folder}: JSON files are damaged, or of another version ({problem!r})") from problem
    output.parent.mkdir(parents=True, exist_ok=True)
    write = {"savedmodel": _write_saved_model, "onnx": _write_onnx, "tflite": _write_tflite}[file_format]
    with problems_of(f"the conversion to {file_format}"):
        write(functions, output)
    return output


def judging_functions(detector: AnomalyDetector, low: float, high: float, aspect: Aspect) -> Functions:
    """What is exported, by the name of the signature: `serving_default` takes bytes, `float_images` floats.

    Args:
        detector: concluded, with all it has to remember.
        low, high: the minimum and maximum of the validation scores.
        aspect: what becomes of images that are no squares.
    """
    size, _, channels = detector.image_shape
    graph = lambda spec: tf.function(input_signature=[spec], autograph=False)  # noqa: E731
    rate = nearest_images(detector) if isinstance(detector, KNN) else detector.rate

    @graph(tf.TensorSpec((None, *detector.image_shape), tf.float32))
    def judge(x):
        rating = rate(x)
        score = _deciding_score(detector, x, rating)
        return {
            "score": score,
            "calibrated": tf.clip_by_value((score - low) / max(high - low, np.finfo(np.float32).tiny), 0.0, 1.0),
            "map": detector.locate(x, rating.reconstruction),
            "reconstruction": (rating.reconstruction + 1) / 2,
        }

    @graph(tf.TensorSpec((None, None, None, channels), tf.uint8, "images"))
    def judge_bytes(images):
        return judge(resize(tf.cast(images, tf.float32), size, aspect, round_levels=True) / 127.5 - 1)

    @graph(tf.TensorSpec((None, None, None, channels), tf.float32, "images"))
    def judge_floats(images):
        return judge(2 * resize(images, size, aspect) - 1)

    return {"serving_default": judge_bytes, "float_images": judge_floats}


def nearest_images(detector: KNN) -> Callable[[tf.Tensor], Rating]:
    """KNN's `rate` in TensorFlow's operations.

    Neighbours are found by products, which are fast, and their distances taken from differences, which are exact.
    """

    def rate(x):
        images = detector.training_images.arrays["images"]
        pixels, flat = layers.flatten(tf.cast(images, tf.float32) / 127.5 - 1), layers.flatten(x)
        closeness = tf.matmul(pixels, flat, transpose_b=True) - tf.reduce_sum(pixels**2, axis=1, keepdims=True) / 2
        _, indices = tf.math.top_k(tf.transpose(closeness), min(detector.hyperparameters.neighbours, images.shape[0]))
        nearest = tf.gather(pixels, indices)
        score = tf.reduce_mean(losses.distance(nearest, flat[:, tf.newaxis]), axis=1)
        return Rating(score, tf.reshape(tf.reduce_mean(nearest, axis=1), tf.shape(x)), {})

    return rate


def resize(pixels: tf.Tensor, size: int, aspect: Aspect, round_levels: bool = False) -> tf.Tensor:
    """(batch, height, width, channels) of any height and width -> (batch, size, size, channels), float32.

    Linear, with antialiasing where an image becomes smaller, as `datasets/images.py` does it; with `round_levels`, to
    whole numbers, as it does with those of 8 bits.
    """
    height, width = tf.unstack(tf.cast(tf.shape(pixels)[1:3], tf.float32))
    channels = pixels.shape[3]
    rows = tf.matmul(_weights(width, height, size, aspect), pixels)
    rows = tf.reshape(rows, (-1, tf.shape(pixels)[1], size * channels))
    square = tf.reshape(tf.matmul(_weights(height, width, size, aspect), rows), (-1, size, size, channels))
    return tf.floor(square + ROUNDING) if round_levels else square


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


def _deciding_score(detector: AnomalyDetector, x: tf.Tensor, rating: Rating) -> tf.Tensor:
    """(batch,): that of `AnomalyDetector.scores` which `hyperparameters.score` names, and no other."""
    name = detector.hyperparameters.score
    match name:
        case "paper":
            return rating.score
        case "residual":
            return losses.l1_per_image(x, rating.reconstruction)
        case _:
            return detector.memories[name](rating.vectors[name])


def _check_output(output: Path, is_folder: bool, overwrite: bool) -> None:
    if not output.exists():
        return
    if not overwrite:
        raise InputError(f"--output {output}: is there already; --overwrite replaces it")
    if not (output / "saved_model.pb" if is_folder else output).is_file():
        raise InputError(f"{output} is nothing that an export in this format replaces; choose another --output")


def _write_saved_model(functions: Functions, folder: Path) -> None:
    beside = folder.with_name(f".{os.getpid()}.{folder.name}")
    try:
        _save(functions, beside)
        if folder.exists():
            shutil.rmtree(folder)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_onnx(functions: Functions, path: Path) -> None:
    try:
        import tf2onnx
    except ImportError:
        raise InputError("--format onnx needs tf2onnx: pip install 'anomaly-toolbox[export]'") from None
    model, _ = tf2onnx.convert.from_function(
        functions["serving_default"], functions["serving_default"].input_signature, opset=ONNX_OPSET
    )
    with whole(path) as beside:
        beside.write_bytes(model.SerializeToString())


def _write_tflite(functions: Functions, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _save(functions, Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
        model = converter.convert()
    with whole(path) as beside:
        beside.write_bytes(model)


def _save(functions: Functions, folder: Path) -> None:
    """Saves the functions with the variables that they use; the detector itself has more, for its training."""
    concrete = {name: function.get_concrete_function() for name, function in functions.items()}
    module = tf.Module()
    module.used = [variable for function in concrete.values() for variable in function.variables]
    tf.saved_model.save(module, str(folder), concrete)
