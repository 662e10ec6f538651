"""Measures what scores cost: the scoring speed with the paper's score, with the combined score, and with all scores.

    python -m benchmarks.scores --experiment GANomaly

The networks are untrained and the images random, which does not change the speed. The rounds alternate between the
variants, because the speed of a shared machine varies. The ratio is the median over the rounds.
"""

import os
from functools import partial

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rich.table import Table

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.models import METHODS, build_detector, detector_class, method_name
from anomaly_toolbox.models.base import AnomalyDetector
from benchmarks.random_batches import N_CLASSES
from benchmarks.throughput import seconds

PASSES = 5  # over the batch in each round
ROUNDS = 5
PAPER = "the paper's score"


@click.command()
@click.option("--experiment", default="GANomaly", show_default=True, help=f"The method: {', '.join(METHODS)}.")
@click.option("--width", default=32, show_default=True, help="Channels of the first convolution.")
@click.option("--batch-size", default=64, show_default=True, help="Images in a batch.")
@click.option("--memory", multiple=True, type=int, default=(5000, 48_600), show_default=True, help="Normal images.")
def main(experiment: str, width: int, batch_size: int, memory: tuple[int, ...]) -> None:
    """Compare the speed of the paper's score with that of others, for several sizes of the memory banks."""
    images = np.random.default_rng(0).uniform(-1, 1, (batch_size, 32, 32, 1)).astype(np.float32)
    batches = tf.data.Dataset.from_tensors(images).repeat(PASSES)
    selected = _detector(experiment, width, batch_size, memory[0], "paper")
    variants = {PAPER: partial(selected.selected_scores, batches, batch_size)}
    for size in memory:
        combined = _detector(experiment, width, batch_size, size, "combined")
        variants[f"combined, {size:,} in memory"] = partial(combined.selected_scores, batches, batch_size)
        detector = _detector(experiment, width, batch_size, size, "paper")
        variants[f"all scores, {size:,} in memory"] = partial(detector.score_batches, batches, batch_size)
    for score in variants.values():
        score()  # compiles
    durations: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, score in variants.items():
            durations[name].append(seconds(score))
    baseline = np.array(durations[PAPER])
    table = Table("", "images per second", "times as long", box=None)
    for name, values in durations.items():
        ratios = np.array(values) / baseline
        speed = PASSES * batch_size / np.median(values)
        table.add_row(name, f"{speed:,.0f}", f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})")
    plain_console().print(table)


def _detector(experiment: str, width: int, batch_size: int, memory_size: int, score: str) -> AnomalyDetector:
    cls = detector_class(method_name(experiment))
    names = cls.Hyperparameters.model_fields
    values = {"image_size": 32, "batch_size": batch_size, "width": width, "memory_size": memory_size, "score": score}
    hp = cls.Hyperparameters(**{name: value for name, value in values.items() if name in names})
    detector = build_detector(cls, hp, 1, N_CLASSES)
    detector.compile()
    images = np.random.default_rng(1).uniform(-1, 1, (memory_size, 32, 32, 1)).astype(np.float32)
    detector.fit_scores(images)
    return detector


if __name__ == "__main__":
    main()
