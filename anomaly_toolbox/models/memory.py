"""Memory banks: layers that store vectors of normal images, or their mean and covariance, and compare others with them.

The arrays of a memory bank are saved and loaded with the weights of the networks. A memory bank is empty until it is
fitted or loaded, which also sets its size.

Nearest vectors are found by matrix products, which are fast. Their distances are computed from differences, because a
difference of two large products has few correct digits in float32.
"""

import math
from collections.abc import MutableMapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

NEIGHBOURS = 5
SMALLEST_VARIANCE = 1e-9  # a share of the largest; without it, distances along constant directions would be infinite
VECTORS_FOR_COVARIANCE = 20_000  # more of them take longer and hardly change a covariance


class StoredArrays(keras.layers.Layer):
    """A layer with named arrays that are fitted instead of trained."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays: dict[str, tf.Variable] = {}
        self._removed: dict[str, tf.Variable] = {}
        self.built = True  # Keras has no weights to build here

    @property
    def is_empty(self) -> bool:
        """Whether the layer has no arrays, because it was neither fitted nor loaded."""
        return not self.arrays

    @property
    def stored(self) -> list[tf.Variable]:
        """The arrays of this layer and of the layers inside it."""
        return list(self.arrays.values())

    def set_arrays(self, **arrays: np.ndarray) -> None:
        """Sets or replaces the arrays of these names; uint8 stays uint8, and all other types become float32."""
        for name, array in arrays.items():
            dtype = tf.uint8 if array.dtype == np.uint8 else tf.float32
            variable = self.arrays.get(name, self._removed.pop(name, None))
            if variable is not None and (variable.shape, variable.dtype) == (array.shape, dtype):
                variable.assign(array)  # compiled steps stay valid
            else:
                variable = tf.Variable(array, trainable=False, dtype=dtype)
            self.arrays[name] = variable

    def remove_arrays(self) -> None:
        """Removes all arrays; compiled steps that read them are valid again when arrays of the same shapes are set."""
        self._removed |= self.arrays
        self.arrays = {}

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Keras's hook: writes the arrays to a weights file."""
        for name, variable in self.arrays.items():
            store[name] = variable.numpy()

    def load_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Keras's hook: reads the arrays from a weights file; the file sets their shapes."""
        self.set_arrays(**{name: store[name][...] for name in store.keys()})  # noqa: SIM118  (an HDF5 group)


class MemoryBank(StoredArrays):
    """The base class of memory banks."""

    def fit(self, vectors: np.ndarray) -> None:
        """Fits the bank to vectors of normal images, (n, dimensions), float32."""
        raise NotImplementedError

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """How far each vector is from the normal vectors, (batch, dimensions) -> (batch,), >= 0."""
        raise NotImplementedError


class PrincipalComponents(StoredArrays):
    """The mean and the leading principal components of normal vectors, by scikit-learn.

    Args:
        components: 1 or more: the number of components, which is reduced if there are fewer vectors or dimensions.
            Below 1: the share of the variance that the components have to explain.
    """

    def __init__(self, components: float):
        super().__init__()
        self.components = components

    def fit(self, vectors: np.ndarray) -> None:
        """Fits the components to vectors of normal images, (n, dimensions), float32."""
        n_components = self.components
        if n_components >= 1:
            n_components = min(n_components, *vectors.shape)
        fitted = PCA(n_components, random_state=0).fit(vectors)
        self.set_arrays(mean=fitted.mean_, axes=fitted.components_)

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """The coordinates of the vectors along the components, (batch, dimensions) -> (batch, components)."""
        return tf.matmul(vectors - self.arrays["mean"], self.arrays["axes"], transpose_b=True)

    def inverse(self, coordinates: tf.Tensor) -> tf.Tensor:
        """The vectors that have these coordinates, (batch, components) -> (batch, dimensions)."""
        return tf.matmul(coordinates, self.arrays["axes"]) + self.arrays["mean"]


class Neighbours(MemoryBank):
    """The mean cosine distance to the 5 nearest normal vectors, in [0, 2].

    The cosine distance of u and v, both of length 1, is ½‖u − v‖².

    Args:
        components: the number of principal components along which coordinates are compared; None compares the vectors
            themselves.
    """

    def __init__(self, components: int | None = None):
        super().__init__()
        self.coordinates = None if components is None else PrincipalComponents(components)

    def fit(self, vectors):
        if self.coordinates is not None:
            self.coordinates.fit(vectors)
        self.set_arrays(directions=self._directions(vectors).numpy())

    def call(self, vectors):
        directions = self._directions(vectors)
        differences = nearest(directions, self.arrays["directions"], NEIGHBOURS) - directions[:, tf.newaxis]
        return tf.reduce_mean(tf.reduce_sum(differences**2, axis=2) / 2, axis=1)

    @property
    def stored(self):
        return super().stored + ([] if self.coordinates is None else self.coordinates.stored)

    def remove_arrays(self):
        super().remove_arrays()
        if self.coordinates is not None:
            self.coordinates.remove_arrays()

    def _directions(self, vectors):
        """Vectors of length 1, whose products are the cosines of the angles between them."""
        if self.coordinates is not None:
            vectors = self.coordinates(vectors)
        return tf.math.l2_normalize(vectors, axis=1)


