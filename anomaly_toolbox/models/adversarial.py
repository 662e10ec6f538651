"""Models whose networks are trained by several optimizers, such as the two of a GAN."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from anomaly_toolbox.errors import DIVERGED, REMEDY, ToolboxError

BETAS = (0.5, 0.999)  # of Adam, as in DCGAN
DRAWS_PER_EPOCH = 2**20  # more random draws than an epoch makes, so that epochs share none


class AdversarialModel(keras.Model):
    """A `keras.Model` in which each group of networks has an optimizer of its own.

    A subclass builds its networks in the constructor, gives each group an optimizer with `add_optimizer`, and overrides
    `train_step`, which calls `update` once for each optimizer.

    Attributes:
        tracked_losses: the names of the values that `train_step` passes to `running_means`.
        decay_steps: the number of steps in which all learning rates fall linearly to 0; 0 keeps them constant. It must
            be set before the training.
        initial_rates: the learning rate of each optimizer before it falls. They are variables, so another rate does not
            need another compilation.
    """

    tracked_losses: ClassVar[tuple[str, ...]] = ()

    def __init__(self):
        super().__init__()
        self.optimizers = {}
        self.trained_networks = {}
        self.initial_rates = {}
        self.updates_per_step = {}
        self.decay_steps = 0
        self.means = {name: keras.metrics.Mean(name) for name in self.tracked_losses}

    def train_step(self, x: Any) -> dict[str, tf.Tensor]:
        """Trains on one batch of normal images, or of pairs (images, classes); returns `self.running_means(...)`."""
        raise NotImplementedError

    def compile(self, **options: Any) -> None:
        """Compiles the steps with XLA, which Keras does not use on a CPU by default."""
        super().compile(optimizer=None, **{"jit_compile": True} | options)
        self.built = True  # each network was built by its own constructor

    def add_optimizer(
        self,
        name: str,
        *networks: keras.Model,
        learning_rate: float,
        betas: tuple[float, float] = BETAS,
        updates_per_step: int = 1,
    ) -> None:
        """Gives networks an Adam optimizer, built at once so that checkpoints hold its state.

        Args:
            name: the optimizer's name, for `update`.
            networks: what it trains.
            learning_rate: its step size.
            betas: β₁ and β₂.
            updates_per_step: how often `train_step` calls `update` for it.
        """
        optimizer = keras.optimizers.Adam(learning_rate, *betas)
        self.updates_per_step[name] = updates_per_step
        self.trained_networks[name] = networks
        self.initial_rates[name] = tf.Variable(learning_rate, trainable=False, dtype=tf.float32)
        self.optimizers[name] = optimizer
        optimizer.build(self._weights_of(name))

    def update(self, name: str, loss: tf.Tensor, tape: tf.GradientTape, only_if: tf.Tensor | None = None) -> None:
        """Takes one step of the named optimizer; only the weights of its networks change.

        Args:
            name: as given to `add_optimizer`.
            loss: a scalar.
            tape: the tape that recorded the loss.
            only_if: a scalar bool, or None. If it is False, the weights and the optimizer stay as they are.
        """
        weights = self._weights_of(name)
        optimizer = self.optimizers[name]
        # Where `only_if` is False, the step is reverted instead of skipped: a tf.cond here makes the step that Keras
        # compiles several times slower on a CPU.
        state = [*weights, *optimizer.variables] if only_if is not None else []
        values_before = [tf.identity(variable) for variable in state]
        optimizer.apply(tape.gradient(loss, weights), weights)
        for variable, value_before in zip(state, values_before, strict=True):
            variable.assign(tf.where(only_if, variable, value_before))
        if self.decay_steps:  # the rate of the next step
            remaining_share = tf.maximum(1 - self._n_steps() / self.decay_steps, 0.0)
            optimizer.learning_rate.assign(self.initial_rates[name] * remaining_share)

    def update_averages(self, averages: Sequence[keras.Model], networks: Sequence[keras.Model], decay: float) -> None:
        """Moves the weights of `averages` towards those of `networks`; call it after the updates of a step.

        The decay in step n = 1, 2, … is min(decay, n / (9 + n)). With the full decay from the beginning, the initial
        weights would dominate the averages after a short training.
        """
        n = self._n_steps()
        decay = tf.minimum(decay, n / (9 + n))
        for average, network in zip(averages, networks, strict=True):
            for averaged_weight, weight in zip(average.weights, network.weights, strict=True):
                averaged_weight.assign(decay * averaged_weight + (1 - decay) * weight)

    def running_means(self, **values: tf.Tensor) -> dict[str, tf.Tensor]:
        """The mean of each value over the epoch so far, for the progress bar, TensorBoard and the history."""
        for name, value in values.items():
            self.means[name].update_state(value)
        return {name: self.means[name].result() for name in values}

    def begin_epoch(self, epoch: int) -> None:
        """Derives every random number of the epoch from the seed and the epoch's number, so that it can be repeated.

        Keras's weights files do not hold the states of random generators, and a resumed run has to draw the same
        numbers.
        """
        for variable in self.variables:
            if variable.path.endswith("seed_generator_state"):
                seed = variable.numpy()[0]
                variable.assign([seed, epoch * DRAWS_PER_EPOCH])

    def _n_steps(self) -> tf.Tensor:
        """The number of steps so far, float32; an optimizer that left out some of them has counted fewer."""
        counts = []
        for name, optimizer in self.optimizers.items():
            counts.append(tf.cast(optimizer.iterations, tf.float32) / self.updates_per_step[name])
        return tf.reduce_max(counts)

    def _weights_of(self, name: str) -> list:
        weights = []
        for network in self.trained_networks[name]:
            weights += network.trainable_variables
        return weights


class Divergence(keras.callbacks.Callback):
    """Raises ToolboxError when a loss is not finite.

    Args:
        every: number of steps between two checks; the end of each epoch is checked as well.
    """

    def __init__(self, every: int):
        super().__init__()
        self._every = every
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        if batch % self._every == 0:
            self._check(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._check(logs)

    def _check(self, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            if not math.isfinite(value):
                raise ToolboxError(f"{DIVERGED}: {name} is {float(value)} in epoch {self._epoch}; {REMEDY}")
