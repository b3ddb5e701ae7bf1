"""Can a pose be learned where no image is upright? python benchmarks/canonicalization_unaligned.py.

Digits in random poses of C4, without labels. ``one_pose`` is the share of held-out digits that are brought into the
pose that is most common in their class: 0.25 at random, 1 where all digits of a class come to lie alike, whichever way.
Classes are told apart from one another by nothing here, so that each may have a pose of its own.

Writes benchmarks/results/canonicalization_unaligned.json.
"""

import argparse
import time
from typing import Any

import jax
import numpy as np
from _canonicalization_contest import Labeled, digits
from _record import record

from repsim_jax import canonicalization as canon

GROUP = canon.cyclic(4)
WIDTHS = (32, 32)
PAPER = canon.Objective(prior_weight=0.0, contrast="dot", contrast_weight=1.0, temperature=1.0)
COSINE = canon.Objective(prior_weight=0.0, contrast_weight=1.0)
CASES: dict[str, tuple[canon.Objective, canon.Recipe]] = {
    "the paper's contrast": (PAPER, canon.Recipe(1200, widths=WIDTHS)),
    "contrast of cosines": (COSINE, canon.Recipe(1200, widths=WIDTHS)),
    "entropy": (canon.UNALIGNED, canon.Recipe(1200, widths=WIDTHS)),
    "entropy, then realigned 3 times": (canon.UNALIGNED, canon.Recipe(300, num_rounds=4, widths=WIDTHS)),
    "synchronized with 5 neighbors": (canon.UNALIGNED, canon.Recipe(300, num_neighbors=5, widths=WIDTHS)),
    "synchronized with 10 neighbors": (canon.UNALIGNED, canon.Recipe(300, num_neighbors=10, widths=WIDTHS)),
}


def turned(seed: int, x: np.ndarray) -> np.ndarray:
    """Images in random poses.

    Args:
        seed: Draws the poses.
        x: Upright images.

    Returns:
        As many.
    """
    turns = np.random.default_rng(seed).integers(0, 4, len(x))
    return np.stack([np.rot90(one, k) for one, k in zip(x, turns, strict=True)])


def one_pose(canonicalizer: canon.Canonicalizer, part: Labeled) -> float:
    """The share of images in the most common pose of their class.

    Args:
        canonicalizer: It.
        part: Upright images with their classes.

    Returns:
        In [1 / 4, 1].
    """
    index = np.asarray(canonicalizer(part.x).elements.index)
    most = [np.bincount(index[part.y == label]).max() for label in np.unique(part.y)]
    return float(sum(most) / len(index))


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--no-record", action="store_true", help="only print")
    settings = parser.parse_args()
    found: dict[str, Any] = {name: [] for name in ("untrained", *settings.cases)}
    for seed in settings.seeds:
        parts, key = digits(seed), jax.random.key(seed)
        images = turned(seed, parts.train.x)
        start = canon.untrained(key, images.shape[1:], GROUP, widths=WIDTHS)
        found["untrained"].append({"one_pose": one_pose(start, parts.test)})
        for name in settings.cases:
            objective, recipe = CASES[name]
            began = time.process_time()
            fitted = canon.fit(key, images, GROUP, objective=objective, recipe=recipe)
            row = {
                "one_pose": one_pose(fitted.canonicalizer, parts.test), "median_margin": fitted.median_margin,
                "training_cpu_s": round(time.process_time() - began, 1),
            }  # fmt: skip
            found[name].append(row)
            print(seed, name, row, flush=True)
    shares = {name: np.asarray([row["one_pose"] for row in rows]) for name, rows in found.items()}
    spread = {
        name: {"mean": float(one.mean()), "sd": float(one.std(ddof=1))} for name, one in shares.items() if len(one) > 1
    }
    if not settings.no_record:
        result = {"settings": {"widths": WIDTHS, "group": "C4", "cases": repr(CASES)}, "one_pose": spread, **found}
        record("canonicalization_unaligned", result, seeds=settings.seeds)
    print(spread)


if __name__ == "__main__":
    main()
