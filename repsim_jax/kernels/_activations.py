"""What an activation does to jointly Gaussian numbers: the second moments after it, and those of its slopes.

Carried along are variances and mean squared differences, not correlations: near equal inputs the angle between them is
then known to rounding, where an arc cosine keeps half of the digits.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Elementwise = Callable[[jax.Array], jax.Array]


class Moments(NamedTuple):
    """Second moments of centered Gaussian numbers u_1 ... u_n and v_1 ... v_m.

    Attributes:
        x: E[u_i u_i].
        y: E[v_j v_j].
        squared: E[(u_i - v_j)^2].
    """

    x: Float[Array, " n"]
    y: Float[Array, " m"]
    squared: Float[Array, "n m"]

    @property
    def kernel(self) -> Float[Array, "n m"]:
        """E[u_i v_j]."""
        return (self.x[:, None] + self.y[None, :] - self.squared) / 2


class Dual(NamedTuple):
    """What is known after an activation.

    Attributes:
        features: Moments of its values.
        slopes: E[f'(u_i) f'(v_j)].
        unresolved: Largest share of E[f'(u_i)^2] that lies beyond the end of a series.
    """

    features: Moments
    slopes: Float[Array, "n m"]
    unresolved: Float[Array, ""]


# (variance of u, variance of v, E[u v], 4 det of the covariance) to (E[f(u) f(v)], E[f'(u) f'(v)])
ClosedForm = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def dual_of(activation: str | Elementwise, degree: int) -> Callable[[Moments], Dual]:
    """The moments of a named activation in closed form where there is one, of any other by Hermite series.

    Args:
        activation: One of ``CLOSED_FORMS`` or ``FUNCTIONS``, or an elementwise function.
        degree: Terms of the series.

    Returns:
        A function of moments.
    """
    if isinstance(activation, str):
        return CLOSED_FORMS[activation] if activation in CLOSED_FORMS else _hermite(FUNCTIONS[activation], degree)
    return _hermite(activation, degree)


def _linear(before: Moments) -> Dual:
    return Dual(before, jnp.ones_like(before.squared), _exact())


def _relu(before: Moments) -> Dual:
    """Arc-cosine kernels of order 1 and 0, Cho and Saul 2009, as distances."""
    a, b = jnp.sqrt(before.x)[:, None], jnp.sqrt(before.y)[None, :]
    angle = _angle(before)
    # One less the kernel of unit vectors, (sin + (pi - angle) cos) / pi, without the cancellation at small angles.
    gap = 2 * jnp.square(jnp.sin(angle / 2)) - (jnp.sin(angle) - angle * jnp.cos(angle)) / jnp.pi
    after = Moments(before.x / 2, before.y / 2, jnp.square(a - b) / 2 + a * b * gap)
    return Dual(after, (jnp.pi - angle) / (2 * jnp.pi), _exact())


def _erf(x: jax.Array, y: jax.Array, kernel: jax.Array, area: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Arc-sine kernel, Williams 1997."""
    root = jnp.sqrt(1 + 2 * (x + y) + area)
    return 2 / jnp.pi * jnp.arctan2(2 * kernel, root), 4 / jnp.pi / root


def _gelu(x: jax.Array, y: jax.Array, kernel: jax.Array, area: jax.Array) -> tuple[jax.Array, jax.Array]:
    """GELU u Phi(u), by partial integration under the Gaussian."""
    det = 1 + x + y + area / 4
    both = 0.25 + jnp.arctan2(kernel, jnp.sqrt(det)) / (2 * jnp.pi)  # E[Phi(u) Phi(v)]
    density = 1 / (2 * jnp.pi * jnp.sqrt(det))  # E[Phi'(u) Phi'(v)]
    shrunk = 1 - x / (1 + x) - y / (1 + y)
    value = kernel * both + density * (x * y + jnp.square(kernel) * shrunk)
    return value, both + kernel * density * (1 / (1 + x) + 1 / (1 + y) + 1 / det)


def _closed(form: ClosedForm) -> Callable[[Moments], Dual]:
    def dual(before: Moments) -> Dual:
        near, far = _sides(before)
        kernel, slopes = form(before.x[:, None], before.y[None, :], before.kernel, near * far)
        x, y = (form(own, own, own, jnp.zeros_like(own))[0] for own in (before.x, before.y))
        return Dual(_with_kernel(x, y, kernel), slopes, _exact())

    return dual


def _hermite(function: Elementwise, degree: int) -> Callable[[Moments], Dual]:
    r"""Mehler's series :math:`E[f(u) f(v)] = \sum_k c_k(u) c_k(v) \rho^k` in Hermite coefficients of f(sd * z)."""
    nodes, weights, transform = _hermite_transform(degree)

    def series(values: jax.Array) -> _Series:
        coefficients = values @ jnp.asarray(transform, values.dtype)
        energy = jnp.square(values) @ jnp.asarray(weights, values.dtype)
        rest = jnp.maximum(energy - jnp.sum(jnp.square(coefficients), axis=1), 0.0)
        return _Series(jnp.column_stack([coefficients, jnp.sqrt(rest)]), energy, rest)

    def values_and_slopes(variance: jax.Array) -> tuple[_Series, _Series]:
        at = jnp.sqrt(variance)[:, None] * jnp.asarray(nodes, variance.dtype)
        values, slopes = jax.jvp(function, (at,), (jnp.ones_like(at),))
        return series(values), series(slopes)

    def dual(before: Moments) -> Dual:
        correlation = jnp.cos(_angle(before))
        (x, slopes_x), (y, slopes_y) = values_and_slopes(before.x), values_and_slopes(before.y)
        features = _with_kernel(x.energy, y.energy, _power_series(x.coefficients, y.coefficients, correlation))
        slopes = _power_series(slopes_x.coefficients, slopes_y.coefficients, correlation)
        return Dual(features, slopes, jnp.maximum(_unresolved(slopes_x), _unresolved(slopes_y)))

    return dual


class _Series(NamedTuple):
    """Hermite series of one function per row; the last coefficient stands for all that lie beyond the end.

    Its power is that of the first which is left out, so that the sum is exact for equal rows, is a kernel still, and
    is never off by more than twice the root of the product of both rests.
    """

    coefficients: Float[Array, "n k"]
    energy: Float[Array, " n"]
    rest: Float[Array, " n"]


def _unresolved(series: _Series) -> jax.Array:
    share = series.rest / jnp.where(series.energy > 0, series.energy, 1.0)
    return jnp.max(share).astype(jnp.float32)


def _hermite_transform(degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes and weights of E[f(z)], and the matrix from values there to coefficients of orthonormal polynomials.

    The trapezoidal rule, which converges exponentially for what is smooth and decays; Gauss-Hermite nodes lie too far
    apart for steep functions. The Hermite functions by their recurrence, which is stable upward.
    """
    # Beyond 13 what multiplies the Hermite functions is below 1e-18; the step resolves the fastest of them.
    step = min(0.025, 0.5 / np.sqrt(degree))
    nodes = np.arange(-np.ceil(13 / step), np.ceil(13 / step) + 1) * step
    root_of_density = np.exp(-np.square(nodes) / 4) / (2 * np.pi) ** 0.25
    functions = [root_of_density, nodes * root_of_density]
    for k in range(1, degree - 1):
        functions.append((nodes * functions[k] - np.sqrt(k) * functions[k - 1]) / np.sqrt(k + 1))
    weights = step * root_of_density
    return nodes, weights * root_of_density, (weights * np.stack(functions)).T


def _power_series(a: jax.Array, b: jax.Array, rho: jax.Array) -> jax.Array:
    """Horner's rule for the sum over k of a[i, k] b[j, k] rho[i, j]^k, in the memory of rho."""

    def step(total: jax.Array, c: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total * rho + jnp.outer(*c), None

    return jax.lax.scan(step, jnp.zeros_like(rho), (a.T, b.T), reverse=True)[0]


def _with_kernel(x: jax.Array, y: jax.Array, kernel: jax.Array) -> Moments:
    return Moments(x, y, jnp.maximum(x[:, None] + y[None, :] - 2 * kernel, 0.0))


def _sides(moments: Moments) -> tuple[jax.Array, jax.Array]:
    """Both factors of 4 (x y - kernel^2): how far a triangle of these sides is from folding up, either way."""
    a, b = jnp.sqrt(moments.x)[:, None], jnp.sqrt(moments.y)[None, :]
    near = jnp.maximum(moments.squared - jnp.square(a - b), 0.0)
    return near, jnp.maximum(jnp.square(a + b) - moments.squared, 0.0)


def _exact() -> jax.Array:
    return jnp.zeros((), jnp.float32)


def _angle(moments: Moments) -> jax.Array:
    """Angle between u_i and v_j as vectors, from the three sides (Kahan); 0 where one of them is zero."""
    near, far = _sides(moments)
    return 2 * jnp.arctan2(jnp.sqrt(near), jnp.sqrt(far))


CLOSED_FORMS: dict[str, Callable[[Moments], Dual]] = {
    "relu": _relu,
    "erf": _closed(_erf),
    "gelu": _closed(_gelu),
    "linear": _linear,
}
FUNCTIONS: dict[str, Elementwise] = {"tanh": jnp.tanh}
