"""The base class of all methods: it turns networks trained on normal images into scores and anomaly maps.

A method subclasses `AnomalyDetector`. Its constructor builds all networks and gives them optimizers; `train_step`
trains them on a batch; `score_and_reconstruct` scores images. Keras runs the training loop, and
`training/callbacks.py` adds validation, checkpoints and the choice of the best epoch.
"""

import contextlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import keras
import numpy as np
import tensorflow as tf

from anomaly_toolbox.errors import DIVERGED, REMEDY, ToolboxError
from anomaly_toolbox.models import losses
from anomaly_toolbox.models.adversarial import AdversarialModel
from anomaly_toolbox.models.derived_scores import COMBINED, EXCESS, DerivedScores, n_held_out
from anomaly_toolbox.models.hyperparameters import Hyperparameters, ScoringHyperparameters
from anomaly_toolbox.models.memory import (
    LocalFeatureDistance,
    Mahalanobis,
    MemoryBank,
    Neighbours,
    StoredArrays,
    WhitenedNeighbours,
)
from anomaly_toolbox.models.weights import readable_weights
from anomaly_toolbox.tf_data import without_autotuning

__all__ = ["AnomalyDetector", "Hyperparameters", "ScoreOutput", "ScoringHyperparameters"]

MAP = "map"
COMPLEXITY = "complexity"
PATCHES = "patches"
PATCHES_IN_BANK = 20_000
FEATURE_COMPONENTS = 64
LAYER_COMPONENTS = 128
MOST_NUMBERS_IN_BANK = 2**27  # 512 MiB of float32

Progress = Callable[[int, int], None]  # called with the number of finished batches and the number of all batches


class ScoreOutput(NamedTuple):
    """What one pass over a batch gives.

    Attributes:
        score: the paper's score, (batch,).
        reconstruction: what `reconstruct` gives.
        vectors: what the memory banks compare with normal images, each (batch, dimensions), by the name of the score:
            `latent_neighbours` compares codes, `feature_neighbours` the features of D, and `mahalanobis` the change of
            a code that is decoded and encoded again; `layer_vectors` describes the others.
        logit: D's logit, (batch, 1), for the score `discriminator`; None for methods without D.
    """

    score: tf.Tensor
    reconstruction: tf.Tensor
    vectors: dict[str, tf.Tensor]
    logit: tf.Tensor | None = None


