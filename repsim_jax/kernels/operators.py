"""What does the tangent kernel do to a vector, and which directions does it favor, when it is too large to form?"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse.linalg import lobpcg_standard
from jaxtyping import Array, Float

from repsim_jax._compat import is_traced
from repsim_jax.errors import BadArrayError
from repsim_jax.kernels.blocks import in_blocks
from repsim_jax.kernels.entrance import checked_blocks, checked_inputs, checked_outputs
from repsim_jax.kernels.models import Model, as_model, leaves_of
from repsim_jax.linalg import precise_jit


class Sketch(NamedTuple):
    """An estimate of a kernel from random projections of the gradients.

    Attributes:
        kernel: Unbiased; (n, n), or (n, o, n, o) for ``outputs="full"``.
        standard_error: Of each entry, from the spread of the draws.
    """

    kernel: Float[Array, "*shape"]
    standard_error: Float[Array, "*shape"]


class EigenPairs(NamedTuple):
    """The largest eigenvalues of a kernel.

    Attributes:
        values: (k,), descending.
        vectors: (n, k), or (n, o, k) for ``outputs="full"``; orthonormal.
        residuals: (k,) norms of K v - value v, in units of the largest eigenvalue.
        num_steps: Iterations that were made.
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "*n k"]
    residuals: Float[Array, " k"]
    num_steps: Array


def ntk_vector_product(
    model: Any,
    params: Any,
    x: Any,
    v: Any,
    *,
    outputs: str | int = "full",
    block: int | None = None,
    params_filter: str | None = None,
) -> Float[Array, "*shape"]:
    r"""The tangent kernel times a vector, :math:`\Theta v = J (J^T v)`, without the kernel and without J.

    Args:
        model: As in ``ntk``.
        params: As in ``ntk``.
        x: Inputs (n, ...).
        v: (n, o) for ``outputs="full"``; (n,) for all others.
        outputs: As in ``ntk``; "trace" costs o products.
        block: Examples that are differentiated at once. None: all.
        params_filter: As in ``ntk``.

    Returns:
        An array of the shape of ``v``.

    Raises:
        BadArrayError: As ``ntk``, and if ``v`` has another shape or holds NaN.
        UnknownNameError: As ``ntk``.
        RepsimError: As ``ntk``.

    Source:
        Novak, Sohl-Dickstein and Schoenholz 2022 (arXiv 2206.08720), section 3.2 (NTK-vector products).
    """
    checked_outputs(outputs)
    checked_blocks("ntk_vector_product", block=block)
    parts = as_model(model, params, params_filter)
    x, _ = checked_inputs("ntk_vector_product", parts, x, None, outputs=outputs)
    v = jnp.asarray(v)
    expected = (len(x), _num_outputs(parts, x)) if outputs == "full" else (len(x),)
    if v.shape != expected:
        raise BadArrayError(f"ntk_vector_product with outputs={outputs!r} takes v of shape {expected}, got {v.shape}.")
    if not is_traced(v) and not bool(jnp.isfinite(v).all()):
        raise BadArrayError("ntk_vector_product: v holds NaN or infinity.")
    return _product(parts.apply, parts.params, parts.rest, x, v, outputs=outputs, block=block)


def ntk_sketch(
    key: Array, model: Any, params: Any, x: Any, *, num_draws: int, outputs: str | int = "trace",
    params_filter: str | None = None,
) -> Sketch:  # fmt: skip
    r"""Estimates the tangent kernel from random directions, :math:`\frac{1}{k} \sum_r (J r)(J r)^T`, r = ±1.

    Each draw is one forward derivative: neither J nor a projection matrix is held. The variance of an entry falls like
    1 / ``num_draws``, whatever the number of parameters.

    Args:
        key: Of the directions.
        model: As in ``ntk``.
        params: As in ``ntk``.
        x: Inputs (n, ...).
        num_draws: Directions k, at least 2.
        outputs: As in ``ntk``.
        params_filter: As in ``ntk``.

    Returns:
        The estimate and its standard error.

    Raises:
        BadArrayError: As ``ntk``, and for fewer than two draws.
        UnknownNameError: As ``ntk``.
        RepsimError: As ``ntk``.

    Source:
        Johnson and Lindenstrauss 1984, with the signs of Achlioptas 2003, "Database-friendly random projections".
    """
    checked_outputs(outputs)
    if num_draws < 2:
        raise BadArrayError(f"ntk_sketch needs num_draws >= 2 to tell its error, got {num_draws}.")
    parts = as_model(model, params, params_filter)
    x, _ = checked_inputs("ntk_sketch", parts, x, None, outputs=outputs)
    return _sketch(key, parts.apply, parts.params, parts.rest, x, num_draws=num_draws, outputs=outputs)


