"""The registry of methods: name -> module that holds the class of that name. Nothing is imported until it is used."""

import importlib

from anomaly_toolbox.errors import InputError, did_you_mean

METHODS = {
    "AnoGAN": "anomaly_toolbox.models.anogan",
    "EGBAD": "anomaly_toolbox.models.egbad",
    "GANomaly": "anomaly_toolbox.models.ganomaly",
    "KNN": "anomaly_toolbox.models.knn",
    "PCA": "anomaly_toolbox.models.pca",
}


def method_name(name: str) -> str:
    """The registered name meant by `name`: any case, with or without a trailing `Experiment`; InputError if none."""
    wanted = name.lower().removesuffix("experiment")
    for registered in METHODS:
        if registered.lower() == wanted:
            return registered
    raise InputError(f"no experiment is called {name!r}: {did_you_mean(wanted, METHODS)}")


def detector_class(name: str):
    """The `AnomalyDetector` subclass of a registered method; imports TensorFlow."""
    return getattr(importlib.import_module(METHODS[name]), name)


def hyperparameters_of(name: str):
    """The schema of a method's hyperparameters; TensorFlow is imported only if it stands in the method's own file."""
    from anomaly_toolbox.models import hyperparameters

    schema = getattr(hyperparameters, f"{name}Hyperparameters", None)
    return schema if schema is not None else detector_class(name).Hyperparameters
