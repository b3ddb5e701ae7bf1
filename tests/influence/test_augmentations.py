"""Views do what they say: shifts are shifts, crops are windows, and colors turn about the grays."""

import colorsys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax.errors import BadArrayError
from repsim_jax.influence import DigitViews, ImageViews
from repsim_jax.influence.augmentations import _brightness, _cropped, _Drawn, _hue_turned, _rotated

KEYS = jax.random.split(jax.random.key(0), 64)
STILL: dict[str, Any] = {"area": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "gray": 0.0}
IMAGE = jnp.asarray(np.random.default_rng(0).uniform(-0.5, 0.5, size=(8, 8, 3)), jnp.float32)


def drawn(**numbers: float) -> _Drawn:
    return _Drawn(**{name: jnp.asarray(numbers.get(name, 0.5)) for name in _Drawn._fields})


def test_a_digit_is_shifted_by_every_step_and_no_other():
    digit = np.random.default_rng(1).uniform(size=(8, 8)).astype(np.float32)
    padded = np.pad(digit, 1, constant_values=-0.5)
    possible = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    view = DigitViews(contrast=0.0, noise=0.0)
    views = np.asarray(jax.vmap(view, (0, None))(KEYS, jnp.asarray(digit)))
    seen = {number for one in views for number, shifted in enumerate(possible) if np.allclose(one, shifted)}
    assert seen == set(range(9))
    assert all(any(np.allclose(one, shifted) for shifted in possible) for one in views)


def test_flat_square_and_layered_digits_have_the_same_views():
    digit = jnp.asarray(np.random.default_rng(1).uniform(size=64), jnp.float32)
    view = DigitViews(noise=0.0)
    flat = view(KEYS[0], digit)
    np.testing.assert_array_equal(view(KEYS[0], digit.reshape(8, 8)).ravel(), flat)
    np.testing.assert_array_equal(view(KEYS[0], digit.reshape(8, 8, 1)).ravel(), flat)
    with pytest.raises(BadArrayError, match="square"):
        view(KEYS[0], digit[:63])


def test_noise_and_contrast_have_their_spread():
    views = np.asarray(jax.vmap(DigitViews(shift=0, contrast=0.5), (0, None))(KEYS, jnp.ones((32, 32))))
    assert abs((views - views.mean((1, 2), keepdims=True)).std() - 0.1) < 0.005
    factors = views.mean((1, 2))
    assert factors.min() > 0.49
    assert factors.max() < 1.51
    assert 0.2 < factors.std() < 0.4


def test_an_image_that_nothing_happens_to_stays_as_it_is():
    views = jax.vmap(ImageViews(**STILL), (0, None))(KEYS[:4], IMAGE)
    # the aspect ratio of a crop of the whole is still drawn, and cut off at the border
    square = _cropped(drawn(), IMAGE + 0.5, (1.0, 1.0)) - 0.5
    np.testing.assert_allclose(square, IMAGE, atol=1e-5)
    assert views.shape == (4, 8, 8, 3)


def test_a_crop_of_a_ramp_is_the_ramp_of_its_window():
    """Linear resampling keeps a ramp, so that its values tell where the window was."""
    ramp = jnp.broadcast_to((jnp.arange(32.0) + 0.5)[None, :, None], (32, 32, 1))
    crop = _cropped(drawn(column=1.0), ramp, (0.25, 0.25))[16, :, 0]
    np.testing.assert_allclose(crop[2:-2], 16 + (np.arange(32) + 0.5)[2:-2] / 2, atol=1e-3)
    rows = _cropped(drawn(row=0.0), ramp.transpose(1, 0, 2), (0.25, 0.25))[:, 16, 0]
    np.testing.assert_allclose(rows[2:-2], (np.arange(32) + 0.5)[2:-2] / 2, atol=1e-3)


def test_half_of_the_images_are_mirrored():
    views = np.asarray(jax.vmap(ImageViews(**{**STILL, "flip": 0.5}), (0, None))(KEYS, IMAGE))
    plain = np.asarray(jax.vmap(ImageViews(**STILL), (0, None))(KEYS, IMAGE))
    mirrored = [np.allclose(a, b[:, ::-1], atol=1e-5) for a, b in zip(views, plain, strict=True)]
    kept = [np.allclose(a, b, atol=1e-5) for a, b in zip(views, plain, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 16 < sum(mirrored) < 48


def test_hues_turn_about_grays_and_keep_brightness():
    image = jnp.asarray(np.random.default_rng(2).uniform(0.3, 0.7, size=(4, 4, 3)))
    turned = image @ _hue_turned(jnp.asarray(0.7))
    np.testing.assert_allclose(_brightness(turned), _brightness(image), atol=1e-5)
    gray = jnp.full((1, 1, 3), 0.4)
    np.testing.assert_allclose(gray @ _hue_turned(jnp.asarray(1.3)), gray, atol=1e-3)
    np.testing.assert_allclose(turned @ _hue_turned(jnp.asarray(-0.7)), image, atol=1e-5)
    red = jnp.asarray([0.6, 0.4, 0.4])
    hue = colorsys.rgb_to_hsv(*map(float, red @ _hue_turned(jnp.asarray(2 * np.pi / 3))))[0]
    assert min(abs(hue - 1 / 3), abs(hue - 2 / 3)) < 0.08  # a third of a turn makes red green or blue


def test_colors_stay_in_range_and_gray_images_have_equal_channels():
    views = np.asarray(jax.vmap(ImageViews(), (0, None))(KEYS, IMAGE))
    assert views.min() >= -0.5 - 1e-5
    assert views.max() <= 0.5 + 1e-5
    gray = np.asarray(jax.vmap(ImageViews(gray=1.0), (0, None))(KEYS[:4], IMAGE))
    np.testing.assert_allclose(gray[..., 0], gray[..., 1], atol=1e-5)
    assert jax.vmap(ImageViews(), (0, None))(KEYS[:2], IMAGE[..., :1]).shape == (2, 8, 8, 1)


def test_a_quarter_turn_is_numpys():
    turned = _rotated(IMAGE, jnp.asarray(np.pi / 2))
    expected = [np.rot90(np.asarray(IMAGE), times) for times in (1, 3)]
    assert min(np.abs(turned - one).max() for one in expected) < 1e-4


def test_a_hole_is_gray_and_of_its_size():
    view = ImageViews(**STILL, hole=0.5)
    plain = ImageViews(**STILL)
    sizes = []
    for key in KEYS[:8]:
        changed = np.abs(np.asarray(view(key, IMAGE)) - np.asarray(plain(key, IMAGE))).max(-1) > 0
        sizes.append(changed.sum())
        np.testing.assert_allclose(np.asarray(view(key, IMAGE))[changed], 0.0, atol=1e-6)
    assert min(sizes) > 0
    assert max(sizes) <= 16


def test_other_arrays_are_refused():
    with pytest.raises(BadArrayError, match="1 or 3 channels"):
        ImageViews()(KEYS[0], jnp.zeros((8, 8, 4)))
