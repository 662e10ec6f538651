"""Scores images that come one by one from many requests, in the batches that the networks were compiled for.

One thread owns the detector. It takes all images that wait, at most a batch, and scores them together.
"""

import concurrent.futures
import contextlib
import io
import queue
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anomaly_toolbox.datasets.decoding import read_header
from anomaly_toolbox.datasets.walk import BadImage
from anomaly_toolbox.inference.predictions import heatmap_of
from anomaly_toolbox.processes import n_threads

if TYPE_CHECKING:  # this module imports TensorFlow
    from anomaly_toolbox.inference.detector import Detector, ScoredImage


class Busy(Exception):
    """So many images wait already that no more can."""


class Answer(NamedTuple):
    """What is known about an image.

    Attributes:
        scored: its scores; None if it cannot be used.
        problem: the reason why it cannot be used.
        heatmap: a PNG file, if it was asked for.
    """

    scored: "ScoredImage | None"
    problem: str | None = None
    heatmap: bytes | None = None


class _Waiting:
    """An image that waits; when its answer is there or is given up, its content is forgotten."""

    def __init__(self, content: bytes, with_heatmap: bool):
        self.content, self.with_heatmap = content, with_heatmap
        self.answer: Future[Answer] = Future()
        self.answer.add_done_callback(self._forget_content)

    def _forget_content(self, answer: Future[Answer]) -> None:
        self.content = b""


class Scorer:
    """Answers for images, in batches; `close` ends its threads.

    Args:
        detector: scores the images; used by one thread only.
        most_waiting: the most images that wait at the same time.
        most_pixels: images with more pixels are not decoded.
    """

    def __init__(self, detector: "Detector", most_waiting: int, most_pixels: int):
        self._detector = detector
        self._most_waiting, self._most_pixels = most_waiting, most_pixels
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._n_waiting = 0
        self._lock = threading.Lock()
        self._drawing = ThreadPoolExecutor(n_threads())
        self._thread = threading.Thread(target=self._work, name="scorer", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """How many images wait or are being scored."""
        return self._n_waiting

    @property
    def is_alive(self) -> bool:
        """Whether images are still scored."""
        return self._thread.is_alive()

    def submit(self, contents: Sequence[bytes], with_heatmaps: bool) -> list[Future[Answer]]:
        """Has images scored, all or none of them.

        Args:
            contents: of the image files.
            with_heatmaps: draw a heatmap of each image.

        Raises:
            Busy: too many images wait.
        """
        with self._lock:
            if self._n_waiting + len(contents) > self._most_waiting:
                raise Busy
            self._n_waiting += len(contents)
        answers = []
        for content in contents:
            item = _Waiting(content, with_heatmaps)
            item.answer.add_done_callback(self._count_out)
            self._waiting.put(item)
            answers.append(item.answer)
        return answers

    def close(self) -> None:
        """Answers the images that wait, and ends."""
        self._waiting.put(None)
        self._thread.join()
        self._drawing.shutdown()

    def _count_out(self, answer: Future[Answer]) -> None:
        with self._lock:
            self._n_waiting -= 1

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch = [self._waiting.get()]
            while len(batch) < self._detector.batch_size and batch[-1] is not None and not self._waiting.empty():
                batch.append(self._waiting.get())
            is_open = batch[-1] is not None
            # Whoever has given up waiting has cancelled the answer.
            wanted = [item for item in batch if item is not None and item.answer.set_running_or_notify_cancel()]
            if wanted:
                self._answer(wanted)

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        """Answers for a batch; an error of any kind is the answer to its images, and the thread goes on."""
        try:
            with tempfile.TemporaryDirectory(prefix="anomaly-toolbox-") as folder:
                paths = [Path(folder, str(index)) for index in range(len(batch))]
                usable = []
                for path, item in zip(paths, batch, strict=True):
                    path.write_bytes(item.content)
                    problem = self._why_unusable(path)
                    if problem is None:
                        usable.append((path, item))
                    else:
                        item.answer.set_result(Answer(None, problem))
                outcomes = self._detector.score_files([path for path, _ in usable])
                drawn = []
                for (path, item), (_, outcome) in zip(usable, outcomes, strict=True):
                    if isinstance(outcome, BadImage):
                        item.answer.set_result(Answer(None, outcome.reason))
                    elif item.with_heatmap:
                        drawn.append(self._drawing.submit(self._draw, path, outcome, item.answer))
                    else:
                        item.answer.set_result(Answer(outcome))
                concurrent.futures.wait(drawn)  # the folder of the images is there until then
        except Exception as problem:
            for item in batch:
                with contextlib.suppress(InvalidStateError):  # some of them may have their answers
                    item.answer.set_exception(problem)

    def _why_unusable(self, path: Path) -> str | None:
        try:
            header = read_header(path)
        except BadImage as problem:
            return problem.reason
        n_pixels = header.width * header.height
        if n_pixels > self._most_pixels:
            return f"has {n_pixels:,} pixels; expected at most {self._most_pixels:,}"
        return None

    def _draw(self, path: Path, scored: "ScoredImage", answer: Future[Answer]) -> None:
        """Answers with a heatmap; an error concerns this image alone."""
        try:
            file = io.BytesIO()
            heatmap_of(path, scored, self._detector).save(file, format="PNG")
            answer.set_result(Answer(scored, heatmap=file.getvalue()))
        except Exception as problem:
            answer.set_exception(problem)
