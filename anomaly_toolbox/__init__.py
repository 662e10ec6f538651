"""Anomaly Toolbox: finds anomalies in images with GANs, and says honestly how well."""

from pathlib import Path

__version__ = "0.1.0"


def load(run: str | Path):
    """The detector of a finished run, a `detector.Detector`: `load(run).score_images(images)`.

    Args:
        run: the run's folder, `logs/<Experiment>/<Dataset>/<run name>`.

    Raises:
        InputError, ToolboxError: there is no finished run, or it is damaged.
    """
    from anomaly_toolbox.inference.detector import Detector  # imports TensorFlow

    return Detector(Path(run))
