"""What is shown while one waits: bars, a line for each epoch, and how long an epoch takes as soon as that is known."""

import time

import keras
from rich.progress import Progress

from anomaly_toolbox.training.callbacks import KeepBest

SECONDS_BEFORE_ESTIMATE = 3


class SurveyProgress:
    """Counts the images of each split while they are looked at for the first time."""

    def __init__(self, bar: Progress):
        self._bar = bar
        self._tasks: dict[str, int] = {}
        self._counts: dict[str, int] = {}

    def __call__(self, split: str, count: int) -> None:
        """`count` images of that split were seen."""
        if split not in self._tasks:
            self._tasks[split] = self._bar.add_task(f"looking at the images of {split}", total=None)
        self._bar.advance(self._tasks[split], count - self._counts.get(split, 0))
        self._counts[split] = count


class EpochProgress(keras.callbacks.Callback):
    """A bar for the epoch, a line for each finished one, and the time an epoch takes as soon as that is known."""

    def __init__(self, bar: Progress, epochs: int, keep_best: KeepBest):
        super().__init__()
        self._bar, self._epochs, self._keep_best = bar, epochs, keep_best
        self._has_compiled = self._has_estimated = False

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.perf_counter()
        self._task = self._bar.add_task(f"epoch {epoch + 1}/{self._epochs}", total=self.params["steps"])
        self._measured_since, self._batches = self._began, 0

    def on_train_batch_end(self, batch, logs=None):
        self._bar.advance(self._task)
        if not self._has_compiled:  # the first batch waits for the compiler and tells nothing
            self._has_compiled, self._measured_since = True, time.perf_counter()
            return
        self._batches += 1
        passed = time.perf_counter() - self._measured_since
        if not self._has_estimated and passed > SECONDS_BEFORE_ESTIMATE:
            seconds = passed / self._batches * self.params["steps"]
            minutes = self._epochs * seconds / 60
            self._say(f"an epoch takes about {seconds:.0f} s of training; {self._epochs} take {minutes:.1f} min")
            self._has_estimated = True

    def on_epoch_end(self, epoch, logs=None):
        self._bar.remove_task(self._task)
        shown = {name: logs[name] for name in logs if name.endswith("_loss") and name != "val_loss"}
        if "val_auprc" in logs:
            shown |= {"validation AUPRC": logs["val_auprc"], "AUROC": logs["val_auroc"]}
        else:
            shown |= {"validation residual": logs["val_loss"]}
        figures = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
        kept = "  (kept)" if self._keep_best.best_epoch == epoch + 1 else ""
        self._say(f"epoch {epoch + 1}/{self._epochs}  {time.perf_counter() - self._began:.0f} s  {figures}{kept}")

    def _say(self, line: str) -> None:
        self._bar.console.print(line)


class ScoringProgress(keras.callbacks.Callback):
    """A bar for `predict`, of which `done` batches were finished before."""

    def __init__(self, bar: Progress, title: str, done: int = 0):
        super().__init__()
        self._bar, self._title, self._done = bar, title, done

    def on_predict_begin(self, logs=None):
        total = self._done + self.params["steps"]
        self._task = self._bar.add_task(self._title, total=total, completed=self._done)

    def on_predict_batch_end(self, batch, logs=None):
        self._bar.advance(self._task)

    def on_predict_end(self, logs=None):
        self._bar.remove_task(self._task)


class AfterFitProgress(keras.callbacks.Callback):
    """A bar for what a detector learns once the epochs are over, and a line at its end."""

    def __init__(self, bar: Progress):
        super().__init__()
        self._bar = bar

    def on_train_begin(self, logs=None):
        self._began = time.perf_counter()
        self._task = self._bar.add_task(self.model.title, total=self.params["steps"])

    def on_train_batch_end(self, batch, logs=None):
        self._bar.advance(self._task)

    def on_epoch_end(self, epoch, logs=None):
        self._bar.remove_task(self._task)
        figures = "  ".join(f"{name} {value:.3f}" for name, value in logs.items())
        seconds = time.perf_counter() - self._began
        self._bar.console.print(f"{self.model.title}  {seconds:.0f} s  {figures}")
