"""PCA, a kernel or a network on digits, MNIST and CIFAR-10? ``theory.advise`` with noisy and with image views.

MNIST is lossless; CIFAR-10 is the JPEG copy (lossy, quality 75), halved to 16 x 16 pixels. Run from a clean checkout:

    python benchmarks/theory_advise.py --data DIR
"""

import argparse
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from _record import record

from repsim_jax.data import open_source
from repsim_jax.report.advice import advice_to_json
from repsim_jax.theory import Recipe, advise

_READ = 6000
_SEED = 0


def main() -> None:
    """Runs all settings and writes ``results/theory_advise.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Folder with mnist.npz and cifar10_jpeg.parquet.")
    parser.add_argument("--seeds", type=int, default=8, help="Random splits of each setting, at least 3.")
    parser.add_argument("--train", type=int, default=2000, help="Training examples of a split; digits have 1,198.")
    parser.add_argument("--test", type=int, default=1000, help="Test examples of a split; digits have 599.")
    given = parser.parse_args()
    found = {}
    for name, (x, labels, views) in _settings(given.data):
        start = time.perf_counter()
        advice = advise(
            jax.random.key(_SEED), x, labels=labels, views=views, num_train=given.train, num_test=given.test,
            num_seeds=given.seeds, recipe=Recipe(),
        )  # fmt: skip
        document = advice_to_json(advice)
        found[name] = {key: value for key, value in document.items() if key not in ("schema", "provenance")}
        found[name]["wall_seconds"] = time.perf_counter() - start
        print(f"{name}: {advice.reason}", flush=True)
    record("theory_advise", {"settings": found}, seeds=[_SEED], packages=("diffrax", "scikit-learn"))


Setting = tuple[np.ndarray, np.ndarray, Callable[[jax.Array, np.ndarray], np.ndarray] | None]


def _settings(data: Path) -> Iterator[tuple[str, Setting]]:
    digits = open_source("digits")
    assert digits.labels is not None
    pixels = np.stack([digits.get(i) for i in range(len(digits))]).reshape(-1, 8, 8)
    yield "digits, noisy views", (pixels, digits.labels, None)
    yield "digits, shifted by 1", (pixels, digits.labels, _shifts(1))
    with np.load(data / "mnist.npz") as file:
        rows = np.random.default_rng(_SEED).permutation(len(file["x_train"]))[:_READ]
        x, labels = file["x_train"][rows] / 255.0, file["y_train"][rows]
    yield "MNIST, noisy views", (x, labels, None)
    yield "MNIST, shifted by up to 3", (x, labels, _shifts(3))
    x, labels = _cifar(data / "cifar10_jpeg.parquet")
    yield "CIFAR-10 at 16 x 16, noisy views", (x, labels, None)
    yield "CIFAR-10 at 16 x 16, flipped and shifted by up to 2", (x, labels, _flips_and_shifts)


def _cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import pyarrow.parquet
    from PIL import Image

    table = pyarrow.parquet.read_table(path, columns=["split", "label", "jpeg"])
    train = np.flatnonzero(np.asarray(table["split"].to_pylist()) == "train")
    rows = np.random.default_rng(_SEED).permutation(train)[:_READ]
    taken = table.take(rows)
    images = [np.asarray(Image.open(io.BytesIO(one))) for one in taken["jpeg"].to_pylist()]
    halves = np.stack(images).reshape(-1, 16, 2, 16, 2, 3).mean((2, 4)) / 255.0
    return halves, np.asarray(taken["label"].to_pylist())


def _shifts(most: int) -> Callable[[jax.Array, np.ndarray], np.ndarray]:
    """Views moved by whole pixels, what comes in at the edge repeating it."""

    def views(key: jax.Array, images: np.ndarray) -> np.ndarray:
        offsets = np.asarray(jax.random.randint(key, (len(images), 2), 0, 2 * most + 1))
        padding = [(0, 0), (most, most), (most, most), *[(0, 0)] * (images.ndim - 3)]
        wide, (h, w) = np.pad(images, padding, mode="edge"), images.shape[1:3]
        return np.stack([one[i : i + h, j : j + w] for one, (i, j) in zip(wide, offsets, strict=True)])

    return views


def _flips_and_shifts(key: jax.Array, images: np.ndarray) -> np.ndarray:
    key_flip, key_shift = jax.random.split(key)
    flipped = np.asarray(jax.random.bernoulli(key_flip, shape=(len(images),)))
    return _shifts(2)(key_shift, np.where(flipped[:, None, None, None], images[:, :, ::-1], images))


if __name__ == "__main__":
    main()
