"""Has the tangent kernel moved, and what does it favor? Measures of change, alignment and spectrum of kernels."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax._compat import is_traced
from repsim_jax.errors import BadArrayError, RoundingWarning
from repsim_jax.linalg import power_of_two_scale, precise_jit

# In float32 a change of 1e-5: kernels that were summed in another order differ by less, and by not much less.
_KERNEL_UNITS = 80


class EffectiveRank(NamedTuple):
    """How many directions a kernel has, counted in two ways; both are 1 for one direction and n for equal ones.

    Attributes:
        participation: Participation ratio, (tr K)^2 / tr K^2.
        entropy: Exponential of the entropy of the eigenvalues over their sum.
    """

    participation: Float[Array, ""]
    entropy: Float[Array, ""]


def kernel_distance(kernel: Any, other: Any) -> Float[Array, ""]:
    r"""Kernel distance, :math:`1 - \langle K, L \rangle / (\|K\|_F \|L\|_F)`.

    Args:
        kernel: K, (n, n) or (n, o, n, o).
        other: L, of the same examples, at another time or of another model.

    Returns:
        A scalar in [0, 2]; 0 where one is a positive multiple of the other; at most 1 for kernels without negative
        eigenvalues.

    Raises:
        BadArrayError: If shapes differ, or a kernel is not square, all zeros, or holds NaN or infinity.

    Source:
        Fort et al. 2020, "Deep learning versus kernel learning" (arXiv 2010.15110), equation 4.

    Differs:
        Computed as half the squared distance of the normalized kernels, which keeps its digits near zero.
    """
    return _distance(*_pair("kernel_distance", kernel=kernel, other=other))


@precise_jit()
def _distance(kernel: Array, other: Array) -> Array:
    return jnp.sum(jnp.square(_unit(kernel) - _unit(other))) / 2


def _unit(k: Array) -> Array:
    scaled = power_of_two_scale(k)
    return scaled * jax.lax.rsqrt(jnp.sum(jnp.square(scaled)))


def kernel_velocity(kernels: Any, times: Any) -> Float[Array, " steps"]:
    r"""How fast a kernel turns, :math:`S(K_t, K_{t + \Delta t}) / \Delta t`, with S the kernel distance.

    Args:
        kernels: (t, n, n) or (t, n, o, n, o), at t >= 2 times.
        times: (t,) increasing, in any unit (steps, epochs).

    Returns:
        (t - 1,) velocities, per unit of time.

    Raises:
        BadArrayError: If there are fewer than two kernels, or times do not increase, or a kernel is bad.

    Source:
        Fort et al. 2020 (arXiv 2010.15110), section 3.
    """
    kernels, times = jnp.asarray(kernels), jnp.asarray(times)
    if kernels.ndim not in (3, 5) or len(kernels) < 2 or times.shape != kernels.shape[:1]:
        raise BadArrayError(
            "kernel_velocity needs kernels (t, n, n) at t >= 2 times (t,), "
            f"got kernels {kernels.shape} and times {times.shape}."
        )
    if not is_traced(times) and not bool(jnp.all(jnp.diff(times) > 0)):
        raise BadArrayError("kernel_velocity needs increasing times.")
    for i, kernel in enumerate(kernels):
        checked_kernel("kernel_velocity", f"kernels[{i}]", kernel)
    return jax.vmap(_distance)(kernels[:-1], kernels[1:]) / jnp.diff(times)


def relative_change(before: Any, after: Any) -> Float[Array, ""]:
    r"""Relative Frobenius change from K to L, :math:`\|L - K\|_F / \|K\|_F`.

    Below about 1e-5 in float32 it is rounding, and a warning says so: take ``ntk_change``, which differences Jacobians,
    or float64.

    Args:
        before: K, (n, n) or (n, o, n, o).
        after: L, of the same examples.

    Returns:
        A scalar; 0 for no change.

    Raises:
        BadArrayError: As ``kernel_distance``.
        RoundingWarning: Not raised but warned of, where the change is not zero and no larger than rounding.
    """
    before, after = _pair("relative_change", before=before, after=after)
    relative = frobenius_ratio(after - before, before)
    coarser = max(before.dtype, after.dtype, key=lambda dtype: float(jnp.finfo(dtype).eps))
    advice = "Take ntk_change, which differences Jacobians before they are multiplied, or compute both in float64"
    warn_of_rounding("relative_change", relative, _KERNEL_UNITS, coarser, advice)
    return relative


def warn_of_rounding(operation: str, relative: Array, units: float, dtype: Any, advice: str) -> None:
    """Warns of a relative change that rounding alone may have made; says nothing of none at all.

    Args:
        operation: For the message.
        relative: The change.
        units: How many units of rounding it must exceed.
        dtype: In which it was computed.
        advice: What to do.
    """
    level = units * float(jnp.finfo(dtype).eps)
    if not is_traced(relative) and 0 < float(relative) < level:
        message = (
            f"{operation}: a relative change of {float(relative):.2g} was found, and in {jnp.dtype(dtype).name} "
            f"rounding alone may make {level:.2g}. {advice} (JAX_ENABLE_X64=1, with parameters and inputs in float64)."
        )
        warnings.warn(message, RoundingWarning, stacklevel=3)


@precise_jit()
def frobenius_ratio(change: Float[Array, "*shape"], before: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Frobenius norm of a change in units of what was before.

    Args:
        change: Any array.
        before: Of the same shape.

    Returns:
        A scalar; NaN where both are zero.
    """
    return jnp.linalg.norm(change.ravel()) / jnp.linalg.norm(before.ravel())