def ntk_eigenpairs(
    key: Array, model: Any, params: Any, x: Any, *, num: int, outputs: str | int = "trace",
    block: int | None = None, max_steps: int = 100, params_filter: str | None = None,
) -> EigenPairs:  # fmt: skip
    """The largest eigenvalues of the tangent kernel and their vectors, from products with vectors alone.

    Args:
        key: Of the vectors to start from.
        model: As in ``ntk``.
        params: As in ``ntk``.
        x: Inputs (n, ...).
        num: How many, fewer than a fifth of the kernel's rows.
        outputs: As in ``ntk``.
        block: As in ``ntk_vector_product``.
        max_steps: Iterations at most.
        params_filter: As in ``ntk``.

    Returns:
        The pairs, with residuals that tell whether they converged.

    Raises:
        BadArrayError: As ``ntk``, and for a ``num`` that is too large or not positive.
        UnknownNameError: As ``ntk``.
        RepsimError: As ``ntk``.

    Source:
        Knyazev 2001 (LOBPCG), as ``jax.experimental.sparse.linalg.lobpcg_standard``.
    """
    checked_outputs(outputs)
    checked_blocks("ntk_eigenpairs", block=block, num=num, max_steps=max_steps)
    parts = as_model(model, params, params_filter)
    x, _ = checked_inputs("ntk_eigenpairs", parts, x, None, outputs=outputs)
    rows = len(x) * (_num_outputs(parts, x) if outputs == "full" else 1)
    if 5 * num >= rows:
        raise BadArrayError(
            f"ntk_eigenpairs finds fewer than a fifth of all eigenvalues: got num={num} of {rows}. "
            "Take spectrum(ntk(...)) for more."
        )
    return _eigenpairs(
        key, parts.apply, parts.params, parts.rest, x, num=num, outputs=outputs, block=block, max_steps=max_steps
    )


def _num_outputs(parts: Model, x: Array) -> int:
    return math.prod(jax.eval_shape(parts.apply, parts.params, parts.rest, x[:1]).shape[1:])


def _matrix_product(parts: Model, x: Array, v: Float[Array, "n o"], block: int | None) -> Float[Array, "n o"]:
    """J J^T v, summing J^T v over blocks of examples."""
    leaves = leaves_of(parts.params)
    size = min(len(x), block or len(x))
    rows = in_blocks(x, size)
    filled = jnp.zeros((len(rows) * size, v.shape[1]), v.dtype).at[: len(v)].set(v).reshape(len(rows), size, -1)

    def outputs(arrays: list[Array], rows: Array) -> Array:
        return parts.apply(leaves.restore(arrays), parts.rest, rows).reshape(len(rows), -1)

    def pull(rows: Array, v: Array) -> list[Array]:
        primal, transposed = jax.vjp(lambda arrays: outputs(arrays, rows), leaves.arrays)
        return transposed(v.astype(primal.dtype))[0]

    def push(rows: Array, direction: list[Array]) -> Array:
        return jax.jvp(lambda arrays: outputs(arrays, rows), (leaves.arrays,), (direction,))[1]

    if len(rows) == 1:
        return push(x, pull(x, v))
    zero = jax.tree.map(jnp.zeros_like, leaves.arrays)
    add = lambda total, one: (jax.tree.map(jnp.add, total, pull(*one)), None)  # noqa: E731
    direction = jax.lax.scan(add, zero, (rows, filled))[0]
    return jax.lax.map(lambda rows: push(rows, direction), rows).reshape(-1, v.shape[1])[: len(v)]


