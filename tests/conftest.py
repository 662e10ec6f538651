"""Helpers for several tests: quiet TensorFlow, tiny detectors, and small datasets in the real formats."""

import contextlib
import gzip
import os
import shutil
import struct
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models import METHODS, build_detector, detector_class

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

# Hyperparameters that make each method small enough for tests. A test fails if a registered method is missing here.
TINY_IMAGES = {"image_size": 16, "batch_size": 8, "memory_size": 104}
TINY_NETWORKS = {**TINY_IMAGES, "width": 4, "latent_vector_size": 6, "epochs": 2}
TINY = {
    "AAE": TINY_NETWORKS,
    "ALAD": TINY_NETWORKS,
    "AnoGAN": {**TINY_NETWORKS, "gamma": 5, "validation_gamma": 2, "warm_start": True, "encoder_steps": 3},
    "Classifier": TINY_NETWORKS,
    "ConditionalAnoGAN": {**TINY_NETWORKS, "gamma": 5, "validation_gamma": 2},
    "EGBAD": TINY_NETWORKS,
    "FAnoGAN": {**TINY_NETWORKS, "critic_steps": 2, "encoder_steps": 3},
    "GANomaly": TINY_NETWORKS,
    "KNN": TINY_IMAGES,
    "PCA": TINY_IMAGES,
    "SkipGANomaly": TINY_NETWORKS,
}


N_CLASSES = 3  # of tiny detectors whose method uses the classes of normal images


def tiny_detector(method: str, channels: int = 1, **changes):
    """A compiled detector of 16x16 images with a few hundred weights."""
    cls = detector_class(method)
    detector = build_detector(cls, cls.Hyperparameters(**{**TINY[method], **changes}), channels, N_CLASSES)
    detector.compile()
    return detector


def training_data(detector, images):
    """What `train_step` takes for some images: the images, or pairs with classes if the method uses classes."""
    return (images, np.arange(len(images), dtype=np.int32) % N_CLASSES) if detector.uses_classes else images


def copy_weights(*networks):
    """The current values of the trainable weights, by path."""
    return {weight.path: weight.numpy() for network in networks for weight in network.trainable_variables}


def has_changed(before, *networks):
    """Whether any trainable weight differs from its value in `before`, which `copy_weights` returned."""
    return any(not np.array_equal(before[path], value) for path, value in copy_weights(*networks).items())


def update_only(optimizer, detector, monkeypatch):
    """Makes training steps update the networks of one optimizer only."""
    update = detector.update

    def update_if_chosen(name, *arguments, **options):
        if name == optimizer:
            update(name, *arguments, **options)

    monkeypatch.setattr(detector, "update", update_if_chosen)


def networks_changed_by(optimizer, detector, networks, batch, monkeypatch):
    """The names of the networks that a training step changes in which only this optimizer updates weights.

    Args:
        optimizer: its name.
        detector: takes the step.
        networks: by name.
        batch: for `train_step`.
        monkeypatch: the fixture.
    """
    before = {name: copy_weights(network) for name, network in networks.items()}
    update_only(optimizer, detector, monkeypatch)
    detector.train_step(batch)
    return [name for name, network in networks.items() if has_changed(before[name], network)]


def record_updates(detector, monkeypatch):
    """Makes training steps update nothing; returns a list that gets the name and the loss of each update."""
    recorded = []
    monkeypatch.setattr(detector, "update", lambda name, loss, tape: recorded.append((name, float(loss))))
    return recorded


def enlarge_kernels(*networks, factor=8):
    """Makes the outputs of tiny networks depend on their inputs, which they hardly do with weights from N(0, 0.02)."""
    for network in networks:
        for weight in network.trainable_variables:
            if weight.name == "kernel":
                weight.assign(factor * weight)


def spectral_norms(*networks):
    """The largest singular value of each kernel, whose last axis counts its outputs, by path."""
    kernels = {path: value for path, value in copy_weights(*networks).items() if path.endswith("kernel")}
    return {path: np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2) for path, kernel in kernels.items()}


