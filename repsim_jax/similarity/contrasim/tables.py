"""From sources on disk or in memory to the arrays that training draws from: all of them, or a part at a time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.similarity.contrasim.collection import Collection, View
from repsim_jax.similarity.contrasim.inputs import Standard, relative_by, standard, standardized
from repsim_jax.similarity.contrasim.objectives import Table
from repsim_jax.similarity.contrasim.options import Options

# Parts of data that do not fit into memory: how many are drawn from together, so that neighbors on disk are mixed.
_BLOCKS_AT_ONCE = 4
# Rows from which features' means and scales are estimated: 1 % of a standard deviation is far below what matters.
_MOST_STANDARD_ROWS = 10_000


class Prepared(NamedTuple):
    """How each view's rows are made ready for the map.

    Attributes:
        options: Which input.
        by: For each group and view: anchors (C, k, d), a ``Standard`` of C layers, or None for raw input.
    """

    options: Options
    by: tuple[tuple[jax.Array | Standard | None, ...], ...]


def preparation(collection: Collection, options: Options, *, train: np.ndarray, anchors: np.ndarray) -> Prepared:
    """Reads what the preparation of every layer rests on.

    Args:
        collection: The sources.
        options: Which input.
        train: Numbers of the training examples.
        anchors: Numbers of the anchor examples, some of them.

    Returns:
        Anchors, or means and scales, of every layer.
    """

    def of(view: View) -> jax.Array | Standard | None:
        if options.input == "raw":
            return None
        if options.input == "relative":
            return read(collection, view, anchors)[:, :, 0]
        some = train[np.linspace(0, len(train) - 1, min(len(train), _MOST_STANDARD_ROWS)).astype(int)]
        return standard(read(collection, view, some)[:, :, 0])

    return Prepared(options, tuple(tuple(of(view) for view in group.views) for group in collection.groups))


def prepare(x: jax.Array, by: jax.Array | Standard | None, *, options: Options) -> jax.Array:
    """Rows as they enter the map.

    Args:
        x: (C, ..., d).
        by: What ``preparation`` gives for them.
        options: Which input.

    Returns:
        (C, ..., k) for anchors, (C, ..., 2k) in both metrics; else the same shape.
    """
    if by is None:
        return x
    flat = x.reshape(len(x), -1, x.shape[-1])
    if isinstance(by, Standard):
        made = standardized(flat, by)
    else:
        made = relative_by(flat, by, metric=options.metric or "whitened", ridge=options.ridge)
    return made.reshape(*x.shape[:-1], made.shape[-1])


def read(collection: Collection, view: View, examples: np.ndarray) -> jax.Array:
    """Layers of some examples; ``collect`` has checked their values.

    Args:
        collection: The sources.
        view: Which layers.
        examples: Their numbers.

    Returns:
        (C, examples, variants, d) float32; offset and scale as they are.
    """
    side, rows = collection.sides[view.source], collection.rows[view.source][examples]
    arrays = [jnp.asarray(side.read(layer, rows.ravel()), jnp.float32) for layer in view.layers]
    return jnp.stack(arrays).reshape(len(arrays), *rows.shape, -1)


def table(collection: Collection, prepared: Prepared, examples: np.ndarray, *, anchors: np.ndarray) -> Table:
    """All views of some examples, prepared: what training draws from, or what is evaluated.

    Args:
        collection: The sources.
        prepared: From ``preparation``.
        examples: Their numbers.
        anchors: Numbers of the anchor examples. An anchor's cosine to itself is set to 0: it is 1 in every layer, and
            would give away which example it is.

    Returns:
        The table.
    """
    arrays, rows = [], []
    for group, how in zip(collection.groups, prepared.by, strict=True):
        views = []
        for view, by in zip(group.views, how, strict=True):
            array = prepare(read(collection, view, examples), by, options=prepared.options)
            variants = array.shape[2]
            if prepared.options.input == "relative":
                itself = np.tile(examples[:, None] == anchors, prepared.options.num_metrics)
                array = jnp.where(itself[None, :, None, :], 0.0, array)
            views.append((array.reshape(len(array), -1, array.shape[-1]), variants))
        arrays.append(tuple(array for array, _ in views))
        rows.append(tuple(jnp.arange(len(examples) * v).reshape(-1, v) for _, v in views))
    return Table(tuple(arrays), tuple(rows), jnp.zeros((len(examples), 0), int))


def parts(
    key: jax.Array,
    collection: Collection,
    prepared: Prepared,
    train: np.ndarray,
    *,
    anchors: np.ndarray,
    limit: int,
) -> Iterator[Table]:
    """Tables of equal shape that together hold all training examples, read ahead by another thread, without end.

    Args:
        key: Random key of the order.
        collection: The sources.
        prepared: From ``preparation``.
        train: Numbers of the training examples.
        anchors: Numbers of the anchor examples.
        limit: Bytes that tables may take; two are held at once.

    Yields:
        Tables of several runs of neighboring examples, in random order.
    """
    needed = max(collection.bytes_needed, collection.bytes_as_wide_as(len(anchors) * prepared.options.num_metrics))
    row_bytes = max(1, needed // max(len(collection.ids), 1))
    longest = max(1, len(train) // _BLOCKS_AT_ONCE)
    # Four copies in flight: as read and as prepared, of this part and of the next.
    size = int(np.clip(limit // (4 * row_bytes * _BLOCKS_AT_ONCE), min(2, longest), longest))
    chosen = _runs(key, len(train), size)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(lambda: table(collection, prepared, train[next(chosen)], anchors=anchors))
        while True:
            ready = ahead.result()
            ahead = reader.submit(lambda: table(collection, prepared, train[next(chosen)], anchors=anchors))
            yield ready


def _runs(key: jax.Array, n: int, size: int) -> Iterator[np.ndarray]:
    """Places of several runs of ``size`` neighbors each, none twice; another offset in every epoch."""
    for epoch in range(2**31):
        key_offset, key_order = jax.random.split(jax.random.fold_in(key, epoch))
        offset = int(jax.random.randint(key_offset, (), 0, n % size + 1 if n >= size * _BLOCKS_AT_ONCE else 1))
        starts = offset + size * np.arange((n - offset) // size)
        order = starts[np.asarray(jax.random.permutation(key_order, len(starts)))]
        for first in range(0, len(order) - _BLOCKS_AT_ONCE + 1, _BLOCKS_AT_ONCE):
            yield np.concatenate([start + np.arange(size) for start in order[first : first + _BLOCKS_AT_ONCE]])
