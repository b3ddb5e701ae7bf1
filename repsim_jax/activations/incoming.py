"""Are these ids and arrays fit to be stored? Everything is checked before the first byte is written."""

from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from repsim_jax.activations.chunks import DTYPES
from repsim_jax.errors import BadArrayError

_ADVICE = {
    "b": "a mask is no representation; convert with x.astype('float32') if 0 and 1 are meant as numbers",
    "i": "convert with x.astype('float32'), after undoing any quantization",
    "u": "convert with x.astype('float32'), after undoing any quantization",
    "c": "store x.real and x.imag side by side, as one layer of twice the width",
    "O": "object arrays hold Python objects; make one array of numbers out of them, np.stack(list(x))",
}


def checked_ids(ids: Iterable[str], seen: set[str]) -> list[str]:
    """Checks the ids of new rows.

    Args:
        ids: One per row.
        seen: Ids that the store holds already.

    Returns:
        The ids as plain strings.

    Raises:
        BadArrayError: If an id is not a non-empty string, or stands for two rows.
    """
    if isinstance(ids, str):
        raise BadArrayError(f"ids must be a sequence of strings, one per row: got the single string {ids!r}.")
    names: list[str] = []
    fresh: set[str] = set()
    for row, one in enumerate(ids):
        if not isinstance(one, str) or not one:
            what = "an empty string" if isinstance(one, str) else f"{one!r} of type {type(one).__name__}"
            raise BadArrayError(
                f"ids must be non-empty strings: got {what} at row {row} of this batch. Pass str(...) of it."
            )
        if one in fresh or one in seen:
            where = "twice in this batch" if one in fresh else "again: the store holds it already"
            raise BadArrayError(f"ids must be unique: got {one!r} {where} (row {row} of this batch).")
        fresh.add(one)
        names.append(str(one))
    return names


def checked_layers(layers: Mapping[str, Any], num_rows: int) -> dict[str, np.ndarray]:
    """Checks names, shapes and dtypes of the layers of new rows.

    Args:
        layers: Name to (b, d) array.
        num_rows: How many rows b the ids announce.

    Returns:
        Name to numpy array, in the given order.

    Raises:
        BadArrayError: If there is no layer, or one is not a (b, d) array of real floating-point numbers with d >= 1.
    """
    if not layers:
        raise BadArrayError("a store needs at least one layer: got none. Choose layers that the model has.")
    arrays = {}
    for name, value in layers.items():
        if not isinstance(name, str) or not name:
            raise BadArrayError(f"layer names must be non-empty strings: got {name!r}.")
        arrays[name] = _checked_array(name, np.asarray(value), num_rows)
    return arrays


def _checked_array(name: str, array: np.ndarray, num_rows: int) -> np.ndarray:
    if not is_floating(array.dtype):
        advice = _ADVICE.get(array.dtype.kind, "convert with x.astype('float32')")
        raise BadArrayError(
            f"layer {name!r} must be real floating-point numbers: got {array.dtype}. To store it, {advice}."
        )
    if array.ndim != 2:
        advice = "Choose a layout policy that makes one row per example, or x.reshape(len(x), -1)."
        raise BadArrayError(f"layer {name!r} must be (examples, features): got shape {array.shape}. {advice}")
    if array.shape[0] != num_rows:
        raise BadArrayError(f"layer {name!r} must have one row per id: got {array.shape[0]} rows and {num_rows} ids.")
    if array.shape[1] == 0:
        raise BadArrayError(
            f"layer {name!r} must have at least one feature: got shape {array.shape}. Leave the layer out."
        )
    return array


def is_floating(dtype: np.dtype) -> bool:
    """Whether a dtype holds real floating-point numbers, numpy's own or of ml_dtypes (bfloat16, float8).

    Args:
        dtype: Any dtype.

    Returns:
        True if it does.
    """
    if dtype.kind == "f":
        return True
    try:
        ml_dtypes.finfo(dtype)
    except (ValueError, KeyError, TypeError):
        return False
    return dtype.kind != "c"


def cast(name: str, array: np.ndarray, dtype: np.dtype, ids: list[str], first_row: int) -> np.ndarray:
    """Converts rows of one layer to the store's dtype.

    Args:
        name: The layer, for messages.
        array: (b, d) floating.
        dtype: The store's.
        ids: Of the rows.
        first_row: Number of the first row within the whole store.

    Returns:
        (b, d) of ``dtype``, every value finite. Values smaller than the dtype resolves become 0, as in any cast.

    Raises:
        BadArrayError: If a value is NaN or infinite, or too large for ``dtype``.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        stored = array.astype(dtype)
    if np.isfinite(stored).all():
        return stored
    row, column = (int(one) for one in np.argwhere(~np.isfinite(stored))[0])
    value = float(array[row, column])
    where = f"row {first_row + row} (id {ids[row]!r}), feature {column}"
    if np.isfinite(value):
        largest = float(ml_dtypes.finfo(dtype).max)
        advice = (
            "Store as bfloat16 or float32" if dtype == DTYPES["float16"] else "Scale the layer down before storing it"
        )
        text = f"layer {name!r} does not fit into {dtype.name}: got {value:g} at {where}, the largest is {largest:g}."
        raise BadArrayError(f"{text} {advice}.")
    bad_rows = int((~np.isfinite(stored).all(axis=1)).sum())
    text = (
        f"layer {name!r} must be finite: got {value:g} at {where}; {bad_rows} of these {len(array)} rows are affected."
    )
    raise BadArrayError(f"{text} Look for overflow in the model (float16?), or drop these examples.")
