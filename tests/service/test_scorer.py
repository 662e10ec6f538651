"""Images of many requests are scored in batches, and every answer belongs to its image."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from PIL import Image

from anomaly_toolbox.inference.detector import ScoredImage
from anomaly_toolbox.service import scorer as scorer_module
from anomaly_toolbox.service.limits import Limits
from anomaly_toolbox.service.scorer import Busy, Scorer, TooManyPixels
from tests.service.images import png

LIMITS = Limits(pixels=10_000, request_pixels=40_000, waiting=500, waiting_pixels=600_000, batch_pixels=20_000)


class StubDetector:
    """Scores an image by its width, as soon as it may."""

    batch_size = 4
    reading = SimpleNamespace()

    def __init__(self):
        self.batches = []
        self.may_score = threading.Event()
        self.may_score.set()

    def score_files(self, paths):
        from anomaly_toolbox.datasets.decoding import read_header

        assert self.may_score.wait(60)
        self.batches.append(len(paths))
        for path in paths:
            yield path, ScoredImage(read_header(path).width, 0.5, False, None, None)


@pytest.fixture
def detector():
    return StubDetector()


@pytest.fixture
def scorer(detector):
    scorer = Scorer(detector, LIMITS)
    yield scorer
    detector.may_score.set()
    scorer.close(60)


def test_every_answer_belongs_to_its_image(scorer, detector):
    def ask(width):
        (answer,) = scorer.submit([png(width)], with_heatmaps=False)
        return answer.result(60).scored.score

    with ThreadPoolExecutor(50) as clients:
        assert list(clients.map(ask, range(1, 401))) == list(range(1, 401))
    assert sum(detector.batches) == 400
    assert max(detector.batches) == 4
    assert scorer.n_waiting == 0


def test_images_that_wait_are_scored_together(scorer, detector):
    detector.may_score.clear()
    (first,) = scorer.submit([png(1)], with_heatmaps=False)
    while not first.running():
        time.sleep(0.01)
    others = [scorer.submit([png(width)], with_heatmaps=False)[0] for width in range(2, 10)]
    detector.may_score.set()
    assert [answer.result(60).scored.score for answer in others] == list(range(2, 10))
    assert detector.batches == [1, 4, 4]


def test_more_images_than_may_wait_are_refused_together(scorer, detector):
    detector.may_score.clear()
    answers = scorer.submit([png(1)] * 499, with_heatmaps=False)
    with pytest.raises(Busy):
        scorer.submit([png(1)] * 2, with_heatmaps=False)
    assert scorer.n_waiting == 499
    detector.may_score.set()
    for answer in answers:
        answer.result(60)
    scorer.submit([png(1)] * 2, with_heatmaps=False)[1].result(60)


def test_nobody_waits_for_an_image_that_was_given_up(scorer, detector):
    detector.may_score.clear()
    (first,) = scorer.submit([png(1)], with_heatmaps=False)
    while not first.running():
        time.sleep(0.01)
    (given_up,) = scorer.submit([png(2)], with_heatmaps=False)
    assert given_up.cancel()
    (last,) = scorer.submit([png(3)], with_heatmaps=False)
    detector.may_score.set()
    assert last.result(60).scored.score == 3
    assert detector.batches == [1, 1]
    assert scorer.n_waiting == 0


def test_files_that_cannot_be_used_have_a_reason(scorer, detector):
    contents = [b"", b"no image", png(200, 100), png(7)]
    answers = [answer.result(60) for answer in scorer.submit(contents, with_heatmaps=False)]
    assert [answer.problem for answer in answers] == [
        "is empty",
        "is not a PNG, JPEG, BMP or TIFF image, or its beginning is damaged",
        "has 200 x 100 pixels, more than 10,000",
        None,
    ]
    assert answers[-1].scored.score == 7


def test_an_error_is_the_answer_and_the_next_images_are_scored(scorer, detector, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(detector, "score_files", lambda paths: 1 / 0)
        (answer,) = scorer.submit([png(1)], with_heatmaps=False)
        with pytest.raises(ZeroDivisionError):
            answer.result(60)
    assert scorer.submit([png(2)], with_heatmaps=False)[0].result(60).scored.score == 2


def test_a_heatmap_that_cannot_be_drawn_concerns_its_image_alone(scorer, monkeypatch):
    def draw(path, scored, detector):
        if scored.score == 2:
            raise MemoryError
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(scorer_module, "heatmap_of", draw)
    answers = scorer.submit([png(1), png(2), png(3)], with_heatmaps=True)
    assert answers[0].result(60).heatmap.startswith(b"\x89PNG")
    with pytest.raises(MemoryError):
        answers[1].result(60)
    assert answers[2].result(60).scored.score == 3
    assert scorer.is_alive


def keep_busy(scorer, detector):
    """Has an image scored until `may_score` is set."""
    detector.may_score.clear()
    (first,) = scorer.submit([png(1)], with_heatmaps=False)
    while not first.running():
        time.sleep(0.01)
    return first


def test_images_that_were_given_up_need_no_memory(scorer, detector):
    keep_busy(scorer, detector)
    (given_up,) = scorer.submit([png(2)], with_heatmaps=False)
    given_up.cancel()
    ((image,),) = scorer._requests
    assert image.content == b""


def test_requests_take_turns(scorer, detector):
    """A small request does not wait for all images of a large one."""
    keep_busy(scorer, detector)
    large = scorer.submit([png(2)] * 20, with_heatmaps=False)
    (small,) = scorer.submit([png(3)], with_heatmaps=False)
    n_done = []
    small.add_done_callback(lambda _: n_done.append(sum(answer.done() for answer in large)))
    detector.may_score.set()
    for answer in (*large, small):
        answer.result(60)
    assert n_done[0] <= 4
    assert detector.batches == [1, 4, 4, 4, 4, 4, 1]


def test_a_batch_of_large_images_has_fewer_of_them(scorer, detector):
    keep_busy(scorer, detector)
    for _ in range(4):
        scorer.submit([png(100, 100)], with_heatmaps=False)
    last = scorer.submit([png(2)], with_heatmaps=False)[0]
    detector.may_score.set()
    last.result(60)
    assert detector.batches == [1, 2, 2, 1]


def test_pixels_are_limited(scorer, detector):
    with pytest.raises(TooManyPixels, match="50,000 pixels are decoded for this request"):
        scorer.submit([png(100, 100)] * 5, with_heatmaps=False)
    with pytest.raises(TooManyPixels):
        scorer.submit([png(100, 100)] * 3, with_heatmaps=True)  # each is decoded twice
    keep_busy(scorer, detector)
    for _ in range(14):
        answers = scorer.submit([png(100, 100)] * 4, with_heatmaps=False)
    with pytest.raises(Busy, match="images with 560,020 pixels wait already"):
        scorer.submit([png(100, 100)] * 4, with_heatmaps=False)
    detector.may_score.set()
    for answer in answers:
        answer.result(60)
    scorer.submit([png(100, 100)] * 4, with_heatmaps=False)[-1].result(60)


def test_what_waits_at_the_end_is_given_up(detector):
    scorer = Scorer(detector, LIMITS)
    first = keep_busy(scorer, detector)
    waiting = scorer.submit([png(5)] * 9, with_heatmaps=False)
    scorer.close(seconds=0.01)
    assert all(answer.cancelled() for answer in waiting)
    assert scorer.is_alive
    with pytest.raises(Busy, match="the service ends"):
        scorer.submit([png(5)], with_heatmaps=False)
    detector.may_score.set()
    assert first.result(60).scored.score == 1
    scorer.close(seconds=60)
    assert not scorer.is_alive
    assert scorer.n_waiting == 0
