"""Pictures show what they say."""

import numpy as np
import pytest
from PIL import Image

from anomaly_toolbox import pictures


@pytest.fixture
def images():
    return np.stack([np.full((4, 4, 1), -1.0), np.full((4, 4, 1), 1.0)])


def test_triples_are_image_reconstruction_residual_below_each_other(images):
    grid = pictures.triples(images, np.zeros_like(images))
    assert grid.shape == (12, 8, 1)
    assert [grid[row, column, 0] for row in (0, 4, 8) for column in (0, 4)] == [0, 1, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_every_picture_is_written_and_not_empty(tmp_path, images, channels):
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    colour = np.repeat(images, channels, axis=-1)
    assert pictures.triples(colour, colour).shape == (12, 8, 3 if channels == 3 else 1)
    pictures.save_reconstructions(tmp_path / "a.png", colour, colour / 2, ["normal", "anomalous"])
    pictures.save_precision_recall(tmp_path / "b.png", labels, scores, auprc=0.83)
    pictures.save_histogram(tmp_path / "c.png", labels, scores, threshold=0.35)
    for path in sorted(tmp_path.iterdir()):
        assert len(np.unique(np.asarray(Image.open(path)))) > 10
    assert len(list(tmp_path.iterdir())) == 3
