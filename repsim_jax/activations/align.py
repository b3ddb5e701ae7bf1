"""Which row of one store is the same example as which row of another?"""

from collections.abc import Sequence

import numpy as np

from repsim_jax.errors import AlignmentError


def align(ids_a: Sequence[str], ids_b: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs the rows of two sets of the same examples, whatever their order.

    ``ids_a[rows_a[i]] == ids_b[rows_b[i]]`` for every i, in the order of a.

    Args:
        ids_a: n unique ids.
        ids_b: The same n ids, in any order.

    Returns:
        ``(rows_a, rows_b)``, each (n,) int64; ``rows_a`` is 0, 1, ..., n - 1.

    Raises:
        AlignmentError: If an id is missing on one side or repeated; the message names the first.
    """
    place_a, place_b = _places(ids_a, "the first"), _places(ids_b, "the second")
    for ids, other, here, there in ((ids_a, place_b, "first", "second"), (ids_b, place_a, "second", "first")):
        missing = [row for row, one in enumerate(ids) if one not in other]
        if missing:
            raise AlignmentError(_mismatch(ids, missing, here, there, len(ids_a), len(ids_b)))
    rows_b = np.fromiter((place_b[one] for one in ids_a), np.int64, len(ids_a))
    return np.arange(len(ids_a), dtype=np.int64), rows_b


def _places(ids: Sequence[str], which: str) -> dict[str, int]:
    places: dict[str, int] = {}
    for row, one in enumerate(ids):
        if one in places:
            text = f"an id must name one example: {one!r} stands at rows {places[one]} and {row} of {which} set."
            raise AlignmentError(f"{text} Make the ids unique and extract again.")
        places[one] = row
    return places


def _mismatch(ids: Sequence[str], missing: list[int], here: str, there: str, num_a: int, num_b: int) -> str:
    count = f"{len(missing)} id is" if len(missing) == 1 else f"{len(missing)} ids are"
    return (
        f"both sets must be of the same examples: got {num_a} and {num_b} ids, and {count} not in the {there} set; "
        f"the first is {ids[missing[0]]!r} (row {missing[0]} of the {here} set). Extract both from the same data."
    )
