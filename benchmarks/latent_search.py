"""What AnoGAN's latent search costs and what it finds, cold and with a warm start, on the same networks.

    python -m benchmarks.latent_search --data-dir /usr/share/datasets/fashion-mnist

The networks are those of the run that `anomaly-box --experiment AnoGAN` with the same dataset and hyperparameters makes
(it is made if it is not there); its `warm_start` has to be true. AUPRC is that of the paper's score (7) on a sample of
the test images, with the same images for every Γ. Then, in rounds and in turn, for Γ = 500 unless said otherwise:

    (a) one image at a time, each step of the search one call of a compiled function,
    (b) whole batches in one compiled loop,
    (c) the same with a warm start, at the smallest Γ whose AUPRC is within 0.01 of that of (b), the cold search.
"""

import os
from pathlib import Path

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from rich.progress import Progress
from rich.table import Table
from sklearn.metrics import average_precision_score

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.datasets import load_dataset
from anomaly_toolbox.datasets.batches import ScoringSplit, scoring_split
from anomaly_toolbox.datasets.survey import survey
from anomaly_toolbox.files import atomic_write
from anomaly_toolbox.inference.detector import load_detector
from anomaly_toolbox.models import detector_class
from anomaly_toolbox.models.anogan import LOOPS_WITH_XLA
from anomaly_toolbox.models.base import AnomalyDetector
from anomaly_toolbox.sweeps import hps
from anomaly_toolbox.training.trial import Trial, run_trial
from benchmarks.throughput import seconds

FULL_GAMMA = 500
COLD_GAMMAS = (0, 10, 25, 50, 100, 250, FULL_GAMMA)
WARM_GAMMAS = (0, 5, 10, 25, 50, 100)
AS_GOOD = 0.01
BATCHES_OF_C = 4


class Search:
    """The search of one detector, from a cold or a warm start, with any Γ and compiled once a batch size."""

    def __init__(self, detector: AnomalyDetector):
        self._detector = detector
        self._cold = tf.function(lambda x: detector.search(x, self._beginnings(x))[1], jit_compile=LOOPS_WITH_XLA)
        self._warm = tf.function(lambda x: detector.search(x, detector.encoder(x))[1], jit_compile=LOOPS_WITH_XLA)
        self._features = tf.function(lambda x: detector.discriminator(x)[0], jit_compile=True)
        self._loss = tf.function(detector.search_loss, jit_compile=True)
        self._step = tf.function(detector.search_step, jit_compile=True)

    def scores(self, x: tf.Tensor, gamma: int, warm: bool) -> np.ndarray:
        """A(x) of each image of a batch."""
        self._detector.steps.assign(gamma)
        return (self._warm if warm else self._cold)(x).numpy()

    def score_of_one(self, x: tf.Tensor, gamma: int) -> float:
        """A(x) of a batch of one image, searched step by step."""
        features, number, z = self._features(x), tf.constant(0), self._beginnings(x)
        mean = square = tf.zeros_like(z)
        for _ in range(gamma):
            number, z, mean, square = self._step(x, features, number, z, mean, square)
        return float(self._loss(x, features, z)[0])

    def _beginnings(self, x: tf.Tensor) -> tf.Tensor:
        return tf.repeat(self._detector.starting_points[:1], x.shape[0], axis=0)


def auprc(search: Search, split: ScoringSplit, gamma: int, warm: bool) -> float:
    """AUPRC of (7) on a split."""
    scores = np.concatenate([search.scores(x, gamma, warm) for x in split.batches])[: len(split.labels)]
    return float(average_precision_score(split.labels, scores))


