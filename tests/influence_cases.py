"""Small problems on which tests of influence stand: a linear encoder with a closed form, and a small network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.influence import Examples, Objective, Problem, SimCLR, Stability, problem, with_views

N, D, K, V = 12, 5, 3, 4
_rng = np.random.default_rng(0)
X = _rng.normal(size=(N, D))
VIEWS = X[:, None] + 0.3 * _rng.normal(size=(N, V, D))
W = _rng.normal(size=(D, K))
SMALL = {
    "first": {"kernel": _rng.normal(size=(D, 4)), "bias": _rng.normal(size=4)},
    "last": {"kernel": _rng.normal(size=(4, K))},
    "predictor": _rng.normal(size=(K, K)),
}


def linear(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["w"]


def small(params: Any, x: jax.Array) -> jax.Array:
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["last"]["kernel"]


def predictor(params: Any, z: jax.Array) -> jax.Array:
    return z @ params["predictor"]


def examples(rows: Any = slice(None)) -> Examples:
    return with_views(X[rows], VIEWS[rows])


def linear_problem(train: Examples | None = None, **options: Any) -> Problem:
    """A linear encoder whose alignment is half the squared distance of a query and its views."""
    options = {"objective": SimCLR(), "stability": Stability(normalize=False)} | options
    return problem(linear, {"w": jnp.asarray(W)}, train or examples(), **options)


def small_problem(objective: Objective | None = None, train: Examples | None = None, **options: Any) -> Problem:
    """A network of two layers, in float64 where that is enabled."""
    params = jax.tree.map(jnp.asarray, SMALL)
    return problem(small, params, train or examples(), objective=objective or SimCLR(), **options)


def flat_rows(arrays: Any) -> np.ndarray:
    """Gradients (m, *shape) of each parameter as rows (m, p)."""
    return np.concatenate([np.asarray(array).reshape(len(array), -1) for array in arrays], axis=1)


def random_gradients(posed: Problem, num: int = 3) -> list[jax.Array]:
    rng = np.random.default_rng(5)
    return [jnp.asarray(rng.normal(size=(num, *leaf.shape)), leaf.dtype) for leaf in posed.leaves().arrays]


def flat_function(posed: Problem) -> tuple[np.ndarray, Any]:
    """The parameters in a row, and how to put such a row back."""
    arrays = posed.leaves().arrays
    sizes = np.cumsum([array.size for array in arrays])[:-1]

    def restore(row: jax.Array) -> list[jax.Array]:
        return [part.reshape(a.shape) for part, a in zip(jnp.split(row, sizes), arrays, strict=True)]

    return np.concatenate([np.asarray(array).ravel() for array in arrays]), restore
