"""Can this kernel be trusted, and what does it look like? Spectrum, rank, definiteness and rows that repeat others."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from repsim_jax.errors import BadArrayError
from repsim_jax.kernels.change import EffectiveRank, checked_kernel, kernel_alignment, ranks_of

# An entry is off by a few units of rounding of the norms of its two rows, and so an eigenvalue by as many of the trace
# at most: on the kernels of the tests, with repeated examples, one unit was never passed.
_UNITS = 4
# Rows whose cosine is nearer to one than this many units cannot be told apart. In half precision, where so many would
# be a quarter, products are added up in float32, and two entries and two norms are rounded.
_SAME_UNITS, _SAME_UNITS_OF_HALF = 32, 4
_ROWS_AT_ONCE = 1024
_COARSE = 1e-4  # between the rounding of half precision and of float32


class Definiteness(NamedTuple):
    """Whether a kernel has negative eigenvalues that rounding does not explain.

    Attributes:
        smallest: Eigenvalue.
        largest: Eigenvalue.
        num_negative: Eigenvalues below zero.
        rounding: How far below zero rounding alone may bring an eigenvalue, at this dtype and trace.
        verdict: "positive definite" (the smallest is above rounding), "positive semidefinite up to rounding", or "not
            positive semidefinite".
        advice: What to do about it; empty for the first.
    """

    smallest: float
    largest: float
    num_negative: int
    rounding: float
    verdict: str
    advice: str


class Repeats(NamedTuple):
    """Rows that make a kernel singular.

    Attributes:
        num_pairs: Pairs of rows that are multiples of each other up to rounding.
        pairs: (k, 2) row numbers of the first of them, i < j.
        zero_rows: Rows of examples to which no parameter responds.
    """

    num_pairs: int
    pairs: np.ndarray
    zero_rows: np.ndarray


class KernelSummary(NamedTuple):
    """What one wants to know of a kernel before it is used.

    Attributes:
        num_examples: n.
        dtype: In which it was computed.
        trace: Sum of the diagonal.
        eigenvalues: (n,), descending, computed in float64.
        rank: Effective ranks.
        definiteness: Whether it is positive semidefinite.
        repeats: Rows that make it singular.
        alignment: Centered alignment with the labels; None without labels.
    """

    num_examples: int
    dtype: str
    trace: float
    eigenvalues: np.ndarray
    rank: EffectiveRank
    definiteness: Definiteness
    repeats: Repeats
    alignment: float | None


def psd_report(kernel: Any, *, dtype: Any = None) -> Definiteness:
    r"""Compares the most negative eigenvalue with what rounding explains, :math:`4 \epsilon \, \mathrm{tr} K`.

    Entries computed as sums of products are off by some :math:`\epsilon \sqrt{K_{ii} K_{jj}}`, a matrix whose norm is
    at most :math:`\epsilon \, \mathrm{tr} K`. Eigenvalues are taken in float64, so that they add nothing to it.

    Args:
        kernel: (n, n); its symmetric part counts.
        dtype: In which it was computed, where that is not its own.

    Returns:
        The report, with advice.

    Raises:
        BadArrayError: If it is not square, all zeros, or holds NaN or infinity, or ``dtype`` is not floating-point.
    """
    kernel = _matrix("psd_report", kernel)
    return _definiteness(_eigenvalues(kernel), _epsilon("psd_report", kernel.dtype if dtype is None else dtype))


def near_duplicates(kernel: Any, *, dtype: Any = None, limit: int = 100) -> Repeats:
    """Finds rows that cannot be told from multiples of others at the dtype of the kernel, and rows of zeros.

    Args:
        kernel: (n, n).
        dtype: In which it was computed, where that is not its own.
        limit: How many pairs are listed; all are counted.

    Returns:
        The pairs.

    Raises:
        BadArrayError: As ``psd_report``, and if ``limit`` is negative.
    """
    if limit < 0:
        raise BadArrayError(f"near_duplicates lists limit >= 0 pairs, got {limit}.")
    kernel = _matrix("near_duplicates", kernel)
    return _repeats(kernel, _epsilon("near_duplicates", kernel.dtype if dtype is None else dtype), limit)


def summarize_kernel(kernel: Any, *, labels: Any = None) -> KernelSummary:
    """Everything in one: size, spectrum, effective rank, definiteness, repeated rows, alignment with labels.

    Args:
        kernel: (n, n), such as ``ntk_to_file`` returns.
        labels: (n,) integers or (n, c) targets; None without.

    Returns:
        The summary. Time grows like n^3: a minute or so at n = 10,000.

    Raises:
        BadArrayError: As ``psd_report``, and as ``kernel_alignment`` for the labels.
    """
    kernel = _matrix("summarize_kernel", kernel)
    epsilon = _epsilon("summarize_kernel", kernel.dtype)
    alignment = None if labels is None else float(kernel_alignment(kernel, labels))
    values = _eigenvalues(kernel)
    ranks = ranks_of(values)
    return KernelSummary(
        len(kernel), str(kernel.dtype), float(np.trace(kernel, dtype=np.float64)), values, ranks,
        _definiteness(values, epsilon), _repeats(kernel, epsilon, 100), alignment,
    )  # fmt: skip


def _matrix(operation: str, kernel: Any) -> np.ndarray:
    kernel = kernel if isinstance(kernel, np.ndarray) else np.asarray(kernel)
    if kernel.ndim != 2:
        raise BadArrayError(f"{operation} needs a kernel (n, n), got shape {kernel.shape}.")
    checked_kernel(operation, "kernel", kernel)
    return kernel


def _epsilon(operation: str, dtype: Any) -> float:
    try:
        return float(jnp.finfo(dtype).eps)
    except (TypeError, ValueError) as error:
        raise BadArrayError(
            f"{operation} needs a floating-point dtype, such as 'float32' or 'bfloat16', got {dtype!r}."
        ) from error


def _eigenvalues(kernel: np.ndarray) -> np.ndarray:
    matrix = np.array(kernel, np.float64)
    matrix += matrix.T.copy()
    return np.linalg.eigvalsh(matrix / 2)[::-1]


def _definiteness(values: np.ndarray, epsilon: float) -> Definiteness:
    rounding, smallest = _UNITS * epsilon * float(values.sum()), float(values[-1])
    # a trace that is not positive is no sum of squares at all
    rounding = max(rounding, 0.0)
    if smallest > rounding:
        verdict, advice = "positive definite", ""
    elif smallest >= -rounding:
        verdict = "positive semidefinite up to rounding"
        advice = (
            f"Solve with a ridge of at least {rounding:.2g}, or compute the kernel in float64 "
            "(JAX_ENABLE_X64=1, with parameters and inputs in float64) to tell small eigenvalues from zero."
        )
    else:
        verdict = "not positive semidefinite"
        advice = (
            "Rounding does not explain this, and a tangent kernel of one set of parameters has no such eigenvalue: "
            "were its blocks computed from different parameters, in half precision, or as a difference of kernels?"
        )
    return Definiteness(smallest, float(values[0]), int((values < 0).sum()), rounding, verdict, advice)


def _repeats(kernel: np.ndarray, epsilon: float, limit: int) -> Repeats:
    norms = np.sqrt(np.maximum(np.diagonal(kernel).astype(np.float64), 0))
    zero = norms <= epsilon * norms.max()
    scale = np.where(zero, np.inf, norms)
    limit_of_cosine = 1 - (_SAME_UNITS_OF_HALF if epsilon > _COARSE else _SAME_UNITS) * epsilon
    num, pairs = 0, []
    for start in range(0, len(kernel), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        cosines = np.abs(kernel[rows, start:]) / scale[rows, None] / scale[start:]
        found = np.argwhere(np.triu(cosines >= limit_of_cosine, 1))
        num += len(found)
        pairs.append(found[: max(0, limit - sum(map(len, pairs)))] + start)
    return Repeats(num, np.concatenate(pairs), np.flatnonzero(zero))
