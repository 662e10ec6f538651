"""How trials are planned, and that each is run to its end exactly once, whoever dies on the way."""

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
from anomaly_toolbox.sweeps.queue import is_repetition, requeue
from anomaly_toolbox.sweeps.search import Search, StudySpec
from anomaly_toolbox.sweeps.storage import open_storage
from anomaly_toolbox.sweeps.sweep import Sweep
from tests.sweeps.sweep_worker import LABELS, WIDTHS, demo_sweep

EVERYTHING = sorted(f"Method/anomalous_label={label} {width}" for label in LABELS for width in WIDTHS)
SETTINGS = {
    "rate": Interval(1e-4, 1e-1, log=True, step=None),
    "size": Interval(16, 64, log=False, step=16),
    "kind": Discrete(("a", "b")),
    "fixed": Discrete((3,)),
}
GRID = {"kind": Discrete(("a", "b")), "width": Discrete((1, 2, 3)), "fixed": Discrete((3,))}


def plan(settings, sampler="grid", trials=None, seed=0):
    row = StudySpec("Method", BaseModel, {}, settings, "hps.json: method.")
    return Search(sampler, trials, "none", seed).plan(row)


def test_a_grid_is_every_combination_of_what_varies():
    expected = [{"kind": kind, "width": width} for kind in "ab" for width in (1, 2, 3)]
    assert plan(GRID) == expected
    some = plan(GRID, trials=4)
    assert len(some) == 4
    assert all(chosen in expected for chosen in some)
    assert plan(GRID, "random", 99) == expected  # none twice
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


def test_tpe_begins_at_random_and_then_chooses():
    chosen = plan(SETTINGS, "tpe", 15)
    assert chosen[:10] == plan(SETTINGS, "random", 10)
    assert chosen[10:] == [{}] * 5


def test_tpe_looks_where_trials_were_good(tmp_path):
    """The best rate is 0.01: the later half comes nearer to it than the earlier one."""
    row = StudySpec("Method", HyperparametersOfRate, {}, {"rate": Interval(1e-5, 1.0, log=True, step=None)})
    how = Search("tpe", 40, "none", 0)
    mine = Sweep("demo", [row], how, "Data", open_storage(str(tmp_path / "journal")), tmp_path)
    mine.prepare()
    mine.work(lambda row, hp, trial: {"validation": {"auprc": 1 / (1 + abs(decades(hp.rate)))}})
    far = [abs(decades(trial.params["rate"])) for _, trial in mine.trials()]
    assert len(far) == 40
    assert sum(far[20:]) < 0.7 * sum(far[:20])


class HyperparametersOfRate(BaseModel):
    rate: float


def decades(rate):
    return math.log10(rate / 0.01)


@pytest.mark.parametrize(
    ("settings", "sampler", "trials", "told"),
    [
        (SETTINGS, "grid", None, "hps.json: method.rate: a grid needs Discrete values"),
        (SETTINGS, "grid", 5, "a grid needs Discrete values"),
        (SETTINGS, "random", None, "--sampler random needs --trials"),
        (GRID, "tpe", None, "--sampler tpe needs --trials"),
        ({"x": Discrete(tuple(range(10_001)))}, "grid", None, r"10,001 combinations.*--trials"),
    ],
)
def test_what_cannot_be_planned(settings, sampler, trials, told):
    with pytest.raises(InputError, match=told):
        plan(settings, sampler, trials)


def results(auprc=0.5):
    return {"validation": {"auprc": auprc}}


def states(mine):
    return sorted(trial.state.name for _, trial in mine.trials())


def test_a_finished_sweep_does_nothing_when_started_again(tmp_path):
    seen = []
    for _ in range(2):
        mine = demo_sweep(str(tmp_path / "journal"), tmp_path)
        mine.prepare()
        mine.work(lambda row, hp, trial: seen.append((row.name, hp.width)) or results())
    assert sorted(f"{name} {width}" for name, width in seen) == EVERYTHING
    assert states(mine) == ["COMPLETE"] * 6


def test_ctrl_c_puts_the_trial_back(tmp_path):
    def interrupt(row, hp, trial):
        raise KeyboardInterrupt

    mine = demo_sweep(str(tmp_path / "journal"), tmp_path)
    mine.prepare()
    with pytest.raises(KeyboardInterrupt):
        mine.work(interrupt)
    assert states(mine) == ["WAITING"] * 6
    mine.work(lambda *_: results())
    assert states(mine) == ["COMPLETE"] * 6


def test_what_failed_is_tried_again_by_the_next_command_only(tmp_path):
    def fail(row, hp, trial):
        seen.append(hp.width)
        if hp.width == 2:
            raise OSError("no room\nat all")
        return results()

    seen, mine = [], demo_sweep(str(tmp_path / "journal"), tmp_path)
    mine.prepare()
    mine.work(fail)
    assert sorted(seen) == [1, 1, 2, 2, 3, 3]
    assert [t.user_attrs["failure"] for _, t in mine.trials() if t.state == TrialState.FAIL] == ["OSError: no room"] * 2
    mine.prepare()
    mine.work(lambda row, hp, trial: seen.append(hp.width) or results())
    assert seen[6:] == [2, 2]
    assert states(mine) == ["COMPLETE"] * 6


