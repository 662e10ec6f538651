"""How GPUs are prepared, tested and described. No test needs one: a CPU or a stub stands for it."""

import os

import pytest
import tensorflow as tf

from anomaly_toolbox import device
from anomaly_toolbox.errors import ToolboxError
from anomaly_toolbox.estimator import ImageOutlierDetector
from anomaly_toolbox.inference.members import load_members


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that TensorFlow finds two GPUs; returns the settings that are made to them."""
    settings = []
    found = [tf.config.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU") for number in range(2)]
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: found)
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"device_name": f"Model {gpu.name[-1]}"}
    )
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda gpu, grows: settings.append((gpu.name[-1], grows))
    )
    monkeypatch.setattr(device, "check_computation", settings.append)
    monkeypatch.setattr(device, "nvcc_folder", lambda: None)
    device.prepare_gpus.cache_clear()
    yield settings
    device.prepare_gpus.cache_clear()


def test_gpus_are_prepared_and_the_first_is_tested_once(gpus):
    assert device.prepare_gpus() == ("Model 0", "Model 1")
    assert gpus == [("0", True), ("1", True), "GPU:0"]
    device.prepare_gpus()
    assert len(gpus) == 3


@pytest.mark.parametrize(
    ("n_workers", "expected"),
    [
        (1, "GPU (Model 0, of 2 GPUs; the trials of a sweep can use one each)"),
        (2, "2 of 2 GPUs (Model 0, Model 1), one for each worker"),
        (3, "2 GPUs (Model 0, Model 1), shared by 3 workers"),
    ],
)
def test_the_device_is_described(gpus, n_workers, expected):
    assert device.describe_device(True, n_workers) == expected


def test_a_gpu_that_was_used_before_keeps_its_settings(gpus, monkeypatch):
    def refuse(*_):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", refuse)
    assert device.prepare_gpus() == ("Model 0", "Model 1")


def test_a_gpu_that_does_not_work_is_one_line_with_what_helps(gpus, monkeypatch):
    def fail(name):
        raise tf.errors.InternalError(None, None, "libdevice not found at ./libdevice.10.bc\n\tmore")

    monkeypatch.setattr(device, "check_computation", fail)
    with pytest.raises(ToolboxError, match="libdevice not found") as raised:
        device.prepare_gpus()
    message = str(raised.value)
    assert "\n" not in message
    for part in ("Model 0", "CUDA", "cuDNN", "driver", "ptxas", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES=-1"):
        assert part in message


def test_xla_is_told_where_the_tools_of_nvidia_are(gpus, monkeypatch, tmp_path):
    monkeypatch.setattr(device, "nvcc_folder", lambda: tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "--xla_of_the_user=1")
    device.prepare_gpus()
    assert os.environ["XLA_FLAGS"] == "--xla_of_the_user=1"
    device.prepare_gpus.cache_clear()
    monkeypatch.delenv("XLA_FLAGS")
    device.prepare_gpus()
    assert os.environ["XLA_FLAGS"] == f"--xla_gpu_cuda_data_dir={tmp_path}"
    monkeypatch.delenv("XLA_FLAGS")


def test_the_tools_of_nvidia_are_found_where_pip_installs_them(monkeypatch, tmp_path):
    assert device.nvcc_folder() is None  # the tests are run without the extra `gpu`
    folder = tmp_path / "nvidia" / "cuda_nvcc"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert device.nvcc_folder() == folder


def test_the_test_computation(monkeypatch):
    device.check_computation("CPU:0")
    monkeypatch.setattr(tf, "exp", lambda x: x)
    with pytest.raises(ArithmeticError, match=r"expected 6\.5051"):
        device.check_computation("CPU:0")


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [])
    device.prepare_gpus.cache_clear()
    assert device.describe_device(False).startswith("CPU (")
    with pytest.raises(ToolboxError, match="finds no GPU"):
        device.describe_device(True)


class Stopped(Exception):
    """Raised in place of the preparation of GPUs."""


def stop():
    raise Stopped


def test_loading_a_run_and_fitting_the_estimator_prepare_gpus_first(monkeypatch):
    monkeypatch.setattr("anomaly_toolbox.inference.members.prepare_gpus", stop)
    with pytest.raises(Stopped):
        load_members(None)
    monkeypatch.setattr("anomaly_toolbox.estimator.prepare_gpus", stop)
    with pytest.raises(Stopped):
        ImageOutlierDetector("PCA").fit([[0.0, 1.0], [1.0, 0.0]])
