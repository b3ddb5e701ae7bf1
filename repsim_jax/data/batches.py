"""A batch is inputs with one id per example: the ids are what two stores are aligned by."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Batch(NamedTuple):
    """A few examples on their way into a model.

    Attributes:
        ids: One non-empty string per example, unique in the whole data set.
        inputs: What the model takes: an array, or a pytree of arrays, with leading axis b.
        mask: For token models, (b, t) with 1 where a token is real and 0 where it is padding; else None.
    """

    ids: tuple[str, ...]
    inputs: Any
    mask: np.ndarray | None = None


def batched(
    inputs: Any, *, batch_size: int, ids: Sequence[str] | None = None, mask: np.ndarray | None = None
) -> Iterator[Batch]:
    """Cuts in-memory inputs into batches, in order.

    Args:
        inputs: An array (n, ...) or a pytree of arrays with the same leading axis n.
        batch_size: Examples per batch; the last batch may be smaller.
        ids: n unique strings; row numbers "0", "1", ... where None.
        mask: Token mask (n, t), or None.

    Yields:
        Batches of at most ``batch_size`` examples.

    Raises:
        ValueError: If ``batch_size`` is not positive, or ``ids`` or leading axes differ in length.
    """
    if batch_size < 1:
        raise ValueError(f"batched wants batch_size >= 1, got {batch_size}.")
    lengths = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in jax.tree.leaves(inputs)}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f"batched wants arrays with one shared leading axis, got leading sizes {sorted(map(str, lengths))}."
        )
    n = int(lengths.pop() or 0)
    if ids is not None and len(ids) != n:
        raise ValueError(f"batched wants one id per example: got {len(ids)} ids for {n} examples.")
    names = tuple(ids) if ids is not None else tuple(map(str, range(n)))
    for start in range(0, n, batch_size):
        rows = slice(start, min(start + batch_size, n))
        yield Batch(
            names[rows], jax.tree.map(lambda leaf, rows=rows: leaf[rows], inputs), None if mask is None else mask[rows]
        )
