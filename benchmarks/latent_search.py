"""Measures the quality and the speed of AnoGAN's latent search, from a cold and from a warm start.

    python -m benchmarks.latent_search --data-dir /usr/share/datasets/fashion-mnist

The networks are those of a run of `anomaly-box --experiment AnoGAN` with the same dataset and hyperparameters, which is
trained if it does not exist; its `warm_start` must be true. The AUPRC is that of the paper's score (7) on a sample of
the test images, the same for every Γ. The speed is measured in rounds, for

    (a) one image at a time with Γ = 500, where each step of the search is one call of a compiled function,
    (b) whole batches with Γ = 500, in one compiled loop,
    (c) the same with a warm start, at the smallest Γ whose AUPRC is within 0.01 of that of (b).
"""

import os
from pathlib import Path

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
from anomaly_toolbox.models.latent_search import LOOPS_WITH_XLA, adam_step
from anomaly_toolbox.pictures import STYLE
from anomaly_toolbox.sweeps import hps
from anomaly_toolbox.training.trial import Trial, run_trial
from benchmarks.throughput import seconds

FULL_GAMMA = 500
COLD_GAMMAS = (0, 10, 25, 50, 100, 250, FULL_GAMMA)
WARM_GAMMAS = (0, 5, 10, 25, 50, 100)
TOLERANCE = 0.01  # of the AUPRC of (c) below that of (b)
ONE_IMAGE = "(a) one at a time"
BATCHES_OF_C = 4  # in each round, because a single batch is too fast to time


