"""Many trials, shared out by Optuna among the processes and machines that give the same command.

A row of the comparison is a method and the label that counts as anomalous. It is an Optuna study of its own, because a
label is nothing to be optimised. All trials of a row wait in its queue before the first is run. A worker takes one in a
single step of the storage, so no trial is run twice, and when a worker dies its trial goes back to the queue:

* a database tells who is dead by Optuna's heartbeats,
* a journal file by a lock that each worker holds beside it, and that goes with the process.
"""

import contextlib
import datetime
import hashlib
import itertools
import json
import os
import random
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel

from anomaly_toolbox import hps
from anomaly_toolbox.errors import InputError, ToolboxError, reason
from anomaly_toolbox.files import short_name
from anomaly_toolbox.hps import Discrete, Domain, Interval

RANDOM_TRIALS = 10  # with which `tpe` begins
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_PLAN = 30.0  # without progress, another process goes on with the planning
SECONDS_TO_REGISTER = 60.0  # a worker that has not said who it is by then died before it could
HEARTBEAT_SECONDS, GRACE_SECONDS = 15, 90
ATTEMPTS_TO_OPEN = 10
LONGEST_ROW = 300  # bytes of a row's name in the storage, whose databases take 512 for the name of a study

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # heartbeats are; they are tested


@dataclass(frozen=True)
class Row:
    """A method and one label; `settings` are the domains of its other hyperparameters, `place` is where they stand."""

    method: str
    schema: type[BaseModel]
    labels: dict[str, Any]
    settings: dict[str, Domain]
    place: str = ""

    @property
    def name(self) -> str:
        """Such as `GANomaly/anomalous_label=8`."""
        return "/".join([self.method, *(f"{name}={value}" for name, value in self.labels.items())])

    def hyperparameters(self, chosen: dict[str, Any]) -> BaseModel:
        """The validated trial in which those settings that vary have the chosen values."""
        fixed = {name: domain.first for name, domain in self.settings.items()}
        return hps.whole_trial(self.schema, {**fixed, **chosen, **self.labels})


@dataclass(frozen=True)
class Search:
    """How trials are chosen: `sampler` is grid, random or tpe, `pruner` none or median, `trials` those of one row."""

    sampler: str
    trials: int | None
    pruner: str
    seed: int

    def plan(self, row: Row) -> list[dict[str, Any]]:
        """What varies, for each trial of a row; an empty one is left to the sampler.

        Rows with the same settings get the same plan, so that settings can be compared over labels.

        Raises:
            InputError: the sampler cannot search these settings.
        """
        if self.trials is None and self.sampler != "grid":
            raise InputError(f"--sampler {self.sampler} needs --trials: how many to run for each method and label")
        varying = {name: domain for name, domain in row.settings.items() if _varies(domain)}
        if not varying:
            return [{}]
        if self.sampler == "grid":
            hps.check_grid(varying, row.place)
        if self.trials is None:
            return hps.combinations(varying)
        number = min(self.trials, hps.count_combinations(varying))
        drawn = self._draw(varying, min(number, RANDOM_TRIALS) if self.sampler == "tpe" else number)
        return drawn + [{}] * (number - len(drawn))

    def _draw(self, varying: dict[str, Domain], number: int) -> list[dict[str, Any]]:
        """So many settings at random, none twice."""
        count = hps.count_combinations(varying)
        if count < float("inf"):
            indices = random.Random(self.seed).sample(range(count), number)
            return [hps.combination(varying, index) for index in sorted(indices)]
        draws = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=self.seed))
        drawn = [draws.ask() for _ in range(number)]
        return [_suggest_all(trial, varying) for trial in drawn]

    def samplers(self) -> tuple[optuna.samplers.BaseSampler, optuna.pruners.BasePruner]:
        """What chooses the values of an empty trial, and what stops a trial early."""
        sampler = optuna.samplers.TPESampler(n_startup_trials=1, constant_liar=True, seed=self.seed)
        return sampler, optuna.pruners.MedianPruner() if self.pruner == "median" else optuna.pruners.NopPruner()