def test_another_sweep_of_the_same_name(tmp_path):
    demo_sweep(str(tmp_path / "journal"), tmp_path).prepare()
    other = demo_sweep(str(tmp_path / "journal"), tmp_path, widths=(1, 2))
    with pytest.raises(InputError, match="--sweep-name demo: the storage has another sweep of that name"):
        other.prepare()
    demo_sweep(str(tmp_path / "journal"), tmp_path, name="demo2", widths=(1, 2)).prepare()
    with other.liveness.shown(), pytest.raises(ToolboxError, match="a worker of the sweep demo is alive"):
        other.prepare(overwrite=True)
    other.prepare(overwrite=True)
    assert states(other) == ["WAITING"] * 4


def test_planning_that_was_cut_off_is_finished_by_the_next(tmp_path, monkeypatch):
    """The process that made the study died after it had enqueued two of three trials."""
    monkeypatch.setattr(sweep, "SECONDS_TO_PLAN", 0.3)
    mine = demo_sweep(str(tmp_path / "journal"), tmp_path)
    opened = open_storage(str(tmp_path / "journal"))
    dying = optuna.create_study(storage=opened, study_name=f"demo/{mine.studies[0].name}", direction="maximize")
    for width in (1, 2):
        dying.enqueue_trial({"width": width})
    mine.prepare()
    mine.work(lambda *_: results())
    assert states(mine) == ["COMPLETE"] * 6
    assert sorted(t.params["width"] for row, t in mine.trials() if row is mine.studies[0]) == [1, 2, 3]


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("postgresql://me:secret@127.0.0.1:1/x", "postgresql://me@127.0.0.1:1/x: cannot be used.*can be reached"),
        ("nosuchdatabase://x", "nosuchdatabase://x: cannot be used"),
        (".", "is a folder"),
    ],
)
def test_a_storage_that_cannot_be_used(place, told):
    with pytest.raises(InputError, match=told) as caught:
        open_storage(place)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_journal_that_is_damaged(tmp_path):
    (tmp_path / "journal").write_text("no journal\n" * 2)
    with pytest.raises(ToolboxError, match="journal: is not an Optuna journal, or is damaged"):
        open_storage(str(tmp_path / "journal"))


def test_a_worker_that_died_before_it_said_who_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "SECONDS_TO_REGISTER", 0.0)
    mine = demo_sweep(str(tmp_path / "journal"), tmp_path)
    mine.prepare()
    optuna.load_study(study_name=f"demo/{mine.studies[0].name}", storage=open_storage(str(tmp_path / "journal"))).ask()
    mine.work(lambda *_: results())
    assert states(mine) == ["COMPLETE"] * 6


def start(storage, folder, seconds):
    command = [sys.executable, "-m", "tests.sweeps.sweep_worker", storage, str(folder), str(seconds)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)


def check_that_each_runs_once_though_workers_die(storage, folder):
    """Three workers, two of them killed in the middle of a trial; later one more joins, and one comes too late."""
    victims = [start(storage, folder, 60) for _ in range(2)]
    for victim in victims:
        assert victim.stdout.readline().startswith("begun")
    survivor = start(storage, folder, 0.2)
    survivor.stdout.readline()
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    joiner = start(storage, folder, 0.2)
    assert survivor.wait(60) == joiner.wait(60) == 0
    assert start(storage, folder, 0.2).wait(60) == 0
    runs = [line.rsplit(" ", 1) for line in (folder / "runs").read_text().splitlines()]
    assert sorted(what for what, _ in runs) == EVERYTHING
    assert not {who for _, who in runs} & {str(victim.pid) for victim in victims}
    assert states(demo_sweep(storage, folder)) == ["COMPLETE"] * 6


def test_each_trial_runs_once_though_workers_die(tmp_path):
    check_that_each_runs_once_though_workers_die(str(tmp_path / "journal"), tmp_path)


@pytest.fixture
def postgresql(tmp_path):
    """The URL of a PostgreSQL server that is started for the test, on loopback."""
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


def test_each_trial_runs_once_on_postgresql(postgresql, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(storage, "GRACE_SECONDS", 3)
    check_that_each_runs_once_though_workers_die(postgresql, tmp_path)
    rows = optuna.get_all_study_summaries(postgresql, include_best_trial=False)
    assert sum(summary.n_trials for summary in rows) == 8  # six, of which two were begun twice


def test_one_that_was_held_up_too_long_gives_way(tmp_path):
    """A suspended worker comes back after its trial was given to another: it drops it and goes on."""

    def run(row, hp, trial):
        if hp.width == 1 and not is_repetition(trial):
            stored = trial.study.trials[trial.number]
            trial.study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            requeue(trial.study, stored)
        return results()

    mine = demo_sweep(str(tmp_path / "journal"), tmp_path)
    mine.prepare()
    mine.work(run)
    assert states(mine) == ["COMPLETE"] * 6
