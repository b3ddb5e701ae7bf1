"""The door: representations are checked once here, with errors that say what was expected, what came and what to do."""

from collections.abc import Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax._compat import is_traced
from repsim_jax.errors import BadArrayError

# Largest share of a representation's variation that may be lost when float64 or integer input is rounded to float32.
_ROUNDING_LIMIT = 1e-3
# Far above the numbers that processors flush to zero (1e-38), with room for squares of differences.
_SMALLEST = 1e-30


def checked_layers(
    layers: Sequence[Any],
    *,
    operation: str,
    min_rows: int,
    names: Sequence[str],
    shift_invariant: bool = True,
    as_is: bool = False,
) -> tuple[jax.Array, ...]:
    """Checks representations of the same n examples and returns them as floating-point JAX arrays.

    Inside a jax transformation values are not known, so only shapes and dtypes are checked there.

    Args:
        layers: Array-likes (n, d_l).
        operation: What is being computed, the subject of every error message.
        min_rows: Fewest examples for which the result is defined.
        names: What to call each layer in messages.
        shift_invariant: Whether the result ignores each feature's mean; float64 and integer input is then centered
            before it is rounded to float32.
        as_is: Whether offset and scale mean something, so that values are rounded and nothing else.

    Returns:
        One float32 array per layer (float64 where jax_enable_x64 is set and the input has it).

    Raises:
        BadArrayError: For anything that has no defined, finite similarity.
    """
    arrays = [_numeric(layer, name, operation) for layer, name in zip(layers, names, strict=True)]
    rows = arrays[0].shape[0]
    for array, name in zip(arrays, names, strict=True):
        if array.shape[0] != rows:
            raise BadArrayError(
                f"{operation} compares the same n examples: got {names[0]} {arrays[0].shape} and {name} {array.shape}. "
                "Pass rows of the same inputs, in the same order."
            )
        if rows < min_rows:
            raise BadArrayError(
                f"{operation} needs at least {min_rows} examples (rows), got {name} {array.shape}. Pass more rows."
            )
        if array.shape[1] == 0:
            raise BadArrayError(
                f"{operation} needs at least one feature (column), got the empty layer {name} {array.shape}."
            )
    return tuple(
        _checked_values(array, name, operation, shift_invariant, as_is)
        for array, name in zip(arrays, names, strict=True)
    )


def _numeric(layer: Any, name: str, operation: str) -> jax.Array | np.ndarray:
    """The array behind an array-like, refused unless it is two-dimensional and real."""
    if np.ma.isMaskedArray(layer):
        raise BadArrayError(f"{operation} cannot use a masked array ({name}): drop or fill the masked rows first.")
    try:
        array = layer if isinstance(layer, jax.Array) else np.asarray(layer)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors that need .detach().cpu()
        raise BadArrayError(
            f"{operation} cannot turn {name} ({type(layer).__name__}) into an array: {error}"
        ) from error
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        advice = {
            "b": "Cast it with .astype('float32') if zeros and ones are meant as numbers.",
            "c": "Pass its real part, or real and imaginary parts side by side.",
        }.get(array.dtype.kind, "Pass an array of numbers.")
        raise BadArrayError(f"{operation} works on real numbers, got {name} of dtype {array.dtype}. {advice}")
    if array.ndim != 2:
        raise BadArrayError(
            f"{operation} works on (n examples, d features), got {name} {array.shape}. {_shape_advice(array.ndim)}"
        )
    return array


def _shape_advice(ndim: int) -> str:
    if ndim == 1:
        return "Pass x[:, None] if each example has one feature."
    return "Choose a layout first: flatten, spatial mean, tokens as rows, ... (repsim_jax.activations.layout)."


def _checked_values(
    array: jax.Array | np.ndarray, name: str, operation: str, shift_invariant: bool, as_is: bool
) -> jax.Array:
    if is_traced(array):
        return jnp.asarray(array, jnp.promote_types(array.dtype, jnp.float32))
    finite, constant = _facts(array)
    if not finite:
        _raise_not_finite(array, name, operation)
    if constant:
        raise BadArrayError(
            f"{operation} is undefined for {name} {array.shape}: all {array.shape[0]} rows are equal, so nothing "
            "varies. Leave this layer out (a dead or constant layer), or check how it was extracted."
        )
    if needs_float64(array):
        return jnp.asarray(_rounded(array, name, operation, shift_invariant, as_is))
    return jnp.asarray(array, jnp.promote_types(array.dtype, jnp.float32))


