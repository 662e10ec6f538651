"""`predict --parts --engine ray`, on a cluster of two nodes on this machine."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.files import write_json
from anomaly_toolbox.inference import ray_tasks
from anomaly_toolbox.inference.folders import LocalFolder
from anomaly_toolbox.inference.job import JOB, Job
from anomaly_toolbox.inference.parts import Counts
from tests.datasets.test_folder import fill
from tests.inference.test_parts import anomaly_box, run  # noqa: F401  (a fixture)

PROJECT = Path(__file__).parents[2]
CLUSTER = """
import signal
from ray.cluster_utils import Cluster

node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
cluster.add_node(**node)
print(cluster.address, flush=True)
signal.sigwait([signal.SIGTERM])
cluster.shutdown()
"""

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module")
def cluster():
    """The address of two nodes with a processor each; their processes end with the test."""
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    yield process.stdout.readline().strip()
    process.terminate()
    assert process.wait(timeout=60) == 0


def pids_of_tasks():
    """The processes of Ray that score parts, by their titles."""
    found = subprocess.run(["pgrep", "-f", "^ray::_score_here"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


@needs_ray
@pytest.mark.slow
def test_a_killed_process_changes_nothing(cluster, run, tmp_path):  # noqa: F811
    new = fill(tmp_path / "new", size=(20, 24), a=300)
    (new / "a" / "7.png").write_text("broken")
    command = [sys.executable, "-m", "anomaly_toolbox", "predict", run, new, "--parts", tmp_path / "out"]
    command += ["--images-per-part", "5", "--engine", "ray", "--address", cluster]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(list((tmp_path / "out").glob("part-*"))) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    for pid in pids_of_tasks():
        os.kill(pid, signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert "299 images scored" in err
    assert "1 file could not be used; 60 parts in" in err
    written = []
    for path in sorted((tmp_path / "out").glob("part-*")):
        written += path.read_text().splitlines()[1:]
    _, out, _ = anomaly_box(run, new)
    assert written == out.splitlines()[1:]


def of_killers(job, number, on_image, is_last_try):
    """Scores nothing; part 2 kills its process each time, and part 3 has an error of its own."""
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 3:
        raise ValueError("part 3 is impossible")
    return Counts(scored=job.size(number))


def of_full_disks(job, number, on_image, is_last_try):
    """Scores nothing: no part can be written."""
    raise OSError(28, "No space left on device")


@pytest.fixture
def job(tmp_path):
    """A job of seven parts, of which nothing but `job.json` exists."""
    write_json(tmp_path / JOB, {})
    return Job(LocalFolder(tmp_path), Path("run"), (tmp_path,), None, "csv", 4, 28, None, None)


@needs_ray
@pytest.mark.slow
def test_a_part_that_kills_its_process_is_named_and_the_others_finish(cluster, job):
    progress = []
    outcome = ray_tasks.score_parts(job, range(7), None, cluster, progress.append, print, of_killers)
    assert outcome.counts.scored == 5 * 4
    assert sum(progress) == 28
    assert outcome.failures == {
        2: "WorkerCrashedError; 3 tries",
        3: f"{socket.gethostname()}: ValueError: part 3 is impossible; 3 tries",
    }


def of_slow_machines(job, number, on_image, is_last_try):
    """Scores nothing, for a second."""
    time.sleep(1)
    return Counts(scored=job.size(number))


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_is_silent_is_mentioned(cluster, job, monkeypatch):
    monkeypatch.setattr(ray_tasks, "SECONDS_OF_SILENCE", 0.1)
    mentioned = []
    outcome = ray_tasks.score_parts(job, [0], 1, cluster, print, lambda: mentioned.append(1), of_slow_machines)
    assert outcome.counts.scored == 4
    assert mentioned


@needs_ray
@pytest.mark.slow
def test_what_concerns_all_parts_ends_the_job(cluster, job, monkeypatch):
    """The message names the machine."""
    machine = socket.gethostname()
    with pytest.raises(ToolboxError, match=f"{machine}: OSError: .*No space left on device"):
        ray_tasks.score_parts(job, range(7), 1, cluster, print, print, of_full_disks)
    with monkeypatch.context() as patch:
        patch.setattr(ray_tasks, "__version__", "99.0")
        with pytest.raises(ToolboxError, match=rf"{machine} has version .* of the toolbox, expected 99\.0"):
            ray_tasks.score_parts(job, range(7), 1, cluster, print, print, of_full_disks)
    elsewhere = replace(job, paths=(Path("/not mounted"),))
    with pytest.raises(ToolboxError, match=f"{machine} does not see .* or the images"):
        ray_tasks.score_parts(elsewhere, range(7), 1, cluster, print, print, of_full_disks)


@needs_ray
def test_an_address_where_nothing_answers(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match="--engine ray needs --address HOST:PORT"):
        ray_tasks.check_address(None)
    for address in ("nowhere", "ray://host:10001", ":6379"):
        with pytest.raises(InputError, match="expected HOST:PORT"):
            ray_tasks.check_address(address)
    with socket.create_server(("127.0.0.1", 0)) as server:
        used = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", used)
        assert ray_tasks.check_address(None) == used
    with pytest.raises(ToolboxError, match=f"--address {used}: no Ray cluster answers there"):
        ray_tasks.check_address(used)


def test_without_ray(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'anomaly-toolbox\[ray\]'"):
        ray_tasks.check_address("127.0.0.1:6379")
