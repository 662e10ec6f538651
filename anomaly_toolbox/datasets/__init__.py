"""The registry of datasets: name -> module that holds the class of that name. Nothing is imported until it is used."""

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

from anomaly_toolbox.errors import InputError, did_you_mean, problems_of

DATASETS = {
    "Digits": "anomaly_toolbox.datasets.digits",
    "MNIST": "anomaly_toolbox.datasets.mnist",
    "FashionMNIST": "anomaly_toolbox.datasets.mnist",
}


def dataset_name(name: str) -> str:
    """The name under which a dataset's runs are kept: a registered one in its own case, or the stem of a `.py` file.

    Raises InputError for a name that is neither.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise InputError(f"--dataset {name}: there is no such file")
        return Path(name).stem
    for registered in DATASETS:
        if registered.lower() == name.lower():
            return registered
    raise InputError(f"no dataset is called {name!r}: {did_you_mean(name, DATASETS)}, or a .py file of your own")


def load_dataset(name: str, data_dir: Path | None = None):
    """An `AnomalyDetectionDataset`, still to be configured; imports TensorFlow.

    Args:
        name: what `dataset_name` takes. A `.py` file must hold a class with the file's name.
        data_dir: where the data is or goes; handed to the class if its constructor takes a `data_dir`.
    """
    if name.endswith(".py"):
        cls = _class_in_file(Path(name))
    else:
        name = dataset_name(name)
        cls = getattr(importlib.import_module(DATASETS[name]), name)
    takes_folder = "data_dir" in inspect.signature(cls).parameters
    if data_dir is not None and not takes_folder:
        raise InputError(f"--data-dir {data_dir}: {cls.__name__} takes no folder")
    if not name.endswith(".py"):
        return cls(data_dir=data_dir) if takes_folder else cls()
    with problems_of(f"--dataset {name}: {cls.__name__}()"):
        return cls(data_dir=data_dir) if takes_folder else cls()


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
