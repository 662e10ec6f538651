"""Compiled steps are kept from one trial to the next, because compiling takes longer than many a trial.

The next trial can use them if it differs from the one before only in what no compiled step reads, such as the learning
rate, which is a variable. Its detector is the old one, which has become equal to a new one.
"""

from typing import Any

from anomaly_toolbox.models import METHODS, build_detector
from anomaly_toolbox.models.base import AnomalyDetector
from anomaly_toolbox.models.hyperparameters import Hyperparameters, ScoringHyperparameters

#: Hyperparameters that no step of a built-in method reads while it is compiled.
NOT_IN_STEPS = {
    "anomalous_label",
    "normal_label",
    "class_label",
    "epochs",
    "learning_rate",
    "memory_size",
    "patience",
    "select_by",
    "shuffle_buffer_size",
    "step_log_frequency",
    "validation_size",
}


class CompiledSteps:
    """Keeps the detector of the last trial, with its compiled steps."""

    def __init__(self) -> None:
        self._kept: tuple[Any, AnomalyDetector] | None = None

    def detector(
        self,
        cls: type[AnomalyDetector],
        hyperparameters: ScoringHyperparameters,
        channels: int,
        n_classes: int | None,
        decay_steps: int,
    ) -> AnomalyDetector:
        """A new detector, compiled; or the kept one, equal to a new one, if its steps fit.

        Nothing is kept any more until `keep`, because a trial that fails leaves a detector in any state.

        Args:
            cls, hyperparameters, channels, n_classes: see `build_detector`.
            decay_steps: see `AdversarialModel`.
        """
        new = build_detector(cls, hyperparameters, channels, n_classes)
        new.decay_steps = decay_steps
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] == _what_steps_read(new, n_classes):
            kept[1].become(new)
            return kept[1]
        new.compile()
        return new

    def keep(self, detector: AnomalyDetector, n_classes: int | None) -> None:
        """Keeps the detector of a finished trial."""
        what_steps_read = _what_steps_read(detector, n_classes)
        self._kept = None if what_steps_read is None else (what_steps_read, detector)


def _what_steps_read(detector: AnomalyDetector, n_classes: int | None) -> tuple[Any, ...] | None:
    """What compiled steps depend on beside the values of variables; None if that is not known."""
    cls, hyperparameters = type(detector), detector.hyperparameters
    if not isinstance(hyperparameters, Hyperparameters):  # methods without epochs have steps that compile quickly
        return None
    is_built_in = cls.__module__ == METHODS.get(cls.__name__)  # a user's method may read any hyperparameter
    if not is_built_in:
        return None
    values = hyperparameters.model_dump(exclude=NOT_IN_STEPS | {"learning_rate_decay"})  # see `decay_steps`
    return cls, detector.image_shape, n_classes, detector.decay_steps, values
