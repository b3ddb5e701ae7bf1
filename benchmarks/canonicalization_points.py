"""Chairs and monitors in any orientation: python benchmarks/canonicalization_points.py --data DIR.

Clouds of 256 points on the surfaces of ModelNet10's chairs and monitors (voxels of 32^3). A small PointNet learns to
tell them apart, upright or in random orientations or in their own principal axes, and is tested on clouds as they are
and in random orientations ("any"). An upright network is also repaired without being touched: by the pose, among 60
rotations refined by gradients, in which its own features are least unusual. ``largest_change`` is that of a logit
between a cloud and the same in another orientation, over the root mean square of all logits.

Writes benchmarks/results/canonicalization_points.json.
"""

import argparse
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _canonicalization_contest import Labeled, Parts
from _record import record

from repsim_jax import canonicalization as canon
from repsim_jax.training import train

MODELNET = "modelnet10_chair_monitor_vox32.npz"
NUM_POINTS, NUM_TRAIN, STEPS, WIDTHS = 256, 1000, 400, (3, 32, 64, 64)
GROUP = canon.so3("icosahedral")


def clouds(folder: Path, seed: int) -> Parts:
    """Points drawn on the faces of voxels that border on empty ones, centered, with a mean square radius of one.

    Args:
        folder: Of the data.
        seed: Draws the points and the parts.

    Returns:
        Clouds (n, 256, 3), with 0 for chairs and 1 for monitors.

    Raises:
        SystemExit: If the file is not there.
    """
    if not (folder / MODELNET).exists():
        raise SystemExit(f"{MODELNET} is missing in the folder that --data names.")
    with np.load(folder / MODELNET) as stored:
        solids = np.unpackbits(stored["bits"], axis=1).reshape(-1, 32, 32, 32).astype(bool)
        y = stored["y"].astype(np.int32)
    filled = solids.any((1, 2, 3))
    solids, y = solids[filled], y[filled]
    rng = np.random.default_rng(seed)
    x = np.stack([_surface(rng, solid) for solid in solids])
    order = rng.permutation(len(x))
    first, rest = order[:NUM_TRAIN], order[NUM_TRAIN:]
    return Parts(Labeled(x[first], y[first]), Labeled(x[rest], y[rest]))


def _surface(rng: np.random.Generator, solid: np.ndarray) -> np.ndarray:
    padded = np.pad(solid, 1)
    inside = [np.roll(padded, step, axis) for axis in range(3) for step in (-1, 1)]
    border = np.argwhere(padded & ~np.logical_and.reduce(inside))
    points = border[rng.integers(0, len(border), NUM_POINTS)] + rng.uniform(-0.5, 0.5, (NUM_POINTS, 3))
    points -= points.mean(0)
    return (points / np.sqrt(np.square(points).sum(1).mean())).astype(np.float32)


def initial(key: jax.Array) -> list[dict[str, jax.Array]]:
    """Weights of a PointNet.

    Args:
        key: Random key.

    Returns:
        Layers of every point, then two after the maximum.
    """
    sizes = [*pairwise(WIDTHS), (WIDTHS[-1], 32), (32, 2)]
    keys = jax.random.split(key, len(sizes))
    return [
        {"kernel": jax.random.normal(k, size) * (2 / size[0]) ** 0.5, "bias": jnp.zeros(size[1])}
        for k, size in zip(keys, sizes, strict=True)
    ]


def features(params: Any, x: jax.Array) -> jax.Array:
    """What a PointNet represents before its last layer.

    Args:
        params: From ``initial``.
        x: (b, n, 3) clouds.

    Returns:
        (b, 32) features.
    """
    for layer in params[:-2]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return jax.nn.relu(x.max(1) @ params[-2]["kernel"] + params[-2]["bias"])


def logits(params: Any, x: jax.Array) -> jax.Array:
    """What a PointNet answers.

    Args:
        params: From ``initial``.
        x: (b, n, 3) clouds.

    Returns:
        (b, 2) logits.
    """
    return features(params, x) @ params[-1]["kernel"] + params[-1]["bias"]


def rotated(key: jax.Array, x: jax.Array) -> jax.Array:
    """Clouds in random orientations, uniform over SO(3).

    Args:
        key: Random key.
        x: (b, n, 3) clouds.

    Returns:
        As many.
    """
    q, r = jnp.linalg.qr(jax.random.normal(key, (len(x), 3, 3)))
    q = q * jnp.sign(jnp.diagonal(r, axis1=1, axis2=2))[:, None]
    q = q.at[:, :, 0].multiply(jnp.sign(jnp.linalg.det(q))[:, None])
    return jnp.einsum("bnd,bkd->bnk", x, q)


def _loss(key: jax.Array, params: Any, part: Any, *, is_rotated: bool) -> jax.Array:
    x = rotated(key, part[0]) if is_rotated else part[0]
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), part[1]).mean()


_LOSSES = {one: partial(_loss, is_rotated=one) for one in (False, True)}
_OPTIMIZER = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))


