"""Measures the memory for a folder of images, which must not grow with the number of files.

    python -m benchmarks.folder_memory --files 1000 --files 20000

For each number of files, the benchmark writes JPEG files of 256x256 RGB pixels. A new process reads the folder at the
given image size and passes over all images twice, as training does. The output is the peak memory beyond that of
TensorFlow, the memory that all decoded images would take together, and the time in seconds.
"""

import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from anomaly_toolbox.console import plain_console
from benchmarks.process_memory import PRIVATE, memory

SIDE = 256


def write_photographs(folder: Path, count: int, console: Console) -> None:
    """Writes smooth random images as JPEG files; one in ten is anomalous."""
    generator = np.random.default_rng(0)
    for index in track(range(count), f"writing {count:,} files", console=console, transient=True):
        subfolder = folder / ("anomalous" if index % 10 == 9 else "normal")
        subfolder.mkdir(exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(subfolder / f"{index}.jpg")


def measure(folder: Path, image_size: int, results: multiprocessing.Queue) -> None:
    """Passes over a folder twice, and puts the time in seconds and the peak memory in bytes into `results`."""
    from anomaly_toolbox.datasets.folder import ImageFolder

    memory_before = memory(PRIVATE)
    peak_memory = 0
    is_finished = threading.Event()

    def watch_memory() -> None:
        nonlocal peak_memory
        while not is_finished.wait(0.05):
            peak_memory = max(peak_memory, memory(PRIVATE))

    watcher = threading.Thread(target=watch_memory)
    watcher.start()
    started = time.perf_counter()
    dataset = ImageFolder(folder)
    dataset.configure(64, (image_size, image_size), drop_remainder=False)
    for split in (dataset.train, dataset.validation, dataset.test) * 2:
        for _ in split:
            pass
    seconds = time.perf_counter() - started
    is_finished.set()
    watcher.join()
    results.put((seconds, peak_memory - memory_before))


@click.command()
@click.option("--files", multiple=True, default=(1000, 20_000), show_default=True, help="Number of files; repeatable.")
@click.option("--image-size", default=160, show_default=True, help="Side length of the resized images, in pixels.")
def main(files: tuple[int, ...], image_size: int) -> None:
    """Measure the memory for folders of images."""
    console = plain_console()
    spawn = multiprocessing.get_context("spawn")
    for count in files:
        with tempfile.TemporaryDirectory() as folder:
            write_photographs(Path(folder), count, console)
            results = spawn.Queue()
            process = spawn.Process(target=measure, args=(Path(folder), image_size, results))
            process.start()
            seconds, peak_bytes = results.get()
            process.join()
        peak_mib = peak_bytes / 2**20
        images_mib = count * image_size**2 * 3 / 2**20
        console.print(
            f"{count:7,} files: {peak_mib:6,.0f} MiB at most, for {images_mib:6,.0f} MiB of images, {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
