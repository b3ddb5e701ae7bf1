r"""What is left of curvature and influence in a few random directions of the gradients?

Gradients are projected to features :math:`\phi = P g`, whose second moment is small enough to invert.
LoGra projects both sides of every layer: Choe et al. 2024, "What is Your Data Worth to GPT?" (arXiv 2405.13954).
Projection of whole gradients: Park et al. 2023, "TRAK" (arXiv 2303.14186).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.damping import Damping
from repsim_jax.influence.problems import Of, Problem, checked_of
from repsim_jax.influence.pseudo import Drawn, Told, draws_of, flat, summed, unflat
from repsim_jax.kernels.layerwise import Layout
from repsim_jax.linalg import precise_jit


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LoGra:
    """Curvature of every layer between random directions of its inputs and of its outputs.

    Attributes:
        inputs: Projection of the inputs of each matrix, (b, k, s).
        outputs: Projection of its outputs, (b, f, t).
        moments: Second moments of the projected gradients, (b s t, b s t).
        layout: How parameters are made up of matrices.
    """

    inputs: list[Float[Array, "b k s"]]
    outputs: list[Float[Array, "b f t"]]
    moments: list[Float[Array, "r r"]]
    layout: Layout = field(metadata={"static": True})

    def features(self, gradients: Sequence[Float[Array, "m *shape"]]) -> list[Float[Array, "m r"]]:
        """Projects gradients.

        Args:
            gradients: For each parameter an array (m, *shape).

        Returns:
            Features of each matrix.
        """
        matrices = self.layout.split(gradients)
        return [_both_sides(p, q, g) for p, q, g in zip(self.inputs, self.outputs, matrices, strict=True)]

    def solve(self, gradients: Sequence[Float[Array, "m *shape"]], damping: Damping) -> list[Float[Array, "m *shape"]]:
        """Divides the curvature out between the directions; all others are dropped.

        Args:
            gradients: For each parameter an array (m, *shape).
            damping: What is added, in units of the projected curvature of each layer.

        Returns:
            Arrays of the same shapes.
        """
        return _solve_logra(self, list(gradients), damping)

    def projections(self) -> list[Float[Array, "b k s"]]:
        """What the inputs of each layer are multiplied by where they arrive, so that no gradient is formed.

        Returns:
            One array for each matrix of the layout.
        """
        return self.inputs[: len(self.layout.matrices)]

    def whitened(self, drawn: Drawn, damping: Damping) -> list[Float[Array, "uc r"]]:
        """Features whose products are those of gradients with the damped curvature divided out.

        Args:
            drawn: Both sides of gradients in every layer of ``layout``, the inputs already projected.
            damping: What is added.

        Returns:
            For each matrix so many rows as there are gradients, of up to rank squared features.
        """
        features = _features_of_sides(self.inputs, self.outputs, drawn)
        return [_whitened(moment, phi, damping) for moment, phi in zip(self.moments, features, strict=True)]


def _both_sides(inputs: jax.Array, outputs: jax.Array, gradients: Float[Array, "m b k f"]) -> Float[Array, "m r"]:
    return jnp.einsum("bks,mbkf,bft->mbst", inputs, gradients, outputs).reshape(len(gradients), -1)


@precise_jit()
def _solve_logra(curvature: LoGra, gradients: list[jax.Array], damping: Damping) -> list[jax.Array]:
    solved = []
    features = curvature.features(gradients)
    for p, q, moment, phi in zip(curvature.inputs, curvature.outputs, curvature.moments, features, strict=True):
        divided = _divided(moment, phi, damping).reshape(len(phi), p.shape[0], p.shape[2], q.shape[2])
        solved.append(jnp.einsum("bks,mbst,bft->mbkf", p, divided, q))
    return curvature.layout.joined(solved)


def _divided(moment: Float[Array, "r r"], features: Float[Array, "m r"], damping: Damping) -> Float[Array, "m r"]:
    return jax.scipy.linalg.cho_solve((_root(moment, damping), True), features.T).T


def _whitened(moment: Float[Array, "r r"], features: Float[Array, "m r"], damping: Damping) -> Float[Array, "m r"]:
    return jax.scipy.linalg.solve_triangular(_root(moment, damping), features.T, lower=True).T


def _root(moment: Float[Array, "r r"], damping: Damping) -> Float[Array, "r r"]:
    added = damping(jnp.trace(moment) / len(moment))
    added = jnp.where(added > 0, added, 1.0)  # a layer that no residual depends on has no gradient either
    return jnp.linalg.cholesky(moment + added * jnp.eye(len(moment), dtype=moment.dtype))


def logra(
    key: jax.Array, posed: Problem, *, rank: int = 16, of: Of = "objective", num_samples: int | None = 1024,
    max_units: int | None = None, on_progress: Told | None = None,
) -> LoGra:  # fmt: skip
    """Projects both sides of every layer to a few random directions, before any gradient is formed.

    Args:
        key: Random key of projections, batches and signs.
        posed: The problem.
        rank: Directions of the inputs, and of the outputs, of each layer; where a side has fewer, it is kept whole.
        of: As in ``ekfac``.
        num_samples: As in ``ekfac``; more than rank squared, or the second moments are singular but for the damping.
        max_units: As in ``ekfac``.
        on_progress: Called as ``on_progress(done, all)``.

    Returns:
        The curvature.

    Raises:
        BadArrayError: If the rank, or ``num_samples``, is below 1.
        UnknownNameError: If there is no such ``of``.

    Source:
        arXiv 2405.13954, section 3.1, with random projections.
    """
    checked_of(of, ("objective", "alignment"))
    if rank < 1:
        raise BadArrayError(f"logra needs rank >= 1, got {rank}.")
    key_projection, key_draws = jax.random.split(key)
    draws = draws_of(key_draws, posed, of, num_samples=num_samples, max_units=max_units)
    shapes = jax.eval_shape(draws.layout.split, [leaf[None] for leaf in posed.leaves().arrays])
    inputs, outputs = [], []
    for number, shape in enumerate(shapes):
        key_inputs, key_outputs = jax.random.split(jax.random.fold_in(key_projection, number))
        _, b, k, f = shape.shape
        most = rank if f > 1 else rank * rank  # what is in no product has one side only
        inputs.append(_directions(key_inputs, (b, k), most, shape.dtype))
        outputs.append(_directions(key_outputs, (b, f), rank, shape.dtype))
    state, projections = (inputs, outputs), inputs[: len(draws.layout.matrices)]
    moments = summed(posed, draws, _projected_moments, state, projections=projections, on_progress=on_progress)
    return LoGra(inputs, outputs, moments, draws.layout)


def _directions(key: jax.Array, shape: tuple[int, int], rank: int, dtype: Any) -> Float[Array, "b k s"]:
    """Random directions that keep squared lengths on average; all of them, where there are no more."""
    b, k = shape
    if k <= rank:
        return jnp.tile(jnp.eye(k, dtype=dtype), (b, 1, 1))
    return jax.random.normal(key, (b, k, rank), dtype) / rank**0.5


def _projected_moments(state: Any, drawn: Drawn, _: Layout) -> list[jax.Array]:
    return [phi.T @ phi for phi in _features_of_sides(state[0], state[1], drawn)]


def _features_of_sides(inputs: list[Any], outputs: list[jax.Array], drawn: Drawn) -> list[Float[Array, "uc r"]]:
    """Features of gradients in every layer, from both sides; the inputs have been projected where they arrived."""
    features = []
    for side, q in zip(drawn.sides, outputs, strict=False):
        signals = jnp.einsum("ucbsf,bft->ucbst", side.signals, q)
        phi = jnp.einsum("ubsi,ucbst->ucbit", side.inputs, signals)
        features.append(phi.reshape(phi.shape[0] * phi.shape[1], -1))
    of_rest = zip(drawn.rest, *(one[len(drawn.sides) :] for one in (inputs, outputs)), strict=True)
    return features + [_both_sides(p, q, gradient.reshape(-1, *gradient.shape[2:])) for gradient, p, q in of_rest]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RandomProjection:
    """Curvature between random directions of whole gradients; the directions are drawn anew wherever they are needed.

    Attributes:
        key: Of the directions.
        moment: Second moment of the projected gradients, (k, k).
    """

    key: jax.Array
    moment: Float[Array, "k k"]

    def features(self, gradients: Sequence[Float[Array, "m *shape"]]) -> Float[Array, "m k"]:
        """Projects gradients.

        Args:
            gradients: For each parameter an array (m, *shape).

        Returns:
            Features.
        """
        return _projected(self.key, flat(gradients), len(self.moment))

    def solve(self, gradients: Sequence[Float[Array, "m *shape"]], damping: Damping) -> list[Float[Array, "m *shape"]]:
        """Divides the curvature out between the directions; all others are dropped.

        Args:
            gradients: For each parameter an array (m, *shape).
            damping: What is added, in units of the projected curvature.

        Returns:
            Arrays of the same shapes.
        """
        return unflat(_solve_projection(self, flat(gradients), damping), gradients)


@precise_jit()
def _solve_projection(curvature: RandomProjection, rows: Float[Array, "m p"], damping: Damping) -> Float[Array, "m p"]:
    k = len(curvature.moment)
    divided = _divided(curvature.moment, _projected(curvature.key, rows, k), damping)

    def add(total: jax.Array, one: Any) -> tuple[jax.Array, None]:
        number, column = one
        return total + column[:, None] * _signs(curvature.key, number, rows)[None, :] / k**0.5, None

    return jax.lax.scan(add, jnp.zeros_like(rows), (jnp.arange(k), divided.T))[0]


def _projected(key: jax.Array, rows: Float[Array, "m p"], k: int) -> Float[Array, "m k"]:
    return jax.lax.map(lambda number: rows @ _signs(key, number, rows), jnp.arange(k)).T / k**0.5


def _signs(key: jax.Array, number: jax.Array, rows: Float[Array, "m p"]) -> Float[Array, " p"]:
    return jax.random.rademacher(jax.random.fold_in(key, number), (rows.shape[1],), rows.dtype)


def random_projection(
    key: jax.Array, posed: Problem, *, dimension: int = 512, of: Of = "objective", num_samples: int | None = 2048,
    max_units: int | None = None, on_progress: Told | None = None,
) -> RandomProjection:  # fmt: skip
    """Projects whole gradients to random signs, as TRAK does, for labels are not needed either.

    Args:
        key: Random key of projections, batches and signs.
        posed: The problem.
        dimension: Directions.
        of: As in ``ekfac``.
        num_samples: As in ``ekfac``; more than the dimension, or the second moment is singular but for the damping.
        max_units: As in ``ekfac``.
        on_progress: Called as ``on_progress(done, all)``.

    Returns:
        The curvature.

    Raises:
        BadArrayError: If the dimension, or ``num_samples``, is below 1.
        UnknownNameError: If there is no such ``of``.

    Source:
        arXiv 2303.14186, section 3.

    Differs:
        The second moment is of random gradients of the curvature, not of the training examples' own; no ensemble of
        models, and no soft threshold.
    """
    checked_of(of, ("objective", "alignment"))
    if dimension < 1:
        raise BadArrayError(f"random_projection needs dimension >= 1, got {dimension}.")
    key_projection, key_draws = jax.random.split(key)
    draws = draws_of(key_draws, posed, of, num_samples=num_samples, max_units=max_units)
    state = (key_projection, jnp.zeros(dimension, posed.leaves().arrays[0].dtype))
    moment = summed(posed, draws, _feature_moment, state, on_progress=on_progress)
    return RandomProjection(key_projection, moment)


def _feature_moment(state: Any, drawn: Drawn, layout: Layout) -> jax.Array:
    key, zeros = state
    features = _projected(key, flat(layout.joined(drawn.gradients())), len(zeros))
    return features.T @ features
