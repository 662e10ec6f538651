"""Measures the quality and the speed of AnoGAN's latent search: with short and long steps, and from a warm start.

    python -m benchmarks.latent_search --data-dir /usr/share/datasets/fashion-mnist

The networks are those of a run of `anomaly-box --experiment AnoGAN` with the same dataset and hyperparameters, which is
trained if it does not exist; its `warm_start` must be true. The searches are

    cold        from the same random z for each image, with the step size `search_learning_rate`, by default 0.02,
    long steps  from the same z, with a step size of 0.1,
    warm        from the code of the image, with the step size `search_learning_rate`.

The AUPRC and the mean loss are those of the paper's score (7) on a sample of the test images, the same for every Γ. The
speed is measured in rounds, for

    (a) one image at a time, cold, with Γ = 500, where each step of the search is one call of a compiled function,
    (b) whole batches, cold, with Γ = 500, in one compiled loop,
    (c) the same with long steps and Γ = 165,
    (d) as (b), with a warm start, at the smallest Γ whose AUPRC is within 0.01 of that of (b),

and the share of (b) in the peak of the machine, see `benchmarks.throughput`.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.metrics import average_precision_score

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.datasets import dataset_name, load_dataset, source
from anomaly_toolbox.datasets.batches import ScoringSplit, scoring_split
from anomaly_toolbox.datasets.survey import survey
from anomaly_toolbox.files import atomic_write
from anomaly_toolbox.inference.members import load_detector
from anomaly_toolbox.models import detector_class
from anomaly_toolbox.models.anogan import AnoGAN
from anomaly_toolbox.models.latent_search import LOOPS_WITH_XLA, adam_step, minimise
from anomaly_toolbox.pictures import STYLE
from anomaly_toolbox.sweeps import hps
from anomaly_toolbox.training.trial import Trial, run_trial
from benchmarks.flops import gflop
from benchmarks.throughput import peak_gflops, seconds

FULL_GAMMA, SHORT_GAMMA = 500, 165
COLD, LONG_STEPS, WARM = "cold", "long steps", "warm"
GAMMAS = {
    COLD: (0, 10, 25, 50, 100, SHORT_GAMMA, 250, FULL_GAMMA),
    LONG_STEPS: (10, 25, 50, 100, SHORT_GAMMA),
    WARM: (0, 5, 10, 25, 50, 100),
}
COLOURS = {COLD: "#0072b2", LONG_STEPS: "#009e73", WARM: "#d55e00"}
LEARNING_RATE_OF_LONG_STEPS = 0.1
TOLERANCE = 0.01  # of the AUPRC of (d) below that of (b)
ONE_IMAGE = "(a) one at a time"
BATCHES = f"(b) batched, Γ = {FULL_GAMMA}"
WARM_BATCHES = 4  # in each round, because a single batch is too fast to time


class Search:
    """The latent searches of a detector, compiled once for each batch size."""

    def __init__(self, detector: AnoGAN):
        self._detector = detector
        learning_rate = detector.hyperparameters.search_learning_rate
        self._searches = {
            COLD: self._compiled_search(self._cold_start, learning_rate),
            LONG_STEPS: self._compiled_search(self._cold_start, LEARNING_RATE_OF_LONG_STEPS),
            WARM: self._compiled_search(detector.encoder, learning_rate),
        }
        self._features = tf.function(lambda x: detector.discriminator(x)[0], jit_compile=True)
        self._loss = tf.function(detector.search_loss, jit_compile=True)

        def take_step(x: tf.Tensor, features: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
            def loss(z: tf.Tensor) -> tf.Tensor:
                return detector.search_loss(x, features, z)

            return adam_step(loss, detector.hyperparameters.search_learning_rate, *state)

        self._step = tf.function(take_step, jit_compile=True)

    def _compiled_search(self, start: Callable[[tf.Tensor], tf.Tensor], learning_rate: float) -> Any:
        detector = self._detector

        def search(x: tf.Tensor) -> tf.Tensor:
            features = detector.features(x)

            def loss(z: tf.Tensor) -> tf.Tensor:
                return detector.search_loss(x, features, z)

            return loss(minimise(loss, start(x), detector.steps, learning_rate))

        return tf.function(search, autograph=False, jit_compile=LOOPS_WITH_XLA)

    def scores(self, x: tf.Tensor, gamma: int, name: str) -> np.ndarray:
        """A(x) of each image of a batch, (batch,)."""
        self._detector.steps.assign(gamma)
        scores: np.ndarray = self._searches[name](x).numpy()
        return scores

    def score_one_image(self, x: tf.Tensor, gamma: int) -> float:
        """A(x) of a batch of one image, from a cold search with one call for each step."""
        features = self._features(x)
        step = tf.constant(0)
        z = self._cold_start(x)
        first_moment = second_moment = tf.zeros_like(z)
        for _ in range(gamma):
            step, z, first_moment, second_moment = self._step(x, features, step, z, first_moment, second_moment)
        return float(self._loss(x, features, z)[0])

    def gflop_of_a_step(self, x: tf.Tensor) -> float:
        """The cost of one step of the search for one image, in GFLOP."""
        z = self._cold_start(x)
        arguments = (x, self._features(x), tf.constant(0), z, z, z)
        return gflop(self._step, *map(tf.TensorSpec.from_tensor, arguments)) / len(x)

    def _cold_start(self, x: tf.Tensor) -> tf.Tensor:
        return tf.repeat(self._detector.starting_points[:1], x.shape[0], axis=0)


class Measured(NamedTuple):
    """What the searches of a split have found.

    Attributes:
        auprc: of (7).
        loss: the mean L of the normal images.
    """

    auprc: float
    loss: float


Curves = dict[str, dict[int, Measured]]  # by search and Γ


def measure(search: Search, split: ScoringSplit, gamma: int, name: str) -> Measured:
    """Scores a split by one of the searches."""
    scores = np.concatenate([search.scores(x, gamma, name) for x in split.batches])[: len(split.labels)]
    return Measured(float(average_precision_score(split.labels, scores)), float(scores[split.labels == 0].mean()))


@matplotlib.rc_context(STYLE)
def draw(path: Path, curves: Curves, prevalence: float) -> None:
    """Plots the AUPRC against Γ.

    Args:
        path: the PNG file to write.
        curves: what was measured.
        prevalence: the chance level of the AUPRC.
    """
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, by_gamma in curves.items():
        values = [measured.auprc for measured in by_gamma.values()]
        axes.plot(list(by_gamma), values, "o-", color=COLOURS[name], label=name)
    axes.axhline(prevalence, color="gray", linestyle="--", linewidth=1, label="chance level")
    axes.set_xscale("symlog", linthresh=5)
    axes.set_xlim(-1, 700)
    gammas = _all_gammas()
    axes.set_xticks(gammas, labels=gammas, minor=False)
    axes.minorticks_off()
    axes.set(xlabel="Γ, steps of the search", ylabel="AUPRC", ylim=(0, None))
    axes.legend(frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


@click.command()
@click.option("--dataset", default="FashionMNIST", show_default=True, help="Dataset, as in anomaly-box.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the dataset, as in anomaly-box.")
@click.option(
    "--hps-path",
    type=click.Path(path_type=Path),
    default=Path("hps/fashion_mnist.json"),
    show_default=True,
    help="File of hyperparameters, as in anomaly-box.",
)
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Hyperparameter, as in anomaly-box.")
@click.option(
    "--log-dir", type=click.Path(path_type=Path), default=Path("logs"), show_default=True, help="Folder of the run."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the run.")
@click.option("--images", default=1000, show_default=True, help="Number of test images for the AUPRC.")
@click.option("--rounds", default=3, show_default=True, help="Number of rounds of the timing; the median is printed.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    default=Path("latent_search.png"),
    show_default=True,
    help="File for the plot of AUPRC against Γ.",
)
def main(
    dataset: str,
    data_dir: Path | None,
    hps_path: Path,
    overrides: tuple[str, ...],
    log_dir: Path,
    seed: int,
    images: int,
    rounds: int,
    picture: Path,
) -> None:
    """Measure AnoGAN's latent search: AUPRC against Γ, and speed."""
    console = plain_console()
    schema = detector_class("AnoGAN").Hyperparameters
    hp = hps.first_trial(schema, hps.read_domains(schema, "AnoGAN", hps_path, overrides))
    if not hp.warm_start:
        raise click.UsageError("this benchmark needs warm_start to be true; add --set warm_start=true")
    data = load_dataset(dataset, data_dir)
    trial = Trial("AnoGAN", hp, dataset_name(dataset), source(dataset, data_dir), data, seed)
    folder, _ = run_trial(trial, log_dir, console)
    detector = load_detector(folder)
    data.configure(hp.batch_size, (hp.image_size, hp.image_size), hp.anomalous_label, hp.class_label)
    split = scoring_split(data.test, survey(data, "test"), hp.batch_size, detector.image_shape, images)
    search = Search(detector)

    curves = measure_curves(search, split, console)
    draw(picture, curves, split.labels.mean())
    console.print(table_of(curves, len(split.labels)))
    console.print(f"picture: {picture}")

    enough = curves[COLD][FULL_GAMMA].auprc - TOLERANCE
    good_gammas = [gamma for gamma, measured in curves[WARM].items() if measured.auprc >= enough]
    if not good_gammas:
        console.print(f"no warm start up to Γ = {GAMMAS[WARM][-1]} comes within {TOLERANCE} of the cold search")
    warm_gamma = min(good_gammas, default=GAMMAS[WARM][-1])
    x = next(iter(split.batches))
    speeds, peaks = measure_speed(search, x, warm_gamma, rounds)
    base_speeds = np.array(speeds[ONE_IMAGE])
    for name, values in speeds.items():
        ratios = np.array(values) / base_speeds
        console.print(
            f"{name:28}{np.median(values):9,.2f} images/s, {np.median(ratios):6.1f} times (a) "
            f"(rounds: {ratios.min():.1f} to {ratios.max():.1f})",
            soft_wrap=True,
        )
    cost = search.gflop_of_a_step(x)
    shares = np.array(speeds[BATCHES]) * FULL_GAMMA * cost / np.array(peaks)
    console.print(
        f"a step costs {cost:.3f} GFLOP for each image; {BATCHES} runs at {np.median(shares):.0%} of the peak "
        f"(rounds: {shares.min():.0%} to {shares.max():.0%})",
        soft_wrap=True,
    )