def kernel_alignment(kernel: Any, labels: Any, *, centered: bool = True) -> Float[Array, ""]:
    r"""Kernel-target alignment, :math:`\langle K, Y Y^T \rangle / (\|K\|_F \|Y Y^T\|_F)`.

    Args:
        kernel: (n, n).
        labels: (n,) integers, which become one-hot rows, or (n, c) targets.
        centered: Whether both kernels are centered, as in CKA; without, any kernel with a large mean looks aligned.

    Returns:
        A scalar; in [0, 1] for a kernel without negative eigenvalues.

    Raises:
        BadArrayError: If rows differ in number, or nothing varies.

    Source:
        Cristianini et al. 2001, "On kernel-target alignment"; centered: Cortes, Mohri and Rostamizadeh 2012.
    """
    k, labels = checked_kernel("kernel_alignment", "kernel", kernel), jnp.asarray(labels)
    if k.ndim != 2 or labels.ndim not in (1, 2) or len(labels) != len(k):
        raise BadArrayError(
            f"kernel_alignment needs a kernel (n, n) and labels (n,) or (n, c): got {k.shape} and {labels.shape}."
        )
    if labels.ndim == 1:
        if not jnp.issubdtype(labels.dtype, jnp.integer) or is_traced(labels):
            raise BadArrayError("kernel_alignment takes labels (n,) as integers outside of jit; else targets (n, c).")
        classes, found = np.unique(np.asarray(labels), return_inverse=True)
        labels = jnp.eye(len(classes), dtype=k.dtype)[found]
    value = _alignment(k, labels.astype(k.dtype), centered=centered)
    if not is_traced(value) and not bool(jnp.isfinite(value)):
        raise BadArrayError("kernel_alignment: the kernel or the labels do not vary; pass more than one class.")
    return value


@precise_jit(static_argnames=("centered",))
def _alignment(k: Array, targets: Array, *, centered: bool) -> Array:
    if centered:
        k = k - k.mean(0)
        k = k - k.mean(1, keepdims=True)
        targets = targets - targets.mean(0)
    k = power_of_two_scale(k)
    inner = jnp.sum(targets * (k @ targets))
    return inner / (jnp.linalg.norm(k) * jnp.linalg.norm(targets.T @ targets))


