"""How much memory will a curvature take? Known before it is begun, from shapes alone."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.errors import UnknownNameError
from repsim_jax.influence.curvature import gauss_newton_product, objective_hessian_product
from repsim_jax.influence.derivatives import measured_gradients, own_products
from repsim_jax.influence.footprints import footprint
from repsim_jax.influence.problems import Problem
from repsim_jax.influence.pseudo import part_footprint

CURVATURES = ("ekfac", "logra", "projection", "woodbury", "low-rank", "dense", "identity")
# What compiling takes, and what the allocator keeps: 75 to 500 MiB in the runs that were measured.
_COMPILER = 3 * 2**27
_MOST_WHOLE = 2048  # as in ``kronecker``


class Memory(NamedTuple):
    """Bytes, beside the model, the examples and JAX itself.

    Attributes:
        fit: While the curvature is fitted.
        curvature: Of the curvature.
        score: While influence is computed, for one block of queries.
    """

    fit: int
    curvature: int
    score: int

    @property
    def most(self) -> int:
        """The larger of the two stages."""
        return max(self.fit, self.curvature + self.score)


def memory_of(
    posed: Problem, kind: str, *, of: str = "objective", rank: int = 16, num_samples: int = 512, block: int = 32
) -> Memory:
    """Estimates the memory of a curvature and of scores in ``mode="batch"`` with it, by tracing what they compute.

    A whole batch of the objective is held at once with all its views: their activations while random gradients are
    drawn, and those activations' changes along ``block`` directions while scores are computed. Measured on a CPU with
    an MLP and a convnet, batches of 64 to 512 images: XLA's own count of the compiled programs was 1.0 to 1.5 times
    the traced one (2,863 to 2,630 MiB for 512 images of 32 x 32 and a block of 8), and 1.8 times below 60 MiB, where
    what compiling takes outweighs it; processes grew by 0.8 to 1.3 times the whole estimate.

    Args:
        posed: The problem.
        kind: "ekfac", "logra", "projection", "woodbury", "low-rank", "dense" or "identity".
        of: What the curvature is of: "objective", "alignment", or "hessian" of "dense" and "low-rank".
        rank: Of LoGra; dimension of a projection; pairs of a low-rank curvature.
        num_samples: Random gradients; rows of the Woodbury form.
        block: Queries whose gradients are held at once.

    Returns:
        The estimate.

    Raises:
        UnknownNameError: If there is no such curvature.
    """
    if kind not in CURVATURES:
        raise UnknownNameError.of("curvature", kind, CURVATURES)
    leaves = posed.leaves().arrays
    number = max(leaf.dtype.itemsize for leaf in leaves)
    p = posed.num_params()
    sides = [(int(np.prod(leaf.shape[:-1])) + 1, leaf.shape[-1]) for leaf in leaves if leaf.ndim > 1]
    whole = [min(leaf.size, _MOST_WHOLE) ** 2 for leaf in leaves if leaf.ndim < 2]
    held = {
        "ekfac": sum(k * k + f * f + k * f for k, f in sides) + sum(whole),
        "logra": sum((min(k, rank) * min(f, rank)) ** 2 + k * rank + f * rank for k, f in sides),
        "projection": rank * rank,
        "woodbury": num_samples * p + num_samples**2,
        "low-rank": rank * p,
        "dense": p * p,
        "identity": 0,
    }[kind]
    # a fit holds its sums twice (moments, then what is made from them); eigenvectors are found in float64
    times = {"dense": 3 + 2 * 8 / number, "low-rank": 4, "woodbury": 2, "ekfac": 2}.get(kind, 1)
    fitting = 0 if kind == "identity" else _COMPILER + _drawing(posed, kind, of, num_samples)
    scoring = _COMPILER + _scoring(posed, block, number)
    return Memory(int(times * held * number + fitting), int(held * number), scoring)


def _drawing(posed: Problem, kind: str, of: str, num_samples: int) -> int:
    """What the model holds while a curvature is fitted."""
    given: Any = of
    if kind not in ("dense", "low-rank"):
        return part_footprint(posed, given, num_samples=num_samples, formed=kind != "logra")
    size = 1 if of == "alignment" else posed.batch_size
    count = -(-len(posed.train) // size)
    size = -(-len(posed.train) // count)
    rows, weights = _shape(count, size, dtype=jnp.int32), _shape(count, size)
    direction = _directions(posed, 1)
    if of == "hessian":
        return footprint(objective_hessian_product, posed, rows, weights, direction)
    product: Any = gauss_newton_product
    return footprint(lambda *one: product(*one, of), posed, rows, weights, direction)


def _scoring(posed: Problem, block: int, number: int) -> int:
    """What scores of one block of queries hold: gradients, curvature divided out, and products with a whole batch."""
    n = len(posed.train)
    size = -(-n // -(-n // posed.batch_size))
    block = min(block, size)
    gradients = block * posed.num_params() * number
    queries = jax.eval_shape(lambda one: one.rows(jnp.zeros(block, jnp.int32)), posed.train)
    measured = footprint(lambda posed, one: measured_gradients(posed, one, posed.stability, size=block), posed, queries)
    shapes = _shape(1, size, dtype=jnp.int32), _shape(1, size), _shape(block, dtype=jnp.int32)
    along: Any = own_products
    products = footprint(
        lambda *one: along(*one, 1.0, mode="batch", mesh=None), posed, _directions(posed, block), *shapes
    )
    return max(measured, 4 * gradients, gradients + products)


def _shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def _directions(posed: Problem, count: int) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype) for leaf in posed.leaves().arrays]
