"""The contract of all registered methods."""

import typing

import h5py
import numpy as np
import pytest
import tensorflow as tf
from sklearn.covariance import LedoitWolf

from anomaly_toolbox.errors import InputError
from anomaly_toolbox.models import METHODS, build_detector, detector_class, method_name
from anomaly_toolbox.models.derived_scores import is_derived
from anomaly_toolbox.training.outputs import describe_derived_scores
from tests.conftest import TINY, derived_scores_in_numpy, tiny_detector, training_data

BASELINES = {"KNN", "PCA"}  # they have no epochs
HELD_OUT = np.random.default_rng(0).permutation(104)[:20]  # of `training_images`, for the derived scores


def training_images():
    """104 images of noise with the levels of bytes, which KNN stores exactly."""
    levels = np.random.default_rng(1).integers(0, 256, (104, 16, 16, 1))
    return (levels / 127.5 - 1).astype(np.float32)


@pytest.fixture(params=sorted(METHODS), scope="module")
def detector(request):
    """A detector with filled memory banks; a few training steps have set the averages of batch normalisation."""
    tf.keras.utils.set_random_seed(0)
    detector = tiny_detector(request.param)
    images = training_images()
    if request.param not in BASELINES:
        batches = tf.data.Dataset.from_tensor_slices(training_data(detector, images)).batch(8, drop_remainder=True)
        detector.fit(batches, verbose=0, shuffle=False)
    detector.after_fit(images)
    detector.fit_scores(images)
    return detector


def scores_in_batches(detector, images, batch_size):
    """The scores from compiled steps, (n,) each by name; zeros fill up the last batch, as in the toolbox."""
    padding = np.zeros((-len(images) % batch_size, *images.shape[1:]), np.float32)
    padded = np.concatenate([images, padding])
    return detector.score_batches(tf.data.Dataset.from_tensor_slices(padded).batch(batch_size), len(images))


def test_every_method_is_tested():
    assert set(TINY) == set(METHODS)


@pytest.mark.parametrize("name", ["GANomaly", "ganomaly", "GANOMALY", "GANomalyExperiment"])
def test_names_are_found_in_any_letter_case(name):
    assert method_name(name) == "GANomaly"


def test_an_unknown_name_is_refused_with_the_most_similar_one():
    with pytest.raises(InputError, match="no method is called 'ganomali': did you mean GANomaly"):
        method_name("ganomali")


def test_the_number_of_classes_goes_to_methods_that_use_classes(class_means):
    hp = class_means.Hyperparameters(image_size=16)
    assert len(build_detector(class_means, hp, 1, 4).classes) == 4
    with pytest.raises(ValueError, match="ClassMeans needs the number of normal classes"):
        build_detector(class_means, hp, 1)
    pca = detector_class("PCA")
    assert isinstance(build_detector(pca, pca.Hyperparameters(), 1, 4), pca)


def test_every_hyperparameter_is_described_and_has_a_default():
    for name in METHODS:
        schema = detector_class(name).Hyperparameters
        assert schema()
        assert all(field.description for field in schema.model_fields.values())


@pytest.mark.parametrize("method", sorted(set(METHODS) - BASELINES))
def test_training_changes_every_weight(method, eager):
    tf.keras.utils.set_random_seed(0)
    detector = tiny_detector(method)
    weights_before = {weight.path: weight.numpy() for weight in detector.trainable_variables}
    batch = training_data(detector, training_images()[:8])
    detector.fit(tf.data.Dataset.from_tensors(batch), verbose=0, shuffle=False)
    detector.after_fit(training_images())
    assert len(weights_before) > 4
    for weight in detector.trainable_variables:
        assert not np.array_equal(weights_before[weight.path], weight.numpy()), weight.path


@pytest.mark.parametrize("method", sorted(set(METHODS) - BASELINES))
def test_a_training_that_continues_from_a_checkpoint_ends_with_the_same_weights(method, tmp_path):
    """The second epoch follows the first, or follows from the weights and optimizers that it saved."""

    def new_detector():
        tf.keras.utils.set_random_seed(0)
        return tiny_detector(method)

    def train_an_epoch(detector, epoch):
        detector.begin_epoch(epoch)
        for images in np.split(training_images()[:16], 2):
            detector.train_step(tf.nest.map_structure(tf.constant, training_data(detector, images)))

    detector, continued = new_detector(), new_detector()
    train_an_epoch(detector, 0)
    detector.save_weights(str(tmp_path / "checkpoint.weights.h5"))
    continued.load_weights(str(tmp_path / "checkpoint.weights.h5"))
    for each in (detector, continued):
        train_an_epoch(each, 1)
    for weight, weight_of_continued in zip(detector.weights, continued.weights, strict=True):
        np.testing.assert_allclose(weight_of_continued, weight, rtol=1e-5, atol=1e-7, err_msg=weight.path)


