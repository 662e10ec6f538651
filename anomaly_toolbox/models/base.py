"""What every detector is: typed hyperparameters, a game of networks, and scores of single images.

A method subclasses `AnomalyDetector`. Its constructor builds every network and gives each player of the game its
optimizer; `train_step` plays one round on a batch; `rate` scores images one by one. Loops, logging, checkpoints and
selection belong to Keras and to `callbacks.py`.
"""

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from anomaly_toolbox import losses
from anomaly_toolbox.errors import DIVERGED, REMEDY, ToolboxError
from anomaly_toolbox.memory import Mahalanobis, Memory, Neighbours, Surroundings
from anomaly_toolbox.models.hyperparameters import Hyperparameters, ScoringHyperparameters

__all__ = ["AnomalyDetector", "Game", "Hyperparameters", "Rating", "ScoringHyperparameters"]

DRAWS_IN_AN_EPOCH = 2**20
MAP = "map"
UNUSUAL = "unusual"
PLACES_REMEMBERED = 20_000
FEATURE_COMPONENTS = 64


class Game(keras.Model):
    """A `keras.Model` whose networks are trained by several players, each with weights and an optimizer of its own."""

    losses_reported: ClassVar[tuple[str, ...]] = ()  # what `train_step` passes to `report`

    def __init__(self):
        super().__init__()
        self.optimizers = {}
        self.players = {}
        self.means = {name: keras.metrics.Mean(name) for name in self.losses_reported}

    def train_step(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """One round of the game on a batch of normal images; returns `self.report(...)`."""
        raise NotImplementedError

    def compile(self, **options: Any) -> None:
        """Compiles the steps with XLA, which Keras leaves off on a CPU. Players keep their own optimizers."""
        super().compile(optimizer=None, **{"jit_compile": True} | options)
        self.built = True  # each network was built by its own constructor

    def player(self, name: str, *networks: keras.Model, learning_rate: float) -> None:
        """Gives `networks` one Adam(learning_rate, beta_1=0.5), built now so that checkpoints hold its state."""
        optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5)
        self.players[name] = networks
        self.optimizers[name] = optimizer
        optimizer.build(self._weights_of(name))

    def minimise(self, name: str, loss: tf.Tensor, tape: tf.GradientTape, only_if: tf.Tensor | None = None) -> None:
        """One step of the named player's optimizer; no other player's weights move.

        With `only_if`, a scalar bool, the step is taken only where it holds; else the player waits, momentum and all.
        It is taken back rather than skipped: a `tf.cond` here makes Keras's compiled step several times slower.
        """
        weights, optimizer = self._weights_of(name), self.optimizers[name]
        state = [*weights, *optimizer.variables] if only_if is not None else []
        before = [tf.identity(variable) for variable in state]
        optimizer.apply(tape.gradient(loss, weights), weights)
        for variable, value in zip(state, before, strict=True):
            variable.assign(tf.where(only_if, variable, value))

    def report(self, **values: tf.Tensor) -> dict[str, tf.Tensor]:
        """Running means over the epoch, for the progress bar, TensorBoard and the history."""
        for name, value in values.items():
            self.means[name].update_state(value)
        return {name: self.means[name].result() for name in values}

    def begin_epoch(self, epoch: int) -> None:
        """Makes every random number of the epoch follow from the seed and its number, so that it can be repeated.

        Keras's weights files leave the states of random generators out.
        """
        for variable in self.variables:
            if variable.path.endswith("seed_generator_state"):
                variable.assign([variable.numpy()[0], epoch * DRAWS_IN_AN_EPOCH])

    def _weights_of(self, name: str) -> list:
        return [weight for network in self.players[name] for weight in network.trainable_variables]


class Rating(NamedTuple):
    """What one pass over a batch gives.

    Attributes:
        score: the paper's score, (batch,).
        reconstruction: what `reconstruct` gives.
        vectors: what is compared with normal images, each (batch, dimensions), by the name of the score:
            `latent_neighbours`, codes; `feature_neighbours`, the features of D; `mahalanobis`, how far a code moves
            when it is decoded and encoded again.
    """

    score: tf.Tensor
    reconstruction: tf.Tensor
    vectors: dict[str, tf.Tensor]


