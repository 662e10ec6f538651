"""Keras callbacks around the training loop: validation, the choice of the best epoch, checkpoints and timing.

At the end of an epoch they act in this order: `Timing`, `Divergence`, `Validation`, `KeepBest`, `Summaries`,
`Checkpoint`, `EpochProgress`. An epoch that is interrupted before its checkpoint is trained again, and with the same
result.
"""

import contextlib
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from anomaly_toolbox import evaluation
from anomaly_toolbox.datasets.batches import ScoringSplit
from anomaly_toolbox.errors import DamagedFile
from anomaly_toolbox.files import atomic_write, read_json, sha256, write_json
from anomaly_toolbox.models.base import AnomalyDetector
from anomaly_toolbox.models.weights import readable_weights

SECONDS_BETWEEN_SAVES = 5
IMAGES_IN_MEMORY = 5000  # of the memory banks in the validation after each epoch
VALIDATION_METRICS = {"auprc": "val_auprc", "auroc": "val_auroc", "loss": "val_loss"}
BYTES_PER_VALUE, BYTES_PER_HEADER = 4, 4096  # in an HDF5 file


class Timing(keras.callbacks.Callback):
    """Measures the duration of the training, and its speed without the first batch, which waits for the compiler.

    Args:
        batch_size: images in a batch.

    Attributes:
        seconds_before: the duration of earlier attempts at the same training.
    """

    def __init__(self, batch_size: int):
        super().__init__()
        self.seconds_before = 0.0
        self._batch_size = batch_size
        self._began: float | None = None
        self._measured_since: float | None = None
        self._measured_images = 0
        self._measured_seconds = 0.0

    @property
    def images_per_second(self) -> float | None:
        """The training speed without validation, or None if no batch was measured."""
        return self._measured_images / self._measured_seconds if self._measured_images else None

    @property
    def seconds(self) -> float:
        """The duration of the training so far, with validation and with earlier attempts."""
        if self._began is None:
            return self.seconds_before
        return self.seconds_before + (time.perf_counter() - self._began)

    def on_train_begin(self, logs=None):
        self._began = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        if self._measured_since is not None:
            self._measured_since = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if self._measured_since is None:
            self._measured_since = time.perf_counter()
        else:
            self._measured_images += self._batch_size

    def on_epoch_end(self, epoch, logs=None):
        self._measured_seconds += time.perf_counter() - self._measured_since


class Validation(keras.callbacks.Callback):
    """Scores the validation images and adds `val_auprc`, `val_auroc` and `val_loss` to the logs of the epoch.

    `val_loss` is the mean residual of the normal images. `val_auprc` and `val_auroc` measure the selected score, or the
    paper's score while the detector does not have the selected score yet, because it is fitted after the epochs. They
    are left out if there are no anomalous validation images.

    Args:
        split: the validation images.
        memory_images: normal training images, (n, size, size, channels), for the memory banks and the derived scores.
            To save time, a random sample of them is used.

    Attributes:
        scores: every score of the last epoch by its name, (n,) each.
    """

    def __init__(self, split: ScoringSplit, memory_images: np.ndarray):
        super().__init__()
        self.split = split
        self.scores: dict[str, np.ndarray] = {}
        sample = np.random.default_rng(0).permutation(len(memory_images))[:IMAGES_IN_MEMORY]
        self._memory_images = memory_images[sample]

    def on_epoch_end(self, epoch, logs=None):
        labels = self.split.labels
        with self.model.fast_validation():
            self.model.fit_scores(self._memory_images)
            self.scores = self.model.score_batches(self.split.batches, len(labels))
        selected_scores = self.scores.get(self.model.hyperparameters.score, self.scores["paper"])
        metrics = evaluation.metrics(labels, selected_scores, threshold=0.0)
        for name in ("auprc", "auroc"):
            if metrics[name] is not None:
                logs[VALIDATION_METRICS[name]] = metrics[name]
        logs[VALIDATION_METRICS["loss"]] = float(self.scores["residual"][labels == 0].mean())


class KeepBest(keras.callbacks.Callback):
    """Saves the networks of the best epoch so far, and stops the training when patience runs out.

    Every best epoch is saved to a new file. `Checkpoint` removes the old one after `state.json` names the new one.

    Args:
        folder: the checkpoint folder.
        select_by: the validation metric that is compared: `auprc`, `auroc`, `loss`, or `last` for the last epoch.
        patience: the number of epochs without improvement after which training stops; None never stops it.

    Attributes:
        best_epoch: the number of the best epoch, from 1; 0 before the first.
        best: the metric of the best epoch, negated for `loss`, so that higher is better.
    """

    def __init__(self, folder: Path, select_by: str, patience: int | None):
        super().__init__()
        self.best_epoch = 0
        self.best: float | None = None
        self._folder, self._select_by, self._patience = folder, select_by, patience

    @property
    def path(self) -> Path:
        """The file with the networks of the best epoch."""
        return self._folder / f"best-{self.best_epoch}.weights.h5"

    def restore(self, model: AnomalyDetector) -> None:
        """Loads the networks of the best epoch into `model`; raises DamagedFile if their file is damaged."""
        with reraise_as_damage(self.path):
            model.load_networks(self.path)

    def on_epoch_end(self, epoch, logs=None):
        if self._is_better(logs):
            self.best_epoch = epoch + 1
            self._folder.mkdir(exist_ok=True)
            with atomic_write(self.path, size_in_file(self.model.stored)) as temporary:
                self.model.save_networks(temporary)
        self.model.stop_training = self.is_exhausted(epoch + 1)

    def is_exhausted(self, epochs_done: int) -> bool:
        """Whether patience has run out after this many epochs."""
        return self._patience is not None and epochs_done - self.best_epoch >= self._patience

    def _is_better(self, logs: dict[str, float]) -> bool:
        """Whether the epoch is the best so far; if so, its metric is stored in `best`."""
        if self._select_by == "last":
            return True
        metric = logs[VALIDATION_METRICS[self._select_by]]
        if self._select_by == "loss":
            metric = -metric
        if self.best is not None and metric <= self.best:
            return False
        self.best = metric
        return True


