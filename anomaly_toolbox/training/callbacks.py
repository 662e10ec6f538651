"""What happens around the loop, as Keras callbacks.

At the end of an epoch they act in this order: `Timing`, `Divergence`, `Validation`, `KeepBest`, `Summaries`,
`Checkpoint`, and then `progress.EpochProgress`. Whatever is killed before the checkpoint is done again, and gives the
same.
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
VALIDATION_METRICS = {"auprc": "val_auprc", "auroc": "val_auroc", "loss": "val_loss"}


class Timing(keras.callbacks.Callback):
    """Training speed, without the first batch of the process, in which the step is compiled."""

    def __init__(self, batch_size: int):
        super().__init__()
        self._batch_size = batch_size
        self._images, self._seconds, self._since = 0, 0.0, None
        self._began, self.seconds_before = None, 0.0

    @property
    def images_per_second(self) -> float | None:
        """Normal training images per second, or None where nothing was trained."""
        return self._images / self._seconds if self._images else None

    @property
    def seconds(self) -> float:
        """All that the training took so far, looks at the validation images and earlier attempts included."""
        return self.seconds_before + (time.perf_counter() - self._began if self._began else 0.0)

    def on_train_begin(self, logs=None):
        self._began = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        if self._seconds:
            self._since = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if self._since is None:
            self._since = time.perf_counter()
        else:
            self._images += self._batch_size

    def on_epoch_end(self, epoch, logs=None):
        self._seconds += time.perf_counter() - self._since


class Validation(keras.callbacks.Callback):
    """Scores the validation images and adds `val_auprc`, `val_auroc` and `val_loss` to the epoch's logs.

    `val_loss` is the mean residual of the normal ones: it needs no labelled anomalies. The others are added where
    there are some, for the score that decides, or the paper's while a detector has that one only after its epochs.

    Args:
        split: the validation images.
        memory_images: normal training images (n, size, size, channels) for the scores by comparison.
    """

    def __init__(self, split: ScoringSplit, memory_images: np.ndarray):
        super().__init__()
        self.split, self._memory_images = split, memory_images
        self.scores: dict[str, np.ndarray] = {}

    def on_epoch_end(self, epoch, logs=None):
        labels = self.split.labels
        with self.model.fast_validation():
            self.model.fit_memory_banks(self._memory_images)
            self.scores = self.model.score_batches(self.split.batches, len(labels))
        selected = self.scores.get(self.model.hyperparameters.score, self.scores["paper"])
        figures = evaluation.metrics(labels, selected, threshold=0.0)
        logs |= {f"val_{name}": figures[name] for name in ("auprc", "auroc") if figures[name] is not None}
        logs["val_loss"] = float(self.scores["residual"][labels == 0].mean())


class KeepBest(keras.callbacks.Callback):
    """Keeps the networks of the best epoch so far, and stops when there was no better one for `patience` epochs.

    Each goes to a file of its own; `Checkpoint` removes the others once its state names the new one.
    """

    def __init__(self, folder: Path, select_by: str, patience: int | None):
        super().__init__()
        self._folder, self._select_by, self._patience = folder, select_by, patience
        self.best_epoch, self.best = 0, None

    @property
    def path(self) -> Path:
        """Where the networks of the best epoch are."""
        return self._folder / f"best-{self.best_epoch}.weights.h5"

    def restore(self, model: AnomalyDetector) -> None:
        """Gives `model` the networks of the best epoch; DamagedFile if they are damaged."""
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
        """Whether patience has run out after so many epochs."""
        return self._patience is not None and epochs_done - self.best_epoch >= self._patience

    def _is_better(self, logs: dict[str, float]) -> bool:
        if self._select_by == "last":
            return True
        figure = logs[VALIDATION_METRICS[self._select_by]] * (-1 if self._select_by == "loss" else 1)
        if self.best is not None and figure <= self.best:
            return False
        self.best = figure
        return True


class Checkpoint(keras.callbacks.Callback):
    """Saves all that training needs to go on: weights, optimizers, epoch, best figure so far.

    Keras's `BackupAndRestore` writes weights and epoch as two files and forgets the best figure; killed between the
    two, it would train an epoch twice. Here `state.json` is replaced in one step and tells which weights count.
    """

    def __init__(self, folder: Path, keep_best: KeepBest, timing: Timing):
        super().__init__()
        self._folder, self._keep_best, self._timing = folder, keep_best, timing
        self._state_path = folder / "state.json"

    def restore(self, model: AnomalyDetector) -> int:
        """Brings `model` back to the last finished epoch and returns how many are finished, 0 without a checkpoint.

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
            for path in (self._weights(epochs_done), self._keep_best.path):
                if sha256(path) != state["sha256"][path.name]:
                    raise ValueError(path)
            with readable_weights(self._weights(epochs_done)) as readable:
                model.load_weights(str(readable))
        return epochs_done

    def on_epoch_begin(self, epoch, logs=None):
        self.model.begin_epoch(epoch)

    def on_epoch_end(self, epoch, logs=None):
        weights = self._weights(epoch + 1)
        self._folder.mkdir(exist_ok=True)
        optimizers = [variable for optimizer in self.model.optimizers.values() for variable in optimizer.variables]
        with atomic_write(weights, size_in_file([*self.model.stored, *optimizers])) as temporary:
            self.model.save_weights(str(temporary))
        counted = (weights, self._keep_best.path)
        state = {"epoch": epoch + 1, "best_epoch": self._keep_best.best_epoch, "best": self._keep_best.best}
        state["seconds"] = self._timing.seconds
        write_json(self._state_path, state | {"sha256": {path.name: sha256(path) for path in counted}})
        for other in self._folder.glob("*.weights.h5"):
            if other not in counted:
                other.unlink()

    def _weights(self, epochs_done: int) -> Path:
        return self._folder / f"epoch-{epochs_done}.weights.h5"