class WhitenedNeighbours(MemoryBank):
    """The mean over the 5 nearest normal vectors s of ‖(v − s)W‖₂, which is >= 0.

    The columns of W are the principal components, each divided by its standard deviation. A component along which
    normal vectors vary little therefore counts as much as one along which they vary a lot.

    Args:
        components: the number of principal components.
    """

    def __init__(self, components: int):
        super().__init__()
        self.components = components

    def fit(self, vectors):
        n_components = min(self.components, *vectors.shape)
        fitted = PCA(n_components, random_state=0).fit(vectors)
        largest_variance = fitted.explained_variance_[0]
        smallest_variance = max(SMALLEST_VARIANCE * largest_variance, np.finfo(np.float32).tiny)
        deviations = np.sqrt(np.maximum(fitted.explained_variance_, smallest_variance))
        self.set_arrays(mean=fitted.mean_, whitening=fitted.components_.T / deviations)
        self.set_arrays(coordinates=self._coordinates(vectors).numpy())

    def call(self, vectors):
        coordinates = self._coordinates(vectors)
        differences = nearest(coordinates, self.arrays["coordinates"], NEIGHBOURS) - coordinates[:, tf.newaxis]
        return tf.reduce_mean(tf.norm(differences, axis=2), axis=1)

    def _coordinates(self, vectors):
        return tf.matmul(vectors - self.arrays["mean"], self.arrays["whitening"])


def nearest(vectors: tf.Tensor, stored_vectors: tf.Tensor, n_neighbours: int) -> tf.Tensor:
    """The nearest stored vectors of each vector, by Euclidean distance.

    Args:
        vectors: (batch, dimensions).
        stored_vectors: (n, dimensions).
        n_neighbours: how many; if there are fewer, all of them.

    Returns:
        (batch, k, dimensions), the nearest first; k is `n_neighbours`, or n if that is smaller.
    """
    # |v - s|^2 is smallest where (v - c) . s - |s - c|^2 / 2 is largest, for any c. With the centre c of vectors that
    # lie close to each other, these products keep enough digits to find the nearest.
    centre = tf.reduce_mean(stored_vectors, axis=0)
    products = tf.matmul(vectors - centre, stored_vectors, transpose_b=True)
    closeness = products - tf.reduce_sum((stored_vectors - centre) ** 2, axis=1) / 2
    _, indices = tf.math.top_k(closeness, min(n_neighbours, stored_vectors.shape[0]))
    return tf.gather(stored_vectors, indices)


def whitening(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean m of normal vectors, and a matrix W so that the length of (v - m) W is a Mahalanobis distance.

    The distance is sqrt((v - m)^T S^-1 (v - m)). The covariance S is the shrunk estimate by Ledoit and Wolf, from
    scikit-learn, which can be inverted even if there are few vectors. With the eigenvalues s and the eigenvectors A of
    S, W = A s^-1/2.

    Args:
        vectors: (n, dimensions).

    Returns:
        m, (dimensions,), and W, (dimensions, dimensions), float64.
    """
    fitted = LedoitWolf().fit(vectors[:VECTORS_FOR_COVARIANCE].astype(np.float64))
    variances, axes = np.linalg.eigh(fitted.covariance_)
    largest_variance = variances[-1]
    smallest_variance = max(SMALLEST_VARIANCE * largest_variance, np.finfo(np.float32).tiny)
    return fitted.location_, axes / np.sqrt(np.maximum(variances, smallest_variance))


class Mahalanobis(MemoryBank):
    """The Mahalanobis distance to the mean of normal vectors, see `whitening`."""

    def fit(self, vectors):
        mean, axes = whitening(vectors)
        self.set_arrays(mean=mean, whitening=axes)

    def call(self, vectors):
        return tf.norm(tf.matmul(vectors - self.arrays["mean"], self.arrays["whitening"]), axis=-1)


class LocalFeatureDistance(Mahalanobis):
    """How much the features of each patch differ from those of normal images; about 1 for normal patches.

    It is the Mahalanobis distance divided by the square root of the number of dimensions. `fit` takes the features of
    any patches, (n, dimensions). The call takes those of all patches of images,
    (batch, height, width, dimensions) -> (batch, height, width).
    """

    def call(self, vectors):
        n_dimensions = vectors.shape[-1]
        flat_distances = super().call(tf.reshape(vectors, (-1, n_dimensions)))
        return tf.reshape(flat_distances, tf.shape(vectors)[:-1]) / math.sqrt(n_dimensions)
