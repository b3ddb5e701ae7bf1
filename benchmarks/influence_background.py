"""Does a spurious background show in influence? python benchmarks/influence_background.py --seeds 0 1 2.

Digits of one class get a bright frame, two thirds of them at random: a background that goes with a class. A small
network learns all digits by SimCLR, without labels. ``slice_test`` compares the framed digits with the other digits of
their class, and with all others; the same rows of a network that never saw a frame are compared likewise. How often a
slice is found where there is none is measured on random slices of the same size.

Writes benchmarks/results/influence_background.json.
"""

import argparse
from typing import Any

import jax
import numpy as np
from _record import record
from influence_pruning import AUGMENT, INFLUENCE_BATCH, NETWORK, NUM_VIEWS, RECIPE, split, trained

from repsim_jax import influence as inf
from repsim_jax.influence import curation

SHARE, INK = 2 / 3, 0.5


def framed(x: np.ndarray) -> np.ndarray:
    """Digits in a bright frame.

    Args:
        x: (n, 64).

    Returns:
        The same, with the 28 pixels of the border bright.
    """
    images = x.reshape(-1, 8, 8).copy()
    images[:, [0, -1]] = INK
    images[:, :, [0, -1]] = INK
    return images.reshape(-1, 64)


def scores_of(key: jax.Array, x: np.ndarray, steps: int) -> dict[str, np.ndarray]:
    """What a network says of the digits that it learned.

    Args:
        key: Random key.
        x: Digits.
        steps: Updates.

    Returns:
        By name.
    """
    key_train, key_views, key_fit = jax.random.split(key, 3)
    found = trained(key_train, x, steps)
    train = inf.augmented(key_views, x, AUGMENT, num_views=NUM_VIEWS)
    posed = inf.problem_of(found, NETWORK, train, "simclr", batch_size=INFLUENCE_BATCH)
    curvature = inf.ekfac(key_fit, posed)
    options = {"curvature": curvature, "view_groups": 0}
    batch = inf.self_influence(key_fit, posed, **options)
    paper = inf.self_influence(key_fit, posed, mode="paper", **options)
    return {
        "self-influence, batch mode": batch.values, "self-influence, paper mode": paper.values,
        "stability": batch.measurements,
    }  # fmt: skip


def tested(key: jax.Array, values: np.ndarray, inside: np.ndarray, among: np.ndarray) -> dict[str, float]:
    """One slice against others.

    Args:
        key: Random key.
        values: Of all digits.
        inside: Which are in the slice.
        among: Which take part, the slice included.

    Returns:
        Effect in standard deviations, and p-value.
    """
    found = curation.slice_test(key, values[among], inside[among])
    place = found.names.tolist().index("True")
    return {"effect": float(found.effects[place]), "p_value": float(found.raw_p_values[place])}


def false_findings(key: jax.Array, values: np.ndarray, size: int, num_slices: int) -> dict[str, float]:
    """How often random slices are found.

    Args:
        key: Random key.
        values: Of all digits.
        size: Of a slice.
        num_slices: How many.

    Returns:
        Shares of p-values below 0.05 and 0.01, and how well all of them agree with a uniform distribution.
    """
    from scipy import stats

    p_values = []
    for one in jax.random.split(key, num_slices):
        key_rows, key_test = jax.random.split(one)
        inside = np.zeros(len(values), bool)
        inside[np.asarray(jax.random.permutation(key_rows, len(values)))[:size]] = True
        found = curation.slice_test(key_test, values, inside, num_permutations=999, num_resamples=2)
        p_values.append(float(found.raw_p_values[found.names.tolist().index("True")]))
    return {
        "below_0.05": float(np.mean(np.asarray(p_values) < 0.05)),
        "below_0.01": float(np.mean(np.asarray(p_values) < 0.01)),
        "kolmogorov_smirnov_p": float(stats.kstest(p_values, "uniform").pvalue),
    }


def one_seed(seed: int, settings: argparse.Namespace) -> dict[str, Any]:
    """Both networks, and all tests.

    Args:
        seed: Draws digits, frames and trainings.
        settings: From the command line.

    Returns:
        By name of the values.
    """
    key_train, key_test, key_false = jax.random.split(jax.random.key(seed), 3)
    x, labels, *_ = split(seed, settings.n)
    of_class = labels == settings.digit
    inside = of_class & (np.random.default_rng(seed).uniform(size=len(x)) < SHARE)
    both = {
        "planted": scores_of(key_train, np.where(inside[:, None], framed(x), x), settings.steps),
        "not planted": scores_of(key_train, x, settings.steps),
    }
    result: dict[str, Any] = {"framed": int(inside.sum()), "of_the_class": int(of_class.sum())}
    everyone = np.ones(len(x), bool)
    for name in both["planted"]:
        result[name] = {
            when: {
                "in_the_class": tested(key_test, scores[name], inside, of_class),
                "among_all": tested(key_test, scores[name], inside, everyone),
            }
            for when, scores in both.items()
        }
        result[name]["random_slices"] = false_findings(
            key_false, both["planted"][name], int(inside.sum()), settings.slices
        )
        print(f"seed {seed} {name}: {result[name]}", flush=True)
    return result


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n", type=int, default=1200, help="digits")
    parser.add_argument("--digit", type=int, default=3, help="class that is framed")
    parser.add_argument("--slices", type=int, default=200, help="random slices")
    parser.add_argument("--steps", type=int, default=RECIPE.num_steps, help="updates of each training")
    parser.add_argument("--no-record", action="store_true", help="only print")
    settings = parser.parse_args()
    by_seed = {str(seed): one_seed(seed, settings) for seed in settings.seeds}
    how = {key: value for key, value in vars(settings).items() if key != "no_record"}
    how |= {
        "network": repr(NETWORK), "recipe": repr(RECIPE), "augment": repr(AUGMENT), "views": NUM_VIEWS,
        "data": "scikit-learn digits", "share_framed": SHARE, "curvature": "ekfac, defaults", "objective": "simclr",
    }  # fmt: skip
    if not settings.no_record:
        result = {"settings": how, "by_seed": by_seed}
        packages = ("optax", "scikit-learn", "scipy")
        print(f"wrote {record('influence_background', result, seeds=settings.seeds, packages=packages).name}")


if __name__ == "__main__":
    main()
