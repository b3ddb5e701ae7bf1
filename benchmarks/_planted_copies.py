"""Collections of images into which copies are planted: the same pixels, re-encoded, cropped, shifted in color."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

KINDS = ("exact", "reencoded", "cropped", "color_shifted")
# Share of each side that a cropped copy keeps; it is resized back.
CROP = 0.9
QUALITIES = (40, 90)
GAINS, OFFSETS = (0.8, 1.2), (-20, 20)


class Planted(NamedTuple):
    """A collection with copies.

    Attributes:
        images: uint8 arrays (h, w, 3), originals and copies shuffled.
        sources: For each image the number of its original in the data.
        pairs: (k, 2) rows of originals and their copies, the lower first.
        kinds: (k,) of the copies.
    """

    images: list[np.ndarray]
    sources: np.ndarray
    pairs: np.ndarray
    kinds: np.ndarray


def cifar10(data: Path, count: int) -> list[np.ndarray]:
    """The first training images, exact pixels.

    Args:
        data: Folder of the real data.
        count: How many, at most 4,000.

    Returns:
        (32, 32, 3) arrays.
    """
    from PIL import Image

    with np.load(data / "cifar10_train_first4000_lossless.npz") as held:
        pixels = np.asarray(Image.open(io.BytesIO(held["png"].tobytes())).convert("RGB"))
    return list(pixels.reshape(-1, 32, 32, 3)[:count])


def caltech101(data: Path, count: int) -> list[np.ndarray]:
    """Images of 70 classes, of many sizes; the first of all classes come first.

    Args:
        data: Folder of the real data.
        count: How many, at most 2,100.

    Returns:
        (h, w, 3) arrays.
    """
    import pyarrow.parquet
    from PIL import Image

    table = pyarrow.parquet.read_table(data / "caltech101_70classes_128.parquet", columns=["jpeg"])
    encoded = table["jpeg"].to_pylist()
    step = np.arange(len(encoded)).reshape(70, -1).T.ravel()[:count]
    return [np.asarray(Image.open(io.BytesIO(encoded[row])).convert("RGB")) for row in step]


def copy_of(image: np.ndarray, kind: str, generator: np.random.Generator) -> np.ndarray:
    """A copy.

    Args:
        image: (h, w, 3) uint8.
        kind: One of ``KINDS``.
        generator: Draws qualities, places and colors.

    Returns:
        An image of the same size.
    """
    from PIL import Image

    picture = Image.fromarray(image)
    width, height = picture.size
    if kind == "reencoded":
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=int(generator.integers(*QUALITIES)))
        return np.asarray(Image.open(buffer))
    if kind == "cropped":
        left, top = generator.uniform(0, 1 - CROP, 2) * picture.size
        box = (left, top, left + CROP * width, top + CROP * height)
        return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box))
    if kind == "color_shifted":
        shifted = image * generator.uniform(*GAINS, 3) + generator.uniform(*OFFSETS, 3)
        return np.clip(np.rint(shifted), 0, 255).astype(np.uint8)
    return image.copy()


def plant(images: list[np.ndarray], each: int, seed: int) -> Planted:
    """Adds copies of some images, no image twice.

    Args:
        images: The originals.
        each: Copies of each kind.
        seed: Of choices, edits and order.

    Returns:
        The collection.
    """
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(images), each * len(KINDS), replace=False)
    kinds = np.repeat(KINDS, each)
    copies = [copy_of(images[row], kind, generator) for row, kind in zip(chosen, kinds, strict=True)]
    order = generator.permutation(len(images) + len(copies))
    place = np.argsort(order)
    together = [*images, *copies]
    pairs = np.sort(np.stack([place[chosen], place[len(images) + np.arange(len(copies))]], axis=1), axis=1)
    sources = np.concatenate([np.arange(len(images)), chosen])[order]
    return Planted([together[row] for row in order], sources, pairs, kinds)
