"""What a reader of one file format hands on: arrays by name, and the ids of their rows."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from repsim_jax.errors import BadArrayError


class Contents(NamedTuple):
    """The arrays of one file.

    Attributes:
        arrays: By name, in depth order as far as the format knows it.
        ids: Of the rows, or None where the file has none.
    """

    arrays: dict[str, np.ndarray]
    ids: tuple[str, ...] | None = None


def ids_from_values(values: Iterable[Any]) -> tuple[str, ...]:
    """Turns what stood in a file's id field into ids.

    Args:
        values: Strings, UTF-8 bytes or integers.

    Returns:
        Strings; integers in decimal.

    Raises:
        BadArrayError: If a value is something else.
    """
    return tuple(_text(row, one) for row, one in enumerate(values))


def ids_from_json(text: str) -> tuple[str, ...]:
    """Reads ids from a JSON list.

    Args:
        text: A list of strings or integers.

    Returns:
        Strings.

    Raises:
        ValueError: If the text is not a JSON list.
        BadArrayError: If an element is neither a string nor an integer.
    """
    values = json.loads(text)
    if not isinstance(values, list):
        raise ValueError("ids must be a JSON list")
    return ids_from_values(values)


def _text(row: int, value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    raise BadArrayError(f"ids must be text or integers: got {value!r} at row {row}.")
