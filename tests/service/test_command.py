"""`anomaly-box serve` as a process: its page in a browser, its end, and what it refuses at the start."""

import contextlib
import csv
import io
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anomaly_toolbox import load
from anomaly_toolbox.cli import main
from anomaly_toolbox.service.command import TOKEN
from tests.datasets.test_folder import fill
from tests.inference.test_parts import anomaly_box, images, run  # noqa: F401  (fixtures)
from tests.service.images import png


def start(run, *options):  # noqa: F811
    """A service at a free port of this machine: its process and its address."""
    command = [sys.executable, "-m", "anomaly_toolbox", "serve", str(run), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if found := re.match(r"serving .* at (\S+)", line):
            return process, found.group(1)
    pytest.fail(f"the service ended with {process.wait()}")


@pytest.fixture(scope="module")
def service(run):  # noqa: F811
    """The address of a service."""
    process, address = start(run)
    yield address
    process.terminate()
    assert process.wait(60) == 0


def serve(*arguments):
    result = CliRunner().invoke(main, ["serve", *map(str, arguments)])
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ["--host", "0.0.0.0"],
            2,
            "--host 0.0.0.0: other machines may reach it; expected --token TOKEN, or --no-token",
        ),
        (["--host", "nowhere.invalid", "--no-token"], 1, "--host nowhere.invalid --port 8000: cannot be used"),
        (["--token", "short"], 2, f"{TOKEN}: has 5 characters, expected at least 8"),
        (["--token", "long enough", "--no-token"], 2, f"{TOKEN} and --no-token are both given"),
        (["--token", "with a space"], 2, f"{TOKEN}: expected letters, digits and signs of ASCII, without spaces"),
        (["--name", "a/b"], 2, "--name a/b: expected letters, digits and . _ -"),
        (
            ["--allow-host", "https://a.org/"],
            2,
            "--allow-host https://a.org/: expected a name such as",
        ),
        (["--allow-host", "a.org:443"], 2, "--allow-host a.org:443: expected a name such as"),
        (["--port", "70000"], 2, "70000 is not in the range 0<=x<=65535"),
    ],
)
def test_options_that_do_not_fit(run, options, code, message):  # noqa: F811
    found, line = serve(run, *options)
    assert found == code
    assert message in line
    assert line.count("\n") == 1


def test_what_cannot_be_served(run, tmp_path):  # noqa: F811
    code, line = serve(tmp_path)
    assert code == 2
    assert str(tmp_path) in line
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in run.iterdir():
        if file.is_file():
            (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "model.weights.h5").write_bytes(b"nothing")
    code, line = serve(damaged, "--port", "0")
    assert code == 1
    assert "damaged" in line
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, line = serve(run, "--port", port)
    assert code == 1
    assert f"--host 127.0.0.1 --port {port}: cannot be used (Address already in use)" in line


