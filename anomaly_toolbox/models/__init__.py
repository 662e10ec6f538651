"""The registry of methods. It imports a method's module only when its class is used."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from anomaly_toolbox.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from anomaly_toolbox.models.base import AnomalyDetector
    from anomaly_toolbox.models.hyperparameters import ScoringHyperparameters

#: Each method's name, which is also the name of its class, and the module of the class.
METHODS = {
    "AAE": "anomaly_toolbox.models.aae",
    "ALAD": "anomaly_toolbox.models.alad",
    "AnoGAN": "anomaly_toolbox.models.anogan",
    "Classifier": "anomaly_toolbox.models.classifier",
    "ConditionalAnoGAN": "anomaly_toolbox.models.conditionalanogan",
    "EGBAD": "anomaly_toolbox.models.egbad",
    "FAnoGAN": "anomaly_toolbox.models.fanogan",
    "GANomaly": "anomaly_toolbox.models.ganomaly",
    "KNN": "anomaly_toolbox.models.knn",
    "PCA": "anomaly_toolbox.models.pca",
    "SkipGANomaly": "anomaly_toolbox.models.skipganomaly",
}
#: Methods of the earlier toolbox that this one leaves out, and the reason.
LEFT_OUT = {
    "DeScarGAN": "it needs labelled anomalous images for training, and this toolbox trains on normal images alone"
}


def method_name(name: str) -> str:
    """The registered name of a method.

    Args:
        name: in any letter case, with or without `Experiment` at its end.

    Raises:
        InputError: there is no such method, or it is left out.
    """
    wanted = name.lower().removesuffix("experiment")
    for registered in METHODS:
        if registered.lower() == wanted:
            return registered
    for left_out, reason in LEFT_OUT.items():
        if left_out.lower() == wanted:
            raise InputError(f"{left_out} is left out: {reason}; valid names are {', '.join(METHODS)}")
    raise InputError(f"no method is called {name!r}: {did_you_mean(wanted, METHODS)}")


def detector_class(name: str) -> "type[AnomalyDetector]":
    """The class of a registered method. Imports TensorFlow."""
    detector: type[AnomalyDetector] = getattr(importlib.import_module(METHODS[name]), name)
    return detector


def build_detector(
    cls: "type[AnomalyDetector]",
    hyperparameters: "ScoringHyperparameters",
    channels: int,
    n_classes: int | None = None,
) -> "AnomalyDetector":
    """Builds a detector of any method; it is not compiled.

    Args:
        cls: the class of the method.
        hyperparameters: an instance of its `Hyperparameters`.
        channels: number of channels of the images.
        n_classes: number of normal classes, for a method that uses them; other methods ignore it.

    Raises:
        ValueError: the method uses normal classes, and their number is missing.
    """
    from anomaly_toolbox.models.precision import training_precision

    if cls.uses_classes and n_classes is None:
        raise ValueError(f"{cls.__name__} needs the number of normal classes")
    build: Callable[..., AnomalyDetector] = cls  # with classes, its constructor takes one argument more
    with training_precision(getattr(hyperparameters, "precision", "float32")):
        return build(hyperparameters, channels, *([n_classes] if cls.uses_classes else []))


def hyperparameters_of(name: str) -> "type[ScoringHyperparameters]":
    """The schema of a registered method. Imports TensorFlow only if the schema is in the method's own module."""
    from anomaly_toolbox.models import hyperparameters

    built_in: type[ScoringHyperparameters] | None = getattr(hyperparameters, f"{name}Hyperparameters", None)
    return detector_class(name).Hyperparameters if built_in is None else built_in
