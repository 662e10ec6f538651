"""What a service answers: to programs, to people's mistakes, and to those who must not ask."""

import asyncio
import base64
import io
import json
import re
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.datastructures import Headers

from anomaly_toolbox.service import guard
from anomaly_toolbox.service.app import make_app
from anomaly_toolbox.service.guard import Rules
from anomaly_toolbox.service.limits import Limits
from anomaly_toolbox.service.scorer import Scorer
from tests.inference.test_parts import anomaly_box
from tests.service.conftest import ON_THIS_MACHINE, client_of
from tests.service.images import png

PREDICT = "/v1/models/pca:predict"
BROWSER = {"Accept": "text/html,*/*;q=0.8"}
JSON = {"Content-Type": "application/json"}


def in_base64(content):
    return {"b64": base64.b64encode(content).decode()}


def form(*contents):
    return [("files", (f"{number}.png", content)) for number, content in enumerate(contents)]


def test_scores_are_those_of_predict(service, run, images):
    """In both protocols; one of the files cannot be used."""
    _, out, _ = anomaly_box(run, images / "a", "--format", "jsonl")
    expected = [json.loads(line) for line in out.splitlines()]
    files = [(prediction["file"], Path(prediction["file"]).read_bytes()) for prediction in expected]
    answer = service.post("/score", files=[("file", file) for file in files])
    assert answer.json() == {"predictions": expected}

    usable = [prediction for prediction in expected if "problem" not in prediction]
    assert len(usable) == len(expected) - 1 > 1
    instances = [in_base64(Path(prediction.pop("file")).read_bytes()) for prediction in usable]
    assert service.post(PREDICT, json={"instances": instances}).json() == {"predictions": usable}


def test_heatmaps_are_those_of_predict(service, run, images, tmp_path):
    file = images / "a" / "0.png"
    anomaly_box(run, file, "--heatmaps", tmp_path)
    (expected,) = tmp_path.glob("*.png")
    content = file.read_bytes()
    answers = (
        service.post("/score?heatmaps=true", files=form(content)),
        service.post(PREDICT + "?heatmaps=true", json={"instances": [in_base64(content)]}),
    )
    for answer in answers:
        (prediction,) = answer.json()["predictions"]
        heatmap = Image.open(io.BytesIO(base64.b64decode(prediction["heatmap"])))
        assert np.array_equal(np.asarray(heatmap), np.asarray(Image.open(expected)))


def test_the_model_is_described(service, detector):
    assert service.get("/v1/models").json() == {"models": ["pca"]}
    assert service.get("/v1/models/pca").json() == {"name": "pca", "ready": True}
    described = service.get("/model").json()
    assert described["threshold"] == detector.threshold
    assert described["normal_scores"] == sorted(detector.normal_scores.tolist())
    assert service.get("/healthz").text == "ok\n"
    assert service.get("/").json() == {"status": "alive"}
    for path in ("/", "/healthz", "/model", "/metrics", "/v1/models/pca", "/page/page.js"):
        head = service.head(path)
        assert (head.status_code, head.headers["content-type"]) == (200, service.get(path).headers["content-type"])