def draw(path: Path, cold: dict[int, float], warm: dict[int, float], prevalence: float) -> None:
    """AUPRC against Γ."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for figures, name, colour in ((cold, "cold start", "#0072b2"), (warm, "warm start", "#d55e00")):
        axes.plot(list(figures), list(figures.values()), "o-", color=colour, label=name)
    axes.axhline(prevalence, color="gray", linestyle="--", linewidth=1, label="a guess")
    axes.set_xscale("symlog", linthresh=5)
    axes.set_xlim(left=-1)
    axes.set_xticks(sorted(cold.keys() | warm.keys()), labels=sorted(cold.keys() | warm.keys()), minor=False)
    axes.minorticks_off()
    axes.set(xlabel="Γ, steps of the search", ylabel="AUPRC", ylim=(0, None))
    axes.legend(frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


@click.command()
@click.option("--dataset", default="FashionMNIST", show_default=True, help="The images, as for anomaly-box.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where they are, as for anomaly-box.")
@click.option("--hps-path", type=click.Path(path_type=Path), default=Path("hps/fashion_mnist.json"), show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="As for anomaly-box.")
@click.option("--log-dir", type=click.Path(path_type=Path), default=Path("logs"), show_default=True)
@click.option("--seed", default=0, show_default=True, help="As for anomaly-box.")
@click.option("--images", default=1000, show_default=True, help="Test images for the AUPRC.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of the timing; the median counts.")
@click.option("--picture", type=click.Path(path_type=Path), default=Path("latent_search.png"), show_default=True)
def main(dataset, data_dir, hps_path, overrides, log_dir, seed, images, rounds, picture) -> None:
    """Measures AnoGAN's latent search: AUPRC against Γ, and images a second."""
    console = plain_console()
    schema = detector_class("AnoGAN").Hyperparameters
    hp = hps.first_trial(schema, hps.domains(schema, "AnoGAN", hps_path, overrides))
    if not hp.warm_start:
        raise click.UsageError("this benchmark needs warm_start to be true; add --set warm_start=true")
    loaded = load_dataset(dataset, data_dir)
    source = dataset if data_dir is None else f"{dataset} in {data_dir.resolve()}"
    folder, _ = run_trial(Trial("AnoGAN", hp, dataset, source, loaded, seed), log_dir, console)
    detector = load_detector(folder)
    loaded.configure(hp.batch_size, (hp.image_size, hp.image_size), hp.anomalous_label, hp.class_label)
    split = scoring_split(loaded.test, survey(loaded, "test"), hp.batch_size, detector.image_shape, images)
    search = Search(detector)

    cold, warm = {}, {}
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("AUPRC against Γ", total=sum(COLD_GAMMAS) + sum(WARM_GAMMAS))
        for figures, gammas, is_warm in ((cold, COLD_GAMMAS, False), (warm, WARM_GAMMAS, True)):
            for gamma in gammas:
                figures[gamma] = auprc(search, split, gamma, is_warm)
                bar.advance(task, gamma)
    draw(picture, cold, warm, split.labels.mean())
    table = Table(title=f"AUPRC of (7) on {len(split.labels):,} test images", box=None, pad_edge=False)
    for column in ("Γ", "cold start", "warm start"):
        table.add_column(column, justify="right")
    for gamma in sorted(cold.keys() | warm.keys()):
        table.add_row(str(gamma), *(f"{of[gamma]:.3f}" if gamma in of else "-" for of in (cold, warm)))
    console.print(table)
    console.print(f"picture: {picture}")

    good = [gamma for gamma in WARM_GAMMAS if warm[gamma] >= cold[FULL_GAMMA] - AS_GOOD]
    if not good:
        console.print(f"no warm start up to Γ = {WARM_GAMMAS[-1]} comes within {AS_GOOD} of the cold search")
    short = min(good, default=WARM_GAMMAS[-1])
    x = next(iter(split.batches))
    actions = {
        "(a) one at a time": (1, lambda: search.score_of_one(x[:1], FULL_GAMMA)),
        "(b) batched": (len(x), lambda: search.scores(x, FULL_GAMMA, warm=False)),
        f"(c) batched, warm, Γ = {short}": (
            BATCHES_OF_C * len(x),
            lambda: [search.scores(x, short, warm=True) for _ in range(BATCHES_OF_C)],
        ),
    }
    search.score_of_one(x[:1], 1)  # compiles; the others were compiled above
    rates = {name: [] for name in actions}
    for _ in range(rounds):
        for name, (n, action) in actions.items():
            rates[name].append(n / seconds(action))
    base = np.array(rates["(a) one at a time"])
    for name, values in rates.items():
        ratios = np.array(values) / base
        console.print(
            f"{name:28}{np.median(values):9,.2f} images/s, {np.median(ratios):6.1f} times (a) "
            f"(rounds: {ratios.min():.1f} to {ratios.max():.1f})",
            soft_wrap=True,
        )


if __name__ == "__main__":
    main()
