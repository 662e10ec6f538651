"""Anomaly Toolbox: detectors that find anomalies in images with GANs, and a fair measure of how well they do."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomaly_toolbox.inference.detector import Detector

__version__ = "0.1.0"


def load(run: str | Path) -> "Detector":
    """Loads the detector of a finished run: `load(run).score_images(images)`.

    Args:
        run: the run folder, `<log_dir>/<Experiment>/<Dataset>/<run name>`.

    Raises:
        InputError: the folder does not hold a finished run.
        ToolboxError: the run is damaged.
    """
    from anomaly_toolbox.inference.detector import Detector  # imports TensorFlow

    return Detector(Path(run))
