"""Memory banks: layers that store vectors of normal images and measure how far other vectors are from them.

The arrays of a memory bank are saved and loaded with the weights of the networks. A memory bank is empty until it is
fitted or loaded, which also sets its size.
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


class MemoryBank(keras.layers.Layer):
    """The base class of memory banks: a layer with named arrays, which `fit` sets."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays: dict[str, tf.Variable] = {}
        self.built = True  # Keras has no weights to build here

    @property
    def is_empty(self) -> bool:
        """Whether the bank has no arrays, because it was neither fitted nor loaded."""
        return not self.arrays

    @property
    def stored(self) -> list[tf.Variable]:
        """The arrays of this bank and of the memory banks inside it."""
        return list(self.arrays.values())

    def set_arrays(self, **arrays: np.ndarray) -> None:
        """Sets or replaces the arrays of these names; uint8 stays uint8, and all other types become float32."""
        for name, array in arrays.items():
            variable = self.arrays.get(name)
            if variable is not None and variable.shape == array.shape:
                variable.assign(array)  # compiled steps stay valid
            else:
                dtype = tf.uint8 if array.dtype == np.uint8 else tf.float32
                self.arrays[name] = tf.Variable(array, trainable=False, dtype=dtype)

    def fit(self, vectors: np.ndarray) -> None:
        """Fits the bank to vectors of normal images, (n, dimensions), float32."""
        raise NotImplementedError

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """How far each vector is from the normal vectors, (batch, dimensions) -> (batch,), >= 0."""
        raise NotImplementedError

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Keras's hook: writes the arrays to a weights file."""
        for name, variable in self.arrays.items():
            store[name] = variable.numpy()

    def load_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Keras's hook: reads the arrays from a weights file; the file sets their shapes."""
        self.set_arrays(**{name: store[name][...] for name in store.keys()})  # noqa: SIM118  (an HDF5 group)


class PrincipalComponents(MemoryBank):
    """The mean and the leading principal components of normal vectors, by scikit-learn.

    Args:
        components: 1 or more: the number of components, which is reduced if there are fewer vectors or dimensions.
            Below 1: the share of the variance that the components have to explain.
    """

    def __init__(self, components: float):
        super().__init__()
        self.components = components

    def fit(self, vectors):
        n_components = self.components
        if n_components >= 1:
            n_components = min(n_components, *vectors.shape)
        fitted = PCA(n_components, random_state=0).fit(vectors)
        self.set_arrays(mean=fitted.mean_, axes=fitted.components_)

    def call(self, vectors):
        """The coordinates of the vectors along the components, (batch, dimensions) -> (batch, components)."""
        return tf.matmul(vectors - self.arrays["mean"], self.arrays["axes"], transpose_b=True)

    def inverse(self, coordinates: tf.Tensor) -> tf.Tensor:
        """The vectors that have these coordinates, (batch, components) -> (batch, dimensions)."""
        return tf.matmul(coordinates, self.arrays["axes"]) + self.arrays["mean"]


class Neighbours(MemoryBank):
    """The mean cosine distance to the 5 nearest normal vectors, in [0, 2].

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
        similarities = tf.matmul(self._directions(vectors), self.arrays["directions"], transpose_b=True)
        n_normal = similarities.shape[1]
        highest, _ = tf.math.top_k(similarities, min(NEIGHBOURS, n_normal))
        return 1 - tf.reduce_mean(highest, axis=1)

    @property
    def stored(self):
        return super().stored + ([] if self.coordinates is None else self.coordinates.stored)

    def _directions(self, vectors):
        """Vectors of length 1, whose products are the cosines of the angles between them."""
        if self.coordinates is not None:
            vectors = self.coordinates(vectors)
        return tf.math.l2_normalize(vectors, axis=1)


class Mahalanobis(MemoryBank):
    """The Mahalanobis distance sqrt((v - m)^T S^-1 (v - m)) to the mean m of normal vectors with covariance S.

    S is the shrunk estimate by Ledoit and Wolf, from scikit-learn, which can be inverted even if there are few vectors.
    With the eigenvalues s and the eigenvectors A of S, the distance is the length of s^-1/2 A^T (v - m).
    """

    def fit(self, vectors):
        fitted = LedoitWolf().fit(vectors.astype(np.float64))
        variances, axes = np.linalg.eigh(fitted.covariance_)
        largest_variance = variances[-1]
        smallest_variance = max(SMALLEST_VARIANCE * largest_variance, np.finfo(np.float32).tiny)
        variances = np.maximum(variances, smallest_variance)
        self.set_arrays(mean=fitted.location_, whitening=axes / np.sqrt(variances))

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
