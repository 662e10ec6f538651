"""The pixels that image files become, and the errors of files that cannot be used."""

import contextlib
import os
import struct
import tempfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from anomaly_toolbox.datasets.decoding import read_header
from anomaly_toolbox.datasets.geometry import unsquare
from anomaly_toolbox.datasets.images import (
    Reading,
    read_image,
    read_mask,
    read_original,
)
from anomaly_toolbox.datasets.walk import BadImage, describe_unused, image_files


def saved(path, pixels, **options):
    Image.fromarray(np.asarray(pixels)).save(path, **options)
    return path


def test_pixels_are_shares_of_white(tmp_path):
    grey = saved(tmp_path / "grey.png", np.uint8([[0, 51], [102, 255]]))
    np.testing.assert_allclose(read_image(grey, 2, 1)[..., 0], [[0, 0.2], [0.4, 1]], atol=1e-7)
    assert read_image(grey, 2, 3).shape == (2, 2, 3)
    deep = saved(tmp_path / "deep.png", np.uint16([[0, 13107], [1, 65535]]))
    np.testing.assert_allclose(read_image(deep, 2, 1)[..., 0], [[0, 0.2], [1 / 65535, 1]], atol=1e-7)
    assert read_header(deep).is_deep
    colours = saved(tmp_path / "colours.bmp", np.uint8([[[255, 0, 51]]]))
    np.testing.assert_allclose(read_image(colours, 1, 3), [[[1, 0, 0.2]]], atol=1e-7)
    assert not read_header(colours).is_grey


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_every_format(tmp_path, suffix):
    path = saved(tmp_path / f"a b é.{suffix}", np.full((9, 7, 3), 204, np.uint8))
    np.testing.assert_allclose(read_image(path, 4, 3), 0.8, atol=0.01)


def test_transparent_pixels_are_white(tmp_path):
    path = saved(tmp_path / "clear.png", np.uint8([[[0, 0, 0, 0], [0, 0, 0, 255]]]))
    np.testing.assert_array_equal(read_image(path, 2, 3)[0, :, 0], [1, 0])


def test_the_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8] = 255
    path = saved(tmp_path / "turned.jpg", pixels, exif=exif, quality=100)
    image = read_image(path, 16, 1)[..., 0]
    assert image[:, 9:].min() > 0.9
    assert image[:, :7].max() < 0.1


def test_images_are_reduced_with_antialiasing(tmp_path):
    """A checkerboard becomes grey, not black or white."""
    path = saved(tmp_path / "board.png", np.uint8(255 * (np.indices((64, 64)).sum(0) % 2)))
    np.testing.assert_allclose(read_image(path, 8, 1), 0.5, atol=0.02)


def test_aspect(tmp_path):
    pixels = np.full((8, 16), 255, np.uint8)
    pixels[:, :4] = pixels[:, 12:] = 0
    path = saved(tmp_path / "wide.png", pixels)
    assert read_image(path, 8, 1, "crop").min() == 1
    padded = read_image(path, 16, 1, "pad")[..., 0]
    assert padded[:4].max() == padded[12:].max() == 0
    assert padded[5:11, 5:11].min() == 1
    stretched = read_image(path, 16, 1)[..., 0]
    np.testing.assert_array_equal(stretched[0], stretched[-1])


