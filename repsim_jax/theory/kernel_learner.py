"""What does contrastive learning give where the kernel never changes? Gradient flow of any loss, by kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from repsim_jax._compat import is_traced
from repsim_jax.errors import BadArrayError, DivergedError, RepsimError, UnknownNameError
from repsim_jax.linalg import unit_rows
from repsim_jax.losses import barlow_twins, spectral_contrastive, supervised_contrastive, vicreg
from repsim_jax.theory.integrator import load_diffrax

PairLoss = Literal["linear", "nt_xent", "spectral", "barlow_twins", "vicreg"]
# The error of an integration is measured against one with ten times its tolerance.
_COARSER = 10.0


@dataclass(frozen=True)
class PairObjective:
    r"""A loss of 2n embeddings: n examples, and after them their n other views; all other views are negatives.

    * ``linear``: :math:`-\frac1n \sum_i z_i^T z_i^+ + \frac{1}{n(n-1)} \sum_{i \neq j} z_i^T z_j^+`;
    * ``nt_xent``: of SimCLR; ``spectral``, ``barlow_twins``, ``vicreg``: as in ``repsim_jax.losses``.

    With ``cosine`` similarity all of them see unit vectors; ``nt_xent`` is published with it.

    Attributes:
        loss: One of these.
        similarity: ``dot`` or ``cosine``.
        temperature: :math:`\tau` > 0 of ``nt_xent``.
    """

    loss: PairLoss = "nt_xent"
    similarity: Literal["dot", "cosine"] = "cosine"
    temperature: float = 0.5

    def __post_init__(self) -> None:
        if self.loss not in _PAIR_LOSSES:
            raise UnknownNameError.of("loss of pairs", str(self.loss), _PAIR_LOSSES)
        if self.similarity not in ("dot", "cosine"):
            raise UnknownNameError.of("similarity", str(self.similarity), ("dot", "cosine"))
        if not 0 < self.temperature < float("inf"):
            raise BadArrayError(f"PairObjective needs a temperature > 0, got {self.temperature!r}.")

    def __call__(self, f: Float[Array, "n2 k"]) -> Float[Array, ""]:
        """The loss.

        Args:
            f: Embeddings of n examples, and after them of their n other views.

        Returns:
            A scalar.

        Raises:
            BadArrayError: If the number of rows is odd.
        """
        if len(f) % 2:
            raise BadArrayError(
                f"PairObjective needs n examples and after them their n other views, got {len(f)} rows, an odd number."
            )
        z, z_pos = jnp.split(unit_rows(f) if self.similarity == "cosine" else f, 2)
        return _PAIR_LOSSES[self.loss](z, z_pos, self.temperature)


def pair_contrast(num_pairs: int) -> np.ndarray:
    r"""The matrix A' of the linear loss of pairs by dot product: :math:`L = -\mathrm{tr}(f^T A' f)`.

    Its quadratic form is the cross-covariance of the two views: contrastive PCA of pairs is PCA of what views share.

    Args:
        num_pairs: n, at least 2.

    Returns:
        (2n, 2n): :math:`H / (2 (n - 1))` between examples and other views, with H = I - 11^T/n.

    Raises:
        BadArrayError: If there are fewer than two pairs.
    """
    if num_pairs < 2:
        raise BadArrayError(f"pair_contrast needs two pairs or more (negatives are the others), got {num_pairs}.")
    between = (np.eye(num_pairs) - 1.0 / num_pairs) / (2.0 * (num_pairs - 1))
    nothing = np.zeros_like(between)
    return np.block([[nothing, between], [between, nothing]])


class KernelFlow(NamedTuple):
    r"""Gradient flow under a constant kernel, :math:`\dot f = -\Theta \, dL/df`, looked at now and then.

    Attributes:
        times: (t,) when it was looked at.
        outputs: (t, n, k) embeddings of the points.
        losses: (t,) values.
        coefficients: (t, n, k) integrals of dL/df: all that new points need.
        error: Largest relative difference of the embeddings at any look from those of ten times the tolerance: an
            upper bound of their error, if the method converges.
        num_steps: Steps that were taken.
        converged: Whether the horizon was reached; if not, the looks end where the integration did.
    """

    times: np.ndarray
    outputs: np.ndarray
    losses: np.ndarray
    coefficients: np.ndarray
    error: float
    num_steps: int
    converged: bool

    def embed(self, cross: Float[ArrayLike, "m n"], start: Float[ArrayLike, "m k"], *, look: int = -1) -> np.ndarray:
        r"""The embeddings of new points, :math:`f(x) = f_0(x) - \Theta(x, X) \, c`.

        Args:
            cross: Kernel of the new points with those of the flow.
            start: Embeddings of the new points at the start.
            look: At which look.

        Returns:
            (m, k).
        """
        return np.asarray(start) - np.asarray(cross) @ self.coefficients[look]


def kernel_flow(
    objective: Callable[[Float[Array, "n k"]], Float[Array, ""]],
    kernel: Float[ArrayLike, "n n"],
    start: Float[ArrayLike, "n k"],
    *,
    num_records: int = 20,
    max_steps: int = 4096,
    allow_partial: bool = False,
    horizon: float = 1.0,
    tolerance: float = 1e-5,
) -> KernelFlow:
    r"""Integrates :math:`\dot f = -\Theta \, dL/df` with Tsitouras's method of order five and steps of adapted size.

    An infinitely wide network under gradient flow does just that, with its NTK for :math:`\Theta`, the identity over
    outputs; a linear head on frozen features does it with their Gram matrix.

    Args:
        objective: Loss of the embeddings, such as ``Objective`` of triplets or ``PairObjective`` of pairs; hashable,
            one compiled program for each.
        kernel: Kernel of the points with themselves: linear, analytic (``kernels.mlp_kernels``) or of a model
            (``kernels.ntk``).
        start: Embeddings at the start: of the network itself, or ``random_features`` times Gaussian weights.
        num_records: How often it is looked at, evenly.
        max_steps: Where to give up.
        allow_partial: Whether a flow that ends before the horizon, but after its first look, is returned; else it is
            an error.
        horizon: Time at the end.
        tolerance: Relative error that a step may leave in the embeddings, > 0; below 1e-6 in float64 only.

    Returns:
        The flow, with the error of its integration.

    Raises:
        BadArrayError: If kernel and start do not fit, are not finite, or a number is out of range.
        RepsimError: If the loss has no finite gradient at the start.
        DivergedError: If the flow ends before the horizon.
        MissingPackageError: If diffrax is not installed.

    Source:
        Jacot et al. 2018, arXiv 1806.07572, section 4.
    """
    theta, f = _checked(kernel, start, horizon, tolerance, num_records)
    if not bool(jnp.isfinite(jax.grad(objective)(f)).all()):
        raise RepsimError(
            "kernel_flow needs a loss with a finite gradient at the start; got NaN or infinity. Rows of zeros have no "
            "cosine, and constant features no correlation: start from other embeddings."
        )
    run = partial(_integrate, objective, theta, f, horizon, num_records=num_records, max_steps=max_steps)
    coarse, fine = run(tolerance * _COARSER), run(tolerance)
    looks = int(min(coarse.reached.sum(), fine.reached.sum()))
    if looks < num_records and not (allow_partial and looks):
        raise DivergedError(
            f"kernel_flow did not reach time {horizon:g} in {max_steps} steps of tolerance {tolerance:g}, but "
            f"{horizon * looks / num_records:g}: the embeddings grow beyond bounds, or one passes through zero, where "
            "a cosine has no slope. Shorten the horizon, take more outputs, or allow_partial=True."
        )
    difference = jnp.linalg.norm((fine.outputs - coarse.outputs)[:looks], axis=(1, 2))
    return KernelFlow(
        *(np.asarray(leaf)[:looks] for leaf in (fine.times, fine.outputs, fine.losses, fine.coefficients)),
        error=float(jnp.max(difference / jnp.linalg.norm(fine.outputs[:looks], axis=(1, 2)))),
        num_steps=int(fine.num_steps),
        converged=looks == num_records,
    )


class _Integrated(NamedTuple):
    times: jax.Array
    outputs: jax.Array
    losses: jax.Array
    coefficients: jax.Array
    num_steps: jax.Array
    reached: jax.Array


@partial(jax.jit, static_argnames=("objective", "num_records", "max_steps"))
def _integrate(
    objective: Callable[[jax.Array], jax.Array], kernel: jax.Array, start: jax.Array, horizon: float, tolerance: float,
    *, num_records: int, max_steps: int,
) -> _Integrated:  # fmt: skip
    diffrax = load_diffrax()

    def slope(_: Any, state: tuple[jax.Array, jax.Array], __: None) -> tuple[jax.Array, jax.Array]:
        by_outputs = jax.grad(objective)(state[0])
        return -kernel @ by_outputs, by_outputs

    def worst(scaled: tuple[jax.Array, jax.Array]) -> jax.Array:
        # The coefficients follow from the embeddings, and have no scale of their own.
        return jnp.sqrt(jnp.mean(jnp.square(scaled[0])))

    times = horizon * jnp.arange(1, num_records + 1, dtype=start.dtype) / num_records
    typical = jnp.sqrt(jnp.mean(jnp.square(start)))
    # Falls with the tolerance as steps of order five do: were the steps of two tolerances the same, they would seem
    # exact.
    first = times[0] * tolerance**0.2
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope), diffrax.Tsit5(), t0=0.0, t1=times[-1], dt0=first, y0=(start, jnp.zeros_like(start)),
        saveat=diffrax.SaveAt(ts=times), max_steps=max_steps, throw=False,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance * typical, norm=worst),
    )  # fmt: skip
    outputs, coefficients = solution.ys
    # Looks that the integration did not come to are infinite.
    reached = jnp.isfinite(outputs).all((1, 2))
    losses = jax.lax.map(objective, outputs)
    return _Integrated(times, outputs, losses, coefficients, solution.stats["num_accepted_steps"], reached)


def _checked(
    kernel: ArrayLike, start: ArrayLike, horizon: float, tolerance: float, num_records: int
) -> tuple[jax.Array, jax.Array]:
    theta, f = jnp.asarray(kernel), jnp.asarray(start)
    if theta.ndim != 2 or theta.shape[0] != theta.shape[1] or f.ndim != 2 or len(f) != len(theta):
        raise BadArrayError(
            f"kernel_flow needs a kernel (n, n) and embeddings (n, k) of the same points, got {theta.shape} and "
            f"{f.shape}. A kernel (n, k, n, k) over outputs is averaged by kernels.ntk(..., outputs='trace')."
        )
    if not is_traced(theta) and not bool(jnp.isfinite(theta).all() & jnp.isfinite(f).all()):
        raise BadArrayError("kernel_flow needs a finite kernel and start, got NaN or infinity. Leave those points out.")
    for name, value in (("horizon", horizon), ("tolerance", tolerance), ("num_records", num_records)):
        if not 0 < value < float("inf"):
            raise BadArrayError(f"kernel_flow needs {name} > 0, got {value!r}.")
    if type(num_records) is not int:
        raise BadArrayError(f"kernel_flow needs a whole number num_records, got {num_records!r}.")
    dtype = jnp.promote_types(jnp.promote_types(theta.dtype, f.dtype), jnp.float32)
    return theta.astype(dtype), f.astype(dtype)


def _linear(z: jax.Array, z_pos: jax.Array, _: float) -> jax.Array:
    n = len(z)
    products = z @ z_pos.T
    positives = jnp.diagonal(products).sum()
    return -positives / n + (products.sum() - positives) / (n * (n - 1))


def _nt_xent(z: jax.Array, z_pos: jax.Array, temperature: float) -> jax.Array:
    both = jnp.concatenate([z, z_pos])
    positives = jnp.roll(jnp.eye(len(both), dtype=both.dtype), len(z), axis=1)
    return supervised_contrastive(both @ both.T, positives, temperature=temperature)


_PAIR_LOSSES: dict[str, Callable[[jax.Array, jax.Array, float], jax.Array]] = {
    "linear": _linear,
    "nt_xent": _nt_xent,
    "spectral": lambda z, pos, _: spectral_contrastive(z, pos),
    "barlow_twins": lambda z, pos, _: barlow_twins(z, pos),
    "vicreg": lambda z, pos, _: vicreg(z, pos),
}
