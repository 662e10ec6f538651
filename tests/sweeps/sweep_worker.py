"""A worker of a sweep whose trials only sleep. `test_sweep.py` starts it as a process and kills it.

    python -m tests.sweeps.sweep_worker STORAGE FOLDER SECONDS

It writes a line to FOLDER/runs for each trial that it finishes.
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
    """The smallest schema that a sweep works with."""

    anomalous_label: int
    width: int


def demo_sweep(location: str, folder: Path, name: str = "demo", widths=WIDTHS) -> Sweep:
    """A sweep of two studies of three trials each."""
    studies = []
    for label in LABELS:
        settings = {"width": Discrete(tuple(widths))}
        studies.append(StudySpec("Method", Hyperparameters, {"anomalous_label": label}, settings))
    search = Search("grid", None, "none", 0)
    return Sweep(name, studies, search, "Data", open_storage(location), folder)


def main(location: str, folder: Path, seconds: float) -> None:
    """Prepares the sweep and works until all trials have ended."""
    storage.HEARTBEAT_SECONDS, storage.GRACE_SECONDS = 1, 3
    sweep.SECONDS_BETWEEN_CHECKS = 0.1

    def run(study, hyperparameters, trial):
        print("started", study.name, hyperparameters.width, flush=True)
        time.sleep(seconds)
        with open(folder / "runs", "a") as file:
            file.write(f"{study.name} {hyperparameters.width} {os.getpid()}\n")
        return {"validation": {"auprc": 0.1 * hyperparameters.width}}

    demo = demo_sweep(location, folder)
    demo.prepare()
    demo.work(run)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