def test_the_selected_score_can_be_any_score_of_the_detector(detector, images):
    choices = typing.get_args(detector.Hyperparameters.model_fields["score"].annotation)
    assert set(choices) == set(detector.scores(images))
    assert len(set(choices)) == len(choices)
    assert choices[:2] == ("paper", "residual")


def test_each_image_has_scores_that_are_finite_and_different(detector, images):
    scores = scores_in_batches(detector, images, 8)
    assert {"paper", "residual"} <= set(scores)
    for values in scores.values():
        assert values.shape == (len(images),)
        assert np.isfinite(values).all()
        assert len(np.unique(values)) == len(images)


def test_scores_do_not_depend_on_the_other_images_or_the_batch_size(detector, images):
    scores = scores_in_batches(detector, images, 8)
    reversed_scores = scores_in_batches(detector, images[::-1], 4)
    for name, values in scores.items():
        np.testing.assert_allclose(reversed_scores[name][::-1], values, rtol=1e-4, atol=1e-5)


def test_compiled_equals_eager(detector, images):
    """Up to the rounding of features that hardly vary in tiny networks, which whitening magnifies."""
    compiled = scores_in_batches(detector, images, 8)
    for name, values in detector.scores(tf.constant(images)).items():
        np.testing.assert_allclose(values, compiled[name], rtol=5e-4, atol=1e-3 * np.ptp(compiled[name]))


def test_every_score_has_an_excess_and_there_is_a_combined_score(detector, images):
    names = set(detector.scores(images))
    basic = {name for name in names if not is_derived(name)}
    assert names == basic | {f"{name}_excess" for name in basic} | {"combined"}
    assert {"paper", "residual", *detector.combined_from} <= basic


def test_derived_scores_are_those_of_numpy(detector, images):
    scores = {name: values.numpy() for name, values in detector.scores(images).items()}
    complexities = detector.derived_scores.complexity(tf.constant(images)).numpy().astype(np.float64)
    expected = derived_scores_in_numpy(scores, complexities, describe_derived_scores(detector))
    assert set(expected) == {name for name in scores if is_derived(name)}
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values, rtol=1e-3, atol=1e-3 * np.ptp(values))


def test_derived_scores_are_fitted_to_the_images_that_are_held_out(detector):
    """The grey and the range of complexities are those of 20 of the 104 images, and of no others."""
    held_out = training_images()[HELD_OUT]
    derived = detector.derived_scores
    np.testing.assert_allclose(derived.arrays["grey"], [(np.median(held_out) + 1) / 2], rtol=1e-6)
    complexities = derived.complexity(tf.constant(held_out)).numpy()
    expected_range = [complexities.min(axis=0), complexities.max(axis=0)]
    np.testing.assert_allclose(derived.arrays["complexity_range"], expected_range, rtol=1e-6)
    scores = scores_in_batches(detector, held_out, 8)
    assert set(derived.statistics()) == {name for name in scores if not is_derived(name)}
    for name, statistics in derived.statistics().items():
        assert statistics.median == pytest.approx(np.median(np.log(scores[name])), rel=1e-4, abs=1e-4)


def test_no_image_that_is_held_out_is_in_a_memory_bank(detector):
    """KNN and PCA show it exactly; the banks of GANs have as many vectors as there are other images."""
    images = training_images()
    others = np.delete(images, HELD_OUT, axis=0)
    if type(detector).__name__ == "KNN":
        nearest_distances = detector.training_images.nearest(images)[0][:, 0]
        assert set(np.flatnonzero(nearest_distances > 1)) == set(HELD_OUT)
        np.testing.assert_allclose(np.delete(nearest_distances, HELD_OUT), 0, atol=1e-3)
    elif type(detector).__name__ == "PCA":
        mean = detector.principal_components.arrays["mean"]
        np.testing.assert_allclose(mean, others.mean(axis=0).ravel(), atol=1e-5)
    else:
        for bank, name in (("latent_neighbours", "directions"), ("encoder_neighbours", "coordinates")):
            assert detector.memory_banks[bank].arrays[name].shape[0] == len(others) == 84


def mahalanobis_distances(vectors, normal):
    """With the covariance by Ledoit and Wolf."""
    fitted = LedoitWolf().fit(normal)
    differences = vectors - fitted.location_
    return np.sqrt((differences @ np.linalg.inv(fitted.covariance_) * differences).sum(axis=1))


