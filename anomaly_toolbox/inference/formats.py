"""The formats of exports, and the checks before an export; this file does not import TensorFlow."""

import importlib.util
from pathlib import Path

from anomaly_toolbox.datasets.decoding import DEEP_WHITE
from anomaly_toolbox.errors import InputError, did_you_mean
from anomaly_toolbox.files import check_output
from anomaly_toolbox.runs import FinishedRun

#: Each format, and the default name of the export in the run folder.
FORMATS = {"savedmodel": "saved_model", "onnx": "model.onnx", "tflite": "model.tflite"}
#: The methods whose search follows gradients, which only TensorFlow has operations for.
SEARCHING_METHODS = ("AnoGAN", "ConditionalAnoGAN")


def check(run_folder: Path, file_format: str, output: Path | None, overwrite: bool) -> tuple[FinishedRun, Path]:
    """Checks an export before TensorFlow is imported.

    Args:
        run_folder, file_format, output, overwrite: see `export.export`.

    Returns:
        The run to export, and the path to write.

    Raises:
        InputError: there is no such run or format; the run is not finished; the format does not support the method; a
            package is missing; or `output` exists and may not be overwritten, or is not an export.
        ToolboxError: the run is damaged.
    """
    if file_format not in FORMATS:
        raise InputError(f"no format is called {file_format!r}: {did_you_mean(file_format, FORMATS)}")
    run = FinishedRun.open(run_folder)
    for method in run.methods:
        if not is_supported(method, file_format):
            raise InputError(
                f"{method} cannot be exported to {file_format}, which has no operations for the gradients that its "
                "search follows; savedmodel can hold it"
            )
    output = output or run_folder / FORMATS[file_format]
    check_output("--output", output, overwrite)
    if output.exists() and not _is_export(output, file_format):
        raise InputError(f"{output} was not written by an export in this format; choose another --output")
    if file_format == "onnx" and importlib.util.find_spec("tf2onnx") is None:
        raise InputError("--format onnx needs tf2onnx: pip install 'anomaly-toolbox[export]'")
    return run, output


def is_supported(method: str, file_format: str) -> bool:
    """Whether a format can hold a method."""
    return file_format == "savedmodel" or method not in SEARCHING_METHODS


def note_on_input(run: FinishedRun, file_format: str) -> str | None:
    """A line about the images that the export of a 16-bit run takes; None for other runs."""
    if run.hparams.get("levels") != DEEP_WHITE:
        return None
    takes = "takes" if file_format == "onnx" else "has a signature float_images that takes"
    white = run.hparams.get("white_level") or DEEP_WHITE
    return f"note: the run was trained on 16-bit images; the export {takes} floats: values divided by {white}"


def _is_export(path: Path, file_format: str) -> bool:
    """Whether an earlier export in this format is at `path`; files are recognised by their first bytes."""
    if file_format == "savedmodel":
        return (path / "saved_model.pb").is_file()
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        first_bytes = file.read(64)
    return first_bytes[4:8] == b"TFL3" if file_format == "tflite" else b"tf2onnx" in first_bytes