class AnomalyDetector(Game):
    """A game that is trained on normal images and scores any image, higher being more anomalous.

    Args:
        hyperparameters: an instance of the class's `Hyperparameters`.
        channels: channels of the images, 1 for grey and 3 for RGB.

    Images are float32, (batch, image_size, image_size, channels), in [-1, 1].
    """

    Hyperparameters: ClassVar[type[ScoringHyperparameters]]

    def __init__(self, hyperparameters: Any, channels: int):
        super().__init__()
        self.hyperparameters = hyperparameters
        self.image_shape = (hyperparameters.image_size, hyperparameters.image_size, channels)
        self.memories: dict[str, Memory] = {
            "latent_neighbours": Neighbours(),
            "feature_neighbours": Neighbours(FEATURE_COMPONENTS),
            "mahalanobis": Mahalanobis(),
            UNUSUAL: Surroundings(),
        }
        self.gives_maps = False
        self.compile_scores_anew()

    # What a method brings.

    def reconstruct(self, x: tf.Tensor) -> tf.Tensor:
        """The nearest normal image the detector can make of each image; same shape and range."""
        raise NotImplementedError

    def anomaly_score(self, x: tf.Tensor) -> tf.Tensor:
        """The paper's score of each image, (batch,); an image's score never depends on its batch-mates."""
        raise NotImplementedError

    def rate(self, x: tf.Tensor) -> Rating:
        """Score, reconstruction and vectors, from one pass where they can share it."""
        return Rating(self.anomaly_score(x), self.reconstruct(x), {})

    def places(self, x: tf.Tensor) -> tf.Tensor | None:
        """What is compared at each place for the anomaly map, `layers.surroundings` of D; None where there is no D."""
        return None

    def conclude(self, images: np.ndarray, callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:
        """What is learnt from a sample of normal training images once the epochs are over; mostly nothing."""

    def quickly(self) -> contextlib.AbstractContextManager:
        """While it is entered, images are scored as cheaply as a look after each epoch should be."""
        return contextlib.nullcontext()

    # What every method gets.

    def scores(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Every score this detector knows, each (batch,); `hyperparameters.score` says which decides.

        `paper`; `residual`, the mean |x - reconstruct(x)| in the units of the pixels; and, once `remember` has seen
        normal images, the scores by comparison with them.
        """
        return self.examine(x)[0]

    def examine(self, x: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """`scores` and `anomaly_map`, from one pass."""
        rating = self.rate(x)
        compared = {name: self.memories[name] for name in rating.vectors if not self.memories[name].is_empty}
        scores = {
            "paper": rating.score,
            "residual": losses.l1_per_image(x, rating.reconstruction),
            **{name: memory(rating.vectors[name]) for name, memory in compared.items()},
        }
        return scores, self.locate(x, rating.reconstruction)

    def locate(self, x: tf.Tensor, x_hat: tf.Tensor) -> tf.Tensor:
        """`anomaly_map` of images whose reconstructions are known."""
        residual, places = losses.l1_per_pixel(x, x_hat), self.places(x)
        if places is None or self.memories[UNUSUAL].is_empty:
            return residual
        return residual * tf.repeat(tf.repeat(self.memories[UNUSUAL](places), 2, axis=1), 2, axis=2)

    def vectors(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """The vectors of `rate` alone."""
        return self.rate(x).vectors

    def remember(self, images: np.ndarray) -> None:
        """Takes in a sample of normal training images (n, size, size, channels) for the scores by comparison."""
        size = self.hyperparameters.batch_size
        filled = np.concatenate([images, np.zeros((-len(images) % size, *images.shape[1:]), np.float32)])
        n_batches, n_places = len(filled) // size, (self.hyperparameters.image_size // 2) ** 2
        places = np.random.default_rng(0).integers(n_places, size=(n_batches, -(-PLACES_REMEMBERED // len(images))))
        batches = [
            self._compiled_vectors(tf.constant(x), tf.constant(of_batch))
            for x, of_batch in zip(np.split(filled, n_batches), places, strict=True)
        ]
        known = {name: memory for name, memory in self.memories.items() if name in batches[0]}
        if any(memory.is_empty for memory in known.values()):
            self.compile_scores_anew()
        for name, memory in known.items():
            vectors = np.concatenate([batch[name] for batch in batches])[: len(images)]
            if not np.isfinite(vectors).all():
                raise ToolboxError(f"{DIVERGED}: the networks' answers are not finite; {REMEDY}")
            memory.remember(vectors.reshape(-1, vectors.shape[-1]))

    def _vectors_and_places(self, x: tf.Tensor, places: tf.Tensor) -> dict[str, tf.Tensor]:
        """What the memories take in of a batch: `vectors`, and `places` at these numbers, counted row by row."""
        vectors, of_all = self.vectors(x), self.places(x)
        if of_all is None:
            return vectors
        return vectors | {UNUSUAL: tf.gather(tf.reshape(of_all, (x.shape[0], -1, of_all.shape[-1])), places, axis=1)}

    def compile_scores_anew(self) -> None:
        """To be called where a detector comes to know more scores than when `predict` was compiled."""
        self.predict_function = None
        self._compiled_vectors = tf.function(self._vectors_and_places, jit_compile=True)

    def anomaly_map(self, x: tf.Tensor) -> tf.Tensor:
        """Where the image is odd, (batch, size, size), >= 0.

        The mean over channels of |x - reconstruct(x)|, times how unusual D finds the surroundings, about 1 in normal
        images, once `remember` has seen some. What a detector cannot draw, such as grass, leaves residuals all over
        normal images too; and what is smooth leaves few, even if it is a hole in the grass.
        """
        return self.locate(x, self.reconstruct(x))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """`detector(x)` is its anomaly score."""
        return self.anomaly_score(x)

    def predict_step(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """One batch of `predict`: every score, and the anomaly map under the name `map` where maps were asked for."""
        self.check_images(x)
        scores, anomaly_map = self.examine(x)
        return scores | {MAP: anomaly_map} if self.gives_maps else scores

    def score_batches(
        self,
        batches: tf.data.Dataset,
        count: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        with_maps: bool = False,
    ) -> dict[str, np.ndarray]:
        """`scores` of the first `count` images in batches of one static shape; each value is (count,), float32.

        With `with_maps`, there is a `map` besides, (count, size, size), from the same pass.
        """
        if with_maps != self.gives_maps:
            self.gives_maps = with_maps
            self.compile_scores_anew()
        scores = self.predict(batches, verbose=0, callbacks=list(callbacks))
        return {name: values[:count] for name, values in scores.items()}

    def score_batch(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """What `score_batches` gives, for one batch of the size that is compiled, with maps if `gives_maps` is set."""
        self.make_predict_function()
        return {name: np.asarray(values) for name, values in self.predict_function([tf.constant(x)]).items()}

    def check_images(self, x: tf.Tensor) -> None:
        """Raises ValueError unless `x` is a batch of this detector's images."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"expected images of shape {self.image_shape}, received {tuple(x.shape[1:])}")

    def player(self, name: str, *networks: keras.Model) -> None:
        """A player of the game, with Adam(hyperparameters.learning_rate, beta_1=0.5)."""
        super().player(name, *networks, learning_rate=self.hyperparameters.learning_rate)

    # Storage: the networks and what they remember, without optimizers.

    @property
    def stored(self) -> list:
        """Every variable that a weights file holds, but for the optimizers'."""
        remembered = [memory.stored for memory in self.memories.values()]
        return [*self.variables, *itertools.chain.from_iterable(remembered)]

    def save_networks(self, path: Path) -> None:
        """Writes every network's weights to `path`, which must end in `.weights.h5`."""
        self._without_optimizers(self.save_weights, path)

    def load_networks(self, path: Path) -> None:
        """Reads what `save_networks` wrote; raises ValueError or OSError if it does not fit or is damaged."""
        empty = [name for name, memory in self.memories.items() if memory.is_empty]
        self._without_optimizers(self.load_weights, path)
        if not all(self.memories[name].is_empty for name in empty):
            self.compile_scores_anew()

    def _without_optimizers(self, action, path: Path) -> None:
        optimizers, self.optimizers = self.optimizers, {}
        try:
            action(str(path))
        finally:
            self.optimizers = optimizers
