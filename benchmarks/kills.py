"""Kills the processes of `predict --parts` at random moments, and compares the predictions with those of `predict`.

    python -m benchmarks.kills RUN [--address HOST:PORT] [--store s3://BUCKET/FOLDER]

RUN is the folder of a finished run. The images are scikit-learn's digits in several sizes and formats; one file in ten
is broken. Until the job is done, `kill -9` ends a process that scores or the whole command, which is started again.
With an address, parts are scored on a Ray cluster on this machine. With a folder in an object store, the images and the
predictions are in it.
"""

import csv
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from PIL import Image
from rich.progress import track
from sklearn.datasets import load_digits

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.inference.folders import folder_at
from anomaly_toolbox.inference.job import SUCCESS
from anomaly_toolbox.objects import object_path

SIZES = ((8, 8), (40, 28), (33, 90))
BROKEN = (b"", b"no image", b"\x89PNG\r\n\x1a\n")


def write_images(folder: Path, count: int) -> None:
    """Writes digits as PNG and JPEG files, and broken files among them."""
    digits = load_digits().images
    for index in track(range(count), f"writing {count:,} images", transient=True):
        subfolder = folder / f"{index // 500:03}"
        subfolder.mkdir(parents=True, exist_ok=True)
        file = subfolder / f"{index:06}.{('png', 'jpg')[index // 2 % 2]}"
        digit = Image.fromarray((digits[index % len(digits)] * 15).astype("uint8"))
        digit.resize(SIZES[index % len(SIZES)]).save(file)
        if index % 20 == 7:
            file.write_bytes(BROKEN[index % len(BROKEN)])
        if index % 20 == 17:
            file.write_bytes(file.read_bytes()[:-40])


def upload(folder: Path, store: str) -> None:
    """Copies a folder to an object store."""
    for file in track(sorted(folder.rglob("*.*")), "uploading", transient=True):
        (object_path(store) / str(file.relative_to(folder))).write(file.read_bytes())


def processes_that_score(command: subprocess.Popen[str], on_ray: bool) -> list[int]:
    """The numbers of the processes that score parts for a command."""
    arguments = ["-f", "^ray::_score_here"] if on_ray else ["-P", str(command.pid), "-f", "spawn_main"]
    found = subprocess.run(["pgrep", *arguments], capture_output=True, text=True, check=False)
    return [int(number) for number in found.stdout.split()]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--images", default=4000, show_default=True, help="Number of files.")
@click.option("--seconds", default=20.0, show_default=True, help="Average time between two kills.")
@click.option("--seed", default=0, show_default=True, help="Seed of the moments and of what is killed.")
@click.option("--address", help="Address of a Ray cluster on this machine.")
@click.option("--store", help="Folder in an object store for images and predictions.")
def main(run: Path, images: int, seconds: float, seed: int, address: str | None, store: str | None) -> None:
    """Kill and compare."""
    console = plain_console()
    chance = random.Random(seed)
    predict = [sys.executable, "-m", "anomaly_toolbox", "predict", str(run)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", images)
        expected = subprocess.run([*predict, folder / "images"], capture_output=True, text=True, check=False).stdout
        source, parts = str(folder / "images"), str(folder / "parts")
        if store is not None:
            upload(folder / "images", f"{store}/images")
            source, parts = f"{store}/images", f"{store}/parts"
        in_parts = [*predict, source, "--parts", parts, "--images-per-part", "100", "--processes", "2"]
        if address is not None:
            in_parts += ["--engine", "ray", "--address", address]
        output = folder_at(Path(parts) if store is None else object_path(parts))
        n_killed = {"command": 0, "scoring process": 0}
        for start in itertools.count(1):
            command = subprocess.Popen(in_parts, stderr=subprocess.PIPE, text=True)
            while True:
                try:
                    command.wait(chance.uniform(0.5, 1.5) * seconds)
                    break
                except subprocess.TimeoutExpired:
                    scoring = processes_that_score(command, address is not None)
                if scoring and chance.random() < 0.7:
                    os.kill(chance.choice(scoring), signal.SIGKILL)
                    n_killed["scoring process"] += 1
                else:
                    command.kill()
                    n_killed["command"] += 1
            _, messages = command.communicate()
            n_parts = sum(part.startswith("part-") for part in output.names())
            console.print(f"start {start}: exit code {command.returncode}, {n_parts} parts; killed: {n_killed}")
            if command.returncode >= 0:
                console.print(messages)
            if command.returncode == 0:
                break
            time.sleep(1)
        rows = []
        for part in output.names():
            if part.startswith("part-"):
                rows += csv.DictReader(output.read(part).decode().splitlines())
        for row in rows:
            row["file"] = row["file"].replace(source, str(folder / "images"))
        same = rows == list(csv.DictReader(expected.splitlines()))
        n_unusable = sum(bool(row["problem"]) for row in rows)
        console.print(f"{len(rows):,} predictions, {n_unusable} of unusable files")
        console.print(f"equal to those of predict: {'yes' if same else 'NO'}; {SUCCESS}: {SUCCESS in output.names()}")
        sys.exit(0 if same and SUCCESS in output.names() else 1)


if __name__ == "__main__":
    main()
