"""Progress in the terminal: bars, a line for each epoch, and an estimate of the duration of an epoch."""

import time

import keras
from rich.progress import Progress, TaskID

from anomaly_toolbox.training.callbacks import KeepBest

SECONDS_BEFORE_ESTIMATE = 3
SECONDS_WORTH_AN_ESTIMATE = 30


class SurveyProgress:
    """A bar for each split during the survey; pass it to `surveys` as its progress function."""

    def __init__(self, bar: Progress):
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[str, int] = {}

    def __call__(self, split: str, count: int) -> None:
        """Reports that `count` images of a split have been read so far."""
        if split not in self._tasks:
            self._tasks[split] = self._bar.add_task(f"checking the images of {split}", total=None)
        self._bar.advance(self._tasks[split], count - self._counts.get(split, 0))
        self._counts[split] = count


class EpochProgress(keras.callbacks.Callback):
    """A bar for each epoch, a line when it ends, and estimates of the duration of the training.

    The first estimate comes within the first epoch and does not know the time of a validation. The second one, at the
    end of an epoch without compilation, does: with AnoGAN, a validation may take longer than an epoch of training.

    Args:
        bar: where progress is shown.
        epochs: the number of epochs of the whole training.
        keep_best: its line marks the epochs whose networks were kept.
    """

    def __init__(self, bar: Progress, epochs: int, keep_best: KeepBest):
        super().__init__()
        self._bar, self._epochs, self._keep_best = bar, epochs, keep_best
        self._has_compiled = False
        self._has_estimated = False
        self._n_finished = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.perf_counter()
        self._task = self._bar.add_task(f"epoch {epoch + 1}/{self._epochs}", total=self.params["steps"])
        self._measured_since, self._n_batches = self._began, 0

    def on_train_batch_end(self, batch, logs=None):
        self._bar.advance(self._task)
        if not self._has_compiled:  # the time of the first batch is mostly the time of the compiler
            self._has_compiled = True
            self._measured_since = time.perf_counter()
            return
        self._n_batches += 1
        passed = time.perf_counter() - self._measured_since
        if not self._has_estimated and passed > SECONDS_BEFORE_ESTIMATE:
            seconds = passed / self._n_batches * self.params["steps"]
            minutes = self._epochs * seconds / 60
            self._bar.console.print(
                f"an epoch takes about {seconds:.0f} s of training; {self._epochs} take {minutes:.1f} min "
                "without validation"
            )
            self._has_estimated = True

    def on_epoch_end(self, epoch, logs=None):
        self._bar.remove_task(self._task)
        shown = {name: value for name, value in logs.items() if name.endswith("_loss") and name != "val_loss"}
        if "val_auprc" in logs:
            shown["validation AUPRC"] = logs["val_auprc"]
            shown["AUROC"] = logs["val_auroc"]
        else:
            shown["validation residual"] = logs["val_loss"]
        seconds = time.perf_counter() - self._began
        kept = "  (kept)" if self._keep_best.best_epoch == epoch + 1 else ""
        self._bar.console.print(f"epoch {epoch + 1}/{self._epochs}  {seconds:.0f} s  {_format_values(shown)}{kept}")
        self._n_finished += 1
        seconds_left = seconds * (self._epochs - epoch - 1)
        if self._n_finished == 2 and seconds_left > SECONDS_WORTH_AN_ESTIMATE:
            self._bar.console.print(f"the other epochs take about {seconds_left / 60:.1f} min with validation")


class ScoringProgress(keras.callbacks.Callback):
    """A bar for Keras's `predict`.

    Args:
        bar: where progress is shown.
        title: the text next to the bar.
        n_batches_before: batches that an earlier attempt finished.
    """

    def __init__(self, bar: Progress, title: str, n_batches_before: int = 0):
        super().__init__()
        self._bar, self._title, self._n_batches_before = bar, title, n_batches_before

    def on_predict_begin(self, logs=None):
        total = self._n_batches_before + self.params["steps"]
        self._task = self._bar.add_task(self._title, total=total, completed=self._n_batches_before)

    def on_predict_batch_end(self, batch, logs=None):
        self._bar.advance(self._task)

    def on_predict_end(self, logs=None):
        self._bar.remove_task(self._task)


class AfterFitProgress(keras.callbacks.Callback):
    """A bar for the training in `AnomalyDetector.after_fit`, and a line when it ends.

    The trained model must have an attribute `title`.
    """

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
        seconds = time.perf_counter() - self._began
        self._bar.console.print(f"{self.model.title}  {seconds:.0f} s  {_format_values(logs)}")


class MemoryProgress:
    """A bar for the images that the memory banks are fitted to; pass it to `fit_scores` as its progress function."""

    def __init__(self, bar: Progress):
        self._bar = bar
        self._task: TaskID | None = None

    def __call__(self, n_done: int, n_batches: int) -> None:
        """Reports that `n_done` of `n_batches` batches are done."""
        if self._task is None:
            self._task = self._bar.add_task("filling the memory banks", total=n_batches)
        self._bar.update(self._task, completed=n_done, total=n_batches)  # AnoGAN reports two passes


def _format_values(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in values.items())