def check(rows: Sequence[Row], search: Search) -> list[list[dict[str, Any]]]:
    """The plan of each row; InputError if the sampler cannot search it, or hyperparameters contradict each other."""
    plans = [search.plan(row) for row in rows]
    if search.trials is None:
        hps.check_count(sum(map(len, plans)))
    for row, plan in zip(rows, plans, strict=True):
        for chosen in plan:
            row.hyperparameters(chosen)
    return plans


def open_storage(place: str) -> optuna.storages.BaseStorage:
    """A database, told by its URL, or a journal file; InputError if it cannot be used."""
    if "://" not in place:
        path = Path(place)
        if path.is_dir():
            raise InputError(f"--storage {place}: is a folder; expected a journal file or a database URL")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(place))
        except (ValueError, KeyError, TypeError) as problem:
            raise ToolboxError(f"--storage {place}: is no journal of Optuna's, or damaged ({problem})") from problem
    try:
        return _open_database(place.replace("postgresql://", "postgresql+psycopg://", 1))
    except ImportError as problem:
        raise InputError(
            f"--storage {_without_password(place)}: its driver is not installed; for PostgreSQL: "
            "pip install 'anomaly-toolbox[postgresql]'"
        ) from problem
    except sqlalchemy.exc.SQLAlchemyError as problem:
        cause = str(getattr(problem, "orig", None) or problem).strip().partition("\n")[0]
        raise InputError(
            f"--storage {_without_password(place)}: cannot be used ({cause}); expected a journal file, or the URL of "
            "a database that can be reached, such as postgresql://user:password@host/name"
        ) from problem


def _open_database(url: str) -> optuna.storages.RDBStorage:
    """Several processes that make the tables of an empty database at once get in each other's way; they try again."""
    for attempt in itertools.count(1):
        try:
            return optuna.storages.RDBStorage(
                url,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=run_again,
            )
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            if attempt == ATTEMPTS_TO_OPEN:
                raise
            time.sleep(random.uniform(0.2, 1.0))


