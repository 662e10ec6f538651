"""Processes that share the threads, are stopped together and never outlive the one that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anomaly_toolbox.sweeps import workers


def tell(number):
    """Said by a worker."""
    print(f"told {number}, threads {os.environ['OMP_NUM_THREADS']}")
    if number == 13:
        raise ValueError("an unlucky number")


def wait(path):
    """Waits until it is interrupted, and says so."""
    try:
        with open(path, "a") as file:
            file.write(f"begun {os.getpid()}\n")
        time.sleep(120)
    except KeyboardInterrupt:
        with open(path, "a") as file:
            file.write("interrupted\n")
        raise


def test_what_workers_say_goes_to_their_logs(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    logs, looks, codes = [tmp_path / "1.log", tmp_path / "2.log"], [], {}
    workers.run(tell, 7, logs, lambda: looks.append(1), codes.__setitem__)
    assert codes == dict.fromkeys(logs, 0)
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert [log.read_text().splitlines()[-1] for log in logs] == [f"told 7, threads {share}"] * 2
    assert looks
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_worker_that_fails(tmp_path):
    codes = {}
    workers.run(tell, 13, [tmp_path / "1.log"], lambda: None, codes.__setitem__)
    assert codes == {tmp_path / "1.log": 1}
    assert "ValueError: an unlucky number" in (tmp_path / "1.log").read_text()


def start_parent(tmp_path, disposition="--default-signal=INT"):
    """A parent of two waiting workers, which heeds Ctrl-C even where the tests run in the background."""
    (tmp_path / "parent.py").write_text(
        "from pathlib import Path\n"
        "from anomaly_toolbox.sweeps import workers\n"
        "from tests.sweeps.test_workers import wait\n"
        "if __name__ == '__main__':\n"
        f"    logs = [Path({str(tmp_path)!r}) / name for name in ('1.log', '2.log')]\n"
        f"    workers.run(wait, {str(tmp_path / 'said')!r}, logs, lambda: None, print)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(
        ["env", disposition, sys.executable, tmp_path / "parent.py"], env=environment, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: said(tmp_path).count("begun") == 2)
    return parent


def said(tmp_path):
    return (tmp_path / "said").read_text() if (tmp_path / "said").exists() else ""


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_are_interrupted_once_when_their_parent_ends(tmp_path, how):
    check_that_workers_end(tmp_path, start_parent(tmp_path), how)


def test_workers_of_a_background_command_that_ignores_ctrl_c(tmp_path):
    check_that_workers_end(tmp_path, start_parent(tmp_path, "--ignore-signal=INT"), signal.SIGTERM)


def check_that_workers_end(tmp_path, parent, how):
    parent.send_signal(how)
    parent.wait(60)
    wait_for(lambda: said(tmp_path).count("interrupted") == 2)
    pids = [int(line.split()[1]) for line in said(tmp_path).splitlines() if line.startswith("begun")]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
