"""Photographs become what torchvision's Resize and CenterCrop would make of them, and nothing else gets through."""

import io

import numpy as np
import pytest

from repsim_jax.errors import AlignmentError, BadArrayError
from repsim_jax.pretrained import preparation
from repsim_jax.pretrained.preparation import ImagePreparation

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (extra 'images')")
IDENTITY = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}


def photograph(width: int, height: int) -> np.ndarray:
    """Smooth colors, as photographs have them."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + y / 17), np.cos(x / 13), np.sin(y / 7)]
    return (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (300, 41), (33, 33), (20, 31)])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_one_pass_equals_resizing_all_and_cropping_then(size: tuple[int, int], resample: str):
    pixels = photograph(*size)
    prepare = ImagePreparation(24, 32, resample=resample, **IDENTITY)
    found = prepare([pixels], ["a"]).inputs[0]
    short = min(size)
    resized = [32 if side == short else int(32 * side / short) for side in size]
    left, top = (round((side - 24) / 2) for side in resized)
    whole = Image.fromarray(pixels).resize(resized, getattr(Image.Resampling, resample.upper()))
    cropped = np.asarray(whole.crop((left, top, left + 24, top + 24)), np.float32)
    assert np.abs(found - cropped).max() <= 1.001  # Pillow rounds to whole numbers between the two directions


def test_pixels_are_normalized_channel_by_channel():
    prepare = ImagePreparation(8, 8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    constant = np.full((8, 8, 3), 51, np.uint8)
    np.testing.assert_allclose(prepare([constant], ["a"]).inputs[0, 0, 0], [0.2, 0, -0.1 / 0.7], atol=1e-6)


def test_efficientnets_scale_is_the_released_one():
    prepare = ImagePreparation(1, 1, *preparation.LITE)
    values = np.arange(0, 256, 51, dtype=np.uint8)
    found = prepare([np.full((1, 1, 3), value, np.uint8) for value in values], list("abcdef")).inputs[:, 0, 0, 0]
    np.testing.assert_allclose(found, (values.astype(float) - 127) / 128, atol=1e-6)


def test_without_a_short_side_the_whole_image_is_squeezed():
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, 20:] = 200
    found = ImagePreparation(8, None, **IDENTITY)([pixels], ["a"]).inputs[0, 0, :, 0]
    assert (found[0], found[-1]) == (0, pytest.approx(200))


def test_arrays_and_images_of_every_mode_give_the_same_pixels():
    gray = photograph(30, 40)[..., 0]
    rgb = np.repeat(gray[..., None], 3, axis=-1)
    ways = [rgb, gray, Image.fromarray(rgb), Image.fromarray(gray), Image.fromarray(rgb).convert("RGBA")]
    found = ImagePreparation(16, 16, **IDENTITY)(ways, list("abcde")).inputs
    np.testing.assert_array_equal(found, np.broadcast_to(found[0], found.shape))
    assert found.dtype == np.float32


def test_an_extremely_long_image_needs_no_more_memory_than_others():
    assert ImagePreparation(24, 24)([np.zeros((1, 60_000, 3), np.uint8)], ["a"]).inputs.shape == (1, 24, 24, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (223, 225), (1000, 3)])
def test_the_crop_stays_inside_the_image(size: tuple[int, int]):
    left, top, right, bottom = ImagePreparation(224, 256).crop_box(*size)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]


def truncated() -> "Image.Image":
    file = io.BytesIO()
    Image.fromarray(photograph(200, 200)).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:-400]))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((8, 8, 3), np.float32), "expected uint8 values 0 to 255"),
        (np.zeros((3, 8, 8), np.uint8), r"got uint8 \(3, 8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"got uint8 \(0, 8, 3\)"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\)"),
        ("photo.jpg", "got str. Open files with PIL.Image.open"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_image_is_named_by_its_id(image: object, said: str):
    with pytest.raises(BadArrayError, match=f"image 'cat': .*{said}"):
        ImagePreparation(8, 8)([image], ["cat"])


def test_a_truncated_file_is_named_by_its_id():
    with pytest.raises(BadArrayError, match="image 'cat' cannot be decoded"):
        ImagePreparation(8, 8)([truncated()], ["cat"])


def test_ids_must_be_as_many_as_images():
    with pytest.raises(AlignmentError, match="got 1 ids for 0 images"):
        ImagePreparation(8, 8)([], ["a"])