class KeepScores(keras.callbacks.Callback):
    """Keeps the scores of finished batches on disk, so that an interrupted scoring goes on where it was.

    Args:
        path: an `.npz` file.
        key: checksums of the networks and of the images; scores of other networks or images are ignored.
    """

    def __init__(self, path: Path, key: str):
        super().__init__()
        self._path, self._key = path, key
        self._finished: list[dict[str, np.ndarray]] = []
        self._batches_before = 0

    def restore(self) -> tuple[dict[str, np.ndarray], int]:
        """Scores kept by an earlier attempt, and of how many batches; nothing if there are none or they are damaged."""
        try:
            with np.load(self._path) as kept:
                known = dict(kept)
        except (OSError, ValueError, zipfile.BadZipFile):
            known = {}
        if known.pop("key", None) != self._key:
            return {}, 0
        self._batches_before = int(known.pop("batches"))
        self._finished = [known]
        return known, self._batches_before

    def on_predict_begin(self, logs=None):
        self._saved = time.perf_counter()

    def on_predict_batch_end(self, batch, logs=None):
        self._finished.append({name: np.asarray(values) for name, values in logs.items()})
        if time.perf_counter() - self._saved > SECONDS_BETWEEN_SAVES:
            scores = {name: np.concatenate([part[name] for part in self._finished]) for name in self._finished[0]}
            self._finished = [scores]
            with atomic_write(self._path) as temporary, open(temporary, "wb") as file:
                np.savez(file, key=self._key, batches=self._batches_before + batch + 1, **scores)
            self._saved = time.perf_counter()


class WatchEpochs(keras.callbacks.Callback):
    """Calls a function with the number of each finished epoch, from 1, and its metrics."""

    def __init__(self, watch: Callable[[int, dict[str, float]], None]):
        super().__init__()
        self._watch = watch

    def on_epoch_end(self, epoch, logs=None):
        self._watch(epoch + 1, logs)


@contextlib.contextmanager
def reraise_as_damage(path: Path) -> Iterator[None]:
    """Weights that cannot be read raise many kinds of errors; here they become one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as problem:
        raise DamagedFile(f"{path} is damaged or missing ({type(problem).__name__})") from problem


def size_in_file(variables: Sequence[keras.Variable]) -> int:
    """Room that variables take in an HDF5 file, with its headers."""
    return sum(4 * math.prod(variable.shape) + 4096 for variable in variables)
