"""Which images are the same pixels, and which look the same? Hashes of contents, perceptual hashes, and pairs of them.

Perceptual hashes as the imagehash package computes them: Zauner 2010, "Implementation and Benchmarking of Perceptual
Image Hash Functions" (pHash); Krawetz 2013, "Kind of Like That" (dHash).
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from repsim_jax.errors import BadArrayError, MissingPackageError, UnknownNameError

if TYPE_CHECKING:
    from PIL.Image import Image

# Side of the hash: 8 x 8 = 64 bits, as everyone has them.
_SIDE = 8
# Side of the small image whose lowest frequencies pHash keeps.
_SMALL = 32
# Hashes that are compared with all others at once: 2^22 distances are held.
_PAIRS_AT_ONCE = 2**22
# An image whose gray values span less than this, of 255, shows nothing that a hash could tell.
_LEAST_CONTRAST = 2


class PerceptualHashes(NamedTuple):
    """Hashes of what images look like.

    Attributes:
        bits: (n, 8), 64 bits each.
        defined: (n,); False for images without contrast, whose hash would be rounding.
        method: "phash" or "dhash".
    """

    bits: UInt8[np.ndarray, "n 8"]
    defined: Bool[np.ndarray, " n"]
    method: str


def content_hashes(images: Iterable[Any]) -> np.ndarray:
    """Hashes the pixels of images, so that files which decode to the same pixels have the same hash.

    Args:
        images: Arrays (h, w) or (h, w, c) of any dtype, or PIL images.

    Returns:
        (n,) of sha256 in hexadecimal, over dtype, shape and values.

    Raises:
        BadArrayError: If one is empty.
    """
    return np.asarray([_content_hash(np.asarray(image), row) for row, image in enumerate(images)], dtype="<U64")


def _content_hash(image: np.ndarray, row: int) -> str:
    if image.size == 0:
        raise BadArrayError(f"content_hashes: image {row} is empty, of shape {image.shape}. Leave it out.")
    digest = hashlib.sha256(f"{image.dtype.newbyteorder('<').str} {image.shape}".encode())
    digest.update(image.astype(image.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def byte_hashes(files: Iterable[bytes]) -> np.ndarray:
    """Hashes files as they are: cheap, but the same picture written twice may differ.

    Args:
        files: Bytes of each file.

    Returns:
        (n,) of sha256 in hexadecimal.
    """
    return np.asarray([hashlib.sha256(data).hexdigest() for data in files], dtype="<U64")


def perceptual_hashes(images: Iterable[Any], *, method: Literal["phash", "dhash"] = "phash") -> PerceptualHashes:
    r"""Hashes what images look like: 64 bits of which near copies differ in few.

    pHash asks which of the 8 x 8 lowest cosine frequencies of the gray image are above their median; dHash, where
    brightness rises from left to right. Integer images are 0 to 255; others are stretched from their own smallest to
    their own largest value, so that a hash never depends on other images.

    Args:
        images: Arrays (h, w), (h, w, 1) or (h, w, 3), or PIL images; sizes may differ.
        method: "phash" or "dhash".

    Returns:
        The hashes.

    Raises:
        BadArrayError: If an image is of another shape, empty or not finite; it is named by its row.
        UnknownNameError: If there is no such method.
        MissingPackageError: If Pillow is not installed.

    Source:
        imagehash's ``phash`` and ``dhash``, whose bits these are.

    Differs:
        Images without contrast are marked as undefined; elsewhere they are copies of all that is dark or smooth.
    """
    if method not in ("phash", "dhash"):
        raise UnknownNameError.of("perceptual hash", str(method), ("phash", "dhash"))
    size = (_SMALL, _SMALL) if method == "phash" else (_SIDE + 1, _SIDE)
    small = [_small_gray(image, row, size) for row, image in enumerate(images)]
    if not small:
        return PerceptualHashes(np.zeros((0, _SIDE), np.uint8), np.zeros(0, bool), method)
    gray = np.stack(small).astype(np.float64)
    bits = _lowest_frequencies(gray) if method == "phash" else gray[:, :, 1:] > gray[:, :, :-1]
    spans = gray.max((1, 2)) - gray.min((1, 2))
    return PerceptualHashes(
        np.packbits(bits.reshape(len(gray), _SIDE * _SIDE), axis=1), spans >= _LEAST_CONTRAST, method
    )


def _lowest_frequencies(gray: np.ndarray) -> np.ndarray:
    from scipy.fft import dct

    low = np.asarray(dct(dct(gray, axis=1), axis=2))[:, :_SIDE, :_SIDE]
    return low > np.median(low, axis=(1, 2), keepdims=True)


def _small_gray(image: Any, row: int, size: tuple[int, int]) -> np.ndarray:
    picture = gray_picture(image, row)
    from PIL.Image import Resampling

    return np.asarray(picture.resize(size, Resampling.LANCZOS))


def gray_picture(image: Any, row: int) -> "Image":
    """Makes a gray PIL image of what a user may hold.

    Args:
        image: As in ``perceptual_hashes``.
        row: For messages.

    Returns:
        The image, of mode "L".

    Raises:
        BadArrayError: If it has another shape, is empty or not finite.
        MissingPackageError: If Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingPackageError.of("pillow", "to make images small", "images") from None
    picture = image if isinstance(image, Image.Image) else Image.fromarray(_bytes_of(np.asarray(image), row))
    return picture.convert("L")


