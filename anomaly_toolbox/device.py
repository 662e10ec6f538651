"""The device that TensorFlow computes on: GPUs are prepared and tested before the first image is read."""

import contextlib
import functools
import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

from anomaly_toolbox.errors import ToolboxError, reason
from anomaly_toolbox.processes import VISIBLE_GPUS

XLA_FLAGS = "XLA_FLAGS"
DRIVER_VERSION = Path("/proc/driver/nvidia/version")
TOLERANCE = 0.02  # of the test computation; GPUs may multiply matrices with few digits


@functools.cache
def prepare_gpus() -> tuple[str, ...]:
    """Prepares the GPUs of this process and tests the first one; only the first call does anything.

    TensorFlow will take memory of a GPU as it needs it, not all at once. Everything that computes with TensorFlow calls
    this function before: training, `predict`, exports, `load` and the estimator.

    Returns:
        The name of each GPU; nothing if there is none.

    Raises:
        ToolboxError: the first GPU cannot do a small computation; the message has what helps to find the reason.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return ()
    for gpu in gpus:
        with contextlib.suppress(RuntimeError, ValueError):  # a program that has used its GPU made its own choice
            tf.config.experimental.set_memory_growth(gpu, True)
    nvcc = nvcc_folder()
    if nvcc is not None:
        os.environ.setdefault(XLA_FLAGS, f"--xla_gpu_cuda_data_dir={nvcc}")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    try:
        check_computation("GPU:0")
    except Exception as problem:
        raise ToolboxError(
            f"the GPU ({names[0]}) fails a test computation: {reason(problem)}; {_versions_and_paths()}; to use the "
            "CPU instead, set CUDA_VISIBLE_DEVICES=-1"
        ) from problem
    return tuple(names)


def describe_device(require_gpu: bool, n_workers: int = 1) -> str:
    """Prepares the GPUs and says in a few words what TensorFlow computes on.

    Args:
        require_gpu: whether it is an error if there is no GPU.
        n_workers: the number of processes that compute at the same time.

    Raises:
        ToolboxError: `require_gpu` is set and TensorFlow finds no GPU, or the first GPU does not work.
    """
    names = prepare_gpus()
    if names:
        if n_workers > len(names):
            return f"{len(names)} GPU{'s' * (len(names) > 1)} ({', '.join(names)}), shared by {n_workers} workers"
        if n_workers > 1:
            return f"{n_workers} of {len(names)} GPUs ({', '.join(names[:n_workers])}), one for each worker"
        unused = f", of {len(names)} GPUs; the trials of a sweep can use one each" if len(names) > 1 else ""
        return f"GPU ({names[0]}{unused})"
    visible = os.environ.get(VISIBLE_GPUS)
    hidden = "" if visible is None else f", and {VISIBLE_GPUS} is {visible!r}"
    if require_gpu:
        raise ToolboxError(
            f"--require-gpu: TensorFlow finds no GPU{hidden}; install with pip install '.[gpu]', in Docker start with "
            "--gpus all, and see --debug for TensorFlow's own messages"
        )
    return f"CPU ({os.cpu_count()} cores), no GPU found{hidden}"


def check_computation(device: str) -> None:
    """Compiles and runs on a device what training steps consist of, and compares the results with known ones.

    Convolving ones with 3x3 kernels of the value 0.1 gives y = 0.9 at each of 4x4 positions. The loss is the matrix
    product of exp(−y) with a column of ones, 16 exp(−0.9), and its gradient for each weight is −16 exp(−0.9).

    Args:
        device: such as `GPU:0`.

    Raises:
        ArithmeticError: the results are wrong.
    """

    @tf.function(autograph=False, jit_compile=True)
    def step(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            y = tf.nn.conv2d(x, kernel, strides=1, padding="VALID")
            loss = tf.matmul(tf.reshape(tf.exp(-y), (1, 16)), tf.ones((16, 1)))
        return loss, tape.gradient(loss, kernel)

    with tf.device(device):
        loss, gradient = step(tf.ones((1, 6, 6, 1)), tf.fill((3, 3, 1, 1), 0.1))
    expected = 16 * np.exp(-0.9)
    if not (np.allclose(loss, expected, rtol=TOLERANCE) and np.allclose(gradient, -expected, rtol=TOLERANCE)):
        raise ArithmeticError(f"expected {expected:.4f}, received {float(loss[0, 0]):.4f} or another gradient")


def nvcc_folder() -> Path | None:
    """The folder of NVIDIA's compiler tools that `pip install ".[gpu]"` brings, in which XLA finds libdevice."""
    try:
        spec = importlib.util.find_spec("nvidia.cuda_nvcc")
    except ModuleNotFoundError:  # there is no package `nvidia`
        return None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if Path(location).is_dir():
            return Path(location)
    return None


def _versions_and_paths() -> str:
    """What helps to find out why a GPU does not work."""
    built_with = tf.sysconfig.get_build_info()
    driver = "not found"
    with contextlib.suppress(OSError):
        driver = DRIVER_VERSION.read_text(encoding="utf-8").splitlines()[0].strip()
    nvcc = nvcc_folder()
    ptxas = shutil.which("ptxas", path=str(nvcc / "bin")) if nvcc else None
    libdevice = next(nvcc.glob("nvvm/libdevice/*.bc"), None) if nvcc else None
    return (
        f"TensorFlow was built with CUDA {built_with.get('cuda_version', 'unknown')} and cuDNN "
        f"{built_with.get('cudnn_version', 'unknown')}; driver: {driver}; ptxas: "
        f"{ptxas or shutil.which('ptxas') or 'not found'}; libdevice: {libdevice or 'not found'}; {XLA_FLAGS}: "
        f"{os.environ.get(XLA_FLAGS, 'not set')}"
    )


def use_one_gpu(index: int) -> None:
    """Hides all GPUs but one from TensorFlow in this process.

    Args:
        index: of the process; processes go round the GPUs.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        tf.config.set_visible_devices(gpus[index % len(gpus)], "GPU")
