"""Are rare and broken images found without labels? python benchmarks/influence_rare.py --data FOLDER --work FOLDER.

Among images of CIFAR-10 are planted atypical ones (checkerboards, MNIST digits in color) and corrupted ones (noise,
half black, JPEG data with bytes changed). A small network learns them all by SimCLR; self-influence in both modes,
stability, the training loss, density of the representation, statistics of pixels, and the combined score are judged by
AUROC: the probability that a planted image scores higher than another. 0.5 is chance; below it the score points the
wrong way.

Writes benchmarks/results/influence_rare.json.
"""

import argparse
import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _influence_encoders import BATCH_SIZE, FILE, NETWORK, NUM_VIEWS, RECIPE, auroc, cifar10, scored
from _record import record

from repsim_jax.influence import curation

KINDS = {"atypical": ("checkerboard", "mnist"), "corrupted": ("noise", "half_black", "jpeg_damage")}


def planted(draws: np.random.Generator, kind: str, image: np.ndarray, digit: np.ndarray) -> np.ndarray:
    """One rare or broken image.

    Args:
        draws: Random numbers.
        kind: Which.
        image: (32, 32, 3) in [0, 1], of CIFAR-10.
        digit: (28, 28) in [0, 1], of MNIST.

    Returns:
        (32, 32, 3) in [0, 1].
    """
    colors = draws.uniform(size=(2, 3))
    if kind == "checkerboard":
        size = draws.integers(2, 9)
        places = np.arange(32) // size
        return np.where(((places[:, None] + places[None, :]) % 2)[..., None] > 0, colors[0], colors[1])
    if kind == "mnist":
        ink = np.pad(digit, 2)[..., None]
        return ink * colors[0] + (1 - ink) * colors[1]
    if kind == "noise":
        return draws.uniform(size=(32, 32, 3))
    if kind == "half_black":
        changed = image.copy()
        changed[16:] = 0
        return changed if draws.uniform() < 0.5 else changed[::-1]
    return jpeg_damage(draws, image)


def jpeg_damage(draws: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A JPEG file of the image with bytes of its data changed, as far as it can be decoded.

    Args:
        draws: Random numbers.
        image: (32, 32, 3) in [0, 1].

    Returns:
        Of the same shape; it differs from the image by a tenth of the range on average, or another draw is taken.
    """
    from PIL import Image, UnidentifiedImageError

    file = io.BytesIO()
    Image.fromarray((image * 255).astype(np.uint8)).save(file, "JPEG", quality=75)
    whole = np.frombuffer(file.getvalue(), np.uint8)
    while True:
        data = whole.copy()
        # the first bytes are headers, without which nothing is decoded
        data[draws.integers(625, len(data) - 2, 6)] = draws.integers(0, 255, 6)
        try:
            changed = np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB")) / 255
        except (OSError, UnidentifiedImageError, SyntaxError):
            continue
        if changed.shape == image.shape and np.abs(changed - image).mean() > 0.1:
            return changed


def one_seed(seed: int, settings: argparse.Namespace) -> dict[str, Any]:
    """AUROC of every score for every kind.

    Args:
        seed: Draws images, what is planted, and the training.
        settings: From the command line.

    Returns:
        By kind and score, with facts of the training.
    """
    draws = np.random.default_rng(seed)
    x, _ = cifar10(settings.data)
    with np.load(settings.data / "mnist.npz") as file:
        digits = file["x_train"][draws.integers(0, 60_000, settings.planted)] / 255
    rows = draws.permutation(len(x))
    kinds = [kind for group in KINDS.values() for kind in group]
    count = settings.n + settings.planted * len(kinds)
    images, names = x[rows[:count]].copy(), np.array(["clean"] * count, dtype="<U16")
    for number, kind in enumerate(kinds):
        for i in range(settings.planted):
            place = settings.n + number * settings.planted + i
            images[place], names[place] = planted(draws, kind, images[place] + 0.5, digits[i]) - 0.5, kind
    order = draws.permutation(count)
    images, names = images[order], names[order]
    found = scored(jax.random.key(seed), images, "simclr", settings.work / f"rare_{seed}", settings.steps)
    table = judged(images, names, found)
    print(f"seed {seed}: {found.facts}", *(f"{name:40s} {line}" for name, line in table.items()), sep="\n", flush=True)
    return {"training": found.facts, "auroc": table}


def judged(images: np.ndarray, names: np.ndarray, found: Any) -> dict[str, dict[str, float]]:
    """AUROC of scores.

    Args:
        images: All images.
        names: What was planted, or "clean".
        found: From ``scored``.

    Returns:
        By score and kind.
    """
    wide = curation.density(found.representations, num_neighbors=curation.rare_neighbors(len(images)))
    unusual = curation.unusualness(curation.image_statistics(images))
    raw = images.reshape(len(images), -1)
    scores = {
        "combined": curation.rarity(wide, found.batch, unusual),
        "combined, paper mode": curation.rarity(wide, found.paper, unusual),
        "combined without pixels": curation.rarity(wide, found.batch),
        "density, n/20 neighbors": wide,
        "density, 10 neighbors": curation.density(found.representations),
        "density of pixels, n/20 neighbors": curation.density(raw, num_neighbors=curation.rare_neighbors(len(images))),
        "unusual pixels": unusual,
        "self-influence, batch mode": found.batch,
        "self-influence, paper mode": found.paper,
        "self-influence, distance to the median": np.abs(found.batch - np.median(found.batch)),
        "stability": found.stability,
        "training loss": found.loss,
    }
    kinds = {kind: names == kind for group in KINDS.values() for kind in group}
    groups = {group: np.isin(names, members) for group, members in KINDS.items()} | {"all": names != "clean"}
    clean = names == "clean"
    return {
        name: {kind: round(auroc(values[is_it | clean], is_it[is_it | clean]), 3)
               for kind, is_it in (groups | kinds).items()}
        for name, values in scores.items()
    }  # fmt: skip


def summary(by_seed: dict[str, Any]) -> dict[str, Any]:
    """Means and ranges over seeds.

    Args:
        by_seed: From ``one_seed``.

    Returns:
        By score and kind: mean, least and largest.
    """
    tables = [one["auroc"] for one in by_seed.values()]
    return {
        name: {kind: {"mean": float(np.mean(values)), "min": min(values), "max": max(values)}
               for kind in line for values in [[table[name][kind] for table in tables]]}
        for name, line in tables[0].items()
    }  # fmt: skip


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {FILE} and mnist.npz")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps trained encoders")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n", type=int, default=1000, help="clean images")
    parser.add_argument("--planted", type=int, default=12, help="planted images of each kind")
    parser.add_argument("--steps", type=int, default=RECIPE.num_steps, help="updates of each training")
    parser.add_argument("--no-record", action="store_true", help="only print")
    settings = parser.parse_args()
    by_seed = {str(seed): one_seed(seed, settings) for seed in settings.seeds}
    result = {
        "settings": {
            "n": settings.n, "planted_of_each_kind": settings.planted, "steps": settings.steps, "objective": "simclr",
            "network": repr(NETWORK), "recipe": repr(RECIPE), "views": NUM_VIEWS, "batch_size_of_influence": BATCH_SIZE,
            "curvature": "ekfac, defaults", "data": "CIFAR-10, first 4,000 training images, lossless; MNIST",
        },
        "over_seeds": summary(by_seed), "by_seed": by_seed,
    }  # fmt: skip
    if not settings.no_record:
        print(f"wrote {record('influence_rare', result, seeds=settings.seeds, packages=('optax', 'pillow')).name}")


if __name__ == "__main__":
    main()
