"""Grids, heatmaps and charts show what is asked for."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from anomaly_toolbox import pictures


@pytest.fixture
def images():
    return np.stack([np.full((4, 4, 1), -1.0), np.full((4, 4, 1), 1.0)])


def test_a_grid_has_image_reconstruction_residual_and_heatmap_below_each_other(images):
    grid = pictures.grid(images, np.zeros_like(images), np.ones((2, 4, 4)), heatmap_range=(0, 1e18))
    assert grid.shape == (16, 8, 3)
    columns = [grid[row, column, 0] for row in (0, 4, 8, 12) for column in (0, 4)]
    assert columns == pytest.approx([0, 1, 0.5, 0.5, 0.5, 0.5, 0, 1], abs=1e-6)


def test_a_heatmap_is_coloured_where_the_map_is_high():
    maps = np.zeros((1, 4, 4))
    maps[0, 1, 2] = 0.5
    heatmap = pictures.overlay_heatmap(np.full((1, 4, 4, 3), 0.5), maps, heatmap_range=(0.1, 0.5))
    assert heatmap.shape == (1, 4, 4, 3)
    np.testing.assert_allclose(heatmap[0, 0, 0], 0.5)
    np.testing.assert_allclose(heatmap[0, 1, 2], [1, 1, 0])
    assert pictures.heatmap_range_of(np.full((2, 4, 4), 0.1)) == pytest.approx((0.1, 0.125))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_every_picture_is_written_and_not_empty(tmp_path, images, channels):
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    colour, maps = np.repeat(images, channels, axis=-1), np.zeros((2, 4, 4))
    assert pictures.grid(colour, colour, maps, (0.0, 1.0)).shape == (16, 8, 3)
    pictures.save_reconstructions(tmp_path / "a.png", colour, colour / 2, maps, ["normal", "anomalous"], (0.0, 1.0))
    pictures.save_precision_recall(tmp_path / "b.png", labels, scores, auprc=0.83)
    pictures.save_histogram(tmp_path / "c.png", labels, scores, threshold=0.35)
    mask = np.eye(8, dtype=bool)
    black, anomaly_map = np.zeros((8, 8, 3)), mask.astype(float)
    located_images = [pictures.LocatedImage("a.png", black, anomaly_map, known_mask) for known_mask in (mask, None)]
    pictures.save_heatmaps(tmp_path / "d.png", located_images, (0.0, 1.0))
    for path in sorted(tmp_path.iterdir()):
        assert len(np.unique(np.asarray(Image.open(path)))) > 10
    assert len(list(tmp_path.iterdir())) == 4


def test_the_style_of_the_users_own_figures_does_not_change(tmp_path):
    program = """
from pathlib import Path
import matplotlib
import numpy as np
before = dict(matplotlib.rcParams)
from anomaly_toolbox import pictures
assert dict(matplotlib.rcParams) == before, "importing"
pictures.save_histogram(Path("scores.png"), np.array([0, 1]), np.array([0.0, 1.0]), threshold=0.5)
assert dict(matplotlib.rcParams) == before, "drawing"
"""
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