class Sweep:
    """All rows of one command, in a storage.

    Args:
        name: under which the storage knows it.
        rows: what is compared.
        search: how trials are chosen.
        dataset: its name, which is part of what the sweep is.
        storage: from `open_storage`.
        folder: of this sweep; workers that share a journal tell there that they are alive.
    """

    def __init__(
        self,
        name: str,
        rows: Sequence[Row],
        search: Search,
        dataset: str,
        storage: optuna.storages.BaseStorage,
        folder: Path,
    ):
        self.name, self.rows, self.search = name, rows, search
        self.definition = definition(rows, search, dataset)
        self.folder = folder
        self._storage = storage
        self.presence = Presence(folder / "workers")

    def prepare(self, overwrite: bool = False) -> None:
        """Fills the queues, unless another process did; what failed or was interrupted before waits again.

        Args:
            overwrite: forget whatever the storage knows of this sweep.

        Raises:
            InputError: the storage has another sweep of that name, or the sampler cannot search a row's settings.
            ToolboxError: it is to be overwritten while somebody works on it.
        """
        plans = check(self.rows, self.search)
        summaries = optuna.get_all_study_summaries(self._storage, include_best_trial=False)
        mine = [summary for summary in summaries if summary.study_name.startswith(f"{self.name}/")]
        if overwrite:
            if self.presence.is_anybody_there():
                raise ToolboxError(f"--overwrite: a worker of the sweep {self.name} is alive; stop it first")
            for summary in mine:
                optuna.delete_study(study_name=summary.study_name, storage=self._storage)
        elif any(summary.user_attrs.get("definition", self.definition) != self.definition for summary in mine):
            raise InputError(
                f"--sweep-name {self.name}: the storage has another sweep of that name, with other methods, labels, "
                "hyperparameters, data, seed, sampler or number of trials; choose another name, or start anew with "
                "--overwrite"
            )
        for row, plan in zip(self.rows, plans, strict=True):
            self._prepare(row, plan)

    def _prepare(self, row: Row, plan: list[dict[str, Any]]) -> None:
        try:
            study = optuna.create_study(
                storage=self._storage, study_name=self._study_name(row), direction="maximize", load_if_exists=False
            )
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(study_name=self._study_name(row), storage=self._storage)
            self._await_planning(study, plan)
            for trial in study.get_trials(states=(TrialState.FAIL,)):
                if trial.number not in _run_again_later(study):
                    run_again(study, trial)
            return
        study.set_user_attr("definition", self.definition)
        self._enqueue(study, plan)

    def _enqueue(self, study: optuna.Study, plan: list[dict[str, Any]]) -> None:
        for chosen in plan[len(study.get_trials(deepcopy=False)) :]:
            study.enqueue_trial(chosen)
        study.set_user_attr("planned", True)

    def _await_planning(self, study: optuna.Study, plan: list[dict[str, Any]]) -> None:
        """Waits for the process that made the study to fill its queue, and does so itself if that one died over it."""
        known, since = -1, time.monotonic()
        while "planned" not in study.user_attrs:
            n_trials = len(study.get_trials(deepcopy=False))
            if n_trials > known:
                known, since = n_trials, time.monotonic()
            elif time.monotonic() - since > SECONDS_TO_PLAN:
                study.set_user_attr("definition", self.definition)
                self._enqueue(study, plan)
            else:
                time.sleep(SECONDS_BETWEEN_LOOKS / 4)

    def work(self, run: Callable[[Row, BaseModel, optuna.Trial], dict[str, Any]]) -> None:
        """Runs one waiting trial after another, until all trials of all workers have ended.

        Args:
            run: runs one trial and returns its results; what it raises is recorded, and the next trial follows.
        """
        with self.presence.shown():
            studies = [(row, self._study(row)) for row in self.rows]
            while True:
                is_idle, is_over = True, True
                for row, study in studies:
                    self._bury_the_dead(study)
                    with contextlib.suppress(NothingWaiting):
                        self._run_one(row, study, run)
                        is_idle = False
                        break  # begin with the first row again: a dead worker's trial may wait there
                    is_over &= not study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
                if is_idle and is_over:
                    return
                if is_idle:
                    time.sleep(SECONDS_BETWEEN_LOOKS)

    def _run_one(self, row: Row, study: "QueueStudy", run: Callable[..., dict[str, Any]]) -> None:
        running: list[optuna.Trial] = []

        def objective(trial: optuna.Trial) -> float:
            running.append(trial)
            trial.set_user_attr("worker", self.presence.worker)
            try:
                results = run(row, row.hyperparameters(_suggest_all(trial, row.settings)), trial)
            except optuna.TrialPruned:
                raise
            except Exception as problem:
                trial.set_user_attr("failure", reason(problem))
                raise
            trial.set_user_attr("results", results)
            auprc = results["validation"]["auprc"]
            if auprc is None:
                if self.search.sampler == "tpe":
                    raise InputError("--sampler tpe looks for the highest validation AUPRC; there are no anomalies")
                return 0.0
            return auprc

        try:
            study.optimize(objective, n_trials=1, catch=(Exception,))
        except KeyboardInterrupt:
            if running:
                run_again(study, study.trials[running[0].number])
            raise
        except ValueError:
            # Held up beyond the grace period, as by a suspended machine: the trial was given to another worker.
            if not running or study.trials[running[0].number].state != TrialState.FAIL:
                raise

    def _bury_the_dead(self, study: optuna.Study) -> None:
        """Puts the trials of dead workers back into the queue."""
        optuna.storages.fail_stale_trials(study)
        has_heartbeat = isinstance(self._storage, optuna.storages.RDBStorage)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            worker = trial.user_attrs.get("worker")
            if worker is None:
                age = datetime.datetime.now() - trial.datetime_start
                is_dead = age.total_seconds() > SECONDS_TO_REGISTER
            else:
                is_dead = not has_heartbeat and not self.presence.is_alive(worker)
            if is_dead:
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another worker was faster
                    if self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL):
                        run_again(study, trial)

    def trials(self) -> Iterator[tuple[Row, FrozenTrial]]:
        """Every trial that was not run again later, with its row."""
        for row in self.rows:
            study = self._study(row)
            repeated = _run_again_later(study)
            yield from ((row, trial) for trial in study.get_trials() if trial.number not in repeated)

    def _study(self, row: Row) -> "QueueStudy":
        sampler, pruner = self.search.samplers()
        return QueueStudy(self._study_name(row), self._storage, sampler, pruner)

    def _study_name(self, row: Row) -> str:
        return f"{self.name}/{short_name(row.name, LONGEST_ROW)}"


