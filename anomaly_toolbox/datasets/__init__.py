"""The registry of datasets: name -> module that holds the class of that name. Nothing is imported until it is used."""

import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

from anomaly_toolbox.errors import InputError, did_you_mean, problems_of

DATASETS = {
    "Digits": "anomaly_toolbox.datasets.digits",
    "MNIST": "anomaly_toolbox.datasets.mnist",
    "FashionMNIST": "anomaly_toolbox.datasets.mnist",
    "CorruptedMNIST": "anomaly_toolbox.datasets.corrupted_mnist",
    "MVTecAD": "anomaly_toolbox.datasets.mvtec_ad",
    "SurfaceCracks": "anomaly_toolbox.datasets.surface_cracks",
}


def dataset_name(name: str) -> str:
    """The name under which a dataset's runs are kept: a registered one in its own case, or that of a folder or file.

    Raises InputError for a name that is neither a registered one, nor a folder, nor a `.py` file.
    """
    if _is_file(name):
        if not Path(name).is_file():
            raise InputError(f"--dataset {name}: there is no such file")
        return Path(name).stem
    if registered := _registered(name):
        return registered
    if Path(name).is_dir():
        return re.sub(r"[^\w.+-]", "-", Path(name).resolve().name) or "images"
    if Path(name).is_file():
        raise InputError(f"--dataset {name}: is a file; expected a folder of images, or a .py file")
    if os.sep in name:
        raise InputError(f"--dataset {name}: there is no such folder")
    raise InputError(
        f"no dataset is called {name!r}: {did_you_mean(name, DATASETS)}; or give a folder of images or a .py file"
    )


def source(name: str, data_dir: Path | None) -> str:
    """Where a dataset comes from, with absolute paths: what a run's folder remembers of it."""
    place = _registered(name) or str(Path(name).resolve())
    return place if data_dir is None else f"{place} in {data_dir.resolve()}"


def load_dataset(name: str, data_dir: Path | None = None, seed: int = 0, **options: Any):
    """An `AnomalyDetectionDataset`, still to be configured; imports TensorFlow.

    Args:
        name: what `dataset_name` takes. A `.py` file must hold a class with the file's name.
        data_dir: where the data is or goes.
        seed: decides splits, for a class whose constructor takes a `seed`.
        options: others of the command line by name; None: not given. Those that were must be parameters of the class.

    Raises:
        InputError: there is no such dataset, or it does not take an option.
    """
    if _is_file(name):
        cls = _class_in_file(Path(name))
    elif registered := _registered(name):
        cls = getattr(importlib.import_module(DATASETS[registered]), registered)
    else:
        from anomaly_toolbox.datasets.folder import ImageFolder

        dataset_name(name)  # raises unless it is a folder
        cls = functools.partial(ImageFolder, Path(name))
    taken = inspect.signature(cls).parameters
    given = {key: value for key, value in {"data_dir": data_dir, **options}.items() if value is not None}
    for key in given.keys() - taken.keys():
        raise InputError(f"--{key.replace('_', '-')}: means nothing to --dataset {name}")
    if "seed" in taken:
        given["seed"] = seed
    if not _is_file(name):
        return cls(**given)
    with problems_of(f"--dataset {name}: {cls.__name__}()"):
        dataset = cls(**given)
    dataset.source_file = Path(name)
    return dataset


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _registered(name: str) -> str | None:
    return next((registered for registered in DATASETS if registered.lower() == name.lower()), None)


def _class_in_file(path: Path):
    from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset

    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.resolve().parent))  # so that the file can import its neighbours
    sys.modules[path.stem] = module  # where TensorFlow looks for the source of its functions
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as problem:
        raise InputError(f"--dataset {path} cannot be imported: {type(problem).__name__}: {problem}") from problem
    cls = getattr(module, path.stem, None)
    if not (isinstance(cls, type) and issubclass(cls, AnomalyDetectionDataset)):
        raise InputError(
            f"--dataset {path}: expected a class {path.stem}(AnomalyDetectionDataset) in it, "
            f"received {'nothing of that name' if cls is None else repr(cls)}"
        )
    return cls
