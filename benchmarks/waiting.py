"""Measures what a person waits for: where the seconds of whole commands go.

    python -m benchmarks.waiting

Four commands run, each once without kept compiled steps and once with them: the demo, two epochs of Fashion-MNIST if
its files are there, a sweep of eight short trials, and the prediction of one image. The phases are those of
`benchmarks.stopwatch`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from PIL import Image
from rich.table import Table
from sklearn.datasets import load_digits

from anomaly_toolbox.console import plain_console
from benchmarks.stopwatch import COMPILE, IMPORT, OTHER, PHASES

REPOSITORY = Path(__file__).parent.parent
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
DEMO = (
    "--experiment",
    "GANomaly",
    "--dataset",
    "Digits",
    "--hps-path",
    str(REPOSITORY / "hps" / "demo.json"),
)
SHORT = ("--set", "epochs=1", "--set", "width=8")
START_AND_END = "start and end of Python"
KINDS = [IMPORT, COMPILE, *PHASES, OTHER, START_AND_END]


def run(arguments: Sequence[str], cache: Path) -> dict[str, float]:
    """Runs a command; the seconds of each phase."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "seconds.json")
        command = [sys.executable, "-m", "benchmarks.stopwatch", str(file), *arguments]
        started_at = time.perf_counter()
        finished = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "XDG_CACHE_HOME": str(cache)},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started_at
        if finished.returncode:
            raise click.ClickException(finished.stderr)
        phases = json.loads(file.read_text())
        return phases | {START_AND_END: seconds - sum(phases.values())}


def commands(folder: Path, logs: Path) -> dict[str, list[str]]:
    """The arguments of each command.

    Args:
        folder: where what they need is written.
        logs: for the run folders.
    """
    rates = [round(0.0002 + 1e-5 * index, 6) for index in range(8)]
    grid = {"ganomaly": {"learning_rate": {"type": "Discrete", "values": rates}}}
    sweep = folder / "sweep.json"
    sweep.write_text(json.dumps(grid))
    image = folder / "image.png"
    Image.fromarray((load_digits().images[0] * 15).astype(np.uint8)).save(image)
    log_dir = ["--log-dir", str(logs)]
    found = {
        "the demo": [*DEMO, *log_dir],
        "a sweep of eight trials": [*DEMO[:4], "--hps-path", str(sweep), *SHORT, "--tuning", *log_dir],
        "predict, one image": ["predict", str(folder / "run"), str(image)],
    }
    if FASHION_MNIST.is_dir():
        training = [
            "--experiment",
            "GANomaly",
            "--dataset",
            "FashionMNIST",
            "--data-dir",
            str(FASHION_MNIST),
        ]
        found["two epochs of Fashion-MNIST"] = [*training, "--set", "epochs=2", "--set", "width=16", *log_dir]
    return found


@click.command()
@click.option("--rounds", default=1, show_default=True, help="Number of rounds; the medians are shown.")
def main(rounds: int) -> None:
    """Measure what a person waits for."""
    console = plain_console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured: dict[str, list[dict[str, float]]] = {}
        for number in range(rounds):
            for state in ("first", "again"):
                logs = folder / f"logs-{number}-{state}"
                for title, arguments in commands(folder, logs).items():
                    console.print(f"round {number + 1}: {title}, {state}")
                    measured.setdefault(f"{title}, {state}", []).append(
                        run(arguments, folder / f"cache-{number}-{title}")
                    )
                    if not (folder / "run").exists():
                        (folder / "run").symlink_to(next(logs.rglob("results.json")).parent)
    table = Table("phase", *measured, title="seconds")
    for kind in [*KINDS, "all"]:
        cells = []
        for rounds_of_one in measured.values():
            seconds = [sum(one.values()) if kind == "all" else one.get(kind, 0.0) for one in rounds_of_one]
            cells.append(f"{statistics.median(seconds):.1f}")
        table.add_row(kind, *cells)
    console.print(table)


if __name__ == "__main__":
    main()