def needs_float64(array: jax.Array | np.ndarray) -> TypeGuard[np.ndarray]:
    """Whether float32 on the device may lose what varies: wider numbers, and those small enough to flush to zero.

    Args:
        array: A finite array (n, d).

    Returns:
        True if it is to be centered and scaled on the host first, differently for measures that see features' means.
    """
    if not isinstance(array, np.ndarray) or jnp.result_type(float) != jnp.float32:
        return False
    wide = array.dtype.kind in "iuf" and array.dtype.itemsize >= 4 and array.dtype != np.float32
    return wide or (array.dtype == np.float32 and np.abs(array).max() < _SMALLEST)


def _facts(array: jax.Array | np.ndarray) -> tuple[bool, bool]:
    """Whether all values are finite, and whether all rows are equal; on the device for what lies there."""
    if isinstance(array, np.ndarray) and array.dtype.kind in "iuf":
        return bool(np.isfinite(array).all()), bool((array == array[:1]).all())
    finite, constant = np.asarray(_device_facts(array))
    return bool(finite), bool(constant)


@jax.jit
def _device_facts(array: jax.Array) -> jax.Array:
    return jnp.stack([jnp.isfinite(array).all(), (array == array[:1]).all()])


def _raise_not_finite(array: jax.Array | np.ndarray, name: str, operation: str) -> None:
    finite = jnp.isfinite(array) if isinstance(array, jax.Array) or array.dtype.kind == "V" else np.isfinite(array)
    bad = np.flatnonzero(~np.asarray(finite).all(axis=1))
    first = np.asarray(array[int(bad[0])], np.float64)
    what = "NaN" if np.isnan(first).any() else "infinity"
    overflow = (
        " float16 overflows at 65504: extract in bfloat16 or float32."
        if what != "NaN" and array.dtype == np.float16
        else ""
    )
    raise BadArrayError(
        f"{operation} got {what} in {name}: {bad.size} of {array.shape[0]} rows are not finite, the first are rows "
        f"{', '.join(map(str, bad[:5]))}.{overflow} Mend or drop these rows in both representations."
    )


def _rounded(array: np.ndarray, name: str, operation: str, shift_invariant: bool, as_is: bool) -> np.ndarray:
    """Float64 or integer input in float32: centered and scaled on the host first where that changes nothing."""
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and np.abs(array.astype(np.float64)).max() >= 2**53:
        raise BadArrayError(
            f"{operation} got integers beyond 2**53 in {name}: they are not exact as numbers. Scale them down first."
        )
    wide = array.astype(np.float64)
    if not as_is:
        wide = wide - (wide.mean(axis=0) if shift_invariant else wide.mean())
    largest = np.abs(wide).max()
    scaled = wide / largest if not as_is and np.isfinite(largest) and largest > 0 else wide
    too_large = not largest <= (np.finfo(np.float32).max if as_is else np.finfo(np.float64).max)
    rounded = (np.zeros_like(scaled) if too_large else scaled).astype(np.float32)
    spread = scaled - scaled.mean(axis=0)
    residue = (rounded - scaled) - (rounded - scaled).mean(axis=0)
    if too_large or np.linalg.norm(residue) > _ROUNDING_LIMIT * np.linalg.norm(spread):
        raise BadArrayError(
            f"{operation} would lose the variation of {name} in float32 (its offset or range is too large). "
            "Subtract the mean and rescale it, or set jax.config.update('jax_enable_x64', True)."
        )
    return rounded


def defined(value: jax.Array, *, operation: str, reason: str) -> jax.Array:
    """Passes a finite result on, and refuses NaN; inside a jax transformation NaN is passed on too.

    Args:
        value: A scalar result.
        operation: What was computed.
        reason: Why it can be undefined, a clause.

    Returns:
        ``value``.

    Raises:
        BadArrayError: If it is not finite.
    """
    if not is_traced(value) and not bool(jnp.isfinite(value)):
        raise BadArrayError(f"{operation} is undefined for this input: {reason}.")
    return value