def spectrum(kernel: Any) -> Float[Array, " n"]:
    """Eigenvalues of a kernel.

    Args:
        kernel: (n, n) or (n, o, n, o); its symmetric part counts.

    Returns:
        (n,) or (n * o,) values, descending. Slightly negative ones are rounding, of the order of eps * n * the largest.

    Raises:
        BadArrayError: If it is not square, all zeros, or holds NaN or infinity.
    """
    return _spectrum(checked_kernel("spectrum", "kernel", kernel))


@precise_jit()
def _spectrum(k: Array) -> Array:
    rows = int(np.prod(k.shape[: k.ndim // 2]))
    matrix = k.reshape(rows, rows)
    return jnp.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1]


def effective_rank(kernel: Any) -> EffectiveRank:
    r"""Effective ranks, :math:`(\sum_i \lambda_i)^2 / \sum_i \lambda_i^2` and :math:`\exp(-\sum_i p_i \log p_i)`.

    Args:
        kernel: (n, n) or (n, o, n, o). Negative eigenvalues, which are rounding, count as zero.

    Returns:
        Both ranks, in [1, n].

    Raises:
        BadArrayError: As ``spectrum``.

    Source:
        Roy and Vetterli 2007, "The effective rank" (entropy); Gao et al. 2017 (participation ratio).
    """
    return ranks_of(spectrum(kernel))


def ranks_of(eigenvalues: Any) -> EffectiveRank:
    """Effective ranks from eigenvalues.

    Args:
        eigenvalues: (n,); negative ones count as zero.

    Returns:
        As ``effective_rank``.
    """
    values = jnp.maximum(jnp.asarray(eigenvalues), 0)
    shares = values / values.sum()
    entropy = -jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1)), 0))
    return EffectiveRank(1 / jnp.sum(jnp.square(shares)), jnp.exp(entropy))


def _pair(operation: str, **kernels: Any) -> tuple[Array, Array]:
    (name, first), (other, second) = kernels.items()
    first, second = checked_kernel(operation, name, first), checked_kernel(operation, other, second)
    if first.shape != second.shape:
        raise BadArrayError(
            f"{operation} compares kernels of the same examples: got {name} {first.shape} and {other} {second.shape}."
        )
    return first, second


def checked_kernel(operation: str, name: str, k: Any) -> Array:
    """Checks a kernel at the door.

    Args:
        operation: For the message.
        name: Of the argument.
        k: What came.

    Returns:
        As an array.

    Raises:
        BadArrayError: If it is not square, not of floating-point numbers, all zeros, or holds NaN or infinity.
    """
    k = jnp.asarray(k)
    half = k.ndim // 2
    if k.ndim not in (2, 4) or k.shape[:half] != k.shape[half:] or k.size == 0:
        raise BadArrayError(f"{operation} needs {name} of shape (n, n) or (n, o, n, o), got shape {k.shape}.")
    if not jnp.issubdtype(k.dtype, jnp.floating):
        raise BadArrayError(f"{operation} needs {name} of floating-point numbers, got {k.dtype}.")
    if not is_traced(k) and not bool(jnp.isfinite(k).all() & (k != 0).any()):
        raise BadArrayError(f"{operation}: {name} {_wrong(np.asarray(k))}")
    return k


def _wrong(k: np.ndarray) -> str:
    """What is wrong with a kernel that is not finite or all zeros, and what to do."""
    row = fullest_row(np.isnan(k))
    if row is not None:
        return (
            f"holds NaN, most of it in row {row}. Leave this example out, or mend the model: its outputs or their "
            "derivatives are NaN there."
        )
    row = fullest_row(np.isinf(k))
    if row is not None:
        return f"holds infinity, most of it in row {row}. Scale its inputs down, or compute in a wider dtype."
    return "holds nothing but zeros: no parameter moves an output. Choose other parameters, outputs or examples."


def fullest_row(bad: np.ndarray) -> int | None:
    """The row of which most entries are bad: a bad example spoils all of its row, and one entry of every other row.

    Args:
        bad: (n, ...) truth values.

    Returns:
        The first such row; None where nothing is bad.
    """
    count = bad.reshape(len(bad), -1).sum(1)
    return int(count.argmax()) if count.any() else None