def along_principal_components(vectors, normal, n_components):
    """The coordinates of both, and the standard deviations of the normal ones."""
    mean = normal.mean(axis=0)
    _, singular_values, axes = np.linalg.svd(normal - mean, full_matrices=False)
    axes, deviations = axes[:n_components].T, singular_values[:n_components] / np.sqrt(len(normal) - 1)
    return (vectors - mean) @ axes, (normal - mean) @ axes, deviations


def whitened_distances(vectors, normal):
    coordinates, normal_coordinates, deviations = along_principal_components(vectors, normal, 128)
    differences = coordinates[:, np.newaxis] / deviations - normal_coordinates / deviations
    return np.sort(np.linalg.norm(differences, axis=2), axis=1)[:, :5].mean(axis=1)


def cosine_distances(vectors, normal):
    cosines = vectors @ normal.T / np.linalg.norm(vectors, axis=1)[:, np.newaxis] / np.linalg.norm(normal, axis=1)
    return np.sort(1 - cosines, axis=1)[:, :5].mean(axis=1)


def cosine_distances_along_64_components(vectors, normal):
    return cosine_distances(*along_principal_components(vectors, normal, 64)[:2])


DISTANCES = {
    "discriminator_neighbours": whitened_distances,
    "encoder_neighbours": whitened_distances,
    "feature_neighbours": cosine_distances_along_64_components,
    "latent_neighbours": cosine_distances,
    "mahalanobis": mahalanobis_distances,
    "pathway": mahalanobis_distances,
}


def vectors_of(method):
    """The names of a method's vectors."""
    if method in BASELINES:
        return set()
    if method == "Classifier":
        return {"latent_neighbours", "encoder_neighbours"}
    if method == "AAE":  # its D sees no images
        return set(DISTANCES) - {"discriminator_neighbours", "feature_neighbours"}
    return set(DISTANCES)


def test_scores_of_memory_banks_are_distances_to_the_vectors_of_normal_images(detector, images):
    """Computed by NumPy in float64 from the vectors of the images that are not held out."""
    normal_images = np.delete(training_images(), HELD_OUT, axis=0)
    vectors, normal_vectors = detector.vectors(tf.constant(images)), detector.vectors(tf.constant(normal_images))
    assert set(vectors) == vectors_of(type(detector).__name__)
    scores = detector.scores(tf.constant(images))
    for name in vectors:
        expected = DISTANCES[name](np.asarray(vectors[name], np.float64), np.asarray(normal_vectors[name], np.float64))
        np.testing.assert_allclose(scores[name], expected, rtol=1e-2, err_msg=name)


def logits_of_d(detector, images):
    """D's logits, (n, 1)."""
    match type(detector).__name__:
        case "EGBAD" | "ALAD":
            encoder, _, discriminator, *_ = detector.scoring
            return discriminator(images, encoder(images))[1]
        case "AAE":
            return detector.discriminator(detector.encoder(images))
        case "ConditionalAnoGAN":
            _, _, classes = detector.best_search(images)
            return detector.discriminator(images, classes)[1]
    return detector.discriminator(images)[1]


def test_the_discriminator_score_is_minus_the_log_of_d(detector, images):
    scores = detector.scores(images)
    if type(detector).__name__ in BASELINES | {"FAnoGAN", "Classifier"}:  # a critic gives no probability
        assert "discriminator" not in scores
        return
    logits = np.asarray(logits_of_d(detector, images), np.float64)[:, 0]
    np.testing.assert_allclose(scores["discriminator"], np.log1p(np.exp(-logits)), rtol=1e-5)


def test_the_selected_score_alone_is_the_same(detector, images, monkeypatch):
    """Exports and `predict` compute it so."""
    x = tf.constant(images)
    output = detector.score_and_reconstruct(x)
    hyperparameters = detector.hyperparameters
    for name, values in detector.scores(x).items():
        monkeypatch.setattr(detector, "hyperparameters", hyperparameters.model_copy(update={"score": name}))
        selected = detector.selected_score(x, output)
        np.testing.assert_allclose(selected, values, rtol=5e-4, atol=1e-3 * np.ptp(values))


def test_finished_batches_of_memory_banks_are_reported():
    calls = []
    tiny_detector("GANomaly").fit_memory_banks(training_images()[:20], lambda *numbers: calls.append(numbers))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_the_first_score_is_the_papers(detector, images):
    np.testing.assert_array_equal(detector(images), detector.anomaly_score(images))
    np.testing.assert_allclose(next(iter(detector.scores(images).values())), detector(images), rtol=1e-6)


