"""Pipelines of tf.data do not keep anybody waiting when they end."""

import numpy as np
import pytest

from anomaly_toolbox.datasets.digits import Digits
from anomaly_toolbox.datasets.folder import ImageFolder
from tests.datasets.test_folder import fill


@pytest.mark.parametrize("kind", ["digits", "folder"])
def test_datasets_are_not_tuned(kind, tmp_path):
    """The time of a thread that oversleeps is nothing that a test can rely on, so this looks at the option."""
    dataset = Digits() if kind == "digits" else ImageFolder(fill(tmp_path, train__good=20, test__good=8, test__bad=6))
    dataset.configure(4, (16, 16), anomalous_label=2 if kind == "digits" else None)
    for split in (dataset.train_normal, dataset.validation, dataset.test):
        assert not split.options().autotune.enabled
        made_from_it = split.unbatch().batch(3)
        assert not made_from_it.options().autotune.enabled
        assert np.isfinite(next(iter(made_from_it))[0]).all()
