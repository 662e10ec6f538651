"""Formats that detectors are exported to, and what is said before anything heavy is imported. No TensorFlow here."""

import importlib.util
from pathlib import Path

from anomaly_toolbox.datasets.images import DEEP_WHITE
from anomaly_toolbox.errors import InputError, did_you_mean
from anomaly_toolbox.files import check_output
from anomaly_toolbox.runs import FinishedRun

#: Formats, and what the output is called in the run's folder.
FORMATS = {"savedmodel": "saved_model", "onnx": "model.onnx", "tflite": "model.tflite"}
#: What a format cannot hold: AnoGAN's search follows gradients, and only TensorFlow has operations for them.
IMPOSSIBLE = {("AnoGAN", "onnx"), ("AnoGAN", "tflite")}


def check(run_folder: Path, file_format: str, output: Path | None, overwrite: bool) -> tuple[FinishedRun, Path]:
    """The run that is to be exported, and where to.

    Args:
        run_folder, file_format, output, overwrite: see `export.export`.

    Raises:
        InputError: there is no finished run or no such format, the format cannot hold the method, a package is missing,
            or `output` is there and may not be overwritten, or is something else than an export.
        ToolboxError: the run is damaged.
    """
    if file_format not in FORMATS:
        raise InputError(f"no format is called {file_format!r}: {did_you_mean(file_format, FORMATS)}")
    run = FinishedRun.open(run_folder)
    if (run.method, file_format) in IMPOSSIBLE:
        raise InputError(
            f"{run.method} cannot be exported to {file_format}, which has no operations for the gradients that its "
            "search follows; savedmodel can hold it"
        )
    output = output or run_folder / FORMATS[file_format]
    check_output("--output", output, overwrite)
    if output.exists() and not _is_export(output, file_format):
        raise InputError(f"{output} was not written by an export in this format; choose another --output")
    if file_format == "onnx" and importlib.util.find_spec("tf2onnx") is None:
        raise InputError("--format onnx needs tf2onnx: pip install 'anomaly-toolbox[export]'")
    return run, output


def note_on_input(run: FinishedRun, file_format: str) -> str | None:
    """A line on what images the export of a 16-bit run takes; None for other runs."""
    if run.hparams.get("levels") != DEEP_WHITE:
        return None
    takes = "takes" if file_format == "onnx" else "has a signature float_images that takes"
    white = run.hparams.get("white_level") or DEEP_WHITE
    return f"note: the run was trained on 16-bit images; the export {takes} floats: values divided by {white}"


def _is_export(path: Path, file_format: str) -> bool:
    """Whether what is at `path` looks like an earlier export, by its first bytes."""
    if file_format == "savedmodel":
        return (path / "saved_model.pb").is_file()
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        beginning = file.read(64)
    return beginning[4:8] == b"TFL3" if file_format == "tflite" else b"tf2onnx" in beginning
