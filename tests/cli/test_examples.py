"""What cannot be used is named and left out, what is ambiguous is refused, and the rest reaches the model as meant."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsim_jax.cli.examples import read_examples, views_of
from repsim_jax.data import Batch
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.influence import DigitViews, ImageViews

Image = pytest.importorskip("PIL.Image")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good images, a gray one, one with an alpha channel, and what is damaged."""
    for k in range(3):
        Image.fromarray(PIXELS[k]).save(tmp_path / f"good_{k}.png")
    Image.fromarray(PIXELS[3, ..., 0]).save(tmp_path / "gray.png")
    Image.fromarray(np.concatenate([PIXELS[4], PIXELS[4, ..., :1]], 2)).save(tmp_path / "alpha.png")
    whole = (tmp_path / "good_0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.fromarray(PIXELS[5, ..., 0].astype(np.uint16) * 256).save(tmp_path / "deep.png")
    return tmp_path


def test_bad_files_are_named_and_left_out_and_the_others_are_read(folder: Path):
    found = read_examples(str(folder))
    assert found.ids == ("alpha.png", "good_0.png", "good_1.png", "good_2.png", "gray.png")
    assert set(found.skipped) == {"cut.png", "deep.png", "empty.jpg"}
    assert "8 bits" in found.skipped["deep.png"]
    assert not any("--skip-bad" in reason or str(folder) in reason for reason in found.skipped.values())
    assert np.allclose(found.x[1], PIXELS[0] / 255 - 0.5, atol=1e-6)
    assert np.allclose(found.x[0], PIXELS[4] / 255 - 0.5, atol=1e-6)
    assert np.allclose(found.x[4], PIXELS[3, ..., :1] / 255 - 0.5, atol=1e-6)
    assert np.array_equal(np.asarray(found.picture(1)), PIXELS[0])
    assert found.x.dtype == np.float32


def test_images_of_other_sizes_are_named_unless_a_size_is_given(folder: Path):
    Image.fromarray(PIXELS[0, :5]).save(folder / "flat.png")
    with pytest.raises(BadArrayError, match=r"flat\.png \(5, 9, 3\).*--size 9"):
        read_examples(str(folder))
    assert read_examples(str(folder), size=4).x.shape == (6, 4, 4, 3)
    assert read_examples(str(folder), any_size=True).x.shape == (6, 0)


def test_nothing_usable_is_an_error_that_says_why(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(BadArrayError, match=r"none of the 1 examples .* a\.png: cannot be decoded"):
        read_examples(str(tmp_path))


def test_rows_that_are_not_finite_are_left_out(tmp_path: Path):
    x = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    x[2, 3], x[4, 0] = np.nan, np.inf
    np.save(tmp_path / "x.npy", x)
    found = read_examples(str(tmp_path / "x.npy"))
    assert found.ids == ("0", "1", "3")
    assert set(found.skipped) == {"2", "4"}
    assert np.array_equal(found.x, x[[0, 1, 3]])


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (lambda x: (255 * x).astype(np.uint8), lambda x: (255 * x).astype(np.uint8) / 255 - 0.5),
        (lambda x: np.float32(255 * x), lambda x: x - 0.5),
        (lambda x: np.float32(x), lambda x: x - 0.5),
        (lambda x: np.float32(x - 0.5), lambda x: x - 0.5),
    ],
    ids=["bytes", "floats that are bytes", "from 0 to 1", "centered"],
)
def test_ranges_that_are_mixed_up_come_out_alike(tmp_path: Path, made, wanted):
    x = np.random.default_rng(2).uniform(size=(4, 6, 6))
    x[0, 0, :2] = 0, 1
    np.save(tmp_path / "x.npy", made(x))
    found = read_examples(str(tmp_path / "x.npy"))
    assert found.x.shape == (4, 6, 6, 1)
    assert np.allclose(found.x[..., 0], wanted(x), atol=1e-6)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((4, 6, 6), 60000.0, np.float32), "such as 16 bits"),
        (np.ones((4, 6), np.int64), "int64 numbers"),
    ],
)
def test_numbers_of_no_known_range_are_refused(tmp_path: Path, x: np.ndarray, message: str):
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(BadArrayError, match=message):
        read_examples(str(tmp_path / "x.npy"))


def test_text_is_refused(tmp_path: Path):
    (tmp_path / "x.txt").write_text("one\ntwo\n")
    with pytest.raises(BadArrayError, match="holds text"):
        read_examples(str(tmp_path / "x.txt"))


def test_digits_are_images_with_ids_whose_numbers_depend_on_nothing_else():
    all_, few = read_examples("digits", limit=20), read_examples("digits", limit=5)
    assert all_.x.shape == (20, 8, 8, 1)
    assert (all_.x.min(), all_.x.max()) == (-0.5, 0.5)
    assert all_.numbers()[:5] == few.numbers()
    assert len(set(all_.numbers())) == 20
    assert all_.fingerprint() != few.fingerprint() == read_examples("digits", limit=5).fingerprint()


def test_the_augmentation_suits_the_data_or_is_asked_for():
    gray, color = np.linspace(-0.5, 0.5, 128).reshape(2, 8, 8, 1), np.linspace(-1, 2, 384).reshape(2, 8, 8, 3)
    assert views_of(None, gray) == DigitViews(background=-0.5)
    assert views_of(None, color) == ImageViews(low=-1.0, high=2.0)
    assert isinstance(views_of("images", gray), ImageViews)
    with pytest.raises(BadArrayError, match="--views module:factory"):
        views_of(None, np.zeros((4, 7)))
    with pytest.raises(UnknownNameError, match="augmentation"):
        views_of("blur", gray)


def test_a_model_that_prepares_its_inputs_takes_images_of_any_size(folder: Path):
    Image.fromarray(PIXELS[0, :5]).save(folder / "flat.png")

    def prepare(raw: list[np.ndarray], ids: tuple[str, ...]) -> Any:
        return Batch(tuple(ids), np.stack([np.asarray(one, np.float32)[:4, :4] for one in raw]))

    assert read_examples(str(folder), prepare=prepare).x.shape == (6, 4, 4, 3)


def test_a_model_that_prepares_nothing_gets_images_as_numbers_and_not_as_bytes(tmp_path: Path):
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    found = read_examples(str(tmp_path), prepare=lambda raw, ids: Batch(ids, np.stack(raw)))
    assert found.x.dtype == np.float32
    assert np.allclose(found.x[0], PIXELS[0] / 255 - 0.5, atol=1e-6)
