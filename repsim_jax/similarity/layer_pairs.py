"""Compare two arrays, dictionaries of layers, or stores: every layer pair under every measure, as one tidy table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from repsim_jax.activations.align import align
from repsim_jax.activations.layers import Layers
from repsim_jax.activations.reader import Store, memory_needed
from repsim_jax.errors import AlignmentError, BadArrayError
from repsim_jax.similarity.comparison import Comparison
from repsim_jax.similarity.dissimilarity import check_rows_vary
from repsim_jax.similarity.inputs import checked_layers, needs_float64
from repsim_jax.similarity.registry import DEFAULT_MEASURES, Measure, measure


def compare(
    a: Any,
    b: Any,
    *,
    measures: Sequence[str] = DEFAULT_MEASURES,
    name_a: str | None = None,
    name_b: str | None = None,
    max_rows: int | None = None,
    memory_limit: int | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Scores every layer of a against every layer of b.

    Args:
        a: An array (n, d), a mapping from layer names to arrays (n, d_l), ``Layers``, or an opened store.
        b: The same examples under another model. Where both sides carry example ids they are aligned by them, in any
            order; without ids row i of both must be the same example.
        measures: Names of registered measures; see ``repsim_jax.similarity.measures()``.
        name_a: What to call a; by default the name that it carries, or "x".
        name_b: What to call b; by default the name that it carries, or "y".
        max_rows: Use at most this many evenly spaced examples; all of them where None.
        memory_limit: Bytes that the layers of a store may take in memory, each side by itself; no limit where None.
        on_progress: Called as ``on_progress(measure, done, total)`` before each measure and once after the last.

    Returns:
        A table with a row per layer pair and measure; all values finite.

    Raises:
        BadArrayError: If a layer has no defined, finite similarity under one of the measures; the message names it.
        AlignmentError: If the two sides do not hold the same examples; the message names the first that is missing.
        UnknownNameError: If a measure is not registered; the nearest are suggested.
        CorruptFileError: If a store is damaged.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 8))
    >>> [round(row.value, 3) for row in compare(x, x[:, ::-1], measures=["procrustes", "svcca"])]
    [1.0, 1.0]
    """
    chosen = [measure(name) for name in _measure_names(measures)]
    sides = _as_layers(a, "x", name_a), _as_layers(b, "y", name_b)
    rows = _matched_rows(*sides, max_rows)
    checked = [_read(side, picked, chosen, memory_limit) for side, picked in zip(sides, rows, strict=True)]
    values = []
    for done, one in enumerate(chosen):
        if on_progress is not None:
            on_progress(one.name, done, len(chosen))
        values.append(_scores(one, *sides, *checked))
    if on_progress is not None:
        on_progress("", len(chosen), len(chosen))
    n = len(rows[0])
    total = sides[0].num_examples
    return Comparison(
        name_a=sides[0].name,
        name_b=sides[1].name,
        layers_a=sides[0].names,
        layers_b=sides[1].names,
        measures=tuple(one.name for one in chosen),
        values=np.stack(values),
        num_examples=n,
        widths_a=tuple(sides[0].width(name) for name in sides[0].names),
        widths_b=tuple(sides[1].width(name) for name in sides[1].names),
        notes=(f"{n} of {total} examples were compared, evenly spaced.",) if n < total else (),
        settings={"jax": jax.__version__, "backend": jax.default_backend()},
    )


def _measure_names(names: Sequence[str]) -> list[str]:
    """Each name once, in order."""
    listed = list(dict.fromkeys([names] if isinstance(names, str) else names))
    if not listed:
        raise BadArrayError(
            "compare needs at least one measure, got an empty list. Leave the argument out for the default ones."
        )
    return listed


def _as_layers(value: Any, default: str, name: str | None) -> Layers:
    if isinstance(value, Layers):
        layers = value
    elif isinstance(value, Store):
        layers = Layers(value.path.name, value, value.ids)
    elif isinstance(value, Mapping):
        layers = Layers(default, {str(layer): _as_array(array) for layer, array in value.items()})
    else:
        layers = Layers(default, {default: _as_array(value)})
    if not layers.names:
        raise BadArrayError(f"compare needs at least one layer, got none in {layers.name}.")
    return layers if name is None else layers._replace(name=name)


def _as_array(value: Any) -> Any:
    """An array as it came; lists and data frames as NumPy arrays (the door reports what is wrong with them)."""
    return (
        value if hasattr(value, "shape") and hasattr(value, "ndim") and hasattr(value, "dtype") else np.asarray(value)
    )


def _matched_rows(a: Layers, b: Layers, max_rows: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of both sides that hold the same examples."""
    if max_rows is not None and max_rows < 1:
        raise BadArrayError(f"compare needs max_rows >= 1, got {max_rows}.")
    if a.ids is not None and b.ids is not None:
        rows = align(a.ids, b.ids)
    else:
        if a.num_examples != b.num_examples:
            raise AlignmentError(
                f"compare needs the same examples on both sides: {a.name} has {a.num_examples} rows, "
                f"{b.name} {b.num_examples}, and without example ids on both sides rows cannot be matched."
            )
        rows = np.arange(a.num_examples), np.arange(b.num_examples)
    n = len(rows[0])
    if max_rows is None or max_rows >= n:
        return rows
    picked = np.linspace(0, n - 1, max_rows).round().astype(int)
    return rows[0][picked], rows[1][picked]


def _read(
    side: Layers, rows: np.ndarray, chosen: Sequence[Measure], memory_limit: int | None
) -> dict[bool, tuple[jax.Array, ...]]:
    """Checked layers, once for measures that ignore features' means and once for those that do not."""
    if isinstance(side.layers, Store) and memory_limit is not None:
        share = len(rows) / max(side.num_examples, 1)
        memory_needed(side.layers, limit=int(memory_limit / max(share, 1e-9)))
    everything = np.array_equal(rows, np.arange(side.num_examples))
    arrays = [side.read(name, None if everything else rows) for name in side.names]
    titles = [f"layer {name!r} of {side.name}" for name in side.names]
    operation = f"compare ({', '.join(one.name for one in chosen)})"
    fewest = max(one.min_rows for one in chosen)
    kinds = {one.shift_invariant for one in chosen}
    if any(needs_float64(array) for array in arrays if array.size):
        return {
            kind: checked_layers(arrays, operation=operation, min_rows=fewest, names=titles, shift_invariant=kind)
            for kind in kinds
        }
    layers = checked_layers(arrays, operation=operation, min_rows=fewest, names=titles)
    return dict.fromkeys(kinds, layers)


def _scores(one: Measure, a: Layers, b: Layers, layers_a: dict[bool, Any], layers_b: dict[bool, Any]) -> np.ndarray:
    xs, ys = layers_a[one.shift_invariant], layers_b[one.shift_invariant]
    if one.name == "rsa":
        for side, layers in ((a, xs), (b, ys)):
            check_rows_vary(layers, [f"layer {name!r} of {side.name}" for name in side.names])
    scores = np.asarray(one.pairs(xs, ys), np.float64)
    if not np.isfinite(scores).all():
        i, j = (int(index[0]) for index in np.nonzero(~np.isfinite(scores)))
        raise BadArrayError(
            f"{one.name} is undefined for layer {a.names[i]!r} of {a.name} and layer {b.names[j]!r} of {b.name}: "
            f"{one.undefined}. Leave the layer or the measure out."
        )
    return scores
