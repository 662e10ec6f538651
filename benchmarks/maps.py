"""Measures the two factors of an anomaly map separately: the residual and the local feature distance.

    python -m benchmarks.maps logs/GANomaly/brick/RUN textures/brick

The benchmark takes a finished run on a folder of images with masks, such as `benchmarks.textures` writes. It measures
both factors and their product, which is the anomaly map, on the test images.
"""

import os
from pathlib import Path

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.table import Table

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.datasets.folder import ImageFolder
from anomaly_toolbox.evaluation import pixel_metrics
from anomaly_toolbox.inference.members import load_detector
from anomaly_toolbox.models import losses

METRICS = ("pixel_auroc", "pixel_auprc", "pro")


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(run: Path, folder: Path) -> None:
    """Measure residuals, local feature distances and anomaly maps of RUN on the test images of FOLDER."""
    detector = load_detector(run)
    dataset = ImageFolder(folder)
    dataset.configure(detector.hyperparameters.batch_size, detector.image_shape[:2], drop_remainder=False)
    if dataset.test_masks is None:
        raise click.UsageError(f"{folder}: expected a mask for each anomalous test image, in ground_truth")
    residuals, maps = [], []
    for images, _ in dataset.test:
        reconstructions = detector.reconstruct(images)
        residuals.append(losses.l1_per_pixel(images, reconstructions).numpy())
        maps.append(detector.map_from_reconstruction(images, reconstructions).numpy())
    residuals, maps = np.concatenate(residuals), np.concatenate(maps)
    distances = maps / np.maximum(residuals, np.finfo(np.float32).tiny)
    table = Table("", *METRICS, box=None)
    for name, values in (("residual", residuals), ("local feature distance", distances), ("map", maps)):
        measured = pixel_metrics(dataset.test_masks, values)
        table.add_row(name, *(f"{measured[metric]:.3f}" for metric in METRICS))
    plain_console().print(table)


if __name__ == "__main__":
    main()
