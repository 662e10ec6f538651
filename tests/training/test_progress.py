"""The estimates of how long a training takes."""

import io
import types

import pytest
from rich.progress import Progress

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.training import progress

WITH_VALIDATION = "the other epochs take about 6.0 min with validation"


@pytest.mark.parametrize(("seconds", "estimates"), [(120, [WITH_VALIDATION]), (1, [])])
def test_after_two_epochs_the_estimate_includes_validation(seconds, estimates, monkeypatch):
    output, clock = io.StringIO(), {"now": 0.0}
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(perf_counter=lambda: clock["now"]))
    keep_best = types.SimpleNamespace(best_epoch=0)
    callback = progress.EpochProgress(Progress(console=plain_console(file=output, width=200)), 5, keep_best)
    callback.set_params({"steps": 3})
    for epoch in range(5):
        callback.on_epoch_begin(epoch)
        clock["now"] += seconds
        callback.on_epoch_end(epoch, {"val_loss": 0.5})
    lines = [line for line in output.getvalue().splitlines() if "take" in line]
    assert lines == estimates
