"""What TensorBoard shows of a trial."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.pr_curve import summary as pr_curve

from anomaly_toolbox import evaluation, pictures
from anomaly_toolbox.callbacks import VALIDATION_FIGURES, Validation
from anomaly_toolbox.datasets.batches import EXAMPLES_OF_EACH_KIND


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
        if step % self._every == 0:
            with self.writer.as_default(step):
                for name, value in logs.items():
                    tf.summary.scalar(f"losses/{name}", value)

    def on_epoch_end(self, epoch, logs=None):
        split, scores = self._validation.split, self._validation.scores
        with self.writer.as_default((epoch + 1) * self._steps_per_epoch):
            for name in logs.keys() & set(VALIDATION_FIGURES.values()):
                tf.summary.scalar(f"validation/{name.removeprefix('val_')}", logs[name])
            for player, optimizer in self.model.optimizers.items():
                tf.summary.scalar(f"learning_rate/{player}", optimizer.learning_rate)
            with self.model.quickly():
                reconstructions = self.model.reconstruct(split.examples)
            maps = self.model.locate(split.examples, reconstructions).numpy()
            heat_range = pictures.usual_heat(maps[:EXAMPLES_OF_EACH_KIND])  # the normal ones come first
            grid = pictures.grid(split.examples, reconstructions.numpy(), maps, heat_range)
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
            tf.summary.scalar(f"validation/{name}/auprc", evaluation.figures(labels, values, threshold=0.0)["auprc"])
            tf.summary.histogram(f"scores/{name}/anomalous", values[labels == 1])
            rescaled = evaluation.rescale(values, values.min(), values.max())
            curve = pr_curve.pb(f"precision_recall/{name}", labels.astype(bool), rescaled)
            step = tf.summary.experimental.get_step()
            tf.summary.experimental.write_raw_pb(curve.SerializeToString(), step)


def summarise_hyperparameters(folder: Path, hyperparameters: dict[str, Any]) -> None:
    """Puts the trial into TensorBoard's HParams tab."""
    known = {name: value for name, value in hyperparameters.items() if value is not None}
    with tf.summary.create_file_writer(str(folder)).as_default():
        hparams_api.hparams(known, trial_id=folder.name)


def summarise_test(
    folder: Path,
    of_validation: dict[str, dict[str, Any]],
    of_test: dict[str, dict[str, Any]],
    decisive: str,
    step: int,
) -> None:
    """Adds the figures of every score, and `where.png`, to the trial's TensorBoard run; `step` is where training ended.

    `kept/` are the validation figures of the networks that were kept, `validation/` those of each epoch.
    """
    with tf.summary.create_file_writer(str(folder)).as_default(step):
        for place, of_each_score in (("kept", of_validation), ("test", of_test)):
            for name in ("auprc", "auroc", "f1"):
                if of_each_score[decisive][name] is not None:
                    tf.summary.scalar(f"{place}/{name}", of_each_score[decisive][name])
        for score, figures in of_test.items():
            if figures["auprc"] is not None:
                tf.summary.scalar(f"test/{score}/auprc", figures["auprc"])
        if (folder / "where.png").exists():
            with Image.open(folder / "where.png") as picture:
                tf.summary.image(
                    "where, the highest test scores of each folder", np.asarray(picture.convert("RGB"))[None]
                )
