"""The registry of datasets: the name of each class and the module with it. Modules are imported when they are used."""

import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_toolbox.errors import InputError, did_you_mean, reraise_in_one_line

if TYPE_CHECKING:
    from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset

DATASETS = {
    "Digits": "anomaly_toolbox.datasets.digits",
    "MNIST": "anomaly_toolbox.datasets.mnist",
    "FashionMNIST": "anomaly_toolbox.datasets.mnist",
    "KMNIST": "anomaly_toolbox.datasets.kmnist",
    "EMNISTBalanced": "anomaly_toolbox.datasets.emnist",
    "EMNISTLetters": "anomaly_toolbox.datasets.emnist",
    "CIFAR10": "anomaly_toolbox.datasets.cifar10",
    "CorruptedMNIST": "anomaly_toolbox.datasets.corrupted_mnist",
    "MVTecAD": "anomaly_toolbox.datasets.mvtec_ad",
    "SurfaceCracks": "anomaly_toolbox.datasets.surface_cracks",
}

#: Other names of datasets, in lower case: EMNIST without the name of a variant is its balanced one.
ALIASES = {"emnist": "EMNISTBalanced"}

#: What would be right if a dataset does not support an option.
ADVICE = {
    "split": "it divides images with class labels, those of Digits, MNIST, FashionMNIST, KMNIST, EMNIST and CIFAR10; "
    "folders and MVTecAD have --all-test-images"
}


def dataset_name(name: str) -> str:
    """The name of a dataset in run folders and reports.

    Args:
        name: a registered name in any letter case, a folder of images, or a `.py` file.

    Returns:
        The registered name, or the name of the folder or of the file without its suffix.

    Raises:
        InputError: it is none of these.
    """
    if _is_python_file(name):
        if not Path(name).is_file():
            raise InputError(f"--dataset {name}: there is no such file")
        return Path(name).stem
    registered = _registered_name(name)
    if registered is not None:
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
    """Where a dataset comes from, with absolute paths; run folders record it.

    Args:
        name: see `dataset_name`.
        data_dir: the folder or archive of its data, if one was named.
    """
    registered_or_path = _registered_name(name) or str(Path(name).resolve())
    return registered_or_path if data_dir is None else f"{registered_or_path} in {data_dir.resolve()}"


def load_dataset(name: str, data_dir: Path | None = None, seed: int = 0, **options: Any) -> "AnomalyDetectionDataset":
    """Makes a dataset, which is not configured yet; imports TensorFlow.

    Args:
        name: see `dataset_name`. A `.py` file must hold a class with the name of the file.
        data_dir: the folder or archive of the data, or where it is downloaded to.
        seed: the seed with which splits are drawn, if the class takes a `seed`.
        options: other command-line options by name; None if an option was not given.

    Raises:
        InputError: there is no such dataset, or it does not support an option.
        ToolboxError: its files cannot be used, or the user's class raises an error.
    """
    cls = _find_class(name)
    parameters = inspect.signature(cls).parameters
    arguments = {key: value for key, value in {"data_dir": data_dir, **options}.items() if value is not None}
    for key in arguments.keys() - parameters.keys():
        advice = f"; {ADVICE[key]}" if key in ADVICE else ""
        raise InputError(f"--{key.replace('_', '-')}: is not supported by --dataset {name}{advice}")
    if "seed" in parameters:
        arguments["seed"] = seed
    if not _is_python_file(name):
        return cls(**arguments)
    with reraise_in_one_line(f"--dataset {name}: {cls.__name__}()"):
        dataset = cls(**arguments)
    dataset.source_file = Path(name)
    return dataset


def _is_python_file(name: str) -> bool:
    return name.endswith(".py")


def _registered_name(name: str) -> str | None:
    """The registered name with the same letters in any case, or with this alias, if there is one."""
    wanted = name.lower()
    return next((registered for registered in DATASETS if registered.lower() == wanted), ALIASES.get(wanted))


def _find_class(name: str) -> Any:
    """The class of a dataset, or a function that makes a dataset from a folder; raises InputError."""
    if _is_python_file(name):
        return _class_in_file(Path(name))
    registered = _registered_name(name)
    if registered is not None:
        return getattr(importlib.import_module(DATASETS[registered]), registered)
    dataset_name(name)  # raises InputError unless it is a folder

    from anomaly_toolbox.datasets.folder import ImageFolder

    return functools.partial(ImageFolder, Path(name))


def _class_in_file(path: Path) -> type:
    """The dataset class with the name of its file; raises InputError."""
    from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset

    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"--dataset {path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.resolve().parent))  # so that the file can import its neighbours
    sys.modules[path.stem] = module  # TensorFlow looks there for the source of its functions
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as problem:
        raise InputError(f"--dataset {path} cannot be imported: {type(problem).__name__}: {problem}") from problem
    cls = getattr(module, path.stem, None)
    if not (isinstance(cls, type) and issubclass(cls, AnomalyDetectionDataset)):
        received = "nothing of that name" if cls is None else repr(cls)
        raise InputError(
            f"--dataset {path}: expected a class {path.stem}(AnomalyDetectionDataset) in it, received {received}"
        )
    return cls
