"""Measures the speed of training and scoring as a share of the peak of the machine.

    python -m benchmarks.throughput --experiment GANomaly

The peak is the speed of a product of two 2048x2048 float32 matrices. Each round measures the peak for about as long as
the training, because the speed of a shared machine varies from moment to moment. A share compares with the peak of the
same round, and the median over all rounds is printed. Training is Keras's `fit` with its loop, not only the compiled
step.
"""

import os
import time
from collections.abc import Callable

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rich.progress import track

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.datasets.batches import training_batches
from anomaly_toolbox.datasets.labelled import LabelledImages, Split
from anomaly_toolbox.models import METHODS, build_detector, detector_class, method_name
from anomaly_toolbox.sweeps import hps
from anomaly_toolbox.tf_data import without_autotuning
from benchmarks.flops import gflop
from benchmarks.random_batches import N_CLASSES, random_batch

SIDE = 2048


def seconds(action: Callable[[], object]) -> float:
    """The duration of a call of `action`."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def peak_gflops(repeats: int = 20) -> float:
    """The speed of the matrix product in GFLOP per second."""
    matrix = tf.random.normal((SIDE, SIDE))
    product = tf.function(lambda: tf.reduce_sum(matrix @ matrix))
    product()
    return repeats * 2 * SIDE**3 / 1e9 / seconds(lambda: [product().numpy() for _ in range(repeats)])


def pipeline_images_per_second(batch_size: int, image_size: int, channels: int) -> float:
    """The speed of the input pipeline alone, from its second epoch on.

    The dataset has 20,000 random images of 28x28 pixels, or fewer if their cache would take more than 1 GiB.
    """
    generator = np.random.default_rng(0)
    count = min(20_000, 2**30 // (4 * image_size**2 * channels))
    split = Split(generator.integers(0, 256, (count, 28, 28, channels), np.uint8), np.arange(count) % 10)
    dataset = LabelledImages(split, split, split)
    dataset.configure(batch_size, (image_size, image_size), anomalous_label=9)
    n_normal = count - count // 10
    steps = n_normal // batch_size
    batches = iter(training_batches(dataset.train_normal, batch_size, (image_size, image_size, channels), n_normal, 0))

    def run_epoch() -> None:
        for _ in range(steps):
            next(batches)

    run_epoch()  # fills the cache
    return steps * batch_size / min(seconds(run_epoch) for _ in range(3))


@click.command()
@click.option("--experiment", default="GANomaly", show_default=True, help=f"The method: {', '.join(METHODS)}.")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Hyperparameter, as in anomaly-box.")
@click.option("--channels", default=1, show_default=True, help="Number of channels of the images.")
@click.option("--steps", default=10, show_default=True, help="Number of training steps in a round.")
@click.option("--rounds", default=6, show_default=True, help="Number of rounds.")
def main(experiment: str, overrides: tuple[str, ...], channels: int, steps: int, rounds: int) -> None:
    """Measure training, scoring and the input pipeline of a method, by default at the sizes of its paper."""
    console = plain_console()
    experiment = method_name(experiment)
    cls = detector_class(experiment)
    domains = hps.read_domains(cls.Hyperparameters, experiment, overrides=overrides)
    hp = hps.first_trial(cls.Hyperparameters, domains)
    batch_size = hp.batch_size
    detector = build_detector(cls, hp, channels, N_CLASSES)
    detector.compile()
    batch = random_batch(detector)
    images = batch[0] if detector.uses_classes else batch
    specs = tf.nest.map_structure(tf.TensorSpec.from_tensor, batch)
    per_training_image = gflop(tf.function(detector.train_step), specs) / batch_size
    per_scored_image = gflop(tf.function(detector.predict_step), tf.TensorSpec.from_tensor(images)) / batch_size

    endless_training = without_autotuning(tf.data.Dataset.from_tensors(batch).repeat())
    endless = without_autotuning(tf.data.Dataset.from_tensors(images).repeat())

    def train() -> None:
        detector.fit(endless_training, steps_per_epoch=steps, verbose=0, shuffle=False)

    def score() -> None:
        with detector.fast_validation():
            detector.predict(endless, steps=steps, verbose=0)

    train()  # compiles
    score()

    peaks: list[float] = []
    training: list[float] = []
    scoring: list[float] = []
    for _ in track(range(rounds), "measuring", console=console, transient=True):
        peaks.append(peak_gflops())
        training.append(steps * batch_size / seconds(train))
        scoring.append(steps * batch_size / seconds(score))
    console.print(f"{experiment}, {'x'.join(map(str, detector.image_shape))}, batch {batch_size} {' '.join(overrides)}")
    console.print(f"matrix-product peak  {np.median(peaks):10,.1f} GFLOP/s")
    for name, rates, cost in (("training", training, per_training_image), ("scoring", scoring, per_scored_image)):
        shares = np.array(rates) * cost / np.array(peaks)
        if np.isnan(cost):
            detail = "with the search of a validation"
        else:
            share = f"{np.median(shares):.0%} of the peak (rounds: {shares.min():.0%} to {shares.max():.0%})"
            detail = f"{cost:.3f} GFLOP per image, {share}"
        console.print(f"{name:19}  {np.median(rates):10,.0f} images/s, {detail}", soft_wrap=True)
    delivered = pipeline_images_per_second(batch_size, hp.image_size, channels)
    ratio = delivered / np.median(training)
    console.print(f"{'input pipeline':19}  {delivered:10,.0f} images/s, {ratio:.0f} times the speed of training")


if __name__ == "__main__":
    main()
