"""Conditional AnoGAN: its equations, the projection of its discriminator, and the search of classes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models import layers
from anomaly_toolbox.models.conditionalanogan import ConditionalAnoGAN
from tests.conftest import TINY_NETWORKS, enlarge_kernels, float64, networks_changed_by, record_updates, sigmoid

N_CLASSES = 3


def new_detector(**changes):
    keras.utils.set_random_seed(0)
    settings = {**TINY_NETWORKS, "gamma": 5, "search_learning_rate": 0.05, "lambda_": 0.25, **changes}
    detector = ConditionalAnoGAN(ConditionalAnoGAN.Hyperparameters(**settings), 1, N_CLASSES)
    detector.compile()
    enlarge_kernels(detector.generator, detector.discriminator, detector.encoder)
    return detector


@pytest.fixture
def detector():
    return new_detector()


@pytest.fixture
def x(images):
    return tf.constant(images[:8])


CLASSES = tf.constant([0, 1, 2, 0, 1, 2, 2, 1])
Y = np.eye(N_CLASSES, dtype=np.float32)[CLASSES]  # one-hot


def latent_vectors(detector):
    """The z of the next step, for G and for E."""
    detector.begin_epoch(0)
    drawn = [layers.normal((8, 6), detector.noise) for _ in range(2)]
    detector.begin_epoch(0)
    return drawn


def generated(detector, z, y, training=False):
    """G(z, y), with y next to z."""
    return detector.generator(tf.concat([z, y], axis=1), training=training)


def encoded(detector, x, training=False):
    """E_z(x) and the logits of the classes."""
    outputs = detector.encoder(x, training=training)
    return outputs[:, :6], outputs[:, 6:]


def test_losses_are_equation_2_and_that_of_the_encoder(detector, x, monkeypatch):
    """Compares them with NumPy in float64, from the outputs of the networks."""
    z, z_of_encoder = latent_vectors(detector)
    recorded = record_updates(detector, monkeypatch)
    reported = {name: float(value) for name, value in detector.train_step((x, CLASSES)).items()}

    # E's loss; G and D are those that score images
    z_hat, _ = encoded(detector, generated(detector, z_of_encoder, Y), training=True)
    code, class_logits = encoded(detector, x, training=True)
    x_hat = generated(detector, code, Y)
    features, features_hat = (float64(detector.discriminator.features(images)) for images in (x, x_hat))
    odds = np.exp(float64(class_logits))
    probabilities = (odds / odds.sum(axis=1, keepdims=True))[np.arange(8), CLASSES]
    e_loss = ((float64(z_of_encoder) - float64(z_hat)) ** 2).mean() - np.log(probabilities).mean()
    e_loss += np.abs(float64(x) - float64(x_hat)).mean() + ((features - features_hat) ** 2).mean()

    real = detector.discriminator(x, Y, training=True)[1]
    fake = detector.discriminator(generated(detector, z, Y, training=True), Y, training=True)[1]
    expected = {
        "d_loss": -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean(),
        "g_loss": -np.log(sigmoid(fake)).mean(),  # not + log(1 - D): non-saturating
        "e_loss": e_loss,
        "accuracy": (np.argmax(class_logits, axis=1) == CLASSES.numpy()).mean(),
        "d_real": sigmoid(real).mean(),
        "d_fake": sigmoid(fake).mean(),
    }
    assert reported == pytest.approx(expected, rel=1e-4)
    assert recorded == [(name, pytest.approx(expected[f"{name}_loss"], rel=1e-4)) for name in ("d", "g", "e")]
    assert 0 < expected["accuracy"] < 1
    assert abs(expected["d_real"] - expected["d_fake"]) > 0.01


@pytest.mark.parametrize("optimizer", ["d", "g", "e"])
def test_each_optimizer_changes_only_its_own_network(detector, x, optimizer, monkeypatch):
    networks = {"d": detector.discriminator, "g": detector.generator, "e": detector.encoder}
    assert networks_changed_by(optimizer, detector, networks, (x, CLASSES), monkeypatch) == [optimizer]


def test_the_encoders_loss_leaves_the_running_averages_of_g_and_d_as_they_are(detector, x):
    still = [*detector.generator.weights, *detector.discriminator.weights]
    before = [weight.numpy() for weight in still]
    detector.encoder_loss(x, Y)
    for value, weight in zip(before, still, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_the_logit_is_a_projection(detector, x):
    """w·f(x) + e_y·f(x), where e_y is the column of the class."""
    features, logits = detector.discriminator(x, Y)
    flat = float64(features).reshape(8, -1)
    w, e = float64(detector.discriminator.logit.kernel)[:, 0], float64(detector.discriminator.projection.kernel)
    expected = [flat[i] @ w + flat[i] @ e[:, y] for i, y in enumerate(CLASSES.numpy())]
    np.testing.assert_allclose(logits[:, 0], expected, rtol=1e-4, atol=1e-5)
    other_classes = detector.discriminator(x, np.roll(Y, 1, axis=1))[1]
    assert np.abs(logits - other_classes).max() > 0.01


def search_losses(detector, x, z, y):
    """0.75 ‖x − G(z, y)‖₁ + 0.25 ‖f(x) − f(G(z, y))‖₁, in float64."""
    x_hat = generated(detector, z, y)
    features, features_hat = (float64(detector.discriminator.features(images)) for images in (x, x_hat))
    residual = np.abs(float64(x) - float64(x_hat)).sum(axis=(1, 2, 3))
    return 0.75 * residual + 0.25 * np.abs(features - features_hat).sum(axis=(1, 2, 3))


def test_the_search_has_a_class(detector, x):
    z = tf.random.stateless_normal((8, 6), (1, 2))
    features = detector.discriminator.features(x)
    losses_of_classes = []
    for number in range(N_CLASSES):
        y = np.tile(np.eye(N_CLASSES, dtype=np.float32)[number], (8, 1))
        losses_of_classes.append(search_losses(detector, x, z, y))
        np.testing.assert_allclose(detector.search_loss(x, features, z, y), losses_of_classes[-1], rtol=1e-4)
    assert not np.allclose(losses_of_classes[0], losses_of_classes[1], rtol=1e-3)


def separate_searches(detector, x):
    """The loss at the end of each search of each class, (classes, restarts, batch), one search at a time."""
    code, _ = encoded(detector, x)
    starts = [code, *(tf.tile(z[tf.newaxis], (8, 1)) for z in detector.starting_points[1:])]
    found = []
    for one_hot in np.eye(N_CLASSES, dtype=np.float32):
        y = np.tile(one_hot, (8, 1))
        found.append([])
        for start in starts:
            z, loss = detector.search(x, start, y)
            np.testing.assert_allclose(loss, search_losses(detector, x, z, y), rtol=1e-4)
            found[-1].append(loss.numpy())
    return np.array(found)


def test_the_score_is_the_lowest_loss_of_the_likeliest_classes(x):
    """Of all searches, also of those from other starts than the code; more classes than there are is all of them."""
    detector = new_detector(restarts=2)
    searches = separate_searches(detector, x)
    assert set(np.argmin(searches.min(axis=0), axis=0)) == {0, 1}  # either start is the best of some images
    ranks = np.argsort(np.argsort(-encoded(detector, x)[1].numpy(), axis=1), axis=1)  # 0 for the likeliest class
    for searched_classes in (1, 2, 3, 10):
        changed = {"searched_classes": searched_classes}
        detector.hyperparameters = detector.hyperparameters.model_copy(update=changed)
        expected = np.where(ranks.T[:, np.newaxis] < searched_classes, searches, np.inf)
        loss, z, y = detector.best_search(x)
        np.testing.assert_allclose(loss, expected.min(axis=(0, 1)), rtol=1e-3)
        np.testing.assert_array_equal(np.argmax(y, axis=1), np.argmin(expected.min(axis=1), axis=0))
        np.testing.assert_allclose(search_losses(detector, x, z, y), loss, rtol=1e-4)
        is_higher = expected.min(axis=(0, 1)) > searches.min(axis=(0, 1))
        assert is_higher.any() == (searched_classes < N_CLASSES)


def test_score_image_and_logit_are_those_of_the_best_search(detector, x):
    loss, z, y = detector.best_search(x)
    assert len(set(np.argmax(y, axis=1))) > 1
    np.testing.assert_allclose(detector.anomaly_score(x), loss, rtol=1e-3)
    output = detector.score_and_reconstruct(x)
    np.testing.assert_allclose(output.score, loss, rtol=1e-3)
    np.testing.assert_allclose(output.reconstruction, generated(detector, z, y), rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(output.logit, detector.discriminator(x, y)[1], rtol=1e-3, atol=1e-5)


def test_averages_score_images_and_teach_the_encoder(x):
    detector = new_detector(weight_averaging=0.9)
    detector.train_step((x, CLASSES))
    detector.begin_epoch(0)
    loss, scores = float(detector.encoder_loss(x, Y)[0]), detector.anomaly_score(x).numpy()
    for network in detector.trained:
        network.set_weights([np.zeros_like(weight) for weight in network.get_weights()])
    detector.begin_epoch(0)
    np.testing.assert_allclose(detector.anomaly_score(x), scores, rtol=1e-5)
    assert float(detector.encoder_loss(x, Y)[0]) == pytest.approx(loss)
