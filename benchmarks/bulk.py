"""Measures `predict --parts`: how long many names take to list, and how much faster two processes score than one.

    python -m benchmarks.bulk RUN [--address HOST:PORT]

RUN is the folder of a finished run. The benchmark lists empty files, for which it prints the time and the peak memory
of the process. Then it scores hard links to a photograph with one process, with two and, if there is an address, on a
Ray cluster, in turn, several times. What each process does before its first images, such as to import TensorFlow, does
not count.
"""

import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image
from rich.progress import track

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.inference import part_processes, ray_tasks
from anomaly_toolbox.inference.job import Job, JobRequest, locked, plan

FILES_PER_FOLDER = 10_000
IMAGES_PER_PART = 256
SIDE = 256


def write_names(folder: Path, count: int, of_each: bytes) -> None:
    """Writes files with the same content, in folders of 10,000."""
    for start in track(range(0, count, FILES_PER_FOLDER), f"writing {count:,} names", transient=True):
        subfolder = folder / f"{start:09}"
        subfolder.mkdir(parents=True)
        first = subfolder / "first.png"
        first.write_bytes(of_each)
        for index in range(1, min(FILES_PER_FOLDER, count - start)):
            os.link(first, subfolder / f"image-{start + index:09}.png")


def begin(run: Path, images: Path, output: Path) -> Job:
    """Plans a job over all images."""
    request = JobRequest(run, (images,), output, images_per_part=IMAGES_PER_PART, overwrite=True)
    with locked(request):
        job, _ = plan(request)
    return job


def images_per_second(job: Job, n_processes: int, address: str | None = None) -> float:
    """The speed of scoring all parts, here or on a cluster, after every process has begun."""
    messages: list[tuple[float, int]] = []

    def on_progress(n_files: int) -> None:
        messages.append((time.perf_counter(), n_files))

    if address is None:
        part_processes.score_parts(job, range(job.n_parts), n_processes, on_progress)
    else:
        ray_tasks.score_parts(job, range(job.n_parts), n_processes, address, on_progress, lambda: None)
    begun = messages[2 * n_processes :]  # the first messages come while other processes may still compile
    return sum(n_files for _, n_files in begun[1:]) / (begun[-1][0] - begun[0][0])


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--names", default=1_000_000, show_default=True, help="Number of files to list.")
@click.option("--images", default=10_000, show_default=True, help="Number of images to score.")
@click.option("--rounds", default=3, show_default=True, help="Number of rounds.")
@click.option("--address", help="Address of a Ray cluster on this machine, to compare with.")
def main(run: Path, names: int, images: int, rounds: int, address: str | None) -> None:
    """Measure predictions in parts."""
    console = plain_console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_names(folder / "names", names, b"")
        started_at = time.perf_counter()
        begin(run, folder / "names", folder / "listed")
        seconds = time.perf_counter() - started_at
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        console.print(f"{names:,} files listed in {seconds:.0f} s; peak memory of the process {memory:.0f} MiB")

        photograph = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(photograph).resize((SIDE, SIDE)).save(folder / "photograph.png")
        write_names(folder / "images", images, (folder / "photograph.png").read_bytes())
        job = begin(run, folder / "images", folder / "scored")
        engines: dict[str, tuple[int, str | None]] = {"one process": (1, None), "two processes": (2, None)}
        if address is not None:
            engines["two tasks of Ray"] = (2, address)
        ratios: dict[str, list[float]] = {name: [] for name in engines}
        for number in range(1, rounds + 1):
            speeds = {name: images_per_second(job, *engine) for name, engine in engines.items()}
            listed = ", ".join(f"{speed:,.0f} images/s with {name}" for name, speed in speeds.items())
            console.print(f"round {number}: {listed}")
            for name, speed in speeds.items():
                ratios[name].append(speed / speeds["one process"])
        for name, values in ratios.items():
            low, median, high = min(values), statistics.median(values), max(values)
            console.print(f"{name}: {median:.2f} times as fast as one process ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
