"""How fast a method trains and scores, as a share of what the machine can do at best.

    python -m benchmarks.throughput --experiment GANomaly

The machine's best is a product of two 2048x2048 float32 matrices, repeated for about as long as the training beside it
in each round, since a shared machine is fast one moment and slow the next; shares are of the same round's peak, and the
median of all rounds counts. Training is Keras's `fit` with its loop, not the compiled step alone.
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
from anomaly_toolbox.models import METHODS, detector_class, method_name
from anomaly_toolbox.sweeps import hps
from benchmarks.flops import gflop

SIDE = 2048


def seconds(action: Callable[[], object]) -> float:
    """How long `action` takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def peak_gflops(repeats: int = 20) -> float:
    """Gigaflop a second of the matrix product."""
    matrix = tf.random.normal((SIDE, SIDE))
    product = tf.function(lambda: tf.reduce_sum(matrix @ matrix))
    product()
    return repeats * 2 * SIDE**3 / 1e9 / seconds(lambda: [product().numpy() for _ in range(repeats)])


def pipeline_images_per_second(batch_size: int, image_size: int, channels: int) -> float:
    """Images a second that the input pipeline delivers alone, from its second epoch on.

    It is given 20,000 random 28x28 images, or as many as take 1 GiB in its cache.
    """
    generator = np.random.default_rng(0)
    count = min(20_000, 2**30 // (4 * image_size**2 * channels))
    split = Split(generator.integers(0, 256, (count, 28, 28, channels), np.uint8), np.arange(count) % 10)
    dataset = LabelledImages(split, split, split)
    dataset.configure(batch_size, (image_size, image_size), anomalous_label=9)
    n_normal = count - count // 10
    steps = n_normal // batch_size
    batches = iter(training_batches(dataset.train_normal, batch_size, (image_size, image_size, channels), n_normal, 0))
    epoch = lambda: [next(batches) for _ in range(steps)]  # noqa: E731
    epoch()  # fills the cache
    return steps * batch_size / min(seconds(epoch) for _ in range(3))


@click.command()
@click.option("--experiment", default="GANomaly", show_default=True, help=f"One of {', '.join(METHODS)}.")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="A hyperparameter, as for anomaly-box.")
@click.option("--channels", default=1, show_default=True, help="Channels of the images.")
@click.option("--steps", default=10, show_default=True, help="Training steps in a round.")
@click.option("--rounds", default=6, show_default=True, help="Rounds; the median counts.")
def main(experiment: str, overrides: tuple[str, ...], channels: int, steps: int, rounds: int) -> None:
    """Measures training, scoring and the input pipeline of a method at its paper's sizes, or others."""
    console = plain_console()
    experiment = method_name(experiment)
    cls = detector_class(experiment)
    hp = hps.first_trial(cls.Hyperparameters, hps.domains(cls.Hyperparameters, experiment, overrides=overrides))
    batch_size = hp.batch_size
    detector = cls(hp, channels)
    detector.compile()
    spec = tf.TensorSpec((batch_size, *detector.image_shape))
    per_training_image = gflop(tf.function(detector.train_step), spec) / batch_size
    per_scored_image = gflop(tf.function(detector.predict_step), spec) / batch_size

    images = tf.random.uniform(spec.shape, -1, 1, seed=0)
    endless = tf.data.Dataset.from_tensors(images).repeat()
    train = lambda: detector.fit(endless, steps_per_epoch=steps, verbose=0, shuffle=False)  # noqa: E731

    def score():
        with detector.fast_validation():
            detector.predict(endless, steps=steps, verbose=0)

    train(), score()  # compiles

    peaks, training, scoring = [], [], []
    for _ in track(range(rounds), "measuring", console=console, transient=True):
        peaks.append(peak_gflops())
        training.append(steps * batch_size / seconds(train))
        scoring.append(steps * batch_size / seconds(score))
    console.print(f"{experiment}, {'x'.join(map(str, detector.image_shape))}, batch {batch_size} {' '.join(overrides)}")
    console.print(f"matrix-product peak  {np.median(peaks):10,.1f} GFLOP/s")
    for name, rates, cost in (("training", training, per_training_image), ("scoring", scoring, per_scored_image)):
        shares = np.array(rates) * cost / np.array(peaks)
        of_peak = f"{np.median(shares):.0%} of the peak (rounds: {shares.min():.0%} to {shares.max():.0%})"
        told = "searched as after an epoch" if np.isnan(cost) else f"{cost:.3f} GFLOP an image, {of_peak}"
        console.print(f"{name:19}  {np.median(rates):10,.0f} images/s, {told}", soft_wrap=True)
    delivered = pipeline_images_per_second(batch_size, hp.image_size, channels)
    ratio = delivered / np.median(training)
    console.print(f"{'input pipeline':19}  {delivered:10,.0f} images/s, {ratio:.0f} times the training")


if __name__ == "__main__":
    main()
