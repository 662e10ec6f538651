"""Measures `anomaly-box serve`: 50 clients that send one image at a time, against one client that sends 50.

    python -m benchmarks.service RUN

RUN is the folder of a finished run. The images are digits of scikit-learn with noise, all of them different. So the
benchmark also sees whether every answer belongs to its image: it has the score that `load(RUN)` gives. In each round
both ways send the same images, one after the other. The memory of the service is read from Linux's /proc.
"""

import http.client
import io
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from anomaly_toolbox import load
from anomaly_toolbox.console import plain_console

CLIENTS = 50
SIDE = 32
BOUNDARY = "images"
ROUNDING = 1e-4  # of scores near 0; those of different images differ by far more


def make_images(count: int) -> list[np.ndarray]:
    """Grey images of 32x32 pixels, all of them different."""
    generator = np.random.default_rng(0)
    digits = load_digits().images
    images = []
    for index in range(count):
        digit = np.kron(digits[index % len(digits)], np.ones((4, 4))) * 13
        images.append((digit + generator.integers(0, 48, (SIDE, SIDE))).astype(np.uint8))
    return images


def png(pixels: np.ndarray) -> bytes:
    """The content of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def scores_of(connection: http.client.HTTPConnection, contents: Sequence[bytes]) -> list[float]:
    """Sends images in one request; sends it again while the service is busy."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="f"; filename="f.png"\r\n\r\n'.encode()
    body = b"".join(head + content + b"\r\n" for content in contents) + f"--{BOUNDARY}--\r\n".encode()
    while True:
        connection.request("POST", "/score", body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 503:
            return [prediction["score"] for prediction in json.loads(content)["predictions"]]
        time.sleep(float(answer.headers["Retry-After"]))


def send(address: str, images: Sequence[bytes], clients: int, per_request: int) -> tuple[float, list[float]]:
    """Sends images from several clients, each over one connection; the seconds it takes, and the scores in order."""
    shares = [range(client, len(images), clients) for client in range(clients)]
    scores = [0.0] * len(images)

    def work(share: range) -> None:
        connection = http.client.HTTPConnection(address, timeout=120)
        for start in range(0, len(share), per_request):
            indices = share[start : start + per_request]
            for index, score in zip(indices, scores_of(connection, [images[i] for i in indices]), strict=True):
                scores[index] = score

    started_at = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, shares))
    return time.perf_counter() - started_at, scores


def peak_mib(process: subprocess.Popen[str]) -> int:
    """The most memory that a process has had, on Linux."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found is not None
    return int(found.group(1)) // 1024


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--images", default=5000, show_default=True, help="Number of images in each round.")
@click.option("--rounds", default=3, show_default=True, help="Number of rounds.")
def main(run: Path, images: int, rounds: int) -> None:
    """Measure the service."""
    console = plain_console()
    pixels = make_images(images)
    expected = [float(f"{score:.9g}") for score in load(run).score_images(pixels)]
    contents = [png(image) for image in pixels]
    command = [sys.executable, "-m", "anomaly_toolbox", "serve", str(run), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = None
        while found is None:
            found = re.search(r"http://(\S+)", process.stderr.readline())
        ratios = []
        for number in range(1, rounds + 1):
            seconds_of_one, of_one = send(found.group(1), contents, 1, CLIENTS)
            seconds_of_many, of_many = send(found.group(1), contents, CLIENTS, 1)
            ratios.append(seconds_of_one / seconds_of_many)
            wrong = 0
            for scores in (of_one, of_many):
                wrong += int((~np.isclose(scores, expected, rtol=ROUNDING, atol=0)).sum())
            console.print(
                f"round {number}: {images / seconds_of_many:,.0f} images/s from {CLIENTS} clients, "
                f"{images / seconds_of_one:,.0f} from one; wrong answers: {wrong}; "
                f"peak memory of the service {peak_mib(process):,} MiB"
            )
    finally:
        process.send_signal(signal.SIGTERM)
        console.print(f"the service ended with exit code {process.wait(60)}")
    console.print(
        f"{CLIENTS} clients have {statistics.median(ratios):.2f} times the throughput of one that sends {CLIENTS} "
        f"at a time ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
