"""A worker of a sweep whose trials only wait; started as a process by `test_study.py`, to be killed.

    python -m tests.sweep_worker STORAGE FOLDER SECONDS

Writes a line to FOLDER/runs for each trial that it ends.
"""

import os
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from anomaly_toolbox.sweeps import sweep as study
from anomaly_toolbox.sweeps.hps import Discrete

WIDTHS, LABELS = (1, 2, 3), (7, 8)


class Hyperparameters(BaseModel):
    """The least that a sweep needs."""

    anomalous_label: int
    width: int


def sweep(storage: str, folder: Path, name: str = "demo", widths=WIDTHS) -> study.Sweep:
    """Two rows of three trials each."""
    rows = [
        study.Row("Method", Hyperparameters, {"anomalous_label": label}, {"width": Discrete(tuple(widths))})
        for label in LABELS
    ]
    search = study.Search("grid", None, "none", 0)
    return study.Sweep(name, rows, search, "Data", study.open_storage(storage), folder)


def main(storage: str, folder: Path, seconds: float) -> None:
    """Prepares the sweep and works until it is over."""
    study.HEARTBEAT_SECONDS, study.GRACE_SECONDS, study.SECONDS_BETWEEN_LOOKS = 1, 3, 0.1

    def run(row, hyperparameters, trial):
        print("begun", row.name, hyperparameters.width, flush=True)
        time.sleep(seconds)
        with open(folder / "runs", "a") as file:
            file.write(f"{row.name} {hyperparameters.width} {os.getpid()}\n")
        return {"validation": {"auprc": 0.1 * hyperparameters.width}}

    mine = sweep(storage, folder)
    mine.prepare()
    mine.work(run)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
