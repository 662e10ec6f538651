"""The base class of the GANs: which networks score images, and what their averages are. G has one weight here."""

import keras
import numpy as np
import pytest

from anomaly_toolbox.models.gan import GAN
from anomaly_toolbox.models.hyperparameters import SearchHyperparameters
from tests.conftest import TINY_IMAGES


class OneWeight(GAN):
    """G(z) = w z."""

    def __init__(self, weight_averaging):
        super().__init__(
            SearchHyperparameters(**TINY_IMAGES, latent_vector_size=6, weight_averaging=weight_averaging), channels=1
        )
        (self.generator,) = self.new_networks()
        self.averages = self.new_averages()
        self.noise = keras.random.SeedGenerator(3)
        self.add_optimizer("g", self.generator)

    def new_networks(self):
        return (keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)]),)

    @property
    def trained(self):
        return (self.generator,)


class AlwaysAveraged(OneWeight):
    always_averages = True


def weight_of(networks):
    (network,) = networks
    return float(network.weights[0].numpy()[0, 0])


def set_weight(networks, value):
    (network,) = networks
    network.weights[0].assign([[value]])


def test_without_averages_the_latest_weights_score():
    detector = OneWeight(weight_averaging=0.0)
    assert detector.averages == ()
    assert detector.scoring[0] is detector.generator
    detector.average_weights()  # does nothing
    assert OneWeight.always_averages is False


def test_averages_score_and_no_optimizer_changes_them():
    detector = OneWeight(weight_averaging=0.5)
    assert detector.scoring[0] is detector.averages[0] is not detector.generator
    assert [weight.path for weight in detector.trainable_variables] == [detector.generator.weights[0].path]


def test_averages_are_moved_towards_the_latest_weights():
    """With the decay min(0.15, n / (9 + n)) after n steps: 0, 1 / 10 and 0.15."""
    detector = OneWeight(weight_averaging=0.15)
    set_weight(detector.averages, 5.0)
    expected = []
    for n_steps, latest in enumerate([1.0, 2.0, 4.0]):
        detector.optimizers["g"].iterations.assign(n_steps)
        set_weight(detector.trained, latest)
        detector.average_weights()
        expected.append(weight_of(detector.averages))
        assert weight_of(detector.trained) == latest
    second = 0.1 * 1 + 0.9 * 2
    assert expected == pytest.approx([1, second, 0.15 * second + 0.85 * 4])


def test_a_method_may_always_have_averages():
    """With a decay of 0 they are the latest weights."""
    detector = AlwaysAveraged(weight_averaging=0.0)
    detector.optimizers["g"].iterations.assign(7)
    set_weight(detector.trained, 2.5)
    detector.average_weights()
    assert detector.scoring[0] is detector.averages[0]
    assert weight_of(detector.scoring) == 2.5


def test_latent_vectors_are_drawn_from_a_normal_distribution_and_repeated_with_the_epoch():
    detector = OneWeight(weight_averaging=0.0)
    detector.begin_epoch(1)
    first, second = detector.draw_latent(2000).numpy(), detector.draw_latent(2000).numpy()
    assert first.shape == (2000, 6)
    assert first.mean() == pytest.approx(0, abs=0.03)
    assert first.std() == pytest.approx(1, abs=0.03)
    assert np.abs(first).max() > 3
    assert not np.array_equal(first, second)
    detector.begin_epoch(1)
    np.testing.assert_array_equal(detector.draw_latent(2000), first)
    detector.begin_epoch(2)
    assert not np.array_equal(detector.draw_latent(2000), first)
