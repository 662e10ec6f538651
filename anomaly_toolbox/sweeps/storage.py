"""The storage of a sweep: a journal file or a database, in which workers share trials. No TensorFlow here."""

import contextlib
import itertools
import random
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages.journal import JournalFileBackend

from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.sweeps.queue import requeue

HEARTBEAT_SECONDS = 15
GRACE_SECONDS = 90  # a worker without a heartbeat for this long counts as dead
ATTEMPTS_TO_OPEN = 10


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silences Optuna's messages, and its warning that heartbeats are experimental, inside the `with` block."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def open_storage(location: str) -> optuna.storages.BaseStorage:
    """Opens a database, given by its URL, or a journal file.

    Raises:
        InputError: the location cannot be used.
        ToolboxError: the journal file is damaged.
    """
    if "://" not in location:
        return _open_journal(location)
    try:
        return _open_database(location.replace("postgresql://", "postgresql+psycopg://", 1))
    except ImportError as problem:
        raise InputError(
            f"--storage {_without_password(location)}: its driver is not installed; for PostgreSQL: "
            "pip install 'anomaly-toolbox[postgresql]'"
        ) from problem
    except sqlalchemy.exc.SQLAlchemyError as problem:
        cause = str(getattr(problem, "orig", None) or problem).strip().partition("\n")[0]
        raise InputError(
            f"--storage {_without_password(location)}: cannot be used ({cause}); expected a journal file, or the URL "
            "of a database that can be reached, such as postgresql://user:password@host/name"
        ) from problem


def _open_journal(location: str) -> optuna.storages.JournalStorage:
    path = Path(location)
    if path.is_dir():
        raise InputError(f"--storage {location}: is a folder; expected a journal file or a database URL")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return optuna.storages.JournalStorage(JournalFileBackend(location))
    except (ValueError, KeyError, TypeError) as problem:
        raise ToolboxError(f"--storage {location}: is not an Optuna journal, or is damaged ({problem})") from problem


def _open_database(url: str) -> optuna.storages.RDBStorage:
    """Opens a database, and tries again while other processes create its tables at the same time."""
    for attempt in itertools.count(1):
        try:
            return optuna.storages.RDBStorage(
                url,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=requeue,
            )
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            if attempt == ATTEMPTS_TO_OPEN:
                raise
            time.sleep(random.uniform(0.2, 1.0))
    raise AssertionError("the loop above has no end")


def _without_password(url: str) -> str:
    """The URL without its password, for messages."""
    scheme, _, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}{at}{host}"