def float64(tensor):
    """A tensor as an array of NumPy, in which equations are computed with more digits than in the code under test."""
    return np.asarray(tensor, np.float64)


def sigmoid(logits):
    """D for logits, in float64."""
    return 1 / (1 + np.exp(-float64(logits)))


@contextlib.contextmanager
def eagerly():
    """A context in which Keras's loops run step by step, which is faster than a compilation if there are few steps."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def eager():
    """See `eagerly`."""
    with eagerly():
        yield


def derived_scores_in_numpy(scores, complexities, description):
    """The excess scores and the combined score of images, in float64.

    Args:
        scores: (n,) each, by name.
        complexities: log ink and log TV, (n, 2).
        description: `derived_scores` of `results.json`.
    """
    ink, variation = np.clip(complexities, description["lowest_complexity"], description["highest_complexity"]).T
    derived, standardised = {}, []
    for name, fitted in description["statistics"].items():
        logarithm = np.log(np.maximum(scores[name], fitted["lowest"]))
        excess = logarithm - fitted["intercept"] - fitted["ink_slope"] * ink - fitted["variation_slope"] * variation
        derived[f"{name}_excess"] = excess
        if name in description["combined_from"]:
            for values, kind in ((logarithm, ""), (excess, "excess_")):
                spread = fitted[f"{kind}spread"] or np.inf  # null stands for infinity
                standardised.append((values - fitted[f"{kind}median"]) / spread)
    return {**derived, "combined": np.mean(standardised, axis=0)}


def write_idx(path: Path, array: np.ndarray) -> None:
    """Writes an IDX file of bytes, gzipped if the name ends in .gz. It does not use the code under test."""
    content = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def images() -> np.ndarray:
    """Eleven smooth random images, (11, 16, 16, 1) in [-1, 1]; no batch size in the tests divides eleven."""
    generator = np.random.default_rng(7)
    coarse = generator.uniform(-1, 1, (11, 4, 4, 1))
    return np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.float32)


def write_idx_folder(folder: Path) -> None:
    """Writes four files like those of MNIST: 650 + 20 images of 6x5 pixels for each of the labels 0, 1 and 2."""
    generator = np.random.default_rng(3)
    for split, per_label, suffix in (("train", 650, ".gz"), ("t10k", 20, "")):
        labels = generator.permutation(np.repeat([0, 1, 2], per_label))
        images = generator.integers(0, 256, (len(labels), 6, 5))
        write_idx(folder / f"{split}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte{suffix}", labels)


@pytest.fixture
def idx_folder(tmp_path) -> Path:
    """A folder with the files of `write_idx_folder`."""
    folder = tmp_path / "idx"
    folder.mkdir()
    write_idx_folder(folder)
    return folder


def made_up_results(method, label, auprc_of_scores, score="paper", seed=0, epochs=2, dataset="Digits"):
    """The content of `results.json` for a run with these metrics on test and validation images."""
    metrics = {"auroc": 0.5, "f1": 0.5, "threshold": 0.5, "prevalence": 0.1, "n_normal": 90, "n_anomalous": 10}
    scores = {}
    for name, auprc in auprc_of_scores.items():
        scores[name] = {**metrics, "auprc": auprc, "auprc_interval": [auprc - 0.01, auprc + 0.01]}
    return {
        "experiment": method,
        "dataset": dataset,
        "anomalous_label": label,
        "class_label": None,
        "seed": seed,
        "score": score,
        "epochs": epochs,
        "validation": {**scores[score], "scores": scores},
        "test": {**scores[score], "scores": scores},
        "train_images_per_second": None,
        "train_seconds": 3.0,
        "score_images_per_second": 50.0,
        "score_seconds": 2.0,
    }


@pytest.fixture
def class_means(monkeypatch):
    """The class of a method that uses the classes of normal images, registered as `ClassMeans` during a test."""
    monkeypatch.setitem(METHODS, "ClassMeans", "tests.class_means")
    return detector_class("ClassMeans")


@pytest.fixture
def browser():
    """Headless Chromium."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromium-driver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-sync"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()
