"""Hashes are imagehash's, tell contents apart and copies together, and refuse what is no image."""

import sys

import numpy as np
import pytest

from repsim_jax.errors import BadArrayError, MissingPackageError, UnknownNameError
from repsim_jax.influence.curation import byte_hashes, content_hashes, hamming_pairs, hashes, perceptual_hashes
from repsim_jax.influence.curation.hashes import same_hashes

# imagehash 4.3.2's phash and dhash (hash_size 8) of the images of ``pictures``, and phash of the colored ones
PHASH = [
    "878cc8386d63657b",
    "9863323ce3c53e3c",
    "9a1ab2c93993668f",
    "99c9c7374a0c3c9b",
    "9e6c39c3273cc833",
    "96cf4f346c6d6430",
]
DHASH = [
    "7064ccccccccc870",
    "b131f1f0f0b1b1b1",
    "b9f16d79f0e0f0fc",
    "f0d9b2f0785c6c70",
    "7ab2f0e4ece8f919",
    "60617070fc5c7870",
]
COLORED = [
    "877b48c56c9c658e",
    "989c32e3e13a3ec3",
    "9ac532be392d6638",
    "9936c7c9ca333ce0",
    "9e93393c27c2c9ac",
    "96304fc96c9e64cd",
]


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    from sklearn.datasets import load_digits

    return (np.kron(load_digits().images[:6], np.ones((5, 5))) * 15).astype(np.uint8)


def in_hex(found: hashes.PerceptualHashes) -> list[str]:
    return [bytes(row).hex() for row in found.bits]


def test_perceptual_hashes_are_those_of_imagehash(pictures):
    assert in_hex(perceptual_hashes(pictures)) == PHASH
    assert in_hex(perceptual_hashes(pictures, method="dhash")) == DHASH
    colored = [np.stack([one, one[::-1], one.T], axis=2) for one in pictures]
    assert in_hex(perceptual_hashes(colored)) == COLORED


def test_hashes_see_what_the_image_shows_and_not_how_it_is_held(pictures):
    from PIL import Image

    plain = perceptual_hashes(pictures)
    held = [
        [Image.fromarray(one) for one in pictures],
        pictures[..., None],
        pictures.astype(np.int64),
        list(pictures),
    ]
    for same in held:
        np.testing.assert_array_equal(perceptual_hashes(same).bits, plain.bits)
    stretched = perceptual_hashes(pictures / 255.0 - 0.5)
    assert np.bitwise_count(stretched.bits ^ plain.bits).sum(1).max() <= 4


def test_images_without_contrast_have_no_hash():
    blank = np.full((3, 16, 16), 200, np.uint8)
    blank[2, :8] = 0
    found = perceptual_hashes(blank)
    assert found.defined.tolist() == [False, False, True]
    assert not len(hamming_pairs(found, most=64).pairs)


def test_pairs_are_all_those_within_so_many_bits_whatever_the_blocks(monkeypatch):
    bits = np.random.default_rng(0).integers(0, 256, (90, 8), dtype=np.uint8)
    bits[60:] = bits[:30]
    bits[60:75, 0] ^= 3
    defined = np.arange(90) != 5
    given = hashes.PerceptualHashes(bits, defined, "phash")
    unpacked = np.unpackbits(bits, axis=1).astype(int)
    distances = (unpacked[:, None] != unpacked[None]).sum(2)
    for most in (0, 2, 24):
        for size in (1, 90 * 7, 2**22):
            monkeypatch.setattr(hashes, "_PAIRS_AT_ONCE", size)
            found = hamming_pairs(given, most=most)
            rows, columns = np.nonzero(np.triu((distances <= most) & defined & defined[:, None], k=1))
            np.testing.assert_array_equal(found.pairs, np.stack([rows, columns], axis=1))
            np.testing.assert_array_equal(found.distances, distances[rows, columns])


def test_contents_are_pixels_shape_and_dtype(pictures):
    from PIL import Image

    one = pictures[0]
    held = [
        one,
        Image.fromarray(one),
        np.asfortranarray(one),
        one.astype(">i4"),
        one.astype("<i4"),
        one.reshape(20, 80),
    ]
    found = content_hashes(held)
    assert found[0] == found[1] == found[2]
    assert found[3] == found[4]
    assert len(set(found)) == 3


def test_files_are_their_bytes():
    found = byte_hashes([b"one", b"two", b"one"])
    assert found[0] == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"  # sha256sum
    assert [group.tolist() for group in same_hashes(found)] == [[0, 2]]


def test_groups_stand_in_the_order_of_their_first_rows():
    found = same_hashes(["z", "b", "c", "b", "z", "b", "d"])
    assert [group.tolist() for group in found] == [[0, 4], [1, 3, 5]]
    assert same_hashes([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 4), np.uint8), "image 1 has shape"),
        (np.zeros((4, 4, 2), np.uint8), "image 1 has shape"),
        (np.zeros(4, np.uint8), "image 1 has shape"),
        (np.full((4, 4), np.nan), "image 1 holds NaN"),
    ],
)
def test_what_is_no_image_is_named(image, message: str):
    with pytest.raises(BadArrayError, match=message):
        perceptual_hashes([np.eye(4), image])


def test_other_refusals(monkeypatch):
    with pytest.raises(UnknownNameError, match="Did you mean 'phash'"):
        perceptual_hashes([], method="fash")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadArrayError, match="0 <= most <= 64 bits, got 65"):
        hamming_pairs(perceptual_hashes([np.eye(8)]), most=65)
    with pytest.raises(BadArrayError, match="image 0 is empty"):
        content_hashes([np.zeros((0, 3))])
    assert perceptual_hashes([]).bits.shape == (0, 8)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'repsim_jax\[images\]'"):
        perceptual_hashes([np.eye(8)])
