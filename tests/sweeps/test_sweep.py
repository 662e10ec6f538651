"""Trials are planned before they run, and each runs to its end exactly once, even if workers die."""

import getpass
import glob
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from pydantic import BaseModel

from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.sweeps import storage, sweep
from anomaly_toolbox.sweeps.hps import Discrete, Interval
from anomaly_toolbox.sweeps.queue import is_repetition, requeue_running
from anomaly_toolbox.sweeps.search import Search, StudySpec
from anomaly_toolbox.sweeps.storage import open_storage
from anomaly_toolbox.sweeps.sweep import Sweep
from tests.sweeps.sweep_worker import LABELS, WIDTHS, demo_sweep

ALL_TRIALS = sorted(f"Method/anomalous_label={label} {width}" for label in LABELS for width in WIDTHS)
SETTINGS = {
    "rate": Interval(1e-4, 1e-1, log=True, step=None),
    "size": Interval(16, 64, log=False, step=16),
    "kind": Discrete(("a", "b")),
    "fixed": Discrete((3,)),
}
GRID = {"kind": Discrete(("a", "b")), "width": Discrete((1, 2, 3)), "fixed": Discrete((3,))}


def plan(settings, sampler="grid", trials=None, seed=0):
    study = StudySpec("Method", BaseModel, {}, settings, "hps.json: method.")
    return Search(sampler, trials, "none", seed).plan(study)


def test_a_grid_is_every_combination_of_the_varying_settings():
    expected = [{"kind": kind, "width": width} for kind in "ab" for width in (1, 2, 3)]
    assert plan(GRID) == expected
    part = plan(GRID, trials=4)
    assert len(part) == 4
    assert all(chosen in expected for chosen in part)
    assert plan(GRID, "random", 99) == expected  # no combination twice
    assert plan({"fixed": Discrete((3,))}, "tpe", 99) == [{}]


def test_random_trials_lie_in_the_domains_and_follow_the_seed():
    drawn = plan(SETTINGS, "random", 200)
    assert drawn == plan(SETTINGS, "random", 200)
    assert drawn != plan(SETTINGS, "random", 200, seed=1)
    assert all(1e-4 <= chosen["rate"] <= 1e-1 for chosen in drawn)
    assert {chosen["size"] for chosen in drawn} == {16, 32, 48, 64}
    assert {chosen["kind"] for chosen in drawn} == {"a", "b"}
    assert 60 < sum(chosen["rate"] < 10**-2.5 for chosen in drawn) < 140  # half of the powers of ten
    assert "fixed" not in drawn[0]


def test_tpe_plans_ten_random_trials_and_leaves_the_rest_open():
    chosen = plan(SETTINGS, "tpe", 15)
    assert chosen[:10] == plan(SETTINGS, "random", 10)
    assert chosen[10:] == [{}] * 5


def test_tpe_searches_close_to_good_trials(tmp_path):
    """The best rate is 0.01; the second half of the trials is closer to it than the first half."""
    settings = {"rate": Interval(1e-5, 1.0, log=True, step=None)}
    study = StudySpec("Method", RateHyperparameters, {}, settings)
    search = Search("tpe", 40, "none", 0)
    demo = Sweep("demo", [study], search, "Data", open_storage(str(tmp_path / "journal")), tmp_path)
    demo.prepare()
    demo.work(lambda study, hp, trial: results(1 / (1 + decades_from_best(hp.rate))))
    distances = [decades_from_best(trial.params["rate"]) for _, trial in demo.trials()]
    assert len(distances) == 40
    assert sum(distances[20:]) < 0.7 * sum(distances[:20])


class RateHyperparameters(BaseModel):
    rate: float


def decades_from_best(rate):
    return abs(math.log10(rate / 0.01))


@pytest.mark.parametrize(
    ("settings", "sampler", "trials", "message"),
    [
        (SETTINGS, "grid", None, "hps.json: method.rate: a grid needs Discrete values"),
        (SETTINGS, "grid", 5, "a grid needs Discrete values"),
        (SETTINGS, "random", None, "--sampler random needs --trials"),
        (GRID, "tpe", None, "--sampler tpe needs --trials"),
        ({"x": Discrete(tuple(range(10_001)))}, "grid", None, r"10,001 combinations.*--trials"),
    ],
)
def test_settings_that_cannot_be_searched(settings, sampler, trials, message):
    with pytest.raises(InputError, match=message):
        plan(settings, sampler, trials)