def test_a_token_in_the_environment(run, monkeypatch):  # noqa: F811
    monkeypatch.setenv("ANOMALY_BOX_SERVE_TOKEN", "short")
    assert f"{TOKEN}: has 5 characters" in serve(run)[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_under_way_at_the_end_is_answered(run, number):  # noqa: F811
    """Its body comes in two pieces, and the signal between them."""
    process, address = start(run)
    has_begun = threading.Event()

    def body():
        content = b"--x\r\nContent-Disposition: form-data; name=a; filename=a.png\r\n\r\n" + png() + b"\r\n--x--\r\n"
        yield content[:100]
        has_begun.set()
        time.sleep(1)
        yield content[100:]

    def end():
        has_begun.wait(60)
        time.sleep(0.3)
        process.send_signal(number)

    threading.Thread(target=end).start()
    answer = httpx2.post(
        f"{address}/score", content=body(), headers={"Content-Type": "multipart/form-data; boundary=x"}, timeout=60
    )
    assert [*answer.json()["predictions"][0]][:2] == ["file", "score"]
    assert process.wait(30) == 0
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{address}/healthz")


@pytest.mark.slow
def test_a_second_signal_ends_at_once(run):  # noqa: F811
    """A request whose body is still to come is refused, and nothing else is said."""
    process, address = start(run)
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n--x")
        time.sleep(0.5)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        assert connection.recv(1000).startswith(b"HTTP/1.1 503")
    assert (process.wait(30), process.stderr.read()) == (0, "ended\n")


@pytest.mark.slow
def test_images_of_clients_that_have_left_are_not_scored(service):
    """The queue is empty again at once."""
    host, port = service.removeprefix("http://").split(":")
    content = png(3000, 2000)
    files = b"".join(
        b"--x\r\nContent-Disposition: form-data; name=f; filename=a.png\r\n\r\n" + content + b"\r\n" for _ in range(6)
    )
    body = files + b"--x--\r\n"
    head = (
        "POST /score?heatmaps=true HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    for _ in range(10):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body)
    until(lambda: "\nanomaly_box_waiting_images 0.0\n" in httpx2.get(f"{service}/metrics").text)
    metrics = httpx2.get(f"{service}/metrics").text
    scored = sum(map(float, re.findall(r'anomaly_box_images_total\{verdict="(?:normal|anomalous)"\} (\S+)', metrics)))
    assert scored < 60


@pytest.mark.slow
def test_connections_that_are_cut_change_nothing(service):
    host, port = service.removeprefix("http://").split(":")
    for piece in (
        b"",
        b"POST /score HTT",
        b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n--x",
    ):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(piece)
    answer = httpx2.post(f"{service}/score", files={"file": png()}, timeout=60)
    assert answer.status_code == 200
    assert "\nanomaly_box_waiting_images 0.0\n" in httpx2.get(f"{service}/metrics").text


@pytest.mark.slow
def test_many_clients_with_broken_images_and_cut_connections_until_the_end(run):  # noqa: F811
    """Whoever gets an answer gets the right one, also while the service is told to end."""
    contents = [png(seed=seed) for seed in range(50)]
    expected = load(run).score_images([np.asarray(Image.open(io.BytesIO(content))) for content in contents])
    process, address = start(run)
    host, port = address.removeprefix("http://").split(":")
    n_right = [0] * len(contents)

    def ask(number):
        with contextlib.suppress(httpx2.TransportError, OSError), httpx2.Client(timeout=60) as client:
            while True:
                files = [("f", ("good.png", contents[number])), ("f", ("bad.png", contents[number][:-50]))]
                answer = client.post(f"{address}/score", files=files)
                if answer.status_code == 503:
                    continue
                good, bad = answer.json()["predictions"]
                assert good["score"] == pytest.approx(expected[number], rel=1e-6)
                assert bad["problem"].startswith("is damaged or truncated")
                n_right[number] += 1
                with socket.create_connection((host, int(port))) as connection:
                    connection.sendall(b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n--x")

    with ThreadPoolExecutor(len(contents)) as pool:
        clients = [pool.submit(ask, number) for number in range(len(contents))]
        until(lambda: sum(n_right) >= 500 or any(client.done() for client in clients))
        process.terminate()
        assert process.wait(30) == 0
        for client in clients:
            client.result(60)
    assert min(n_right) > 0


def rows(text):
    """The predictions of a CSV file by the names of their files, with numbers as numbers."""
    found = {}
    for row in csv.DictReader(text.splitlines()):
        numbers = [float(row[name]) if row[name] else None for name in ("score", "calibrated", "p_value")]
        found[row["file"]] = (*numbers, row["anomalous"], row["problem"])
    return found


def until(condition):
    """Waits until a condition is met."""
    ends_at = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < ends_at
        time.sleep(0.05)
    return found


@pytest.mark.slow
def test_the_page_in_a_browser(service, browser, run, tmp_path):  # noqa: F811
    """Images are dropped into a file input, as a person with a keyboard would choose them."""
    folder = fill(tmp_path, size=(40, 24), new=4)
    (folder / "new" / "broken <b>.png").write_text("no image")
    files = sorted((folder / "new").iterdir())
    _, out, _ = anomaly_box(run, folder)
    scores = {Path(line.split(",")[0]).name: line.split(",")[1] for line in out.splitlines()[1:]}

    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.execute_cdp_cmd("Network.enable", {})
    with_password = service.replace("http://", "http://somebody:password@")
    browser.get(with_password)  # as for a service with a token

    def run_script(script, *arguments):
        return browser.execute_script(script, *arguments)

    def texts(selector):
        return run_script("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)

    browser.find_element("id", "files").send_keys("\n".join(map(str, files)))
    until(lambda: texts("#status") == ["5 files are done; 1 cannot be used"] and len(texts("#images li")) == 4)
    assert texts("#problem-list li") == [
        "broken <b>.png: is not a PNG, JPEG, BMP or TIFF image, or its beginning is damaged"
    ]
    by_score = sorted((name for name in scores if scores[name]), key=lambda name: -float(scores[name]))
    assert texts(".file") == by_score
    is_seen = "image => image.getBoundingClientRect().top < innerHeight"
    until(lambda: run_script(f"return [...document.images].filter({is_seen}).every(i => i.naturalWidth > 0)"))
    assert run_script("return document.documentElement.scrollWidth") == 390

    assert not browser.find_element("id", "more").is_displayed()
    run_script("nShown = 2; show()")
    until(lambda: texts(".file") == by_score[:2])
    assert texts("#summary")[0].endswith("of 4 images are anomalous; the first 2 are shown")
    run_script("document.getElementById('more').click()")
    until(lambda: texts(".file") == by_score)
    assert run_script("return document.getElementById('more').hidden")

    set_value = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event(arguments[2]))"
    run_script(set_value, browser.find_element("id", "order"), "lowest", "change")
    until(lambda: texts(".file") == by_score[::-1])
    run_script(set_value, browser.find_element("id", "threshold"), "0", "input")
    assert set(texts(".verdict")) == {"anomalous"}
    assert texts("#alarms") == ["100.0% of the normal validation images would be called anomalous."]
    run_script(set_value, browser.find_element("id", "threshold"), "1000", "input")
    assert set(texts(".verdict")) == {"normal"}
    run_script("document.getElementById('reset').click()")
    threshold = httpx2.get(f"{service}/model").json()["threshold"]
    assert float(texts("#threshold-value")[0]) == pytest.approx(threshold, rel=1e-3)
    run_script(set_value, browser.find_element("id", "fade"), "30", "input")
    assert run_script("return getComputedStyle(document.querySelector('.heatmap')).opacity") == "0.3"
    assert rows(run_script("return csv()")) == rows(out.replace(f"{folder / 'new'}/", ""))

    run_script("document.getElementById('clear').click()")
    until(lambda: not texts("#images li"))
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    assert run_script("return getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 22)"
    requested = run_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(address.startswith((service, with_password, "blob:", "data:")) for address in requested)
    assert not browser.get_log("browser")
