"""Images of many requests are scored in batches, and every answer belongs to its image."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from PIL import Image

from anomaly_toolbox.inference.detector import ScoredImage
from anomaly_toolbox.service import scorer as scorer_module
from anomaly_toolbox.service.scorer import Busy, Scorer
from tests.service.images import png

MOST_PIXELS = 10_000


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
    scorer = Scorer(detector, most_waiting=500, most_pixels=MOST_PIXELS)
    yield scorer
    detector.may_score.set()
    scorer.close()


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
        "has 20,000 pixels; expected at most 10,000",
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


def test_images_that_were_given_up_need_no_memory(scorer, detector):
    detector.may_score.clear()
    (first,) = scorer.submit([png(1)], with_heatmaps=False)
    while not first.running():
        time.sleep(0.01)
    (given_up,) = scorer.submit([png(2)], with_heatmaps=False)
    given_up.cancel()
    assert scorer._waiting.get().content == b""


def test_what_waits_at_the_end_is_answered(detector):
    scorer = Scorer(detector, most_waiting=500, most_pixels=MOST_PIXELS)
    answers = scorer.submit([png(5)] * 9, with_heatmaps=False)
    scorer.close()
    assert [answer.result(0).scored.score for answer in answers] == [5] * 9
