"""Inputs on which similarity tools go silently wrong, each with what is right: an error, or the value in float64.

Tests run every measure over all of them; ``benchmarks/bad_inputs.py`` writes the table.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

N = 64


class Case(NamedTuple):
    """One input: ``make`` gives (x, y), which must raise, or give the value that the textbook gives in float64."""

    name: str
    make: Callable[[], tuple[Any, Any]]
    raises: bool


def pair(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    x = generator.standard_normal((n, 16)).astype(np.float32)
    return x, (x @ generator.standard_normal((16, 12)) + 0.3 * generator.standard_normal((n, 12))).astype(np.float32)


def _with(change: Callable[[np.ndarray, np.ndarray], tuple[Any, Any]], n: int = N) -> Callable[[], tuple[Any, Any]]:
    return lambda: change(*pair(n))


def _set(x: np.ndarray, value: float, rows: Any = 3, columns: Any = 5) -> np.ndarray:
    x = x.copy()
    x[rows, columns] = value
    return x


def _outlier(factor: float, columns: int = 1) -> Callable[[], tuple[Any, Any]]:
    scale = np.ones(16, np.float32)
    scale[:columns] = factor
    return _with(lambda x, y: (x * scale, y))


def _repeated() -> tuple[Any, Any]:
    x, y = pair()
    return np.repeat(x[::2], 2, axis=0), np.repeat(y[::2], 2, axis=0)


class _Opaque:
    """Something that is no array."""


f32 = np.float32
# the eighteen of the field study first, then forty of our own
CASES = [
    Case("ok", pair, False),
    Case("one NaN", _with(lambda x, y: (_set(x, np.nan), y)), True),
    Case("one +Inf", _with(lambda x, y: (_set(x, np.inf), y)), True),
    Case("mismatched n (64 vs 60)", _with(lambda x, y: (x, y[:60])), True),
    Case("empty (0 rows)", _with(lambda x, y: (x[:0], y[:0])), True),
    Case("one row", _with(lambda x, y: (x[:1], y[:1])), True),
    Case("all-constant X", _with(lambda x, y: (np.ones_like(x), y)), True),
    Case("1-D X", _with(lambda x, y: (x[:, 0], y)), True),
    Case("one constant column", _with(lambda x, y: (np.concatenate([x, np.full((N, 1), 3, f32)], 1), y)), False),
    Case("n < d (8 x 16)", _with(lambda x, y: (x[:8], y[:8])), False),
    Case("duplicate column", _with(lambda x, y: (np.concatenate([x, x[:, :1]], 1), y)), False),
    Case("float16", _with(lambda x, y: (x.astype(np.float16), y.astype(np.float16))), False),
    Case(
        "float16 large (x300)", _with(lambda x, y: ((x * 300).astype(np.float16), (y * 300).astype(np.float16))), False
    ),
    Case("int64", _with(lambda x, y: ((x * 10).astype(np.int64), (y * 10).astype(np.int64))), False),
    Case("scale 1e12", _with(lambda x, y: (x * f32(1e12), y)), False),
    Case("scale 1e-12", _with(lambda x, y: (x * f32(1e-12), y)), False),
    Case("offset 1e4", _with(lambda x, y: (x + f32(1e4), y)), False),
    Case("outlier dim x1e4", _outlier(1e4), False),
    Case("one -Inf in Y", _with(lambda x, y: (x, _set(y, -np.inf))), True),
    Case("NaN in the last row", _with(lambda x, y: (_set(x, np.nan, -1, -1), y)), True),
    Case("all NaN", _with(lambda x, y: (x * np.nan, y)), True),
    Case("NaN in both", _with(lambda x, y: (_set(x, np.nan), _set(y, np.nan))), True),
    Case("float16 overflowed to Inf", _with(lambda x, y: (_set(x, np.inf).astype(np.float16), y)), True),
    Case("two rows", _with(lambda x, y: (x[:2], y[:2])), True),
    Case("empty layer (0 columns)", _with(lambda x, y: (x[:, :0], y)), True),
    Case("all-zero Y", _with(lambda x, y: (x, np.zeros_like(y))), True),
    Case("constant 0.1 (not exact in binary)", _with(lambda x, y: (np.full_like(x, 0.1), y)), True),
    Case("equal rows", _with(lambda x, y: (np.tile(x[:1], (N, 1)), y)), True),
    Case("scalar", lambda: (np.float32(1.0), np.float32(2.0)), True),
    Case("3-D X", _with(lambda x, y: (x[:, None, :], y)), True),
    Case("4-D maps", lambda: (np.ones((8, 4, 4, 3), f32), np.ones((8, 4, 4, 3), f32)), True),
    Case("complex", _with(lambda x, y: (x + 1j * x, y)), True),
    Case("bool", _with(lambda x, y: (x > 0, y)), True),
    Case("strings", _with(lambda x, y: (x.astype(str), y)), True),
    Case("object array of floats", _with(lambda x, y: (x.astype(object), y)), True),
    Case("ragged lists", _with(lambda x, y: ([[1.0, 2.0], [3.0]], y)), True),
    Case("None", _with(lambda x, y: (None, y)), True),
    Case("an object that is no array", _with(lambda x, y: (_Opaque(), y)), True),
    Case("masked array", _with(lambda x, y: (np.ma.masked_greater(x, 1.0), y)), True),
    Case("datetimes", _with(lambda x, y: (x.astype("datetime64[s]"), y)), True),
    Case("integers beyond 2**53", _with(lambda x, y: ((x * 2**58).astype(np.int64), y)), True),
    Case("float64 offset that float32 cannot hold", _with(lambda x, y: (x.astype(np.float64) + 1e300, y)), True),
    Case("lists of floats", _with(lambda x, y: (x.tolist(), y.tolist())), False),
    Case("float64", _with(lambda x, y: (x.astype(np.float64), y.astype(np.float64))), False),
    Case("mixed dtypes", _with(lambda x, y: (x.astype(np.float16), y.astype(np.float64))), False),
    Case("bfloat16", _with(lambda x, y: (np.asarray(jnp.asarray(x, jnp.bfloat16)), y)), False),
    Case("JAX arrays", _with(lambda x, y: (jnp.asarray(x), jnp.asarray(y))), False),
    Case("int8", _with(lambda x, y: ((x * 20).astype(np.int8), y)), False),
    Case("uint8 images", _with(lambda x, y: ((x * 40 + 128).clip(0, 255).astype(np.uint8), y)), False),
    Case("Fortran order", _with(lambda x, y: (np.asfortranarray(x), np.asfortranarray(y))), False),
    Case("strided view", _with(lambda x, y: (x[:, ::2], y[:, ::-1])), False),
    Case("scale 1e30", _with(lambda x, y: (x * f32(1e30), y * f32(1e30))), False),
    Case("scale 1e-30", _with(lambda x, y: (x * f32(1e-30), y)), False),
    Case("scale 1e-40 (subnormal)", _with(lambda x, y: (x * f32(1e-40), y)), False),
    Case("float64 scale 1e200", _with(lambda x, y: (x.astype(np.float64) * 1e200, y)), False),
    Case("float64 offset 1e9", _with(lambda x, y: (x.astype(np.float64) + 1e9, y)), False),
    Case("offset -1e4 in Y", _with(lambda x, y: (x, y - f32(1e4))), False),
    Case("four outlier dims x1e3", _outlier(1e3, 4), False),
    Case("half of the columns dead", _with(lambda x, y: (np.concatenate([x, np.zeros_like(x)], 1), y)), False),
    Case("three features, rank one", _with(lambda x, y: (x[:, :1] * np.array([[1, 2, -3]], f32), y)), False),
    Case("every example twice", _repeated, False),
    Case("n = 63, no multiple of anything", _with(lambda x, y: (x[:63], y[:63])), False),
]
