"""Which stored rows have the largest and the smallest inner product with a query? What every index answers."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from repsim_jax.errors import BadArrayError


class Found(NamedTuple):
    """Rows that a search found, the most extreme first.

    Attributes:
        values: (m, k) inner products.
        ids: (m, k) of the rows; -1 where an approximate index found fewer.
    """

    values: Float[np.ndarray, "m k"]
    ids: Int[np.ndarray, "m k"]


class Ends(NamedTuple):
    """Both ends of the order of all rows.

    Attributes:
        largest: Rows of the largest inner products, falling.
        smallest: Rows of the smallest ones, rising.
    """

    largest: Found
    smallest: Found


@runtime_checkable
class Index(Protocol):
    """What holds rows and finds them again; write your own for an engine that is not here."""

    def __len__(self) -> int: ...

    def add(self, rows: Float[np.ndarray, "n d"], ids: Int[np.ndarray, " n"]) -> None:
        """Takes more rows in.

        Args:
            rows: Finite, of the width of the index.
            ids: A number >= 0 for each, not used before.
        """
        ...

    def search(self, queries: Float[np.ndarray, "m d"], *, k: int) -> Found:
        """Rows of the largest inner products.

        Args:
            queries: Rows of the same width.
            k: How many, in [1, n].

        Returns:
            Values and ids.
        """
        ...

    def ends(self, queries: Float[np.ndarray, "m d"], *, k: int) -> Ends:
        """Rows of the largest, and of the smallest, inner products.

        Args:
            queries: Rows of the same width.
            k: How many at each end, in [1, n].

        Returns:
            Both.
        """
        ...


def recall(found: Found, exact: Found) -> float:
    """Share of the rows of an exact search that another search found.

    Args:
        found: What is judged.
        exact: Of the same queries, with as many rows for each.

    Returns:
        From 0 to 1.

    Raises:
        BadArrayError: If they are not of the same queries and as many rows.
    """
    if found.ids.shape != exact.ids.shape or not exact.ids.size:
        raise BadArrayError(
            f"recall compares searches of the same queries and k: got {found.ids.shape} and {exact.ids.shape}."
        )
    return float(np.mean([np.isin(truth, seen).mean() for seen, truth in zip(found.ids, exact.ids, strict=True)]))


def checked_rows(rows: np.ndarray, ids: np.ndarray, width: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Refuses rows that an index could not find again.

    Args:
        rows: What shall be added.
        ids: Theirs.
        width: Of the index; None takes any.

    Returns:
        Both as arrays; ids as int64.

    Raises:
        BadArrayError: If shapes, numbers or ids are wrong.
    """
    rows, ids = np.asarray(rows), np.asarray(ids)
    if (
        rows.ndim != 2
        or not rows.size
        or not np.issubdtype(rows.dtype, np.floating)
        or width not in (None, rows.shape[1])
    ):
        raise BadArrayError(
            f"an index takes floating-point rows (n, {width or 'd'}), n >= 1: got {rows.dtype} {rows.shape}."
        )
    if ids.shape != (len(rows),) or not np.issubdtype(ids.dtype, np.integer) or len(np.unique(ids)) < len(ids):
        raise BadArrayError(
            f"an index takes one integer id for each of {len(rows)} rows, each once: got {ids.dtype} {ids.shape} "
            f"with {len(np.unique(ids))} different ones."
        )
    if ids.min() < 0:
        raise BadArrayError(f"ids must be >= 0, since -1 says that nothing was found; got {ids.min()}.")
    bad = np.flatnonzero(~np.isfinite(rows).all(1))
    if bad.size:
        raise BadArrayError(f"{bad.size} rows hold NaN or infinity, the first has id {ids[bad[0]]}. Leave them out.")
    return rows, ids.astype(np.int64)


def checked_queries(queries: np.ndarray, k: int, size: int, width: int) -> np.ndarray:
    """Refuses queries that cannot be answered.

    Args:
        queries: What is looked for.
        k: Rows for each.
        size: Rows in the index.
        width: Of the rows.

    Returns:
        The queries, in float32.

    Raises:
        BadArrayError: If they have another width, are not finite, or k is out of range.
    """
    queries = np.asarray(queries)
    if queries.ndim != 2 or queries.shape[1] != width or not len(queries):
        raise BadArrayError(f"this index holds rows of {width} numbers: got queries of shape {queries.shape}.")
    if not 1 <= k <= size:
        raise BadArrayError(f"search needs 1 <= k <= n rows, got k={k} for n={size}.")
    if not np.isfinite(queries).all():
        raise BadArrayError("search: queries hold NaN or infinity.")
    return queries.astype(np.float32)
