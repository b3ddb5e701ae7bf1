"""Is our EK-FAC that of kronfluence? python benchmarks/influence_kronfluence.py --rivals ../repsim-rivals/influence.

Both get the same weights, views and Fisher samples, for a network of dense layers and one of convolutions, which were
trained for a few steps on digits: in float64 and float32 with every residual for a sample of its own, so that nothing
is random, and in float32 with the same random signs on both sides. Self-influence of all examples and influence on 20
queries are compared, with a damping of a tenth of each layer's mean eigenvalue.

Writes benchmarks/results/influence_kronfluence.json, and with --store the weights, the views and kronfluence's scores
to tests/influence/kronfluence_scores.npz, with which a test repeats the comparison without kronfluence.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _influence_networks import SEED, Case, Network, drawn_layers
from _influence_rival import Rival
from _record import record
from scipy import stats
from sklearn.datasets import load_digits

from repsim_jax import influence as inf
from repsim_jax._compat import enable_x64
from repsim_jax.influence.pseudo import draws_of

STORED = Path(__file__).parents[1] / "tests" / "influence" / "kronfluence_scores.npz"
EXAMPLES, QUERIES = 64, 20
KEY = jax.random.key(SEED)


def whole_views() -> np.ndarray:
    """Two views of each digit, shifted by up to one pixel, with noise of up to two of 16 levels.

    Returns:
        (n, 2, 8, 8) int8; whole numbers, which are stored in few bytes.
    """
    rng = np.random.default_rng(SEED)
    padded = np.pad(load_digits().images[:EXAMPLES].astype(int), ((0, 0), (1, 1), (1, 1)))
    views = np.empty((EXAMPLES, 2, 8, 8), np.int8)
    for i, image in enumerate(padded):
        for k in range(2):
            row, column = rng.integers(0, 3, 2)
            noise = rng.integers(-2, 3, (8, 8))
            views[i, k] = np.clip(image[row : row + 8, column : column + 8] + noise, 0, 16)
    return views


def cases() -> dict[str, Case]:
    """The two networks, trained.

    Returns:
        By name.
    """
    views, rng = whole_views() / np.float32(16) - np.float32(0.5), np.random.default_rng(SEED)
    rows, images = views.reshape(EXAMPLES, 2, 64), views[..., None]
    dense = Case(Network((), "tanh"), drawn_layers(rng, [(64, 32), (32, 16)]), rows)
    kernels = [(3, 3, 1, 8), (3, 3, 8, 12), (12, 12), (12, 10)]
    return {
        "dense": trained(dense),
        "convolutions": trained(Case(Network((1, 2), "relu"), drawn_layers(rng, kernels), images)),
    }


def trained(case: Case) -> Case:
    """A few steps of SimCLR.

    Args:
        case: With weights to start from.

    Returns:
        The case.
    """
    views, optimizer = jnp.asarray(case.views), optax.adam(3e-3)
    loss = lambda params: inf.SimCLR(0.5).loss(case.network, params, views, jnp.ones(len(views)))  # noqa: E731

    def step(state: Any, _: Any) -> tuple[Any, None]:
        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params), moments)
        return (optax.apply_updates(params, updates), moments), None

    start = jax.tree.map(jnp.asarray, case.params)
    (params, _), _ = jax.jit(lambda state: jax.lax.scan(step, state, length=100))((start, optimizer.init(start)))
    return case._replace(params=jax.tree.map(np.asarray, params))


def every_residual(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Each residual of each example by itself.

    Args:
        case: The case.

    Returns:
        Numbers of examples (n q,), and signs (n q, q).
    """
    q = len(case.params[-1]["bias"])
    return np.repeat(np.arange(EXAMPLES), q), np.tile(np.eye(q), (EXAMPLES, 1))