def _times(parts: Model, x: Array, v: Array, outputs: str | int, block: int | None) -> Array:
    """The kernel of any layout times a vector."""
    if outputs == "full":
        return _matrix_product(parts, x, v, block)
    o = _num_outputs(parts, x)
    if outputs == "sum":
        spread = jnp.broadcast_to(v[:, None], (len(v), o))
        return _matrix_product(parts, x, spread, block).sum(1) / o
    eye = jnp.eye(o, dtype=v.dtype)
    if not isinstance(outputs, str):
        return _matrix_product(parts, x, v[:, None] * eye[outputs], block) @ eye[outputs]
    parts_of_trace = jax.lax.map(lambda e: _matrix_product(parts, x, v[:, None] * e, block) @ e, eye)
    return parts_of_trace.sum(0) / o


@precise_jit(static_argnames=("apply", "outputs", "block"))
def _product(
    apply: Any, params: Any, rest: Any, x: Array, v: Array, *, outputs: str | int, block: int | None
) -> Float[Array, "*shape"]:
    return _times(Model(apply, params, rest), x, v, outputs, block)


@precise_jit(static_argnames=("apply", "num_draws", "outputs"))
def _sketch(key: Array, apply: Any, params: Any, rest: Any, x: Array, *, num_draws: int, outputs: str | int) -> Sketch:
    leaves = leaves_of(params)

    def forward(arrays: list[Array]) -> Array:
        return apply(leaves.restore(arrays), rest, x).reshape(len(x), -1)

    def draw(key: Array) -> Array:
        keys = jax.random.split(key, len(leaves.arrays))
        signs = [jax.random.rademacher(k, w.shape, w.dtype) for k, w in zip(keys, leaves.arrays, strict=True)]
        moved = jax.jvp(forward, (leaves.arrays,), (signs,))[1]
        moved = moved.astype(jnp.promote_types(moved.dtype, jnp.float32))
        if outputs == "full":
            return jnp.einsum("no,mp->nomp", moved, moved)
        if not isinstance(outputs, str):
            return jnp.outer(moved[:, outputs], moved[:, outputs])
        rows = moved.sum(1, keepdims=True) if outputs == "sum" else moved
        return rows @ rows.T / moved.shape[1]

    def add(total: tuple[Array, Array, Array], key: Array) -> tuple[tuple[Array, Array, Array], None]:
        """Welford's update of count, mean and squared deviations."""
        count, mean, squares = total
        one = draw(key)
        new = mean + (one - mean) / (count + 1)
        return (count + 1, new, squares + (one - mean) * (one - new)), None

    keys = jax.random.split(key, num_draws)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(draw, keys[0]))
    (_, mean, squares), _ = jax.lax.scan(add, (jnp.zeros(()), zero, zero), keys)
    return Sketch(mean, jnp.sqrt(squares / (num_draws * (num_draws - 1))))


@precise_jit(static_argnames=("apply", "num", "outputs", "block", "max_steps"))
def _eigenpairs(
    key: Array, apply: Any, params: Any, rest: Any, x: Array,
    *, num: int, outputs: str | int, block: int | None, max_steps: int,
) -> EigenPairs:  # fmt: skip
    parts = Model(apply, params, rest)
    shape = (len(x), _num_outputs(parts, x)) if outputs == "full" else (len(x),)
    out = jax.eval_shape(parts.apply, params, rest, x[:1])
    dtype = jnp.promote_types(out.dtype, jnp.float32)

    def columns(matrix: Array) -> Array:
        vectors = matrix.T.reshape(-1, *shape)
        products = jax.vmap(lambda v: _times(parts, x, v, outputs, block))(vectors)
        return products.astype(dtype).reshape(len(vectors), -1).T

    start = jax.random.normal(key, (int(np.prod(shape)), num), dtype)
    values, vectors, steps = lobpcg_standard(columns, start, m=max_steps)
    residuals = jnp.linalg.norm(columns(vectors) - vectors * values, axis=0) / values[0]
    return EigenPairs(values, vectors.reshape(*shape, num), residuals, steps)