class AnomalyDetector(AdversarialModel):
    """A model that is trained on normal images and scores any image; higher scores are more anomalous.

    Images are float32, (batch, image_size, image_size, channels), in [-1, 1].

    Args:
        hyperparameters: an instance of the class's `Hyperparameters`.
        channels: number of channels of the images, 1 for grey and 3 for RGB.

    Attributes:
        uses_classes: whether the method uses the classes of the normal training images. The constructor then takes the
            number of classes as a third argument, and `train_step` takes pairs (images, classes), see `train_classes`
            of a dataset. Images are scored without a class.
        image_shape: (image_size, image_size, channels).
        memory_banks: layers that compare vectors of an image with those of normal images, by name.
        combined_from: the names of the scores that the combined score combines.
        derived_scores: the layer that computes excess scores and the combined score.
    """

    Hyperparameters: ClassVar[type[ScoringHyperparameters]]
    combined_from: ClassVar[Collection[str]] = ("paper",)
    uses_classes: ClassVar[bool] = False

    def __init__(self, hyperparameters: Any, channels: int):
        super().__init__()
        self.hyperparameters = hyperparameters
        self.image_shape = (hyperparameters.image_size, hyperparameters.image_size, channels)
        self.memory_banks: dict[str, MemoryBank] = {
            "latent_neighbours": Neighbours(),
            "feature_neighbours": Neighbours(FEATURE_COMPONENTS),
            "mahalanobis": Mahalanobis(),
            PATCHES: LocalFeatureDistance(),
            "pathway": Mahalanobis(),
            "encoder_neighbours": WhitenedNeighbours(LAYER_COMPONENTS),
            "discriminator_neighbours": WhitenedNeighbours(LAYER_COMPONENTS),
        }
        self.derived_scores = DerivedScores(channels, self.combined_from)
        self._with_maps = False
        self._only_selected = False
        self.predict_function: Any = None
        self._compiled_for: tuple[tuple[bool, bool], list[tf.Variable]] = (False, False), []
        self._forget_compiled_scoring()

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

    def add_optimizer(
        self, name: str, *networks: keras.Model, learning_rate: float | None = None, **options: Any
    ) -> None:
        """See `AdversarialModel`; the learning rate is by default that of the hyperparameters."""
        if learning_rate is None:
            learning_rate = self.hyperparameters.learning_rate
        super().add_optimizer(name, *networks, learning_rate=learning_rate, **options)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """`detector(x)` is `anomaly_score(x)`."""
        return self.anomaly_score(x)

    def scores(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Every score of this detector, each (batch,); `hyperparameters.score` names the selected score.

        There are `paper`; `residual`, the mean |x - reconstruct(x)| in the units of the pixels; for methods with a D
        `discriminator`, softplus(-logit) = -log D(x); a score of each filled memory bank, for `patches` the mean local
        feature distance; and after `fit_scores` the derived scores, see `derived_scores.py`.
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
        scores = self.basic_scores(x, output)
        scores |= self.derived_scores(scores, self.derived_scores.complexity(x))
        return scores, self.map_from_reconstruction(x, output.reconstruction)

    def basic_scores(
        self, x: tf.Tensor, output: ScoreOutput, names: Collection[str] | None = None
    ) -> dict[str, tf.Tensor]:
        """The scores that are not derived from other scores, (batch,) each, or those of them that `names` has."""
        if names is None:
            names = self._names_of_basic_scores(output)
        return {name: self._basic_score(name, x, output) for name in names}

    def _basic_score(self, name: str, x: tf.Tensor, output: ScoreOutput) -> tf.Tensor:
        match name:
            case "paper":
                return output.score
            case "residual":
                return losses.l1_per_image(x, output.reconstruction)
            case "discriminator" if output.logit is not None:
                return tf.nn.softplus(-output.logit[:, 0])
            case "patches":
                return tf.reduce_mean(self.memory_banks[PATCHES](self.patches(x)), axis=(1, 2))
            case _:
                return self.memory_banks[name](output.vectors[name])

    def selected_score(self, x: tf.Tensor, output: ScoreOutput) -> tf.Tensor:
        """The selected score, (batch,), without computing scores that it does not need."""
        name = self.hyperparameters.score
        available = self._names_of_basic_scores(output)
        if name in available:
            return self.basic_scores(x, output, [name])[name]
        needed = self.combined_from if name == COMBINED else [name.removesuffix(EXCESS)]
        scores = self.basic_scores(x, output, [score for score in needed if score in available])
        return self.derived_scores(scores, self.derived_scores.complexity(x))[name]

    def _names_of_basic_scores(self, output: ScoreOutput) -> list[str]:
        names = ["paper", "residual"]
        if output.logit is not None:
            names.append("discriminator")
        if not self.memory_banks[PATCHES].is_empty:
            names.append("patches")
        return names + [name for name in output.vectors if not self.memory_banks[name].is_empty]

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
        return self.with_derived_scores(self.basic_outputs(batches, count, callbacks, with_maps))

    def basic_outputs(
        self,
        batches: tf.data.Dataset,
        count: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        with_maps: bool = False,
    ) -> dict[str, np.ndarray]:
        """What compiled steps give for the first `count` images: `basic_scores`, `complexity` and, if wanted, `map`."""
        self._with_maps, self._only_selected = with_maps, False
        outputs = self.predict(batches, verbose=0, callbacks=list(callbacks))
        return {name: values[:count] for name, values in outputs.items()}

    def with_derived_scores(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`basic_outputs` with the derived scores instead of the complexity.

        Derived scores are not part of the compiled steps, because they are fitted to what the steps give.
        """
        scores = {name: values for name, values in outputs.items() if name != COMPLEXITY}
        derived = self.derived_scores(scores, outputs[COMPLEXITY])
        return scores | {name: values.numpy() for name, values in derived.items()}

    def score_selected(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The selected scores, (batch,), and the anomaly maps of one batch of the compiled size, and nothing else.

        It has not the overhead of a Keras loop.
        """
        self._with_maps, self._only_selected = True, True
        self.make_predict_function()
        outputs = self.predict_function([tf.constant(x)])
        return np.asarray(outputs[self.hyperparameters.score]), np.asarray(outputs[MAP])

    def selected_scores(self, batches: tf.data.Dataset, count: int) -> np.ndarray:
        """The selected scores of the first `count` images in batches of one static shape, (count,), float32."""
        self._with_maps, self._only_selected = False, True
        outputs: dict[str, np.ndarray] = self.predict(batches, verbose=0)
        return outputs[self.hyperparameters.score][:count]

    def predict_step(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """One batch of `predict`: the outputs of `basic_outputs`, or the selected score."""
        self.check_images(x)
        output = self.score_and_reconstruct(x)
        if self._only_selected:
            outputs = {self.hyperparameters.score: self.selected_score(x, output)}
        else:
            outputs = self.basic_scores(x, output) | {COMPLEXITY: self.derived_scores.complexity(x)}
        if self._with_maps:
            outputs[MAP] = self.map_from_reconstruction(x, output.reconstruction)
        return outputs

    def check_images(self, x: tf.Tensor) -> None:
        """Raises ValueError unless `x` is a batch of this detector's images."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"expected images of shape {self.image_shape}, received {tuple(x.shape[1:])}")

    def make_predict_function(self, force: bool = False) -> Any:
        """Keras's hook: compiles the scoring step again if its outputs or the arrays that it reads are others now."""
        outputs, arrays = (self._with_maps, self._only_selected), self._arrays_in_step
        compiled_outputs, compiled_arrays = self._compiled_for
        if outputs != compiled_outputs or [*map(id, arrays)] != [*map(id, compiled_arrays)]:
            self.predict_function = None
        self._compiled_for = outputs, arrays
        return super().make_predict_function(force)

    def _forget_compiled_scoring(self) -> None:
        """Has everything compiled again that scores images."""
        self.predict_function = None
        self._vectors_compiled_for = self._arrays_of_method
        self._compiled_vectors = tf.function(self._vectors_and_patches, autograph=False, jit_compile=True)

    # Fitting the memory banks and the derived scores.

    def fit_scores(self, images: np.ndarray, progress: Progress | None = None) -> None:
        """Fits everything that scores need besides the networks, to normal training images.

        Some of the images are left out of the memory banks, and the derived scores are fitted to these. If there are
        too few images (see `n_held_out`), the memory banks get them all, and there are no derived scores.

        Args:
            images: (n, size, size, channels), in [-1, 1].
            progress: see `Progress`.

        Raises:
            ToolboxError: the networks give values that are not finite.
        """
        count = n_held_out(len(images))
        shuffled = np.random.default_rng(0).permutation(len(images))
        self.fit_memory_banks(images[shuffled[count:]], progress)
        if count:
            self._fit_derived_scores(images[shuffled[:count]])

    def _fit_derived_scores(self, images: np.ndarray) -> None:
        self.derived_scores.set_grey(images)
        batch_size = self.hyperparameters.batch_size
        batches = tf.data.Dataset.from_tensor_slices(fill_batches(images, batch_size)).batch(batch_size)
        outputs = self.basic_outputs(without_autotuning(batches), len(images))
        outputs.pop(MAP, None)
        self.derived_scores.fit(outputs, outputs.pop(COMPLEXITY))

    def fit_memory_banks(self, images: np.ndarray, progress: Progress | None = None) -> None:
        """Fills the memory banks from normal training images, (n, size, size, channels).

        Raises:
            ToolboxError: the networks give values that are not finite.
        """
        self.fit_banks(self.vectors_for_banks(images, progress))

    def fit_banks(self, vectors_of_banks: Mapping[str, np.ndarray]) -> None:
        """Fills the memory banks with what `vectors_for_banks` gives; raises ToolboxError if it is not finite."""
        for name, vectors in vectors_of_banks.items():
            if not np.isfinite(vectors).all():
                raise ToolboxError(f"{DIVERGED}: the outputs of the networks are not finite; {REMEDY}")
            self.memory_banks[name].fit(vectors)

    def vectors_for_banks(self, images: np.ndarray, progress: Progress | None = None) -> dict[str, np.ndarray]:
        """The vectors of all images and the features of some random patches of each, by memory bank.

        Of very long vectors, such as the features of large images, those of the first images have to do.
        """
        batch_size = self.hyperparameters.batch_size
        if [*map(id, self._arrays_of_method)] != [*map(id, self._vectors_compiled_for)]:
            self._forget_compiled_scoring()
        padded = fill_batches(images, batch_size)
        n_batches = len(padded) // batch_size
        n_patches = (self.hyperparameters.image_size // 2) ** 2
        n_patches_per_image = -(-PATCHES_IN_BANK // len(images))  # rounded up
        chosen_patches = np.random.default_rng(0).integers(n_patches, size=(n_batches, n_patches_per_image))
        parts: dict[str, list[np.ndarray]] = {}
        for number, x in enumerate(np.split(padded, n_batches)):
            n_images = min(batch_size, len(images) - number * batch_size)
            outputs = self._compiled_vectors(tf.constant(x), tf.constant(chosen_patches[number]))
            for name, vectors in outputs.items():
                collected = parts.setdefault(name, [])
                if len(collected) * math.prod(vectors.shape) < MOST_NUMBERS_IN_BANK:
                    collected.append(vectors.numpy()[:n_images].reshape(-1, vectors.shape[-1]))
            if progress is not None:
                progress(number + 1, n_batches)
        return {name: np.concatenate(collected) for name, collected in parts.items()}

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
        for layer in self._layers_with_arrays:
            variables += layer.stored
        return variables

    @property
    def _arrays_in_step(self) -> list[tf.Variable]:
        """The arrays that the scoring step reads; derived scores are computed in it only for the selected score."""
        arrays = []
        for layer in self._layers_with_arrays:
            if self._only_selected or layer is not self.derived_scores:
                arrays += layer.stored
        return arrays

    @property
    def _arrays_of_method(self) -> list[tf.Variable]:
        """The arrays that vectors may be computed with: neither those of memory banks nor those of derived scores."""
        arrays = []
        for layer in vars(self).values():
            if isinstance(layer, StoredArrays) and layer is not self.derived_scores:
                arrays += layer.stored
        return arrays

    @property
    def _layers_with_arrays(self) -> list[StoredArrays]:
        """The memory banks, the derived scores and those of the method."""
        of_the_method = [value for value in vars(self).values() if isinstance(value, StoredArrays)]
        return [*self.memory_banks.values(), *of_the_method]

    def save_networks(self, path: Path) -> None:
        """Writes the weights of all networks and the memory banks to `path`, which must end in `.weights.h5`."""
        with self._without_optimizers():
            self.save_weights(str(path))

    def load_networks(self, path: Path) -> None:
        """Reads a file that `save_networks` wrote; raises ValueError or OSError if it is damaged or does not fit."""
        with self._without_optimizers(), readable_weights(path) as readable:
            self.load_weights(str(readable))

    def become(self, other: Self) -> None:
        """Becomes equal to a new detector of the same method and shape, but keeps the steps that are compiled.

        Args:
            other: a detector that was neither trained nor fitted. Its hyperparameters may differ from this one's in
                those that no compiled step reads; its `decay_steps` must be the same.
        """
        for variable, value in zip(self._variables_and_optimizers, other._variables_and_optimizers, strict=True):
            variable.assign(value)
        for layer, new_layer in zip(self._layers_with_arrays, other._layers_with_arrays, strict=True):
            layer.remove_arrays()
            layer.set_arrays(**{name: array.numpy() for name, array in new_layer.arrays.items()})
        self.hyperparameters = other.hyperparameters
        for name, rate in self.initial_rates.items():
            rate.assign(other.initial_rates[name])
        self.stop_training = False

    @property
    def _variables_and_optimizers(self) -> list[keras.Variable]:
        variables = list(self.variables)
        for optimizer in self.optimizers.values():
            variables += optimizer.variables
        return variables

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