def test_reconstructions_and_maps(detector, images):
    reconstructions = detector.reconstruct(tf.constant(images)).numpy()
    assert reconstructions.shape == images.shape
    assert np.abs(reconstructions).max() <= 1
    residuals = np.abs(images - reconstructions).mean(axis=-1)
    np.testing.assert_allclose(detector.scores(images)["residual"], residuals.mean(axis=(1, 2)), rtol=1e-5)
    maps = detector.anomaly_map(tf.constant(images)).numpy()
    distances = local_feature_distances(detector, images)
    np.testing.assert_allclose(maps, residuals * distances, rtol=1e-3, atol=1e-6)
    assert ("patches" in detector.scores(images)) == (type(detector).__name__ not in BASELINES)
    if type(detector).__name__ not in BASELINES:
        patches = detector.scores(images)["patches"]
        np.testing.assert_allclose(patches, distances.mean(axis=(1, 2)), rtol=1e-3)
        assert np.ptp(distances) > 0.1
        normal_distances = local_feature_distances(detector, training_images())
        assert np.sqrt((normal_distances**2).mean()) == pytest.approx(1, abs=0.3)


def first_network(detector):
    """The layers that begin with the convolution whose features are compared."""
    match type(detector).__name__:
        case "EGBAD" | "ALAD":
            return detector.averages[2].of_x
        case "AAE" | "Classifier":
            return detector.encoder.pyramid
        case "FAnoGAN":
            return detector.critic.features
        case "SkipGANomaly":
            return detector.discriminator.pyramid
    return detector.discriminator.features


def local_feature_distances(detector, images):
    """The factors of the residuals in an anomaly map, (n, size, size), computed by NumPy from the first convolution."""
    method = type(detector).__name__
    if method in BASELINES:
        return np.ones(images.shape[:3])
    convolution, activation = first_network(detector).layers[:2]
    features = activation(convolution(images)).numpy().astype(np.float64)
    vectors = np.zeros((*features.shape[:3], 2 * features.shape[3]))
    for row, column in np.ndindex(features.shape[1:3]):
        window = features[:, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        means = window.mean(axis=(1, 2))
        mean_squares = (window**2).mean(axis=(1, 2))
        vectors[:, row, column] = np.concatenate([means, mean_squares], axis=-1)
    arrays = detector.memory_banks["patches"].arrays
    whitened = (vectors - arrays["mean"].numpy()) @ arrays["whitening"].numpy()
    distances = np.sqrt((whitened**2).mean(axis=-1))
    return np.kron(distances, np.ones((1, 2, 2)))


def test_every_array_in_a_weights_file_is_known(detector, tmp_path):
    """Disk space is checked by it, and compiled steps are renewed if a file has arrays of another shape."""
    detector.save_networks(tmp_path / "model.weights.h5")
    sizes = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(lambda _, item: sizes.append(item.size) if isinstance(item, h5py.Dataset) else None)
    for variable in detector.stored:
        if not getattr(variable, "path", "").endswith("seed_generator_state"):  # files do not hold it
            sizes.append(-variable.numpy().size)
    for layer in detector._flatten_layers():
        if isinstance(layer, tf.keras.layers.SpectralNormalization):  # Keras writes its kernel twice
            sizes.append(-layer.kernel.numpy().size)
    assert sum(sizes) == 0


@pytest.mark.slow
def test_saved_networks_score_the_same(detector, images, tmp_path):
    """The memory banks are saved too, and replace those that are already filled."""
    path = tmp_path / "model.weights.h5"
    detector.save_networks(path)
    other = tiny_detector(type(detector).__name__)
    other.fit_scores(-training_images())
    assert not np.allclose(other(images), detector(images))
    other.load_networks(path)
    expected = detector.scores(images)
    for name, values in other.scores(images).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5)
    assert set(scores_in_batches(other, images, 8)) == set(expected)


@pytest.mark.parametrize("method", sorted(set(METHODS) - BASELINES))
def test_optimizers_are_built_but_not_saved_with_the_networks(method, tmp_path):
    detector = tiny_detector(method)
    assert all(optimizer.built for optimizer in detector.optimizers.values())
    detector.save_networks(tmp_path / "model.weights.h5")
    detector.save_weights(str(tmp_path / "all.weights.h5"))
    assert (tmp_path / "model.weights.h5").stat().st_size < (tmp_path / "all.weights.h5").stat().st_size
    assert detector.optimizers


def test_a_wrong_image_size_is_refused(detector):
    with pytest.raises(ValueError, match=r"expected images of shape \(16, 16, 1\), received \(32, 32, 1\)"):
        detector.predict_step(tf.zeros((2, 32, 32, 1)))
