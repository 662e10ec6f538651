"""Compares the training step of GANomaly with the same step in PyTorch, eager and compiled by `torch.compile`.

    python -m benchmarks.peers

In each round, the three train for the same number of steps, one after the other, on the same machine and with all its
cores. The ratio is that of one round; the median over all rounds is printed. PyTorch runs in processes of its own,
`benchmarks.peers_torch`, which wait while others train. It needs PyTorch, here or in the Python that `--python` names.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rich.progress import track

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.models.ganomaly import GANomaly
from anomaly_toolbox.tf_data import without_autotuning
from benchmarks.random_batches import random_batch
from benchmarks.throughput import peak_gflops, seconds

MODES = ("eager", "compile")
STEPS_TO_WARM_UP = 3


class Peer:
    """A process that trains in PyTorch.

    Args:
        python: the Python that has PyTorch.
        sizes: the options of `benchmarks.peers_torch`.
        mode: `eager` or `compile`.
    """

    def __init__(self, python: str, sizes: dict[str, int], mode: str):
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.peers_torch", json.dumps(sizes), mode],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def seconds(self, steps: int) -> float:
        """The duration of some steps."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            print(steps, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            line = ""
        else:
            line = self._process.stdout.readline()
        if not line:
            last_lines = self._process.stderr.read().strip().splitlines()[-1:]
            raise click.ClickException(f"PyTorch does not train: {' '.join(last_lines)}")
        return float(line)


@click.command()
@click.option("--python", default=sys.executable, help="The Python that has PyTorch; by default this one.")
@click.option("--size", default=32, show_default=True, help="The side of the images.")
@click.option("--width", default=64, show_default=True, help="The channels of the first convolution.")
@click.option("--batch-size", default=64, show_default=True, help="The number of images in a step.")
@click.option("--steps", default=10, show_default=True, help="Number of training steps in a round.")
@click.option("--rounds", default=6, show_default=True, help="Number of rounds.")
def main(python: str, size: int, width: int, batch_size: int, steps: int, rounds: int) -> None:
    """Compare GANomaly's training step with PyTorch's."""
    console = plain_console()
    hyperparameters = GANomaly.Hyperparameters(image_size=size, width=width, batch_size=batch_size)
    detector = GANomaly(hyperparameters, channels=1)
    detector.compile()
    batches = without_autotuning(tf.data.Dataset.from_tensors(random_batch(detector)).repeat())
    sizes = {
        "size": size,
        "width": width,
        "channels": 1,
        "latent": hyperparameters.latent_vector_size,
        "batch_size": batch_size,
    }
    peers = {mode: Peer(python, sizes, mode) for mode in MODES}

    def train() -> None:
        detector.fit(batches, steps_per_epoch=steps, verbose=0, shuffle=False)

    for peer in peers.values():
        peer.seconds(STEPS_TO_WARM_UP)
    train()
    peak = peak_gflops()
    own: list[float] = []
    others: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in track(range(rounds), "measuring", console=console, transient=True):
        own.append(seconds(train))
        for mode, peer in peers.items():
            others[mode].append(peer.seconds(steps))
    console.print(
        f"GANomaly, {size}x{size}, width {width}, batch {batch_size}; matrix-product peak {peak:,.1f} GFLOP/s"
    )
    console.print(f"toolbox          {steps * batch_size / np.median(own):8,.0f} images/s")
    for mode, durations in others.items():
        ratios = np.array(durations) / np.array(own)
        console.print(
            f"PyTorch, {mode:8}{steps * batch_size / np.median(durations):8,.0f} images/s; the toolbox is "
            f"{np.median(ratios):.2f} times as fast (rounds: {ratios.min():.2f} to {ratios.max():.2f})",
            soft_wrap=True,
        )


if __name__ == "__main__":
    main()
