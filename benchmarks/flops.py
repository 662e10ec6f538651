"""Counts the floating-point operations of convolutions and matrix products, from the shapes in a compiled graph."""

import math

import tensorflow as tf


def gflop(function: tf.types.experimental.PolymorphicFunction, *arguments: tf.TensorSpec) -> float:
    """The cost of one call in GFLOP; a multiply-add counts as two operations.

    Padding counts, and operations that the results do not need do not count.

    Args:
        function: a `tf.function`.
        arguments: the shapes and types of its arguments.

    Returns:
        The cost, or NaN if the function has a loop, because a graph does not hold the number of iterations.
    """
    graph = function.get_concrete_function(*arguments).graph
    needed = set()
    waiting = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    while waiting:
        operation = waiting.pop()
        if operation not in needed:
            needed.add(operation)
            waiting += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    if any(operation.type in ("While", "StatelessWhile") for operation in needed):
        return math.nan
    return sum(2 * _multiply_adds(operation) for operation in needed) / 1e9


def _multiply_adds(operation: tf.Operation) -> int:
    match operation.type:
        case "Conv2D":  # inputs: images, kernel
            output, kernel = operation.outputs[0], operation.inputs[1]
            return math.prod(output.shape) * math.prod(kernel.shape[:3])
        case "Conv2DBackpropInput":  # inputs: sizes, kernel, gradient of the output
            kernel, gradient = operation.inputs[1], operation.inputs[2]
            return math.prod(gradient.shape) * math.prod(kernel.shape[:3])
        case "Conv2DBackpropFilter":  # inputs: images, sizes, gradient of the output
            gradient, kernel_gradient = operation.inputs[2], operation.outputs[0]
            return math.prod(gradient.shape) * math.prod(kernel_gradient.shape[:3])
        case "MatMul":
            output, left = operation.outputs[0], operation.inputs[0]
            inner_size = left.shape[0] if operation.get_attr("transpose_a") else left.shape[1]
            return math.prod(output.shape) * inner_size
    return 0
