"""A worker of a sweep whose trials only wait; started as a process by `test_sweep.py`, to be killed.

    python -m tests.sweeps.sweep_worker STORAGE FOLDER SECONDS

Writes a line to FOLDER/runs for each trial that it ends.
"""

import os
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from anomaly_toolbox.sweeps import storage, sweep
from anomaly_toolbox.sweeps.hps import Discrete
from anomaly_toolbox.sweeps.search import Search, StudySpec
from anomaly_toolbox.sweeps.storage import open_storage
from anomaly_toolbox.sweeps.sweep import Sweep

WIDTHS, LABELS = (1, 2, 3), (7, 8)


class Hyperparameters(BaseModel):
    """The least that a sweep needs."""

    anomalous_label: int
    width: int


def demo_sweep(location: str, folder: Path, name: str = "demo", widths=WIDTHS) -> Sweep:
    """Two rows of three trials each."""
    rows = [
        StudySpec("Method", Hyperparameters, {"anomalous_label": label}, {"width": Discrete(tuple(widths))})
        for label in LABELS
    ]
    how = Search("grid", None, "none", 0)
    return Sweep(name, rows, how, "Data", open_storage(location), folder)


def main(location: str, folder: Path, seconds: float) -> None:
    """Prepares the sweep and works until it is over."""
    storage.HEARTBEAT_SECONDS, storage.GRACE_SECONDS = 1, 3
    sweep.SECONDS_BETWEEN_CHECKS = 0.1

    def run(row, hyperparameters, trial):
        print("begun", row.name, hyperparameters.width, flush=True)
        time.sleep(seconds)
        with open(folder / "runs", "a") as file:
            file.write(f"{row.name} {hyperparameters.width} {os.getpid()}\n")
        return {"validation": {"auprc": 0.1 * hyperparameters.width}}

    mine = demo_sweep(location, folder)
    mine.prepare()
    mine.work(run)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