@pytest.mark.parametrize("aspect", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("shape", [(40, 100), (100, 40), (64, 64)])
def test_a_map_of_the_square_is_placed_on_the_image(tmp_path, aspect, shape):
    pixels = np.zeros(shape, np.uint8)
    height, width = shape
    top, left = height // 2 - 4, width // 2 + 2
    pixels[top : top + 10, left : left + 10] = 255
    square = read_image(saved(tmp_path / "spot.png", pixels), 32, 1, aspect)[..., 0]
    mapped = unsquare(square, shape, aspect)
    assert mapped.shape == shape
    expected = np.argwhere(pixels > 127).mean(axis=0)
    np.testing.assert_allclose(np.average(np.indices(shape), axis=(1, 2), weights=[mapped] * 2), expected, atol=0.75)
    assert mapped[top + 3 : top + 7, left + 3 : left + 7].min() > 0.6


def test_cropped_pixels_are_zero():
    mapped = unsquare(np.ones((8, 8)), (4, 10), "crop")
    np.testing.assert_array_equal(mapped[0], [0, 0, 0, 1, 1, 1, 1, 0, 0, 0])


def test_an_original_keeps_its_aspect_ratio(tmp_path):
    small = read_original(saved(tmp_path / "small.png", np.uint8([[0, 255, 51]])))
    assert small.shape == (85, 255, 3)
    np.testing.assert_allclose(small[40, [20, 120, 220], 1], [0, 1, 0.2], atol=1e-6)
    assert read_original(saved(tmp_path / "large.png", np.zeros((500, 2000, 3), np.uint8))).shape == (256, 1024, 3)
    deep = read_original(saved(tmp_path / "deep.png", np.full((300, 300), 13107, np.uint16)))
    np.testing.assert_allclose(deep, 0.2, atol=1e-6)


def as_negative(path):
    """Rewrites the tag of a TIFF file so that zero is white."""
    content = bytearray(path.read_bytes())
    (directory,) = struct.unpack("<I", content[4:8])
    (n_entries,) = struct.unpack("<H", content[directory : directory + 2])
    for entry in range(directory + 2, directory + 2 + 12 * n_entries, 12):
        if struct.unpack("<H", content[entry : entry + 2]) == (262,):
            content[entry + 8 : entry + 10] = struct.pack("<H", 0)
    path.write_bytes(content)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_negative_is_inverted(tmp_path, bits):
    pixels = np.arange(256).reshape(16, 16)
    white = 2**bits - 1
    scaled = pixels * (white // 255)
    path = saved(tmp_path / "negative.tif", (white - scaled).astype(f"uint{bits}"))
    as_negative(path)
    np.testing.assert_allclose(read_image(path, 16, 1)[..., 0], pixels / 255, atol=1e-6)


def test_a_white_level_for_images_of_12_bits(tmp_path):
    pixels = np.uint16([[0, 1365], [4095, 9000]])
    path = saved(tmp_path / "twelve.png", pixels)
    reading = Reading(2, 1, white_level=4095)
    np.testing.assert_allclose(reading.of_file(path)[..., 0], [[0, 1 / 3], [1, 1]], atol=1e-5)
    np.testing.assert_array_equal(reading.of_array(pixels), reading.of_file(path))
    np.testing.assert_allclose(np.unique(read_original(path, 4095)), [0, 1 / 3, 1], atol=1e-5)
    as_negative(saved(path.with_suffix(".tif"), pixels))
    np.testing.assert_allclose(reading.of_file(path.with_suffix(".tif"))[..., 0], [[1, 2 / 3], [0, 0]], atol=1e-5)
    eight = saved(tmp_path / "eight.png", np.uint8([[0, 255]]))
    assert reading.of_file(eight).max() == 1


@pytest.mark.parametrize("levels", [255, 65535])
@pytest.mark.parametrize("shape", [(16, 16), (37, 23), (5, 64)])
def test_an_image_has_the_same_pixels_in_every_type(tmp_path, levels, shape):
    """8 bits, 16 bits and floats, in files and in memory, rounded to levels of 8 or 16 bits."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    reading = Reading(16, 1, "pad", levels)
    of_bytes = reading.of_array(pixels)
    assert (
        len(np.unique(of_bytes * levels % 1)) == 1
        or np.abs(of_bytes * levels - np.round(of_bytes * levels)).max() < 0.01
    )
    deep = pixels.astype(np.uint16) * 257
    for other in (
        reading.of_array(deep),
        reading.of_array(deep[..., np.newaxis]),
        reading.of_file(saved(tmp_path / "a.png", pixels)),
        reading.of_file(saved(tmp_path / "b.tif", deep)),
        reading.of_array(pixels / 255),
        reading.of_array(pixels.astype(np.float32) / 255),
    ):
        if levels == 255:
            np.testing.assert_array_equal(other, of_bytes)
        else:  # the last digit of a float may lead to a neighbouring one of 65,535 levels
            np.testing.assert_allclose(other, of_bytes, atol=1.01 / levels)


def test_without_levels_nothing_is_rounded():
    pixels = np.uint8([[0, 255], [0, 0]])
    resized = Reading(5, 1, levels=None).of_array(pixels)
    expected = tf.image.resize(pixels[..., np.newaxis] / np.float32(255), (5, 5), antialias=True)
    np.testing.assert_allclose(resized, expected, atol=1e-6)


def test_pixels_that_are_not_black_mark_a_defect(tmp_path):
    path = saved(tmp_path / "mask.png", np.uint8([[0, 1], [255, 0]]))
    np.testing.assert_array_equal(read_mask(path, 2), [[False, True], [True, False]])


def bad_files(folder):
    """Writes files that cannot be used; returns the expected reason by file name."""
    good = saved(folder / "good.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).read_bytes()
    (folder / "truncated.png").write_bytes(good[: len(good) // 2])
    jpeg = saved(folder / "good.jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).read_bytes()
    (folder / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    saved(folder / "bomb.png", np.zeros((1, 1), np.uint8))
    header = bytearray((folder / "bomb.png").read_bytes())
    header[16:24] = (50_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (folder / "bomb.png").write_bytes(header)
    Image.new("CMYK", (8, 8)).save(folder / "cmyk.jpg")
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 100, 200)]
    frames[0].save(folder / "animated.png", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "pages.tif", save_all=True, append_images=frames[1:])
    saved(folder / "floats.tif", np.zeros((8, 8), np.float32))
    os.symlink("itself.png", folder / "itself.png")
    return {
        "truncated.png": "damaged or truncated",
        "truncated.jpg": "damaged or truncated",
        "empty.png": "is empty",
        "text.png": "is not a PNG, JPEG, BMP or TIFF image",
        "bomb.png": "more than 100,000,000",
        "cmyk.jpg": "has CMYK pixels",
        "animated.png": "animated",
        "pages.tif": "several pages",
        "floats.tif": "has F pixels",
        "itself.png": "symbolic links",
        "nowhere.png": "No such file",
    }


def test_bad_files_are_reported(tmp_path):
    for name, reason in bad_files(tmp_path).items():
        with pytest.raises(BadImage, match=f"{name}: .*{reason}"):
            read_image(tmp_path / name, 8, 3)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_of_any_kind_is_reported_in_one_line(tmp_path):
    """Pillow raises errors of many kinds for wrong bytes in a TIFF file."""
    good = saved(tmp_path / "good.tif", np.arange(64, dtype=np.uint8).reshape(8, 8)).read_bytes()
    generator = np.random.default_rng(0)
    reasons = []
    for _ in range(300):
        damaged = bytearray(good)
        for position in generator.integers(0, len(good), 3):
            damaged[position] = generator.integers(0, 256)
        (tmp_path / "damaged.tif").write_bytes(damaged)
        try:
            read_image(tmp_path / "damaged.tif", 4, 1)
        except BadImage as bad:
            reasons.append(bad.reason)
    assert len(reasons) > 50
    assert not any("\n" in reason for reason in reasons)


def test_a_transparent_grey_of_16_bits_is_white(tmp_path):
    image = Image.fromarray(np.uint16([[7, 0], [40_000, 7]]))
    image.save(tmp_path / "deep.png", transparency=7)
    if "transparency" not in Image.open(tmp_path / "deep.png").info:
        pytest.skip("this Pillow does not keep the transparent grey")
    np.testing.assert_allclose(
        read_image(tmp_path / "deep.png", 2, 1)[..., 0], [[1, 0], [40_000 / 65535, 1]], atol=1e-6
    )


@contextlib.contextmanager
def without_privileges():
    """Runs as the user nobody for a moment, because root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_files_and_folders_without_permission_are_reported():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # pytest's own temporary folders are closed to others
        path = saved(folder / "secret.png", np.zeros((8, 8), np.uint8))
        path.chmod(0)
        (folder / "closed").mkdir(mode=0)
        bad = []
        with without_privileges():
            with pytest.raises(BadImage, match=r"secret\.png: Permission denied"):
                read_image(path, 8, 1)
            assert list(image_files(folder, bad)) == [path]
        assert str(bad[0]) == f"{folder / 'closed'}: Permission denied"
        (folder / "closed").chmod(0o700)


def test_image_files_of_a_folder(tmp_path):
    for name in ("b.png", "a/c.JPG", ".hidden/d.png", "notes.txt", "more.txt", "README", "e.webp", "f.jfif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    bad, unused = [], Counter()
    names = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path, bad, unused)]
    assert names == ["a/c.JPG", "b.png", "f.jfif"]
    assert "the folder that contains it" in str(bad)
    assert "e.webp: is not supported; expected PNG, JPEG, BMP or TIFF" in str(bad)
    assert describe_unused(unused) == ".txt files (2), files without a suffix (1)"


@pytest.mark.parametrize("depth", ["", "a", "a/b"])
@pytest.mark.parametrize(
    "leftover",
    [
        ".thumbnails/1.png",
        ".ipynb_checkpoints/1-checkpoint.png",
        "._1.png",
        "@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg",
        "#recycle/1.png",
        "$RECYCLE.BIN/1.png",
        "lost+found/1.png",
        "__MACOSX/1.png",
        "System Volume Information/1.png",
        "~snapshot/1.png",
    ],
)
def test_leftovers_of_programs_are_ignored(tmp_path, depth, leftover):
    path = tmp_path / depth / leftover
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    (tmp_path / depth / "mine.png").touch()
    bad, unused = [], Counter()
    assert [path.name for path in image_files(tmp_path, bad, unused)] == ["mine.png"]
    assert not bad
    assert not unused


def test_pictures_of_the_toolbox_itself_are_ignored(tmp_path):
    (tmp_path / "logs" / "run").mkdir(parents=True)
    for name in ("1.png", "1.png.heat.png", "logs/run/hparams.json", "logs/run/where.png"):
        (tmp_path / name).touch()
    unused = Counter()
    assert [path.name for path in image_files(tmp_path, [], unused)] == ["1.png"]
    assert unused == {"heatmaps": 1, "run folders": 1}
