"""How much memory a folder of images takes: it must not grow with the number of files once they are kept on disk.

    python -m benchmarks.folder_memory --files 1000 --files 20000

For each number, photographs of 256x256 RGB pixels are made up as JPEG files; then a process of its own reads the folder
at the given size and looks at every image twice, as training does. Told are the seconds this took, the memory it had at
most beyond what TensorFlow alone takes, and how many bytes all images together are at that size.
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

SIDE = 256


def write_photographs(folder: Path, number: int, console: Console) -> None:
    """Nine in ten are normal."""
    generator = np.random.default_rng(0)
    for index in track(range(number), f"making {number:,} files", console=console, transient=True):
        kind = folder / ("anomalous" if index % 10 == 9 else "normal")
        kind.mkdir(exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(kind / f"{index}.jpg")


def measure(folder: Path, size: int, answers: multiprocessing.Queue) -> None:
    """Puts seconds and bytes into `answers`."""
    from anomaly_toolbox.datasets.folder import ImageFolder

    before, highest, is_over = _own_memory(), [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.05):
            highest[0] = max(highest[0], _own_memory())

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.perf_counter()
    dataset = ImageFolder(folder)
    dataset.configure(64, (size, size), drop_remainder=False)
    for split in (dataset.train, dataset.validation, dataset.test) * 2:
        for _ in split:
            pass
    seconds = time.perf_counter() - began
    is_over.set()
    watching.join()
    answers.put((seconds, highest[0] - before))


def _own_memory() -> int:
    """Bytes that the process cannot give back: pages of files, which it can, are left out."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise click.ClickException("this benchmark reads /proc/self/status, which Linux alone has")


@click.command()
@click.option("--files", multiple=True, default=(1000, 20_000), show_default=True, help="How many files; repeatable.")
@click.option("--image-size", default=160, show_default=True, help="Side that images are resized to.")
def main(files: tuple[int, ...], image_size: int) -> None:
    """Measures the memory that folders of images take."""
    console = plain_console()
    spawn = multiprocessing.get_context("spawn")
    for number in files:
        with tempfile.TemporaryDirectory() as folder:
            write_photographs(Path(folder), number, console)
            answers = spawn.Queue()
            process = spawn.Process(target=measure, args=(Path(folder), image_size, answers))
            process.start()
            seconds, n_bytes = answers.get()
            process.join()
        together = number * image_size**2 * 3 / 2**20
        taken = n_bytes / 2**20
        console.print(
            f"{number:7,} files: {taken:6,.0f} MiB at most, for {together:6,.0f} MiB of images, {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
