"""Does influence foretell what training without examples does? python benchmarks/influence_lds.py --seeds 0 1 2.

A small network learns digits by a self-supervised objective; it is trained again on random halves of the examples, and
without each one of them. The linear datamodeling score (LDS) is Spearman's correlation, over the halves, of summed
influence with the stability that was measured, averaged over queries. Every mode and curvature is in one table, beside
the cosine of embeddings; the ceiling is what a perfect predictor of the expected outcome would reach against training
from one more seed.

Writes benchmarks/results/influence_lds.json.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _record import record

from repsim_jax import influence as inf
from repsim_jax.data import open_source
from repsim_jax.influence.counterfactual import spearman
from repsim_jax.linalg import unit_rows

WIDTHS = (64, 32, 16)
TRAIN_VIEWS, QUERY_VIEWS = 2, 8
DAMPINGS = (0.01, 0.1, 1.0)
OBJECTIVES: dict[str, inf.Objective] = {
    "SimCLR": inf.SimCLR(), "BarlowTwins": inf.BarlowTwins(0.05), "VICReg": inf.VICReg(),
    "SpectralContrastive": inf.SpectralContrastive(),
}  # fmt: skip


def augment(key: jax.Array, x: jax.Array) -> jax.Array:
    """A shift by at most one pixel, another contrast, and noise.

    Args:
        key: Random key.
        x: (64,) a digit in [-1/2, 1/2].

    Returns:
        One view of it.
    """
    key_shift, key_contrast, key_noise = jax.random.split(key, 3)
    padded = jnp.pad(x.reshape(8, 8), 1, constant_values=-0.5)
    shifted = jax.lax.dynamic_slice(padded, jax.random.randint(key_shift, (2,), 0, 3), (8, 8)).ravel()
    contrast = jax.random.uniform(key_contrast, (), minval=0.8, maxval=1.2)
    return contrast * shifted + 0.1 * jax.random.normal(key_noise, x.shape)


def initial(key: jax.Array) -> dict[str, Any]:
    """Weights of a network of one hidden layer.

    Args:
        key: Random key.

    Returns:
        Parameters.
    """
    layers = zip(jax.random.split(key, len(WIDTHS) - 1), WIDTHS, WIDTHS[1:], strict=False)
    return {
        f"layer_{i}": {"kernel": jax.random.normal(k, (a, b)) / a**0.5, "bias": jnp.zeros(b)}
        for i, (k, a, b) in enumerate(layers)
    }


def embed(params: Any, x: jax.Array) -> jax.Array:
    """The network.

    Args:
        params: From ``initial``.
        x: (n, 64).

    Returns:
        (n, 16) embeddings.
    """
    hidden = jnp.tanh(x @ params["layer_0"]["kernel"] + params["layer_0"]["bias"])
    return hidden @ params["layer_1"]["kernel"] + params["layer_1"]["bias"]


def optimizer(num_steps: int) -> optax.GradientTransformation:
    """Adam with weight decay in the gradient, and a rate that falls to zero, so that it ends where the gradient does.

    Args:
        num_steps: Updates.

    Returns:
        From optax.
    """
    return optax.chain(
        optax.add_decayed_weights(1e-3),
        optax.scale_by_adam(eps_root=1e-12),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(1e-2, num_steps)),
    )


def curvatures(key: jax.Array, posed: inf.Problem) -> Iterator[tuple[str, Any]]:
    """Every curvature, fitted.

    Args:
        key: Random key.
        posed: The trained model.

    Yields:
        Name and curvature.
    """
    fits: dict[str, Callable[[], Any]] = {
        "identity": inf.Identity,
        "dense, objective": lambda: inf.dense(key, posed),
        "dense, alignment": lambda: inf.dense(key, posed, of="alignment"),
        "dense, |Hessian|": lambda: inf.dense(key, posed, of="hessian"),
        "ekfac, objective": lambda: inf.ekfac(key, posed),
        "ekfac, alignment": lambda: inf.ekfac(key, posed, of="alignment"),
        "logra 16, alignment": lambda: inf.logra(key, posed, of="alignment"),
        "projection 512, alignment": lambda: inf.random_projection(key, posed, of="alignment"),
        "low rank 64, |Hessian|": lambda: inf.low_rank(key, posed),
    }
    yield from ((name, fit()) for name, fit in fits.items())


def truth(key: jax.Array, start: inf.Problem, queries: inf.Examples, masks: np.ndarray, steps: int) -> Any:
    """What training without examples does.

    Args:
        key: Random key.
        start: The problem before training.
        queries: The queries.
        masks: (s, n) subsets.
        steps: Updates.

    Returns:
        The trained problem, outcomes (s, n) of the subsets, and by how much each example raises each query (n, n).
    """
    n = len(start.train)
    together = np.concatenate([np.ones((1, n), bool), masks, inf.leave_one_out(n)])
    params = inf.retrained(key, start, together, optimizer=optimizer(steps), num_steps=steps)
    measured = inf.outcomes(start, params, queries)
    trained = replace(start, params=jax.tree.map(lambda leaf: leaf[0], params))
    return trained, measured[1 : 1 + len(masks)], (measured[0] - measured[1 + len(masks) :]).T


def judged(key: jax.Array, values: np.ndarray, masks: np.ndarray, halves: np.ndarray, left_out: np.ndarray) -> dict:
    """How well influence foretold both truths.

    Args:
        key: Random key of the interval.
        values: (n, n) influence.
        masks: (s, n) subsets.
        halves: (s, n) outcomes of subsets.
        left_out: (n, n) by how much each example raised each query.

    Returns:
        Scores by name.
    """
    score = inf.datamodeling_score(key, values, masks, halves)
    of_queries = [spearman(one, other) for one, other in zip(values, left_out, strict=True)]
    return {
        "lds": score.value,
        "lds_interval_95": list(score.interval),
        "leave_one_out": float(np.mean(of_queries)),
        "self": spearman(-np.diag(values), -np.diag(left_out)),
    }


def one_seed(name: str, seed: int, settings: argparse.Namespace) -> dict[str, Any]:
    """The table of one objective and seed.

    Args:
        name: Of the objective.
        seed: Draws examples, views, weights and subsets.
        settings: From the command line.

    Returns:
        Scores by estimator.
    """
    key_rows, key_views, key_init, key_masks, key_fit, key_other = jax.random.split(jax.random.key(seed), 6)
    source = open_source("digits")
    rows = np.asarray(jax.random.permutation(key_rows, len(source)))[: settings.n]
    x = np.stack([source.get(int(i)) for i in rows]).astype(np.float32).reshape(settings.n, 64)
    x = x / x.max() - 0.5
    queries = inf.augmented(key_fit, x, augment, num_views=QUERY_VIEWS)
    train = inf.augmented(key_views, x, augment, num_views=TRAIN_VIEWS)
    start = inf.problem(embed, initial(key_init), train, objective=OBJECTIVES[name])
    masks = inf.random_subsets(key_masks, settings.n, num_subsets=settings.subsets)
    posed, halves, left_out = truth(key_fit, start, queries, masks, settings.steps)
    other = replace(start, params=initial(key_other))
    again = inf.retrained(key_fit, other, masks, optimizer=optimizer(settings.steps), num_steps=settings.steps)
    ceiling = inf.noise_ceiling(np.stack([halves, inf.outcomes(other, again, queries)]))
    unit = np.asarray(unit_rows(embed(posed.params, jnp.asarray(x))))
    table = {"embedding cosine": judged(key_fit, -unit @ unit.T, masks, halves, left_out)}
    table["leave-one-out itself"] = judged(key_fit, left_out, masks, halves, left_out)
    for label, curvature in curvatures(key_fit, posed):
        for mode in ("batch", "paper"):
            for damping in DAMPINGS if label != "identity" else (0.1,):
                options = {"curvature": curvature, "mode": mode, "damping": inf.Damping(damping)}
                values = inf.influence(key_fit, posed, queries, **options).values
                line = judged(key_fit, values, masks, halves, left_out)
                table[f"{mode}; {label}; damping {damping}"] = line
                print(f"{name} {seed} {mode:6s} {label:26s} {damping:5} " + told(line), flush=True)
    return {"noise_ceiling": ceiling, "table": table}


def told(line: dict[str, Any]) -> str:
    """One line of the table.

    Args:
        line: From ``judged``.

    Returns:
        Text.
    """
    low, high = line["lds_interval_95"]
    return (
        f"LDS {line['lds']:.3f} [{low:.3f}, {high:.3f}]  leave-one-out {line['leave_one_out']:.3f}  "
        f"self {line['self']:.3f}"
    )


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    parser.add_argument("--n", type=int, default=150, help="training examples")
    parser.add_argument("--subsets", type=int, default=128, help="random halves that are trained on")
    parser.add_argument("--steps", type=int, default=800, help="updates of each training")
    parser.add_argument("--no-record", action="store_true", help="only print")
    settings = parser.parse_args()
    found = {
        name: {str(seed): one_seed(name, seed, settings) for seed in settings.seeds} for name in settings.objectives
    }
    if not settings.no_record:
        how = {key: value for key, value in vars(settings).items() if key != "no_record"}
        how |= {"widths": WIDTHS, "train_views": TRAIN_VIEWS, "query_views": QUERY_VIEWS, "data": "scikit-learn digits"}
        path = record(
            "influence_lds", {"settings": how, **found}, seeds=settings.seeds, packages=("optax", "scikit-learn")
        )
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
