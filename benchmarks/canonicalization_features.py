"""Frozen features of a pretrained model, a linear probe, and a canonicalizer between: are turned images recognized?

    python benchmarks/canonicalization_features.py --data DIR [--images cifar10|caltech101] [--model clip-vit-b16]

The probe (logistic regression) is fitted on features of upright images. Test images are turned at 224 pixels, by every
element of C8, and answered alone, by the mean of the features over the orbit, and behind canonicalizers that were
trained without labels on other upright images of the set. Beside it stands a probe that was fitted on images in random
poses. Quarter turns of a canonical form are the same to the last bit, so that it is embedded for two poses of eight.

Writes benchmarks/results/canonicalization_features_IMAGES_MODEL.json.
"""

import argparse
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _canonicalization_contest import Labeled, Parts, cifar
from _record import record
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from repsim_jax import canonicalization as canon
from repsim_jax import pretrained

CALTECH = "caltech101_70classes_128.parquet"
GROUP = canon.cyclic(8)
VIEWS = canon.Views(size=32)
RECIPE = canon.Recipe(num_steps=1500, widths=(16, 32, 64))
OBJECTIVES = {"ours": canon.OURS, "the paper's": canon.PAPER}
SIDE, BATCH = 224, 20


def caltech(folder: Path, seed: int, per_class: int) -> Parts:
    """The middle squares of Caltech-101's images, at 128 pixels.

    Args:
        folder: Of the data.
        seed: Draws the parts.
        per_class: Test images of each of 70 classes; the other 30 less these are learned from.

    Returns:
        Both parts.

    Raises:
        SystemExit: If the file is not there.
    """
    import pyarrow.parquet as pq

    if not (folder / CALTECH).exists():
        raise SystemExit(f"{CALTECH} is missing in the folder that --data names.")
    table = pq.read_table(folder / CALTECH, columns=["label", "jpeg"])
    labels, rng = np.asarray(table["label"], np.int32), np.random.default_rng(seed)
    squares = []
    for encoded in table["jpeg"].to_pylist():
        image = Image.open(BytesIO(encoded)).convert("RGB")
        left, top = (image.width - 128) // 2, (image.height - 128) // 2
        squares.append(np.asarray(image.crop((left, top, left + 128, top + 128)), np.float32) / 255)
    rows = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    test, train = (
        np.concatenate([part(one) for one in rows]) for part in (lambda r: r[:per_class], lambda r: r[per_class:])
    )
    x = np.stack(squares)
    train = rng.permutation(train)
    return Parts(Labeled(x[train], labels[train]), Labeled(x[test], labels[test]))


