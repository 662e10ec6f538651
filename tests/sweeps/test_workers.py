"""Worker processes share the threads, stop together and never outlive the process that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anomaly_toolbox.sweeps.workers import run_workers, visible_gpus


def print_number(number):
    """A worker that prints; it fails for 13."""
    print(f"number {number}, threads {os.environ['OMP_NUM_THREADS']}")
    if number == 13:
        raise ValueError("an unlucky number")


def print_gpus(_):
    """A worker that prints which GPUs it sees."""
    print(f"visible: {os.environ.get('CUDA_VISIBLE_DEVICES')}")


def wait(path):
    """A worker that waits until it is interrupted, and records both in a file."""
    try:
        with open(path, "a") as file:
            file.write(f"started {os.getpid()}\n")
        time.sleep(120)
    except KeyboardInterrupt:
        with open(path, "a") as file:
            file.write("interrupted\n")
        raise


def test_output_of_workers_goes_to_their_logs(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    logs = [tmp_path / "1.log", tmp_path / "2.log"]
    polls = []
    codes = {}
    run_workers(print_number, 7, logs, lambda: polls.append(1), codes.__setitem__)
    assert codes == dict.fromkeys(logs, 0)
    n_threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert [log.read_text().splitlines()[-1] for log in logs] == [f"number 7, threads {n_threads}"] * 2
    assert polls
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(
    ("of_parent", "n_gpus", "expected"),
    [
        (None, 2, ["0", "1", "0"]),
        ("3,GPU-8932f937,MIG-4d0b", 3, ["3", "GPU-8932f937", "MIG-4d0b"]),
        ("3, 1", 2, ["3", "1", "3"]),
        ("-1", 0, ["-1", "-1", "-1"]),
        (None, 0, ["None", "None", "None"]),
    ],
)
def test_each_worker_sees_one_gpu(tmp_path, monkeypatch, of_parent, n_gpus, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if of_parent is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", of_parent)
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    run_workers(print_gpus, None, logs, lambda: None, lambda log, code: None, n_gpus)
    assert [log.read_text().splitlines()[-1] for log in logs] == [f"visible: {gpu}" for gpu in expected]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == of_parent


def test_gpus_after_the_first_that_cuda_does_not_know_are_not_used():
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,9,1"}, 1) == ["0"]


def test_a_worker_that_fails(tmp_path):
    codes = {}
    run_workers(print_number, 13, [tmp_path / "1.log"], lambda: None, codes.__setitem__)
    assert codes == {tmp_path / "1.log": 1}
    assert "ValueError: an unlucky number" in (tmp_path / "1.log").read_text()


def start_parent(tmp_path, disposition="--default-signal=INT"):
    """Starts a parent of two waiting workers; it reacts to Ctrl-C even if the tests run in the background."""
    (tmp_path / "parent.py").write_text(
        "from pathlib import Path\n"
        "from anomaly_toolbox.sweeps.workers import run_workers\n"
        "from tests.sweeps.test_workers import wait\n"
        "if __name__ == '__main__':\n"
        f"    logs = [Path({str(tmp_path)!r}) / name for name in ('1.log', '2.log')]\n"
        f"    run_workers(wait, {str(tmp_path / 'events')!r}, logs, lambda: None, print)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(
        ["env", disposition, sys.executable, tmp_path / "parent.py"], env=environment, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: read_events(tmp_path).count("started") == 2)
    return parent


def read_events(tmp_path):
    path = tmp_path / "events"
    return path.read_text() if path.exists() else ""


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("sent_signal", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_are_interrupted_once_when_their_parent_ends(tmp_path, sent_signal):
    check_that_workers_end(tmp_path, start_parent(tmp_path), sent_signal)


def test_workers_of_a_background_command_are_interrupted(tmp_path):
    check_that_workers_end(tmp_path, start_parent(tmp_path, "--ignore-signal=INT"), signal.SIGTERM)


def check_that_workers_end(tmp_path, parent, sent_signal):
    parent.send_signal(sent_signal)
    parent.wait(60)
    wait_for(lambda: read_events(tmp_path).count("interrupted") == 2)
    started = [line for line in read_events(tmp_path).splitlines() if line.startswith("started")]
    pids = [int(line.split()[1]) for line in started]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