def _all_gammas() -> list[int]:
    return sorted({gamma for gammas in GAMMAS.values() for gamma in gammas})


def measure_curves(search: Search, split: ScoringSplit, console: Console) -> Curves:
    """Measures every search with each of its Γ."""
    curves: Curves = {}
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("AUPRC against Γ", total=sum(map(sum, GAMMAS.values())))
        for name, gammas in GAMMAS.items():
            curves[name] = {}
            for gamma in gammas:
                curves[name][gamma] = measure(search, split, gamma, name)
                bar.advance(task, gamma)
    return curves


def table_of(curves: Curves, n_images: int) -> Table:
    """A row for each Γ; each cell has the AUPRC and the mean loss."""
    table = Table(
        title=f"AUPRC of (7) on {n_images:,} test images / mean loss of the normal ones", box=None, pad_edge=False
    )
    for column in ("Γ", *curves):
        table.add_column(column, justify="right")
    for gamma in _all_gammas():
        cells = []
        for by_gamma in curves.values():
            measured = by_gamma.get(gamma)
            cells.append(f"{measured.auprc:.3f} / {measured.loss:.1f}" if measured else "-")
        table.add_row(str(gamma), *cells)
    return table


def measure_speed(
    search: Search, x: tf.Tensor, warm_gamma: int, rounds: int
) -> tuple[dict[str, list[float]], list[float]]:
    """The speed of (a), (b), (c) and (d) in images per second, and the peak in GFLOP per second, in each round."""

    def score_warm_batches() -> None:
        for _ in range(WARM_BATCHES):
            search.scores(x, warm_gamma, WARM)

    actions = {
        ONE_IMAGE: (1, lambda: search.score_one_image(x[:1], FULL_GAMMA)),
        BATCHES: (len(x), lambda: search.scores(x, FULL_GAMMA, COLD)),
        f"(c) long steps, Γ = {SHORT_GAMMA}": (len(x), lambda: search.scores(x, SHORT_GAMMA, LONG_STEPS)),
        f"(d) batched, warm, Γ = {warm_gamma}": (WARM_BATCHES * len(x), score_warm_batches),
    }
    search.score_one_image(x[:1], 1)  # compiles; the others were compiled before
    speeds: dict[str, list[float]] = {name: [] for name in actions}
    peaks = []
    for _ in range(rounds):
        peaks.append(peak_gflops())
        for name, (n_images, action) in actions.items():
            speeds[name].append(n_images / seconds(action))
    return speeds, peaks


if __name__ == "__main__":
    main()
