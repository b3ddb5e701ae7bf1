"""How do batches of any size become the batches that a model computes on, the same ones whenever a run is resumed?"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from repsim_jax.data.batches import Batch, batched
from repsim_jax.errors import BadArrayError

Batches = Iterable[Any] | Callable[[int], Iterable[Any]]

# Examples per batch where the data are one array and nobody said how many fit into memory.
_BATCH_OF_ARRAYS = 32


class Stream:
    """Batches that can be begun again at a later row.

    Args:
        batches: An iterable of ``Batch`` or of plain inputs (arrays, or pytrees of them; ids are then row numbers); one
            array (n, ...), read 32 rows at a time; or a callable ``start -> iterable`` that begins at row ``start``.
    """

    def __init__(self, batches: Batches):
        self._begin: Callable[[int], Iterable[Any]] | None = None
        self._rest: Iterator[Any] = iter(())
        if isinstance(batches, Batch):
            self._rest = iter([batches])
        elif isinstance(batches, np.ndarray | jax.Array):
            self._rest = batched(batches, batch_size=_BATCH_OF_ARRAYS)
        elif callable(batches):
            self._begin = batches
        elif isinstance(batches, Iterable) and not isinstance(batches, str | bytes | dict):
            self._rest = iter(batches)
        else:
            kinds = "Batch or arrays, an array (n, ...), or a callable start -> iterable"
            raise BadArrayError(f"batches must be an iterable of {kinds}; got {type(batches).__name__}.")

    def peek(self) -> Batch:
        """Looks at the first batch.

        Returns:
            The batch; the stream still begins with it.

        Raises:
            BadArrayError: If there is none, or it is malformed.
        """
        first = next(iter(self._begin(0) if self._begin else self._rest), None)
        if first is None:
            raise BadArrayError("there are no examples: expected at least one batch. Check the data source.")
        if self._begin is None:
            self._rest = itertools.chain([first], self._rest)
        return as_batch(first, 0)

    def from_row(self, start: int) -> tuple[int, Iterator[Batch]]:
        """Begins as close to a row as it can without going past it.

        Args:
            start: The row wanted first.

        Returns:
            The row of the first example that comes, and the batches from there.
        """
        row = start if self._begin else 0
        return row, _as_batches(self._begin(start) if self._begin else self._rest, row)


def _as_batches(items: Iterable[Any], row: int) -> Iterator[Batch]:
    for item in items:
        batch = as_batch(item, row)
        row += len(batch.ids)
        if batch.ids:
            yield batch


def as_batch(item: Any, row: int) -> Batch:
    """Checks one item of a data stream, and names its examples by row number where they have no ids.

    Args:
        item: A ``Batch`` or plain inputs.
        row: The number of its first example.

    Returns:
        A batch whose ids, inputs and mask have the same length.

    Raises:
        BadArrayError: If they have not, or an id is not a non-empty string.
    """
    inputs = item.inputs if isinstance(item, Batch) else item
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else "none" for leaf in jax.tree.leaves(inputs)}
    if len(sizes) != 1 or "none" in sizes:
        raise BadArrayError(
            f"the batch at row {row} must hold arrays with one shared leading axis, the examples'; "
            f"got leading sizes {sorted(map(str, sizes))}. Pass Batch(ids, inputs)."
        )
    (size,) = sizes
    ids = item.ids if isinstance(item, Batch) else tuple(map(str, range(row, row + int(size))))
    if isinstance(ids, str) or len(ids) != size:
        came = f"got {len(ids)} ids for {size} examples"
        raise BadArrayError(f"the batch at row {row} must have one id per example: {came}.")
    bad = next((one for one in ids if not isinstance(one, str) or not one), None)
    if bad is not None:
        raise BadArrayError(f"the batch at row {row} must have non-empty strings as ids, got {bad!r}. Use str(...).")
    mask = item.mask if isinstance(item, Batch) else None
    if mask is not None:
        _check_mask(mask, ids)
    return Batch(tuple(ids), inputs, None if mask is None else np.asarray(mask))


def _check_mask(mask: Any, ids: tuple[str, ...]) -> None:
    mask = np.asarray(mask)
    if mask.ndim != 2 or len(mask) != len(ids):
        raise BadArrayError(f"a token mask must be (b, t) with b = {len(ids)} examples, got {mask.shape}.")
    empty = np.flatnonzero(~mask.astype(bool).any(axis=1))
    if len(empty):
        raise BadArrayError(f"example {ids[empty[0]]!r} has no real token: its row of the mask is all 0. Leave it out.")


def recut(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Cuts a stream into batches of ``size`` rows, fewer only at the end and where the inputs change their shape.

    Token inputs that are padded to the longest of their batch change shape; so they are cut, but never joined.

    Args:
        batches: Batches of any size.
        size: Examples per batch.

    Yields:
        The same examples in the same order.
    """
    held: Batch | None = None
    for batch in batches:
        if held is not None and _form(held) != _form(batch):
            yield held
            held = None
        held = batch if held is None else _joined(held, batch)
        while len(held.ids) >= size:
            yield take(held, slice(0, size))
            if len(held.ids) == size:
                held = None
                break
            held = take(held, slice(size, None))
    if held is not None:
        yield held


def take(batch: Batch, rows: slice | np.ndarray) -> Batch:
    """Chooses examples of a batch.

    Args:
        batch: Any batch.
        rows: A slice, or row numbers, which may repeat.

    Returns:
        The batch of these rows.
    """
    ids = batch.ids[rows] if isinstance(rows, slice) else tuple(batch.ids[row] for row in rows)
    mask = None if batch.mask is None else batch.mask[rows]
    return Batch(ids, jax.tree.map(lambda leaf: leaf[rows], batch.inputs), mask)


def padded(batch: Batch, size: int) -> Batch:
    """Repeats the last example until the batch has ``size`` rows, so that the compiled program fits it.

    Args:
        batch: At least one example, at most ``size``.
        size: Rows wanted.

    Returns:
        The longer batch; the rows past the original ones are to be cut from what the model returns.
    """
    n = len(batch.ids)
    return batch if n == size else take(batch, np.minimum(np.arange(size), n - 1))


def _form(batch: Batch) -> Any:
    leaves, tree = jax.tree.flatten((batch.inputs, batch.mask))
    return tree, [(np.shape(leaf)[1:], np.result_type(leaf)) for leaf in leaves]


def _joined(first: Batch, second: Batch) -> Batch:
    def join(a: Any, b: Any) -> Any:
        return np.concatenate([np.asarray(a), np.asarray(b)])

    mask = None if first.mask is None or second.mask is None else join(first.mask, second.mask)
    return Batch(first.ids + second.ids, jax.tree.map(join, first.inputs, second.inputs), mask)