class Search:
    """The latent search of a detector from a cold or a warm start, compiled once for each batch size."""

    def __init__(self, detector: AnoGAN):
        self._detector = detector

        def cold_search(x: tf.Tensor) -> tf.Tensor:
            return detector.search(x, self._cold_start(x))[1]

        def warm_search(x: tf.Tensor) -> tf.Tensor:
            return detector.search(x, detector.encoder(x))[1]

        self._cold_search = tf.function(cold_search, jit_compile=LOOPS_WITH_XLA)
        self._warm_search = tf.function(warm_search, jit_compile=LOOPS_WITH_XLA)
        self._features = tf.function(lambda x: detector.discriminator(x)[0], jit_compile=True)
        self._loss = tf.function(detector.search_loss, jit_compile=True)

        def take_step(x: tf.Tensor, features: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
            def loss(z: tf.Tensor) -> tf.Tensor:
                return detector.search_loss(x, features, z)

            return adam_step(loss, detector.hyperparameters.search_learning_rate, *state)

        self._step = tf.function(take_step, jit_compile=True)

    def scores(self, x: tf.Tensor, gamma: int, is_warm: bool) -> np.ndarray:
        """A(x) of each image of a batch, (batch,)."""
        self._detector.steps.assign(gamma)
        search = self._warm_search if is_warm else self._cold_search
        return search(x).numpy()

    def score_one_image(self, x: tf.Tensor, gamma: int) -> float:
        """A(x) of a batch of one image, from a cold search with one call for each step."""
        features = self._features(x)
        step = tf.constant(0)
        z = self._cold_start(x)
        first_moment = second_moment = tf.zeros_like(z)
        for _ in range(gamma):
            step, z, first_moment, second_moment = self._step(x, features, step, z, first_moment, second_moment)
        return float(self._loss(x, features, z)[0])

    def _cold_start(self, x: tf.Tensor) -> tf.Tensor:
        return tf.repeat(self._detector.starting_points[:1], x.shape[0], axis=0)


def auprc(search: Search, split: ScoringSplit, gamma: int, is_warm: bool) -> float:
    """The AUPRC of (7) on a split."""
    scores = np.concatenate([search.scores(x, gamma, is_warm) for x in split.batches])[: len(split.labels)]
    return float(average_precision_score(split.labels, scores))


@matplotlib.rc_context(STYLE)
def draw(path: Path, cold: dict[int, float], warm: dict[int, float], prevalence: float) -> None:
    """Plots the AUPRC against Γ.

    Args:
        path: the PNG file to write.
        cold: AUPRC by Γ from a cold start.
        warm: AUPRC by Γ from a warm start.
        prevalence: the chance level of the AUPRC.
    """
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for auprc_by_gamma, name, colour in ((cold, "cold start", "#0072b2"), (warm, "warm start", "#d55e00")):
        axes.plot(list(auprc_by_gamma), list(auprc_by_gamma.values()), "o-", color=colour, label=name)
    axes.axhline(prevalence, color="gray", linestyle="--", linewidth=1, label="chance level")
    axes.set_xscale("symlog", linthresh=5)
    axes.set_xlim(left=-1)
    gammas = sorted(cold.keys() | warm.keys())
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

    cold, warm = measure_auprc(search, split, console)
    draw(picture, cold, warm, split.labels.mean())
    console.print(auprc_table(cold, warm, len(split.labels)))
    console.print(f"picture: {picture}")

    good_gammas = [gamma for gamma in WARM_GAMMAS if warm[gamma] >= cold[FULL_GAMMA] - TOLERANCE]
    if not good_gammas:
        console.print(f"no warm start up to Γ = {WARM_GAMMAS[-1]} comes within {TOLERANCE} of the cold search")
    warm_gamma = min(good_gammas, default=WARM_GAMMAS[-1])
    speeds = measure_speed(search, next(iter(split.batches)), warm_gamma, rounds)
    base_speeds = np.array(speeds[ONE_IMAGE])
    for name, values in speeds.items():
        ratios = np.array(values) / base_speeds
        console.print(
            f"{name:28}{np.median(values):9,.2f} images/s, {np.median(ratios):6.1f} times (a) "
            f"(rounds: {ratios.min():.1f} to {ratios.max():.1f})",
            soft_wrap=True,
        )


def measure_auprc(search: Search, split: ScoringSplit, console: Console) -> tuple[dict[int, float], dict[int, float]]:
    """The AUPRC by Γ, from a cold and from a warm start."""
    cold = {}
    warm = {}
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("AUPRC against Γ", total=sum(COLD_GAMMAS) + sum(WARM_GAMMAS))
        for gamma in COLD_GAMMAS:
            cold[gamma] = auprc(search, split, gamma, is_warm=False)
            bar.advance(task, gamma)
        for gamma in WARM_GAMMAS:
            warm[gamma] = auprc(search, split, gamma, is_warm=True)
            bar.advance(task, gamma)
    return cold, warm


def auprc_table(cold: dict[int, float], warm: dict[int, float], n_images: int) -> Table:
    """A row for each Γ."""
    table = Table(title=f"AUPRC of (7) on {n_images:,} test images", box=None, pad_edge=False)
    for column in ("Γ", "cold start", "warm start"):
        table.add_column(column, justify="right")
    for gamma in sorted(cold.keys() | warm.keys()):
        cells = [f"{values[gamma]:.3f}" if gamma in values else "-" for values in (cold, warm)]
        table.add_row(str(gamma), *cells)
    return table


def measure_speed(search: Search, x: tf.Tensor, warm_gamma: int, rounds: int) -> dict[str, list[float]]:
    """The speed of (a), (b) and (c) in images per second, in each round."""

    def score_warm_batches() -> None:
        for _ in range(BATCHES_OF_C):
            search.scores(x, warm_gamma, is_warm=True)

    actions = {
        ONE_IMAGE: (1, lambda: search.score_one_image(x[:1], FULL_GAMMA)),
        "(b) batched": (len(x), lambda: search.scores(x, FULL_GAMMA, is_warm=False)),
        f"(c) batched, warm, Γ = {warm_gamma}": (BATCHES_OF_C * len(x), score_warm_batches),
    }
    search.score_one_image(x[:1], 1)  # compiles; the others were compiled before
    speeds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, (n_images, action) in actions.items():
            speeds[name].append(n_images / seconds(action))
    return speeds


if __name__ == "__main__":
    main()