def results(auprc=0.5):
    return {"validation": {"auprc": auprc}}


def states(demo):
    return sorted(trial.state.name for _, trial in demo.trials())


def test_a_finished_sweep_runs_nothing_when_started_again(tmp_path):
    trials = []
    for _ in range(2):
        demo = demo_sweep(str(tmp_path / "journal"), tmp_path)
        demo.prepare()
        demo.work(lambda study, hp, trial: trials.append(f"{study.name} {hp.width}") or results())
    assert sorted(trials) == ALL_TRIALS
    assert states(demo) == ["COMPLETE"] * 6


def test_ctrl_c_requeues_the_trial(tmp_path):
    def interrupt(study, hp, trial):
        raise KeyboardInterrupt

    demo = demo_sweep(str(tmp_path / "journal"), tmp_path)
    demo.prepare()
    with pytest.raises(KeyboardInterrupt):
        demo.work(interrupt)
    assert states(demo) == ["WAITING"] * 6
    demo.work(lambda *_: results())
    assert states(demo) == ["COMPLETE"] * 6


def test_failed_trials_run_again_with_the_next_command_only(tmp_path):
    def fail(study, hp, trial):
        widths.append(hp.width)
        if hp.width == 2:
            raise OSError("no room\nat all")
        return results()

    widths = []
    demo = demo_sweep(str(tmp_path / "journal"), tmp_path)
    demo.prepare()
    demo.work(fail)
    assert sorted(widths) == [1, 1, 2, 2, 3, 3]
    failed = [trial for _, trial in demo.trials() if trial.state == TrialState.FAIL]
    assert [trial.user_attrs["failure"] for trial in failed] == ["OSError: no room"] * 2
    demo.prepare()
    demo.work(lambda study, hp, trial: widths.append(hp.width) or results())
    assert widths[6:] == [2, 2]
    assert states(demo) == ["COMPLETE"] * 6


def test_another_sweep_of_the_same_name_is_refused(tmp_path):
    demo_sweep(str(tmp_path / "journal"), tmp_path).prepare()
    other = demo_sweep(str(tmp_path / "journal"), tmp_path, widths=(1, 2))
    with pytest.raises(InputError, match="--sweep-name demo: the storage has another sweep of that name"):
        other.prepare()
    demo_sweep(str(tmp_path / "journal"), tmp_path, name="demo2", widths=(1, 2)).prepare()
    with other.liveness.shown(), pytest.raises(ToolboxError, match="a worker of the sweep demo is alive"):
        other.prepare(overwrite=True)
    other.prepare(overwrite=True)
    assert states(other) == ["WAITING"] * 4


def test_interrupted_planning_is_completed_by_the_next_process(tmp_path, monkeypatch):
    """The process that created the study died after it had enqueued two of three trials."""
    monkeypatch.setattr(sweep, "SECONDS_TO_PLAN", 0.3)
    demo = demo_sweep(str(tmp_path / "journal"), tmp_path)
    journal = open_storage(str(tmp_path / "journal"))
    study = optuna.create_study(storage=journal, study_name=f"demo/{demo.studies[0].name}", direction="maximize")
    for width in (1, 2):
        study.enqueue_trial({"width": width})
    demo.prepare()
    demo.work(lambda *_: results())
    assert states(demo) == ["COMPLETE"] * 6
    widths = [trial.params["width"] for spec, trial in demo.trials() if spec is demo.studies[0]]
    assert sorted(widths) == [1, 2, 3]


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("postgresql://me:secret@127.0.0.1:1/x", "postgresql://me@127.0.0.1:1/x: cannot be used.*can be reached"),
        ("nosuchdatabase://x", "nosuchdatabase://x: cannot be used"),
        (".", "is a folder"),
    ],
)
def test_a_storage_that_cannot_be_used(location, message):
    with pytest.raises(InputError, match=message) as caught:
        open_storage(location)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_damaged_journal(tmp_path):
    (tmp_path / "journal").write_text("no journal\n" * 2)
    with pytest.raises(ToolboxError, match="journal: is not an Optuna journal, or is damaged"):
        open_storage(str(tmp_path / "journal"))


