"""Slow, explicit tangent kernels and the models on which they are compared with ours."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

# Older ones trace some of these models otherwise: the kernel is as exact, by plain Jacobians.
TRACES_AS_EXPECTED = jax.__version_info__ >= (0, 8)


def explicit_jacobian(function: Callable[..., Any], params: Any, x: Any) -> dict[str, np.ndarray]:
    """For each parameter its Jacobian (n, o, p), one example at a time, as float64 NumPy arrays."""

    def one(params: Any, row: Any) -> Any:
        return function(params, row[None])[0].reshape(-1)

    jacobian = jax.jit(jax.vmap(jax.jacrev(one), (None, 0)))(params, jnp.asarray(x))
    o = jax.eval_shape(one, params, jnp.asarray(x)[0]).shape[0]
    flat = jax.tree_util.tree_flatten_with_path(jacobian)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf, np.float64).reshape(len(x), o, -1) for path, leaf in flat}


def explicit_ntk(function: Callable[..., Any], params: Any, x: Any, y: Any = None) -> np.ndarray:
    """The kernel (n, o, m, o) of all outputs, in float64 NumPy."""
    rows = explicit_jacobian(function, params, x)
    columns = rows if y is None else explicit_jacobian(function, params, y)
    return sum(np.einsum("nop,mqp->nomq", rows[name], columns[name]) for name in rows)


def trace(full: np.ndarray) -> np.ndarray:
    """Mean over the outputs."""
    return np.einsum("nomo->nm", full) / full.shape[1]


def error(found: Any, expected: np.ndarray) -> float:
    """Largest difference, in units of the largest entry."""
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max())


class Mixed(linen.Module):
    """Convolutions with stride, padding, dilation and groups, LayerNorm, attention, unit outputs."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.gelu(linen.Conv(6, (3, 3), strides=2)(x))
        x = linen.LayerNorm()(x)
        x = linen.relu(linen.Conv(8, (3, 2), feature_group_count=2, kernel_dilation=2, padding="VALID")(x))
        x = x.reshape(x.shape[0], -1, 8)
        x = linen.MultiHeadDotProductAttention(2)(linen.Dense(4, use_bias=False)(x))
        x = linen.Dense(3)(x.mean(1))
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
