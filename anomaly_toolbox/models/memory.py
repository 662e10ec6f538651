"""Memory banks: layers that store vectors of normal images and measure how far other vectors are from them.

The stored arrays are saved and loaded with the weights of the networks, so a score never depends on the batch at hand.
A memory bank is empty until its first `fit`, which also sets its size.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

NEIGHBOURS = 5
LEAST_VARIANCE = 1e-9  # of the largest; a direction in which nothing varies would count without bounds


class MemoryBank(keras.layers.Layer):
    """The base class: named arrays that `fit` sets."""

    def __init__(self):
        super().__init__()
        self.arrays: dict[str, tf.Variable] = {}
        self.built = True

    @property
    def is_empty(self) -> bool:
        """Whether `fit` was not called yet."""
        return not self.arrays

    @property
    def stored(self) -> list[tf.Variable]:
        """The arrays, with those of the memory banks inside this one."""
        return list(self.arrays.values())

    def set_arrays(self, **arrays: np.ndarray) -> None:
        """Replaces the stored arrays."""
        for name, array in arrays.items():
            variable = self.arrays.get(name)
            if variable is None or variable.shape != array.shape:
                dtype = tf.uint8 if array.dtype == np.uint8 else tf.float32
                self.arrays[name] = tf.Variable(array, trainable=False, dtype=dtype)
            else:
                variable.assign(array)

    def fit(self, vectors: np.ndarray) -> None:
        """Fits the bank to vectors (n, dimensions), float32, of normal images."""
        raise NotImplementedError

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """(batch, dimensions) -> (batch,); higher values are further from the normal vectors."""
        raise NotImplementedError

    def save_own_variables(self, store):
        """Keras's hook that writes to the weights file."""
        for name, variable in self.arrays.items():
            store[name] = variable.numpy()

    def load_own_variables(self, store):
        """Keras's hook: the arrays take the sizes that they have in the file."""
        self.set_arrays(**{name: store[name][...] for name in store.keys()})  # noqa: SIM118  (an HDF5 group)


class PrincipalComponents(MemoryBank):
    """Mean and leading principal components of normal vectors, by scikit-learn.

    Args:
        components: how many, though never more than vectors or dimensions; or, below 1, the share of the variance that
            they have to explain.
    """

    def __init__(self, components: float):
        super().__init__()
        self.components = components

    def fit(self, vectors):
        n_components = self.components if self.components < 1 else min(self.components, *vectors.shape)
        fitted = PCA(n_components, random_state=0).fit(vectors)
        self.set_arrays(mean=fitted.mean_, axes=fitted.components_)

    def call(self, vectors):
        """Coordinates along the components, (batch, components)."""
        return tf.matmul(vectors - self.arrays["mean"], self.arrays["axes"], transpose_b=True)

    def inverse(self, coordinates: tf.Tensor) -> tf.Tensor:
        """The vectors that have these coordinates: (batch, components) -> (batch, dimensions)."""
        return tf.matmul(coordinates, self.arrays["axes"]) + self.arrays["mean"]


class Neighbours(MemoryBank):
    """Mean cosine distance to the 5 nearest of the normal vectors, in [0, 2].

    Args:
        components: compare coordinates along so many principal components, instead of the vectors themselves.
    """

    def __init__(self, components: int | None = None):
        super().__init__()
        self.coordinates = PrincipalComponents(components) if components else None

    def fit(self, vectors):
        if self.coordinates is not None:
            self.coordinates.fit(vectors)
        self.set_arrays(directions=self._directions(vectors).numpy())

    def call(self, vectors):
        similarities = tf.matmul(self._directions(vectors), self.arrays["directions"], transpose_b=True)
        nearest, _ = tf.math.top_k(similarities, min(NEIGHBOURS, similarities.shape[1]))
        return 1 - tf.reduce_mean(nearest, axis=1)

    @property
    def stored(self):
        return super().stored + (self.coordinates.stored if self.coordinates else [])

    def _directions(self, vectors):
        return tf.math.l2_normalize(vectors if self.coordinates is None else self.coordinates(vectors), axis=1)


class Mahalanobis(MemoryBank):
    """Mahalanobis distance sqrt((v - m)^T S^-1 (v - m)) to the mean m of normal vectors under their covariance S.

    S is Ledoit and Wolf's shrunk estimate, by scikit-learn: it can be inverted with few vectors too. With its
    eigenvalues s and eigenvectors A, the distance is the length of s^-1/2 A^T (v - m).
    """

    def fit(self, vectors):
        fitted = LedoitWolf().fit(vectors.astype(np.float64))
        variances, axes = np.linalg.eigh(fitted.covariance_)
        variances = np.maximum(variances, max(LEAST_VARIANCE * variances[-1], np.finfo(np.float32).tiny))
        self.set_arrays(mean=fitted.location_, whitening=axes / np.sqrt(variances))

    def call(self, vectors):
        return tf.norm(tf.matmul(vectors - self.arrays["mean"], self.arrays["whitening"]), axis=-1)


class LocalFeatureDistance(Mahalanobis):
    """How much each patch of an image differs from patches of normal images: about 1 for normal ones.

    It is the Mahalanobis distance divided by the root of the number of dimensions. `fit` takes the features of any
    patches, (n, dimensions); the call takes those of all patches of images: (batch, height, width, dimensions) ->
    (batch, height, width).
    """

    def call(self, vectors):
        flat = tf.reshape(vectors, (-1, vectors.shape[-1]))
        return tf.reshape(super().call(flat), tf.shape(vectors)[:-1]) / math.sqrt(vectors.shape[-1])