def test_a_worker_that_died_before_it_registered(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "SECONDS_TO_REGISTER", 0.0)
    demo = demo_sweep(str(tmp_path / "journal"), tmp_path)
    demo.prepare()
    journal = open_storage(str(tmp_path / "journal"))
    optuna.load_study(study_name=f"demo/{demo.studies[0].name}", storage=journal).ask()
    demo.work(lambda *_: results())
    assert states(demo) == ["COMPLETE"] * 6


def start_worker(location, folder, seconds):
    command = [sys.executable, "-m", "tests.sweeps.sweep_worker", location, str(folder), str(seconds)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)


def check_that_each_trial_runs_once(location, folder):
    """Two of three workers are killed in the middle of a trial; later one more joins, and another starts too late."""
    killed = [start_worker(location, folder, 60) for _ in range(2)]
    for worker in killed:
        assert worker.stdout.readline().startswith("started")
    survivor = start_worker(location, folder, 0.2)
    survivor.stdout.readline()
    for worker in killed:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    joiner = start_worker(location, folder, 0.2)
    assert survivor.wait(60) == joiner.wait(60) == 0
    latecomer = start_worker(location, folder, 0.2)
    assert latecomer.wait(60) == 0
    runs = [line.rsplit(" ", 1) for line in (folder / "runs").read_text().splitlines()]
    assert sorted(trial for trial, _ in runs) == ALL_TRIALS
    assert not {pid for _, pid in runs} & {str(worker.pid) for worker in killed}
    assert states(demo_sweep(location, folder)) == ["COMPLETE"] * 6


@pytest.mark.slow
def test_each_trial_runs_once_with_a_journal(tmp_path):
    check_that_each_trial_runs_once(str(tmp_path / "journal"), tmp_path)


@pytest.fixture
def postgresql(tmp_path):
    """The URL of a PostgreSQL server on this machine, which runs during the test."""
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin")) or [os.path.dirname(shutil.which("initdb") or "")]
    if not programs[-1]:
        pytest.skip("PostgreSQL is not installed")
    as_owner = ["runuser", "-u", "postgres", "--"] if getpass.getuser() == "root" else []
    folder = Path(subprocess.check_output([*as_owner, "mktemp", "-d"], text=True).strip())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def server(*arguments):
        subprocess.run([*as_owner, *arguments], check=True, stdout=subprocess.DEVNULL, cwd="/")

    server(f"{programs[-1]}/initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "toolbox", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    control = [f"{programs[-1]}/pg_ctl", "-D", f"{folder}/data", "-w"]
    server(*control, "-o", options, "-l", f"{folder}/log", "start")
    yield f"postgresql://toolbox@127.0.0.1:{port}/postgres"
    server(*control, "-m", "immediate", "stop")
    server("rm", "-r", str(folder))


@pytest.mark.slow
def test_each_trial_runs_once_with_postgresql(postgresql, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(storage, "GRACE_SECONDS", 3)
    check_that_each_trial_runs_once(postgresql, tmp_path)
    summaries = optuna.get_all_study_summaries(open_storage(postgresql), include_best_trial=False)
    assert sum(summary.n_trials for summary in summaries) == 8  # six trials, two of which were started twice


def test_a_worker_that_was_suspended_drops_its_requeued_trial(tmp_path):
    """A worker continues after its trial was requeued: its result does not count, and it runs the other trials."""

    def run(study, hp, trial):
        if hp.width == 1 and not is_repetition(trial):
            requeue_running(trial.study, trial.study.trials[trial.number])
        return results()

    demo = demo_sweep(str(tmp_path / "journal"), tmp_path)
    demo.prepare()
    demo.work(run)
    assert states(demo) == ["COMPLETE"] * 6
