"""The choice of the best epoch, patience, and checkpoints."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.errors import ToolboxError
from anomaly_toolbox.training.callbacks import Checkpoint, KeepBest, Timing
from tests.conftest import tiny_detector

LOGS = [
    {"val_auprc": 0.2, "val_auroc": 0.9, "val_loss": 0.3},
    {"val_auprc": 0.5, "val_auroc": 0.7, "val_loss": 0.4},
    {"val_auprc": 0.5, "val_auroc": 0.8, "val_loss": 0.1},
    {"val_auprc": 0.4, "val_auroc": 0.8, "val_loss": 0.2},
]


@pytest.fixture(scope="module")
def detector():
    keras.utils.set_random_seed(0)
    return tiny_detector("GANomaly")


def after_all_epochs(detector, folder, select_by, patience=None):
    """A `KeepBest` after the epochs of `LOGS`, and for each epoch whether it stopped the training."""
    keep_best = KeepBest(folder, select_by, patience)
    keep_best.set_model(detector)
    stops = []
    for epoch, logs in enumerate(LOGS):
        keep_best.on_epoch_end(epoch, logs)
        stops.append(detector.stop_training)
    return keep_best, stops


@pytest.mark.parametrize(("select_by", "best"), [("auprc", 2), ("auroc", 1), ("loss", 3), ("last", 4)])
def test_the_epoch_with_the_best_metric_is_kept_and_the_first_of_equals(detector, tmp_path, select_by, best):
    keep_best, stops = after_all_epochs(detector, tmp_path, select_by)
    assert keep_best.best_epoch == best
    assert keep_best.path.exists()
    assert not any(stops)


def test_patience_counts_epochs_without_a_better_one(detector, tmp_path):
    assert after_all_epochs(detector, tmp_path, "auroc", patience=2)[1] == [False, False, True, True]
    assert after_all_epochs(detector, tmp_path, "last", patience=1)[1] == [False] * 4


def test_a_checkpoint_restores_weights_optimizers_and_the_best_epoch(detector, tmp_path):
    detector.train_step(tf.random.uniform((8, 16, 16, 1), -1, 1))
    keep_best, _ = after_all_epochs(detector, tmp_path, "loss")
    timing = Timing(8)
    timing.seconds_before = 100.0
    timing.on_train_begin()
    checkpoint = Checkpoint(tmp_path, keep_best, timing)
    checkpoint.set_model(detector)
    checkpoint.on_epoch_end(3, LOGS[3])
    assert {path.name for path in tmp_path.iterdir()} == {"state.json", "epoch-4.weights.h5", "best-3.weights.h5"}

    restored, restored_best = tiny_detector("GANomaly"), KeepBest(tmp_path, "loss", None)
    restored_timing = Timing(8)
    assert Checkpoint(tmp_path, restored_best, restored_timing).restore(restored) == 4
    assert 100 < restored_timing.seconds < 130
    assert (restored_best.best_epoch, restored_best.best) == (3, -0.1)
    for name, optimizer in detector.optimizers.items():
        assert int(restored.optimizers[name].iterations) == int(optimizer.iterations) == 1
        for saved_variable, variable in zip(optimizer.variables, restored.optimizers[name].variables, strict=True):
            np.testing.assert_array_equal(variable, saved_variable)
    for saved_weight, weight in zip(detector.weights, restored.weights, strict=True):
        np.testing.assert_array_equal(weight, saved_weight)


def test_a_damaged_checkpoint_is_reported(detector, tmp_path):
    keep_best, _ = after_all_epochs(detector, tmp_path, "auprc")
    checkpoint = Checkpoint(tmp_path, keep_best, Timing(8))
    assert checkpoint.restore(detector) == 0
    checkpoint.set_model(detector)
    checkpoint.on_epoch_end(3, LOGS[3])
    state = (tmp_path / "state.json").read_text()
    for damaged in (state.replace('"best_epoch": 2', '"best_epoch": "two"'), state.replace("sha256", "md5")):
        (tmp_path / "state.json").write_text(damaged)
        with pytest.raises(ToolboxError, match="is damaged or missing"):
            checkpoint.restore(detector)
    (tmp_path / "state.json").write_text(state)
    content = bytearray((tmp_path / "epoch-4.weights.h5").read_bytes())
    content[-9] ^= 1  # one bit, in a file that HDF5 still reads
    (tmp_path / "epoch-4.weights.h5").write_bytes(content)
    with pytest.raises(ToolboxError, match="is damaged or missing"):
        checkpoint.restore(detector)
    keep_best.path.write_bytes(keep_best.path.read_bytes()[:500])
    with pytest.raises(ToolboxError, match=r"best-2\.weights\.h5 is damaged"):
        keep_best.restore(detector)