def embedder(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Features of a pretrained model.

    Args:
        name: Of the model.

    Returns:
        A function of images in [0, 1], at 224 pixels.
    """
    model = pretrained.load(name)

    def embed(x: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(x), BATCH):
            part = np.clip(np.asarray(x[start : start + BATCH]) * 255 + 0.5, 0, 255).astype(np.uint8)
            full = np.concatenate([part, np.zeros((BATCH - len(part), *part.shape[1:]), np.uint8)])
            pixels = model.prepare(list(full), tuple(map(str, range(BATCH)))).inputs
            found.append(np.asarray(model.model(pixels))[: len(part)])
        return np.concatenate(found)

    return embed


def at_full_size(x: np.ndarray) -> np.ndarray:
    """Images as the model takes them.

    Args:
        x: Of any size, square.

    Returns:
        The same at 224 pixels.
    """
    return np.asarray(jax.image.resize(jnp.asarray(x), (len(x), SIDE, SIDE, x.shape[-1]), "cubic"))


def turned(x: np.ndarray, index: Any) -> np.ndarray:
    """Images in other poses.

    Args:
        x: Images.
        index: Of the element, or one for each image.

    Returns:
        As many.
    """
    elements = GROUP.elements(jnp.broadcast_to(jnp.asarray(index), (len(x),)), jnp.float32)
    return np.asarray(canon.Images().act(GROUP, elements, jnp.asarray(x)))


def right(probe: Any, features: np.ndarray, y: np.ndarray) -> float:
    """Share of right answers.

    Args:
        probe: Of scikit-learn.
        features: (n, d).
        y: (n,) classes.

    Returns:
        In [0, 1].
    """
    return float((probe(features) == y).mean())


def fitted(features: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A linear probe.

    Args:
        features: (n, d).
        y: (n,) classes.

    Returns:
        A function of features, to classes.
    """
    scaler = StandardScaler().fit(features)
    probe = LogisticRegression(C=0.05, max_iter=2000).fit(scaler.transform(features), y)
    return lambda rows: probe.predict(scaler.transform(rows))


def contest(seed: int, parts: Parts, embed: Callable[[np.ndarray], np.ndarray], num_probe: int) -> dict[str, Any]:
    """The table.

    Args:
        seed: Draws poses and weights.
        parts: Images.
        embed: The model.
        num_probe: Images that probes are fitted on.

    Returns:
        Accuracies by contestant.
    """
    key_fit, key_poses = jax.random.split(jax.random.key(seed))
    small = np.asarray(VIEWS.reduced(jnp.asarray(parts.train.x)))
    probed, y, test = at_full_size(parts.train.x[:num_probe]), parts.train.y[:num_probe], at_full_size(parts.test.x)
    table: dict[str, Any] = {}

    def add(name: str, rows: list[float], **more: float) -> None:
        table[name] = {
            "upright": rows[0],
            "orbit": float(np.mean(rows)),
            "orbit_of_quarters": float(np.mean(rows[::2])),
        }
        table[name] |= more
        print(name, {key: round(value, 3) for key, value in table[name].items()}, flush=True)

    probe = fitted(embed(probed), y)
    orbit = [embed(turned(test, index)) for index in range(GROUP.order)]
    add("model alone", [right(probe, one, parts.test.y) for one in orbit])
    add("mean over the orbit", [right(probe, np.mean(orbit, axis=0), parts.test.y)])
    for name, objective in OBJECTIVES.items():
        found = canon.fit(key_fit, small, GROUP, objective=objective, recipe=RECIPE, views=VIEWS).canonicalizer
        posed = [[found(turned(test[i : i + 50], index)) for i in range(0, len(test), 50)] for index in (0, 1)]
        forms = [np.concatenate([np.asarray(one.canonical) for one in rows]) for rows in posed]
        chosen = [np.concatenate([np.asarray(one.elements.index) for one in rows]) for rows in posed]
        rows = [right(probe, embed(one), parts.test.y) for one in forms]
        followed = float((chosen[1] == (chosen[0] + 1) % GROUP.order).mean())
        add(f"canonicalizer, {name}", rows * 4, chosen=float((chosen[0] == 0).mean()), followed_by_45_degrees=followed)
    poses = jax.random.randint(key_poses, (num_probe,), 0, GROUP.order)
    robust = fitted(embed(turned(probed, poses)), y)
    add("probe of all poses", [right(robust, one, parts.test.y) for one in orbit])
    return table


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10 and Caltech-101")
    parser.add_argument("--images", choices=("cifar10", "caltech101"), default="cifar10")
    parser.add_argument("--model", default="clip-vit-b16", help="a pretrained image model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-train", type=int, default=20000, help="upright images of CIFAR-10")
    parser.add_argument("--num-probe", type=int, default=500, help="of these, with labels, for the probes")
    parser.add_argument(
        "--num-test", type=int, default=100, help="test images of CIFAR-10, or of each class of Caltech"
    )
    settings = parser.parse_args()
    if settings.images == "cifar10":
        parts = cifar(settings.data, settings.seed, settings.num_train, settings.num_test)
    else:
        parts = caltech(settings.data, settings.seed, settings.num_test)
    how = {key: value for key, value in vars(settings).items() if key != "data"}
    how |= {"recipe": repr(RECIPE), "views": repr(VIEWS), "group": GROUP.name, "train": len(parts.train.y)}
    table = contest(settings.seed, parts, embedder(settings.model), min(settings.num_probe, len(parts.train.y)))
    result = {"settings": how | {"test": len(parts.test.y)}, **table}
    name = f"canonicalization_features_{settings.images}_{settings.model.replace('-', '_')}"
    record(name, result, seeds=[settings.seed], packages=("optax", "scikit-learn"))


if __name__ == "__main__":
    main()
