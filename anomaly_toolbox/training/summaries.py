"""What TensorBoard shows of a trial."""

import contextlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.pr_curve import summary as pr_curve

from anomaly_toolbox import evaluation, pictures
from anomaly_toolbox.files import atomic_write
from anomaly_toolbox.training.callbacks import VALIDATION_METRICS, Validation

HPARAMS_FILE, TEST_FILE = ".hparams.v2", ".test.v2"  # endings of event files that are written in one go


class Summaries(keras.callbacks.Callback):
    """One TensorBoard run a trial: losses, learning rates, validation figures and pictures.

    Keras's own `TensorBoard` callback splits a trial into two runs and knows a single optimizer, hence this one.
    """

    def __init__(self, folder: Path, validation: Validation, every: int, steps_per_epoch: int):
        super().__init__()
        self._folder, self._validation = folder, validation
        self._every, self._steps_per_epoch = every, steps_per_epoch
        self._epoch = 0

    def on_train_begin(self, logs=None):
        self.writer = tf.summary.create_file_writer(str(self._folder))

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        step = self._epoch * self._steps_per_epoch + batch + 1
        if step % self._every == 0 or step == 1 or batch + 1 == self._steps_per_epoch:
            with self.writer.as_default(step):
                for name, value in logs.items():
                    tf.summary.scalar(f"losses/{name}", value)

    def on_epoch_end(self, epoch, logs=None):
        split, scores = self._validation.split, self._validation.scores
        with self.writer.as_default((epoch + 1) * self._steps_per_epoch):
            for name in logs.keys() & set(VALIDATION_METRICS.values()):
                tf.summary.scalar(f"validation/{name.removeprefix('val_')}", logs[name])
            for player, optimizer in self.model.optimizers.items():
                tf.summary.scalar(f"learning_rate/{player}", optimizer.learning_rate)
            with self.model.fast_validation():
                reconstructions = self.model.reconstruct(split.examples)
            maps = self.model.map_from_reconstruction(split.examples, reconstructions).numpy()
            heatmap_range = pictures.heatmap_range_of(maps[: len(split.normal_examples)])  # they come first
            grid = pictures.grid(split.examples, reconstructions.numpy(), maps, heatmap_range)
            tf.summary.image("image, reconstruction, residual, where", grid[None])
            self._separation(split.labels, scores)
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()

    def _separation(self, labels: np.ndarray, scores: dict[str, np.ndarray]) -> None:
        for name, values in scores.items():
            tf.summary.histogram(f"scores/{name}/normal", values[labels == 0])
            if not labels.any():
                continue
            tf.summary.scalar(f"validation/{name}/auprc", evaluation.metrics(labels, values, threshold=0.0)["auprc"])
            tf.summary.histogram(f"scores/{name}/anomalous", values[labels == 1])
            rescaled = evaluation.rescale(values, values.min(), values.max())
            curve = pr_curve.pb(f"precision_recall/{name}", labels.astype(bool), rescaled)
            step = tf.summary.experimental.get_step()
            tf.summary.experimental.write_raw_pb(curve.SerializeToString(), step)


def forget_after(folder: Path, step: int) -> None:
    """Takes the points after a step out of a run's event files: an interrupted training will write them again."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        kept, n_read = [], 0
        with contextlib.suppress(tf.errors.DataLossError):  # a process that was killed left half a record
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                n_read += 1
                if Event.FromString(record).step <= step:
                    kept.append(record)
        if len(kept) == n_read:
            continue
        with atomic_write(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
            for record in kept:
                writer.write(record)


def summarise_hyperparameters(folder: Path, hyperparameters: dict[str, Any]) -> None:
    """Puts the trial into TensorBoard's HParams tab, once, as a row of its own.

    An empty trial_id makes the run's place below the log folder the row's name, and no two runs share that.
    """
    if any(folder.glob(f"*{HPARAMS_FILE}")):
        return
    known = {name: value for name, value in hyperparameters.items() if value is not None}
    with tf.summary.create_file_writer(str(folder), filename_suffix=HPARAMS_FILE).as_default():
        hparams_api.hparams(known, trial_id="")


def summarise_test(
    folder: Path,
    validation_metrics: dict[str, dict[str, Any]],
    test_metrics: dict[str, dict[str, Any]],
    selected: str,
    step: int,
) -> None:
    """Adds the figures of every score, and `where.png`, to the trial's TensorBoard run; `step` is where training ended.

    `kept/` are the validation figures of the networks that were kept, `validation/` those of each epoch.
    """
    for earlier in folder.glob(f"*{TEST_FILE}"):  # of an attempt that was interrupted after this
        earlier.unlink()
    with tf.summary.create_file_writer(str(folder), filename_suffix=TEST_FILE).as_default(step):
        for place, of_each_score in (("kept", validation_metrics), ("test", test_metrics)):
            for name in ("auprc", "auroc", "f1"):
                if of_each_score[selected][name] is not None:
                    tf.summary.scalar(f"{place}/{name}", of_each_score[selected][name])
        for score, figures in test_metrics.items():
            if figures["auprc"] is not None:
                tf.summary.scalar(f"test/{score}/auprc", figures["auprc"])
        if (folder / "where.png").exists():
            with Image.open(folder / "where.png") as picture:
                tf.summary.image(
                    "where, the highest test scores of each folder", np.asarray(picture.convert("RGB"))[None]
                )