def our_signs(case: Case, posed: inf.Problem) -> tuple[np.ndarray, np.ndarray]:
    """The signs that ``ekfac`` draws, one set for each example.

    Args:
        case: The case.
        posed: Its problem.

    Returns:
        Numbers of examples (n,), and signs (n, q).
    """
    q = len(case.params[-1]["bias"])
    parts = draws_of(KEY, posed, "alignment", num_samples=EXAMPLES).parts
    rows = [np.asarray(part.rows)[np.asarray(part.counts) > 0][:, 0] for part in parts]
    keys = [part.keys[np.asarray(part.counts) > 0][:, 0] for part in parts]
    draw = jax.vmap(lambda key: jax.random.rademacher(key, (q,), jnp.float32))
    return np.concatenate(rows), np.concatenate([np.asarray(draw(one)) for one in keys])


def ours(posed: inf.Problem, num_samples: int | None) -> dict[str, np.ndarray]:
    """Our scores.

    Args:
        posed: The problem.
        num_samples: Fisher samples; None for every residual.

    Returns:
        By name, with kronfluence's sign: the product of gradients with the curvature divided out.
    """
    options: dict[str, Any] = {
        "curvature": inf.ekfac(KEY, posed, of="alignment", num_samples=num_samples), "mode": "paper",
    }  # fmt: skip
    queries = posed.train.rows(slice(0, QUERIES))
    return {
        "self": inf.self_influence(KEY, posed, view_groups=0, **options).values,
        "pairs": -inf.influence(KEY, posed, queries, **options).values,
    }


def agreement(mine: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """How close two sets of scores are, whatever their scale.

    Args:
        mine: Ours.
        theirs: Kronfluence's.

    Returns:
        Spearman's correlations, and largest differences relative to the largest score after scaling.
    """
    found = {}
    scale = theirs["self"].mean() / mine["self"].mean()
    for name, values in mine.items():
        found[f"{name}_spearman"] = float(stats.spearmanr(values.ravel(), theirs[name].ravel()).statistic)
        found[f"{name}_largest_difference"] = float(
            np.abs(values * scale - theirs[name]).max() / np.abs(theirs[name]).max()
        )
    return found | {"scale": float(scale)}


def compared(case: Case, rival: Rival) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Both sides, in three ways.

    Args:
        case: The case.
        rival: The process with kronfluence.

    Returns:
        Figures by way; kronfluence's scores in float64.
    """
    asked = {"tool": "kronfluence", "own": True, "queries": QUERIES}
    found: dict[str, Any] = {"examples": EXAMPLES, "queries": QUERIES}
    rival.hand_over(case, *every_residual(case))
    with enable_x64():
        _, exact = rival.asked(case, dtype="float64", **asked)
        found["every_residual_float64"] = agreement(ours(case.problem(jnp.float64), None), exact)
    _, theirs = rival.asked(case, **asked)
    found["every_residual_float32"] = agreement(ours(case.problem(), None), theirs)
    posed = case.problem()
    rival.hand_over(case, *our_signs(case, posed))
    _, theirs = rival.asked(case, **asked)
    found["same_signs_float32"] = agreement(ours(posed, EXAMPLES), theirs)
    return found, exact


def main() -> None:
    """Compares, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rivals", type=Path, required=True, help="Environment that has kronfluence.")
    parser.add_argument("--store", action="store_true", help="Store what the test compares with.")
    options = parser.parse_args()
    result, stored = {}, {"views": whole_views()}
    with tempfile.TemporaryDirectory() as folder, Rival.started(options.rivals, Path(folder)) as rival:
        for name, case in cases().items():
            result[name], exact = compared(case, rival)
            print(name, result[name], flush=True)
            arrays = case.arrays() | exact
            stored |= {f"{name}_{key}": array for key, array in arrays.items() if key != "views"}
        versions = rival.versions
    if options.store:
        np.savez_compressed(STORED, **stored)
    print(record("influence_kronfluence", result, seeds=[SEED], rivals=versions).name)


if __name__ == "__main__":
    main()