@pytest.mark.parametrize(
    ("path", "request_body", "status", "line"),
    [
        (PREDICT, {"json": {"instances": []}}, 400, "instances: List should have at least 1 item"),
        (PREDICT, {"json": {"instances": 3}}, 400, "instances: Input should be a valid list"),
        (PREDICT, {"json": {}}, 400, "instances: Field required"),
        (PREDICT, {"json": {"instances": [{"b64": "!"}]}}, 400, "instances[0].b64: is no base64"),
        (PREDICT, {"json": {"instances": [{"b64": "AAAA"}]}}, 400, "instances[0]: is not a PNG, JPEG, BMP or TIFF"),
        (PREDICT, {"json": {"instances": [{"b64": 1e300}]}}, 400, "instances[0].b64: Input should be a valid string"),
        (PREDICT, {"content": b'{"instances', "headers": JSON}, 400, "the body is no JSON, see its character 1"),
        (PREDICT, {"content": b"[" * 9_000, "headers": JSON}, 400, "the body cannot be read as JSON in UTF-8"),
        (PREDICT, {"content": b"[" * 100_000, "headers": JSON}, 413, "more than 10,000 brackets, commas and colons"),
        (PREDICT, {"content": b'{"b64":""},' * 5_000, "headers": JSON}, 413, "more than 10,000 brackets"),
        (PREDICT, {"json": {"instances": ["AA"]}}, 400, 'instances[0]: expected an object such as {"b64": "…"}'),
        (PREDICT, {"json": {"instances": [1] * 257}}, 400, "instances: List should have at most 256 items"),
        (PREDICT, {"content": b""}, 400, "body: Field required"),
        ("/v1/models/other:predict", {"json": {"instances": [{"b64": ""}]}}, 404, "there is no model 'other'"),
        (
            PREDICT,
            {"content": b'{"instances": []}'},
            400,
            "expected JSON with the header Content-Type",
        ),
        ("/score", {}, 400, "expected whole files as multipart/form-data"),
        ("/score", {"data": {"a": "b"}}, 400, "expected whole files as multipart/form-data"),
        ("/score", {"files": form(b"no image")}, 400, "0.png: is not a PNG, JPEG, BMP or TIFF image"),
        ("/score", {"files": form(png()[:-30])}, 400, "0.png: is damaged or truncated"),
        ("/score?heatmaps=maybe", {"files": form(png())}, 400, "query.heatmaps: Input should be a valid boolean"),
        (
            "/score",
            {"content": b"--x", "headers": {"Content-Type": "multipart/form-data; boundary=x; charset=punycode"}},
            400,
            "expected names of files in UTF-8, received the charset 'punycode'",
        ),
        ("/nothing", {}, 404, "Not Found"),
        ("/page/..%2Fapp.py", {}, 404, "Not Found"),
    ],
)
def test_mistakes_are_one_line(service, path, request_body, status, line):
    answer = service.post(path, **request_body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/plain; charset=utf-8")
    assert line in answer.text
    assert answer.text.count("\n") == 1
    assert "Traceback" not in answer.text
    assert service.post("/score", files=form(png())).status_code == 200


def test_files_that_would_take_minutes_to_read(service):
    """A JPEG file of a million markers; one with thousands of scans; a TIFF file of thousands of pages."""
    file = io.BytesIO()
    Image.new("L", (16, 16)).save(file, format="JPEG", progressive=True)
    jpeg = file.getvalue()
    markers = jpeg[:2] + b"\xff\xfe\x00\x02" * 1_000_000 + jpeg[2:]
    last_scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    scans = jpeg[:-2] + last_scan * 1000 + jpeg[-2:]
    pages = bytearray(b"II*\0" + struct.pack("<I", 8))
    for number in range(1, 100_001):
        pages += struct.pack("<H", 3)
        for tag, value in ((256, 1), (257, 1), (273, 8)):  # width, height, and where the pixels are
            pages += struct.pack("<HHII", tag, 4, 1, value)
        pages += struct.pack("<I", 8 + 42 * number)
    for content, problem in (
        (markers, "is damaged (too many pieces)"),
        (scans, "is a JPEG file with 1,006 scans; expected at most 100"),
        (bytes(pages), "is animated or has several pages; expected a single image"),
    ):
        answer = service.post("/score", files=form(content))
        assert (answer.status_code, answer.text) == (400, f"0.png: {problem}\n")


def test_names_are_safe_for_terminals(service):
    answer = service.post("/score", files={"f": ("a\x1b[31m\x07\n.png", b"no image")})
    assert (answer.status_code, answer.text.partition(":")[0].isprintable()) == (400, True)


def test_charsets_of_forms(service):
    """However UTF-8 is written."""
    part = b"--x\r\nContent-Disposition: form-data; name=a; filename=a.png\r\n\r\n" + png() + b"\r\n--x--\r\n"
    for charset in ("", "; charset=utf-8", '; charset="UTF-8"', "; charset=utf8"):
        headers = {"Content-Type": f"Multipart/Form-Data; boundary=x{charset}"}
        assert service.post("/score", content=part, headers=headers).status_code == 200


@pytest.mark.parametrize("path", [PREDICT, "/score", "/page-score"])
def test_routes_that_only_take_posts(service, path):
    answer = service.get(path)
    assert (answer.status_code, answer.headers["allow"], answer.text) == (405, "POST", "Method Not Allowed\n")


SMALL = Limits(
    image_bytes=2000,
    pixels=1000,
    images=3,
    images_with_heatmaps=2,
    request_pixels=1500,
    request_bytes=9000,
    bytes_under_way=10_000,
    waiting=4,
)


@pytest.mark.parametrize(
    ("contents", "status", "line"),
    [
        ([png(), png(), png(), png()], 413, r"Too many files. Maximum number of files is 3|the request has 4 images"),
        ([png(50, 50)], 413, r"image 1 has 2,\d+ bytes; expected at most 2,000"),
        ([png(2, 600)], 400, r"(0\.png|instances\[0\]): has 2 x 600 pixels, more than 1,000"),
        ([png(), png(), png(24, 23)], 413, "1,512 pixels are decoded for this request"),
        ([bytes(9001)], 413, r"the request has \d+,\d+ bytes; expected at most 9,000"),
    ],
)
def test_limits(detector, contents, status, line):
    with client_of(detector, limits=SMALL) as client:
        images = {"instances": [in_base64(content) for content in contents]}
        for answer in (client.post("/score", files=form(*contents)), client.post(PREDICT, json=images)):
            assert answer.status_code == status
            assert re.search(line, answer.text)
            assert answer.text.count("\n") == 1
        answer = client.post("/score?heatmaps=true", files=form(png(), png(), png()))
        assert answer.status_code == 413
        assert answer.text == "the request has 3 images to draw heatmaps of; expected at most 2\n"
        assert client.post("/score", files=form(png())).status_code == 200


def test_a_body_of_unknown_length_is_counted_as_it_comes(detector):
    def pieces():
        for _ in range(20):
            yield bytes(1000)

    with client_of(detector, limits=SMALL) as client:
        for path, content_type in ((PREDICT, "application/json"), ("/score", "multipart/form-data; boundary=x")):
            answer = client.post(path, content=pieces(), headers={"Content-Type": content_type})
            assert (answer.status_code, answer.text) == (413, "the request has more than 9,000 bytes\n")


def test_the_rest_of_a_refused_request_is_read_for_a_while(detector, monkeypatch):
    """Clients that only read an answer when they have sent all of their request get it."""
    monkeypatch.setattr(guard, "SECONDS_TO_DISCARD", 0.2)
    headers = [(b"host", b"localhost"), (b"content-length", b"9001"), (b"content-type", b"multipart/form-data")]
    scope = {"type": "http", "method": "POST", "path": "/score", "query_string": b"", "headers": headers}
    scorer = Scorer(detector, SMALL)
    app = make_app(scorer, "pca", ON_THIS_MACHINE, SMALL)

    async def answer(n_pieces):
        """The header `Connection` of the answer, and how much of the body was not read."""
        pieces = [{"type": "http.request", "body": b"x", "more_body": left > 1} for left in range(n_pieces, 0, -1)]
        messages = []

        async def receive():
            return pieces.pop(0) if pieces else await asyncio.sleep(60)

        async def send(message):
            messages.append(message)

        await app(scope, receive, send)
        assert messages[0]["status"] == 413
        return Headers(raw=messages[0]["headers"]).get("connection"), len(pieces)

    assert asyncio.run(answer(5)) == (None, 0)
    assert asyncio.run(answer(0)) == ("close", 0)
    scorer.close(60)


def test_a_busy_service_says_when_to_ask_again(detector):
    """Images that wait are answered all the same."""
    may_score, is_scoring = threading.Event(), threading.Event()
    score_files = detector.score_files

    def when_allowed(paths):
        is_scoring.set()
        assert may_score.wait(60)
        return score_files(paths)

    with (
        patch.object(detector, "score_files", when_allowed),
        client_of(detector, limits=SMALL) as client,
        ThreadPoolExecutor(2) as others,
    ):
        first = others.submit(client.post, "/score", files=form(png()))
        assert is_scoring.wait(60)
        second = others.submit(client.post, "/score", files=form(png(), png(), png()))
        while "waiting_images 4.0" not in client.get("/metrics").text:
            pass
        answer = client.post("/score", files=form(png()))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.text == "4 images wait already; try again\n"
        large = client.post("/score", files=form(bytes(8500)))
        assert (large.status_code, large.text) == (503, "too many requests are under way; try again\n")
        may_score.set()
        assert [len(answer.result(60).json()["predictions"]) for answer in (first, second)] == [1, 3]
        metrics = client.get("/metrics").text
    assert "anomaly_box_refusals_total 2.0" in metrics
    assert "anomaly_box_waiting_images 0.0" in metrics
    assert 'anomaly_box_requests_total{path="/score",status="503"} 2.0' in metrics
    counted = re.findall(r'anomaly_box_images_total\{verdict="(?:normal|anomalous)"\} (\S+)', metrics)
    assert sum(map(float, counted)) == 4


def test_an_image_that_takes_too_long_is_given_up(detector):
    may_score = threading.Event()

    def when_allowed(paths):
        assert may_score.wait(60)
        return iter(())

    with (
        patch.object(detector, "score_files", when_allowed),
        client_of(detector, limits=Limits(seconds_to_score=0.2)) as client,
    ):
        answer = client.post("/score", files=form(png()))
        may_score.set()
    assert (answer.status_code, answer.text) == (503, "the images were not scored within 0.2 seconds; try again\n")


def test_an_error_of_the_detector_is_no_trace(detector):
    with patch.object(detector, "score_files", lambda paths: 1 / 0), client_of(detector) as client:
        answer = client.post("/score", files=form(png()))
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


def test_images_are_kept_in_memory_alone(service):
    """The disk may be full, and after a kill nobody would delete them."""
    content = png(2000, 1200)
    assert len(content) > 2**21
    with patch("os.open", side_effect=OSError(28, "No space left on device")):
        for heatmaps in ("false", "true"):
            answer = service.post(f"/score?heatmaps={heatmaps}", files=form(content))
            assert (answer.status_code, "score" in answer.json()["predictions"][0]) == (200, True)


def test_all_is_refused_when_the_service_ends(detector):
    """What waits gets an answer, and what comes afterwards."""
    may_score = threading.Event()

    def when_allowed(contents):
        assert may_score.wait(60)
        return iter(())

    scorer = Scorer(detector, Limits())
    app = make_app(scorer, "pca", ON_THIS_MACHINE, Limits())
    with (
        patch.object(detector, "score_files", when_allowed),
        TestClient(app, "http://localhost") as client,
        ThreadPoolExecutor(1) as others,
    ):
        waiting = others.submit(client.post, "/score", files=form(png()))
        while "waiting_images 1.0" not in client.get("/metrics").text:
            pass
        client.portal.call(app.refuse_all)
        for answer in (waiting.result(60), client.post("/score", files=form(png()))):
            assert (answer.status_code, answer.text) == (503, "the service ends\n")
        may_score.set()
    assert not scorer.is_alive


def test_a_service_that_scores_no_more_is_not_healthy(detector):
    with patch("threading.Thread.is_alive", lambda thread: thread.name != "scorer"), client_of(detector) as client:
        assert client.get("/healthz").status_code == 500
        assert client.get("/v1/models/pca").json() == {"name": "pca", "ready": False}


def test_a_token_is_asked_for(detector):
    with client_of(detector, Rules("geheimnis ü", None)) as client:
        assert client.get("/healthz").status_code == 200
        for path in ("/", "/metrics", "/model", "/docs", "/openapi.json", "/v1/models/pca", "/page/page.js"):
            answer = client.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Basic")
        token = "geheimnis ü".encode()
        for authorization in (
            b"Bearer " + token,
            b"Basic " + base64.b64encode(b"anybody:" + token),
        ):
            assert client.get("/model", headers={b"Authorization": authorization}).status_code == 200
        for authorization in (b"", b"Bearer", b"Bearer wrong", b"Basic !", b"Basic " + base64.b64encode(token), token):
            assert client.get("/model", headers={b"Authorization": authorization}).status_code == 401


def test_pages_of_strangers_cannot_ask(service):
    for origin in ("http://elsewhere.org", "null", "http://localhost:1", "http://["):
        answer = service.post("/score", files=form(png()), headers={"Origin": origin})
        assert (answer.status_code, answer.text) == (403, f"pages of {origin!r} may not use this service\n")
    assert service.post("/score", files=form(png()), headers={"Origin": "http://localhost"}).status_code == 200
    for host in ("elsewhere.org", "localhost.elsewhere.org", "[::1", ""):
        assert service.get("/model", headers={"Host": host}).status_code == 421
    for host in ("localhost:8000", "LocalHost.", "127.0.0.1", "[::1]:8000"):
        assert service.get("/model", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/page/page.js", "/page/page.css", "/model", "/nothing"])
def test_browsers_are_told_to_be_strict(service, path):
    headers = service.get(path, headers=BROWSER).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_the_description_for_programs_needs_nothing_from_elsewhere(service):
    page = service.get("/docs").text
    assert "POST /v1/models/pca:predict" in page
    assert "at most 50,000,000 pixels and 32 MiB" in page
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page + service.get("/", headers=BROWSER).text)


def test_the_description_names_the_answers_that_there_are(service):
    for routes in service.get("/openapi.json").json()["paths"].values():
        for route in routes.values():
            assert {*route["responses"]} == {"200", "400", "401", "413", "503", "4XX"}
            assert "text/plain" in route["responses"]["400"]["content"]


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=300)
    | st.integers(0, len(png())).map(lambda length: png()[:length])
    | st.tuples(st.integers(0, len(png()) - 1), st.integers(0, 255)).map(
        lambda change: png()[: change[0]] + bytes([change[1]]) + png()[change[0] + 1 :]
    )
)
def test_any_bytes_are_scored_or_refused_in_one_line(service, content):
    answers = [
        service.post("/score", files=form(content)),
        service.post(PREDICT, json={"instances": [in_base64(content)]}),
        service.post(PREDICT, content=content, headers=JSON),
        service.post("/score", content=content, headers={"Content-Type": "multipart/form-data; boundary=x"}),
    ]
    for answer in answers:
        assert answer.status_code in (200, 400)
        if answer.status_code == 400:
            assert answer.text.count("\n") == 1
            assert "Traceback" not in answer.text
    assert answers[0].status_code == answers[1].status_code


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANYTHING | st.fixed_dictionaries({"instances": ANYTHING}))
def test_any_json_is_refused_in_one_line(service, content):
    answer = service.post(PREDICT, json=content)
    assert answer.status_code == 400
    assert answer.text.count("\n") == 1