class Checkpoint(keras.callbacks.Callback):
    """Saves after each epoch what an interrupted training needs to continue: weights, optimizers, the best epoch.

    `state.json` is replaced in one step and names the weights files that belong to it, with their checksums. Keras's
    `BackupAndRestore` writes weights and epoch as two files, so a training that is killed between the two would repeat
    an epoch; and it does not save the best metric.

    Args:
        folder: the checkpoint folder; it is made when needed.
        keep_best, timing: callbacks whose state is saved and restored, too.
    """

    def __init__(self, folder: Path, keep_best: KeepBest, timing: Timing):
        super().__init__()
        self._folder, self._keep_best, self._timing = folder, keep_best, timing
        self._state_path = folder / "state.json"

    def restore(self, model: AnomalyDetector) -> int:
        """Restores the state after the last finished epoch.

        Returns:
            The number of finished epochs; 0 if there is no checkpoint.

        Raises:
            DamagedFile: the checkpoint is damaged.
        """
        if not self._state_path.exists():
            return 0
        state = read_json(self._state_path)
        with reraise_as_damage(self._folder):
            epochs_done = int(state["epoch"])
            self._timing.seconds_before = float(state["seconds"])
            self._keep_best.best_epoch = int(state["best_epoch"])
            self._keep_best.best = None if state["best"] is None else float(state["best"])
            weights_path = self._weights_path(epochs_done)
            for path in (weights_path, self._keep_best.path):
                if sha256(path) != state["sha256"][path.name]:
                    raise ValueError(f"{path}: the checksum does not match")
            with readable_weights(weights_path) as readable:
                model.load_weights(str(readable))
        return epochs_done

    def on_epoch_begin(self, epoch, logs=None):
        self.model.begin_epoch(epoch)

    def on_epoch_end(self, epoch, logs=None):
        weights_path = self._weights_path(epoch + 1)
        self._folder.mkdir(exist_ok=True)
        variables = list(self.model.stored)
        for optimizer in self.model.optimizers.values():
            variables += optimizer.variables
        with atomic_write(weights_path, size_in_file(variables)) as temporary:
            self.model.save_weights(str(temporary))
        current_files = (weights_path, self._keep_best.path)
        state = {
            "epoch": epoch + 1,
            "best_epoch": self._keep_best.best_epoch,
            "best": self._keep_best.best,
            "seconds": self._timing.seconds,
            "sha256": {path.name: sha256(path) for path in current_files},
        }
        write_json(self._state_path, state)
        for path in self._folder.glob("*.weights.h5"):
            if path not in current_files:
                path.unlink()

    def _weights_path(self, epochs_done: int) -> Path:
        return self._folder / f"epoch-{epochs_done}.weights.h5"


class KeepScores(keras.callbacks.Callback):
    """Saves the scores of finished batches during `predict`, so that interrupted scoring can continue.

    Args:
        path: the `.npz` file to write.
        key: checksums of the networks and of the images. Saved scores with another key are ignored.
    """

    def __init__(self, path: Path, key: str):
        super().__init__()
        self._path, self._key = path, key
        self._parts: list[dict[str, np.ndarray]] = []
        self._n_batches_before = 0
        self._saved_at = 0.0

    def restore(self) -> tuple[dict[str, np.ndarray], int]:
        """Reads the scores that an earlier attempt saved.

        Returns:
            Each score by its name, and the number of batches that were scored; {} and 0 if nothing was saved, or if the
            file is damaged or has another key.
        """
        try:
            with np.load(self._path) as file:
                saved = dict(file)
        except (OSError, ValueError, zipfile.BadZipFile):
            return {}, 0
        if saved.pop("key", None) != self._key:
            return {}, 0
        self._n_batches_before = int(saved.pop("batches"))
        self._parts = [saved]
        return saved, self._n_batches_before

    def on_predict_begin(self, logs=None):
        self._saved_at = time.perf_counter()

    def on_predict_batch_end(self, batch, logs=None):
        self._parts.append({score: np.asarray(values) for score, values in logs.items()})
        if time.perf_counter() - self._saved_at <= SECONDS_BETWEEN_SAVES:
            return
        scores = {}
        for score in self._parts[0]:
            scores[score] = np.concatenate([part[score] for part in self._parts])
        self._parts = [scores]
        with atomic_write(self._path) as temporary, open(temporary, "wb") as file:
            np.savez(file, key=self._key, batches=self._n_batches_before + batch + 1, **scores)
        self._saved_at = time.perf_counter()


class WatchEpochs(keras.callbacks.Callback):
    """Calls a function with the number of each finished epoch, from 1, and its logs."""

    def __init__(self, watch: Callable[[int, dict[str, float]], None]):
        super().__init__()
        self._watch = watch

    def on_epoch_end(self, epoch, logs=None):
        self._watch(epoch + 1, logs)


@contextlib.contextmanager
def reraise_as_damage(path: Path) -> Iterator[None]:
    """Turns the many errors that unreadable weights cause into a DamagedFile that names `path`."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as problem:
        raise DamagedFile(f"{path} is damaged or missing ({type(problem).__name__})") from problem


def size_in_file(variables: Sequence[keras.Variable]) -> int:
    """The size of variables in an HDF5 file, with headers, in bytes."""
    return sum(BYTES_PER_VALUE * math.prod(variable.shape) + BYTES_PER_HEADER for variable in variables)
