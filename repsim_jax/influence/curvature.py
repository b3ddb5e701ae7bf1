r"""What does a gradient become when curvature is divided out, :math:`(C + \lambda)^{-1} g`? Protocol, and exact forms.

Koh and Liang 2017, "Understanding Black-box Predictions via Influence Functions" (arXiv 1703.04730), section 2.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.damping import Damping
from repsim_jax.influence.problems import Of, Problem, checked_of, in_batches
from repsim_jax.influence.pseudo import Told, drawn_rows, draws_of, flat, unflat
from repsim_jax.linalg import precise_jit

# Above this many parameters a dense matrix does not fit into a few GiB, nor its eigenvectors into an hour.
_MOST_DENSE = 20_000


class Curvature(Protocol):
    """What curvature can do."""

    def solve(self, gradients: Sequence[Float[Array, "m *shape"]], damping: Damping) -> list[Float[Array, "m *shape"]]:
        """Divides the damped curvature out of m gradients.

        Args:
            gradients: For each parameter an array (m, *shape).
            damping: What is added.

        Returns:
            Arrays of the same shapes.
        """
        ...


class Identity:
    """No curvature: influence is the product of gradients, as TracIn has it at one checkpoint, without any damping."""

    def solve(self, gradients: Sequence[Float[Array, "m *shape"]], damping: Damping) -> list[Float[Array, "m *shape"]]:
        """Leaves gradients as they are.

        Args:
            gradients: For each parameter an array (m, *shape).
            damping: Not used.

        Returns:
            The gradients.
        """
        del damping
        return list(gradients)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Eigen:
    """Curvature by its eigenvectors; whatever they leave out has curvature zero.

    Attributes:
        values: (k,) eigenvalues >= 0.
        vectors: (p, k) orthonormal.
        mean: Mean eigenvalue over all p directions, for relative damping.
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "p k"]
    mean: Float[Array, ""]

    def solve(self, gradients: Sequence[Float[Array, "m *shape"]], damping: Damping) -> list[Float[Array, "m *shape"]]:
        """Divides by eigenvalues in their directions, and by the damping alone in all others.

        Args:
            gradients: For each parameter an array (m, *shape).
            damping: What is added.

        Returns:
            Arrays of the same shapes.
        """
        return unflat(_solve_eigen(self, flat(gradients), damping), gradients)


@precise_jit()
def _solve_eigen(curvature: Eigen, rows: Float[Array, "m p"], damping: Damping) -> Float[Array, "m p"]:
    added = damping(curvature.mean)
    along = rows @ curvature.vectors
    if curvature.vectors.shape[0] == curvature.vectors.shape[1]:
        return (along / (curvature.values + added)) @ curvature.vectors.T
    gains = 1 / (curvature.values + added) - 1 / added
    return rows / added + (along * gains) @ curvature.vectors.T


def dense(key: jax.Array, posed: Problem, *, of: Literal["objective", "alignment", "hessian"] = "objective") -> Eigen:
    r"""The exact curvature, for models of up to 20,000 parameters: what approximations are compared with.

    Args:
        key: Random key; deals examples into batches.
        posed: The problem.
        of: "objective", the generalized Gauss-Newton matrix of the training objective; "alignment", that of the
            stability of views; "hessian", the Hessian of the objective with the absolute values of its eigenvalues,
            which are negative in some directions.

    Returns:
        Eigenvalues and eigenvectors, in float64 where the parameters are.

    Raises:
        BadArrayError: If there are more parameters.
        UnknownNameError: If there is no such ``of``.
    """
    checked_of(of, ("objective", "alignment", "hessian"))
    p = posed.num_params()
    if p > _MOST_DENSE:
        raise BadArrayError(
            f"dense curvature is for at most {_MOST_DENSE} parameters, got {p}. Take ekfac or low_rank."
        )
    key_batches, _ = jax.random.split(key)  # the batches that other curvatures deal from this key
    batches = in_batches(key_batches, len(posed.train), 1 if of == "alignment" else posed.batch_size)
    matrix = np.asarray(_matrix(posed, *map(jnp.asarray, batches), of=of))
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return Eigen(jnp.asarray(np.abs(values)), jnp.asarray(vectors), jnp.asarray(np.abs(values).mean()))


@precise_jit(static_argnames=("of",))
def _matrix(posed: Problem, rows: jax.Array, weights: jax.Array, *, of: str) -> Float[Array, "p p"]:
    """One product with a unit vector after the other: all at once would need a copy of the network for each."""
    arrays = posed.leaves().arrays
    like = [array[None] for array in arrays]
    eye = jnp.eye(posed.num_params(), dtype=arrays[0].dtype)

    def row(e: Float[Array, " p"]) -> Float[Array, " p"]:
        if of == "hessian":
            return objective_hessian_product(posed, rows, weights, unflat(e[None], like))
        return gauss_newton_product(posed, rows, weights, unflat(e[None], like), of)

    return jax.lax.map(row, eye)


