"""Counts the multiply-adds of convolutions and matrix products, from the shapes of the layers' own operations."""

import math

import tensorflow as tf


def gflop(function: tf.types.experimental.PolymorphicFunction, *arguments: tf.TensorSpec) -> float:
    """Gigaflop of one call, a multiply-add being two; only what the results need, padding included.

    NaN if there is a loop, whose turns a graph does not tell.
    """
    graph = function.get_concrete_function(*arguments).graph
    needed, waiting = set(), [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    while waiting:
        operation = waiting.pop()
        if operation not in needed:
            needed.add(operation)
            waiting += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    if any(operation.type in ("While", "StatelessWhile") for operation in needed):
        return math.nan
    return sum(2 * _multiply_adds(operation) for operation in needed) / 1e9


def _multiply_adds(operation: tf.Operation) -> int:
    size = lambda tensor: math.prod(tensor.shape)  # noqa: E731
    match operation.type:
        case "Conv2D":  # each output pixel takes one kernel of (height, width, channels in)
            return size(operation.outputs[0]) * math.prod(operation.inputs[1].shape[:3])
        case "Conv2DBackpropInput":  # inputs: sizes, kernel, gradient of the output
            return size(operation.inputs[2]) * math.prod(operation.inputs[1].shape[:3])
        case "Conv2DBackpropFilter":  # inputs: images, sizes, gradient of the output
            return size(operation.inputs[2]) * math.prod(operation.outputs[0].shape[:3])
        case "MatMul":
            left = operation.inputs[0].shape
            return size(operation.outputs[0]) * left[0 if operation.get_attr("transpose_a") else 1]
    return 0
