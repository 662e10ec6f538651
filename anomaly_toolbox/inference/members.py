"""The trained detectors in a run folder: one, or for an ensemble one for each member."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.images import Reading
from anomaly_toolbox.device import prepare_gpus
from anomaly_toolbox.ensembles.combination import Standardisation
from anomaly_toolbox.files import read_json
from anomaly_toolbox.models import build_detector, detector_class
from anomaly_toolbox.models.base import AnomalyDetector, fill_batches
from anomaly_toolbox.runs import ENSEMBLE, FinishedRun


@dataclass(frozen=True)
class Member:
    """A trained detector, with what turns its selected score into its part of the run's score.

    Attributes:
        model: the detector.
        reading: how it reads images.
        standardisation: how an ensemble standardises its selected score; None: the run is no ensemble.
    """

    model: AnomalyDetector
    reading: Reading
    standardisation: Standardisation | None

    def score(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The (standardised) selected scores, (n,), and the anomaly maps, (n, size, size), of at most one batch.

        Args:
            images: (n, size, size, channels), in [-1, 1].
        """
        hp = self.model.hyperparameters
        scores, maps = self.model.score_selected(fill_batches(images, hp.batch_size))
        scores, maps = scores[: len(images)], maps[: len(images)]
        return scores if self.standardisation is None else self.standardisation.of(scores), maps


def load_members(run: FinishedRun) -> list[Member]:
    """Rebuilds the detectors of a finished run; no code in its folder is executed.

    Args:
        run: its files were checked when it was opened.

    Raises:
        ValueError, OSError, KeyError: a file does not fit the others; `advice_on_damage` makes a message of it.
        ToolboxError: the GPU does not work.
    """
    prepare_gpus()
    weights = run.folder / "model.weights.h5"
    if run.method != ENSEMBLE:
        model = _load_model(run.hparams, weights)
        return [Member(model, Reading.of_run(run.hparams, run.image_size), None)]
    members = []
    for number, recorded in enumerate(run.hparams["members"]):
        with tempfile.TemporaryDirectory() as folder:
            member_weights = Path(folder) / "member.weights.h5"
            _extract_weights(weights, number, member_weights)
            model = _load_model(recorded, member_weights)
        reading = Reading.of_run(recorded, recorded["hyperparameters"]["image_size"])
        members.append(Member(model, reading, Standardisation(**recorded["standardisation"])))
    return members


def load_detector(folder: Path) -> AnomalyDetector:
    """The trained model of a finished run that is no ensemble.

    Args:
        folder: the run folder. `FinishedRun.open` checks its files; this function does not.
    """
    return _load_model(read_json(folder / "hparams.json"), folder / "model.weights.h5")


def mean_map(maps: Sequence[np.ndarray | tf.Tensor], size: int) -> tf.Tensor:
    """The mean of anomaly maps of different sizes, (n, size, size); smaller ones are enlarged linearly."""
    enlarged = [tf.image.resize(tf.expand_dims(member_maps, -1), (size, size)) for member_maps in maps]
    return tf.reduce_mean(tf.stack(enlarged), axis=0)[..., 0]


def _load_model(hparams: Mapping[str, Any], weights: Path) -> AnomalyDetector:
    cls = detector_class(hparams["experiment"])
    hp = cls.Hyperparameters.model_validate(hparams["hyperparameters"])
    n_classes = len(hparams["class_names"]) if cls.uses_classes else None
    model = build_detector(cls, hp, hparams["channels"], n_classes)
    model.compile()
    model.load_networks(weights)
    return model


def _extract_weights(weights: Path, number: int, path: Path) -> None:
    """Writes the weights of one member of an ensemble to a file of their own."""
    with h5py.File(weights, "r") as file, h5py.File(path, "w") as target:
        for name in file[str(number)]:
            file.copy(f"{number}/{name}", target, name)