def objective_hessian_product(
    posed: Problem, rows: jax.Array, weights: jax.Array, direction: list[Float[Array, "1 *shape"]]
) -> Float[Array, " p"]:
    """The Hessian of the objective, the mean over batches, times a vector.

    Args:
        posed: The problem.
        rows: (k, b) numbers of the examples of each batch.
        weights: (k, b) of the examples.
        direction: For each parameter an array (1, *shape).

    Returns:
        (p,) array.
    """
    arrays = posed.leaves().arrays

    def gradient(arrays: Any, batch: Any) -> Any:
        unit = posed.unit(*batch)
        return jax.grad(lambda a: posed.loss(a, unit.seen, unit.weights))(arrays)

    def product(batch: Any) -> Any:
        return jax.jvp(lambda a: gradient(a, batch), (arrays,), ([one[0] for one in direction],))[1]

    found = jax.tree.map(lambda leaf: leaf.mean(0), jax.lax.map(product, (rows, weights)))
    return flat([leaf[None] for leaf in found])[0]


def gauss_newton_product(
    posed: Problem, rows: jax.Array, weights: jax.Array, direction: list[Float[Array, "1 *shape"]], of: Any
) -> Float[Array, " p"]:
    """The Gauss-Newton matrix times a vector, without either.

    Args:
        posed: The problem.
        rows: (k, b) numbers of the examples of each unit.
        weights: (k, b) of the examples.
        direction: For each parameter an array (1, *shape).
        of: "objective" or "alignment".

    Returns:
        (p,) array, the mean over units of J^T J v.
    """
    arrays = posed.leaves().arrays

    def of_unit(one: Any) -> Any:
        unit = posed.unit(*one)
        residuals = lambda a: posed.residuals(a, unit, of)  # noqa: E731
        moved = jax.jvp(residuals, (arrays,), ([v[0] for v in direction],))[1]
        return jax.vjp(residuals, arrays)[1](moved)[0]

    size = 64 if of == "alignment" else 1
    found = jax.tree.map(lambda leaf: leaf.mean(0), jax.lax.map(of_unit, (rows, weights), batch_size=size))
    return flat([leaf[None] for leaf in found])[0]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    r"""Curvature :math:`R^T R` of few rows, divided out by the Woodbury identity in the space of the rows.

    .. math:: (R^T R + \lambda)^{-1} g = (g - R^T (R R^T + \lambda)^{-1} R g) / \lambda

    Attributes:
        rows: R, (r, p).
        gram: R R^T, (r, r).
    """

    rows: Float[Array, "r p"]
    gram: Float[Array, "r r"]

    def solve(self, gradients: Sequence[Float[Array, "m *shape"]], damping: Damping) -> list[Float[Array, "m *shape"]]:
        """Solves a system of r equations.

        Args:
            gradients: For each parameter an array (m, *shape).
            damping: What is added.

        Returns:
            Arrays of the same shapes.
        """
        return unflat(_solve_rows(self, flat(gradients), damping), gradients)


@precise_jit()
def _solve_rows(curvature: Rows, rows: Float[Array, "m p"], damping: Damping) -> Float[Array, "m p"]:
    r, p = curvature.rows.shape
    added = damping(jnp.trace(curvature.gram) / p)
    factor = jax.scipy.linalg.cho_factor(curvature.gram + added * jnp.eye(r, dtype=curvature.gram.dtype))
    inner = jax.scipy.linalg.cho_solve(factor, curvature.rows @ rows.T)
    return (rows - inner.T @ curvature.rows) / added


def woodbury(
    key: jax.Array, posed: Problem, *, of: Of = "alignment", num_samples: int | None = None,
    on_progress: Told | None = None,
) -> Rows:  # fmt: skip
    """The exact Gauss-Newton matrix of a small set of examples, whatever the number of parameters.

    Args:
        key: Random key of batches and signs.
        posed: The problem.
        of: "alignment" (rows: examples x views x features) or "objective" (batches x all its residuals, which are the
            pairs of views for contrastive losses).
        num_samples: None takes every residual; a number takes so many random combinations, for more residuals than fit.
        on_progress: Called as ``on_progress(done, all)``.

    Returns:
        The curvature; it holds rows x parameters numbers.

    Raises:
        UnknownNameError: If there is no such ``of``.
        BadArrayError: If ``num_samples`` is below 1.
    """
    checked_of(of, ("objective", "alignment"))
    rows = jnp.asarray(drawn_rows(posed, draws_of(key, posed, of, num_samples=num_samples), on_progress))
    return Rows(rows, _gram(rows))


@precise_jit()
def _gram(rows: Float[Array, "r p"]) -> Float[Array, "r r"]:
    return rows @ rows.T
