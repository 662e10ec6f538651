"""TensorBoard's event files of a run: scalars, histograms, curves, pictures and hyperparameters."""

import contextlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.pr_curve import summary as pr_curve

from anomaly_toolbox import evaluation, pictures
from anomaly_toolbox.datasets.batches import ScoringSplit
from anomaly_toolbox.files import atomic_write
from anomaly_toolbox.training.callbacks import VALIDATION_METRICS, Validation

HPARAMS_FILE, TEST_FILE = ".hparams.v2", ".test.v2"  # endings of event files that are written in one go
#: Tags of pictures; they stay as they are, so that runs of different versions can be compared.
GRID_TAG = "image, reconstruction, residual, where"
HEATMAPS_TAG = "where, the highest test scores of each folder"


class Summaries(keras.callbacks.Callback):
    """Writes losses, learning rates, validation metrics and pictures to the event file of the run.

    Keras's `TensorBoard` callback divides a trial into two TensorBoard runs and supports one optimizer only.

    Args:
        folder: the run folder.
        validation: the callback whose scores are written; it must act before this one.
        every: the number of training steps between two points of the losses.
        steps_per_epoch: the number of training steps in an epoch.
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
        if step == 1 or step % self._every == 0 or batch + 1 == self._steps_per_epoch:
            with self.writer.as_default(step):
                for name, value in logs.items():
                    tf.summary.scalar(f"losses/{name}", value)

    def on_epoch_end(self, epoch, logs=None):
        split = self._validation.split
        with self.writer.as_default((epoch + 1) * self._steps_per_epoch):
            for name in logs.keys() & set(VALIDATION_METRICS.values()):
                tf.summary.scalar(f"validation/{name.removeprefix('val_')}", logs[name])
            for name, optimizer in self.model.optimizers.items():
                tf.summary.scalar(f"learning_rate/{name}", optimizer.learning_rate)
            self._write_examples(split)
            for name, scores in self._validation.scores.items():
                _write_scores(name, split.labels, scores)
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()

    def _write_examples(self, split: ScoringSplit) -> None:
        """Writes the grid of the example images; the range of the heatmaps comes from the normal ones."""
        with self.model.fast_validation():
            reconstructions = self.model.reconstruct(split.examples)
        maps = self.model.map_from_reconstruction(split.examples, reconstructions).numpy()
        normal_maps = maps[: len(split.normal_examples)]  # `examples` begins with them
        heatmap_range = pictures.heatmap_range_of(normal_maps)
        grid = pictures.grid(split.examples, reconstructions.numpy(), maps, heatmap_range)
        tf.summary.image(GRID_TAG, grid[np.newaxis])


def _write_scores(name: str, labels: np.ndarray, scores: np.ndarray) -> None:
    """Writes histograms of a score and, if there are anomalous images, its AUPRC and precision-recall curve."""
    has_anomalies = labels.any()
    if has_anomalies:  # first, because it checks that the scores are finite
        tf.summary.scalar(f"validation/{name}/auprc", evaluation.auprc(labels, scores))
    _write(histogram_pb(f"scores/{name}/normal", scores[labels == 0]))
    if not has_anomalies:
        return
    _write(histogram_pb(f"scores/{name}/anomalous", scores[labels == 1]))
    rescaled = evaluation.rescale(scores, scores.min(), scores.max())  # the curve's thresholds go from 0 to 1
    _write(pr_curve.pb(f"precision_recall/{name}", labels.astype(bool), rescaled))


def _write(summary: Any) -> None:
    """Writes a summary that was computed with NumPy; `tf.summary.histogram` takes much longer."""
    tf.summary.experimental.write_raw_pb(summary.SerializeToString(), tf.summary.experimental.get_step())


def remove_points_after(folder: Path, step: int) -> None:
    """Removes the points after a step from the event files of a run, because a continued training writes them again.

    Args:
        folder: the run folder.
        step: the training step of the checkpoint.
    """
    for path in sorted(folder.glob("events.out.tfevents.*")):
        kept_records, n_records = [], 0
        with contextlib.suppress(tf.errors.DataLossError):  # a killed process may leave an incomplete record
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                n_records += 1
                if Event.FromString(record).step <= step:
                    kept_records.append(record)
        if len(kept_records) == n_records:
            continue
        with atomic_write(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
            for record in kept_records:
                writer.write(record)


def summarise_hyperparameters(folder: Path, hyperparameters: dict[str, Any]) -> None:
    """Adds the trial to TensorBoard's HParams tab as one row, unless an earlier attempt did.

    With an empty trial_id, TensorBoard names the row after the path of the run below the log folder, which is unique.
    """
    if any(folder.glob(f"*{HPARAMS_FILE}")):
        return
    given = {name: value for name, value in hyperparameters.items() if value is not None}
    with tf.summary.create_file_writer(str(folder), filename_suffix=HPARAMS_FILE).as_default():
        hparams_api.hparams(given, trial_id="")


def summarise_test(
    folder: Path,
    validation_metrics: dict[str, dict[str, Any]],
    test_metrics: dict[str, dict[str, Any]],
    selected_score: str,
    step: int,
) -> None:
    """Writes the metrics of the finished detector, and `where.png` if there is one.

    The tags `kept/...` are validation metrics of the networks of the best epoch; `validation/...` are those of each
    epoch.

    Args:
        folder: the run folder.
        validation_metrics, test_metrics: `evaluation.metrics` of every score by its name.
        selected_score: the name of the selected score.
        step: the number of training steps.
    """
    for path in folder.glob(f"*{TEST_FILE}"):  # of an attempt that was interrupted after this function
        path.unlink()
    with tf.summary.create_file_writer(str(folder), filename_suffix=TEST_FILE).as_default(step):
        for prefix, metrics in (("kept", validation_metrics[selected_score]), ("test", test_metrics[selected_score])):
            for name in ("auprc", "auroc", "f1"):
                if metrics[name] is not None:
                    tf.summary.scalar(f"{prefix}/{name}", metrics[name])
        for score, metrics in test_metrics.items():
            if metrics["auprc"] is not None:
                tf.summary.scalar(f"test/{score}/auprc", metrics["auprc"])
        heatmaps_path = folder / "where.png"
        if heatmaps_path.exists():
            with Image.open(heatmaps_path) as picture:
                tf.summary.image(HEATMAPS_TAG, np.asarray(picture.convert("RGB"))[np.newaxis])
