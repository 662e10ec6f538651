"""The base class of all methods: it turns networks trained on normal images into scores and anomaly maps.

A method subclasses `AnomalyDetector`. Its constructor builds all networks and gives them optimizers; `train_step`
trains them on a batch; `score_and_reconstruct` scores images. Keras runs the training loop, and
`training/callbacks.py` adds validation, checkpoints and the choice of the best epoch.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from anomaly_toolbox.errors import DIVERGED, REMEDY, ToolboxError
from anomaly_toolbox.models import losses
from anomaly_toolbox.models.adversarial import AdversarialModel
from anomaly_toolbox.models.hyperparameters import Hyperparameters, ScoringHyperparameters
from anomaly_toolbox.models.memory import LocalFeatureDistance, Mahalanobis, MemoryBank, Neighbours
from anomaly_toolbox.models.weights import readable_weights

__all__ = ["AnomalyDetector", "Hyperparameters", "ScoreOutput", "ScoringHyperparameters"]

MAP = "map"
PATCHES = "patches"
PATCHES_IN_BANK = 20_000
FEATURE_COMPONENTS = 64


class ScoreOutput(NamedTuple):
    """What one pass over a batch gives.

    Attributes:
        score: the paper's score, (batch,).
        reconstruction: what `reconstruct` gives.
        vectors: what the memory banks compare with normal images, each (batch, dimensions), by the name of the score:
            `latent_neighbours` compares codes, `feature_neighbours` the features of D, and `mahalanobis` the change of
            a code that is decoded and encoded again.
    """

    score: tf.Tensor
    reconstruction: tf.Tensor
    vectors: dict[str, tf.Tensor]


class AnomalyDetector(AdversarialModel):
    """A model that is trained on normal images and scores any image; higher scores are more anomalous.

    Images are float32, (batch, image_size, image_size, channels), in [-1, 1].

    Args:
        hyperparameters: an instance of the class's `Hyperparameters`.
        channels: number of channels of the images, 1 for grey and 3 for RGB.

    Attributes:
        image_shape: (image_size, image_size, channels).
        memory_banks: layers that compare vectors of an image with those of normal images, by name.
    """

    Hyperparameters: ClassVar[type[ScoringHyperparameters]]

    def __init__(self, hyperparameters: Any, channels: int):
        super().__init__()
        self.hyperparameters = hyperparameters
        self.image_shape = (hyperparameters.image_size, hyperparameters.image_size, channels)
        self.memory_banks: dict[str, MemoryBank] = {
            "latent_neighbours": Neighbours(),
            "feature_neighbours": Neighbours(FEATURE_COMPONENTS),
            "mahalanobis": Mahalanobis(),
            PATCHES: LocalFeatureDistance(),
        }
        self._with_maps = False
        self._reset_compiled_scoring()

    # Part 1: what a method defines.

    def reconstruct(self, x: tf.Tensor) -> tf.Tensor:
        """The nearest normal image that the detector can generate for each image; same shape and range as `x`."""
        raise NotImplementedError

    def anomaly_score(self, x: tf.Tensor) -> tf.Tensor:
        """The paper's score of each image, (batch,); it must not depend on the other images of the batch."""
        raise NotImplementedError

    def score_and_reconstruct(self, x: tf.Tensor) -> ScoreOutput:
        """Score, reconstruction and vectors; override it where one pass can compute them together."""
        return ScoreOutput(self.anomaly_score(x), self.reconstruct(x), {})

    def patches(self, x: tf.Tensor) -> tf.Tensor | None:
        """The features of each patch of the images, from `layers.local_features` of D; None for methods without a D.

        (batch, size, size, channels) -> (batch, size / 2, size / 2, dimensions).
        """
        return None

    def after_fit(self, images: np.ndarray, callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:
        """Fits what a method learns after its epochs, from a sample of normal images; most methods learn nothing."""

    def fast_validation(self) -> contextlib.AbstractContextManager:
        """A context in which scoring is cheap enough for a validation after each epoch."""
        return contextlib.nullcontext()

    # Part 2: what every method gets.

    def add_optimizer(self, name: str, *networks: keras.Model, learning_rate: float | None = None) -> None:
        """Gives `networks` one Adam(learning_rate, beta_1=0.5), by default with `hyperparameters.learning_rate`."""
        if learning_rate is None:
            learning_rate = self.hyperparameters.learning_rate
        super().add_optimizer(name, *networks, learning_rate=learning_rate)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """`detector(x)` is `anomaly_score(x)`."""
        return self.anomaly_score(x)

    def scores(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Every score of this detector, each (batch,); `hyperparameters.score` names the selected score.

        There are `paper`; `residual`, the mean |x - reconstruct(x)| in the units of the pixels; and a score of each
        memory bank that `fit_memory_banks` has filled.
        """
        return self.score_and_map(x)[0]

    def anomaly_map(self, x: tf.Tensor) -> tf.Tensor:
        """Where each image is anomalous, (batch, size, size), >= 0.

        It is |x - reconstruct(x)|, averaged over channels, times the local feature distance: how much the features of D
        around a pixel differ from those of normal images, about 1 for normal images. Residuals alone mislead on
        textures: a network cannot draw grass, so normal grass has high residuals, and a smooth hole in it has low ones.
        Before `fit_memory_banks`, and for methods without a D, it is the residual alone.
        """
        return self.map_from_reconstruction(x, self.reconstruct(x))

    def map_from_reconstruction(self, x: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
        """The same as `anomaly_map(x)`, from a `reconstruct(x)` that is already computed."""
        residual = losses.l1_per_pixel(x, reconstruction)
        patches = self.patches(x)
        if patches is None or self.memory_banks[PATCHES].is_empty:
            return residual
        distances = self.memory_banks[PATCHES](patches)
        return residual * tf.repeat(tf.repeat(distances, 2, axis=1), 2, axis=2)

    def score_and_map(self, x: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """`scores(x)` and `anomaly_map(x)` from one pass."""
        output = self.score_and_reconstruct(x)
        scores = {"paper": output.score, "residual": losses.l1_per_image(x, output.reconstruction)}
        for name, vectors in output.vectors.items():
            if not self.memory_banks[name].is_empty:
                scores[name] = self.memory_banks[name](vectors)
        return scores, self.map_from_reconstruction(x, output.reconstruction)

    def vectors(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """The vectors of `score_and_reconstruct` alone."""
        return self.score_and_reconstruct(x).vectors

    # Scoring many images in compiled steps.

    def score_batches(
        self,
        batches: tf.data.Dataset,
        count: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        with_maps: bool = False,
    ) -> dict[str, np.ndarray]:
        """`scores` of the first `count` images in batches of one static shape; each value is (count,), float32.

        With `with_maps`, the result also has `map`, (count, size, size), from the same pass.
        """
        self._choose_outputs(with_maps)
        scores = self.predict(batches, verbose=0, callbacks=list(callbacks))
        return {name: values[:count] for name, values in scores.items()}

    def score_batch(self, x: np.ndarray, with_maps: bool = False) -> dict[str, np.ndarray]:
        """What `score_batches` gives, for one batch of the compiled size, without the overhead of a Keras loop."""
        self._choose_outputs(with_maps)
        self.make_predict_function()
        return {name: np.asarray(values) for name, values in self.predict_function([tf.constant(x)]).items()}

    def predict_step(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """One batch of `predict`: every score, and the anomaly map as `map` if maps are wanted."""
        self.check_images(x)
        scores, anomaly_map = self.score_and_map(x)
        return scores | {MAP: anomaly_map} if self._with_maps else scores

    def check_images(self, x: tf.Tensor) -> None:
        """Raises ValueError unless `x` is a batch of this detector's images."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"expected images of shape {self.image_shape}, received {tuple(x.shape[1:])}")

    def _choose_outputs(self, with_maps: bool) -> None:
        if with_maps != self._with_maps:
            self._with_maps = with_maps
            self._reset_compiled_scoring()

    def _reset_compiled_scoring(self) -> None:
        """Makes Keras compile the scoring step again, because its outputs have changed."""
        self.predict_function: Any = None
        self._compiled_vectors = tf.function(self._vectors_and_patches, jit_compile=True)

    # Fitting the memory banks.

    def fit_memory_banks(self, images: np.ndarray) -> None:
        """Fills the memory banks from a sample of normal training images, (n, size, size, channels).

        Raises:
            ToolboxError: the networks give values that are not finite.
        """
        batches = self._vectors_in_batches(images)
        filled_banks = {name: bank for name, bank in self.memory_banks.items() if name in batches[0]}
        if any(bank.is_empty for bank in filled_banks.values()):
            self._reset_compiled_scoring()
        for name, bank in filled_banks.items():
            vectors = np.concatenate([batch[name] for batch in batches])[: len(images)]
            if not np.isfinite(vectors).all():
                raise ToolboxError(f"{DIVERGED}: the outputs of the networks are not finite; {REMEDY}")
            bank.fit(vectors.reshape(-1, vectors.shape[-1]))

    def _vectors_in_batches(self, images: np.ndarray) -> list[dict[str, tf.Tensor]]:
        """The vectors of all images and the features of some random patches of each, in full batches."""
        batch_size = self.hyperparameters.batch_size
        padded = fill_batches(images, batch_size)
        n_batches = len(padded) // batch_size
        n_patches = (self.hyperparameters.image_size // 2) ** 2
        n_patches_per_image = -(-PATCHES_IN_BANK // len(images))  # rounded up
        chosen_patches = np.random.default_rng(0).integers(n_patches, size=(n_batches, n_patches_per_image))
        batches = []
        for x, chosen in zip(np.split(padded, n_batches), chosen_patches, strict=True):
            batches.append(self._compiled_vectors(tf.constant(x), tf.constant(chosen)))
        return batches

    def _vectors_and_patches(self, x: tf.Tensor, chosen: tf.Tensor) -> dict[str, tf.Tensor]:
        """`vectors(x)`, and the features of the chosen patches, which are counted row by row."""
        vectors = self.vectors(x)
        patches = self.patches(x)
        if patches is None:
            return vectors
        patches_in_rows = tf.reshape(patches, (x.shape[0], -1, patches.shape[-1]))
        return vectors | {PATCHES: tf.gather(patches_in_rows, chosen, axis=1)}

    # Storage: the networks and the memory banks, without optimizers.

    @property
    def stored(self) -> list:
        """Every variable in a weights file, except those of the optimizers."""
        variables = list(self.variables)
        for bank in self.memory_banks.values():
            variables += bank.stored
        return variables

    def save_networks(self, path: Path) -> None:
        """Writes the weights of all networks and the memory banks to `path`, which must end in `.weights.h5`."""
        with self._without_optimizers():
            self.save_weights(str(path))

    def load_networks(self, path: Path) -> None:
        """Reads a file that `save_networks` wrote; raises ValueError or OSError if it is damaged or does not fit."""
        empty_banks = [bank for bank in self.memory_banks.values() if bank.is_empty]
        with self._without_optimizers(), readable_weights(path) as readable:
            self.load_weights(str(readable))
        if not all(bank.is_empty for bank in empty_banks):
            self._reset_compiled_scoring()

    @contextlib.contextmanager
    def _without_optimizers(self):
        optimizers, self.optimizers = self.optimizers, {}
        try:
            yield
        finally:
            self.optimizers = optimizers


def fill_batches(images: np.ndarray, batch_size: int) -> np.ndarray:
    """Appends black images until there is a whole number of batches: compiled steps take one batch size only."""
    missing = -len(images) % batch_size
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