def _bytes_of(image: np.ndarray, row: int) -> np.ndarray:
    """An image in uint8, (h, w) or (h, w, 3)."""
    image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    if image.size == 0 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise BadArrayError(f"images are (h, w), (h, w, 1) or (h, w, 3): image {row} has shape {image.shape}.")
    if image.dtype == np.uint8:
        return image
    if np.issubdtype(image.dtype, np.integer) and image.min() >= 0 and image.max() <= 255:
        return image.astype(np.uint8)
    image = image.astype(np.float64)
    if not np.isfinite(image).all():
        raise BadArrayError(f"image {row} holds NaN or infinity.")
    span = image.max() - image.min()
    return np.rint((image - image.min()) * (255 / span if span > 0 else 0)).astype(np.uint8)


class HashPairs(NamedTuple):
    """Pairs of images whose hashes differ in few bits.

    Attributes:
        pairs: (k, 2), the lower row first.
        distances: (k,) differing bits.
    """

    pairs: Int[np.ndarray, "k 2"]
    distances: Int[np.ndarray, " k"]


def hamming_pairs(hashes: PerceptualHashes, *, most: int) -> HashPairs:
    """All pairs whose hashes differ in at most so many bits; every pair is looked at, block by block.

    Args:
        hashes: From ``perceptual_hashes``; undefined ones are in no pair.
        most: Differing bits, from 0 to 64.

    Returns:
        The pairs, in order of rows.

    Raises:
        BadArrayError: If ``most`` is out of range.
    """
    if not 0 <= most <= 8 * hashes.bits.shape[1]:
        raise BadArrayError(f"hamming_pairs needs 0 <= most <= {8 * hashes.bits.shape[1]} bits, got {most}.")
    rows = np.flatnonzero(hashes.defined)
    words = np.ascontiguousarray(hashes.bits[rows]).view(np.uint64)[:, 0]
    found, distances = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    size = max(1, _PAIRS_AT_ONCE // max(1, len(rows)))
    for start in range(0, len(rows), size):
        differing = np.bitwise_count(words[start : start + size, None] ^ words[None, start:])
        i, j = np.nonzero(np.triu(differing <= most, k=1))
        found.append(np.stack([rows[start + i], rows[start + j]], axis=1))
        distances.append(differing[i, j].astype(np.int64))
    return HashPairs(np.concatenate(found), np.concatenate(distances))


def same_hashes(hashes: Sequence[Any] | np.ndarray) -> list[np.ndarray]:
    """Groups of two or more rows that have one hash.

    Args:
        hashes: (n,) of anything that can be sorted; from ``content_hashes`` or ``byte_hashes``.

    Returns:
        Rows of each group, ascending; groups in the order of their first rows.
    """
    values = np.asarray(hashes)
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(which, kind="stable")
    groups = np.split(order, np.cumsum(counts)[:-1])
    return sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0]))