def trained(key: jax.Array, x: Any, y: np.ndarray, *, is_rotated: bool = False) -> Any:
    """A PointNet.

    Args:
        key: Random key.
        x: (n, m, 3) clouds.
        y: (n,) classes.
        is_rotated: Whether each is shown in a random orientation at each step.

    Returns:
        Its weights.
    """
    how = {"optimizer": _OPTIMIZER, "num_steps": STEPS, "batch_size": 64, "noisy": True}
    return train(key, initial(key), _LOSSES[is_rotated], (x, y), **how).params


def one_seed(seed: int, parts: Parts) -> dict[str, Any]:
    """The table of one seed.

    Args:
        seed: Draws weights and orientations.
        parts: Clouds.

    Returns:
        Accuracies by contestant.
    """
    keys = jax.random.split(jax.random.key(seed), 5)
    x, y = jnp.asarray(parts.test.x), parts.test.y
    turned = rotated(keys[0], x)
    table: dict[str, Any] = {}

    def add(name: str, answer: Any) -> None:
        upright, anyhow = np.asarray(answer(x)), np.asarray(answer(turned))
        scale = np.sqrt(np.square(upright).mean())
        table[name] = {
            "upright": float((upright.argmax(1) == y).mean()), "any": float((anyhow.argmax(1) == y).mean()),
            "largest_change": float(np.abs(upright - anyhow).max() / scale),
            "median_change": float(np.median(np.abs(upright - anyhow)) / scale),
        }  # fmt: skip
        print(seed, name, {key: round(value, 7) for key, value in table[name].items()}, flush=True)

    alone = trained(keys[1], *parts.train)
    answer = jax.jit(partial(logits, alone))
    add("upright network alone", answer)
    add("network of random orientations", jax.jit(partial(logits, trained(keys[2], *parts.train, is_rotated=True))))
    for pick in ("skewness", "average"):
        frames = canon.PCAFrames(pick=pick)
        own = trained(keys[3], frames(parts.train.x).canonical, parts.train.y)
        wrapped = canon.equivariant(jax.jit(partial(logits, own)), frames)
        add(f"network of principal axes, {pick}", lambda z, wrapped=wrapped: wrapped(z).outputs)
        wrapped = canon.equivariant(answer, frames)
        add(f"upright network in principal axes, {pick}", lambda z, wrapped=wrapped: wrapped(z).outputs)
    usual = canon.mahalanobis(features, alone, parts.train.x)
    for name, steps in (("grid", 0), ("grid, refined", 8)):
        posed = canon.Canonicalizer(GROUP, usual, canon.Points(), search=canon.Search(num_steps=steps))
        wrapped = canon.equivariant(answer, posed)
        add(f"upright network, least unusual pose, {name}", lambda z, wrapped=wrapped: _by_parts(wrapped, z))
    return table


def _by_parts(wrapped: canon.Equivariant, x: jax.Array, size: int = 61) -> np.ndarray:
    return np.concatenate([np.asarray(wrapped(x[i : i + size]).outputs) for i in range(0, len(x), size)])


def symmetric_clouds() -> dict[str, float]:
    """How far canonical forms move under rotations where principal axes are not defined.

    Two corners of a cube that are equally far from a third axis are not always led to one another by its rotations: the
    rule then takes either, by rounding.

    Returns:
        By cloud: the largest distance of a point of the canonical form, in 20 orientations, to the nearest point of
        that of the first, over the cloud's size.
    """
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T
    angles = 2 * np.pi * np.arange(12) / 12
    shapes = {
        "tetrahedron": corners[corners.prod(1) > 0], "octahedron": np.concatenate([np.eye(3), -np.eye(3)]),
        "cube": corners, "ring": np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1),
        "line": np.array([[1.0, 1, 0], [-1, -1, 0]]),
    }  # fmt: skip
    frames, worst = canon.PCAFrames(pick="skewness"), {}
    for name, points in shapes.items():
        x = jnp.asarray(points[None], jnp.float32)
        turned = rotated(jax.random.key(0), jnp.repeat(x, 20, 0))
        first, others = np.asarray(frames(x).canonical), np.asarray(frames(turned).canonical)
        apart = np.linalg.norm(first[:, :, None] - others[:, None], axis=-1).min(1)
        worst[name] = float(apart.max() / np.linalg.norm(points[0]))
    return worst


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with ModelNet10's chairs and monitors")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    settings = parser.parse_args()
    found = {str(seed): one_seed(seed, clouds(settings.data, seed)) for seed in settings.seeds}
    names = {
        name: {key: [table[name][key] for table in found.values()] for key in table[name]}
        for table in found.values()
        for name in table
    }
    summary = {
        name: {key: {"mean": float(np.mean(row)), "sd": float(np.std(row, ddof=1))} for key, row in rows.items()}
        for name, rows in names.items()
    }
    how = {"points": NUM_POINTS, "train": NUM_TRAIN, "steps": STEPS, "widths": WIDTHS, "group": GROUP.name}
    result = {"settings": how, "summary": summary, "symmetric_clouds": symmetric_clouds(), **found}
    record("canonicalization_points", result, seeds=settings.seeds, packages=("optax",))


if __name__ == "__main__":
    main()