class NothingWaiting(Exception):
    """The queue of a study is empty."""


class QueueStudy(optuna.Study):
    """A study that runs what waits in its queue and never makes up a trial of its own."""

    def ask(self, fixed_distributions=None) -> optuna.Trial:
        """The next waiting trial, which is then running; raises NothingWaiting."""
        trial_id = self._pop_waiting_trial_id()
        if trial_id is None:
            raise NothingWaiting
        return optuna.Trial(self, trial_id)


class Presence:
    """Tells other workers on the same disk that this one is alive, by a lock that goes with the process."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Alive while it is entered."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self.worker}.lock"
        with filelock.FileLock(path):
            yield
        path.unlink(missing_ok=True)

    def is_alive(self, worker: str) -> bool:
        """Whether the process of that name still holds its lock."""
        path = self._folder / f"{worker}.lock"
        if not path.exists():
            return False
        try:
            with filelock.FileLock(path, timeout=0):
                return False
        except filelock.Timeout:
            return True

    def is_anybody_there(self) -> bool:
        """Whether any worker is alive."""
        return any(self.is_alive(path.stem) for path in self._folder.glob("*.lock"))


def definition(rows: Sequence[Row], search: Search, dataset: str) -> str:
    """All that makes a sweep what it is, in a canonical form."""
    described = [
        {"row": row.name, "settings": {name: [type(d).__name__, asdict(d)] for name, d in row.settings.items()}}
        for row in rows
    ]
    return json.dumps({"dataset": dataset, "rows": described, "search": asdict(search)}, sort_keys=True)


def digest(of: str) -> str:
    """Eight characters that tell one definition from another."""
    return hashlib.sha256(of.encode()).hexdigest()[:8]


def run_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Puts a copy of a trial that failed or whose worker died into the queue."""
    trial.user_attrs = {}
    optuna.storages.RetryHeartbeatStaleTrialCallback()(study, trial)


def is_repetition(trial: optuna.Trial) -> bool:
    """Whether the trial was begun before, by this or another worker."""
    return bool(trial.study.trials[trial.number].system_attrs.get("retry_history"))


def _run_again_later(study: optuna.Study) -> set[int]:
    return {n for trial in study.get_trials(deepcopy=False) for n in trial.system_attrs.get("retry_history", [])}


def _varies(domain: Domain) -> bool:
    return (isinstance(domain, Interval) and domain.low < domain.high) or len(getattr(domain, "values", ())) > 1


def _suggest_all(trial: optuna.Trial, settings: dict[str, Domain]) -> dict[str, Any]:
    return {name: _suggest(trial, name, domain) for name, domain in settings.items() if _varies(domain)}


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Any:
    match domain:
        case Discrete():
            return trial.suggest_categorical(name, domain.values)
        case Interval(step=None):
            return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
        case Interval():
            return trial.suggest_int(name, int(domain.low), int(domain.high), step=domain.step, log=domain.log)


def _without_password(url: str) -> str:
    """The URL as it may be shown."""
    scheme, _, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}{at}{host}"
