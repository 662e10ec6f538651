"""Runs a command of the toolbox and writes where its seconds went; `benchmarks.waiting` reads that.

    python -m benchmarks.stopwatch FILE --experiment GANomaly --dataset Digits

Each second is counted once: what a phase calls of another phase counts for that one. Only the main thread is watched.
"""

import builtins
import collections
import functools
import importlib
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

IMPORT = "import"
COMPILE = "trace and compile"
OTHER = "other"

#: Where the functions of each phase are. The first calls of compiled functions are a phase of their own, `COMPILE`.
PHASES = {
    "data": ["training.trial.prepare"],
    "train": ["models.base.AnomalyDetector.fit"],
    "validate": ["training.callbacks.Validation.on_epoch_end"],
    "fit scores": ["training.trial.Attempt._fit_after_epochs"],
    "test": ["training.trial.Attempt._score"],
    "metrics": ["training.trial.measure"],
    "pictures": ["training.gallery.draw"],
    "TensorBoard": [
        *(f"training.summaries.Summaries.on_{event}" for event in ("train_begin", "epoch_end", "train_end")),
        "training.summaries.summarise_hyperparameters",
        "training.summaries.summarise_test",
    ],
    "load": ["inference.detector.Detector.__init__"],
    "score": ["inference.detector.Detector.score_files"],
}


class Stopwatch:
    """Counts the seconds of phases, of which the innermost one gets the time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self._running = [0.0]  # the seconds of each phase that has begun, without the phases within
        self._since = time.perf_counter()

    def timed(self, function: Callable[..., Any], name_of: Callable[..., str | None]) -> Callable[..., Any]:
        """The function, whose time is counted for a phase.

        Args:
            function: to call.
            name_of: gives the name of the phase, after the call and from its arguments; None: the phase around it.
        """

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*arguments, **options)
            self._count()
            self._running.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                self._count()
                seconds = self._running.pop()
                name = name_of(*arguments, **options)
                if name is None:
                    self._running[-1] += seconds
                else:
                    self.seconds[name] += seconds

        return call

    def stop(self) -> dict[str, float]:
        """The seconds of each phase until now."""
        self._count()
        return self.seconds | {OTHER: self._running[0]}

    def _count(self) -> None:
        now = time.perf_counter()
        self._running[-1] += now - self._since
        self._since = now


def watch_imports(stopwatch: Stopwatch) -> None:
    """Counts the time of imports, wherever they are; those of modules that are there already take none."""
    for owner, name in ((builtins, "__import__"), (importlib, "import_module")):
        setattr(owner, name, stopwatch.timed(getattr(owner, name), lambda *_, **__: IMPORT))


def watch_compilation(stopwatch: Stopwatch) -> None:
    """Counts the calls that trace, and the two first ones of each compiled function: XLA compiles in one of them."""
    from tensorflow.python.eager.polymorphic_function.polymorphic_function import Function

    traces: dict[int, int] = collections.defaultdict(int)
    calls: dict[int, int] = collections.defaultdict(int)

    def name_of(function: Any, *_: Any, **__: Any) -> str | None:
        n_traces = function.experimental_get_tracing_count()
        calls[id(function)] += 1
        is_new = n_traces > traces[id(function)] or calls[id(function)] <= 2
        traces[id(function)] = n_traces
        return COMPILE if is_new else None

    Function.__call__ = stopwatch.timed(Function.__call__, name_of)


def watch_phases(stopwatch: Stopwatch) -> None:
    """Counts the time of the functions in `PHASES`."""
    for phase, places in PHASES.items():
        for place in places:
            module_name, _, name = f"anomaly_toolbox.{place}".rpartition(".")
            owner: Any = None
            if module_name.rpartition(".")[2][0].isupper():  # a method
                module_name, _, class_name = module_name.rpartition(".")
                owner = getattr(importlib.import_module(module_name), class_name)
            else:
                owner = importlib.import_module(module_name)
            setattr(owner, name, stopwatch.timed(getattr(owner, name), lambda *_, _phase=phase, **__: _phase))


def main(file: str, *arguments: str) -> None:
    """Runs the command with the arguments."""
    stopwatch = Stopwatch()
    watch_imports(stopwatch)
    from anomaly_toolbox import cli, streams

    def import_tensorflow(debug: bool = False) -> None:
        streams.import_tensorflow(debug)
        watch_compilation(stopwatch)
        watch_phases(stopwatch)

    cli.import_tensorflow = import_tensorflow
    try:
        cli.main([*arguments])
    finally:
        Path(file).write_text(json.dumps(stopwatch.stop()))


if __name__ == "__main__":
    main(*sys.argv[1:])
