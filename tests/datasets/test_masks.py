"""Which mask belongs to an image, and which of its pixels mark a defect."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from anomaly_toolbox.datasets.images import read_marks, read_mask
from anomaly_toolbox.datasets.layout import find_items
from anomaly_toolbox.datasets.masks import MASK_ENDINGS, MaskFiles
from anomaly_toolbox.datasets.walk import BadImage
from tests.datasets.test_folder import configured, fill
from tests.datasets.test_images import as_negative

MASKS = Path("ground_truth")


def masks_of(image, *files):
    mask_files = MaskFiles(MASKS, [MASKS / file for file in files])
    return [mask.as_posix() for mask in mask_files.masks_for(Path(image), with_split=False)]


@pytest.mark.parametrize("ending", MASK_ENDINGS)
@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif"])
def test_names_of_masks(ending, suffix):
    name = f"crack/7{ending}{suffix}"
    assert masks_of("test/crack/7.jpg", name, "crack/70.png", "hole/7.png") == [f"ground_truth/{name}"]


@pytest.mark.parametrize(
    ("image", "mask", "is_found"),
    [
        ("test/crack/day1/7.png", "crack/day1/7.png", True),
        ("test/crack/day1/7.png", "test/crack/day1/7.png", True),
        ("test/crack/day1/7.png", "day1/7.png", False),
        ("test/crack/day1/7.png", "crack/7.png", False),
        ("test/crack/day1/7.png", "hole/day1/7.png", False),
        ("test/crack/7.png", "validation/crack/7.png", False),
        ("anomalous/crack/7.png", "crack/7.png", True),
        ("anomalous/7.png", "anomalous/7_mask.png", True),
        ("test/Crack/IMG_7.JPG", "crack/img_7_mask.png", True),
        ("test/crack/7.png", "crack/7/000.png", True),
        ("test/crack/7.jpg", "crack/7.jpg.png", True),
    ],
)
def test_the_folders_of_a_mask_must_fit(image, mask, is_found):
    assert bool(masks_of(image, mask)) == is_found


def test_the_unicode_form_of_a_name_does_not_matter():
    composed, decomposed = (unicodedata.normalize(form, "Größe/é") for form in ("NFC", "NFD"))
    assert masks_of(f"test/{decomposed}.png", f"{composed}_mask.png")
    assert masks_of(f"test/{composed}.png", f"{decomposed}_mask.png")


def test_letter_case_matters_if_several_masks_fit():
    assert masks_of("test/a/X.png", "a/x.png", "a/X.png") == ["ground_truth/a/X.png"]
    assert len(masks_of("test/a/x.png", "A/x.png", "a/X.png")) == 2


def test_training_images_need_masks_in_a_folder_of_their_split():
    files = MaskFiles(MASKS, [MASKS / "good/7.png", MASKS / "train/good/8.png"])
    assert not files.masks_for(Path("train/good/7.png"), with_split=True)
    assert files.masks_for(Path("train/good/8.png"), with_split=True)


def masked_images_and_problems(tmp_path, *masks):
    """Writes images and these masks; returns the images with a mask, and the problems."""
    fill(tmp_path, train__good=4, validation__good=2, validation__crack=2, test__good=2, test__crack=2)
    for mask in masks:
        (tmp_path / mask).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(255 * np.eye(12))).save(tmp_path / mask)
    items, bad = find_items(tmp_path, 0, False)
    masked = {item.path.relative_to(tmp_path).as_posix() for item in items if item.mask}
    return masked, [str(problem).replace(f"{tmp_path}/", "") for problem in bad]


def test_a_mask_that_fits_two_images_is_an_error(tmp_path):
    masked, bad = masked_images_and_problems(tmp_path, "ground_truth/crack/0.png", "ground_truth/test/crack/1.png")
    assert masked == {"test/crack/1.png"}
    assert bad == [
        "ground_truth/crack/0.png: is the mask of two images, test/crack/0.png and validation/crack/0.png; put their "
        "masks into ground_truth/test/crack and ground_truth/validation/crack"
    ]


def test_inverted_masks_are_noted(tmp_path):
    fill(tmp_path, train__good=4, test__good=2, test__crack=4, ground_truth__crack=0)
    for number in range(4):
        pixels = np.full((12, 12), 255, np.uint8)
        pixels[3:6, 3:6] = 0
        Image.fromarray(pixels).save(tmp_path / "ground_truth" / "crack" / f"{number}.png")
    assert "2 of 2 masks mark more than half of the image" in "".join(configured(tmp_path).notes)


def test_two_masks_of_one_image_are_an_error(tmp_path):
    masked, bad = masked_images_and_problems(
        tmp_path, "ground_truth/test/crack/0.png", "ground_truth/test/crack/0_mask.png"
    )
    assert not masked
    assert "test/crack/0.png: has several masks, ground_truth/test/crack/0.png and" in bad[0]


def test_the_error_for_a_mask_without_an_image_names_the_accepted_paths(tmp_path):
    _, bad = masked_images_and_problems(tmp_path, "ground_truth/crack/0_segmentation.png")
    assert bad == [
        "ground_truth/crack/0_segmentation.png: is a mask without an image; the mask of test/crack/7.png must be "
        "called ground_truth/crack/7_mask.png, 7.png, 7_gt.png, 7_ground_truth.png, 7_groundtruth.png, 7_label.png, "
        "7_seg.png, 7-mask.png, or be in a folder 7"
    ]


@pytest.mark.parametrize("skip", [True, False])
def test_only_a_bad_mask_is_left_out_and_not_its_image(tmp_path, skip):
    """A normal image may have a black mask, but no mask with a mark; an anomalous image needs a mark."""
    fill(tmp_path, train__good=4, test__good=4, test__crack=4, ground_truth__good=0, ground_truth__crack=0)
    black, marks = np.zeros((12, 12), np.uint8), np.full((12, 12), 255, np.uint8)
    for number in range(4):
        Image.fromarray(black).save(tmp_path / "ground_truth" / "good" / f"{number}.png")
        Image.fromarray(marks).save(tmp_path / "ground_truth" / "crack" / f"{number}.png")
    assert configured(tmp_path).test_masks.any(axis=(1, 2)).sum() == 2
    Image.fromarray(marks).save(tmp_path / "ground_truth" / "good" / "1.png")
    Image.fromarray(black).save(tmp_path / "ground_truth" / "crack" / "1.png")
    Image.fromarray(marks[:5]).save(tmp_path / "ground_truth" / "crack" / "2.png")
    if skip:
        dataset = configured(tmp_path, on_bad_image="skip")
        assert sum(1 for _ in dataset.train.unbatch()) == 4
        assert sum(1 for _ in dataset.test.concatenate(dataset.validation).unbatch()) == 8
        notes = "\n".join(dataset.notes)
        assert "good/1.png: marks a defect, but its image" in notes
        assert "crack/1.png: marks nothing, but its image" in notes
        assert "crack/2.png: has 12 x 5 pixels, its image 12 x 12" in notes
    else:
        with pytest.raises(Exception, match=r"\.png: (marks|has 12 x 5).*repair or remove the file"):
            configured(tmp_path)


DEFECT = np.zeros((64, 64), bool)
DEFECT[20:33, 14:31] = DEFECT[45:48, 40:60] = True


def marks(tmp_path, image, suffix=".png", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(tmp_path / f"mask{suffix}", **options)
    return read_marks(tmp_path / f"mask{suffix}")


def layer(colour, opacity):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = opacity
    return pixels


@pytest.mark.parametrize("colour", [(1, 0, 0), (0, 1, 0), (0, 0, 4), (1, 1, 1), (255, 255, 255), (0, 0, 90)])
def test_any_colour_except_black_marks_a_defect(tmp_path, colour):
    coloured = (DEFECT[..., np.newaxis] * np.array(colour)).astype(np.uint8)
    np.testing.assert_array_equal(marks(tmp_path, coloured), DEFECT)
    np.testing.assert_array_equal(marks(tmp_path, layer(colour, 255 * DEFECT)), DEFECT)
    in_palette = Image.fromarray(DEFECT.astype(np.uint8)).convert("P")
    in_palette.putpalette([0, 0, 0, *colour])
    np.testing.assert_array_equal(marks(tmp_path, in_palette), DEFECT)


def test_other_types_of_pixels(tmp_path):
    np.testing.assert_array_equal(marks(tmp_path, DEFECT), DEFECT)  # one bit a pixel
    np.testing.assert_array_equal(marks(tmp_path, DEFECT.astype(np.uint16), ".tif"), DEFECT)
    np.testing.assert_array_equal(marks(tmp_path, layer(0, 255 * DEFECT)), DEFECT)  # black on a transparent layer
    assert not marks(tmp_path, layer(255, 0 * DEFECT)).any()
    assert not marks(tmp_path, layer(0, 255)).any()


def test_a_negative_of_16_bits_is_inverted(tmp_path):
    Image.fromarray(np.where(DEFECT, np.uint16(0), np.uint16(65535))).save(tmp_path / "mask.tif")
    as_negative(tmp_path / "mask.tif")
    np.testing.assert_array_equal(read_marks(tmp_path / "mask.tif"), DEFECT)


def test_every_label_marks_a_defect(tmp_path):
    labels = np.zeros((64, 64), np.uint8)
    labels[10:20, 10:20], labels[20:30, 10:20], labels[40:42, 5:60] = 1, 2, 3
    np.testing.assert_array_equal(marks(tmp_path, labels), labels > 0)
    labels[42:60, 10:20], labels[10:20, 20:25] = 255, 100
    np.testing.assert_array_equal(marks(tmp_path, labels), labels > 0)
    many = np.kron(np.arange(64).reshape(8, 8), np.pad(np.ones((6, 6)), 1)).astype(np.uint8)
    np.testing.assert_array_equal(marks(tmp_path, many), many > 0)


@pytest.mark.parametrize("radius", [0.5, 1, 2])
def test_soft_edges_preserve_the_area(tmp_path, radius):
    block = np.zeros((64, 64), bool)
    block[20:40, 14:41] = True
    soft = Image.fromarray(np.uint8(255 * block)).filter(ImageFilter.GaussianBlur(radius))
    assert (np.asarray(soft) > 0).sum() > 1.15 * block.sum()
    assert marks(tmp_path, soft).sum() == pytest.approx(block.sum(), rel=0.03)
    assert marks(tmp_path, layer(0, np.asarray(soft))).sum() == pytest.approx(block.sum(), rel=0.03)


def test_a_reduced_mask_preserves_the_area(tmp_path):
    fine = np.roll(np.kron(DEFECT, np.ones((4, 4), np.uint8)), (1, 2), (0, 1))
    reduced = Image.fromarray(255 * fine).resize((64, 64), Image.Resampling.BOX)
    assert marks(tmp_path, reduced).sum() == pytest.approx(DEFECT.sum(), rel=0.05)


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_the_noise_of_jpeg_marks_nothing(tmp_path, quality):
    noisy = Image.fromarray(np.uint8(255 * DEFECT))
    np.testing.assert_array_equal(marks(tmp_path, noisy, ".jpg", quality=quality), DEFECT)
    assert (np.asarray(Image.open(tmp_path / "mask.jpg")) > 0).sum() > 1.2 * DEFECT.sum()


def test_all_masks_in_a_folder_count(tmp_path):
    for number, rows in enumerate((slice(2, 4), slice(5, 6))):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[rows] = 250 + number
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    assert read_mask(tmp_path, 8).all(axis=1).tolist() == [False, False, True, True, False, True, False, False]


def test_a_folder_without_masks_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BadImage, match="holds no mask"):
        read_marks(tmp_path)
