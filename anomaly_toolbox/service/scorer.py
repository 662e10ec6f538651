"""Scores images that come one by one from many requests, in the batches that the networks were compiled for.

One thread owns the detector. For each batch it takes one image of each request in turn, so that a request of many or
large images does not keep the others waiting.
"""

import collections
import concurrent.futures
import contextlib
import functools
import io
import threading
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from anomaly_toolbox.datasets.decoding import IN_MEMORY, read_header
from anomaly_toolbox.datasets.walk import BadImage
from anomaly_toolbox.inference.predictions import heatmap_of
from anomaly_toolbox.processes import n_threads
from anomaly_toolbox.service.limits import Limits

if TYPE_CHECKING:  # this module imports TensorFlow
    from anomaly_toolbox.inference.detector import Detector, ScoredImage


JPEG, JPEG_SCAN = b"\xff\xd8", b"\xff\xda"  # the beginning of a file, and that of a scan
SCANS_PER_DECODING = 10  # a progressive JPEG file has about ten, and each of more takes about a tenth of the time again


class Busy(Exception):
    """So much waits already that these images cannot; the message says how much."""


class TooManyPixels(Exception):
    """Images with so many pixels are not scored together; the message says how many."""


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
        self.n_decoded = 0
        self.answer: Future[Answer] = Future()
        self.answer.add_done_callback(self._forget_content)

    def count_pixels(self, limits: Limits) -> None:
        """Sets `n_decoded`, the number of pixels that will be decoded; raises BadImage if the image cannot be used."""
        header = read_header(self.content, limits.pixels)
        self.n_decoded = header.width * header.height
        if self.content.startswith(JPEG):
            n_scans = self.content.count(JPEG_SCAN)
            if n_scans > limits.scans:
                raise BadImage(IN_MEMORY, f"is a JPEG file with {n_scans:,} scans; expected at most {limits.scans}")
            self.n_decoded *= max(1, n_scans // SCANS_PER_DECODING)
        if self.with_heatmap:
            self.n_decoded *= 2

    def _forget_content(self, answer: Future[Answer]) -> None:
        self.content = b""


class Scorer:
    """Answers for images, in batches; `close` ends its threads.

    Args:
        detector: scores the images; used by one thread only.
        limits: how much may be asked and may wait.

    Attributes:
        detector: see above.
        n_waiting: how many images wait or are being scored.
    """

    def __init__(self, detector: "Detector", limits: Limits):
        self.detector = detector
        self.n_waiting = 0
        self._limits = limits
        self._n_waiting_pixels = 0
        self._requests: collections.deque[collections.deque[_Waiting]] = collections.deque()
        self._is_closed = False
        self._changed = threading.Condition()
        self._drawing = ThreadPoolExecutor(n_threads())
        self._thread = threading.Thread(target=self._work, name="scorer", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread that scores images still runs."""
        return self._thread.is_alive()

    def submit(self, contents: Sequence[bytes], with_heatmaps: bool) -> list[Future[Answer]]:
        """Has the images of a request scored, all or none of them.

        Args:
            contents: of the image files.
            with_heatmaps: draw a heatmap of each image.

        Raises:
            TooManyPixels: the images have too many pixels together.
            Busy: too many images or pixels wait.
        """
        answers = []
        usable: collections.deque[_Waiting] = collections.deque()
        for content in contents:
            image = _Waiting(content, with_heatmaps)
            answers.append(image.answer)
            try:
                image.count_pixels(self._limits)
            except BadImage as problem:
                image.answer.set_result(Answer(None, problem.reason))
            else:
                usable.append(image)
        if usable:
            self._enqueue(usable)
        return answers

    def close(self, seconds: float) -> None:
        """Gives up what waits, and ends after the batch that is being scored.

        Args:
            seconds: the longest time to wait for this batch; `is_alive` says whether it is still being scored.
        """
        with self._changed:
            self._is_closed = True
            given_up = [image for request in self._requests for image in request]
            self._requests.clear()
            self._changed.notify()
        for image in given_up:
            image.answer.cancel()
        self._thread.join(seconds)
        self._drawing.shutdown(wait=False)

    def _enqueue(self, images: "collections.deque[_Waiting]") -> None:
        n_pixels = sum(image.n_decoded for image in images)
        if n_pixels > self._limits.request_pixels:
            raise TooManyPixels(
                f"{n_pixels:,} pixels are decoded for this request, twice if heatmaps are drawn; "
                f"expected at most {self._limits.request_pixels:,}"
            )
        with self._changed:
            if self._is_closed:
                raise Busy("the service ends")
            if self.n_waiting + len(images) > self._limits.waiting:
                raise Busy(f"{self.n_waiting} images wait already")
            if self._n_waiting_pixels + n_pixels > self._limits.waiting_pixels:
                raise Busy(f"images with {self._n_waiting_pixels:,} pixels wait already")
            self.n_waiting += len(images)
            self._n_waiting_pixels += n_pixels
            for image in images:
                image.answer.add_done_callback(functools.partial(self._count_out, image.n_decoded))
            self._requests.append(images)
            self._changed.notify()

    def _count_out(self, n_decoded: int, answer: Future[Answer]) -> None:
        with self._changed:
            self.n_waiting -= 1
            self._n_waiting_pixels -= n_decoded

    def _work(self) -> None:
        while batch := self._next_batch():
            self._answer(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Waits for images, and takes as many as are scored together; none after `close`."""
        batch: list[_Waiting] = []
        with self._changed:
            while not batch and not self._is_closed:
                self._changed.wait_for(lambda: self._requests or self._is_closed)
                n_pixels = 0
                while self._requests and len(batch) < self.detector.batch_size and n_pixels < self._limits.batch_pixels:
                    request = self._requests.popleft()
                    image = request.popleft()
                    if request:
                        self._requests.append(request)
                    # Whoever has given up waiting has cancelled the answer.
                    if image.answer.set_running_or_notify_cancel():
                        batch.append(image)
                        n_pixels += image.n_decoded
        return batch

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        """Answers for a batch; an error of any kind is the answer to its images, and the thread goes on."""
        try:
            drawn = []
            outcomes = self.detector.score_files([image.content for image in batch])
            for image, (content, outcome) in zip(batch, outcomes, strict=True):
                if isinstance(outcome, BadImage):
                    image.answer.set_result(Answer(None, outcome.reason))
                elif image.with_heatmap:
                    drawn.append(self._drawing.submit(self._draw, content, outcome, image.answer))
                else:
                    image.answer.set_result(Answer(outcome))
            concurrent.futures.wait(drawn)  # so that the heatmaps of few images are in memory
        except Exception as problem:
            for image in batch:
                with contextlib.suppress(InvalidStateError):  # some of them may have their answers
                    image.answer.set_exception(problem)

    def _draw(self, content: bytes, scored: "ScoredImage", answer: Future[Answer]) -> None:
        """Answers with a heatmap; an error concerns this image alone."""
        try:
            file = io.BytesIO()
            heatmap_of(content, scored, self.detector).save(file, format="PNG")
            answer.set_result(Answer(scored, heatmap=file.getvalue()))
        except Exception as problem:
            answer.set_exception(problem)
