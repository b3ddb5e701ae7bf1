r"""How is curvature divided out of the gradients of large networks? Layer by layer, in the eigenbases of both sides.

George et al. 2018, "Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis" (arXiv 1806.03884);
for influence: Grosse et al. 2023 (arXiv 2308.03296).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.influence.damping import Damping
from repsim_jax.influence.problems import Of, Problem, checked_of
from repsim_jax.influence.pseudo import Drawn, Told, draws_of, summed
from repsim_jax.kernels.layerwise import Layout, Sides
from repsim_jax.linalg import mirrored, precise_jit, upper_strips

# A parameter that is in no product of layers (of LayerNorm, as a rule) has its whole matrix up to this size.
_MOST_WHOLE = 2048


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EKFAC:
    r"""Curvature of every layer, :math:`(U_A \otimes U_S) \, \mathrm{diag}(\Lambda) \, (U_A \otimes U_S)^T`.

    :math:`U_A` and :math:`U_S` are eigenvectors of the second moments of what comes into and back to a layer, and
    :math:`\Lambda` are the second moments of gradients in this basis. A parameter outside of products has its own whole
    matrix, or its diagonal above 2048 numbers.

    Attributes:
        inputs: U_A of each matrix, (b, k, k); None for the identity.
        outputs: U_S of each matrix, (b, f, f).
        values: Lambda of each matrix, (b, k, f).
        layout: How parameters are made up of matrices.
    """

    inputs: list[Any]
    outputs: list[Float[Array, "b f f"]]
    values: list[Float[Array, "b k f"]]
    layout: Layout = field(metadata={"static": True})

    def solve(self, gradients: Sequence[Float[Array, "m *shape"]], damping: Damping) -> list[Float[Array, "m *shape"]]:
        """Divides by the eigenvalues of every layer, damped by a share of the layer's own mean.

        Args:
            gradients: For each parameter an array (m, *shape).
            damping: What is added.

        Returns:
            Arrays of the same shapes.
        """
        return _solve(self, list(gradients), damping)

    def projections(self) -> None:
        """All inputs of layers are needed as they are."""

    def whitened(self, drawn: Drawn, damping: Damping) -> list[Float[Array, "uc r"]]:
        """Gradients whose products are those with the damped curvature divided out.

        Args:
            drawn: Both sides of gradients in every layer of ``layout``.
            damping: What is added.

        Returns:
            For each matrix so many rows as there are gradients.
        """
        found = []
        for turned, values in zip(_all_turned(self.inputs, self.outputs, drawn), self.values, strict=True):
            damped = (values + damping(values.mean())).swapaxes(1, 2)[:, None, None]
            gains = jnp.where(damped > 0, jax.lax.rsqrt(jnp.where(damped > 0, damped, 1.0)), 0.0)
            found.append(jnp.moveaxis(turned * gains, 0, 2).reshape(turned.shape[1] * turned.shape[2], -1))
        return found


def ekfac(
    key: jax.Array, posed: Problem, *, of: Of = "objective", num_samples: int | None = 512,
    max_units: int | None = None, block: int | None = None, mesh: jax.sharding.Mesh | None = None,
    on_progress: Told | None = None,
) -> EKFAC:  # fmt: skip
    """Fits the curvature of every layer on random gradients, in two passes.

    Dense and convolution layers are found in any model (``repsim_jax.kernels.layerwise``), with their biases.

    Args:
        key: Random key of batches and signs.
        posed: The problem.
        of: "objective", the generalized Gauss-Newton matrix of the training objective, or "alignment", that of the
            stability of views.
        num_samples: Random gradients, at least one of each example ("alignment") or batch ("objective"); more are
            taken so that each gives the same number. None takes each residual by itself: exact, for small problems.
        max_units: Examples ("alignment") or batches ("objective") that are drawn at random to fit on; None: all.
        block: Units times gradients that are computed at once; None: what 32 MiB hold on a CPU, 256 MiB elsewhere.
        mesh: Devices over which examples or batches are spread, whatever its axes.
        on_progress: Called as ``on_progress(done, all)``, in both passes.

    Returns:
        The curvature.

    Raises:
        UnknownNameError: If there is no such ``of``.
        BadArrayError: If ``num_samples`` or ``block`` is below 1.

    Source:
        arXiv 1806.03884, algorithm 1.

    Differs:
        Positions of a convolution, and views, are not taken to be independent: Lambda is of the summed gradient.
    """
    checked_of(of, ("objective", "alignment"))
    draws = draws_of(
        key,
        posed,
        of,
        num_samples=num_samples,
        max_units=max_units,
        block=block,
        multiple=1 if mesh is None else mesh.devices.size,
    )
    first, second = _two_passes(on_progress)
    moments = summed(posed, draws, _moments, (), mesh=mesh, on_progress=first)
    inputs, outputs = [_basis(a) for a, _ in moments], [_basis(s) for _, s in moments]
    values = summed(posed, draws, _squares, (inputs, outputs), mesh=mesh, on_progress=second)
    return EKFAC(inputs, outputs, values, draws.layout)


def _two_passes(on_progress: Told | None) -> tuple[Told | None, Told | None]:
    if on_progress is None:
        return None, None
    return (lambda done, each: on_progress(done, 2 * each)), (lambda done, each: on_progress(each + done, 2 * each))


def _moments(_: Any, drawn: Drawn, __: Layout) -> list[tuple[Any, list[jax.Array]]]:
    """Strips of second moments of inputs and of signals, for each matrix; None where the basis is the identity."""
    return [_of_sides(side) for side in drawn.sides] + [_of_whole(gradient) for gradient in drawn.rest]


def _of_sides(side: Sides) -> tuple[list[jax.Array], list[jax.Array]]:
    # what comes in is the same for every combination of residuals
    count = side.signals.shape[1]
    return [count * strip for strip in _second_moments(side.inputs)], _second_moments(side.signals)


def _second_moments(rows: Float[Array, "*m b s k"]) -> list[Float[Array, "b i j"]]:
    """Sums over all axes but those of blocks: one product, which takes a quarter of the time of a sum of products."""
    by_block = jnp.moveaxis(rows, -3, 0)
    by_block = by_block.reshape(len(by_block), -1, by_block.shape[-1])
    if len(by_block) == 1:
        return [strip[None] for strip in upper_strips(by_block[0])]
    return jax.vmap(upper_strips)(by_block)


def _of_whole(gradient: Float[Array, "u c 1 k 1"]) -> tuple[Any, list[jax.Array]]:
    one = [jnp.ones((1, 1, 1), gradient.dtype)]
    if gradient.shape[3] > _MOST_WHOLE:
        return None, one
    return _second_moments(jnp.moveaxis(gradient, -2, -1)), one


def _squares(state: Any, drawn: Drawn, _: Layout) -> list[jax.Array]:
    turned = _all_turned(state[0], state[1], drawn)
    return [jnp.square(one).sum((1, 2)).swapaxes(1, 2) for one in turned]


def _all_turned(inputs: list[Any], outputs: list[jax.Array], drawn: Drawn) -> list[Float[Array, "b u c f k"]]:
    """Random gradients in the eigenbases, outputs before inputs."""
    whole = [jnp.moveaxis(gradient, 2, 0).swapaxes(-1, -2) for gradient in drawn.rest]
    sides = zip(drawn.sides, inputs, outputs, strict=False)
    rest = zip(whole, inputs[len(drawn.sides) :], strict=True)
    return [_turned(*one) for one in sides] + [
        gradient if u is None else jnp.einsum("bucfk,bkl->bucfl", gradient, u) for gradient, u in rest
    ]


def _turned(side: Sides, inputs: Any, outputs: jax.Array) -> Float[Array, "b u c f k"]:
    """Turns each side before the gradient is formed, where positions are fewer than what it would have to turn then."""
    arrived, signals = jnp.moveaxis(side.inputs, 1, 0), jnp.moveaxis(side.signals, 2, 0)
    _, c, s, f = signals.shape[1:]
    signals_first, inputs_first = s < arrived.shape[-1], s < c * f
    if signals_first:
        signals = jnp.einsum("bucsf,bfg->bucsg", signals, outputs)
    if inputs_first:
        arrived = jnp.einsum("busk,bkl->busl", arrived, inputs)
    gradient = jnp.einsum("bucsf,busk->bucfk", signals, arrived)
    if not signals_first:
        gradient = jnp.einsum("bucfk,bfg->bucgk", gradient, outputs)
    return gradient if inputs_first else jnp.einsum("bucfk,bkl->bucfl", gradient, inputs)


def _rotated(inputs: Any, outputs: jax.Array, gradients: Float[Array, "c b k f"]) -> Float[Array, "c b k f"]:
    turned = jnp.einsum("cbkf,bfg->cbkg", gradients, outputs)
    return turned if inputs is None else jnp.einsum("bkl,cbkg->cblg", inputs, turned)


def _back(inputs: Any, outputs: jax.Array, rotated: Float[Array, "c b k f"]) -> Float[Array, "c b k f"]:
    turned = jnp.einsum("cbkg,bfg->cbkf", rotated, outputs)
    return turned if inputs is None else jnp.einsum("bkl,cblg->cbkg", inputs, turned)


def _basis(strips: Any) -> Any:
    """Eigenvectors, in float64 on the host: those of small eigenvalues are noise in float32."""
    if strips is None:
        return None
    moment = np.asarray(jax.vmap(mirrored)(strips))
    return jnp.asarray(np.linalg.eigh(moment.astype(np.float64))[1], moment.dtype)


@precise_jit()
def _solve(curvature: EKFAC, gradients: list[jax.Array], damping: Damping) -> list[jax.Array]:
    solved = []
    matrices = curvature.layout.split(gradients)
    for u, v, values, matrix in zip(curvature.inputs, curvature.outputs, curvature.values, matrices, strict=True):
        damped = values + damping(values.mean())
        # a layer that no residual depends on has no curvature, and no gradient either
        rotated = jnp.where(damped > 0, _rotated(u, v, matrix) / jnp.where(damped > 0, damped, 1.0), 0.0)
        solved.append(_back(u, v, rotated))
    return curvature.layout.joined(solved)
