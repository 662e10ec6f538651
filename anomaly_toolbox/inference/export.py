"""Exports: a trained detector in one file or folder that programs without this toolbox can run.

The input is `images`, uint8, (batch, height, width, channels), any number of images of any size. SavedModel and TFLite
exports have a second signature besides `serving_default`: `float_images` takes float32 in [0, 1], for images with more
than 8 bits. An ONNX export has a single input: floats if the run was trained on 16-bit images, else bytes. The outputs
are:

    score            (batch,)  float32, the selected score, `hyperparameters.score`; higher is more anomalous
    anomalous        (batch,)  bool, whether the score is at or above the threshold
    calibrated       (batch,)  float32 in [0, 1], the calibrated score by (13)
    map              (batch, size, size)  float32, >= 0, the anomaly map, see `AnomalyDetector.anomaly_map`
    reconstruction   (batch, size, size, channels)  float32 in [0, 1], for uint8 images too
    p_value          (batch,)  float32, how often a normal image has a score at least as high, see `false_alarms`; a run
                     of an earlier version, which has no `validation_scores.csv`, is exported without this output

They equal the results of `anomaly_toolbox.load(run)` for the same image, alone or in any batch, up to the rounding of
floats. A p-value counts normal validation images, so it may count those with almost the same score differently.
Resizing to the run's `image_size` is part of the export. Of the scores, only the selected one is exported.

Other facts are in the metadata: in ONNX as properties of the model, in a SavedModel as `assets.extra/metadata.json`,
and in a TFLite file, which is also a zip archive, as `metadata.json`.
"""

import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import tensorflow as tf

from anomaly_toolbox import __version__
from anomaly_toolbox.datasets.decoding import DEEP_WHITE
from anomaly_toolbox.datasets.images import Reading
from anomaly_toolbox.errors import reraise_in_one_line
from anomaly_toolbox.files import atomic_write, temporary_path, write_json
from anomaly_toolbox.inference.formats import check
from anomaly_toolbox.inference.members import load_members
from anomaly_toolbox.inference.serving import Functions, serving_functions
from anomaly_toolbox.runs import FinishedRun, advice_on_damage

ONNX_OPSET = 18
METADATA_FILE = "metadata.json"
INPUT_RANGES = {"uint8": "0 to 255", "float32": "0 to 1"}


def export(run_folder: Path, file_format: str, output: Path | None = None, overwrite: bool = False) -> Path:
    """Exports the detector of a finished run.

    Args:
        run_folder: the run folder.
        file_format: a name in `formats.FORMATS`: savedmodel, onnx or tflite.
        output: the file to write, or for `savedmodel` the folder; by default, it is in the run folder.
        overwrite: replace an earlier export.

    Returns:
        The path of the export.

    Raises:
        InputError: see `formats.check`.
        ToolboxError: the run is damaged, the GPU does not work, or the conversion fails.
    """
    run, output = check(run_folder, file_format, output, overwrite)
    write(run, file_format, output)
    return output


def write(run: FinishedRun, file_format: str, output: Path) -> None:
    """Writes an export whose arguments `formats.check` has checked.

    Args:
        run: the finished run.
        file_format: a name in `formats.FORMATS`.
        output: the file to write, or for `savedmodel` the folder; an earlier export is replaced.

    Raises:
        ToolboxError: the run is damaged, the GPU does not work, or the conversion fails.
    """
    with advice_on_damage(run.folder):
        members = load_members(run)
        reading = Reading.of_run(run.hparams, run.image_size)
        normal_scores = run.normal_scores()
    functions = serving_functions(members, run.score_range, run.threshold, normal_scores)
    input_types = ["uint8", "float32"]
    if file_format == "onnx":
        input_types = [onnx_input_type(reading)]
    run_metadata = metadata(run, reading, input_types)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_format = {"savedmodel": _write_saved_model, "onnx": _write_onnx, "tflite": _write_tflite}[file_format]
    with reraise_in_one_line(f"the conversion to {file_format}"):
        write_format(functions, run_metadata, output)


def onnx_input_type(reading: Reading) -> str:
    """The type of the single input of an ONNX export; bytes would lose precision where the run has 16-bit images."""
    return "float32" if reading.levels == DEEP_WHITE else "uint8"


def metadata(run: FinishedRun, reading: Reading, input_types: list[str]) -> dict[str, str]:
    """The metadata of an export by name; every value is text."""
    hp = run.hparams["hyperparameters"]
    label = hp["anomalous_label"] if hp["anomalous_label"] is not None else hp["class_label"]
    normal_label = hp.get("normal_label")
    low, high = run.score_range
    values = {
        "producer": f"anomaly-toolbox {__version__}",
        "run": run.folder.resolve().name,
        "method": run.method,
        "dataset": run.results["dataset"],
        "label": "" if label is None else label,
        "normal_label": "" if normal_label is None else normal_label,
        "classes": "normal, anomalous",
        "score": run.results["score"],
        "threshold": repr(run.threshold),
        "score_min": repr(low),
        "score_max": repr(high),
        "input": ", or ".join(f"{name}, black to white: {INPUT_RANGES[name]}" for name in input_types),
        "image_size": reading.size,
        "channels": reading.channels,
        "aspect": reading.aspect,
        "white_level": reading.white_level or "",
    }
    return {name: str(value) for name, value in values.items()}


def _write_saved_model(functions: Functions, run_metadata: dict[str, str], folder: Path) -> None:
    temporary = temporary_path(folder)
    try:
        _save(functions, temporary)
        (temporary / "assets.extra").mkdir()
        write_json(temporary / "assets.extra" / METADATA_FILE, run_metadata)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_onnx(functions: Functions, run_metadata: dict[str, str], path: Path) -> None:
    import tf2onnx

    function = functions["float_images" if run_metadata["input"].startswith("float32") else "serving_default"]
    model, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=ONNX_OPSET)
    for name, value in run_metadata.items():
        model.metadata_props.add(key=name, value=value)
    with atomic_write(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def _write_tflite(functions: Functions, run_metadata: dict[str, str], path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _save(functions, Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
        model = converter.convert()
    with atomic_write(path) as temporary:
        temporary.write_bytes(model)
        with zipfile.ZipFile(temporary, "a") as archive:  # TensorFlow Lite's tools add files in the same way
            archive.writestr(METADATA_FILE, json.dumps(run_metadata, indent=2))


def _save(functions: Functions, folder: Path) -> None:
    """Saves the functions as a SavedModel with the variables that they use, but without those of the training."""
    concrete_functions = {name: function.get_concrete_function() for name, function in functions.items()}
    variables = []
    for function in concrete_functions.values():
        variables += function.variables
    module = tf.Module()
    module.used = variables
    tf.saved_model.save(module, str(folder), concrete_functions)
