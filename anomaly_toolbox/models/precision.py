"""Layers that multiply in bfloat16 while they are trained, for machines that do so faster than in float32.

A bfloat16 has the range of a float32 and 8 significant bits instead of 24. A training step rounds inputs and kernels to
bfloat16 before each convolution and matrix product. Weights, batch normalisation, activations, losses and optimizers
stay float32, and so does everything that scores images.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from anomaly_toolbox.models.hyperparameters import Precision


class _InBfloat16:
    """What the layers below have in common."""

    _kernel: Any
    _is_training = False

    @property
    def kernel(self) -> Any:
        """The kernel that is multiplied with."""
        return tf.cast(self._kernel, tf.bfloat16) if self._is_training else self._kernel

    @kernel.setter
    def kernel(self, kernel: Any) -> None:
        self._kernel = kernel

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The layer's own call, whose result is float32."""
        layer: Any = super()
        if not training:
            return layer.call(inputs)
        self._is_training = True
        try:
            outputs = layer.call(tf.cast(inputs, tf.bfloat16))
        finally:
            self._is_training = False
        return tf.cast(outputs, tf.float32)


# The names are Keras's, because weights files have them.
class Conv2D(_InBfloat16, keras.layers.Conv2D):
    """A convolution."""


class Conv2DTranspose(_InBfloat16, keras.layers.Conv2DTranspose):
    """A transposed convolution."""


class Dense(_InBfloat16, keras.layers.Dense):
    """A matrix product."""


_IN_BFLOAT16 = {"Conv2D": Conv2D, "Conv2DTranspose": Conv2DTranspose, "Dense": Dense}
_precision: Precision = "float32"


@contextlib.contextmanager
def training_precision(precision: Precision) -> Iterator[None]:
    """The networks that are built in this context multiply in this precision while they are trained."""
    global _precision
    before, _precision = _precision, precision
    try:
        yield
    finally:
        _precision = before


def layer_class(name: str) -> Any:
    """The class of a layer, `Conv2D`, `Conv2DTranspose` or `Dense`, in the precision of the context."""
    return _IN_BFLOAT16[name] if _precision == "bfloat16" else getattr(keras.layers, name)
